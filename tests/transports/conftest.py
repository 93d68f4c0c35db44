"""Brokers for transport tests: the private ones, started when a test asks for them, and ways to let them fail."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from private_services import cli
from private_services.base import FailedError, UnavailableError
from private_services.control import Control

# Loaded here: pytest parses each module of a plug-in, and deep inside a test Python 3.11 may fail at that (https://github.com/python/cpython/issues/106905).
from tests.conftest import IN_CI
from tests.transports.failing import service_to_crash

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def broker_url(name: str) -> Iterator[str]:
    """The URL of a broker: as the environment says, else of a private one that is started now; without any the test is skipped, with the reason."""
    service = cli.SERVICES[name]
    if url := os.environ.get(service.variable):
        yield url
    elif missing := os.environ.get(f"{service.variable}_MISSING"):
        pytest.skip(f"no {name}: {missing}")
    elif name not in os.environ.get(cli.ON_DEMAND, "").split():
        if IN_CI:
            pytest.fail(f"CI=true, but nobody tried to start {name}; run the tests through `make test`.")
        pytest.skip(f"no {name}: {service.variable} is not set; `make test` starts a private one")
    else:
        with private(name, Control(ROOT, say=lambda _sentence: None)) as (_, url):
            yield url


@contextmanager
def private(name: str, control: Control) -> Iterator[tuple[Control, str]]:
    """A private broker; a test that crashes it needs one of its own, with a control of another directory."""
    try:
        started = control.use(service_to_crash(name))
        url = started.__enter__()
    except (UnavailableError, FailedError) as error:
        if IN_CI and isinstance(error, FailedError):
            pytest.fail(str(error))
        pytest.skip(f"no {name}: {error}")
    try:
        yield control, url
    finally:
        started.__exit__(None, None, None)


@pytest.fixture(scope="session")
def rabbitmq_url() -> Iterator[str]:
    with broker_url("rabbitmq") as url:
        yield url


@pytest.fixture(scope="session")
def nats_url() -> Iterator[str]:
    with broker_url("nats") as url:
        yield url


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with broker_url("redis") as url:
        yield url


@pytest.fixture(scope="session")
def kafka_url() -> Iterator[str]:
    with broker_url("kafka") as url:
        yield url
