"""The command line of private services."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

from private_services.base import FailedError, Follower, PrivateService, UnavailableError
from private_services.control import Control
from private_services.kafka import Kafka
from private_services.nats import NATS
from private_services.pgbouncer import PgBouncer
from private_services.postgresql import PostgreSQL
from private_services.rabbitmq import RabbitMQ
from private_services.redis import Redis

# A service comes after those that it leads to.
SERVICES: dict[str, PrivateService] = {
    "postgresql": PostgreSQL(),
    "pgbouncer": PgBouncer(),
    "rabbitmq": RabbitMQ(),
    "kafka": Kafka(),
    "nats": NATS(),
    "redis": Redis(),
}

#: What `run` starts when no service is named: what almost every command needs. The others start when a test asks for one.
USUAL = ("postgresql", "pgbouncer")

ALL = "all"

#: The environment variable with the names of the services that a test may start.
ON_DEMAND = "TIDINGS_SERVICES_ON_DEMAND"

DONE, FAILED, SKIPPED = 0, 1, 3

DESCRIPTION = f"""\
Private servers for tests and benchmarks, one of each per checkout, on loopback.

  start [service ...]               start what does not run yet, print the URLs
  stop [service ...]                stop, and throw the data away
  status                            say what runs; exit code 1 when something does not
  url service                       print one URL
  env                               print VARIABLE=URL of what runs
  run [service ...] -- command ...  run a command with these variables set; the last run stops what no `start` asked for

Services: {", ".join(SERVICES)}; without a name, all of them, but for `run`: {" and ".join(USUAL)}, while a test
that needs another one starts it. `run all` starts all of them first.
Programs are looked for in the PATH and where packages put them; else root on Debian installs the package (Kafka: Maven brings it), else
`docker compose` is used.
Exit codes of start: 0 started or running, 1 failed, {SKIPPED} cannot be had on this machine.
TIDINGS_POSTGRESQL_BIN=directory chooses another PostgreSQL; so do TIDINGS_PGBOUNCER_BIN, TIDINGS_RABBITMQ_BIN, TIDINGS_NATS_BIN,
TIDINGS_REDIS_BIN, and TIDINGS_KAFKA_HOME for a distribution of Kafka; TIDINGS_SERVICES_INSTALL=no forbids installing anything.
"""


def main(arguments: Sequence[str] | None = None, root: Path | None = None) -> int:
    """Run one command and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    given, command = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    parser = argparse.ArgumentParser("scripts/services", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["start", "stop", "status", "url", "env", "run"])
    parser.add_argument("service", nargs="*", help="default: all; for `run` " + " ".join(USUAL))
    options = parser.parse_args(given)
    names: list[str] = options.service or ([name for name in USUAL if name in SERVICES] if options.action == "run" else [ALL])
    names = list(SERVICES) if ALL in names else names
    unknown = [name for name in names if name not in SERVICES]
    if unknown:
        parser.error(f"There is no service {unknown[0]!r}; there are: {', '.join(SERVICES)}.")
    if (options.action == "run") != bool(command):
        parser.error("`run`, and only `run`, takes `-- command ...`.")
    if options.action == "url" and len(options.service) != 1:
        parser.error("`url` takes the name of one service.")
    chosen = _with_related(names, options.action)
    control = Control(root or Path(__file__).resolve().parents[2], say=_say)
    try:
        if options.action == "run":
            return _run(control, chosen, command)
        actions = {"start": _start, "stop": _stop, "status": _status, "url": _url, "env": _env}
        return actions[options.action](control, chosen)
    except FailedError as error:
        _say(str(error))
    except OSError as error:
        _say(f"{error}. If other users have worked in this checkout, run `scripts/services stop` as them.")
    return FAILED


def _with_related(names: list[str], action: str) -> list[PrivateService]:
    """Add what must run before these services start, or must not be left behind when they stop; in the order of starting."""
    needed = {name for name in names if isinstance(service := SERVICES[name], Follower) for name in service.needs}
    left = {name for name, service in SERVICES.items() if isinstance(service, Follower) and set(service.needs) & set(names)}
    related = {"start": needed, "run": needed, "stop": left}.get(action, set())
    return [service for name, service in SERVICES.items() if name in related or name in names]


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _start(control: Control, chosen: list[PrivateService]) -> int:
    started = _together(chosen, control.start, {})
    for service in chosen:
        if isinstance(url := started[service.variable], str):
            print(f"{service.name}  {url}", flush=True)
        else:
            _say(str(url))
    errors = [url for url in started.values() if isinstance(url, Exception)]
    if all(isinstance(error, UnavailableError) for error in errors):
        return SKIPPED if errors else DONE
    return FAILED


