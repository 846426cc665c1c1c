"""oneDAL's EM, by daal4py, for `bench_fit`."""

from __future__ import annotations

import sys

import daal4py
import numpy as np
from serving import Fit, Fitted, Problem, serve

daal4py.daalinit(int(sys.argv[1]))


def prepare(problem: Problem) -> Fit:
    k, d = problem.means.shape
    # It wants one weight a column, and a diagonal covariance as one row.
    shape = (d, d) if problem.family == "full" else (1, d)

    def fit(iterations: int) -> Fitted:
        result = daal4py.em_gmm(
            k,
            fptype="double" if problem.rows.dtype == np.float64 else "float",
            maxIterations=iterations,
            accuracyThreshold=0.0,
            covarianceStorage="full" if problem.family == "full" else "diagonal",
        ).compute(
            problem.rows,
            problem.weights[None, :],
            problem.means,
            [covariance.reshape(shape).copy() for covariance in problem.covariances],
        )
        return lambda: {
            "weights": result.weights.ravel(),
            "means": result.means,
            "covariances": np.reshape(result.covariances, problem.covariances.shape),
            "iterations": int(result.nIterations[0, 0]),
        }

    return fit


RELEASE = daal4py._get__daal_run_version__().split("_")[0]
serve({"oneDAL": RELEASE, "numpy": np.__version__}, prepare, cpu=True)
