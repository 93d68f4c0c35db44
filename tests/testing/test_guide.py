"""What docs/testing.md shows runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

from tests.testing.nested import run_nested

GUIDE = Path(__file__).parents[2] / "docs" / "testing.md"
FILE = re.compile(r"<!-- file: (?P<name>\w+\.py) -->\s+```python\n(?P<code>.*?)```", re.DOTALL)


def test_every_snippet_of_the_guide_runs(tmp_path: Path) -> None:
    text = GUIDE.read_text(encoding="utf-8")
    files = {found["name"]: found["code"] for found in FILE.finditer(text)}
    assert text.count("```python") == len(files), "each python block has a '<!-- file: name.py -->' before it"
    outcome = run_nested(tmp_path, files, "anyio")
    assert "9 passed" in outcome, outcome


def test_the_guide_names_nothing_that_does_not_exist() -> None:
    from tidings import testing
    from tidings.testing import Harness

    text = GUIDE.read_text(encoding="utf-8")
    for name in set(re.findall(r"\bt\.(\w+)", text)):
        assert hasattr(Harness, name), name
    for names in re.findall(r"^from tidings\.testing import (.+)$", text, re.MULTILINE):
        assert set(names.split(", ")) <= set(testing.__all__)
