"""PgBouncer in front of the PostgreSQL that tests use, in transaction mode: a server connection belongs to a client for one transaction.

Few server connections for many clients, so that whatever relies on a session finds itself on another client's connection.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from private_services import debian
from private_services.base import RunAs, UnavailableError
from private_services.postgresql import DATABASE, USER, PostgreSQL
from private_services.processes import LOOPBACK

#: Server connections of each database.
POOL_SIZE = 2


class PgBouncer:
    """A proxy that lets everyone on this machine's loopback in, to every database of one PostgreSQL server.

    Attributes:
        upstream: The URL of that server, as a superuser; None until `lead_to` has said it.
        settings: What differs from the configuration below.
    """

    name = "pgbouncer"
    variable = "TIDINGS_TEST_PGBOUNCER"
    package = "pgbouncer"
    accounts: tuple[str, ...] = ("postgres", "nobody")
    # SIGINT waits for transactions under way.
    stop_signals: tuple[int, ...] = (signal.SIGTERM,)
    needs: tuple[str, ...] = ("postgresql",)

    def __init__(self, upstream: str | None = None, settings: Mapping[str, str] | None = None) -> None:
        self.upstream = upstream
        self.settings = settings or {}

    def lead_to(self, urls: Mapping[str, str]) -> None:
        """Use the server that the tests use."""
        self.upstream = urls.get(PostgreSQL.variable) or None

    def find(self) -> Path | None:
        """Return the program; in the directory TIDINGS_PGBOUNCER_BIN, where given, and nowhere else."""
        chosen = os.environ.get("TIDINGS_PGBOUNCER_BIN")
        # Debian keeps it out of the PATH of users.
        found = shutil.which("pgbouncer", path=chosen or os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin")))
        return None if found is None else Path(found)

    def before_install(self) -> list[tuple[Path, str]]:
        """Keep Debian's package from starting a proxy of its own."""
        return [debian.NO_START]

    def prepare(self, programs: Path, directory: Path, run_as: RunAs) -> None:
        """Refuse to lead nowhere."""
        if self.upstream is None:
            raise UnavailableError("pgbouncer is a proxy for PostgreSQL, and there is no PostgreSQL that it could lead to.")

    def command(self, programs: Path, directory: Path, port: int) -> list[str]:
        """Write the configuration for this port, and return the command line."""
        assert self.upstream is not None
        configuration = directory / "pgbouncer.ini"
        configuration.write_text(self._configuration(programs, port), encoding="utf-8")
        configuration.chmod(0o644)
        return [str(programs), str(configuration)]

    def ready(self, port: int) -> bool:
        """Tell whether a session can be opened, on PostgreSQL too."""
        return PostgreSQL().ready(port)

    def url(self, port: int) -> str:
        """Return the URL of the proxy, as libpq reads it."""
        return f"postgresql://{USER}@{LOOPBACK}:{port}/{DATABASE}"

    def _configuration(self, program: Path, port: int) -> str:
        assert self.upstream is not None
        server = urlsplit(self.upstream)
        parts = {
            "host": server.hostname or LOOPBACK,
            "port": str(server.port or 5432),
            "user": server.username,
            "password": server.password,
        }
        target = " ".join(f"{name}={_quoted(unquote(value))}" for name, value in parts.items() if value)
        settings = {
            "listen_addr": LOOPBACK,
            "listen_port": str(port),
            "unix_socket_dir": "",
            # Whoever the client says it is, the server sees the user named above.
            "auth_type": "any",
            "pool_mode": "transaction",
            "default_pool_size": str(POOL_SIZE),
            # The next transaction gets the session that has waited longest, not the one that was just given back.
            "server_round_robin": "1",
            "max_client_conn": "500",
            "query_wait_timeout": "30",
            "autodb_idle_timeout": "10",
            "server_login_retry": "1",
            "log_connections": "0",
            "log_disconnections": "0",
        }
        if version(program) >= (1, 21):
            # These can follow named prepared statements from server to server; what does without them has to work first.
            settings["max_prepared_statements"] = "0"
        settings.update(self.settings)
        lines = [
            "[databases]",
            f"{DATABASE} = {target} dbname={_quoted(unquote(server.path.lstrip('/')) or DATABASE)}",
            f"* = {target}",
            "[pgbouncer]",
        ]
        return "\n".join([*lines, *(f"{name} = {value}" for name, value in settings.items()), ""])


def version(program: Path) -> tuple[int, int]:
    """Return the version of a PgBouncer program, (1, 18)."""
    asked = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"PgBouncer (\d+)\.(\d+)", asked.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
