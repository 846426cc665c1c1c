"""Units that wait in a worker for a thread: their blocks are asked for before they are run.

A scheduler gives a worker a task or more beyond those that it runs. Which they are a task sees in
the worker's state, where they may also vanish again: stolen by another worker, or cancelled. A
member of a team has a queue of its own (`dask_gmm.execution.cluster.member`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from dask_gmm.execution.asked import AskedBlocks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.data.source import Source
    from dask_gmm.execution.pinned import PinnedBlocks

__all__ = ["ReadyUnits", "TaskTurn", "Turn"]

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

    def ask_ready(self, turn: Turn, pinned: PinnedBlocks | None) -> int | None:
        """Ask for the next block of units that wait; None if there is none, or no room.

        Parameters
        ----------
        turn : Turn
            Of the unit whose thread asks.
        pinned : PinnedBlocks or None
            Blocks that need not be asked for.
        """
        with self.lock:
            for waiting, blocks in turn.waiting():
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

    def end(self, turn: Turn) -> None:
        """Give up the blocks of units that do not wait here any more."""
        with self.lock:
            lost = [key for key in self._asked_for if not turn.is_coming(key)]
            blocks = [index for key in lost for index in self._asked_for.pop(key)]
        for index in blocks:
            self.drop(index)


class Turn(Protocol):
    """A unit that is run by a thread of a worker.

    Attributes
    ----------
    key : hashable
        What tells it from the other units of the pass here.
    """

    key: Any

    def stopped(self) -> bool:
        """Whether nobody wants its result any more."""

    def waiting(self) -> Sequence[tuple[Any, Sequence[int]]]:
        """Return keys and blocks of the units that wait here, the next one first."""

    def is_coming(self, key: Any) -> bool:
        """Whether a unit waits or runs here still."""


class TaskTurn:
    """A unit that is a task of the scheduler's.

    Parameters
    ----------
    worker : distributed.Worker
    key : tuple
        Of the task.
    """

    def __init__(self, worker: Any, key: Any) -> None:
        self.key = key
        self._worker = worker

    def stopped(self) -> bool:
        """Whether nobody wants its result any more."""
        # Nothing stops a running thread from outside. A task that nobody wants any more (Ctrl-C,
        # another unit's error) sees so here and frees its thread at the next block.
        task = self._worker.state.tasks.get(self.key)
        return task is None or task.state == "cancelled"

    def waiting(self) -> list[tuple[Any, Sequence[int]]]:
        """Return keys and blocks of the units of its pass that wait here, the next one first."""
        # The worker's event loop changes the set meanwhile; a list of it is made in one step.
        ready = list(self._worker.state.ready)
        waiting = [task for task in ready if task.key[:1] == self.key[:1]]
        waiting.sort(key=lambda task: task.priority)
        return [(task.key, task.run_spec.args[-1]) for task in waiting if task.run_spec is not None]

    def is_coming(self, key: Any) -> bool:
        """Whether a unit waits or runs here still."""
        task = self._worker.state.tasks.get(key)
        return task is not None and task.state in _COMING
