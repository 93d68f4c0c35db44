"""Modules of ours as processes of their own."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

__all__ = ["child"]


async def child(module: str, *arguments: str) -> dict[str, Any]:
    """Run a module of ours in a process of its own; return the JSON that it prints."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, *arguments, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"python -m {module} ended with exit code {process.returncode}")
    found: dict[str, Any] = json.loads(out)
    return found
