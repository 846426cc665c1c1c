"""Units that wait in a worker for a thread: their blocks are asked for before they are run.

A scheduler gives a worker a task or more beyond those that it runs. Which they are a task sees in
the worker's state, where they may also vanish again: stolen by another worker, or cancelled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dask_gmm.execution.asked import AskedBlocks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.data.source import Source
    from dask_gmm.execution.pinned import PinnedBlocks

__all__ = ["ReadyUnits"]

_COMING = frozenset({"ready", "constrained", "executing"})


class ReadyUnits(AskedBlocks):
    """The blocks that the units of one pass in this process have asked for."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._begun: set[Any] = set()
        self._asked_for: dict[Any, list[int]] = {}

    def __del__(self) -> None:
        """Give up what nobody will read: the pass is over."""
        self.close()

    def begin(self, key: Any) -> None:
        """Leave a unit's blocks to the task that runs it now."""
        with self.lock:
            self._begun.add(key)
            self._asked_for.pop(key, None)

    def ask_ready(self, worker: Any, key: Any, pinned: PinnedBlocks | None) -> int | None:
        """Ask for the next block of units that wait; None if there is none, or no room.

        Parameters
        ----------
        worker : distributed.Worker
        key : tuple
            Of the task that asks.
        pinned : PinnedBlocks or None
            Blocks that need not be asked for.
        """
        with self.lock:
            for waiting, blocks in _waiting_like(worker, key):
                if waiting in self._begun:
                    continue
                for index in blocks:
                    if index in self or (pinned is not None and index in pinned):
                        continue
                    if not self.ask_now(index, urgent=False):
                        return None
                    self._asked_for.setdefault(waiting, []).append(index)
                    return index
        return None

    def end(self, worker: Any) -> None:
        """Give up the blocks of units that do not wait here any more."""
        with self.lock:
            tasks = worker.state.tasks
            lost = [
                key
                for key in self._asked_for
                if (task := tasks.get(key)) is None or task.state not in _COMING
            ]
            blocks = [index for key in lost for index in self._asked_for.pop(key)]
        for index in blocks:
            self.drop(index)


def _waiting_like(worker: Any, key: Any) -> list[tuple[Any, Sequence[int]]]:
    """Return keys and blocks of the units of a task's pass that wait in a worker, in order."""
    # The worker's event loop changes the set meanwhile; a list of it is made in one step.
    waiting = [task for task in list(worker.state.ready) if task.key[:1] == key[:1]]
    waiting.sort(key=lambda task: task.priority)
    return [(task.key, task.run_spec.args[-1]) for task in waiting if task.run_spec is not None]
