"""Containers from `compose.yaml`, for machines that have Docker but not the program."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from private_services.base import FailedError


def why_not() -> str | None:
    """Return why no container can be started here, or None when one can: a client without an engine is not enough."""
    if shutil.which("docker") is None:
        return "there is no docker"
    for arguments, reason in ((["info"], "no Docker engine answers"), (["compose", "version"], "docker has no `compose` command")):
        try:
            done = subprocess.run(["docker", *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
        except subprocess.TimeoutExpired:
            return reason
        if done.returncode != 0:
            return reason
    return None


def defines(root: Path, name: str) -> bool:
    """Tell whether `compose.yaml` has a container for this service."""
    compose = root / "compose.yaml"
    return compose.exists() and f"\n  {name}:\n" in compose.read_text(encoding="utf-8")


def up(root: Path, name: str, port: int) -> None:
    """Start the container of this service and publish its port on this loopback port."""
    _compose(root, "up", "--detach", name, port=port, variable=f"TIDINGS_{name.upper()}_PORT")


def running(root: Path, name: str) -> bool:
    """Tell whether the container of this service runs."""
    return why_not() is None and _compose(root, "ps", "--status", "running", "--quiet", name).strip() != ""


def down(root: Path, name: str) -> None:
    """Remove the container of this service, with what it stored; without an engine nothing of it runs."""
    if why_not() is None:
        _compose(root, "rm", "--stop", "--force", "--volumes", name)


def _compose(root: Path, *arguments: str, port: int = 0, variable: str = "") -> str:
    # A project name per checkout keeps two of them apart.
    project = "tidings-" + hashlib.sha256(str(root).encode()).hexdigest()[:10]
    done = subprocess.run(
        ["docker", "compose", "--project-name", project, "--file", str(root / "compose.yaml"), *arguments],
        env={**os.environ, **({variable: str(port)} if variable else {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise FailedError("\n".join([f"`docker compose {' '.join(arguments)}` failed:", *done.stderr.strip().splitlines()[-10:]]))
    return done.stdout
