"""A file that several processes append to: what they knew when they were killed, in the order in which it happened."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["Journal", "entries"]


class Journal:
    """Appends one line at a time; a line that was written survives the process, whatever signal ends it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, **entry: Any) -> None:
        """Append one entry. It is one `write`, so lines of several processes do not mix."""
        os.write(self._file, (json.dumps(entry) + "\n").encode())


def entries(path: Path) -> Iterator[dict[str, Any]]:
    """Yield what was written."""
    if path.exists():
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)
