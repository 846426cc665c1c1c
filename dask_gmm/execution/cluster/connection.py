"""The connection to a scheduler: who works there, what it looks like when it breaks, and back.

A client whose scheduler is gone has lost all its futures, and tries by itself to connect again, for
as long as a first connection may take (``distributed.comm.timeouts.connect``, 30 s); then it closes
for good. A fit may wait for longer, and goes on with a client of its own.
"""

from __future__ import annotations

import asyncio
import operator
import time
import uuid
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import dask
import distributed
from distributed.comm.core import CommClosedError

from dask_gmm.errors import ClusterError, DaskGMMError, NoWorkersError, SchedulerLostError
from dask_gmm.execution.cluster.worker import versions_differ
from dask_gmm.execution.machine import package_versions
from dask_gmm.interrupts import held, outcome, take_signals

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator

__all__ = [
    "CONNECTION_ERRORS",
    "LOOK_SECONDS",
    "Connection",
    "address_of",
    "ask",
    "check_versions",
    "current_client",
    "explained",
    "gathered",
    "scheduler_errors",
    "scheduler_lost",
    "wait_for_workers",
    "workers_of",
]

#: What requests to a scheduler that is gone, or of a client that is being closed, end with. What
#: was asked of a scheduler that died is cancelled, also where the client has found its successor.
CONNECTION_ERRORS = (CancelledError, CommClosedError, OSError, RuntimeError, TimeoutError)

#: Seconds between two looks at a client that tries to connect.
LOOK_SECONDS = 0.1
#: How often in a row the scheduler may be lost before anything comes of it.
MOST_LOSSES = 4
#: Seconds that it has before it is asked again, for each time that it was lost.
LOSS_SECONDS = 0.5
#: Seconds that workers have to say which versions they run. Who has not by then is asked by the
#: first task that it is given.
VERSIONS_TIMEOUT = 10.0

# `distributed` is annotated in places only, and differently from release to release.
Client = Any
_distributed: Any = distributed


def current_client() -> Client | None:
    """Return the client whose cluster a computation that is begun here belongs on, or None.

    That is the one of Dask's ``scheduler`` setting, of ``with client.as_current()``, else the one
    last made. A Dask task belongs on the worker that runs it, alone, until a task there asks for
    the cluster (`worker_client`, `get_client`): a thousand fits that are mapped over as many files
    would else all begin at once, each of them having given up its slot to wait for the others. In a
    thread that a task has started, and in a coroutine's, nobody can tell whose slot to give up, and
    a wait for the cluster might be for that slot; so a client that a worker has made for its tasks
    is nobody else's.

    Raises
    ------
    ClusterError
        The task has asked for the client of its worker, which was closed.
    """
    configured = dask.config.get("scheduler", None)
    if isinstance(configured, _distributed.Client):
        return configured
    try:
        return _distributed.Client.current(allow_global=False)
    except ValueError:  # there is no such block around
        pass
    try:
        worker = _distributed.get_worker()
    except ValueError:
        return _client_last_made()
    if getattr(_distributed.worker.thread_state, "key", None) is None:
        return None
    client = worker._client  # only asked for by a task; Dask makes it at the first time
    if client is not None and client.status == "closed":
        raise ClusterError(
            "The Dask client that all tasks of this worker share was closed, most likely by the "
            "end of a 'with get_client()' block. Write 'with worker_client()' in its place, or "
            "get_client() without 'with', and restart the worker."
        )
    return client


def _client_last_made() -> Client | None:
    try:
        client = _distributed.Client.current()
    except ValueError:  # nobody has made one
        return None
    return None if client in _distributed.Worker._initialized_clients else client


def address_of(client: Client) -> str:
    """Return the address of a client's scheduler, as far as it is known."""
    scheduler = client.scheduler
    return str(scheduler.address) if scheduler is not None else "an unknown address"


@contextmanager
def scheduler_errors(client: Client) -> Iterator[None]:
    """Turn the many ways in which a request to a dead scheduler fails into one error."""
    try:
        yield
    except DaskGMMError:  # some of which are what the next line looks for
        raise
    except (AttributeError, ValueError, *CONNECTION_ERRORS) as error:
        # A client that is being closed has no loop, no scheduler, or no comm.
        certain = (CancelledError, CommClosedError, OSError, TimeoutError)
        if client.status == "running" and not isinstance(error, certain):
            raise
        raise scheduler_lost(client) from error


