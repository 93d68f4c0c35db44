"""What Prometheus is told: names that are documented, values that are right, labels whose number is bounded."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.consume.shop import MailWanted, OrderPlaced
from tests.consume.waiting import until
from tests.consume.world import World, effect
from tests.observability.asking import ask
from tidings import Retry, Service, Subscriptions
from tidings.observability.measures import METRICS
from tidings.testing.memory import Memory

ROOT = Path(__file__).parents[2]


async def scraped(service: Service) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    status, headers, body = await ask(service.metrics_app(), "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def labelled(**labels: str) -> frozenset[tuple[str, str]]:
    return frozenset({"service": "shop", **labels}.items())


async def test_what_happens_is_told(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, retry=Retry(attempts=2, base=0.01, max=0.01))
    async def work(event: OrderPlaced, session: AsyncSession) -> None:
        if event.order_id == "bad":
            raise ValueError("bad")
        await effect(session, "work", event)

    broker = Memory()
    service = world.service(handlers, transport=[broker])
    local = world.service(handlers, name="local")
    async with local:
        await world.publish(local, *(OrderPlaced(key) for key in ("a", "b", "bad", "bad")))
        await world.publish(local, MailWanted("x"), delay=timedelta(hours=1))
        await until(lambda: local.counters.of("dead") == 1 and local.counters.of("handled") == 2)
        await until(lambda: world.one("select count(*) from tidings_lanes where state = 'dead'") == 1)
        found = await scraped(local)
    of_work = frozenset({"service": "local", "subscription": "local/work"}.items())
    me = frozenset({"service": "local"}.items())
    assert found["tidings_events_published_total", me] == 4
    assert found["tidings_events_scheduled_total", me] == 1
    assert found["tidings_events_received_total", frozenset({"service": "local", "group": "local"}.items())] == 4
    assert found["tidings_events_handled_total", of_work] == 2
    assert found["tidings_events_failed_total", of_work] == 2
    assert found["tidings_events_dead_total", of_work] == 1
    assert found["tidings_keys_blocked", of_work] == 1
    assert found["tidings_handler_duration_seconds_count", of_work] >= 4
    assert (
        found["tidings_handler_duration_seconds_bucket", of_work | {("le", "+Inf")}]
        == found["tidings_handler_duration_seconds_count", of_work]
    )
    assert found["tidings_event_lag_seconds_count", of_work] == 2
    reader = frozenset({"service": "local", "reader": "local/local@log"}.items())
    assert found["tidings_reader_lease_changes_total", reader] >= 1
    assert found["tidings_breaker_open", of_work] == 0
    async with service:
        await world.publish(service, OrderPlaced("a"))
        await until(lambda: service.counters.of("relayed") == 1)
        found = await scraped(service)
    assert found["tidings_events_relayed_total", labelled(relay="relay:memory")] == 1
    assert found["tidings_event_lag_seconds_count", labelled(subscription="relay:memory")] == 1


async def test_a_backlog_that_nobody_reads_is_told(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def work(event: OrderPlaced) -> None:
        pass

    async with world.service(handlers):
        pass
    service = world.service(roles=[])
    await world.publish(service, *(OrderPlaced(str(n)) for n in range(7)))
    found = await scraped(service)
    reader = labelled(reader="shop/shop@log")
    assert found["tidings_reader_backlog", reader] == 7
    assert found["tidings_reader_backlog_age_seconds", reader] >= 0


async def test_a_registry_of_the_application_has_it_too(world: World) -> None:
    service = world.service(Subscriptions())
    registry = CollectorRegistry()
    registry.register(service.collector())
    await world.publish(service, OrderPlaced("a"))
    assert registry.get_sample_value("tidings_events_published_total", {"service": "shop"}) == 1
    async with service:
        await until(lambda: service._sampler is not None and service._sampler.observed is not None)


def test_the_guide_lists_every_metric() -> None:
    guide = (ROOT / "docs" / "observability.md").read_text()
    documented = set(re.findall(r"`(tidings_[a-z_]+)`", guide))
    told = {metric.name + ("_total" if metric.kind == "counter" else "") for metric in METRICS}
    assert documented == told


def test_the_dashboard_of_grafana_uses_metrics_that_exist() -> None:
    board = json.loads((ROOT / "docs" / "grafana.json").read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    used = {name for expression in expressions for name in re.findall(r"tidings_[a-z_]+", expression)}
    exist = set()
    for metric in METRICS:
        suffixes = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}[metric.kind]
        exist |= {metric.name + suffix for suffix in suffixes}
    assert used <= exist
    assert len(used) >= 10
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    labels = {
        label for expression in expressions for group in re.findall(r"by \(([^)]*)\)", expression) for label in re.split(r", *", group)
    }
    assert labels <= {metric.label for metric in METRICS} | {"service", "le"}


@pytest.mark.parametrize("module", ["prometheus_client", "opentelemetry"])
def test_nobody_pays_for_what_he_does_not_use(module: str) -> None:
    code = (
        "import sys\nimport sqlalchemy as sa\nfrom tidings import Service\nfrom tidings.stores import SQLStore\n"
        "service = Service('a', store=SQLStore(sa.create_engine('sqlite:///x.db')))\nservice.health_app()\n"
        f"print({module!r} in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


async def test_only_its_own_address_has_metrics(world: World) -> None:
    app = world.service(Subscriptions()).metrics_app()
    for path, status in (("/metrics", 200), ("/metrics/", 200), ("/", 200), ("/no-such", 404), ("/metrics/no-such", 404)):
        assert (await ask(app, path))[0] == status, path
    outer = Starlette(routes=[Mount("/internal/prom", app)])
    for path, status in (("/internal/prom/", 200), ("/internal/prom/metrics", 200), ("/internal/prom/no-such", 404)):
        assert (await ask(outer, path))[0] == status, path


def test_grafana_offers_services_that_only_consume() -> None:
    found = json.loads((ROOT / "docs" / "grafana.json").read_text(encoding="utf-8"))
    (service,) = (item for item in found["templating"]["list"] if item["name"] == "service")
    assert service["query"]["query"] == "label_values(tidings_reader_backlog, service)"
