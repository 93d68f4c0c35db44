"""The command line: `python -m benchmarks [name ...] [--quick] [--rounds N] [--json FILE]`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

#: Name, module, and whether it needs PostgreSQL. What is not in DEFAULT runs only when it is named.
BENCHMARKS = {
    "publish": ("benchmarks.publish", True),
    "domain": ("benchmarks.domain", True),
    "read": ("benchmarks.read", True),
    "latency": ("benchmarks.latency", True),
    "handle": ("benchmarks.handle", True),
    "flat": ("benchmarks.flat", True),
    "import": ("benchmarks.import_time", False),
    "wire": ("benchmarks.wire", False),
    "transports": ("benchmarks.transports", False),
    "relay": ("benchmarks.relay", True),
    "inbound": ("benchmarks.inbound", True),
    "observe": ("benchmarks.observe", True),
    "dashboard": ("benchmarks.dashboard", True),
    "peers": ("benchmarks.peers", True),
}
DEFAULT = ("publish", "domain", "read", "latency", "handle", "import", "wire")


def main() -> int:
    """Run what was asked for. Exit codes: 0 measured, 1 something lost or doubled events, 2 it cannot run."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__.partition(":")[0] if __doc__ else None)
    parser.add_argument("name", nargs="*", help=f"of {', '.join(BENCHMARKS)}; default: {', '.join(DEFAULT)}")
    parser.add_argument("--quick", action="store_true", help="a smoke run of seconds, whose figures mean nothing")
    parser.add_argument("--rounds", type=int, default=0, metavar="N", help="runs of each contender (default 5; 1 with --quick)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only tables and contenders whose name contains this")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure of every round to a file")
    options = parser.parse_args()
    names: list[str] = options.name or list(DEFAULT)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are: {', '.join(BENCHMARKS)}")
    server = os.environ.get("TIDINGS_TEST_POSTGRESQL", "")
    if not server and any(BENCHMARKS[name][1] for name in names):
        reason = os.environ.get("TIDINGS_TEST_POSTGRESQL_MISSING") or "TIDINGS_TEST_POSTGRESQL is not set; `make bench` sets it"
        print(f"These benchmarks need PostgreSQL: {reason}.", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.WARNING)
    return _run(names, server, options)


def _run(names: list[str], server: str, options: argparse.Namespace) -> int:
    from benchmarks.database import machine
    from benchmarks.event_loop import run_loop
    from benchmarks.report import as_json, table
    from benchmarks.settings import Settings
    from benchmarks.workload import WrongResult

    settings = Settings(server, options.rounds or (1 if options.quick else 5), options.quick, options.only)
    facts = run_loop(machine, server)
    print(" · ".join(f"{name} {fact}" for name, fact in facts.items()))
    if float(facts["load"].replace("?", "0")) > 0.5:
        print("The machine is busy with something else: take these figures with care.")
    if settings.quick:
        print("A quick run: it shows that everything works, its figures mean nothing.")
    results: dict[str, Any] = {}
    code = 0
    for name in names:
        try:
            sections = run_loop(import_module(BENCHMARKS[name][0]).run, settings)
        except WrongResult as error:
            print(f"\n{name}: {error}", file=sys.stderr)
            code = 1
            continue
        results[name] = [as_json(section) for section in sections]
        for section in sections:
            print(f"\n{table(section)}", flush=True)
        if options.json is not None:
            # After each benchmark: a run takes long, and what it has measured must not be lost with what fails later.
            written = {"machine": facts, "quick": settings.quick, "rounds": settings.rounds, "results": results}
            options.json.write_text(json.dumps(written, indent=2) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
