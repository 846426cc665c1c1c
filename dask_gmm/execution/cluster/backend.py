"""The cluster behind a `distributed.Client`, as a backend."""

from __future__ import annotations

import uuid
import warnings
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import dask
import distributed
from dask.utils import parse_timedelta

from dask_gmm.errors import ClusterError, MixedClusterWarning, SchedulerLostError
from dask_gmm.execution.backend import Backend, ProgressReporter, conclude
from dask_gmm.execution.cluster.affinity import Affinity
from dask_gmm.execution.cluster.connection import (
    CONNECTION_ERRORS,
    Connection,
    ask,
    check_versions,
    scheduler_errors,
    wait_for_workers,
)
from dask_gmm.execution.cluster.graph import KINDS, anchors
from dask_gmm.execution.cluster.posting import Poster
from dask_gmm.execution.cluster.run import ClusterPass
from dask_gmm.execution.cluster.stragglers import UnitTimes
from dask_gmm.execution.cluster.workers import WorkerWatch
from dask_gmm.execution.persisted import check_persisted
from dask_gmm.execution.pinned import unpin
from dask_gmm.execution.plan import check_memory
from dask_gmm.execution.tree import Summable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distributed import Client

    from dask_gmm.execution.backend import PassProgress, PassResult
    from dask_gmm.execution.jobs import BlockJob
    from dask_gmm.execution.pinned import CacheSpec
    from dask_gmm.execution.plan import Plan

__all__ = ["ClusterBackend"]

_TIMEOUT_SETTING = "distributed.scheduler.no-workers-timeout"

#: Seconds that the end of a fit waits for workers to let go of pinned blocks.
UNPIN_TIMEOUT = 5.0

T = TypeVar("T", bound=Summable)

_annotations: Any = dask.get_annotations  # type: ignore[attr-defined]

#: The workers whose versions are known to be ours, by client.
_KNOWN: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()


