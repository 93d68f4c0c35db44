"""The state machine: publishes, and lets any of the steps that make sense now happen."""

from __future__ import annotations

import unittest
from typing import Any

from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.model.memory import FAR
from tests.model.oracle import check, check_end, drain
from tests.model.world import World

__all__ = ["Machine", "test_case"]


class Machine(RuleBasedStateMachine):
    """Checks what must hold after every step, and at the end that nothing is stuck.

    Attributes:
        keys: what events are published with; `-` is none.
    """

    keys: tuple[str, ...] = ("a", "b", "-")

    def __init__(self) -> None:
        super().__init__()
        self.world = self.make()
        self.broken = False
        # Something to do from the beginning: short examples are most of those that are tried.
        for step in (f"publish {self.keys[0]} {self.keys[0]} {self.keys[-1]}", "p0 acquires", "p0 reads"):
            self.perform(step)

    def make(self) -> World:
        """Return the world of one example."""
        raise NotImplementedError

    # One rule: hypothesis leaves some rules out of each example, and a worker that is never let go on with what it began shows nothing.

    @rule(data=st.data())
    def step(self, data: Any) -> None:
        # Not `sampled_from`: it takes the ends of a list far more often than what is between them.
        steps = self._steps()
        step = steps[data.draw(st.integers(0, 99_999)) % len(steps)]
        if step == "publish":
            step = f"publish {' '.join(data.draw(st.lists(st.sampled_from(self.keys), min_size=1, max_size=3)))}"
        self.perform(step)

    def _steps(self) -> list[str]:
        """Return what can happen now, what should happen more often more than once."""
        world = self.world
        # Half of the time somebody goes on with what he is at. Otherwise nearly all that is begun would be broken off.
        # The first one is what an example shrinks to, and what hypothesis itself tries most: something that leads on.
        steps = [step for step in sorted(world.enabled(), key=self._weight, reverse=True) for _ in range(self._weight(step))]
        if world.can_write():
            steps += [*["publish"] * 5, f"copy {len(world.model.rows) // 2}"]
        return steps

    def _weight(self, step: str) -> int:
        subject, _, what = step.partition(" ")
        if subject in self.world.works:
            return 8
        if what == "acquires":
            return 6 if self.world.model.checkpoint.until != FAR else 0
        verb = what.split()[0]
        return {"takes": 10, "reads": 6, "claims": 10, "comes": 4, "saves": 2, "lease": 2}.get(verb, 3 if subject == "redrive" else 1)

    def perform(self, step: str) -> None:
        try:
            self.world.perform(step)
        except BaseException:
            self.broken = True
            raise

    @invariant()
    def holds(self) -> None:
        try:
            check(self.world)
        except AssertionError:
            self.broken = True
            # Goes into `test_examples.py` as it is.
            note("\n".join(self.world.history))
            raise

    def teardown(self) -> None:
        try:
            if not self.broken:
                drain(self.world)
                check_end(self.world)
        except BaseException:
            note("\n".join(self.world.history))
            raise
        finally:
            self.world.tables.close()


def test_case(machine: type[Machine], *, examples: int, steps: int) -> type[unittest.TestCase]:
    """Return what pytest collects."""
    case = machine.TestCase
    case.settings = settings(max_examples=examples, stateful_step_count=steps)
    return case


test_case.__test__ = False  # type: ignore[attr-defined]
