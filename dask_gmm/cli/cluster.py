"""Joins a Dask cluster or starts local workers, and leaves nothing of them behind.

Local workers are children with the SIGINT of the terminal blocked: a Ctrl-C is for this process to
act on, and a worker that gets it too would only print tracebacks.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import distributed
import distributed.comm
import distributed.utils

from dask_gmm.cli.library_messages import LOG_FORMAT, redirect_logs
from dask_gmm.cli.patience import within
from dask_gmm.cli.place import Place
from dask_gmm.errors import ClusterError
from dask_gmm.execution.cluster import wait_for_workers, workers_of
from dask_gmm.execution.cluster.encryption import refusal, settings_problem
from dask_gmm.quantities import plural

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dask_gmm.cli.session import Session
    from dask_gmm.cli.settings import Compute

__all__ = ["cluster_place", "peak_memory"]

# Annotated in places only, and differently from release to release.
_distributed: Any = distributed

_PROBE_SECONDS = 5.0


@contextmanager
def cluster_place(compute: Compute, session: Session) -> Iterator[Place]:
    """Join or start a cluster and make its client the current one."""
    with redirect_logs(session):
        try:
            if compute.scheduler is not None:
                with _joined(compute.scheduler, compute.timeout, session) as place:
                    yield place
            else:
                with _started(compute, session) as place:
                    yield place
        except KeyboardInterrupt:
            session.leaving = True
            raise


@contextmanager
def _joined(address: str, timeout: float, session: Session) -> Iterator[Place]:
    session.note(f"joining the cluster at {address} …")
    try:
        scheme, _ = _distributed.comm.addressing.parse_address(address, strict=False)
        _distributed.comm.registry.get_backend(scheme)
        if scheme in ("tcp", "tls", "ws", "wss"):
            _distributed.comm.addressing.parse_host_port(address.partition("://")[2] or address)
    except ValueError as error:
        raise ClusterError(
            f"{address} is no address of a Dask scheduler ({_first_line(error)}): expected "
            f"something like tcp://10.0.0.1:8786."
        ) from error
    # Before Dask tries, which would not say why it failed, and takes long to give up.
    problem = settings_problem(address) or (_refusal(address, timeout) if scheme == "tls" else None)
    if problem is not None:
        raise ClusterError(problem)
    try:
        # A client waits for ever for a peer that answers in another protocol.
        client = within(
            timeout + 1,
            lambda: _distributed.Client(address, timeout=timeout, set_as_default=False),
        )
    except (OSError, TimeoutError) as error:
        nobody = (
            f"No Dask scheduler answered at {address} within {timeout:g} s. Check the address and "
            f"the network, or start one with 'dask scheduler' (--timeout waits longer)."
        )
        # Of an encrypted one that has been asked before.
        problem = None if scheme == "tls" else _refusal(address, timeout)
        raise ClusterError(problem or nobody) from error
    except Exception as error:
        raise ClusterError(
            f"What answers at {address} is no Dask scheduler, or one of another version: "
            f"{_first_line(error)}."
        ) from error
    try:
        workers = workers_of(client)
        if not workers:
            session.note("waiting for a worker …")
            workers = wait_for_workers(client, timeout, "--timeout")
        with _current(client):
            yield _describe(client, workers, "cluster", f"the cluster at {address}")
    finally:
        session.leaving = True
        with contextlib.suppress(Exception):
            client.close(timeout=1)


def _refusal(address: str, timeout: float) -> str | None:
    patience = min(timeout, _PROBE_SECONDS)
    try:
        # A name may be looked up for longer than a connection is waited for.
        return within(3 * patience, lambda: refusal(address, patience))
    except TimeoutError:
        return None


@contextmanager
def _started(compute: Compute, session: Session) -> Iterator[Place]:
    assert compute.workers is not None
    session.note(f"starting {compute.workers} local worker(s) …")
    # Of its own, so that it can be removed whatever becomes of the workers.
    scratch = Path(tempfile.mkdtemp(prefix="dask-gmm-"))
    cluster: Any = None

    def remove() -> None:
        _kill(cluster)
        shutil.rmtree(scratch, ignore_errors=True)

    session.at_once.append(remove)
    try:
        with dask.config.set(_worker_settings(session)):
            cluster = _distributed.LocalCluster(
                n_workers=compute.workers,
                threads_per_worker=compute.threads_per_worker or 1,
                memory_limit=compute.memory_limit or "auto",
                processes=True,
                # No dashboard; and a port of its own for the rest, since 8787 may be taken.
                dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
                loop=_loop_without_interrupts(),
                local_directory=str(scratch),
                silence_logs=False,
            )
            client = _distributed.Client(cluster, set_as_default=False)
            with _current(client):
                yield _describe(
                    client, workers_of(client), "workers", plural(compute.workers, "local worker")
                )
            session.leaving = True
            client.close(timeout=2)
            cluster.close(timeout=5)
    except Exception as error:
        session.leaving = True
        _abandon(cluster)
        if cluster is None:
            raise ClusterError(
                f"{plural(compute.workers, 'local worker')} could not be started: "
                f"{_first_line(error)}."
            ) from error
        raise
    except BaseException:
        session.leaving = True
        _abandon(cluster)
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        session.at_once.remove(remove)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__).rstrip(". ")


def _loop_without_interrupts() -> Any:
    """Return a running event loop whose thread, and so the processes it spawns, block SIGINT."""
    if not hasattr(signal, "pthread_sigmask"):
        return None
    # Were it started later, in the loop's thread, it would unblock SIGINT there.
    _start_resource_tracker()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        runner = _distributed.utils.LoopRunner(asynchronous=False)
        runner.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    return runner.loop


def _worker_settings(session: Session) -> dict[str, Any]:
    """Settings under which workers log to the log file, or not at all."""
    if session.log_file is None:
        logging: Any = {"distributed": "critical", "tornado.application": "critical"}
    else:
        logging = {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": {"format": LOG_FORMAT}},
            "handlers": {
                "file": {
                    "class": "logging.FileHandler",
                    "filename": str(Path(session.log_file).absolute()),
                    "formatter": "line",
                }
            },
            "loggers": {"distributed": {"level": "INFO", "handlers": ["file"]}},
        }
    # Logging is set up when a worker imports distributed: only its environment is there in time.
    environment = dict(dask.config.get("distributed.nanny.pre-spawn-environ"))
    environment["DASK_LOGGING"] = repr(logging)
    return {"distributed.nanny.pre-spawn-environ": environment}


def _abandon(cluster: Any) -> None:
    """End local workers now; what they were computing is not wanted any more."""
    if cluster is None:
        return
    _kill(cluster)
    # Closing politely may wait for connections that are gone: give it a second, in the background.
    closing = threading.Thread(target=_close, args=(cluster,), daemon=True)
    closing.start()
    closing.join(1.0)


def _kill(cluster: Any) -> None:
    if cluster is None:
        return
    for nanny in list(cluster.workers.values()):
        nanny.auto_restart = False
        process = getattr(nanny, "process", None)
        pid = getattr(process, "pid", None)
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _close(cluster: Any) -> None:
    with contextlib.suppress(Exception):
        cluster.close(timeout=1)


@contextmanager
def _current(client: Any) -> Iterator[None]:
    with dask.config.set(scheduler=None), client.as_current():
        yield


def _describe(client: Any, workers: Mapping[str, Any], kind: str, name: str) -> Place:
    threads = [int(worker["nthreads"]) for worker in workers.values()]
    limits = [int(worker["memory_limit"] or 0) for worker in workers.values()]
    return Place(
        kind, name, len(threads), max(threads), sum(threads), min(limits, default=0), client
    )


def peak_memory(client: Any) -> dict[str, int]:
    """Return the most memory each worker process has held at one time, in bytes, by address."""
    return dict(client.run(_peak_of_this_process))


def _peak_of_this_process() -> int:
    try:
        # ru_maxrss would count what the parent held when it spawned this process.
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError, ValueError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def _start_resource_tracker() -> None:
    """Start Python's process that removes what workers leave, which need not say that it does."""
    variable = "PYTHONWARNINGS"
    before = os.environ.get(variable)
    # Of a worker that was too busy to end by itself it would tell after the run's own last line.
    os.environ[variable] = ",".join(filter(None, [before, "ignore:resource_tracker"]))
    try:
        resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before
