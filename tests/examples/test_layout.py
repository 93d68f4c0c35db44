"""The sample is laid out as it says: what may import what, and a table that leads to files that are there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "examples" / "rentals"


def run(*program: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "examples")])}
    return subprocess.run([sys.executable, *program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_modules_import_what_they_may() -> None:
    done = run("-c", "from importlinter.cli import lint_imports_command as lint; lint()", "--no-cache")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_contracts_can_be_imported_alone() -> None:
    done = run("-c", "import sys, rentals.contracts; print({'sqlalchemy', 'fastapi', 'pydantic'} & set(sys.modules))")
    assert done.stdout.strip() == "set()", done.stderr


def test_every_file_that_the_table_names_is_there() -> None:
    text = (SAMPLE / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:tests/)?[\w/]+\.py)`", text))
    assert len(named) > 20
    for name in named:
        assert (ROOT / name).is_file() or (SAMPLE / name).is_file(), name


def test_the_table_says_of_every_feature_where_it_is_or_that_it_is_not_there_yet() -> None:
    """`A2-A4` is three rows, and so is `A2 to A4`. What is left are pieces of advice, and options of a generator."""
    text = (SAMPLE / "README.md").read_text(encoding="utf-8")
    named: set[str] = set()
    for letter, first, last in re.findall(r"\b([A-E])(\d+)(?:(?:-| to )[A-E](\d+))?\b", text):
        named |= {f"{letter}{number}" for number in range(int(first), int(last or first) + 1)}
    rows = {f"{letter}{number}" for letter, last in {"A": 25, "B": 30, "C": 17, "D": 54, "E": 52}.items() for number in range(1, last + 1)}
    assert rows - named == {"B19", "D1", "D44", "E3", "E4", "E51", "E52"}
    assert named <= rows