def _together(
    chosen: list[PrivateService], start: Callable[[PrivateService], str], given: Mapping[str, str]
) -> dict[str, str | UnavailableError | FailedError | OSError]:
    """Start services at the same time, those that lead to others after these; return the URL of each, or why there is none."""
    names = {service.name: service.variable for service in chosen}
    with ThreadPoolExecutor(max_workers=len(chosen) or 1) as pool:
        futures: dict[str, Future[str]] = {}

        def one(service: PrivateService) -> str:
            if isinstance(service, Follower):
                before = {names[name]: futures[names[name]] for name in service.needs if name in names}
                wait(before.values())
                service.lead_to({**given, **{name: future.result() for name, future in before.items() if future.exception() is None}})
            return start(service)

        for service in chosen:
            futures[service.variable] = pool.submit(one, service)
    results: dict[str, str | UnavailableError | FailedError | OSError] = {}
    for name, future in futures.items():
        try:
            results[name] = future.result()
        except (UnavailableError, FailedError, OSError) as error:
            results[name] = error
    return results


def _stop(control: Control, chosen: list[PrivateService]) -> int:
    # Whoever leads to others ends first.
    for group in ([s for s in chosen if isinstance(s, Follower)], [s for s in chosen if not isinstance(s, Follower)]):
        with ThreadPoolExecutor(max_workers=len(group) or 1) as pool:
            for service, stopped in zip(group, pool.map(control.stop, group), strict=True):
                print(f"{service.name}  {'stopped' if stopped else 'was not running'}")
    return DONE


def _status(control: Control, chosen: list[PrivateService]) -> int:
    urls = [(service, control.url(service)) for service in chosen]
    for service, url in urls:
        print(f"{service.name}  not running" if url is None else f"{service.name}  {url}  ({control.how(service)})")
    return DONE if all(url for _, url in urls) else FAILED


def _url(control: Control, chosen: list[PrivateService]) -> int:
    url = control.url(chosen[0])
    if url is None:
        _say(f"{chosen[0].name} does not run; `scripts/services start {chosen[0].name}` starts it.")
        return FAILED
    print(url)
    return DONE


def _env(control: Control, chosen: list[PrivateService]) -> int:
    for service in chosen:
        url = control.url(service)
        if url is not None:
            print(f"{service.variable}={url}")
    return DONE


def _run(control: Control, chosen: list[PrivateService], command: list[str]) -> int:
    environment = dict(os.environ)
    # A terminated run stops what it started, like any other.
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        with ExitStack() as used:
            finished = used.enter_context(
                _used(control, [service for service in chosen if not environment.get(service.variable)], environment)
            )
            for name, url in finished.items():
                if isinstance(url, str):
                    environment[name] = url
                elif not isinstance(url, UnavailableError) and os.environ.get("CI") == "true":
                    raise url
                else:
                    _say(str(url))
                    environment[f"{name}_MISSING"] = str(url)
            # What was not asked for, a test that needs it starts by itself.
            environment[ON_DEMAND] = " ".join(name for name, service in SERVICES.items() if service not in chosen)
            return _child(command, environment)
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _used(
    control: Control, chosen: list[PrivateService], given: Mapping[str, str]
) -> Iterator[dict[str, str | UnavailableError | FailedError | OSError]]:
    """Start services at the same time for a block, and stop them at the same time after it."""
    blocks: dict[str, AbstractContextManager[str]] = {}

    def enter(service: PrivateService) -> str:
        block = control.use(service)
        url = block.__enter__()
        blocks[service.variable] = block
        return url

    try:
        yield _together(chosen, enter, given)
    finally:
        # Whoever leads to others ends first.
        for group in (True, False):
            leaving = [blocks[s.variable] for s in chosen if s.variable in blocks and isinstance(s, Follower) is group]
            with ThreadPoolExecutor(max_workers=len(leaving) or 1) as pool:
                list(pool.map(lambda block: block.__exit__(None, None, None), leaving))


def _child(command: list[str], environment: dict[str, str]) -> int:
    process = subprocess.Popen(command, env=environment)
    while True:
        try:
            code = process.wait()
            return code if code >= 0 else 128 - code
        except KeyboardInterrupt:
            # The terminal has sent it to the command as well, which says itself what it thinks of it.
            continue
        except SystemExit:
            process.terminate()
            process.wait()
            raise


def _terminated(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)
