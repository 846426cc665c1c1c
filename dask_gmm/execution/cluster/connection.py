"""The connection to a scheduler: who works there, and what it looks like when it breaks."""

from __future__ import annotations

import operator
import time
import uuid
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import dask
import distributed
from distributed.comm.core import CommClosedError

from dask_gmm.errors import ClusterError, DaskGMMError, NoWorkersError, SchedulerLostError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "CONNECTION_ERRORS",
    "address_of",
    "check_running",
    "current_client",
    "scheduler_errors",
    "scheduler_lost",
    "wait_for_workers",
    "workers_of",
]

#: What requests to a scheduler that is gone, or of a client that is being closed, end with. What
#: was asked of a scheduler that died is cancelled, also where the client has found its successor.
CONNECTION_ERRORS = (CancelledError, CommClosedError, OSError, RuntimeError, TimeoutError)

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


def scheduler_lost(client: Client) -> SchedulerLostError:
    """Return the error for a connection that broke during a pass."""
    if client.status in ("closing", "closed"):
        return SchedulerLostError(
            f"The Dask client of {address_of(client)} was closed in the middle of a pass (by "
            f"another thread, or because its scheduler went away for good), and the results of the "
            f"pass are gone with it. Make a new client once the scheduler is up, and begin again."
        )
    return SchedulerLostError(
        f"The connection to the Dask scheduler at {address_of(client)} broke in the middle of a "
        f"pass, and the results of the pass are gone with it: the scheduler died, was restarted, "
        f"or cannot be reached. Start it and its workers again (workers exit with their scheduler) "
        f"where nothing does that by itself, and begin again."
    )


def check_running(client: Client) -> None:
    """Raise if a client has no scheduler to ask.

    Raises
    ------
    SchedulerLostError
    """
    if client.status != "running":
        raise SchedulerLostError(
            f"The Dask client of {address_of(client)} is {client.status}. Is the scheduler up? "
            f"Begin again once it is, with a new client if this one has given up by then."
        )


def workers_of(client: Client) -> dict[str, Any]:
    """Ask the scheduler for its description of each worker, by address.

    `Client.scheduler_info` puts the answer where a refresh of the totals, every two seconds, puts
    one without any worker: now and then it would return that.

    Raises
    ------
    SchedulerLostError
    """
    with scheduler_errors(client):
        # Of all workers: the client's own limit is no default here, and 2025.1 knows none.
        found: dict[str, Any] = client.sync(client.scheduler.identity)
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
    check_running(client)
    workers = workers_of(client)
    if workers:
        return workers
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
