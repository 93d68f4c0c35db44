from __future__ import annotations

import gc

from tidings.cli.collector import THRESHOLD, settle


def test_a_process_of_its_own_keeps_the_collector_from_what_lives_as_long_as_it() -> None:
    before = gc.get_threshold()
    try:
        settle()
        assert gc.get_freeze_count() > 10_000
        assert gc.get_threshold() == (THRESHOLD, *before[1:])
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
