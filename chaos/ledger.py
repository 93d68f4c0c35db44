"""Whether the books balance: every committed event handled once by each subscription, in order, and nothing else. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from chaos.facts import Effect, Facts, Logged
from chaos.handlers import discarded

__all__ = ["HANDLES", "ORDERED", "Balance", "Line", "balance"]

#: Which events each subscription handles; and which of them must leave their effects in the order of the log.
HANDLES = {
    "view": ("bank.deposited", "bank.withdrawn", "bank.reminded"),
    "journal": ("bank.deposited", "bank.withdrawn"),
    "report": ("bank.deposited", "bank.withdrawn"),
    "mail": ("bank.deposited",),
    "audit": ("bank.booked",),
}
ORDERED = ("view", "journal", "report")
_PUBLISH = ("view", "journal")
_HANDLED, _DISCARDED = 0, 2


@dataclass(slots=True)
class Line:
    """One subscription's row of the balance table."""

    subscription: str
    events: int = 0
    once: int = 0
    missing: int = 0
    repeated: int = 0
    unknown: int = 0
    inverted: int = 0


@dataclass(slots=True)
class Balance:
    """The balance table, and a sentence for everything that does not balance."""

    lines: list[Line] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)


def balance(facts: Facts, repeats: int) -> Balance:
    """Check everything.

    Args:
        repeats: how many calls of the plain handler may have been repeated, in all.
    """
    result = Balance()
    differ = result.differences.append
    _check_publishing(facts, result)
    positions = {(row.name, row.number, row.by): row.position for row in facts.log}
    for subscription, names in HANDLES.items():
        wanted = [row for row in facts.log if row.name in names]
        line = Line(subscription, len(wanted))
        result.lines.append(line)
        _check_inbox(facts, subscription, wanted, result)
        if subscription == "mail":
            _check_mails(facts, wanted, repeats, line, result)
            continue
        _check_effects(facts, subscription, wanted, line, result)
        if subscription in ORDERED:
            _check_order(facts, subscription, wanted, line, result)
    _check_follow_ups(facts, positions, result)
    for lane in facts.lanes:
        differ(f"stuck: a lane is left: {lane}")
    for delivery in facts.deliveries:
        differ(f"stuck: a delivery is left: {delivery}")
    if facts.scheduled:
        differ(f"stuck: {facts.scheduled} scheduled events are left")
    for reader in facts.readers:
        if not reader.drained:
            differ(f"stuck: the reader {reader.name} has not read the log to its end")
    return result


def _check_publishing(facts: Facts, result: Balance) -> None:
    """Invariant 1: what the transactions committed is in the log, once, and nothing else is."""
    committed = {row.number: row for row in facts.published}
    logged = Counter(row.number for row in facts.log if row.by is None)
    for number in sorted(committed.keys() - logged.keys()):
        result.differences.append(f"publishing: event {number} was committed and is not in the log")
    for number in sorted(logged.keys() - committed.keys()):
        result.differences.append(f"publishing: event {number} is in the log, and its transaction or savepoint was rolled back")
    for number, count in logged.items():
        if count > 1:
            result.differences.append(f"publishing: event {number} is in the log {count} times")
    for transaction in facts.transactions:
        there = [number for number in transaction.kept if number in committed]
        if transaction.end == "committed" and len(there) < len(transaction.kept):
            result.differences.append(f"publishing: a transaction committed {transaction.kept}, and only {there} are there")
        if transaction.end == "rolled back" and there:
            result.differences.append(f"publishing: a transaction was rolled back, and {there} of it are there")
        if there and len(there) < len(transaction.kept):
            result.differences.append(f"publishing: of a transaction's {transaction.kept} only {there} are there")
        for number in transaction.dropped:
            if number in committed:
                result.differences.append(f"publishing: event {number} is there, and its savepoint was rolled back")
    # Under a row lock of the publisher's own, the order of the log is the order of the commits.
    of_account: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for row in facts.log:
        sequence = committed[row.number].sequence if row.by is None and row.number in committed else None
        if sequence is not None:
            of_account[row.account].append((row.position, sequence))
    for account, pairs in of_account.items():
        for (_, before), (position, after) in pairwise(sorted(pairs)):
            if after <= before:
                result.differences.append(f"publishing: in the log of {account} sequence {after} at {position} stands behind {before}")


def _check_inbox(facts: Facts, subscription: str, wanted: Sequence[Logged], result: Balance) -> None:
    inbox = facts.inbox.get(subscription, {})
    for row in wanted:
        outcome = inbox.get(row.event_key)
        expected = _DISCARDED if discarded(subscription, row.number) else _HANDLED
        if outcome is None:
            result.differences.append(f"{subscription}: {_name(row)} is not in the inbox")
        elif outcome != expected:
            result.differences.append(f"{subscription}: {_name(row)} is in the inbox with outcome {outcome} instead of {expected}")
    for key in inbox.keys() - {row.event_key for row in wanted}:
        result.differences.append(f"{subscription}: the inbox has {key}, which is no event of the log")


