"""One pass on a cluster: submit its units, gather them as they finish, resubmit what is lost.

Values are folded in the shape of the fixed tree, whatever their order of arrival. Gathering at
once is what makes a lost worker cheap: results that have reached the driver are safe.
"""

from __future__ import annotations

import asyncio
import time
import uuid
import warnings
from collections import Counter, deque
from concurrent.futures import CancelledError, wait
from contextlib import suppress
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from distributed import KilledWorker

from dask_gmm.errors import (
    ClusterError,
    NoWorkersError,
    PassInterruptedError,
    UnitFailedError,
)
from dask_gmm.execution.cluster.connection import (
    CONNECTION_ERRORS,
    address_of,
    scheduler_errors,
    scheduler_lost,
)
from dask_gmm.execution.cluster.graph import make_runner, pass_graph, tree_shape
from dask_gmm.execution.cluster.progress import ProgressFeed, ProgressTotals
from dask_gmm.execution.tree import Summable, TreeFold
from dask_gmm.execution.unit import UnitResult, is_transient

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from dask_gmm.execution.backend import ProgressReporter
    from dask_gmm.execution.cluster.affinity import Affinity
    from dask_gmm.execution.jobs import BlockJob
    from dask_gmm.execution.plan import Plan

__all__ = ["ClusterPass"]

#: Seconds between two looks at the progress while nothing finishes.
TICK = 0.2
#: Seconds in which results that finish together are collected into one request.
COLLECT_SECONDS = 0.02
#: Bytes of values fetched in one request.
GATHER_BYTES = 64_000_000
#: How often one unit is submitted again, by what happened to it. `KilledWorker` stands for four
#: dead workers already (Dask's ``allowed-failures``), so two of them are no bad luck.
MOST_FAILURES = {"killed": 1, "unreadable": 1, "cancelled": 4}

T = TypeVar("T", bound=Summable)

# `distributed` is annotated in places only, and differently from release to release.
Client = Any
Future = Any