class ClusterBackend(Backend):
    """Run passes on the workers of a Dask cluster.

    Passes survive whatever leaves somebody to do the work: the death of workers, workers that stop
    or are cut off, tasks that are cancelled, and a scheduler that dies and is there again at the
    same address. What has reached the driver is not done again.

    Parameters
    ----------
    client : distributed.Client
        A synchronous client.
    no_progress_timeout : float, optional
        Seconds to wait for a first worker, for one to come back when all are gone, and for a
        scheduler that was lost. By default what Dask's configuration says
        (``distributed.scheduler.no-workers-timeout``), else 60.

    Raises
    ------
    ClusterError
        The client is asynchronous.
    """

    def __init__(self, client: Client, *, no_progress_timeout: float | None = None) -> None:
        if client.asynchronous:
            raise ClusterError(
                "The Dask client is asynchronous here, and a fit waits for its passes: call it by "
                "'await asyncio.to_thread(...)', or use a client without asynchronous=True."
            )
        self._connection = Connection(client)
        if no_progress_timeout is None:
            no_progress_timeout = parse_timedelta(dask.config.get(_TIMEOUT_SETTING, None) or "60s")
        self._timeout = no_progress_timeout
        self._watch = WorkerWatch(no_progress_timeout)
        self._times = UnitTimes()
        self._warned = False
        self._by_teams = True
        self._group = uuid.uuid4().hex
        self._passes = 0
        self._anchors: list[Any] = []
        self._affinity: tuple[str, Affinity] | None = None

    def __repr__(self) -> str:
        return f"ClusterBackend({self._client!r})"

    @property
    def _client(self) -> Any:
        # `distributed` is annotated in places only, and differently from release to release.
        return self._connection.client

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"the Dask cluster at {self._connection.address}"

    @property
    def n_threads(self) -> int:
        """Threads of all workers that are there now; waits for a first one.

        Raises
        ------
        NoWorkersError, SchedulerLostError
            Nobody is there to work.
        """
        return sum(int(worker["nthreads"]) for worker in self._workers().values())

    @property
    def posts(self) -> bool:
        """Whether there is somebody whom `posting` tells: the scheduler, and its dashboard."""
        return True

    def posting(
        self,
        topic: str,
        message: Callable[[], dict[str, Any]],
        *,
        first: float = 0.0,
        plugin: Callable[[], Any] | None = None,
    ) -> Poster:
        """Tell the scheduler something once a second; see `Backend.posting`."""
        return Poster(lambda: self._client, topic, message, first, plugin)

    def run(
        self,
        plan: Plan,
        job: BlockJob[T],
        *,
        on_progress: Callable[[PassProgress], None] | None = None,
    ) -> PassResult[T]:
        """Read every block of the plan once and return the sum of the job's values.

        Parameters
        ----------
        plan : Plan
            What to read.
        job : BlockJob
            What to compute from a block.
        on_progress : callable, optional
            Called in this thread with a `PassProgress`, about once a second and at the end.

        Raises
        ------
        MemoryPlanError
            The tasks of one worker exceed its memory limit.
        NoWorkersError, SchedulerLostError
            The cluster is gone, and did not come back in time.
        VersionsDifferError
            A worker differs from this process in what decides the bits of a result.
        UnitFailedError
            A unit lost its worker again and again.
        ClusterError
            The workers cannot import what the pass needs.
        IncompletePassError
            The input did not hold as many rows as the plan says.
        InputError
            The input is a collection that was persisted on another cluster, or is lost.
        """
        workers = self._workers()
        check_persisted(plan.source, self._client)
        for limit, threads in sorted(
            {(int(w["memory_limit"] or 0), int(w["nthreads"])) for w in workers.values()}
        ):
            check_memory(plan, job, limit, threads, place="a worker")
        reporter = ProgressReporter(plan, on_progress)
        self._keep_groups(plan)
        with _outside_of_task():
            cluster_pass = ClusterPass(
                self._connection,
                plan,
                job,
                reporter,
                self._watch,
                self._times,
                self._begin_again,
                group=self._group,
                affinity=self._affinity_of(plan),
                # Who says where tasks may run, or with what, says so of all units.
                by_teams=self._by_teams and not _is_adaptive(self._client) and not _annotations(),
            )
            root = cluster_pass.run()
        # Who scales a cluster by its tasks takes members of a team for idle, and takes them away.
        if cluster_pass.has_teams and self._watch.dwindled:
            self._by_teams = False
        self._warn_if_mixed(root.machines)
        return conclude(
            plan,
            root,
            reporter,
            tasks=cluster_pass.tasks,
            threads=sum(int(worker["nthreads"]) for worker in workers.values()),
            resubmitted=cluster_pass.resubmitted,
        )

    def close(self) -> None:
        """Close what the passes have opened, beside the user's client."""
        self._watch.close()
        self._anchors = []
        self._connection.close()

    def unpin(self, cache: CacheSpec) -> None:
        """Let go of what the workers have pinned for a fit.

        A worker that cannot be told (it is stopped, or cut off) lets go when the next fit begins.
        """
        if self._affinity is None or self._affinity[0] != cache.token:
            return
        self._affinity = None
        if self._client.status != "running":
            return
        with suppress(*CONNECTION_ERRORS):  # or they would hide why the fit ended
            telling = partial(
                self._client.run, unpin, cache.token, on_error="ignore", asynchronous=True
            )
            ask(self._client, telling, UNPIN_TIMEOUT)

    def _affinity_of(self, plan: Plan) -> Affinity | None:
        if plan.cache is None:
            return None
        if self._affinity is None or self._affinity[0] != plan.cache.token:
            self._affinity = plan.cache.token, Affinity(plan.n_positions)
        return self._affinity[1]

    def _keep_groups(self, plan: Plan) -> None:
        """From the second pass on, hold on to the groups of tasks that all passes share."""
        self._passes += 1
        if self._passes != 2 or plan.source.graph_blocks is not None:
            return
        tasks = anchors([f"gmm-{kind}-{self._group}" for kind in KINDS])
        with scheduler_errors(self._client):
            self._anchors = self._client.get(tasks, list(tasks), sync=False)

    def _begin_again(self) -> None:
        """Take in the workers of a scheduler that is back; it has forgotten the groups."""
        self._passes, self._anchors = 0, []
        self._admit()

    def _workers(self) -> dict[str, Any]:
        """Return the scheduler's description of each worker; wait until there is one."""
        losses = 0
        while True:
            try:
                return self._admit()
            except SchedulerLostError as error:
                losses += 1
                self._connection.recover(error, self._timeout, losses)
                self._passes, self._anchors = 0, []  # another scheduler knows no groups

    def _admit(self) -> dict[str, Any]:
        longer = f"dask.config.set({{{_TIMEOUT_SETTING!r}: '10 min'}})"
        workers = wait_for_workers(self._client, self._timeout, longer)
        self._watch.begin(self._client, workers)
        known = _KNOWN.setdefault(self._client, set())
        answering = set(workers) - self._watch.now.silent
        if not answering <= known:
            known &= set(workers)  # of those that are gone another may get the address
            known |= check_versions(self._client, answering - known)
        return workers

    def _warn_if_mixed(self, machines: frozenset[str]) -> None:
        if len(machines) < 2 or self._warned:
            return
        self._warned = True
        listing = "\n".join(f"  - {machine}" for machine in sorted(machines))
        warnings.warn(
            f"The workers of {self._connection.address} are not all alike, so the last bits of a "
            f"result depend on which of them computes which unit. Use one kind of machine and one "
            f"image where bitwise reproducibility matters. Found:\n{listing}",
            MixedClusterWarning,
            stacklevel=3,
        )


def _is_adaptive(client: Any) -> bool:
    """Whether a client's cluster scales by its tasks, as far as it can tell."""
    return getattr(getattr(client, "cluster", None), "_adaptive", None) is not None


@contextmanager
def _outside_of_task() -> Iterator[None]:
    """Give up this worker thread's slot while waiting for units, if this is a Dask task itself.

    A task that has left its slot already (`distributed.secede`, `worker_client`) stays where it
    is, and a method of an actor has none.
    """
    untyped: Any = distributed  # annotated in places only
    here = untyped.worker.thread_state
    if getattr(here, "key", None) is None or getattr(here, "actor", False):
        yield
        return
    try:
        untyped.secede()
    except KeyError:
        yield
        return
    try:
        yield
    finally:
        untyped.rejoin()
