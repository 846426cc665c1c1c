"""What becomes of a component that collapses or empties during a fit.

With `reg_covar` of zero (or too small for the data's units) a component can close in on rows that
leave it no variance, and then there is no M-step; or it can lose all its rows to others. `MStep`
is the M-step with a rule for both, for every strategy of the loop to share:

- ``stop``: the fit ends with the parameters before, which are sound, and says which component.
- ``reseed``: the component starts again where the mixture fits worst.
- ``merge``: it is taken out and its rows go to the component that takes them at the least cost.
- ``raise``: the fit fails, as scikit-learn's does.

A mended step may lower the likelihood; a fit therefore never takes it for convergence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.errors import CollapsedComponentError
from dask_gmm.fitting.search.parts import part_of
from dask_gmm.mixture.gaps import has_gaps
from dask_gmm.mixture.imputation import expected_values
from dask_gmm.mixture.kernels import FASTEST
from dask_gmm.mixture.merging import absorb_component, take_components
from dask_gmm.mixture.parameters import MixtureParameters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.kernels import Kernel
    from dask_gmm.mixture.model import MixtureModel
    from dask_gmm.mixture.statistics import SufficientStatistics
    from dask_gmm.rows import Rows

    Array = NDArray[np.float64]

__all__ = ["ON_COLLAPSE", "MStep"]

ON_COLLAPSE = ("stop", "reseed", "merge", "raise")

_WORST_PART = 0.01
_MOST_WORST = 500


@dataclass(frozen=True)
class MStep:
    """The M-step of a strategy, mending what has collapsed.

    It says what it has mended and keeps no account of it: whoever calls it hands in what was mended
    before.

    Parameters
    ----------
    model : MixtureModel
        Whose M-step it is.
    on_collapse : {"stop", "reseed", "merge", "raise"}
        See the module; "stop" and "raise" only look at covariances, the other two also at
        components that hold less than one row.
    rows : Rows or None
        Rows to reseed from: a sample of the data. Without them "reseed" cannot mend.
    kernel : Kernel
        What computes the densities of those rows.
    """

    model: MixtureModel
    on_collapse: str = "stop"
    rows: Rows | None = None
    kernel: Kernel = FASTEST

    def __call__(
        self,
        statistics: SufficientStatistics,
        at: MixtureParameters | None = None,
        mended: tuple[str, ...] = (),
    ) -> tuple[MixtureParameters, tuple[str, ...]]:
        """Do the M-step.

        Parameters
        ----------
        statistics : SufficientStatistics
        at : MixtureParameters, optional
            Of the E-step (`MixtureModel.update`).
        mended : tuple of str
            A sentence for each component that this restart has had mended before.

        Returns
        -------
        MixtureParameters
        tuple of str
            `mended`, and a sentence for each component that was mended now.

        Raises
        ------
        CollapsedComponentError
            A covariance is not positive definite and the rule does not mend it, or all are, or
            components had to be reseeded more often than there are components.
        InputError
            A covariance is not finite: squares have overflowed.
        """
        if self.on_collapse in ("stop", "raise"):
            return self.model.update(statistics, at), mended
        empty = self._empty(statistics)
        try:
            if not empty:
                return self.model.update(statistics, at), mended
            bad = sorted({*empty, *self._collapsed(statistics, at)})
        except CollapsedComponentError:
            bad = self._collapsed(statistics, at)
            if not bad:
                raise
        if len(bad) == statistics.n_components:
            return self.model.update(statistics, at), mended  # nothing sound to mend it from
        if self.on_collapse == "merge":
            parameters, notes = self._merged(statistics, bad)
        else:
            parameters, notes = self._reseeded(statistics, at, bad, len(mended))
        return parameters, (*mended, *notes)

    def sound(
        self, statistics: SufficientStatistics, at: MixtureParameters | None = None
    ) -> MixtureParameters | None:
        """Return the parameters after the M-step; None if it would fail, or have to mend."""
        if self.on_collapse in ("reseed", "merge") and self._empty(statistics):
            return None
        try:
            return self.model.update(statistics, at)
        except CollapsedComponentError:
            return None

    def _empty(self, statistics: SufficientStatistics) -> list[int]:
        """Components that hold less than one row's weight, unless all do."""
        empty = np.flatnonzero(statistics.counts < statistics.row_weight).tolist()
        return empty if len(empty) < statistics.n_components else []

    def _collapsed(
        self, statistics: SufficientStatistics, at: MixtureParameters | None
    ) -> list[int]:
        """Components without a covariance of their own; none where all share one."""
        if statistics.form.shared:
            return []
        found = []
        for k in range(statistics.n_components):
            try:
                part = None if at is None else part_of(at, [k])
                self.model.update(take_components(statistics, [k]), part)
            except CollapsedComponentError:
                found.append(k)
        return found

    def _merged(
        self, statistics: SufficientStatistics, bad: list[int]
    ) -> tuple[MixtureParameters, list[str]]:
        notes = []
        for gone in reversed(bad):  # from the end, so that the numbers before it still hold
            statistics, into = absorb_component(statistics, gone, self.model)
            notes.append(
                f"Component {gone} collapsed and was merged into component {into}, which leaves "
                f"{statistics.n_components}."
            )
        return self.model.update(statistics), notes

    def _reseeded(
        self,
        statistics: SufficientStatistics,
        at: MixtureParameters | None,
        bad: list[int],
        before: int,
    ) -> tuple[MixtureParameters, list[str]]:
        k = statistics.n_components
        if self.rows is None or before + len(bad) > k:
            raise CollapsedComponentError(
                f"Component {bad[0]} collapsed, and "
                + (
                    "there is no sample of rows to put it back into."
                    if self.rows is None
                    else f"{before} components were reseeded before. Try to decrease "
                    f"the number of components, or increase reg_covar."
                )
            )
        sound = [j for j in range(k) if j not in bad]
        part = None if at is None else part_of(at, sound)
        parameters = self.model.update(take_components(statistics, sound), part)
        notes = []
        for gone in bad:
            mean = worst_place(self.rows, parameters, self.kernel)
            parameters = _with_component(parameters, gone, mean)
            notes.append(f"Component {gone} collapsed and was put where the mixture fits worst.")
        return parameters, notes


