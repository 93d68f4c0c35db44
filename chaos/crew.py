"""The processes of a run: started again whenever they are gone, killed, stopped and continued on demand."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

__all__ = ["Crew", "Member"]

Kind = Literal["worker", "publisher"]

_ROOT = Path(__file__).resolve().parents[1]
#: Seconds that a worker may take to end after SIGTERM: its grace, what is bounded after that, and a busy machine.
_PATIENCE = 25.0


@dataclass(slots=True)
class Member:
    """One place of the crew, and the process that fills it now.

    Attributes:
        expected: whether its process was told to end.
        ends_by: when a process that was asked to end must be gone, on the monotonic clock.
        again_at: when the place is filled again.
    """

    kind: Kind
    place: int
    process: subprocess.Popen[bytes] | None = None
    incarnation: int = 0
    expected: bool = False
    ends_by: float | None = None
    again_at: float = 0.0

    @property
    def name(self) -> str:
        """What it is called in logs."""
        return f"{self.kind} {self.place}"


@dataclass(slots=True)
class Crew:
    """All of them.

    Attributes:
        surprises: what happened to processes that none of our faults explains.
    """

    directory: Path
    chance: random.Random
    members: list[Member] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)
    _continue_at: list[tuple[float, int]] = field(default_factory=list)

    def add(self, kind: Kind, count: int) -> None:
        """Add places; `look` fills them."""
        self.members += [Member(kind, place) for place in range(count)]

    def member(self, kind: Kind, place: int) -> Member:
        """Return one of them."""
        return next(member for member in self.members if member.kind == kind and member.place == place)

    def log(self, kind: Kind, place: int) -> Path:
        """Return where a place's processes write their logs."""
        return self.directory / f"{kind}-{place}.log"

    def look(self) -> None:
        """Let paused processes go on, notice those that have ended, and fill empty places."""
        now = time.monotonic()
        for due, pid in [entry for entry in self._continue_at if entry[0] <= now]:
            self._continue_at.remove((due, pid))
            self._signal(pid, signal.SIGCONT)
        for member in self.members:
            if member.process is not None:
                self._look_at(member, now)
            if member.process is None and now >= member.again_at:
                self._start(member)

    def _look_at(self, member: Member, now: float) -> None:
        assert member.process is not None
        code = member.process.poll()
        if code is None:
            if member.ends_by is not None and now > member.ends_by:
                self.surprises.append(f"{member.name} did not end within {_PATIENCE:.0f} s of SIGTERM (process {member.process.pid})")
                member.expected, member.ends_by = True, None
                member.process.kill()
            return
        # A process that is asked to end before it listens for that ends of the signal.
        if not member.expected and not (member.ends_by is not None and code in (0, -signal.SIGTERM)):
            self.surprises.append(f"{member.name} ended by itself with exit code {code}; the end of its log:\n{self._tail(member)}")
        self._close(member)
        member.again_at = now + self.chance.choice((0.0, 0.2, 1.0))

    def _start(self, member: Member) -> None:
        member.incarnation += 1
        member.expected, member.ends_by = False, None
        with self.log(member.kind, member.place).open("ab") as log:
            log.write(f"--- incarnation {member.incarnation}\n".encode())
            log.flush()
            member.process = subprocess.Popen(
                [sys.executable, "-m", f"chaos.{member.kind}", str(self.directory), str(member.place), str(member.incarnation)],
                cwd=_ROOT, stdin=subprocess.PIPE, stdout=log, stderr=log,
            )  # fmt: skip

    def kill(self, member: Member) -> bool:
        """Kill its process; False when there is none."""
        if member.process is None:
            return False
        member.expected = True
        member.process.kill()
        return True

    def pause(self, member: Member, seconds: float) -> bool:
        """Stop its process for a while with SIGSTOP; False when there is none, or one that was asked to end."""
        if member.process is None or member.ends_by is not None:
            return False
        self._signal(member.process.pid, signal.SIGSTOP)
        self._continue_at.append((time.monotonic() + seconds, member.process.pid))
        return True

    def end(self, member: Member) -> bool:
        """Ask its process to end; False when there is none, or it was asked before."""
        if member.process is None or member.ends_by is not None or any(pid == member.process.pid for _, pid in self._continue_at):
            return False
        member.ends_by = time.monotonic() + _PATIENCE
        member.process.terminate()
        return True

    def continue_all(self) -> None:
        """Let everyone go on who was stopped."""
        for _, pid in self._continue_at:
            self._signal(pid, signal.SIGCONT)
        self._continue_at.clear()

    def dismiss(self, kind: Kind) -> None:
        """Ask all of a kind to end, wait for them, and leave their places empty."""
        leaving = [member for member in self.members if member.kind == kind]
        self.members = [member for member in self.members if member.kind != kind]
        for member in leaving:
            if member.process is not None and member.ends_by is None:
                member.ends_by = time.monotonic() + _PATIENCE
                member.process.terminate()
        while any(member.process is not None for member in leaving):
            for member in leaving:
                if member.process is not None:
                    self._look_at(member, time.monotonic())
            time.sleep(0.02)

    def kill_all(self) -> None:
        """Leave nobody behind, whatever has happened."""
        for member in self.members:
            if member.process is not None:
                member.process.kill()
                self._close(member)
        self.members.clear()

    def _close(self, member: Member) -> None:
        assert member.process is not None
        member.process.wait()
        if member.process.stdin is not None:
            member.process.stdin.close()
        member.process = None

    def _signal(self, pid: int, number: signal.Signals) -> None:
        # A child that has ended keeps its id until we have waited for it, and then it is not in our lists any more.
        if any(member.process is not None and member.process.pid == pid for member in self.members):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return

    def _tail(self, member: Member) -> str:
        lines = self.log(member.kind, member.place).read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-25:])
