"""Redis, or Valkey, with an append-only file: durable to the second, as in production."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from pathlib import Path

from private_services import debian
from private_services.base import RunAs
from private_services.processes import LOOPBACK


class Redis:
    """A server without a password, for everyone on this machine's loopback.

    Args:
        fsync: its `appendfsync`. With `everysec` a slow disk lets it confirm what it has not written yet; with `no` it has always written it,
            and what it has written outlives it.
    """

    name = "redis"
    variable = "TIDINGS_TEST_REDIS"
    package = "redis-server"
    accounts: tuple[str, ...] = ("redis", "nobody")
    stop_signals: tuple[int, ...] = (signal.SIGTERM,)

    def __init__(self, fsync: str = "everysec") -> None:
        self._fsync = fsync

    def find(self) -> Path | None:
        """Return the program; in the directory TIDINGS_REDIS_BIN, where given, and nowhere else."""
        chosen = os.environ.get("TIDINGS_REDIS_BIN")
        for program in ("redis-server", "valkey-server"):
            if found := shutil.which(program, path=chosen):
                return Path(found)
        return None

    def before_install(self) -> list[tuple[Path, str]]:
        """Keep Debian's package from starting a server of its own."""
        return [debian.NO_START]

    def prepare(self, programs: Path, directory: Path, run_as: RunAs) -> None:
        """It makes its files itself."""

    def command(self, programs: Path, directory: Path, port: int) -> list[str]:
        """Return the server's command line."""
        settings = {"bind": LOOPBACK, "port": str(port), "dir": str(directory), "appendonly": "yes", "save": "", "daemonize": "no"}
        settings["appendfsync"] = self._fsync
        # A title of its own would be written over its environment, by which it is recognised.
        settings["set-proc-title"] = "no"
        return [str(programs), *(part for name, value in settings.items() for part in (f"--{name}", value))]

    def ready(self, port: int) -> bool:
        """Tell whether it takes commands: while it loads its data it answers with an error."""
        try:
            with socket.create_connection((LOOPBACK, port), timeout=2) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    def url(self, port: int) -> str:
        """Return the URL of its first database."""
        return f"redis://{LOOPBACK}:{port}/0"
