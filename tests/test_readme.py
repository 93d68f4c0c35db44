from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
EXAMPLE = re.compile(r"<!-- example: (?P<name>\w+\.py) -->\s+```python\n(?P<code>.*?)```.*?```text\n(?P<output>.*?)```", re.DOTALL)


def test_the_example_fits_on_a_page_and_prints_what_the_readme_says(tmp_path: Path) -> None:
    found = EXAMPLE.search(README.read_text(encoding="utf-8"))
    assert found is not None, "README.md needs '<!-- example: shop.py -->', a python block, and a text block with its output"
    assert len(found["code"].splitlines()) <= 30
    program = tmp_path / found["name"]
    program.write_text(found["code"], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONUTF8": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == found["output"]
