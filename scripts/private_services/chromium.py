"""Chromium for tests in a browser: the one that is installed, else Debian's package. A program and no server: nothing has to be started."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from private_services import debian
from private_services.base import FailedError, UnavailableError

__all__ = ["chromium"]

_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


def chromium() -> Path:
    """Return the program, installed if it has to be; TIDINGS_CHROMIUM names another one.

    Raises:
        UnavailableError: there is none, and none can be installed.
        FailedError: the installation failed.
    """
    if chosen := os.environ.get("TIDINGS_CHROMIUM"):
        if not (found := shutil.which(chosen)):
            raise UnavailableError(f"TIDINGS_CHROMIUM={chosen} is no program")
        return Path(found)
    if installed := _installed():
        return installed
    if reason := debian.why_not():
        raise UnavailableError(f"Chromium is not installed, and {reason}")
    # Liberation: pages are not tested in whatever font happens to be there.
    debian.install("chromium fonts-liberation", [])
    if installed := _installed():
        return installed
    raise FailedError("the package chromium is installed, and brought no program of that name")


def _installed() -> Path | None:
    return next((Path(found) for name in _NAMES if (found := shutil.which(name))), None)
