"""Contestants that take turns, so that whatever else the machine does meets them all alike."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import ExitStack


class Spread(NamedTuple):
    """The middle of some times, the least of them, and half the distance between the quartiles."""

    median: float
    least: float
    spread: float

    @classmethod
    def of(cls, taken: Sequence[float]) -> Spread:
        """Reduce the turns of a contestant."""
        lower, middle, upper = np.percentile(taken, [25, 50, 75])
        return cls(float(middle), float(min(taken)), float(upper - lower) / 2)


def timed(turns: Mapping[str, Callable[[], float | None]], rounds: int) -> dict[str, list[float]]:
    """Let the contestants take turns; each returns its seconds, or is timed from outside."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            begun = time.perf_counter()
            reported = turn()
            seconds[name].append(time.perf_counter() - begun if reported is None else reported)
    return seconds


def turns_of(command: Sequence[str], cleaning: ExitStack) -> Callable[[], tuple[float, float]]:
    """Start a program that takes a turn for each line it reads and answers with two numbers."""
    process = cleaning.enter_context(
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    )

    def turn() -> tuple[float, float]:
        process.stdin.write("go\n")
        process.stdin.flush()
        first, second = map(float, process.stdout.readline().split())
        return first, second

    return turn