def _check_effects(facts: Facts, subscription: str, wanted: Sequence[Logged], line: Line, result: Balance) -> None:
    """Invariant 4: effects once, and only of committed events."""
    expected = {(row.number, row.by): row for row in wanted if not discarded(subscription, row.number)}
    left: dict[tuple[int, str | None], list[Effect]] = defaultdict(list)
    for effect in facts.effects:
        if effect.subscription == subscription:
            left[effect.number, effect.by].append(effect)
    for what, row in expected.items():
        count = len(left.get(what, ()))
        line.once += count == 1
        if count == 0:
            line.missing += 1
            result.differences.append(f"{subscription}: {_name(row)} had no effect")
        elif count > 1:
            line.repeated += 1
            workers = ", ".join(f"worker {effect.worker} at step {effect.step}" for effect in left[what])
            result.differences.append(f"{subscription}: {_name(row)} had its effect {count} times: {workers}")
    for number, by in left.keys() - expected.keys():
        line.unknown += 1
        result.differences.append(f"{subscription}: an effect of event {number}{f' by {by}' if by else ''}, which should have none")


def _check_order(facts: Facts, subscription: str, wanted: Sequence[Logged], line: Line, result: Balance) -> None:
    """Invariant 5: for one key, effects are committed in the order of the log."""
    positions = {row.number: row.position for row in wanted}
    of_account: dict[str, list[Effect]] = defaultdict(list)
    for effect in facts.effects:
        if effect.subscription == subscription and effect.number in positions:
            of_account[effect.account].append(effect)
    for account, effects in of_account.items():
        effects.sort(key=lambda effect: effect.step)
        for before, after in pairwise(effects):
            if positions[after.number] < positions[before.number]:
                line.inverted += 1
                result.differences.append(
                    f"{subscription}: {account} saw event {after.number} (position {positions[after.number]}, worker {after.worker}, step "
                    f"{after.step}) after event {before.number} (position {positions[before.number]}, worker {before.worker}, step {before.step})"
                )


def _check_follow_ups(facts: Facts, positions: dict[tuple[str, int, str | None], int], result: Balance) -> None:
    """What a handler publishes is part of its effect: once for each effect, caused by its event, and in the same order."""
    booked: dict[tuple[str, int], list[Logged]] = defaultdict(list)
    ids: dict[int, str] = {}
    for row in facts.log:
        if row.by is None:
            ids[row.number] = row.id
        else:
            booked[row.by, row.number].append(row)
    effects = Counter((effect.subscription, effect.number) for effect in facts.effects if effect.subscription in _PUBLISH)
    for what, count in effects.items():
        if len(booked.get(what, ())) != count:
            result.differences.append(f"{what[0]}: event {what[1]} had {count} effects and {len(booked.get(what, ()))} follow-up events")
    for by, number in booked.keys() - effects.keys():
        result.differences.append(f"{by}: a follow-up event of {number}, which had no effect")
    for rows in booked.values():
        for row in rows:
            if row.number in ids and row.causation != ids[row.number]:
                result.differences.append(
                    f"{row.by}: the follow-up of {row.number} names {row.causation} as its cause, not {ids[row.number]}"
                )
    of_account: dict[tuple[str, str], list[Effect]] = defaultdict(list)
    for effect in facts.effects:
        if effect.subscription in _PUBLISH and effects[effect.subscription, effect.number] == 1:
            of_account[effect.subscription, effect.account].append(effect)
    for (by, account), done in of_account.items():
        done.sort(key=lambda effect: effect.step)
        places = [positions.get(("bank.booked", effect.number, by), 0) for effect in done]
        for (effect, before), (other, after) in pairwise(list(zip(done, places, strict=True))):
            if 0 < after < before:
                result.differences.append(f"{by}: {account}: the follow-up of {other.number} stands before that of {effect.number}")


def _check_mails(facts: Facts, wanted: Sequence[Logged], repeats: int, line: Line, result: Balance) -> None:
    """A plain handler is called at least once; a disturbance repeats a bounded number of calls; first calls keep the order."""
    calls = Counter(mail.number for mail in facts.mails)
    expected = {row.number: row for row in wanted}
    for number, row in expected.items():
        line.once += calls[number] == 1
        if calls[number] == 0:
            line.missing += 1
            result.differences.append(f"mail: {_name(row)} was never sent")
        line.repeated += max(calls[number] - 1, 0)
    for number in calls.keys() - expected.keys():
        line.unknown += 1
        result.differences.append(f"mail: event {number} was sent, and should not have been")
    if line.repeated > repeats:
        result.differences.append(f"mail: {line.repeated} calls were repeated, and the disturbances explain {repeats} at most")
    first: dict[str, dict[int, None]] = defaultdict(dict)
    for mail in facts.mails:
        if mail.number in expected:
            first[mail.account].setdefault(mail.number)
    for account, numbers in first.items():
        for before, after in pairwise(list(numbers)):
            if expected[after].position < expected[before].position:
                line.inverted += 1
                result.differences.append(
                    f"mail: {account}: event {after} was sent for the first time after event {before}, which is later"
                )


def _name(row: Logged) -> str:
    by = f" by {row.by}" if row.by else ""
    return f"event {row.number}{by} ({row.name} of {row.account}, position {row.position})"
