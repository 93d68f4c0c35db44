"""Which fault happens when. Pure: the same settings give the same schedule."""

from __future__ import annotations

import random
from dataclasses import dataclass

from chaos.settings import Settings
from chaos.workload import subscriptions_of

__all__ = ["Fault", "schedule"]

#: Seconds at the beginning in which nothing is broken, so that everything has started.
_QUIET = 2.0

# How often each fault happens, relative to the others. Restarts are rare: after each one everybody has to come back.
_WEIGHTS = {
    "kill worker": 10,
    "stop worker": 8,
    "end worker": 5,
    "kill publisher": 3,
    "stop publisher": 2,
    "redrive": 8,
    "redrive one": 4,
    "pause": 4,
}
_SERVER_WEIGHTS = {"cut some": 6, "cut all": 3}
# Only on a server of our own: the process ids of another one may be those of innocent processes here.
_OWN_SERVER_WEIGHTS = {"kill backend": 1, "restart immediate": 2, "restart fast": 1}
_BROKER_WEIGHTS = {"cut broker": 8, "refuse broker": 4, "silence broker": 4, "kill broker": 3, "restart broker": 1}
#: Seconds at the beginning in which a broker stays up: RabbitMQ 3.10 writes down what a quorum queue is called three seconds after its declaration.
_SETTLED = 9.0
_DOWN = ("kill broker", "restart broker")


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        at: seconds after the start.
        what: its name.
        target: which process, counted from 0, or which subscription, or which of its connections; empty when it hits no one in particular.
        seconds: how long it lasts, for those that last.
    """

    at: float
    what: str
    target: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.at:7.2f}  {self.what}{' ' if self.target else ''}{self.target}{lasting}"


def schedule(settings: Settings) -> list[Fault]:
    """Return the faults of a run in their order: one every second and a half or so, some of them at the same time."""
    chance = random.Random(f"{settings.seed}:faults")
    weights = dict(_WEIGHTS)
    if settings.kind == "postgresql":
        weights |= _SERVER_WEIGHTS
        if settings.restarts:
            weights |= _OWN_SERVER_WEIGHTS
    if settings.transport:
        weights |= _BROKER_WEIGHTS
    names, chances = list(weights), list(weights.values())
    faults: list[Fault] = []
    at = _QUIET
    while True:
        at += chance.choice((0.0, 0.2, 1.0, 2.0, 4.0)) * chance.uniform(0.5, 1.5)
        if at >= settings.seconds:
            break
        (what,) = chance.choices(names, chances)
        if not (what in _DOWN and at < _SETTLED):
            faults.append(_fault(round(at, 2), what, settings, chance))
    if settings.transport and not any(fault.what in _DOWN for fault in faults) and settings.seconds > _SETTLED:
        # Also a short run sees the broker die.
        at = chance.uniform(_SETTLED, settings.seconds)
        faults.append(_fault(round(at, 2), "kill broker", settings, chance))
    return sorted(faults, key=lambda fault: fault.at)


def _fault(at: float, what: str, settings: Settings, chance: random.Random) -> Fault:
    worker, publisher = str(chance.randrange(settings.workers)), str(chance.randrange(settings.publishers))
    subscription = chance.choice(subscriptions_of(settings.transport))
    lasting = round(chance.uniform(0.5, 5.0), 1)
    if what.endswith("worker"):
        return Fault(at, what, worker, lasting if what.startswith("stop") else 0.0)
    if what.endswith("publisher"):
        return Fault(at, what, publisher, lasting if what.startswith("stop") else 0.0)
    if what == "pause":
        return Fault(at, what, subscription, lasting)
    if what in ("redrive", "redrive one"):
        return Fault(at, what, subscription if what == "redrive one" else "")
    if what == "cut broker":
        return Fault(at, what, chance.choice(("some", "some", "all")))
    if what.endswith("broker"):
        return Fault(at, what, "", lasting)
    return Fault(at, what)
