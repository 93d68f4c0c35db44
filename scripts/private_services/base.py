"""The port: what a service has to say about itself, and the two ways in which it can fail to be there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable


class UnavailableError(Exception):
    """The service cannot be had on this machine; the message says why, and what would help."""


class FailedError(Exception):
    """The service could be had here, but installing or starting it went wrong; the message says how, and where the log is."""


class PrivateService(Protocol):
    """One kind of server.

    Attributes:
        name: How people, `compose.yaml` and the files in `.services/` call it.
        variable: The environment variable that gives its URL to the tests.
        package: The Debian package that brings it.
        accounts: Users to run as when we are root, best first; empty when it may run as root.
        stop_signals: Signals that end it, gentlest first.
    """

    name: str
    variable: str
    package: str
    accounts: tuple[str, ...]
    stop_signals: tuple[int, ...]

    def find(self) -> Path | None:
        """Return where its programs are, or None."""

    def before_install(self) -> list[tuple[Path, str]]:
        """Return files that must exist while the package is installed, so that it does not start a server of its own."""

    def prepare(self, programs: Path, directory: Path, run_as: RunAs) -> None:
        """Make its data in the empty `directory`."""

    def command(self, programs: Path, directory: Path, port: int) -> list[str]:
        """Return the command that serves `directory` on this loopback port, in the foreground."""

    def ready(self, port: int) -> bool:
        """Tell whether it answers on this port now."""

    def url(self, port: int) -> str:
        """Return what a client connects to."""


@runtime_checkable
class Follower(Protocol):
    """A service that leads to others, which start before it and stop after it.

    Attributes:
        needs: The names of those services.
    """

    needs: tuple[str, ...]

    def lead_to(self, urls: Mapping[str, str]) -> None:
        """Note the URLs of what runs before this service starts, by environment variable."""


@runtime_checkable
class Fetched(Protocol):
    """A service that comes from elsewhere than from one package of Debian."""

    def why_not(self) -> str | None:
        """Return why it cannot be fetched on this machine, or None when it can."""

    def fetch(self) -> None:
        """Bring it to where `find` looks; raises FailedError."""


class RunAs(Protocol):
    """Runs a command to its end as the service's user; a failure raises FailedError with the command's output."""

    def __call__(self, *command: str | Path, stdin: str = "") -> None: ...
