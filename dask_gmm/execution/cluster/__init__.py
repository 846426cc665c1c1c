"""Passes on a Dask cluster: the only rooms of the library that import `distributed`."""

from __future__ import annotations

from dask_gmm.execution.cluster.backend import ClusterBackend
from dask_gmm.execution.cluster.connection import current_client, wait_for_workers, workers_of

__all__ = ["ClusterBackend", "current_client", "wait_for_workers", "workers_of"]
