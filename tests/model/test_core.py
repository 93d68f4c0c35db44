"""The engine's decisions under random interleavings, against a model of the tables."""

from __future__ import annotations

from tests.model.machine import Machine, test_case
from tests.model.tables import Modelled
from tests.model.world import SUBSCRIPTIONS, Subscription, World


class Everything(Machine):
    """Three workers on one reader, and every kind of subscription at once."""

    def make(self) -> World:
        return World(Modelled(), processes=3)


class _Few(Machine):
    """One kind of subscription and two workers: what one of them does is soon met by the other."""

    subscriptions: tuple[Subscription, ...]
    keys = ("a", "b")

    def make(self) -> World:
        return World(Modelled(), processes=2, subscriptions=self.subscriptions)


class Blocking(_Few):
    subscriptions = SUBSCRIPTIONS[:1]
    keys = ("a",)


class GoingOn(_Few):
    subscriptions = SUBSCRIPTIONS[1:2]


class Unordered(_Few):
    subscriptions = SUBSCRIPTIONS[2:3]


class Plain(_Few):
    subscriptions = SUBSCRIPTIONS[3:]


TestEverything = test_case(Everything, examples=100, steps=60)
TestBlocking = test_case(Blocking, examples=200, steps=50)
TestGoingOn = test_case(GoingOn, examples=200, steps=50)
TestUnordered = test_case(Unordered, examples=30, steps=50)
TestPlain = test_case(Plain, examples=100, steps=50)
