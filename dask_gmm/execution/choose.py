"""Which backend a fit uses when nobody says."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import dask

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
    Dask collection; Dask's own ``scheduler="threads"`` setting overrules it. Data that cannot
    leave this process (a NumPy array, a store in memory) is read here in any case.

    Parameters
    ----------
    source : Source
        Where the rows come from.
    """
    # A user who has a client has imported distributed; nobody else should pay for the import.
    distributed = sys.modules.get("distributed")
    scheduler = dask.config.get("scheduler", None)
    if distributed is None or not source.shippable or scheduler in IN_PROCESS:
        return LocalBackend()
    try:
        client = distributed.Client.current()
    except ValueError:
        return LocalBackend()
    from dask_gmm.execution.cluster import ClusterBackend

    return ClusterBackend(client)
