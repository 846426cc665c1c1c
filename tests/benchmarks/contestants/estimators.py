"""Contestants whose estimator is scikit-learn's `GaussianMixture` or takes the same arguments."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

if TYPE_CHECKING:
    from collections.abc import Callable

    from serving import Fit, Fitted, Problem


def fit_of(
    estimator: Callable[..., Any], weight: float | None = None, **settings: Any
) -> Callable[[Problem], Fit]:
    """Make what `serving.serve` calls to prepare a problem: plain EM from the given start.

    Parameters
    ----------
    estimator : callable
        The class.
    weight : float, optional
        Of each row; without it `fit` is given none.
    settings : Any
        Arguments of its own.
    """
    warnings.simplefilter("ignore", ConvergenceWarning)

    def prepare(problem: Problem) -> Fit:
        full = problem.family == "full"
        given = {} if weight is None else {"sample_weight": np.full(len(problem.rows), weight)}
        precisions = np.linalg.inv(problem.covariances) if full else 1.0 / problem.covariances

        def fit(iterations: int) -> Fitted:
            gm = estimator(
                len(problem.weights),
                covariance_type=problem.family,
                tol=0.0,
                reg_covar=0.0,
                max_iter=iterations,
                weights_init=problem.weights,
                means_init=problem.means,
                precisions_init=precisions,
                **settings,
            ).fit(problem.rows, **given)
            return lambda: {
                "weights": gm.weights_,
                "means": gm.means_,
                "covariances": gm.covariances_,
                "iterations": gm.n_iter_,
            }

        return fit

    return prepare
