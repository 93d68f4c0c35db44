"""What a worker says of itself: a line at a time, which survives the process, whatever ends it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

__all__ = ["Journal"]


class Journal:
    """A file that a process appends to and a test reads."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def say(self, what: str, **more: Any) -> None:
        """Append an entry; times are of a clock that all processes share."""
        line = json.dumps({"what": what, "at": time.monotonic(), **more}) + "\n"
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(file, line.encode())
        os.close(file)

    def entries(self, what: str | None = None, **matching: Any) -> list[dict[str, Any]]:
        """Return what was written so far, all of it or what matches."""
        if not self.path.exists():
            return []
        found = [json.loads(line) for line in self.path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        wanted = matching if what is None else {"what": what, **matching}
        return [entry for entry in found if wanted.items() <= entry.items()]
