"""dask_gmm for `bench_fit`: `GaussianMixture.fit` with the kernel named on the command line."""

from __future__ import annotations

import sys
from importlib.metadata import version

import dask
from estimators import fit_of
from serving import serve

from dask_gmm import GaussianMixture

THREADS, KERNEL = int(sys.argv[1]), sys.argv[2]

versions = {name: version(name) for name in ("dask-gmm", "numpy", "llvmlite")}
with dask.config.set(num_workers=THREADS):
    serve(versions, fit_of(GaussianMixture, kernel=KERNEL, acceleration=None), cpu=True)
