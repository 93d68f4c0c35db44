"""The command line: `python -m chaos [--seconds 120] [--seed N] [--store URL] [--transport BROKER]`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

# The private services are at home among the scripts.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from private_services.base import FailedError, UnavailableError
from sqlalchemy import make_url

from chaos.broker import running_broker
from chaos.cluster import running_cluster
from chaos.databases import new_database
from chaos.report import report
from chaos.run import run
from chaos.schedule import schedule
from chaos.settings import Settings
from chaos.transport import BROKERS

__all__ = ["main"]

BALANCED, UNBALANCED, IMPOSSIBLE = 0, 1, 2


def main(arguments: list[str] | None = None) -> int:
    """Run. Exit codes: 0 the books balance, 1 they do not, 2 it cannot run here."""
    parser = argparse.ArgumentParser("python -m chaos", description="Break everything for a while, then balance the books.")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long faults are injected (default %(default).0f)")
    parser.add_argument("--seed", type=int, default=None, help="repeat the faults of another run")
    parser.add_argument(
        "--store", default="postgresql", metavar="URL",
        help="postgresql (default): a cluster of our own, restarts included, or without one a new database on the server of the tests; sqlite: a file; or the URL of an empty PostgreSQL database",
    )  # fmt: skip
    parser.add_argument(
        "--transport", choices=BROKERS, default=None, help="a broker of our own between the log and the subscriptions (default: none)"
    )
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--publishers", type=int, default=3)
    parser.add_argument("--rate", type=float, default=None, help="transactions per second of each publisher")
    parser.add_argument("--keep", action="store_true", help="keep the directory with logs and journals when the books balance")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.getLogger("tidings").setLevel(logging.ERROR)
    # Whoever ends us ends our server and our processes, too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    directory = Path(tempfile.mkdtemp(prefix="tidings-chaos-run-"))
    with ExitStack() as stack:
        code = _run(options, directory, stack)
    if code == UNBALANCED or options.keep:
        print(f"Logs and journals: {directory}", flush=True)
    else:
        shutil.rmtree(directory, ignore_errors=True)
    return code


def _run(options: argparse.Namespace, directory: Path, stack: ExitStack) -> int:
    seed = random.SystemRandom().randrange(1 << 31) if options.seed is None else options.seed
    cluster = None
    if options.store == "sqlite":
        url, kind = f"sqlite:///{directory / 'chaos.sqlite'}", "sqlite"
    elif options.store == "postgresql":
        cluster = stack.enter_context(running_cluster(directory / "postgresql.log"))
        other = os.environ.get("TIDINGS_TEST_POSTGRESQL")
        if cluster is not None:
            url = cluster.url
        elif other:
            url = stack.enter_context(new_database(other))
        else:
            print("No PostgreSQL server is installed here: --store URL takes another one, --store sqlite needs none.", file=sys.stderr)
            return IMPOSSIBLE
        kind = "postgresql"
    else:
        url, kind = options.store, make_url(options.store).get_backend_name()
    broker = None
    if options.transport is not None:
        try:
            broker = stack.enter_context(running_broker(options.transport, directory))
        except (UnavailableError, FailedError) as error:
            print(error, file=sys.stderr)
            return IMPOSSIBLE
    asynchronous, synchronous = ("sqlite+aiosqlite", "sqlite") if kind == "sqlite" else ("postgresql+asyncpg", "postgresql+psycopg")
    rest = url.partition("://")[2]
    settings = Settings(
        options.seconds, seed, kind, f"{asynchronous}://{rest}", f"{synchronous}://{rest}", cluster is not None,
        publishers=options.publishers, workers=options.workers, rate=options.rate or (4.0 if kind == "sqlite" else 8.0 if broker else 15.0),
        transport=options.transport, broker="" if broker is None else broker.url, started=time.time(),
    )  # fmt: skip
    over = f" over {settings.transport}" if settings.transport else ""
    print(f"Seed {seed}, {settings.seconds:.0f} s on {kind}{over}. The schedule:", flush=True)
    for fault in schedule(settings):
        print(f"  {fault}")
    more = f" --transport {settings.transport}" if settings.transport else ""
    print(f"Repeat it: python -m chaos --seconds {settings.seconds:g} --seed {seed} --store {options.store}{more}\n", flush=True)
    result = asyncio.run(run(settings, directory, cluster, broker))
    for line in report(result):
        print(line, flush=True)
    return UNBALANCED if result.differences else BALANCED


if __name__ == "__main__":
    sys.exit(main())
