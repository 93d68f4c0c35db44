"""PostgreSQL clusters of a test's own, where the server's programs are installed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from private_services.postgresql import PostgreSQL
from private_services.processes import account, birth, credentials, free_port, spawn, stop, wait_until

_SERVICE = PostgreSQL()


@dataclass(frozen=True)
class Programs:
    """The directory of a PostgreSQL server's programs, run as a user whom the server accepts."""

    directory: Path
    user: str | None

    @classmethod
    def find(cls) -> Programs | None:
        found = _SERVICE.find()
        if found is None or not all((found / name).exists() for name in ("pg_basebackup", "pg_dump", "psql")):
            return None
        return cls(found, account(_SERVICE.accounts))

    @property
    def major(self) -> int:
        """The version that they are of, 15."""
        return int(self.run("postgres", "--version").split()[2].partition(".")[0])

    def run(self, program: str, *arguments: str, stdin: str = "") -> str:
        done = subprocess.run(
            [str(self.directory / program), *arguments], input=stdin, capture_output=True, text=True, check=False, **credentials(self.user)
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"
        return done.stdout

    @contextmanager
    def cluster(self) -> Iterator[Cluster]:
        """A new cluster, running."""
        with self._place() as place:
            _SERVICE.prepare(self.directory, place, lambda *command, stdin="": self._prepare(command, stdin))
            with self._running(place) as port:
                yield Cluster(self, _SERVICE.url(port), port)

    @contextmanager
    def standby(self, primary: Cluster) -> Iterator[Cluster]:
        """A hot standby of a cluster, streaming."""
        with self._place() as place:
            self.run(
                "pg_basebackup", "--host=127.0.0.1", f"--port={primary.port}", "--username=tidings", f"--pgdata={place / 'data'}",
                "--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf", "--no-sync",
            )  # fmt: skip
            with self._running(place) as port:
                yield Cluster(self, _SERVICE.url(port), port)

    def _prepare(self, command: tuple[str | Path, ...], stdin: str) -> None:
        self.run(Path(command[0]).name, *map(str, command[1:]), stdin=stdin)

    @contextmanager
    def _place(self) -> Iterator[Path]:
        # Not pytest's directory, which the server's user may not enter.
        place = Path(tempfile.mkdtemp(prefix="tidings-test-"))
        try:
            if self.user is not None:
                shutil.chown(place, self.user)
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    @contextmanager
    def _running(self, place: Path) -> Iterator[int]:
        port = free_port()
        process = spawn([*_SERVICE.command(self.directory, place, port), "--fsync=off"], place / "log", self.user, str(place))
        born = birth(process.pid)
        try:
            assert wait_until(lambda: _SERVICE.ready(port), 30), (place / "log").read_text()
            yield port
        finally:
            stop(process.pid, born, _SERVICE.stop_signals)
            process.wait()


@dataclass(frozen=True)
class Cluster:
    """A running cluster.

    Attributes:
        url: of a superuser, leading to an empty database.
    """

    programs: Programs
    url: str
    port: int
