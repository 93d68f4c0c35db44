"""Workers as the machine moves them, step by step, in words: `perform("p0 takes billing 2")`.

What a worker has taken is called after it, the subscription and the first event: `p0.billing.7 opens`; a lane that it has claimed,
`p0.lane.billing.7`; a lane by itself, after its head: `billing:7 comes due`. Events have the numbers of their positions in the log.

A step is what happens between two moments at which a process can die, another one can get in between, or a lease can run out. The fences,
the lanes in memory, the progress, the retry decisions and what is written down of a failure are those of the library.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from tests.model.memory import READER, Blocked
from tests.model.tables import Tables
from tidings.consume.execution import Failed
from tidings.consume.failures import failure_of
from tidings.consume.fences import Handed, LaneFence
from tidings.consume.lanes import Lanes, Taken
from tidings.consume.outcome import Outcome
from tidings.consume.parking import parking, record_failure
from tidings.consume.progress import Progress
from tidings.consume.received import Received, from_delivery, from_row
from tidings.consume.retry import Discard, Reject, Retry
from tidings.errors import LeaseLost
from tidings.stores.base import Claimed, Lease, Mark, Parking, Standing

__all__ = ["SUBSCRIPTIONS", "Subscription", "World"]

ATTEMPTS = 3
TTL = 1_000_000.0


class Subscription:
    """One subscription of the group: how it treats dead events and keys, and whether its handler has a transaction."""

    def __init__(self, id: int, name: str, *, ordered: bool = True, on_dead: str = "block", plain: bool = False) -> None:  # noqa: A002
        self.id = id
        self.name = name
        self.plain = plain
        self.ordered = ordered
        self.on_dead = on_dead
        # What `record_failure` takes for a compiled subscription.
        self.compiled: Any = SimpleNamespace(id=id, options=SimpleNamespace(on_dead=on_dead, ordered=ordered))


SUBSCRIPTIONS = (
    Subscription(1, "billing"),
    Subscription(2, "search", on_dead="continue"),
    Subscription(3, "audit", ordered=False, on_dead="continue"),
    Subscription(4, "mail", plain=True),
)

_ERRORS: dict[str, Exception] = {"fails": RuntimeError("fails"), "rejects": Reject("rejects"), "discards": Discard("discards")}
_RETRY = Retry(attempts=ATTEMPTS, base=1.0, jitter=0.0)


class Process:
    """A worker process: its lease on the reader, what it has read, and what it works on."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lease: Lease | None = None
        self.mark = self.read_to = Mark(None, None, 0)
        self.progress: Progress[Mark] = Progress(self.mark)
        self.lanes: dict[int, Lanes[Received]] = {}


class Work:
    """What a worker of the reader has taken: run together first, and one by one if that fails."""

    def __init__(self, name: str, process: Process, subscription: Subscription, handed: Handed, taken: Taken[Received]) -> None:
        self.name = name
        self.process = process
        self.subscription = subscription
        self.handed = handed
        self.taken = taken
        self.events = list({event.event_key: event for event in handed.items}.values())
        self.alone = len(self.events) == 1
        self.next = 0
        self.transaction: Any = None
        self.standing: dict[int, int] = {}
        self.behind: set[str] = set()
        self.parked: list[Parking] = []
        self.freed = False
        # Of plain handlers: what was called and is not in the inbox yet, and what was known of all at the beginning.
        self.called: list[Received] = []
        self.known: dict[int, int] | None = None
        self.promoted_at: int | None = None

    @property
    def portion(self) -> list[Received]:
        """What the next transaction is for."""
        return self.events[self.next : self.next + 1] if self.alone else self.events

    @property
    def finished(self) -> bool:
        return self.next >= len(self.events)


class LaneWork:
    """A lane that a process has claimed."""

    def __init__(self, name: str, process: Process, subscription: Subscription, claimed: Claimed) -> None:
        self.name = name
        self.process = process
        self.subscription = subscription
        self.claimed = claimed
        self.number = claimed.attempts
        self.transaction: Any = None
        self.portion: list[Received] = []
        self.history = "[]"
        self.standing: dict[int, int] = {}


