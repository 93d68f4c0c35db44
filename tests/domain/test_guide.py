"""What docs/domain.md shows runs as it stands there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from tidings import domain, errors, uuid7

TEXT = (Path(__file__).parents[2] / "docs" / "domain.md").read_text(encoding="utf-8")
FILE = re.compile(r"<!-- file: (?P<name>\w+\.py) -->\s+```python\n(?P<code>.*?)```", re.DOTALL)


async def test_its_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {found["name"]: found["code"] for found in FILE.finditer(TEXT)}
    assert TEXT.count("```python") == len(files)
    for name, code in files.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    try:
        import orders  # type: ignore[import-not-found]
        import uses  # type: ignore[import-not-found]

        await orders.service.store.upgrade()
        async with orders.engine.begin() as connection:
            await connection.run_sync(orders.Base.metadata.create_all)
        await uses.by_hand()
        order_id = uuid7()
        assert await uses.by_command(order_id) == await uses.by_command(order_id) == order_id
        with pytest.raises(errors.ValidationFailed, match="already exists"):
            await orders.service.execute(orders.PlaceOrder(uuid7(), "ada@example.org"))
        async with orders.engine.connect() as connection:
            counts = [
                (await connection.execute(sa.text(f"select count(*) from {table}"))).scalar_one()
                for table in ("orders", "stock", "tidings_outbox")
            ]
        assert counts == [2, 2, 2]
        await orders.engine.dispose()
    finally:
        for name in ("orders", "uses"):
            sys.modules.pop(name, None)


def test_it_names_nothing_that_does_not_exist() -> None:
    for name in set(re.findall(r"`(\w+)\(\)`", TEXT)) - {"pull_events"}:
        assert name in domain.__all__, name
    for name in ("DomainEventRecursion", "DuplicatePublication", "UnitOfWorkRolledBack", "IdempotencyConflict"):
        assert name in TEXT
        assert hasattr(errors, name)
