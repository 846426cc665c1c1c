"""Splits: one component's rows, explained by two.

Where two components should be, one is a compromise between them, and mostly its rows are not as a
Gaussian's: stretched along an axis, flat on one (two humps have little kurtosis: the directions of
least and most of it are eigenvectors of E[|z|² z zᵀ] of the whitened rows z; Cardoso 1989), or too
many of them far out. Each way to begin divides the rows in two; all of them are fitted by EM to the
rows at the same time, and the best end is the split.

Where all components share one covariance ("tied"), both halves keep it: what another one would gain
these rows, others would lose. Where they share less, as shape or orientation, the halves have free
covariances of the form, and share it with all when they are put in place (`parts.mixture`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.errors import CollapsedComponentError, InputError
from dask_gmm.fitting.search.parts import climb_together
from dask_gmm.fitting.starts import responsibility_statistics
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.kernels import Candidate
from dask_gmm.mixture.parameters import MixtureParameters

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from dask_gmm.fitting.search.parts import Climbed, Update
    from dask_gmm.mixture.kernels import Kernel
    from dask_gmm.mixture.model import MixtureModel
    from dask_gmm.mixture.statistics import SufficientStatistics
    from dask_gmm.rows import Rows

    Array = NDArray[np.float64]
    Mask = NDArray[np.bool_]

__all__ = ["Split", "split_in_two"]

# EM steps of all ways to begin, and of the best of them.
_STEPS, _MORE_STEPS = 5, 10
_KEPT = 2
_TURNS_OF_TWO_MEANS = 4
# Parts of the rows, those nearest the mean, that leave the others to the second half: for tails,
# and for a few rows that lie far out.
_CORES = (0.5, 0.95)
# Directions with less of the variance than this are those of rows in a subspace.
_FLAT = 1e-12
# Rows of equal weight that a half needs, for each of its mean and covariance's directions.
_ROWS_PER_DIRECTION = 5.0


@dataclass(frozen=True)
class Split:
    """Two components for one.

    Attributes
    ----------
    component : int
    gain : float
        By how much they raise the log-likelihood at least, in nats per row of the sample; less what
        so many more parameters gain by fitting these rows and no others (Akaike 1974).
    halves : MixtureParameters
        Of two components.
    """

    component: int
    gain: float
    halves: MixtureParameters


def split_in_two(
    rows: Rows, one: MixtureParameters, model: MixtureModel, kernel: Kernel
) -> tuple[float, MixtureParameters] | None:
    """Fit two components to the rows of one.

    Parameters
    ----------
    rows : Rows
        What the component holds, with its responsibilities for weights.
    one : MixtureParameters
        It alone.
    model : MixtureModel
    kernel : Kernel

    Returns
    -------
    (float, MixtureParameters) or None
        The gain in nats per unit of weight of these rows, and the two; None if they are too few.
    """
    assert rows.weights is not None
    d = rows.values.shape[1]
    update = _update(one, model)
    starts = []
    for mask in _divisions(rows, rows.weights):
        halves = [np.flatnonzero(mask), np.flatnonzero(~mask)]
        if min(half.size for half in halves) <= d + 1:
            continue
        pieces = [(half, rows.weights[half]) for half in halves]
        try:
            starts.append(update(responsibility_statistics(rows, pieces, 2, one.form)))
        except (CollapsedComponentError, InputError):
            continue
    if not starts:
        return None

    def e_step(candidates: Sequence[Candidate]) -> Sequence[SufficientStatistics]:
        return kernel.statistics(rows, candidates)

    (before,) = e_step([Candidate(one)])

    def climbed(starts: Sequence[MixtureParameters], steps: int) -> list[Climbed]:
        ends = climb_together(e_step, starts, model, steps, update)
        return sorted((end for end in ends if end is not None), key=lambda end: -end.value)

    promising = [end.parameters for end in climbed(starts, _STEPS)[:_KEPT]]
    enough = _ROWS_PER_DIRECTION * (d + 1)
    ends = [
        end
        for end in climbed(promising, _MORE_STEPS)
        if end.parameters.weights.min() * rows.effective_size >= enough
    ]
    if not ends:
        return None
    best = ends[0]
    more = best.parameters.n_parameters - one.n_parameters
    gain = best.value - model.objective(before, one) - more / rows.effective_size
    return gain, best.parameters


def _update(one: MixtureParameters, model: MixtureModel) -> Update:
    """The M-step of the two that take a component's place."""
    if one.family.independent:
        return model.update
    if not one.form.shared:
        return model.of_family(covariance_family(one.form.name)).update
    both = np.zeros(2, dtype=np.intp)
    covariances = one.form.take(one.covariances, both)

    def held(statistics: SufficientStatistics) -> MixtureParameters:
        shifts = statistics.first / statistics.counts[:, None]
        weights = statistics.counts / statistics.counts.sum()
        return MixtureParameters.create(
            one.family, weights, statistics.reference + shifts, covariances
        )

    return held


def _whitened(rows: Rows, weights: Array) -> Array:
    """The rows in coordinates of unit variance, the longest axis last, (n, d) or fewer columns.

    The axes are those of the columns in units of their own standard deviations; columns and
    directions without variance are left out.
    """
    values = np.asarray(rows.values, dtype=np.float64)
    share = weights / weights.sum()
    centred = values - share @ values
    deviations = np.sqrt(share @ np.square(centred))
    some = deviations > 0.0
    scaled = centred[:, some] / deviations[some]
    variances, axes = np.linalg.eigh((scaled * share[:, None]).T @ scaled)
    wide = variances > _FLAT * variances.max(initial=0.0)
    white: Array = scaled @ axes[:, wide] / np.sqrt(variances[wide])
    return white


def _divisions(rows: Rows, weights: Array) -> Iterator[Mask]:
    """Divide the rows in two, in several ways; each is a mask of shape (n,)."""
    white, share = _whitened(rows, weights), weights / weights.sum()
    if not white.shape[1]:
        return
    yield white[:, -1] > 0.0
    squares = np.square(white).sum(axis=1)
    _, by_kurtosis = np.linalg.eigh((white * (share * squares)[:, None]).T @ white)
    if white.shape[1] > 1:
        yield white @ by_kurtosis[:, 0] > 0.0
        yield white @ by_kurtosis[:, -1] > 0.0
    for part in _CORES:
        yield squares > np.quantile(squares, part)
    yield _two_means(white, weights, squares)


def _two_means(white: Array, weights: Array, squares: Array) -> Mask:
    """Divide whitened rows by 2-means, from the two that lie farthest out and apart."""
    one = white[int(np.argmax(squares * weights))]
    other = white[int(np.argmax(np.square(white - one).sum(axis=1) * weights))]
    nearer = np.zeros(len(white), dtype=bool)
    for _ in range(_TURNS_OF_TWO_MEANS):
        nearer = (white - 0.5 * (one + other)) @ (one - other) > 0.0
        if nearer.all() or not nearer.any():
            break
        one = weights[nearer] @ white[nearer] / weights[nearer].sum()
        other = weights[~nearer] @ white[~nearer] / weights[~nearer].sum()
    return nearer
