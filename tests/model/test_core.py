"""The engine's decisions under random interleavings, against a model of the tables."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.model.oracle import check, check_end, drain
from tests.model.tables import Modelled
from tests.model.world import World


class Core(RuleBasedStateMachine):
    """Two or three workers on one reader, four subscriptions, three keys and events without one."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(Modelled(), processes=3)

    @rule(keys=st.lists(st.sampled_from(["a", "b", "-"]), min_size=1, max_size=3))
    def publish(self, keys: list[str]) -> None:
        self.world.perform(f"publish {' '.join(keys)}")

    @rule(data=st.data())
    def step(self, data: Any) -> None:
        self._step(data)

    @rule(data=st.data())
    def another_step(self, data: Any) -> None:
        self._step(data)

    def _step(self, data: Any) -> None:
        steps = self.world.enabled()
        if self.world.model.rows:
            steps.append(f"copy {len(self.world.model.rows) // 2}")
        self.world.perform(data.draw(st.sampled_from(steps)))

    @invariant()
    def holds(self) -> None:
        check(self.world)

    def teardown(self) -> None:
        drain(self.world)
        check_end(self.world)


TestCore = Core.TestCase
TestCore.settings = settings(max_examples=300, stateful_step_count=60)