class ClusterPass(Generic[T]):
    """The live side of one pass: futures, fold and counters.

    Parameters
    ----------
    client : distributed.Client
        Where it runs.
    plan, job
        What to read and to compute.
    reporter : ProgressReporter
        Who wants to know how far it is.
    worker_timeout : float
        Seconds the cluster may be without workers.
    group : str
        Part of the names of all passes' groups of tasks.
    affinity : Affinity, optional
        Who holds which blocks; brought up to date by the pass.
    """

    def __init__(
        self,
        client: Client,
        plan: Plan,
        job: BlockJob[T],
        reporter: ProgressReporter,
        worker_timeout: float,
        *,
        group: str,
        affinity: Affinity | None = None,
    ) -> None:
        self.tasks = 0
        self.resubmitted = 0
        self._client = client
        self._plan = plan
        self._reporter = reporter
        self._group = group
        self._affinity = affinity
        self._shape = tree_shape(plan, job)
        self._token = uuid.uuid4().hex
        with scheduler_errors(client):
            self._feed = ProgressFeed.of(client)
        self._runner = make_runner(plan, job, self._feed.topic, self._token)
        self._batch = max(1, GATHER_BYTES // max(job.value_bytes, 1))
        self._futures: dict[Any, tuple[int, Future]] = {}
        self._finished: SimpleQueue[Any] = SimpleQueue()
        self._fold: TreeFold[UnitResult[T]] = TreeFold(plan.n_positions)
        self._totals = ProgressTotals(self._shape.output - self._shape.base)
        # Units whose workers died. Dask blames all tasks of a dead worker alike; so these wait
        # until nothing else is under way and then go one at a time: that tells victims from
        # culprits.
        self._suspects: deque[int] = deque()
        self._failures: Counter[tuple[int, str]] = Counter()
        self._watch = _WorkerWatch(client, worker_timeout)

    def run(self, workers: Collection[str] = ()) -> UnitResult[T]:
        """Return the root; see `ClusterBackend.run` for what it raises.

        `workers`: addresses of those that are there.
        """
        messages = self._feed.open(self._token)
        top = self._shape.output
        n_outputs = -(-self._plan.n_positions >> top)
        try:
            preferred = self._affinity.preferred(self._plan, workers) if self._affinity else {}
            self._submit(range(n_outputs), preferred)
            while self._futures or self._suspects:
                if not self._futures:
                    self._submit([self._suspects.popleft()])
                keys = self._wait()
                self._take(keys)
                while messages:
                    self._totals.message(*messages.popleft())
                    self._watch.alive()
                self._reporter.tick(self._totals.counts())
        except BaseException:
            self._abandon()
            raise
        finally:
            self._feed.close(self._token)
        return self._fold.root()

    def _submit(self, nodes: Iterable[int], preferred: Mapping[int, str] | None = None) -> None:
        """Submit some nodes of the output level with one call."""
        graph = pass_graph(
            self._plan, self._shape, self._runner, nodes, group=self._group, preferred=preferred
        )
        self.tasks += len(graph.tasks)
        keys = list(graph.outputs)
        with scheduler_errors(self._client), warnings.catch_warnings():
            # Parameters travel once, inside the graph, however large they are: that is the plan.
            warnings.filterwarnings("ignore", message="Sending large graph", category=UserWarning)
            futures = self._client.get(graph.submission(), keys, sync=False)
            for key, future in zip(keys, futures, strict=True):
                self._futures[key] = graph.outputs[key], future
                future.add_done_callback(self._note)

    def _note(self, future: Future) -> None:
        # Runs in one of distributed's threads: hand over the key only, and never the future, so
        # that releasing a future here releases its result on the cluster.
        self._finished.put(future.key)

    def _wait(self) -> list[Any]:
        """Return keys that came to an end, or none after a tick."""
        try:
            keys = [self._finished.get(timeout=TICK)]
        except Empty:
            if self._client.status != "running":
                raise scheduler_lost(self._client) from None
            self._watch.look()
            return []
        until = time.monotonic() + COLLECT_SECONDS
        with suppress(Empty):
            while len(keys) < len(self._futures):
                keys.append(self._finished.get(timeout=max(until - time.monotonic(), 0)))
        self._watch.alive()
        return [key for key in keys if key in self._futures]

    def _take(self, keys: list[Any]) -> None:
        """Fold what finished, raise what failed, submit again what was lost."""
        ready: list[Any] = []
        again: list[int] = []
        for key in keys:
            node, future = self._futures[key]
            if future.status == "finished":
                ready.append(key)
            elif future.status in ("error", "cancelled"):
                failure = self._judge(node, future)
                self._forget(key)
                self.resubmitted += 1
                (self._suspects if failure == "killed" else again).append(node)
            else:  # its data was lost and is being made again
                future.add_done_callback(self._note)
        for first in range(0, len(ready), self._batch):
            self._gather(ready[first : first + self._batch])
        if again:
            self._submit(again)

    def _gather(self, keys: list[Any]) -> None:
        results = self._fetch({key: self._futures[key][1] for key in keys})
        for key in keys:
            result = results[key]
            if result is None:  # lost between "finished" and now: `_take` looks at it again
                self._finished.put(key)
                continue
            node = self._futures[key][0]
            self._forget(key)
            if self._affinity is not None and result.holders:
                self._affinity.record(self._plan, result.holders)
                result = replace(result, holders=())
            self._fold.add(self._shape.output, node, result)
            self._totals.result(node, result)

    def _fetch(self, futures: dict[Any, Future]) -> dict[Any, Any]:
        """Return the results of finished futures, None for those that were lost meanwhile.

        `Client.gather` waits without end for a result whose holder died until somebody has made
        it again, and there may be nobody. So it runs beside, and this keeps an eye on the workers.
        """
        with scheduler_errors(self._client):
            gathering = asyncio.run_coroutine_threadsafe(
                self._client.gather(futures, errors="skip", asynchronous=True),
                self._client.loop.asyncio_loop,
            )
        try:
            while not wait([gathering], timeout=TICK).done:
                if self._client.status != "running":
                    raise scheduler_lost(self._client)
                self._watch.look()
                self._reporter.tick(self._totals.counts())
        except BaseException:
            gathering.cancel()
            raise
        with scheduler_errors(self._client):
            try:
                results: dict[Any, Any] = gathering.result()
            except CancelledError:
                # With a connection that broke, or by another pass of this process: requests that
                # are made at the same time are sent as one. `_take` finds out which.
                return dict.fromkeys(futures)
        return results

    def _forget(self, key: Any) -> None:
        self._futures.pop(key)[1].release()

    def _judge(self, node: int, future: Future) -> str:
        """Say what happened to a node that may be submitted again; raise if it may not."""
        if future.status == "cancelled":
            if self._client.status != "running" or "connection-lost" in _reason(future):
                raise scheduler_lost(self._client)
            return self._count_failure(node, "cancelled", ClusterError(_reason(future)))
        with scheduler_errors(self._client):
            error, traceback = future.exception(), future.traceback()
        if error is None:  # somebody retried it meanwhile
            return "retried"
        if isinstance(error, KilledWorker):
            return self._count_failure(node, "killed", error)
        if isinstance(error, PassInterruptedError | CancelledError):
            return self._count_failure(node, "cancelled", error)
        if is_transient(error):
            return self._count_failure(node, "unreadable", error)
        raise _explained(error).with_traceback(traceback)

    def _count_failure(self, node: int, kind: str, error: BaseException) -> str:
        self._failures[node, kind] += 1
        if self._failures[node, kind] <= MOST_FAILURES[kind]:
            return kind
        if kind == "unreadable":
            raise error
        positions = self._plan.node(self._shape.output, node)
        blocks = self._plan.blocks_of(positions)
        where = f"blocks {blocks[0]} to {blocks[-1]}" if len(blocks) > 1 else f"block {blocks[0]}"
        if kind == "killed":
            assert isinstance(error, KilledWorker)
            deaths = self._failures[node, kind] * (error.allowed_failures + 1)
            raise UnitFailedError(
                f"Unit {node} ({where} of {self._plan.source.name}) ran on {deaths} workers and "
                f"all of them died, the last one at {error.last_worker.address}. Most often such "
                f"a worker ran out of memory: look at its log, then give workers more memory or "
                f"fewer threads, or store the data in smaller chunks."
            ) from error
        raise UnitFailedError(
            f"Unit {node} ({where} of {self._plan.source.name}) was cancelled "
            f"{self._failures[node, kind]} times ({error}). Does something restart the cluster "
            f"again and again, or was a collection that is read here cancelled? Begin again once "
            f"that is over."
        ) from error

    def _abandon(self) -> None:
        """Cancel what is still wanted; running units stop at their next block."""
        futures = [future for _, future in self._futures.values()]
        self._futures.clear()
        if futures and self._client.status == "running":
            with suppress(*CONNECTION_ERRORS):
                self._client.cancel(futures)


def _explained(error: BaseException) -> BaseException:
    """Return a task's error, or what it means for the cluster."""
    if not isinstance(error, ModuleNotFoundError):
        return error
    explained = ClusterError(
        f"A worker of this cluster cannot import {error.name!r}. Workers need the same packages "
        f"as this process: install them in the workers' environment or image (pip install "
        f"dask-gmm), or send your own module with client.upload_file."
    )
    explained.__cause__ = error
    return explained


def _reason(future: Future) -> str:
    """Return why a future was cancelled, in the words of distributed."""
    try:
        future.result()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the reason
        return str(error)
    return "unknown"


class _WorkerWatch:
    """Raises when a pass waits for workers that do not come back."""

    def __init__(self, client: Client, timeout: float) -> None:
        self._client = client
        self._timeout = timeout
        self._interval = min(5.0, timeout / 2)
        self._looked = time.monotonic()
        self._without_since: float | None = None

    def alive(self) -> None:
        """Note a sign of life."""
        self._looked = time.monotonic()
        self._without_since = None

    def look(self) -> None:
        """Ask the scheduler for its workers, if nothing was heard for a while."""
        now = time.monotonic()
        if now - self._looked < self._interval:
            return
        self._looked = now
        with scheduler_errors(self._client):
            n_workers = len(self._client.nthreads())
        if n_workers:
            self._without_since = None
            return
        if self._without_since is None:
            self._without_since = now
        if now - self._without_since >= self._timeout:
            raise NoWorkersError(
                f"All workers of {address_of(self._client)} are gone, and none came back "
                f"within {self._timeout:g} s. Start workers and begin again."
            )
