"""RabbitMQ: one node that nobody else can join."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from pathlib import Path

from private_services import debian
from private_services.base import RunAs
from private_services.processes import LOOPBACK, free_port

USER = "tidings"

_CONFIGURATION = f"""\
default_user = {USER}
default_pass = {USER}
log.console = true
log.console.level = warning
log.file = false
# A full disk or a small machine is not what the tests are about.
disk_free_limit.absolute = 50MB
"""


class RabbitMQ:
    """A node with one user, `tidings` (the password is the same), who may do everything in the virtual host `/`."""

    name = "rabbitmq"
    variable = "TIDINGS_TEST_RABBITMQ"
    package = "rabbitmq-server"
    accounts: tuple[str, ...] = ("rabbitmq", "nobody")
    stop_signals: tuple[int, ...] = (signal.SIGTERM,)

    def find(self) -> Path | None:
        """Return the script of RabbitMQ itself; in the directory TIDINGS_RABBITMQ_BIN, where given, and nowhere else."""
        chosen = os.environ.get("TIDINGS_RABBITMQ_BIN")
        # Debian's script of the same name in the PATH starts it as a service of the system.
        places = chosen or os.pathsep.join(("/usr/lib/rabbitmq/bin", os.environ.get("PATH", os.defpath)))
        found = shutil.which("rabbitmq-server", path=places)
        return None if found is None else Path(found)

    def before_install(self) -> list[tuple[Path, str]]:
        """Keep Debian's package from starting a node of its own."""
        return [debian.NO_START]

    def prepare(self, programs: Path, directory: Path, run_as: RunAs) -> None:
        """Write its configuration."""
        files = {"rabbitmq.conf": _CONFIGURATION, "plugins": "[].\n"}
        for name, text in files.items():
            run_as("sh", "-c", 'cat >"$0"', directory / name, stdin=text)

    def command(self, programs: Path, directory: Path, port: int) -> list[str]:
        """Return the node's command line; it is told everything by environment variables, and nothing by files of the system."""
        variables = {
            "HOME": directory,
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": directory / "rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": directory / "plugins",
            "RABBITMQ_MNESIA_BASE": directory / "mnesia",
            "RABBITMQ_LOG_BASE": directory / "logs",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": directory / "pid",
            # The data belongs to the node's name, so it must be the same after a crash.
            "RABBITMQ_NODENAME": "tidings@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": LOOPBACK,
            "RABBITMQ_NODE_PORT": port,
            "RABBITMQ_DIST_PORT": free_port(),
            # Erlang's name service, of this node only.
            "ERL_EPMD_PORT": free_port(),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            # It does not spin while it waits: the tests need the processor.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none",
        }
        return ["env", *(f"{name}={value}" for name, value in variables.items()), str(programs)]

    def ready(self, port: int) -> bool:
        """Tell whether it begins a connection of AMQP 0.9.1."""
        try:
            with socket.create_connection((LOOPBACK, port), timeout=2) as connection:
                connection.sendall(b"AMQP\0\0\x09\x01")
                return connection.recv(8) not in (b"", b"AMQP\0\0\x09\x01")
        except OSError:
            return False

    def url(self, port: int) -> str:
        """Return the URL of the virtual host `/`."""
        return f"amqp://{USER}:{USER}@{LOOPBACK}:{port}/"
