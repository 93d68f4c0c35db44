"""NATS with JetStream, its streams in files."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from pathlib import Path

from private_services import debian
from private_services.base import RunAs
from private_services.processes import LOOPBACK


class NATS:
    """A server for everyone on this machine's loopback."""

    name = "nats"
    variable = "TIDINGS_TEST_NATS"
    package = "nats-server"
    accounts: tuple[str, ...] = ("nats", "nobody")
    # SIGUSR2, its gentle way, waits for clients.
    stop_signals: tuple[int, ...] = (signal.SIGTERM,)

    def find(self) -> Path | None:
        """Return the program; in the directory TIDINGS_NATS_BIN, where given, and nowhere else."""
        chosen = os.environ.get("TIDINGS_NATS_BIN")
        # Debian keeps it out of the PATH of users.
        found = shutil.which("nats-server", path=chosen or os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin")))
        return None if found is None else Path(found)

    def before_install(self) -> list[tuple[Path, str]]:
        """Keep Debian's package from starting a server of its own."""
        return [debian.NO_START]

    def prepare(self, programs: Path, directory: Path, run_as: RunAs) -> None:
        """It makes its files itself."""

    def command(self, programs: Path, directory: Path, port: int) -> list[str]:
        """Return the server's command line."""
        return [str(programs), "--addr", LOOPBACK, "--port", str(port), "--jetstream", "--store_dir", str(directory)]

    def ready(self, port: int) -> bool:
        """Tell whether it takes clients, with JetStream on."""
        try:
            with socket.create_connection((LOOPBACK, port), timeout=2) as connection:
                return b'"jetstream":true' in connection.recv(4096)
        except OSError:
            return False

    def url(self, port: int) -> str:
        """Return the server's URL."""
        return f"nats://{LOOPBACK}:{port}"
