"""Parameters as a program reads them, and what is to be expected of its arithmetic.

Packed factors. *Full, tied*: the lower-triangular √½ Uᵀ in panels of some rows, each panel column
by column up to its last diagonal element, so that the E-step reads its numbers in their order.
*Diagonal, spherical*: for each group of four components and each feature, four factors and four
biases; *tied*, whose rows are white by then, four biases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.mixture.form import TIED
from dask_gmm.mixture.kernels.compiled.design import GROUP
from dask_gmm.mixture.kernels.differences import negligible
from dask_gmm.mixture.kernels.schemes import cancellation, log_constants
from dask_gmm.mixture.rounding import rounding
from dask_gmm.mixture.student import StudentParameters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.kernels.base import Candidate
    from dask_gmm.mixture.kernels.compiled.design import Design
    from dask_gmm.mixture.parameters import MixtureParameters

    Array = NDArray[np.float64]

__all__ = ["Packed", "may_share", "neighbours", "pack", "rounding"]

MOST_CANCELLATION = 400.0
"""Size of the terms of a covariance about c, in the covariance, from which they cancel too much."""

SMALLEST_SHARED_VARIANCE = 0.5 / MOST_CANCELLATION
"""The same for the covariance that was found: see `kernel`."""

_ROOT_HALF = np.sqrt(0.5)
_EPS = float(np.finfo(np.float64).eps)

Packed = dict[str, "Array"]
"""What `pack` returns: the fields of a candidate's record that hold numbers, by their names."""


def pack(design: Design, candidate: Candidate, centre: Array) -> Packed:
    """A candidate's numbers relative to `centre`, in float64."""
    parameters = candidate.parameters
    k, d = parameters.means.shape
    offset = parameters.means - centre
    grouped = -(-k // GROUP) * GROUP
    constants = np.zeros(grouped)
    tails: Packed = {}
    if isinstance(parameters, StudentParameters):
        tails = _tails(parameters)
    else:
        constants[:k] = log_constants(parameters)
    references = np.zeros((k, design.padded))
    references[:, :d] = candidate.reference - centre
    factors = np.zeros(0)
    inverse = _ROOT_HALF * parameters.precisions_cholesky
    if design.dense:
        lower = np.swapaxes(inverse, -1, -2)
        factors = _panels(design, lower)
        biases = -(lower @ offset[:, :, None])[:, :, 0]
        if parameters.form is TIED:
            biases = _in_groups(biases, grouped)
    else:
        diagonal = np.broadcast_to(inverse.reshape(k, -1), (k, d))
        both = _in_groups(diagonal, grouped), _in_groups(-diagonal * offset, grouped)
        biases = np.concatenate(both, axis=2)
    return {
        "factors": factors,
        "biases": biases,
        "constants": constants,
        "thresholds": negligible(parameters.weights, single=design.lanes.single),
        "references": references,
        **tails,
    }


def _tails(parameters: StudentParameters) -> Packed:
    """What makes t distributions of half squared distances, negative as they come."""
    degrees, d = parameters.degrees_of_freedom, parameters.n_features
    ratios = (degrees + d) / degrees
    return {
        "stretches": -2.0 / degrees,
        "powers": -0.5 * (degrees + d),
        "heights": log_constants(parameters) + parameters.log_constants,
        "ratios": ratios,
        "tops": np.log(ratios),
    }


def _panels(design: Design, lower: Array) -> Array:
    """(…, D, D) lower-triangular matrices, panel by panel; (…, numbers of a factor)."""
    parts = [
        np.swapaxes(lower[..., i : i + n, : i + n], -1, -2).reshape(*lower.shape[:-2], -1)
        for i, n in design.panels()
    ]
    return np.concatenate(parts, axis=-1)


def _in_groups(values: Array, grouped: int) -> Array:
    """(K, D) as [groups][D][GROUP], zeros for the components that fill up the last group."""
    k, d = values.shape
    full = np.zeros((grouped, d))
    full[:k] = values
    return full.reshape(-1, GROUP, d).transpose(0, 2, 1)


def may_share(design: Design, candidate: Candidate, centre: Array) -> bool:
    """Whether all components are so close to c that their moments may be gathered about it.

    The terms that add up to a covariance are then at most `MOST_CANCELLATION` times as large.
    """
    if not design.shares_products:
        return False
    size = cancellation(candidate.parameters, centre) / _EPS
    return size <= MOST_CANCELLATION


def neighbours(parameters: MixtureParameters) -> float:
    """Components that share in a row of a tied mixture, on average: those close to its own.

    Close is a squared distance of means of less than 200 in the metric of the covariance: further
    apart, a row of one is e⁻⁷⁰ of the other unless it lies far out.
    """
    white = parameters.means @ parameters.precisions_cholesky
    squares = np.einsum("kd,kd->k", white, white)
    distances = squares[:, None] + squares - 2.0 * white @ white.T
    return float(parameters.weights @ (distances < 200.0).sum(axis=1))
