"""Packages of Debian and its descendants, for machines on which we are root."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

from private_services.base import FailedError


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
    """Install a package; the files in `meanwhile` exist only while that runs, and only where there was none before."""
    with ExitStack() as files:
        for path, text in meanwhile:
            if path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            if text.startswith("#!"):
                path.chmod(0o755)
            files.callback(path.unlink, missing_ok=True)
        _apt_get("update")
        _apt_get("install", "--yes", "--no-install-recommends", "--no-upgrade", package)


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