class World:
    """Everything: the tables, the processes, and what handlers have done.

    Attributes:
        effects: what was committed, in order, as (subscription, event key).
        calls: what plain handlers were called with, in order.
        failures, kills: how often an event failed, and how often an attempt of a lane was broken off by a kill or a lost lease, since it
            was last redriven.
        aside: events that were ever set aside; they may come out of order.
        unfenced: steps in which a worker kept something although its lease was lost.
        history: the steps so far.
    """

    def __init__(self, tables: Tables, processes: int = 2, subscriptions: Sequence[Subscription] = SUBSCRIPTIONS) -> None:
        self.tables = tables
        self.subscriptions = subscriptions
        self.store = tables.store
        self.model = tables.model
        self.processes = [Process(f"p{number}") for number in range(processes)]
        self.works: dict[str, Work | LaneWork] = {}
        self.effects: list[tuple[int, str]] = []
        self.calls: list[tuple[int, str]] = []
        self.failures: Counter[tuple[int, str]] = Counter()
        self.kills: Counter[tuple[int, str]] = Counter()
        self.leased: set[tuple[int, str]] = set()
        self.aside: set[tuple[int, str]] = set()
        self.position: dict[str, int] = {}
        self.keys: dict[str, str | None] = {}
        self.events: list[str] = []
        self.unfenced: list[str] = []
        self.history: list[str] = []

    # What can happen now

    def enabled(self) -> list[str]:
        """Return every step that makes sense now."""
        steps: list[str] = []
        for process in self.processes:
            steps += self._steps_of(process)
        for work in self.works.values():
            steps += self._steps_of_work(work) if isinstance(work, Work) else self._steps_of_lane(work)
        if self.model.checkpoint.until == TTL:
            steps.append("the reader's lease runs out")
        for place, row in self.model.table.items():
            name = self._name(place)
            if row.until == TTL:
                steps.append(f"the lease of {name} runs out")
            if row.state == "retrying" and row.due == TTL and self.can_write():
                steps.append(f"{name} comes due")
            if row.state == "dead" and self.can_write():
                steps += [f"redrive {name}", f"discard the head of {name}", f"discard {name}"]
        if not self.can_write():
            # One transaction at a time: that one goes on, or its process is killed.
            going = tuple(f"{work.name} " for work in self.works.values() if work.transaction is not None)
            steps = [step for step in steps if step.startswith(going) or " takes " in step or step.endswith("is killed")]
        return steps

    def can_write(self) -> bool:
        """Return whether another transaction can begin."""
        return self.tables.concurrent or not any(work.transaction for work in self.works.values())

    def _steps_of(self, process: Process) -> list[str]:
        steps = []
        name = process.name
        if process.lease is None:
            if self.can_write():
                steps.append(f"{name} acquires")
        else:
            if process.read_to.position < len(self.model.rows):
                steps.append(f"{name} reads")
            if self.can_write():
                steps.append(f"{name} renews")
                if process.progress.mark != process.mark:
                    steps.append(f"{name} saves")
            for subscription in self.subscriptions:
                if process.lanes[subscription.id].ready:
                    steps += [f"{name} takes {subscription.name} {limit}" for limit in (1, 3)]
        if self.can_write() and self.model.lanes.due([subscription.id for subscription in self.subscriptions]):
            steps.append(f"{name} claims")
        if process.lease is not None or any(work.process is process for work in self.works.values()):
            steps += [f"{name} is killed", f"{name} is stopped"]
        return steps

    def _steps_of_work(self, work: Work) -> list[str]:
        name = work.name
        if work.transaction is not None:
            steps = [f"{name} succeeds", f"{name} fails", f"{name} rejects", f"{name} discards", f"{name} loses its transaction"]
            return steps + ([f"{name} is promoted"] if work.handed.promoted is None and self.tables.concurrent else [])
        if not self.can_write():
            return []
        # A plain handler that runs while it is promoted comes to its end; what else was taken with it does not run any more.
        running = work.subscription.plain and not work.finished and work.promoted_at == work.next
        if work.finished or (work.handed.promoted is not None and not running):
            return [f"{name} settles"]
        if work.subscription.plain:
            steps = [f"{name} calls", f"{name} fails", f"{name} rejects", f"{name} discards"]
            steps += [f"{name} settles"] if running else [f"{name} is promoted"]
            return steps + ([f"{name} writes down"] if work.called else [])
        return [f"{name} opens"]

    def _steps_of_lane(self, work: LaneWork) -> list[str]:
        name = work.name
        if work.transaction is not None:
            failing = [] if len(work.portion) > 1 else [f"{name} rejects", f"{name} discards"]
            return [f"{name} succeeds", f"{name} fails", *failing, f"{name} loses its transaction", f"{name} is handed back"]
        if not self.can_write():
            return []
        if work.subscription.plain:
            return [f"{name} calls", f"{name} fails", f"{name} rejects", f"{name} is handed back", f"{name} renews"]
        return [f"{name} opens", f"{name} opens the rest", f"{name} is handed back", f"{name} renews"]

    # Doing it

    def perform(self, step: str) -> None:
        """Do one step."""
        self.history.append(step)
        subject, _, rest = step.partition(" ")
        if subject == "publish":
            for key in rest.split():
                self._publish(None if key == "-" else key, None)
        elif subject == "copy":
            self._publish(*self._copied(int(rest)))
        elif subject == "the":
            self._run_out(rest)
        elif rest == "comes due":
            self.tables.lane_comes_due(self._place(subject))
        elif subject in ("redrive", "discard"):
            self._operate(subject, rest)
        elif subject in self.works:
            work = self.works[subject]
            held, writes = self._holds(work, rest), self.model.writes
            (self._work if isinstance(work, Work) else self._lane_work)(work, rest)  # type: ignore[arg-type]
            if not held and self.model.writes > writes:
                self.unfenced.append(step)
        else:
            self._process(self.processes[int(subject[1:])], rest)

    def _holds(self, work: Work | LaneWork, what: str) -> bool:
        """Return whether a worker still has every lease that what it does now needs (invariant 7)."""
        if isinstance(work, LaneWork):
            return self._has_lane(work.claimed)
        if work.subscription.plain and work.called and what in ("writes down", "settles"):
            # Calls that were made are remembered, whoever has the lease: they can only be repeated, never undone.
            return True
        if work.handed.promoted is None:
            return work.process.lease is not None and work.process.lease.token == self.model.checkpoint.token
        events = [] if work.finished else work.portion if what == "succeeds" else [work.events[work.next]]
        ran = [event for index, event in enumerate(events) if index not in work.standing and event in work.handed.left()]
        lanes = {work.handed.lane(event) for event in ran} if what in ("succeeds", "discards") else set()
        return all((claimed := work.handed.promoted.get(lane)) is not None and self._has_lane(claimed) for lane in lanes)

    def _has_lane(self, claimed: Claimed) -> bool:
        row = self.model.table.get((claimed.subscription_id, claimed.lane.replace("-", "")))
        return row is not None and row.token == claimed.token

    def _publish(self, key: str | None, event_key: str | None) -> None:
        position = len(self.model.rows) + 1
        # A copy has the id of another event. Any id that is no UUID makes an event key by itself.
        name = event_key or f"event-{position}"
        row = (position, name, "shop", "order.placed", 1, "orders", key, "{}", "{}", "2026-01-01T00:00:00.000Z")
        self.tables.publish(row)
        received = from_row(row)
        self.position.setdefault(received.event_key, position)
        self.events.append(received.event_key)
        self.keys[received.event_key] = key

    def _copied(self, number: int) -> tuple[str | None, str]:
        row = self.model.rows[number % len(self.model.rows)]
        return row[6], row[1]

    def _run_out(self, what: str) -> None:
        if what.startswith("reader"):
            self.tables.reader_runs_out()
        else:
            self.tables.lane_runs_out(self._place(what.split()[2]))

    def _operate(self, verb: str, what: str) -> None:
        place = self._place(what.rsplit(maxsplit=1)[-1])
        events = [row.item.event_key for row in self.model.deliveries(*place)]
        if verb == "redrive":
            self.tables.redrive(place)
            for event in events:
                self.failures.pop((place[0], event), None)
        else:
            for event in self.tables.discard(place, whole=not what.startswith("the head")):
                self.failures.pop((place[0], event), None)
        self.kills.pop(place, None)
        self.leased.discard(place)

    # Processes

    def _process(self, process: Process, what: str) -> None:
        verb, *rest = what.split()
        if verb == "is":
            self._end(process, killed=rest == ["killed"])
            return
        getattr(self, f"_{verb}")(process, *rest)

    def _acquires(self, process: Process) -> None:
        # Whoever acquires anew has dropped everything that it had under the lease before.
        self._drop(process)
        transaction = self.tables.begin()
        process.lease = self.store.leases.acquire(transaction, READER, process.name, TTL)
        self.tables.commit(transaction)
        if process.lease is not None:
            process.mark = process.lease.mark
            process.progress = Progress(process.lease.mark, process.lease.high)
            process.lanes = {subscription.id: Lanes() for subscription in self.subscriptions}
            process.read_to = process.lease.mark

    def _reads(self, process: Process) -> None:
        transaction = self.tables.begin()
        batch = self.store.log.read(transaction, process.read_to, 3)
        self.tables.rollback(transaction)
        process.read_to = batch.end
        for row, mark in zip(batch.rows, batch.marks, strict=True):
            received = from_row(row)
            received.ticket = process.progress.read(mark, row[0], len(self.subscriptions))
            for subscription in self.subscriptions:
                process.lanes[subscription.id].add(received.key if subscription.ordered else None, received)

    def _renews(self, process: Process) -> None:
        assert process.lease is not None
        transaction = self.tables.begin()
        held = self.store.leases.renew(transaction, process.lease, TTL)
        self.tables.commit(transaction)
        if not held:
            self._drop(process)

    def _saves(self, process: Process) -> None:
        assert process.lease is not None
        mark = process.progress.mark
        transaction = self.tables.begin()
        held = self.store.leases.move(transaction, process.lease, mark, process.progress.high, same_window=False)
        self.tables.commit(transaction)
        if held:
            process.mark = mark
        else:
            self._drop(process)

    def _takes(self, process: Process, name: str, limit: str) -> None:
        assert process.lease is not None
        subscription = next(each for each in self.subscriptions if each.name == name)
        taken = process.lanes[subscription.id].take(int(limit))
        handed = Handed(self.store, process.lease, taken.items, 0.0, ordered=subscription.ordered)
        first = self.position[handed.items[0].event_key]
        self._add(Work(self._new_name(f"{process.name}.{name}.{first}"), process, subscription, handed, taken))

    def _claims(self, process: Process) -> None:
        transaction = self.tables.begin()
        claimed = self.tables.claim(transaction, [subscription.id for subscription in self.subscriptions], process.name)
        self.tables.commit(transaction)
        for lane in claimed:
            place = (lane.subscription_id, lane.lane)
            if place in self.leased:
                # Whoever had it has neither finished nor handed it back.
                self.kills[place] += 1
            self.leased.add(place)
            subscription = next(each for each in self.subscriptions if each.id == lane.subscription_id)
            head = self._name(place).partition(":")[2]
            self._add(LaneWork(self._new_name(f"{process.name}.lane.{subscription.name}.{head}"), process, subscription, lane))

    def _drop(self, process: Process) -> None:
        """Lose what belongs to the reader's lease: what was under way is rolled back."""
        for work in [each for each in self.works.values() if isinstance(each, Work) and each.process is process]:
            self._forget(work)
        process.lease = None

    def _end(self, process: Process, *, killed: bool) -> None:
        """End it, at once or after handing everything over."""
        for work in [each for each in self.works.values() if each.process is process]:
            if isinstance(work, LaneWork) and not killed:
                self._hand_back(work)
            else:
                self._forget(work)
        lease, process.lease = process.lease, None
        if lease is not None and not killed:
            transaction = self.tables.begin()
            if process.progress.mark != process.mark:
                self.store.leases.move(transaction, lease, process.progress.mark, process.progress.high, same_window=False)
            self.store.leases.release(transaction, lease)
            self.tables.commit(transaction)

    def _add(self, work: Work | LaneWork) -> None:
        self.works[work.name] = work

    def _new_name(self, name: str) -> str:
        # Names say what they stand for, so that a step means the same when others are left out.
        return name if name not in self.works else self._new_name(f"{name}'")

    def _forget(self, work: Work | LaneWork) -> None:
        if work.transaction is not None:
            self.tables.rollback(work.transaction)
            work.transaction = None
        self.works.pop(work.name, None)

    # What the reader's workers do

    def _work(self, work: Work, what: str) -> None:
        try:
            match what:
                case "opens":
                    self._open(work)
                case "succeeds":
                    self._close(work)
                case "fails" | "rejects" | "discards":
                    self._fail(work, _ERRORS[what])
                case "loses its transaction":
                    # The connection is gone: the worker runs it again.
                    self._roll_back(work)
                case "is promoted":
                    self._promote(work)
                case "calls":
                    self._call(work)
                case "writes down":
                    self._write_down(work)
                case "settles":
                    self._settle(work)
        except LeaseLost:
            self._roll_back(work)
            self._drop(work.process)

    def _roll_back(self, work: Work | LaneWork) -> None:
        if work.transaction is not None:
            self.tables.rollback(work.transaction)
            work.transaction = None

    def _open(self, work: Work) -> None:
        (event,) = work.portion if work.alone else (None,)
        if event is not None and work.handed.lane(event) in work.behind:
            self._note(work, event, Standing.PARKED)
            work.next += 1
            return
        transaction = self.tables.begin()
        try:
            work.standing = work.handed.open(transaction, work.subscription.id, work.portion)
        except Blocked:
            # It would wait; whether it goes on or is rolled back, it has to look again.
            self.tables.rollback(transaction)
            return
        work.transaction = transaction

    def _close(self, work: Work) -> None:
        subscription = work.subscription.id
        ran = [event for index, event in enumerate(work.portion) if index not in work.standing]
        for event in ran:
            self.tables.effect(work.transaction, subscription, event.event_key)
        work.handed.close(work.transaction, subscription, ran, work.portion)
        self.tables.commit(work.transaction)
        work.transaction = None
        for event in ran:
            self._effect(subscription, event)
        for index, event in enumerate(work.portion):
            self._note(work, event, work.standing.get(index, Standing.RUN))
        work.next += len(work.portion)

    def _note(self, work: Work, event: Received, standing: int) -> None:
        if standing == Standing.PARKED:
            lane = work.handed.lane(event)
            work.behind.add(lane)
            work.parked.append(parking(event, lane, "behind"))
        else:
            work.handed.over.add(event.event_key)

    def _fail(self, work: Work, error: Exception) -> None:
        self._roll_back(work)
        if work.subscription.plain and self._skip_known(work):
            return
        if not work.alone and not work.subscription.plain:
            # What fails together is run one by one; what is promoted goes on in its lanes.
            work.alone = True
            return
        event = work.events[work.next]
        if work.standing and not work.subscription.plain:
            # It did not run, so it cannot have failed.
            self._note(work, event, work.standing[0])
            work.next += 1
            return
        subscription = work.subscription
        failed = Failed(None, error, failure_of(error), _RETRY.decide(error, 1), 1)  # type: ignore[arg-type]
        lane = work.handed.lane(event)
        if work.handed.promoted is not None and work.called:
            # It must stand at the head of its lane to be the one that failed.
            self._write_down(work)
        # Of two copies that fail, one is parked.
        counts = work.handed.promoted is not None or (subscription.id, event.event_key) not in self.model.parked
        transaction = self.tables.begin()
        try:
            if failed.decision.state == "discarded":
                self.store.inbox.record(transaction, subscription.id, [event.event_key], Outcome.DISCARDED)
                if work.handed.promoted is not None:
                    work.handed.finish(transaction, [event])
                else:
                    self._hold(work, transaction)
            elif work.handed.promoted is not None:
                claimed = work.handed.promoted.pop(lane, None)
                if claimed is None:
                    raise LeaseLost("another worker has the lane of a slow event now")
                record_failure(transaction, self.store, subscription.compiled, claimed, event.event_key, "[]", failed, "failed")
            else:
                self._park_failed(work, transaction, event, failed)
        except BaseException:
            self.tables.rollback(transaction)
            raise
        self.tables.commit(transaction)
        work.next += 1
        work.handed.over.add(event.event_key)
        if failed.decision.state == "discarded":
            self._released(work, lane)
            return
        self.failures[subscription.id, event.event_key] += counts
        self._released(work, lane)
        self._set_aside(subscription, event, failed)
        if subscription.plain:
            work.behind.add(lane)

    def _park_failed(self, work: Work, transaction: Any, event: Received, failed: Failed) -> None:
        state = failed.decision.state
        aside = state == "dead" and work.subscription.on_dead == "continue"
        lane = event.event_key if aside else work.handed.lane(event)
        item = parking(event, lane, "failed", state=state, delay=failed.decision.delay, attempts=1, failure=failed.failure)
        self._hold(work, transaction)
        if aside:
            self.store.inbox.record(transaction, work.subscription.id, [event.event_key], Outcome.DEAD)
        self.store.lanes.park(transaction, work.subscription.id, [item])

    def _hold(self, work: Work, transaction: Any) -> None:
        assert work.process.lease is not None
        if not self.store.leases.holds(transaction, work.process.lease):
            raise LeaseLost("another worker reads now")

    def _promote(self, work: Work) -> None:
        items = [parking(event, work.handed.lane(event), "slow", attempts=1) for event in work.handed.left()]
        transaction = self.tables.begin()
        try:
            self._hold(work, transaction)
            claimed = self.store.lanes.park(transaction, work.subscription.id, items, ttl=TTL, owner=work.name)
        except LeaseLost:
            self.tables.rollback(transaction)
            raise
        self.tables.commit(transaction)
        work.handed.promote(claimed, work.handed.left())
        assert work.handed.promoted is not None
        work.promoted_at = work.next
        self.leased.update((work.subscription.id, lane) for lane in work.handed.promoted)
        self._free(work)

    def _skip_known(self, work: Work) -> bool:
        """Take the next event of a plain handler off the list if it must not be called; return whether that was so."""
        if work.known is None:
            keys, lanes = [event.event_key for event in work.events], [work.handed.lane(event) for event in work.events]
            transaction = self.tables.begin()
            work.known = self.store.inbox.standing(transaction, work.subscription.id, keys, lanes)
            self.tables.rollback(transaction)
        event = work.events[work.next]
        standing = work.known.get(work.next, Standing.PARKED if work.handed.lane(event) in work.behind else Standing.RUN)
        if standing == Standing.RUN:
            return False
        self._note(work, event, standing)
        work.next += 1
        return True

    def _call(self, work: Work) -> None:
        if self._skip_known(work):
            return
        event = work.events[work.next]
        self.calls.append((work.subscription.id, event.event_key))
        work.called.append(event)
        work.next += 1

    def _write_down(self, work: Work) -> None:
        transaction = self.tables.begin()
        try:
            self.store.inbox.record(transaction, work.subscription.id, [event.event_key for event in work.called], Outcome.HANDLED)
            if work.handed.promoted is not None:
                work.handed.finish(transaction, work.called)
        except BaseException:
            self.tables.rollback(transaction)
            raise
        self.tables.commit(transaction)
        for event in work.called:
            work.handed.over.add(event.event_key)
            self._released(work, work.handed.lane(event))
        work.called.clear()

    def _settle(self, work: Work) -> None:
        """The last step: hand back what is left of a promoted batch, or park what waits behind something; free the lanes."""
        if work.called:
            self._write_down(work)
            return
        if work.handed.promoted is not None:
            for digest, claimed in work.handed.promoted.items():
                transaction = self.tables.begin()
                if self.store.lanes.release(transaction, claimed, state="retrying", attempts=0, delay=0.0):
                    self.leased.discard((work.subscription.id, digest))
                    self.kills.pop((work.subscription.id, digest), None)
                self.tables.commit(transaction)
        elif work.parked:
            place = {event.event_key: index for index, event in enumerate(work.events)}
            transaction = self.tables.begin()
            try:
                self._hold(work, transaction)
                items = sorted(work.parked, key=lambda item: place[item.event_key])
                self.store.lanes.park(transaction, work.subscription.id, items)
            except LeaseLost:
                self.tables.rollback(transaction)
                raise
            self.tables.commit(transaction)
        self._free(work)
        self.works.pop(work.name, None)

    def _free(self, work: Work) -> None:
        if not work.freed:
            work.freed = True
            work.process.lanes[work.subscription.id].give_back(work.taken)
            for event in work.taken.items:
                work.process.progress.finish(event.ticket)

    # What workers on claimed lanes do

    def _lane_work(self, work: LaneWork, what: str) -> None:
        try:
            match what:
                case "opens" | "opens the rest":
                    self._open_lane(work, rest=what == "opens the rest")
                case "succeeds":
                    self._close_lane(work)
                case "calls":
                    self._call_lane(work)
                case "fails" | "rejects" | "discards":
                    self._fail_lane(work, _ERRORS[what])
                case "loses its transaction":
                    self._roll_back(work)
                case "is handed back":
                    self._hand_back(work)
                case "renews":
                    self._renew_lane(work)
        except LeaseLost:
            self._forget(work)

    def _load(self, work: LaneWork, *, rest: bool) -> bool:
        """Look what is next in the lane; return whether there is anything."""
        transaction = self.tables.begin()
        deliveries = self.store.lanes.load(transaction, work.claimed, 100)
        self.tables.rollback(transaction)
        if not deliveries:
            transaction = self.tables.begin()
            self.store.lanes.recount(transaction, work.claimed)
            self.tables.commit(transaction)
            self._forget(work)
            return False
        chosen = deliveries if rest else deliveries[:1]
        work.portion = [from_delivery(delivery) for delivery in chosen]
        work.history = chosen[0].history
        return True

    def _open_lane(self, work: LaneWork, *, rest: bool) -> None:
        if not self._load(work, rest=rest):
            return
        transaction = self.tables.begin()
        try:
            work.standing = self._fence(work).open(transaction, work.subscription.id, work.portion)
        except Blocked:
            self.tables.rollback(transaction)
            return
        work.transaction = transaction

    def _fence(self, work: LaneWork) -> LaneFence:
        return LaneFence(self.store, work.claimed, TTL)

    def _close_lane(self, work: LaneWork) -> None:
        subscription = work.subscription.id
        ran = [event for index, event in enumerate(work.portion) if index not in work.standing]
        for event in ran:
            self.tables.effect(work.transaction, subscription, event.event_key)
        self._fence(work).close(work.transaction, subscription, ran, work.portion)
        self.tables.commit(work.transaction)
        work.transaction = None
        for event in ran:
            self._effect(subscription, event)
        self._next_head(work)

    def _next_head(self, work: LaneWork) -> None:
        place = (work.claimed.subscription_id, work.claimed.lane)
        work.number = 1
        self.kills.pop(place, None)
        if place not in self.model.table:
            self.leased.discard(place)
            self.works.pop(work.name, None)

    def _call_lane(self, work: LaneWork) -> None:
        if not self._load(work, rest=False):
            return
        subscription, (event,) = work.subscription.id, work.portion
        transaction = self.tables.begin()
        known = self.store.inbox.handled(transaction, subscription, [event.event_key])
        self.tables.rollback(transaction)
        if not known:
            self.calls.append((subscription, event.event_key))
        self._finish_lane(work, event, Outcome.HANDLED)

    def _finish_lane(self, work: LaneWork, event: Received, outcome: int) -> None:
        transaction = self.tables.begin()
        try:
            self.store.inbox.revive(transaction, work.subscription.id, [event.event_key])
            self.store.inbox.record(transaction, work.subscription.id, [event.event_key], outcome)
            if not self.store.lanes.finish(transaction, work.claimed, [event.event_key], TTL):
                raise LeaseLost("another worker has the lane now")
        except BaseException:
            self.tables.rollback(transaction)
            raise
        self.tables.commit(transaction)
        self._next_head(work)

    def _fail_lane(self, work: LaneWork, error: Exception) -> None:
        if work.transaction is not None:
            together, standing = len(work.portion) > 1, work.standing
            self._roll_back(work)
            if together or standing:
                return
        elif not self._load(work, rest=False):
            return
        (event,) = work.portion
        subscription = work.subscription
        failed = Failed(None, error, failure_of(error), _RETRY.decide(error, work.number), work.number)  # type: ignore[arg-type]
        if failed.decision.state == "discarded":
            self._finish_lane(work, event, Outcome.DISCARDED)
            return
        place = (work.claimed.subscription_id, work.claimed.lane)
        transaction = self.tables.begin()
        try:
            record_failure(transaction, self.store, subscription.compiled, work.claimed, event.event_key, work.history, failed, "failed")
        except BaseException:
            self.tables.rollback(transaction)
            raise
        self.tables.commit(transaction)
        self.failures[subscription.id, event.event_key] += 1
        self.leased.discard(place)
        if self._set_aside(subscription, event, failed) and place[1] != event.event_key:
            self.kills[subscription.id, event.event_key] = self.kills.pop(place, 0)
        self._forget(work)

    def _hand_back(self, work: LaneWork) -> None:
        self._roll_back(work)
        transaction = self.tables.begin()
        if self.store.lanes.release(transaction, work.claimed, state="retrying", attempts=max(work.number - 1, 0), delay=0.0):
            self.leased.discard((work.claimed.subscription_id, work.claimed.lane))
        self.tables.commit(transaction)
        self._forget(work)

    def _renew_lane(self, work: LaneWork) -> None:
        transaction = self.tables.begin()
        self.store.lanes.renew(transaction, work.claimed, TTL)
        self.tables.commit(transaction)

    # What is remembered

    def _effect(self, subscription: int, event: Received) -> None:
        self.effects.append((subscription, event.event_key))

    def _set_aside(self, subscription: Subscription, event: Received, failed: Failed) -> bool:
        aside = failed.decision.state == "dead" and subscription.on_dead == "continue"
        if aside:
            self.aside.add((subscription.id, event.event_key))
        return aside

    def _released(self, work: Work, lane: str) -> None:
        """A promoted event has ended: its lane is either gone, or given up, or the next event's under the same lease."""
        place = (work.subscription.id, lane)
        if work.handed.promoted is None:
            return
        self.kills.pop(place, None)
        if lane not in work.handed.promoted or place not in self.model.table:
            self.leased.discard(place)

    def _name(self, place: tuple[int, str]) -> str:
        subscription = next(each for each in self.subscriptions if each.id == place[0])
        deliveries = self.model.deliveries(*place)
        label = str(self.position[deliveries[0].item.event_key]) if deliveries else "?"
        return f"{subscription.name}:{label}"

    def _place(self, name: str) -> tuple[int, str]:
        """Return the lane of a name: its subscription, and the position in the log of the event at its head."""
        return next(place for place in self.model.table if self._name(place) == name)

    def lanes_of(self) -> dict[tuple[int, str], list[str]]:
        """Return the events of each lane that has any, in order."""
        found: dict[tuple[int, str], list[str]] = defaultdict(list)
        for (subscription, event), row in sorted(self.model.parked.items(), key=lambda item: item[1].number):
            found[subscription, row.lane].append(event)
        return found
