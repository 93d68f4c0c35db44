"""Importing: what `import tidings` costs a process that may never use it."""

from __future__ import annotations

import asyncio
import json
import sys

from benchmarks.measuring import Series
from benchmarks.report import Goal, Row, Section
from benchmarks.settings import Settings
from benchmarks.workload import check

#: Loaded when they are used, and not before.
HEAVY = ("sqlalchemy", "asyncpg", "psycopg", "aiosqlite", "pydantic", "attrs", "click", "rich")

_PROGRAM = """
import sys, time
started = time.perf_counter()
import {module}
took = time.perf_counter() - started
import json
print(json.dumps({{"ms": took * 1e3, "heavy": [name for name in {heavy} if name in sys.modules]}}))
"""


async def run(settings: Settings) -> list[Section]:
    """Import in one new process after the other, ours and what it cannot do without, in turn."""
    times: dict[str, list[float]] = {"tidings": [], "msgspec": []}
    for _ in range(settings.count(20, 5)):
        for module, figures in times.items():
            program = _PROGRAM.format(module=module, heavy=HEAVY)
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
            found = json.loads((await process.communicate())[0])
            check(f"import {module}", heavy=(found["heavy"], []))
            figures.append(found["ms"])
    ours, raw = Series(tuple(times["tidings"])), Series(tuple(times["msgspec"]))
    rows = [
        Row("median", ours, raw, (Goal("ours", "<=", 60),)),
        Row("fastest", Series((ours.low,)), Series((raw.low,)), (Goal("ours", "<=", 60),)),
    ]
    return [Section(f"import tidings, {len(ours.values)} processes", "ms", "import msgspec", rows, [f"Not loaded: {', '.join(HEAVY)}."])]
