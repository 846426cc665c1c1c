"""dask_gmm for `bench_fit`: `GaussianMixture.fit` with the kernel named on the command line.

With a number behind it all rows have that weight, which makes the same mixture.
"""

from __future__ import annotations

import sys
from importlib.metadata import version

import dask
from estimators import fit_of
from serving import serve

from dask_gmm import GaussianMixture

THREADS, KERNEL, WEIGHT = int(sys.argv[1]), sys.argv[2], sys.argv[3:]

versions = {name: version(name) for name in ("dask-gmm", "numpy", "llvmlite")}
with dask.config.set(num_workers=THREADS):
    weight = float(WEIGHT[0]) if WEIGHT else None
    prepare = fit_of(GaussianMixture, weight=weight, kernel=KERNEL, acceleration=None)
    serve(versions, prepare, cpu=True)
