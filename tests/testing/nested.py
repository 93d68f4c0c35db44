"""A test suite in a directory of its own, as a user has one, with our plugin and one for async tests, and no others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

__all__ = ["run_nested"]

PLUGINS = {"anyio": "anyio.pytest_plugin", "asyncio": "pytest_asyncio.plugin"}
SETTINGS = {"anyio": 'anyio_mode = "auto"', "asyncio": 'asyncio_mode = "auto"\nasyncio_default_fixture_loop_scope = "function"', "none": ""}
BACKEND = """
import pytest

@pytest.fixture
def anyio_backend():
    return "asyncio"
"""


def run_nested(directory: Path, files: Mapping[str, str], kind: Literal["anyio", "asyncio", "none"], *, fails: bool = False) -> str:
    """Run a suite in a process of its own, warnings being errors; return what it printed."""
    settings = f'[tool.pytest.ini_options]\nfilterwarnings = ["error"]\npythonpath = ["."]\n{SETTINGS[kind]}\n'
    for name, text in {"conftest.py": BACKEND, **files, "pyproject.toml": settings}.items():
        (directory / name).write_text(text, encoding="utf-8")
    plugins = ["tidings.testing.plugin", *([PLUGINS[kind]] if kind in PLUGINS else [])]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={directory / 'temp'}", "--tb=short"]
    done = subprocess.run(
        [*command, *(f"-p{plugin}" for plugin in plugins)],
        cwd=directory,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert (done.returncode != 0) is fails, done.stdout + done.stderr
    return done.stdout
