r"""Charts: a model's parameters as points of a vector space, for steps that are extrapolated.

What accelerates EM without knowing a model goes along straight lines, and those depend on the
coordinates. A model whose parameters are more than weights, means and covariances, or whose steps
are straighter elsewhere, has a chart of its own (`MixtureModel.chart`); by default it is that of
log-weights, means and Cholesky factors (`mixture.coordinates`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from dask_gmm.mixture.coordinates import Metric, from_vector, to_vector

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dask_gmm.mixture.parameters import MixtureParameters

    Array = NDArray[np.float64]

__all__ = ["LOG_CHOLESKY", "Chart", "Lengths"]


class Lengths(Protocol):
    """How long steps from some parameters are."""

    def scaled(self, steps: Array) -> Array:
        """Steps in coordinates whose plain Euclidean length is the step's.

        Half the square of an M-step's length is about what it gains at the least, in nats per row:
        so it is where lengths are measured by the Fisher information of the complete data, of which
        an M-step is the Newton step. Lengths say which directions weigh how much, and how much may
        be left to gain; no step is accepted by them.

        Parameters
        ----------
        steps : (n, P) float64

        Returns
        -------
        (n, Q) float64
        """


class Chart(Protocol):
    """Coordinates of a model's parameters; a value without state."""

    def to_vector(self, parameters: MixtureParameters) -> Array:
        """Coordinates, shape (P,); not finite where there are none (a weight of zero)."""

    def from_vector(self, vector: Array, like: MixtureParameters) -> MixtureParameters | None:
        """The parameters at some coordinates; None where they are out of reach of `like`.

        Parameters
        ----------
        vector : (P,) float64
            Any numbers, as extrapolation goes where it likes.
        like : MixtureParameters
            Of the kind that is asked for, with its shapes and all that coordinates do not say.
        """

    def metric(self, at: MixtureParameters) -> Lengths:
        """Lengths of steps from `at`."""


class _LogCholesky:
    """Centred log-weights, means, and Cholesky factors with their diagonals as logarithms."""

    def to_vector(self, parameters: MixtureParameters) -> Array:
        return to_vector(parameters)

    def from_vector(self, vector: Array, like: MixtureParameters) -> MixtureParameters | None:
        return from_vector(vector, like)

    def metric(self, at: MixtureParameters) -> Lengths:
        return Metric(at)


LOG_CHOLESKY: Chart = _LogCholesky()
"""The chart of Gaussian mixtures; every finite vector is one."""
