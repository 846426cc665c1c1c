"""Rows drawn from a mixture."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.parameters import MixtureParameters

__all__ = ["sample_mixture"]


def sample_mixture(
    parameters: MixtureParameters, n_samples: int, random_state: np.random.RandomState
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Draw rows from a mixture, grouped by component.

    With x = μ + U⁻ᵀ z and z standard normal, x has covariance U⁻ᵀ U⁻¹ = Σ: the factor that every
    family already holds.

    Returns
    -------
    rows : (n_samples, D) float64
        Those that come from no component, noise, are the last.
    labels : (n_samples,) int64
        -1 for noise.

    Raises
    ------
    InputError
        n_samples is no integer, or < 1.
    """
    try:
        n_samples = operator.index(n_samples)
    except TypeError:
        raise InputError(
            f"Invalid value for 'n_samples': {n_samples!r}. It should be an integer, the number "
            f"of rows to draw."
        ) from None
    if n_samples < 1:
        raise InputError(
            f"Invalid value for 'n_samples': {n_samples} . The sampling requires at least one "
            f"sample."
        )
    k, d = parameters.means.shape
    weights = parameters.weights / parameters.weights.sum()
    beside = parameters.drawn_beside(n_samples, random_state)
    counts = random_state.multinomial(n_samples - len(beside), weights)
    rows = np.empty((n_samples, d))
    end = 0
    for j, count in enumerate(counts):
        begin, end = end, end + int(count)
        if count == 0:
            continue
        white = random_state.standard_normal(size=(count, d))
        scales = parameters.tail_scales(j, int(count), random_state)
        if scales is not None:
            white *= scales[:, None]
        part = parameters.form.colour(parameters.precisions_cholesky, j, white)
        np.add(parameters.means[j], part, out=rows[begin:end])
    rows[end:] = beside
    labels = np.repeat(np.arange(k, dtype=np.int64), counts)
    return rows, np.concatenate([labels, np.full(len(beside), -1, dtype=np.int64)])
