"""`python -m rentals`: both services, each in a process of its own, on free ports; `--once` plays a short day and ends."""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
from sqlalchemy import make_url

from rentals.day import play, say

_PATIENCE = 30.0

_GUIDE = """
Two processes run: the rentals, and the notifications.

  {web}/docs    every route of the rentals, to try out
  {notes}/docs    what the notifications have done, and a switch for the mail server

Register a customer. The answer comes at once; what follows from it is written and sent a moment later:

  curl -X POST {web}/customers -H 'content-type: application/json' \\
    -d '{{"id": "{id}", "first_name": "Ada", "last_name": "Lovelace", "email": "ada@example.org"}}'
  curl {web}/customers/{id}    the query model
  curl {notes}/mails    the other process has sent a mail
  curl {web}/events    the log: each event, and who has handled it

Let the mail server be down, register somebody else, and see the mail wait; then let it be up again:

  curl -X PUT '{notes}/mail-server?down=true'
  curl {notes}/failures
  curl -X PUT '{notes}/mail-server?down=false'

In another terminal:  .venv/bin/tidings status --store {store}
Ctrl-C ends it; `make sample ARGS=--once` plays a day by itself.
"""


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def _serving(target: str, environment: dict[str, str]) -> Iterator[str]:
    """Run an application in a process of its own, and give its address once it answers."""
    port = _free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", target, "--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + _PATIENCE
        while True:
            with suppress(httpx.TransportError):
                httpx.get(f"{url}/openapi.json", timeout=5)
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{target} has not started; what it said stands above")
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(_PATIENCE)


def main() -> int:
    """Run the sample."""
    parser = argparse.ArgumentParser(prog="rentals", description=__doc__)
    parser.add_argument("--once", action="store_true", help="play a short day over HTTP, print a summary, and end")
    once = parser.parse_args().once
    environment = dict(os.environ)
    with ExitStack() as stack:
        if "RENTALS_DATABASE" not in environment:
            place = Path(tempfile.mkdtemp(prefix="rentals-")) / "rentals.sqlite"
            environment["RENTALS_DATABASE"] = f"sqlite+aiosqlite:///{place}"
        if once:
            environment.setdefault("NOTIFICATIONS_RETRY", "0.2")
        # First the notifications: over a broker, their queue has to be there before anything is sent.
        notes = stack.enter_context(_serving("rentals.notifications.app:create_app", environment))
        web = stack.enter_context(_serving("rentals.app:create_app", environment))
        url = make_url(environment["RENTALS_DATABASE"])
        # Without the driver; a password stays hidden.
        store = url.set(drivername=url.get_backend_name()).render_as_string()
        if once:
            return play(web, notes)
        say(_GUIDE.format(web=web, notes=notes, store=store, id="0198c0de-0000-7000-8000-000000000001"))
        with suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)
    return 0


if __name__ == "__main__":
    sys.exit(main())
