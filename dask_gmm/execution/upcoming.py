"""The units of a pass that threads of one process take in turn, asked for before they are begun."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dask_gmm.execution.asked import AskedBlocks

if TYPE_CHECKING:
    from dask_gmm.execution.pinned import PinnedBlocks
    from dask_gmm.execution.plan import Plan

__all__ = ["UpcomingUnits"]


class UpcomingUnits(AskedBlocks):
    """The units of a pass in order, and those of their blocks that are on their way.

    Parameters
    ----------
    plan : Plan
    pinned : PinnedBlocks, optional
        Blocks that need not be asked for.
    """

    def __init__(self, plan: Plan, pinned: PinnedBlocks | None) -> None:
        super().__init__(plan.source)
        self._plan = plan
        self._pinned: Any = () if pinned is None else pinned
        self._unit = 0
        self._position = 0

    def next_unit(self) -> int | None:
        """Return the next unit, which is the caller's from now on; None after the last."""
        with self.lock:
            if self._unit >= self._plan.n_units:
                return None
            self._unit += 1
            return self._unit - 1

    def ask_following(self) -> int | None:
        """Ask for the next block of units that nobody has begun; None if there is none, or room."""
        plan = self._plan
        with self.lock:
            begun = plan.unit(self._unit).start
            self._position = max(self._position, begun)
            while self._position < plan.n_positions:
                index = plan.blocks[self._position]
                if index not in self._pinned:
                    if not self.ask_now(index, urgent=False):
                        return None
                    self._position += 1
                    return index
                self._position += 1
        return None
