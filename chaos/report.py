"""What a run prints."""

from __future__ import annotations

from collections.abc import Iterator

from chaos.run import Result

__all__ = ["report"]

_MOST = 60


def report(result: Result) -> Iterator[str]:
    """Yield the lines of the report."""
    settings = result.settings
    yield ""
    yield "Injected: " + (", ".join(f"{count} x {what}" for what, count in sorted(result.injected.items())) or "nothing")
    yield "Transactions: " + ", ".join(f"{count} {end}" for end, count in sorted(result.transactions.items()))
    lanes, parked, dead = result.parked
    yield (
        f"Events in the log: {result.published}; the reader's lease was taken {result.take_overs} times; at most {lanes} lanes with {parked} "
        f"events were parked at once, {dead} of them dead; drained in {result.drained:.1f} s"
    )
    yield ""
    yield f"{'subscription':14}{'events':>8}{'once':>8}{'missing':>9}{'repeated':>10}{'unknown':>9}{'inverted':>10}"
    for line in result.balance.lines:
        yield (
            f"{line.subscription:14}{line.events:8}{line.once:8}{line.missing:9}{line.repeated:10}{line.unknown:9}{line.inverted:10}"
            f"{'  (plain: at least once)' if line.subscription == 'mail' else ''}"
        )
    yield ""
    if not result.differences:
        yield f"Balanced. Seed {settings.seed}."
        return
    yield f"NOT balanced: {len(result.differences)} differences."
    for difference in result.differences[:_MOST]:
        yield f"  - {difference}"
    if len(result.differences) > _MOST:
        yield f"  … and {len(result.differences) - _MOST} more"
