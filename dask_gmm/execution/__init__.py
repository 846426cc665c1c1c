"""Who computes: plans, the fixed tree, and the backends that run a pass.

`dask_gmm.execution.cluster` is not imported here: it imports `distributed`, which a fit in one
process does not need.
"""

from __future__ import annotations

from dask_gmm.execution.backend import Backend, Passes, PassProgress, PassResult
from dask_gmm.execution.choose import choose_backend
from dask_gmm.execution.jobs import BlockJob
from dask_gmm.execution.local import LocalBackend
from dask_gmm.execution.machine import machine_fingerprint, single_threaded_blas
from dask_gmm.execution.plan import Plan, check_memory, plan_pass, task_memory

__all__ = [
    "Backend",
    "BlockJob",
    "LocalBackend",
    "PassProgress",
    "PassResult",
    "Passes",
    "Plan",
    "check_memory",
    "choose_backend",
    "machine_fingerprint",
    "plan_pass",
    "single_threaded_blas",
    "task_memory",
]
