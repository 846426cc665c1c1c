"""A covariance family that exists only here: what a new one takes is this class, and one call.

Σ_k = λ_k A with A diagonal and |A| = 1: each component has a volume of its own, all have one shape
(Celeux & Govaert 1995, model [λ_k B]). The package has it too, as VEI, and by another algorithm:
each is the other's oracle (`tests.mixture.test_parsimonious`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.mixture.family import CovarianceFamily, register_family
from dask_gmm.mixture.form import DIAGONAL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_MOST_ROUNDS = 200
_SETTLED = 1e-14


class EqualShape(CovarianceFamily):
    """A volume for each component, one shape for all; the form is `diag`'s."""

    name = "equal-shape"
    form = DIAGONAL
    independent = False
    constrained = True

    def degrees_of_freedom(self, n_components: int, n_features: int) -> int:
        """K volumes, and a shape of determinant one."""
        return n_components + n_features - 1

    def estimate(self, counts: Array, first: Array, second: Array, reg_covar: float) -> Array:
        """Minimise Σ_k N_k D log λ_k + tr(S_k A⁻¹)/λ_k in turns, which converges (1995, 3.4).

        S_k is the diagonal scatter of component k about its own mean. Where there is none the
        variances are zero, which is a collapse; 0/0 would be taken for an overflow.
        """
        scatter = second - first * (first / counts[:, None]) + reg_covar * counts[:, None]
        scatter = np.maximum(scatter, 0.0)
        covariances = np.zeros_like(scatter)
        if not scatter.any(axis=0).all():
            return covariances
        alive = scatter.any(axis=1)
        scatter, n_values = scatter[alive], counts[alive] * scatter.shape[1]
        volumes: Array = np.ones(len(scatter))
        for _ in range(_MOST_ROUNDS):
            shape = np.sum(scatter / volumes[:, None], axis=0)
            shape = shape / np.exp(np.mean(np.log(shape)))
            before, volumes = volumes, np.sum(scatter / shape, axis=1) / n_values
            if not np.any(np.abs(volumes - before) > _SETTLED * before):
                break
        covariances[alive] = volumes[:, None] * shape
        return covariances


EQUAL_SHAPE = EqualShape()
register_family(EQUAL_SHAPE)
