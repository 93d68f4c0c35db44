"""What a run is: how long, how many processes, which faults. One value, written to the run's directory for its processes to read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """One run.

    Attributes:
        seconds: how long faults are injected; draining and checking come after that.
        kind: of the database.
        url: of the database, with an asynchronous driver.
        sync_url: with a synchronous one, for the workers that handle in threads.
        restarts: whether the database server is ours to restart.
        publishers, workers: how many processes.
        rate: transactions per second of one publisher.
        transport: the broker between publishers and subscriptions; None without one.
        broker: its URL, which is that of a proxy of ours.
        started: when the run began, as a Unix time: storms follow the time since then.
    """

    seconds: float
    seed: int
    kind: Literal["postgresql", "sqlite"]
    url: str
    sync_url: str
    restarts: bool
    publishers: int = 3
    workers: int = 4
    rate: float = 15.0
    transport: str | None = None
    broker: str = ""
    started: float = 0.0

    def write(self, directory: Path) -> None:
        """Write it down for the processes of the run."""
        (directory / "settings.json").write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, directory: Path) -> Settings:
        """Read what `write` wrote."""
        return cls(**json.loads((directory / "settings.json").read_text(encoding="utf-8")))
