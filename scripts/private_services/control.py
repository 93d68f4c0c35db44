"""Starts, finds again and stops private services.

What runs is written down in `.services/<name>.json` before it starts, so that a later call can find it or clear away what is left of it.
A server that no longer runs is revived only when a test of outages asks for it. Else its data is thrown away and a new one is made, which
needs no recovery and takes seconds.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from private_services import containers, debian, processes
from private_services.base import FailedError, Fetched, PrivateService, UnavailableError

START_SECONDS = 60.0
PORT_ATTEMPTS = 5
DISK = "/var/tmp"  # noqa: S108 - only mkdtemp makes anything in it


class Control:
    """The private services of one checkout.

    Args:
        root: The checkout.
        say: Called with a sentence whenever something takes a while.
    """

    def __init__(self, root: Path, say: Callable[[str], None]) -> None:
        self.root = root.resolve()
        self.state = self.root / ".services"
        self._say = say

    def url(self, service: PrivateService) -> str | None:
        """Return the URL of the service when it runs and answers, else None."""
        record = self._read(service)
        if record is None or not self._runs(service, record) or not service.ready(record["port"]):
            return None
        return service.url(record["port"])

    def how(self, service: PrivateService) -> str:
        """Return one line on how the service runs."""
        record = self._read(service) or {}
        return "in a container" if record.get("container") else f"process {record.get('pid')}, log {self._log(service)}"

    def start(self, service: PrivateService) -> str:
        """Make the service run until it is stopped, and return its URL.

        Raises:
            UnavailableError: There is no way to run it on this machine.
            FailedError: There is one, and it did not work.
        """
        with self._lock(service):
            url = self._started(service)
            self._write(service, {**(self._read(service) or {}), "keep": True})
            return url

    @contextmanager
    def use(self, service: PrivateService) -> Iterator[str]:
        """Make the service run for a block, and give its URL; raises what `start` raises.

        A server that nobody has asked to keep is stopped by the last of its users, also when several use it at a time.
        """
        self.state.mkdir(exist_ok=True)
        with (self.state / f"{service.name}.users").open("w") as users:
            with self._lock(service):
                # The system takes it from a user that is killed.
                fcntl.flock(users, fcntl.LOCK_SH)
                url = self._started(service)
            try:
                yield url
            finally:
                with self._lock(service):
                    record = self._read(service)
                    if record is not None and not record.get("keep") and _alone(users):
                        self._clear(service)

    def stop(self, service: PrivateService) -> bool:
        """Stop the service and throw its data away; return False when there was nothing to stop."""
        with self._lock(service):
            return self._clear(service)

    def crash(self, service: PrivateService, signals: Sequence[int] = ()) -> None:
        """Kill a running service, as a crash would, or end it by these signals, gentlest first; leave its data where it is."""
        with self._lock(service):
            record = self._read(service)
            running = record is not None and "pid" in record and self._runs(service, record)
            if running and record is not None:
                processes.stop(record["pid"], record["born"], signals)
            if not processes.end_marked(self._mark(service)) and not running:
                raise FailedError(f"{service.name} does not run as a process of ours, so it cannot be killed.")

    def revive(self, service: PrivateService) -> str:
        """Start a service again after `crash`, with its data and on its port, and return its URL."""
        with self._lock(service):
            record = self._read(service) or {}
            programs = service.find()
            if programs is None or "directory" not in record or "port" not in record:
                raise FailedError(f"{service.name} has not been started here, so there is nothing to revive.")
            user = processes.account(service.accounts)
            if (url := self._serve(service, programs, Path(record["directory"]), user, record["port"])) is None:
                raise FailedError(f"{service.name} ended right after its start; its log is {self._log(service)}.")
            if record.get("keep"):
                self._write(service, {**(self._read(service) or {}), "keep": True})
            return url

    def _started(self, service: PrivateService) -> str:
        record = self._read(service)
        if record is not None and self._runs(service, record):
            if not processes.wait_until(lambda: service.ready(record["port"]), START_SECONDS):
                raise FailedError(f"{service.name} runs but does not answer; `scripts/services stop`, then start it again.")
            return service.url(record["port"])
        self._clear(service)
        try:
            programs = service.find() or self._install(service)
            return self._start_container(service) if programs is None else self._start_process(service, programs)
        except BaseException:
            # Interrupted or failed, half a server is of no use to the next call.
            self._clear(service)
            raise

    def _install(self, service: PrivateService) -> Path | None:
        if self._why_not_installed(service) is not None:
            return None
        self._say(f"Installing {service.package} ...")
        try:
            if isinstance(service, Fetched):
                service.fetch()
            else:
                debian.install(service.package, service.before_install())
        except FailedError:
            if containers.why_not() is None and containers.defines(self.root, service.name):
                return None
            raise
        programs = service.find()
        if programs is None:
            raise FailedError(f"{service.package} is installed, but its programs are not where they should be.")
        return programs

    def _why_not_installed(self, service: PrivateService) -> str | None:
        return service.why_not() if isinstance(service, Fetched) else debian.why_not()

    def _start_process(self, service: PrivateService, programs: Path) -> str:
        self._say(f"Starting {service.name} ({programs}) ...")
        user = processes.account(service.accounts)
        directory = self._directory(service, user)
        log = self._log(service)
        log.write_bytes(b"")
        self._write(service, {"directory": str(directory)})

        def run_as(*command: str | Path, stdin: str = "") -> None:
            done = subprocess.run(
                command,
                input=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                **processes.credentials(user),
            )
            if done.returncode != 0:
                raise FailedError("\n".join([f"`{command[0]}` failed:", *done.stdout.strip().splitlines()[-10:]]))

        service.prepare(programs, directory, run_as)
        # Somebody else may take the free port before our server does; it then ends at once, and the next port is tried.
        for _ in range(PORT_ATTEMPTS):
            url = self._serve(service, programs, directory, user)
            if url is not None:
                return url
        ending = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-10:]
        raise FailedError("\n".join([f"{service.name} ended right after its start; its log is {log}, and ends with:", *ending]))

    def _serve(self, service: PrivateService, programs: Path, directory: Path, user: str | None, port: int = 0) -> str | None:
        """Start the server on this port, or some port; return its URL, or None when it ended."""
        port = port or processes.free_port()
        process = processes.spawn(service.command(programs, directory, port), self._log(service), user, self._mark(service))
        born = processes.birth(process.pid)
        self._write(service, {"directory": str(directory), "pid": process.pid, "born": born, "port": port})
        processes.wait_until(lambda: process.poll() is not None or service.ready(port), START_SECONDS)
        # What answers may be whoever took the port: then ours is about to end.
        if processes.wait_until(lambda: process.poll() is not None, 0.2):
            return None
        if not service.ready(port):
            raise FailedError(f"{service.name} did not answer within {START_SECONDS:.0f} seconds; its log is {self._log(service)}.")
        # It outlives this object; without this, Python warns about a child that nobody waited for.
        process.returncode = 0
        return service.url(port)

    def _start_container(self, service: PrivateService) -> str:
        no_container = containers.why_not()
        if no_container is None and not containers.defines(self.root, service.name):
            no_container = "compose.yaml has no container for it"
        if no_container is not None:
            raise UnavailableError(f"{service.name} is not installed, {self._why_not_installed(service)}, and {no_container}.")
        self._say(f"Starting {service.name} in a container ...")
        port = processes.free_port()
        self._write(service, {"container": True, "port": port})
        containers.up(self.root, service.name, port)
        if not processes.wait_until(lambda: service.ready(port), START_SECONDS):
            raise FailedError(f"The container of {service.name} did not answer within {START_SECONDS:.0f} seconds.")
        return service.url(port)

    def _directory(self, service: PrivateService, user: str | None) -> Path:
        """Make an empty directory that only the service's user can read, in the checkout where that user can get there."""
        directory = self.state / service.name
        directory.mkdir(mode=0o700)
        if user is not None:
            shutil.chown(directory, user)
            reached = subprocess.run(["test", "-w", directory], check=False, **processes.credentials(user))
            if reached.returncode != 0:
                directory.rmdir()
                # Not the usual place for temporary files, which is often memory: what is measured here has to reach a disk.
                directory = Path(tempfile.mkdtemp(prefix=self._prefix(service), dir=DISK if os.path.isdir(DISK) else None))
                shutil.chown(directory, user)
        return directory

    def _runs(self, service: PrivateService, record: dict[str, Any]) -> bool:
        if record.get("container"):
            return containers.running(self.root, service.name)
        return "pid" in record and processes.alive(record["pid"], record["born"])

    def _clear(self, service: PrivateService) -> bool:
        """End what is recorded, remove its data and the record."""
        record = self._read(service)
        was_there = record is not None and self._runs(service, record)
        if record is not None and record.get("container"):
            containers.down(self.root, service.name)
        elif was_there and record is not None:
            processes.stop(record["pid"], record["born"], service.stop_signals)
        was_there |= processes.end_marked(self._mark(service))
        places = {Path(DISK), Path(tempfile.gettempdir())}
        for directory in [self.state / service.name, *(path for place in places for path in place.glob(f"{self._prefix(service)}*"))]:
            # Processes of a killed server notice its end a moment later, and may write until then.
            if not processes.wait_until(partial(_removed, directory), 10):
                raise FailedError(f"{directory} could not be removed; remove it by hand, as the user that made it.")
        self._record(service).unlink(missing_ok=True)
        return was_there

    def _mark(self, service: PrivateService) -> str:
        return str(self.state / service.name)

    def _prefix(self, service: PrivateService) -> str:
        """Return how directories outside the checkout begin; found again by it also when nobody could write them down."""
        return f"tidings-{service.name}-{hashlib.sha256(str(self.root).encode()).hexdigest()[:10]}-"

    def _record(self, service: PrivateService) -> Path:
        return self.state / f"{service.name}.json"

    def _log(self, service: PrivateService) -> Path:
        return self.state / f"{service.name}.log"

    def _read(self, service: PrivateService) -> dict[str, Any] | None:
        try:
            record = json.loads(self._record(service).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        # A copied checkout brings the record of the original's server, which is not ours to use or to stop.
        return record if isinstance(record, dict) and record.get("root") == str(self.root) else None

    def _write(self, service: PrivateService, record: dict[str, Any]) -> None:
        complete = self._record(service).with_suffix(".new")
        complete.write_text(json.dumps({"root": str(self.root), **record}) + "\n", encoding="utf-8")
        complete.replace(self._record(service))

    @contextmanager
    def _lock(self, service: PrivateService) -> Iterator[None]:
        """Let one process at a time start or stop this service; the system frees the lock of a process that dies."""
        self.state.mkdir(exist_ok=True)
        with (self.state / f"{service.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _alone(users: TextIO) -> bool:
    """Tell whether nobody else holds this shared lock."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _removed(directory: Path) -> bool:
    shutil.rmtree(directory, ignore_errors=True)
    return not directory.exists()
