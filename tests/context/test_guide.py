"""What docs/context.md shows runs as it stands there, and says the defaults as they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from tests.consume.shop import OrderPlaced, shop
from tests.context.test_asgi import App, serve
from tidings import EnvironmentRouting, Service
from tidings.consume.routing import MAX_HOPS
from tidings.context.keys import LONGEST
from tidings.publish.headers import CHAIN, CHAIN_FROM
from tidings.stores import SQLStore

GUIDE = (Path(__file__).parents[2] / "docs" / "context.md").read_text(encoding="utf-8")


async def test_every_snippet_runs(tmp_path: Path, capsys: Any) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'shop.db'}")
    store = SQLStore(engine)
    app = App()
    names: dict[str, Any] = {
        "OrderPlaced": OrderPlaced, "orders": shop, "store": store, "engine": engine, "AsyncSession": AsyncSession, "app": app,
    }  # fmt: skip
    code = "\n".join(re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL))
    exec(compile(code, "context.md", "exec", dont_inherit=True), names)  # noqa: S102
    await serve(names["app"], ("x-tenant", "acme"), ("x-region", "eu"))
    assert app.seen[0].tenant == "acme"
    service, canary = names["service"], names["canary"]
    assert isinstance(service, Service)
    assert [item.label for item in canary._compile()] == ["shop@canary/charge"]
    await store.upgrade()
    await names["place"]("a")
    assert service._compile()[0].filters is not None
    await engine.dispose()


def test_the_numbers_in_it_are_those_of_the_code() -> None:
    assert MAX_HOPS == 10
    assert "`Service(max_hops=10)`" in GUIDE
    assert CHAIN == 16
    assert "names of the last 16 events" in GUIDE
    assert CHAIN_FROM == 4
    assert "From the fourth hop on" in GUIDE
    assert f"{LONGEST:,} at most" in GUIDE
    usual = EnvironmentRouting()
    assert f"in the last {usual.alive:.0f} s" in GUIDE
    assert f"every {usual.look:.0f} s" in GUIDE
    assert usual.default == "main"
