"""What may happen to a unit and how often, and what is said where that is exceeded."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from distributed import KilledWorker

from dask_gmm.errors import ClusterError, PassInterruptedError, UnitFailedError
from dask_gmm.execution.cluster.connection import explained, scheduler_errors
from dask_gmm.execution.plan import PROCESS_BYTES, in_mb, task_memory
from dask_gmm.execution.unit import is_transient

if TYPE_CHECKING:
    from dask_gmm.execution.cluster.connection import Connection
    from dask_gmm.execution.cluster.graph import TreeShape
    from dask_gmm.execution.jobs import BlockJob
    from dask_gmm.execution.plan import Plan

__all__ = ["Failures"]

#: How often one unit is submitted again, by what happened to it. `KilledWorker` stands for four
#: dead workers already (Dask's ``allowed-failures``), so two of them are no bad luck.
MOST = {"killed": 1, "unreadable": 1, "cancelled": 4}

# `distributed` is annotated in places only, and differently from release to release.
Future = Any


class Failures:
    """Counts what has happened to the nodes of a pass.

    Parameters
    ----------
    plan, job, shape
        The pass.
    """

    def __init__(self, plan: Plan, job: BlockJob[Any], shape: TreeShape) -> None:
        self._plan = plan
        self._job = job
        self._level = shape.output
        self._counts: Counter[tuple[int, str]] = Counter()

    def judge(self, node: int, future: Future, connection: Connection) -> str:
        """Say what happened to a node that may be submitted again; raise if it may not.

        Raises
        ------
        SchedulerLostError
            It was lost with the connection.
        UnitFailedError
            It happened too often.
        Exception
            The node's own error, where no repetition mends it.
        """
        if future.status == "cancelled":
            reason = _reason(future)
            if "connection-lost" in reason:
                raise connection.lost()
            connection.check()
            return self._count(node, "cancelled", ClusterError(reason))
        with scheduler_errors(connection.client):
            error, traceback = future.exception(), future.traceback()
        if error is None:  # somebody retried it meanwhile
            return "retried"
        if isinstance(error, KilledWorker):
            return self._count(node, "killed", error)
        if isinstance(error, PassInterruptedError | CancelledError):
            return self._count(node, "cancelled", error)
        if is_transient(error):
            return self._count(node, "unreadable", error)
        raise explained(error).with_traceback(traceback)

    def forgotten(self, node: int) -> None:
        """Take in that the scheduler does not work on a node, and has said nothing of it.

        Raises
        ------
        UnitFailedError
            It happened too often.
        """
        words = "the scheduler forgot it, or its news got lost"
        self._count(node, "cancelled", ClusterError(words))

    def _count(self, node: int, kind: str, error: BaseException) -> str:
        self._counts[node, kind] += 1
        count = self._counts[node, kind]
        if count <= MOST[kind]:
            return kind
        if kind == "unreadable":
            raise error
        blocks = self._plan.blocks_of(self._plan.node(self._level, node))
        where = f"blocks {blocks[0]} to {blocks[-1]}" if len(blocks) > 1 else f"block {blocks[0]}"
        unit = f"Unit {node} ({where} of {self._plan.source.name})"
        if isinstance(error, KilledWorker):
            deaths = count * (error.allowed_failures + 1)
            raise UnitFailedError(f"{unit} {self._of_deaths(deaths, error)}") from error
        raise UnitFailedError(
            f"{unit} was cancelled {count} times ({error}). Does something restart the cluster "
            f"again and again, or was a collection that is read here cancelled? Begin again once "
            f"that is over."
        ) from error

    def _of_deaths(self, deaths: int, error: KilledWorker) -> str:
        worker = error.last_worker
        task = task_memory(self._plan, self._job)
        limit = in_mb(worker.memory_limit) if worker.memory_limit else "no limit"
        return (
            f"ran on {deaths} workers and all of them died, the last one at {worker.address}. By "
            f"plan a task of it holds {in_mb(task)}, and a process "
            f"{in_mb(PROCESS_BYTES)} beside its {worker.nthreads} of them; the worker had "
            f"{limit}. Most often such a worker ran out of memory: look at its log, then give "
            f"workers more memory or fewer threads, or store the data in smaller chunks."
        )


def _reason(future: Future) -> str:
    """Return why a future was cancelled, in the words of distributed."""
    try:
        future.result()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the reason
        return str(error)
    return "unknown"
