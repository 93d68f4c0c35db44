"""Wrong use of the public API is a type error, right use is none: `cases/*.py` say which lines, mypy --strict and pyright must agree.

A line that must be an error ends with `# E: why`; `# E[mypy]: why` and `# E[pyright]: why` are for lines on which only one of the two can
see it, or on which they report it differently. Every other line must be free of errors.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import tidings

CASES = Path(__file__).parent / "cases"
SOURCE = Path(tidings.__file__).parents[1]
FILES = sorted(CASES.glob("*.py"))

_EXPECTED = re.compile(r"# E(?:\[(?P<checker>mypy|pyright)\])?: \S")
_MYPY_LINE = re.compile(r"(?P<path>[^:]+\.py):(?P<line>\d+): error: (?P<message>.*)")

Errors = dict[tuple[str, int], str]


@cache
def mypy_errors() -> Errors:
    """Run mypy once over all cases; return its errors by file name and line."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary", "--no-pretty", "--hide-error-context"]
    command += ["--cache-dir", str(CASES.parents[2] / ".mypy_cache" / "typing"), *map(str, FILES)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=CASES, env=os.environ | {"MYPYPATH": str(SOURCE)})
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    found = (_MYPY_LINE.match(line) for line in ran.stdout.splitlines())
    errors = [match for match in found if match and Path(CASES, match["path"]).parent == CASES]
    return {(Path(match["path"]).name, int(match["line"])): match["message"] for match in errors}


@cache
def pyright_errors() -> Errors:
    """Run pyright once over all cases; return its errors by file name and line."""
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(CASES), *map(str, FILES)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=CASES)
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    diagnostics = json.loads(ran.stdout)["generalDiagnostics"]
    return {
        (Path(found["file"]).name, found["range"]["start"]["line"] + 1): found["message"]
        for found in diagnostics
        if found["severity"] == "error"
    }


CHECKERS = {"mypy": mypy_errors, "pyright": pyright_errors}


@pytest.mark.parametrize("checker", CHECKERS)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_errors_are_where_the_case_says(file: Path, checker: str) -> None:
    found = {line: message for (name, line), message in CHECKERS[checker]().items() if name == file.name}
    expected = _expected(file, checker)

    missing = {line: text for line, text in expected.items() if line not in found}
    surprising = {line: message for line, message in found.items() if line not in expected}
    assert not missing, f"{checker} has nothing against these lines of {file.name}"
    assert not surprising, f"{checker} has something against these lines of {file.name}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_case_expects_an_error_somewhere(file: Path) -> None:
    assert _expected(file, "mypy")


def _expected(file: Path, checker: str) -> dict[int, str]:
    lines = enumerate(file.read_text().splitlines(), start=1)
    marks = ((line, text, _EXPECTED.search(text)) for line, text in lines)
    return {line: text.strip() for line, text, mark in marks if mark and mark["checker"] in (None, checker)}
