"""Which worker has pinned which blocks, so that units can go where theirs are.

Only a preference: a unit may run anywhere, on an idle worker sooner than on its busy friend, and a
worker that died is nobody's friend.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from dask_gmm.execution.plan import Plan

__all__ = ["Affinity"]

NO_WORKER = -1


class Affinity:
    """The holders of a fit's pinned blocks, by position, as the units have reported them."""

    def __init__(self, n_positions: int) -> None:
        self._holder = np.full(n_positions, NO_WORKER, dtype=np.int32)
        self._workers: dict[str, int] = {}

    def record(self, plan: Plan, holders: Iterable[tuple[int, str]]) -> None:
        """Take in who holds blocks of which units of a plan."""
        for unit, worker in holders:
            positions = plan.unit(unit)
            number = self._workers.setdefault(worker, len(self._workers))
            self._holder[positions.start : positions.stop] = number

    def preferred(self, plan: Plan, workers: Collection[str]) -> dict[int, str]:
        """Return the worker that holds most of each unit; units that nobody holds are left out.

        Parameters
        ----------
        plan : Plan
            Over the same blocks as the recorded ones, in units of any size.
        workers : collection of str
            Addresses of those that are there now.
        """
        there = {number: w for w, number in self._workers.items() if w in workers}
        found: dict[int, str] = {}
        for unit in range(plan.n_units) if there else ():
            positions = plan.unit(unit)
            holders = self._holder[positions.start : positions.stop]
            numbers, counts = np.unique(holders[holders != NO_WORKER], return_counts=True)
            here = [(count, n) for n, count in zip(numbers, counts, strict=True) if n in there]
            if here:
                found[unit] = there[max(here)[1]]
        return found
