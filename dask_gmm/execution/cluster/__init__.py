"""Passes on a Dask cluster: the only rooms of the library that import `distributed`."""

from __future__ import annotations

from dask_gmm.execution.cluster.backend import ClusterBackend, workers_of

__all__ = ["ClusterBackend", "workers_of"]
