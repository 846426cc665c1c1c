"""Which units take much longer than the rest, and deserve to be begun elsewhere as well.

Three times the median is late. What is late by that measure only together with everything else is
not: then the store or the machines are slower than they were, and a second attempt would make them
slower still.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FEWEST_SECONDS", "Running", "UnitTimes", "late_ones"]

#: A unit is late once it takes so many times as long as the median of the others ...
LATE = 3.0
#: ... and so many seconds: below, a second attempt costs more than it gains.
FEWEST_SECONDS = 2.0
#: Units that must have ended before their median says what to expect.
FEWEST_UNITS = 3
#: Units of a pass whose times are remembered.
MOST_UNITS = 1024
#: Seconds after which a unit that is not heard of any more has ended; each says something once a
#: second.
HEARD_SECONDS = 3.0


class UnitTimes:
    """How long units take, in seconds for each block; over all passes of a fit."""

    def __init__(self) -> None:
        self._earlier: deque[float] = deque(maxlen=64)
        self._now: deque[float] = deque(maxlen=MOST_UNITS)
        self._usual: float | None = None  # of a block; computed when it is asked for

    def begin(self) -> None:
        """Begin another pass, which may have other candidates and so other times."""
        self._earlier.extend(self._now)
        self._now.clear()
        self._usual = None

    def add(self, seconds: float, blocks: int) -> None:
        """Take in a unit, or several together, that took so long."""
        if seconds > 0.0 and blocks > 0:
            self._now.append(seconds / blocks)
            self._usual = None

    def limit(self, blocks: int) -> float | None:
        """Return the seconds after which a unit of so many blocks is late; None if nobody knows."""
        if self._usual is None:
            known = self._known()
            if len(known) < FEWEST_UNITS:
                return None
            # What ended last counts in full: it says first that everything has become slower.
            self._usual = max(median(known), median(known[-FEWEST_UNITS:]))
        return max(FEWEST_SECONDS, LATE * self._usual * blocks)

    @property
    def block_seconds(self) -> float | None:
        """What a block takes as a rule; None if nobody knows."""
        known = self._known()
        return median(known) if known else None

    def _known(self) -> list[float]:
        enough = len(self._now) >= FEWEST_UNITS
        return [*self._now] if enough else [*self._earlier, *self._now]


@dataclass(frozen=True)
class Running:
    """A unit that has been heard of, and when."""

    worker: str
    began: float
    heard: float

    @classmethod
    def now(cls, worker: str, seconds: float) -> Running:
        """Take in that it has been running for so long; it knows best when it has begun."""
        now = time.monotonic()
        return cls(worker, now - seconds, now)

    @property
    def still(self) -> bool:
        """Whether it has been heard of lately."""
        return time.monotonic() - self.heard < HEARD_SECONDS


def late_ones(
    running: Mapping[tuple[str, int], Running],
    limits: Mapping[tuple[str, int], float],
    n_threads: int,
) -> dict[tuple[str, int], str]:
    """Return the units that are late, with the worker of each; none if most of them are.

    Parameters
    ----------
    running : mapping of (submission, unit) to Running
    limits : mapping of (submission, unit) to float
        Seconds after which each is late; one that is missing is not.
    n_threads : int
        Threads of all fit workers.
    """
    now = time.monotonic()
    late = {
        unit: at.worker
        for unit, at in running.items()
        if unit in limits and now - at.began > limits[unit]
    }
    return late if 2 * len(late) <= n_threads else {}
