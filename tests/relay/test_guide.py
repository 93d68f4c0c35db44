"""What docs/brokers.md shows of the relay runs as it stands there, and says the defaults as they are."""

from __future__ import annotations

import re
from pathlib import Path

from sqlalchemy.ext.asyncio import create_async_engine

from tidings import Service
from tidings.consume.tuning import LEASE_SECONDS, Tuning
from tidings.relay.sending import RETRY

GUIDE = (Path(__file__).parents[2] / "docs" / "brokers.md").read_text(encoding="utf-8")


def test_every_snippet_runs(tmp_path: Path) -> None:
    names: dict[str, object] = {"engine": create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'shop.db'}")}
    found: list[list[str]] = []
    for code in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL):
        exec(compile(code, "brokers.md", "exec", dont_inherit=True), names)  # noqa: S102
        service = names["service"]
        assert isinstance(service, Service)
        found.append([transport.name for transport in service.routing.brokers])
    assert found == [["rabbitmq"], ["rabbitmq", "kafka"], ["rabbitmq"], ["rabbitmq"]]


def test_the_numbers_in_it_are_those_of_the_code() -> None:
    assert LEASE_SECONDS == 10
    assert "lease (ten seconds)" in GUIDE
    assert f"after {Tuning.again:g} to {Tuning.again_longest:g} seconds" in GUIDE
    assert f"more than {Tuning.max_parked:,} parked events" in GUIDE
    assert f"more than {Tuning.max_parked:,} such messages" in GUIDE
    assert f"At most {Tuning.events:,} events or {Tuning.bytes >> 20} MiB are in memory" in GUIDE
    assert RETRY.attempts == 5
    assert "five times within about eight seconds" in GUIDE
    assert sum(RETRY.delay(number, lambda: 0.0) for number in range(1, RETRY.attempts)) == 7.5
