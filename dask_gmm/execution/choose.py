"""Which backend a fit uses when nobody says."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING

import dask

from dask_gmm.errors import StaysHereWarning
from dask_gmm.execution.local import LocalBackend

if TYPE_CHECKING:
    from dask_gmm.data.source import Source
    from dask_gmm.execution.backend import Backend

__all__ = ["choose_backend"]

#: Values of Dask's ``scheduler`` setting that ask for this process in spite of a client.
IN_PROCESS = ("threads", "threading", "threaded", "sync", "synchronous", "single-threaded")


def choose_backend(source: Source) -> Backend:
    """Return the cluster of the current `distributed.Client`, or this process.

    The client is the one of ``with client.as_current()``, else the one last made, as for every
    Dask collection; in a task, the one that the task has asked for (`distributed.worker_client`,
    `get_client`), and without one the fit stays on the worker that runs the task. Dask's own
    ``scheduler="threads"`` setting overrules it. Data that cannot leave this process (a NumPy
    array, a store in memory) are read here in any case.

    Parameters
    ----------
    source : Source
        Where the rows come from.

    Warns
    -----
    StaysHereWarning
        There is a client, but the input is a store that cannot travel to its workers.

    Raises
    ------
    ClusterError
        The client is asynchronous, or a worker's that was closed.
    """
    # A user who has a client has imported distributed; nobody else should pay for the import.
    if "distributed" not in sys.modules or dask.config.get("scheduler", None) in IN_PROCESS:
        return LocalBackend()
    if not source.shippable and source.stays_because is None:
        return LocalBackend()  # rows in memory: nobody expects them to be sent around
    from dask_gmm.execution.cluster import ClusterBackend, current_client

    client = current_client()
    if client is None:
        return LocalBackend()
    if not source.shippable:
        warnings.warn(
            f"The work on {source.name} is done in this process, and not on the Dask cluster that "
            f"it has a client of: {source.stays_because}",
            StaysHereWarning,
            stacklevel=5,
        )
        return LocalBackend()
    return ClusterBackend(client)