def worst_place(rows: Rows, parameters: MixtureParameters, kernel: Kernel = FASTEST) -> Array:
    """The row, of those with the lowest densities, that has most of the others near it.

    The single worst row is an outlier more often than not, and a component put there would collapse
    again. Near means within a pooled standard deviation or so, feature by feature.

    Returns
    -------
    (D,) float64
    """
    densities = kernel.log_densities(rows.values, parameters)
    d = parameters.n_features
    count = min(len(rows), _MOST_WORST, max(d + 1, int(_WORST_PART * len(rows))))
    worst = np.sort(np.argsort(densities, kind="stable")[:count])
    places = np.asarray(rows.values[worst], dtype=np.float64)
    if has_gaps(places):
        # A place has no gaps: what the row misses is put where the mixture expects it.
        places = expected_values(places, parameters, kernel.posteriors(places, parameters))
    scaled = places / np.sqrt(_pooled_variances(parameters))
    distances = np.square(scaled[:, None, :] - scaled[None, :, :]).mean(axis=2)
    near = np.exp(-0.5 * distances)
    crowd = near.sum(axis=1) if rows.weights is None else near @ rows.weights[worst]
    chosen: Array = places[int(np.argmax(crowd))]
    return chosen


def _pooled_variances(parameters: MixtureParameters) -> Array:
    """The components' variances averaged by weight, (D,)."""
    variances = parameters.form.diagonals(parameters.covariances, *parameters.means.shape)
    pooled: Array = parameters.weights @ variances
    return pooled


def _with_component(parameters: MixtureParameters, place: int, mean: Array) -> MixtureParameters:
    """The mixture with one more component, of the average covariance and an equal share."""
    family, k = parameters.family, parameters.n_components + 1
    share = 1.0 / k
    covariances = parameters.covariances
    if not family.form.shared:
        pooled = family.form.average(parameters.weights, covariances)
        covariances = np.insert(covariances, place, pooled, axis=0)
    weights = np.insert((1.0 - share) * parameters.weights, place, share)
    weights = weights / weights.sum()
    means = np.insert(parameters.means, place, mean, axis=0)
    covariances = family.nearest(weights, covariances, parameters.n_features)
    return MixtureParameters.create(family, weights, means, covariances)
