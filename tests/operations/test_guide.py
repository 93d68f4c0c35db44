"""What docs/limits.md shows runs as it stands there, and says the defaults as they are."""

from __future__ import annotations

import re
from pathlib import Path

from sqlalchemy.ext.asyncio import create_async_engine

from tests.consume.shop import OrderPlaced, shop
from tidings import Breaker, Limit, Rate, Service
from tidings.consume.company import ALONE_SECONDS
from tidings.consume.suspects import CAREFUL
from tidings.consume.tuning import LEASE_SECONDS, Tuning
from tidings.stores import SQLStore

GUIDE = (Path(__file__).parents[2] / "docs" / "limits.md").read_text(encoding="utf-8")


def test_every_snippet_runs(tmp_path: Path) -> None:
    store = SQLStore(create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'shop.db'}"))
    names: dict[str, object] = {"OrderPlaced": OrderPlaced, "orders": shop, "store": store}
    code = "\n".join(re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL))
    exec(compile(code, "limits.md", "exec", dont_inherit=True), names)  # noqa: S102
    service = names["service"]
    assert isinstance(service, Service)
    (charge,) = service._compile()
    assert charge.limit.concurrency == 8
    assert service.limit == Limit(concurrency=40, rate=Rate(1000))
    assert charge.limit.rate is not None
    assert (charge.limit.rate.depth, charge.limit.rate.interval) == (20, 0.01)
    assert isinstance(names["patient"], Breaker)


def test_the_numbers_in_it_are_those_of_the_code() -> None:
    usual = Breaker()
    assert f"fail in a row ({usual.keys})" in GUIDE
    assert f"within `window` ({usual.window:g} s)" in GUIDE
    assert f"`failure_rate` ({usual.failure_rate})" in GUIDE
    assert f"`minimum` attempts ({usual.minimum})" in GUIDE
    assert f"({Tuning.events:,} events)" in GUIDE
    assert LEASE_SECONDS == 10.0
    assert "free after ten seconds" in GUIDE
    assert ALONE_SECONDS == 8.0
    assert "at most eight seconds" in GUIDE
    assert CAREFUL == 3
    assert "from the third start" in GUIDE
    assert Rate(1000).depth == 100
