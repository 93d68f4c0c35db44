"""A PostgreSQL cluster of our own, to restart as often as we like. It answers on one port all the time."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from private_services.base import FailedError
from private_services.postgresql import PostgreSQL
from private_services.processes import account, birth, credentials, free_port, spawn, stop, wait_until

__all__ = ["Cluster", "running_cluster"]

_SERVICE = PostgreSQL()


class Cluster:
    """A running server and its data.

    Attributes:
        url: of a superuser, as libpq reads it, leading to an empty database.
    """

    def __init__(self, programs: Path, directory: Path, user: str | None, log: Path) -> None:
        self._programs = programs
        self._directory = directory
        self._user = user
        self._log = log
        self._port = free_port()
        self.url = _SERVICE.url(self._port)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and return as soon as the server is there; it may still be recovering."""
        # Without fsync a commit survives everything that a run does to the server, and other users of the disk do not notice us.
        command = [*_SERVICE.command(self._programs, self._directory, self._port), "--fsync=off"]
        self._process = spawn(command, self._log, self._user, str(self._directory))

    def wait(self) -> None:
        """Wait until sessions can be opened.

        Raises:
            FailedError: it does not come up.
        """
        if not wait_until(lambda: _SERVICE.ready(self._port), 30):
            raise FailedError(f"PostgreSQL did not come up; its log is {self._log}")

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stop: SIGQUIT at once, as a crash would; SIGINT after disconnecting everyone."""
        if self._process is not None:
            signals = (signal.SIGQUIT,) if number == signal.SIGQUIT else (number, signal.SIGQUIT)
            stop(self._process.pid, birth(self._process.pid), signals)
            self._process.wait()
            self._process = None


@contextmanager
def running_cluster(log: Path) -> Iterator[Cluster | None]:
    """Give a new cluster for the block; None where no server is installed."""
    programs = _SERVICE.find()
    if programs is None:
        yield None
        return
    user = account(_SERVICE.accounts)
    directory = Path(tempfile.mkdtemp(prefix="tidings-chaos-"))
    if user is not None:
        shutil.chown(directory, user)

    def run_as(*command: str | Path, stdin: str = "") -> None:
        done = subprocess.run(
            [str(word) for word in command], input=stdin, capture_output=True, text=True, check=False, **credentials(user)
        )
        if done.returncode != 0:
            raise FailedError(f"{command[0]} failed: {done.stderr.strip()}")

    try:
        _SERVICE.prepare(programs, directory, run_as)
        cluster = Cluster(programs, directory, user, log)
        cluster.start()
        try:
            cluster.wait()
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
