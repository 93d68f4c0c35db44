"""Processes that outlive us: started, recognised again later although process ids are used twice, and stopped."""

from __future__ import annotations

import os
import pwd
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from private_services.base import FailedError

LOOPBACK = "127.0.0.1"

#: The environment variable by which everything that belongs to one private service is recognised.
MARK = "TIDINGS_PRIVATE_SERVICE"

#: Ports below those that Linux (32768 and up) and the BSDs (49152 and up) give to outgoing connections, and above those of well-known servers.
_SERVED = range(20_000, 32_000)
#: What this process has been given: a server that takes several binds none of them before it has all.
_given: set[int] = set()


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Return True as soon as the condition holds, False when it does not within this time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def free_port() -> int:
    """Return a loopback port that was free a moment ago; if there is one, of those that outgoing connections do not get unless the machine is set so."""
    # Not the usual generator: whoever has given it a seed would get the same ports as everybody with that seed.
    for wanted in [*random.SystemRandom().sample(_SERVED, 100), 0]:
        with socket.socket() as probe, suppress(OSError):
            probe.bind((LOOPBACK, wanted))
            port = int(probe.getsockname()[1])
            if port not in _given:
                _given.add(port)
                return port
    raise FailedError("There is no free port on the loopback interface.")


def account(names: Iterable[str]) -> str | None:
    """Return the first of these users that exists when we are root, None when the process may stay what it is."""
    wanted = list(names)
    if os.geteuid() != 0 or not wanted:
        return None
    existing = {entry.pw_name for entry in pwd.getpwall()}
    for name in wanted:
        if name in existing:
            return name
    raise FailedError(f"It refuses to run as root, and none of these users exists: {', '.join(wanted)}.")


def credentials(user: str | None) -> dict[str, Any]:
    """Return the arguments of `subprocess` that run a command as this user, in a directory and environment that it may use."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
    if user is None:
        return {"env": environment, "cwd": "/"}
    entry = pwd.getpwnam(user)
    return {"env": environment, "cwd": "/", "user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def spawn(command: list[str], log: Path, user: str | None, mark: str) -> subprocess.Popen[bytes]:
    """Start a command that stays when we and our terminal are gone; its output goes to `log`, and `mark` to its environment."""
    how = credentials(user)
    how["env"] = {**how["env"], MARK: mark}
    with log.open("ab") as output:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, **how)


def marked(mark: str) -> list[int]:
    """Return the ids of the processes that were spawned with this mark, and of what they have started themselves.

    That finds what detached itself, and what a starter could not write down any more because it was killed. Needs Linux's /proc.
    """
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def end_marked(mark: str) -> bool:
    """Kill what is marked; return whether there was anything."""
    there_was = False

    def ended() -> bool:
        nonlocal there_was
        # Until none is left: one of them may have started another meanwhile.
        left = [pid for pid in marked(mark) if birth(pid) is not None]
        for pid in left:
            there_was = True
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    if not wait_until(ended, 10):
        raise FailedError(f"These processes could not be ended: {marked(mark)}.")
    return there_was


def birth(pid: int) -> str | None:
    """Return what tells this process from a later one with the same id, or None when it is gone (or waits only to be reaped)."""
    try:
        # Field 2, the command's name in parentheses, may hold spaces; what follows its last parenthesis begins with field 3, the state.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return found.stdout.strip() or None
    return None if fields[0] in "ZX" else fields[19]


def alive(pid: int, born: str | None) -> bool:
    """Tell whether the process that was born then still runs."""
    return born is not None and birth(pid) == born


def stop(pid: int, born: str | None, signals: Iterable[int]) -> None:
    """End a process: each signal gets ten seconds, then it is killed."""
    for number in [*signals, signal.SIGKILL]:
        if not alive(pid, born):
            return
        os.kill(pid, number)
        if wait_until(lambda: not alive(pid, born), 10):
            return
    raise FailedError(f"Process {pid} could not be stopped.")
