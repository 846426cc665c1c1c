"""A few of the random schedules of `tests.faults.soak`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.soak import Schedule, run_schedules

if TYPE_CHECKING:
    from pathlib import Path

SEEDS = range(4)


@pytest.mark.slow
def test_random_troubles_change_no_bit(tmp_path: Path) -> None:
    outcomes, _ = run_schedules(SEEDS, tmp_path)
    assert [outcome.seed for outcome in outcomes if not outcome.equal] == [], outcomes
    assert max(outcome.seconds for outcome in outcomes) < 40


def test_schedules_follow_from_their_seeds() -> None:
    drawn = [Schedule.of(seed) for seed in range(100)]
    assert drawn == [Schedule.of(seed) for seed in range(100)]
    assert len(set(drawn)) == 100
    for what in ("kill", "stop", "join"):
        assert sum(any(event[1] == what for event in s.events) for s in drawn) > 30
    for schedule in drawn:
        stops = [e[2] for e in schedule.events if e[1] == "stop"]
        assert stops == [] or len(stops) == sum(e[1] == "continue" for e in schedule.events)
