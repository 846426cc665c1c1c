"""scikit-learn for `bench_fit`. Its threads are those of BLAS, set by the driver."""

from __future__ import annotations

import warnings

import numpy as np
import sklearn
from serving import Fit, Fitted, Problem, serve
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture


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
        ).fit(problem.rows)
        return lambda: {
            "weights": gm.weights_,
            "means": gm.means_,
            "covariances": gm.covariances_,
            "iterations": gm.n_iter_,
        }

    return fit


warnings.simplefilter("ignore", ConvergenceWarning)
serve({"scikit-learn": sklearn.__version__, "numpy": np.__version__}, prepare, cpu=True)
