"""What docs/deployment.md shows and says is so."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session, sessionmaker

from tidings import Contract, Service
from tidings.cli.root import tidings
from tidings.consume import deliveries, fences, recording, tuning
from tidings.stores import SQLStore

GUIDE = (Path(__file__).parents[1] / "docs" / "deployment.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
COMMANDS = [
    *re.findall(r"^\$ (tidings [^#\n]+)", GUIDE, re.MULTILINE),
    *re.findall(r"`(tidings [^`]+)`", GUIDE),
    *(" ".join(re.findall(r'"([^"]+)"', words)) for words in re.findall(r'command: (\["tidings".*?\])', GUIDE)),
    *re.findall(r"/bin/(tidings .*)", GUIDE),
]


class App:
    """Takes what an ASGI framework takes."""

    def __init__(self, lifespan: Any) -> None:
        assert lifespan(self).__aenter__


@pytest.mark.parametrize("code", SNIPPETS)
def test_every_snippet_runs(code: str, tmp_path: Path) -> None:
    shop = Contract("shop")

    @shop.event("order.placed", key="order_id")
    @dataclass(frozen=True)
    class OrderPlaced:
        order_id: int

    class Order:
        id = 1

    class AnySession(Session):
        def add(self, instance: object, _warn: bool = True) -> None:
            """There is no table of orders."""

    engine = create_engine(f"sqlite:///{tmp_path / 'shop.db'}")
    made: dict[str, Any] = {
        "FastAPI": App, "Service": Service, "SQLStore": SQLStore, "engine": engine, "shop": shop, "OrderPlaced": OrderPlaced, "order": Order(),
        "service": Service("shop", contracts=[shop], store=SQLStore(engine)), "Session": sessionmaker(engine, class_=AnySession),
    }  # fmt: skip
    with engine.begin() as connection:
        from tidings.stores.sql import migrate

        migrate.upgrade(connection, made["service"].store.names, made["service"].store.lock_class)
    exec(compile(code, "docs/deployment.md", "exec"), made)  # noqa: S102
    if "publish(" in code:
        with engine.connect() as connection:
            assert connection.exec_driver_sql("select count(*) from tidings_outbox").scalar_one() == 1
    engine.dispose()


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_one(line: str) -> None:
    command: click.Command = tidings
    for word in shlex.split(line)[1:]:
        if isinstance(command, click.Group):
            assert word in command.commands, f"there is no {word!r} in {line!r}"
            command = command.commands[word]
        elif word.startswith("--"):
            assert any(word in parameter.opts for parameter in command.params), f"there is no {word} in {line!r}"


def test_the_numbers_are_those_of_the_code() -> None:
    assert f"{tuning.LEASE_SECONDS:.0f} seconds for the reader of a group" in GUIDE
    assert f"{deliveries._LEASE:.0f} for a key" in GUIDE
    assert deliveries._LEASE == fences.PROMOTED_LEASE
    assert f"most\n{recording.UNRECORDED} for each subscription" in GUIDE
    grace = Service("shop", store=SQLStore(create_engine("sqlite:///unused.db"))).grace
    assert f"({grace:.0f} by default)" in GUIDE
    # What is bounded after the grace time is over within these 15 seconds.
    for patience in re.findall(r"(?:TimeoutStopSec=|stop_grace_period: |terminationGracePeriodSeconds: )(\d+)", GUIDE):
        assert float(patience) == grace + 15