def scheduler_lost(client: Client, address: str = "") -> SchedulerLostError:
    """Return the error for a connection that broke during a pass."""
    where = address or address_of(client)
    if client.status in ("closing", "closed"):
        return SchedulerLostError(
            f"The Dask client of {where} was closed in the middle of a pass (by another thread, or "
            f"because its scheduler went away for good), and the results of the pass are gone with "
            f"it. Make a new client once the scheduler is up, and begin again."
        )
    return SchedulerLostError(
        f"The connection to the Dask scheduler at {where} broke in the middle of a pass: the "
        f"scheduler died, was restarted, or cannot be reached. Start it and its workers again "
        f"(workers exit with their scheduler) where nothing does that by itself, and begin again."
    )


class Connection:
    """The client that passes go through: the user's, or one of ours where that has given up.

    Parameters
    ----------
    client : distributed.Client
        The user's.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.address = address_of(client)
        self._theirs = client
        self._security = getattr(client, "security", None)
        self._tried = False  # a client that closes while it tries to connect was not told to

    def check(self) -> None:
        """Raise if there is no scheduler to ask.

        Raises
        ------
        SchedulerLostError
        """
        if self.client.status != "running":
            raise self.lost()

    def lost(self) -> SchedulerLostError:
        """Return the error for a connection that broke."""
        self._tried = self._tried or self.client.status in ("running", "connecting")
        return scheduler_lost(self.client, self.address)

    def recover(
        self,
        error: SchedulerLostError,
        timeout: float,
        losses: int,
        waiting: Callable[[], None] = take_signals,
    ) -> None:
        """Wait until there is a scheduler at the same address.

        Parameters
        ----------
        error : SchedulerLostError
            What was lost; raised where nothing can bring it back.
        timeout : float
            Seconds to wait.
        losses : int
            How often in a row it was lost. From the second time on the client has a moment to see
            that its scheduler is gone: until then it says "running".
        waiting : callable
            Called again and again meanwhile.

        Raises
        ------
        SchedulerLostError
            None came within the timeout, it was lost too often, or somebody has closed the client.
        """
        if losses > MOST_LOSSES:
            raise error
        until = time.monotonic() + LOSS_SECONDS * losses
        while losses > 1 and time.monotonic() < until:
            waiting()
            time.sleep(LOOK_SECONDS)
        deadline = time.monotonic() + timeout
        while self.client.status == "connecting" and time.monotonic() < deadline:
            self._tried = True
            waiting()
            time.sleep(LOOK_SECONDS)
        if self.client.status == "running":
            return
        cluster = getattr(self._theirs, "cluster", None)
        closed = cluster is not None and cluster.status.name in ("closing", "closed")
        if not self._tried or closed or self.address.startswith("inproc:"):
            raise error
        if self.client.status == "connecting" or not self._replace(deadline, waiting):
            raise SchedulerLostError(
                f"The connection to the Dask scheduler at {self.address} broke in the middle of a "
                f"pass, and nobody answered there within {timeout:g} s. Start it and its workers "
                f"again (workers exit with their scheduler) and begin again, with a new client."
            ) from error

    def _replace(self, deadline: float, waiting: Callable[[], None]) -> bool:
        """Connect with a client of our own; return whether that worked in time."""
        make: Callable[..., Client] = _distributed.Client
        while (left := deadline - time.monotonic()) > 0:
            waiting()
            try:
                self.client = make(
                    self.address, security=self._security, set_as_default=False, timeout=left
                )
            except (OSError, ValueError):  # the latter while a scheduler ends that has answered
                time.sleep(LOOK_SECONDS)
            else:
                return True
        return False

    def close(self) -> None:
        """Close the client, if it is ours. The next pass may make another."""
        if self.client is not self._theirs:
            mine, self.client = self.client, self._theirs
            with suppress(*CONNECTION_ERRORS):
                mine.close(timeout=5)


def _check_running(client: Client) -> None:
    if client.status != "running":
        raise SchedulerLostError(
            f"The Dask client of {address_of(client)} is {client.status}. Is the scheduler up? "
            f"Begin again once it is, with a new client if this one has given up by then."
        )


def ask(
    client: Client, question: Callable[[], Awaitable[Any]], timeout: float | None = None
) -> Any:
    """Await something on a client's event loop, as `Client.sync` does; signals are taken meanwhile.

    Raises
    ------
    TimeoutError
        It took longer than `timeout` seconds.
    """

    async def put() -> Any:
        return await question()

    loop = client.loop.asyncio_loop
    if loop.is_closed():
        raise RuntimeError("The event loop of the client is closed.")
    asking = asyncio.run_coroutine_threadsafe(put(), loop)
    try:
        return outcome(asking, timeout)
    finally:
        asking.cancel()


async def gathered(client: Client, futures: dict[Any, Any]) -> dict[Any, Any]:
    """Return the results of futures that have any, on a client's event loop; it may be cancelled.

    `distributed` lets requests that are made at the same time wait for one task, and forgets that
    task when it begins. One that is cancelled before, in the single step between, is remembered
    for ever, and every later `Client.gather` is cancelled with it, the user's too (2025.1 to
    2026.8).
    """
    _forget_cancelled_request(client)  # somebody else's
    try:
        found: dict[Any, Any] = await client.gather(futures, errors="skip", asynchronous=True)
    finally:
        _forget_cancelled_request(client)
    return found


def _forget_cancelled_request(client: Client) -> None:
    request = getattr(client, "_gather_future", None)
    if request is not None and request.done():
        client._gather_future = None


def workers_of(client: Client, timeout: float = 60.0) -> dict[str, Any]:
    """Ask the scheduler for its description of each worker, by address.

    `Client.scheduler_info` puts the answer where a refresh of the totals, every two seconds, puts
    one without any worker: now and then it would return that.

    Parameters
    ----------
    client : distributed.Client
    timeout : float
        Seconds to wait for an answer.

    Raises
    ------
    SchedulerLostError
    """
    with scheduler_errors(client):
        # Of all workers: the client's own limit is no default here, and 2025.1 knows none.
        found: dict[str, Any] = ask(client, client.scheduler.identity, timeout)
    return dict(found["workers"])


def wait_for_workers(client: Client, timeout: float, longer_timeout: str) -> dict[str, Any]:
    """Return the scheduler's description of each worker; wait until there is one.

    A cluster that scales with its load, from no worker on, is given a task that wants one.

    Parameters
    ----------
    client : distributed.Client
    timeout : float
        Seconds to wait.
    longer_timeout : str
        What its caller can do for a longer wait.

    Raises
    ------
    NoWorkersError
        None came.
    SchedulerLostError
    """
    _check_running(client)
    workers = workers_of(client)
    if workers:
        return workers
    with held():
        with scheduler_errors(client):
            probe = client.submit(operator.truth, True, key=f"gmm-probe-{uuid.uuid4().hex}")
        try:
            deadline = time.monotonic() + timeout
            while not workers and time.monotonic() < deadline:
                time.sleep(0.1)
                workers = workers_of(client)
        finally:
            probe.release()
    if not workers:
        raise NoWorkersError(
            f"The Dask scheduler at {address_of(client)} has no workers, and none came within "
            f"{timeout:g} s. Start some: dask worker {address_of(client)} ({longer_timeout} waits "
            f"longer)"
        )
    return workers


def check_versions(client: Client, addresses: Collection[str]) -> frozenset[str]:
    """Ask workers for their versions; return who has answered.

    Raises
    ------
    VersionsDifferError
        One differs from this process in what changes the bits of a result.
    ClusterError
        A worker has not got the package.
    """
    where = address_of(client)
    question = partial(
        client.run, package_versions, workers=list(addresses), on_error="return", asynchronous=True
    )
    try:
        answers: dict[str, Any] = ask(client, question, VERSIONS_TIMEOUT)
    except CONNECTION_ERRORS:  # one is stopped or cut off, and all wait for it; or all are gone
        return frozenset()
    for worker, answer in sorted(answers.items()):
        if isinstance(answer, ImportError):
            raise explained(answer) from None
        # A release before this one has no function that says which it is.
        old = {"dask-gmm": "of an earlier release"} if isinstance(answer, AttributeError) else {}
        there = answer if isinstance(answer, dict) else old
        error = versions_differ(there, package_versions(), worker, where)
        if error is not None:
            raise error
    return frozenset(w for w, answer in answers.items() if isinstance(answer, dict))


def explained(error: BaseException) -> BaseException:
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
