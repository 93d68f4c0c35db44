"""Packages of Debian and its descendants, for machines on which we are root."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from private_services.base import FailedError

#: Not empty when this process has brought the lists of packages up to date.
_UPDATED: list[bool] = []

#: For `before_install`: keeps a package from starting a server of its own (https://www.debian.org/doc/debian-policy/ch-opersys.html).
NO_START = (Path("/usr/sbin/policy-rc.d"), "#!/bin/sh\nexit 101\n")


def why_not() -> str | None:
    """Return why nothing can be installed here, or None when it can."""
    if os.environ.get("TIDINGS_SERVICES_INSTALL", "").lower() in {"0", "no", "false"}:
        return "TIDINGS_SERVICES_INSTALL forbids installing packages"
    if shutil.which("apt-get") is None:
        return "there is no apt-get to install it with"
    if os.geteuid() != 0:
        return "only root may install packages"
    return None


def install(package: str, meanwhile: list[tuple[Path, str]]) -> None:
    """Install packages, separated by spaces; the files in `meanwhile` exist only while that runs, and only where there was none before.

    Services start at the same time, but one package manager runs at a time: it would refuse a second one.
    """
    with ExitStack() as files:
        files.enter_context(_one_at_a_time())
        for path, text in meanwhile:
            if path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            if text.startswith("#!"):
                path.chmod(0o755)
            files.callback(path.unlink, missing_ok=True)
        if not _UPDATED:
            _apt_get("update")
            _UPDATED.append(True)
        _apt_get("install", "--yes", "--no-install-recommends", "--no-upgrade", *package.split())


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    with Path(tempfile.gettempdir(), f"tidings-apt-{os.geteuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _apt_get(*arguments: str) -> None:
    done = subprocess.run(
        ["apt-get", "--quiet", "--option=DPkg::Lock::Timeout=300", "--option=Acquire::http::Timeout=30", *arguments],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise FailedError("\n".join([f"`apt-get {' '.join(arguments)}` failed:", *lines[-10:]]))
