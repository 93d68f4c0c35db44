"""PostgreSQL: durable as in production (`fsync` stays on), open to everyone on this machine's loopback, to nobody else."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
from pathlib import Path

from private_services.base import RunAs
from private_services.processes import LOOPBACK

USER = DATABASE = "tidings"

SETTINGS = {
    "listen_addresses": LOOPBACK,
    # No socket file: its path may be too long for the system, and the checkout may be out of reach for the server's user.
    "unix_socket_directories": "",
    "max_connections": "300",
    "max_prepared_transactions": "20",
    "log_line_prefix": "%m [%p] %d ",
}


class PostgreSQL:
    """A cluster with one superuser and one empty database, both called `tidings`."""

    name = "postgresql"
    variable = "TIDINGS_TEST_POSTGRESQL"
    package = "postgresql"
    accounts: tuple[str, ...] = ("postgres", "nobody")
    # SIGINT disconnects clients and shuts down; SIGQUIT leaves at once.
    stop_signals: tuple[int, ...] = (signal.SIGINT, signal.SIGQUIT)

    def find(self) -> Path | None:
        """Return the directory with `postgres` and `initdb`; TIDINGS_POSTGRESQL_BIN, where given, is the only place looked at."""
        chosen = os.environ.get("TIDINGS_POSTGRESQL_BIN")
        for directory in [Path(chosen)] if chosen else self._places():
            if all(os.access(directory / program, os.X_OK) for program in ("postgres", "initdb")):
                return directory
        return None

    def _places(self) -> list[Path]:
        places = []
        if on_path := shutil.which("postgres"):
            places.append(Path(on_path).resolve().parent)
        # Debian keeps the server's programs out of the PATH.
        versions = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()]
        places += sorted(versions, key=lambda path: int(path.parent.name), reverse=True)
        if pg_config := shutil.which("pg_config"):
            asked = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
            if asked.returncode == 0:
                places.append(Path(asked.stdout.strip()))
        return places

    def before_install(self) -> list[tuple[Path, str]]:
        """Keep Debian's package from making and starting the cluster `main`."""
        return [(Path("/etc/postgresql-common/createcluster.d/tidings-private-service.conf"), "create_main_cluster = false\n")]

    def prepare(self, programs: Path, directory: Path, run_as: RunAs) -> None:
        """Make the cluster and its database."""
        data = directory / "data"
        run_as(
            programs / "initdb",
            f"--pgdata={data}",
            f"--username={USER}",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        )
        run_as(programs / "postgres", "--single", "-D", data, "postgres", stdin=f"create database {DATABASE}\n")

    def command(self, programs: Path, directory: Path, port: int) -> list[str]:
        """Return the server's command line."""
        settings = [f"--{name}={value}" for name, value in SETTINGS.items()]
        return [str(programs / "postgres"), "-D", str(directory / "data"), "-p", str(port), *settings]

    def ready(self, port: int) -> bool:
        """Tell whether a session can be opened: a server that is still starting up accepts connections and refuses sessions."""
        parameters = f"user\0{USER}\0database\0{DATABASE}\0\0".encode()
        try:
            with socket.create_connection((LOOPBACK, port), timeout=2) as connection:
                connection.sendall(struct.pack("!ii", len(parameters) + 8, 196608) + parameters)
                answer = connection.recv(8192)
                connection.sendall(b"X\0\0\0\4")
                return answer.startswith(b"R")
        except OSError:
            return False

    def url(self, port: int) -> str:
        """Return the URL without a driver, as libpq reads it."""
        return f"postgresql://{USER}@{LOOPBACK}:{port}/{DATABASE}"
