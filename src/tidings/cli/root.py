"""The command `tidings` itself."""

from __future__ import annotations

import click

from tidings import __version__
from tidings.cli.dashboard import dashboard
from tidings.cli.db import db
from tidings.cli.dead import dead
from tidings.cli.demo import demo
from tidings.cli.doctor import doctor
from tidings.cli.groups import groups
from tidings.cli.limits import limits
from tidings.cli.repair import discard, keys, pause, redrive, replay, resume
from tidings.cli.run import run
from tidings.cli.services import services
from tidings.cli.show import show
from tidings.cli.status import status
from tidings.cli.subscriptions import subscriptions
from tidings.cli.tail import tail
from tidings.cli.top import top

__all__ = ["tidings"]

_EPILOG = """\b
Exit codes: 0 all is well, 1 something is not well or was not found,
2 the command cannot be understood, 3 the store cannot be reached or used.
\b
The store of all commands can be given once: export TIDINGS_STORE=postgresql://shop@localhost/shop
"""


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", prog_name="tidings", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show a traceback where otherwise a sentence would do.")
def tidings(debug: bool) -> None:
    """Integration events: committed facts, delivered in order, applied once.

    Try `tidings demo` first. In an application: `tidings db upgrade` makes the tables, `tidings run app:service` runs the handlers,
    `tidings status` says whether all is well, and `tidings dead list` what could not be handled.
    """


for command in (demo, run, db, status, doctor, top, dashboard, tail, show, dead, keys, subscriptions, groups, services, limits, replay):
    tidings.add_command(command)
for command in (redrive, discard):
    dead.add_command(command)
for command in (pause, resume):
    subscriptions.add_command(command)
