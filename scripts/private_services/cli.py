"""The command line of private services."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from private_services.base import FailedError, Follower, PrivateService, UnavailableError
from private_services.control import Control
from private_services.pgbouncer import PgBouncer
from private_services.postgresql import PostgreSQL

# A service comes after those that it leads to.
SERVICES: dict[str, PrivateService] = {"postgresql": PostgreSQL(), "pgbouncer": PgBouncer()}

DONE, FAILED, SKIPPED = 0, 1, 3

DESCRIPTION = f"""\
Private servers for tests and benchmarks, one of each per checkout, on loopback.

  start [service ...]               start what does not run yet, print the URLs
  stop [service ...]                stop, and throw the data away
  status                            say what runs; exit code 1 when something does not
  url service                       print one URL
  env                               print VARIABLE=URL of what runs
  run [service ...] -- command ...  run a command with these variables set; the last run stops what no `start` asked for

Services: {", ".join(SERVICES)}; without a name, all of them.
Programs are looked for in the PATH and where packages put them; else root on Debian installs the package, else `docker compose` is used.
Exit codes of start: 0 started or running, 1 failed, {SKIPPED} cannot be had on this machine.
TIDINGS_POSTGRESQL_BIN=directory chooses another PostgreSQL, TIDINGS_PGBOUNCER_BIN another PgBouncer; TIDINGS_SERVICES_INSTALL=no forbids
installing packages.
"""


def main(arguments: Sequence[str] | None = None, root: Path | None = None) -> int:
    """Run one command and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    given, command = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    parser = argparse.ArgumentParser("scripts/services", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["start", "stop", "status", "url", "env", "run"])
    parser.add_argument("service", nargs="*", help="default: all")
    options = parser.parse_args(given)
    unknown = [name for name in options.service if name not in SERVICES]
    if unknown:
        parser.error(f"There is no service {unknown[0]!r}; there are: {', '.join(SERVICES)}.")
    if (options.action == "run") != bool(command):
        parser.error("`run`, and only `run`, takes `-- command ...`.")
    if options.action == "url" and len(options.service) != 1:
        parser.error("`url` takes the name of one service.")
    chosen = _with_related(options.service or list(SERVICES), options.action)
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
    code = DONE
    urls: dict[str, str] = {}
    for service in chosen:
        if isinstance(service, Follower):
            service.lead_to(urls)
        try:
            urls[service.variable] = control.start(service)
            print(f"{service.name}  {urls[service.variable]}", flush=True)
        except UnavailableError as error:
            _say(str(error))
            code = SKIPPED
    return code


def _stop(control: Control, chosen: list[PrivateService]) -> int:
    for service in reversed(chosen):
        print(f"{service.name}  {'stopped' if control.stop(service) else 'was not running'}")
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
            for service in chosen:
                if environment.get(service.variable):
                    continue
                if isinstance(service, Follower):
                    service.lead_to(environment)
                try:
                    environment[service.variable] = used.enter_context(control.use(service))
                except (UnavailableError, FailedError) as error:
                    if isinstance(error, FailedError) and os.environ.get("CI") == "true":
                        raise
                    _say(str(error))
                    environment[f"{service.variable}_MISSING"] = str(error)
            return _child(command, environment)
    finally:
        signal.signal(signal.SIGTERM, before)


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
