"""dask_gmm for `bench_fit`: `GaussianMixture.fit` with the kernel named on the command line."""

from __future__ import annotations

import sys
import warnings
from importlib.metadata import version

import dask
import numpy as np
from serving import Fit, Fitted, Problem, serve
from sklearn.exceptions import ConvergenceWarning

from dask_gmm import GaussianMixture

THREADS, KERNEL = int(sys.argv[1]), sys.argv[2]


def prepare(problem: Problem) -> Fit:
    full = problem.family == "full"
    precisions = np.linalg.inv(problem.covariances) if full else 1.0 / problem.covariances

    def fit(iterations: int) -> Fitted:
        gm = GaussianMixture(
            len(problem.weights),
            covariance_type=problem.family,
            tol=0.0,
            reg_covar=0.0,
            max_iter=iterations,
            weights_init=problem.weights,
            means_init=problem.means,
            precisions_init=precisions,
            kernel=KERNEL,
            acceleration=None,
        ).fit(problem.rows)
        return lambda: {
            "weights": gm.weights_,
            "means": gm.means_,
            "covariances": gm.covariances_,
            "iterations": gm.n_iter_,
        }

    return fit


warnings.simplefilter("ignore", ConvergenceWarning)
with dask.config.set(num_workers=THREADS):
    serve({name: version(name) for name in ("dask-gmm", "numpy", "llvmlite")}, prepare, cpu=True)
