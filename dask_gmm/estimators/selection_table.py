"""What a selection returns: a row for each mixture of the grid, and the best."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Any

from dask.base import normalize_token

from dask_gmm.errors import InputError
from dask_gmm.estimators.shown import glance_of
from dask_gmm.fitting.events import Outcome
from dask_gmm.glance.selection import selection_html

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from dask_gmm.estimators.gaussian_mixture import GaussianMixture
    from dask_gmm.fitting.events import PassFinished
    from dask_gmm.fitting.record import FitRecord
    from dask_gmm.fitting.selection import PointResult
    from dask_gmm.fitting.timeline import Timeline
    from dask_gmm.glance.mixture import MixtureGlance
    from dask_gmm.inspection import Inspection

__all__ = ["Selection", "SelectionRow", "row_of"]


@dataclass(frozen=True)
class SelectionRow:
    """What came of one number of components with one covariance type.

    Attributes
    ----------
    n_components : int
    covariance_type : str
    n_parameters : int
        Free parameters.
    n_effective : float
        N of the criteria, of the rows trained on: their number, or Σ_n w_n of rows with weights,
        or its part of the `n_effective` that was given.
    log_likelihood : float
        Σ_n w_n log p(x_n) of the rows trained on, in nats, with weights that add up to N.
    score : float
        The same per row, or per unit of weight.
    bic, aic, icl : float
        Lower is better. ICL is BIC plus twice the entropy of the responsibilities.
    heldout : float or None
        Mean log-density of the rows held out, in nats; higher is better.
    passes : int
        Reads of the data that this mixture took part in.
    seconds : float
        Its share of their time.
    outcome : str
        'converged', 'max_iter', 'max_passes', 'max_bytes', 'collapsed', or 'dropped': not even
        a hundred times what it seemed to have left would have made it the best. Its numbers are
        those of its last pass.
    start : str
        Where the best start came from: a method, or "merged from K" components.
    acceleration : str or None
        What it was fitted with: 'variance-reduced', 'squarem', or None for plain EM.
    remaining_gain : float or None
        What the rise from `score` to its optimum may be, in nats per row, rather too much than too
        little; None where nobody knows.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_gmm import select_gaussian_mixture
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(m, 1.0, size=(500, 2)) for m in (-6.0, 0.0, 6.0)])
    >>> found = select_gaussian_mixture(X, range(2, 5), "diag", random_state=0)
    >>> [(row.n_components, row.n_parameters) for row in found.table]
    [(2, 9), (3, 14), (4, 19)]
    """

    n_components: int
    covariance_type: str
    n_parameters: int
    n_effective: float
    log_likelihood: float
    score: float
    bic: float
    aic: float
    icl: float
    heldout: float | None
    passes: int
    seconds: float
    outcome: str
    start: str
    acceleration: str | None
    remaining_gain: float | None

    def __dask_tokenize__(self) -> object:
        """Name the row for Dask: by what came of the mixture, not how long it took."""
        token: object = normalize_token((type(self), astuple(replace(self, seconds=0.0))))
        return token


@dataclass(frozen=True, repr=False)
class Selection:
    """What came of a selection.

    Attributes
    ----------
    criterion : str
    table : tuple of SelectionRow
        A row for each covariance type and number of components; ``pandas.DataFrame(s.table)``.
    best : SelectionRow
    best_model : GaussianMixture
        Fitted; it predicts and saves like any other.
    n_rows : int
        Rows of the data, those held out included.
    n_passes : int
        Full reads by the iterations.
    history : tuple of PassFinished
        One record a pass.
    seconds : float
    record : FitRecord or None
        Where the data came from and what the selection took, all its mixtures together.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_gmm import select_gaussian_mixture
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(m, 1.0, size=(500, 2)) for m in (-6.0, 0.0, 6.0)])
    >>> found = select_gaussian_mixture(X, range(2, 5), "diag", random_state=0)
    >>> found.best_n_components, found.best_covariance_type, found.criterion
    (3, 'diag', 'bic')
    >>> min(found.curve["diag"], key=found.curve["diag"].get)
    3
    >>> found.best_model.means_.round()[:, 0]
    array([ 6., -6.,  0.])
    """

    criterion: str
    table: tuple[SelectionRow, ...]
    best: SelectionRow
    best_model: GaussianMixture
    n_rows: int
    n_passes: int
    history: tuple[PassFinished, ...]
    seconds: float
    record: FitRecord | None = None

    @property
    def best_n_components(self) -> int:
        """K of the best."""
        return self.best.n_components

    @property
    def best_covariance_type(self) -> str:
        """Covariance type of the best."""
        return self.best.covariance_type

    @property
    def curve(self) -> dict[str, dict[int, float]]:
        """The criterion by number of components, for each covariance type."""
        curves: dict[str, dict[int, float]] = {}
        for row in self.table:
            curves.setdefault(row.covariance_type, {})[row.n_components] = self.value(row)
        return curves

    def value(self, row: SelectionRow) -> float:
        """The criterion of a row; NaN where it has none.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import select_gaussian_mixture
        >>> X = np.concatenate([np.linspace(-9, -7, 50), np.linspace(7, 9, 50)])[:, None]
        >>> found = select_gaussian_mixture(X, [1, 2], "full", random_state=0)
        >>> [found.value(row) == row.bic for row in found.table]
        [True, True]
        """
        found = getattr(row, self.criterion)
        return float("nan") if found is None else float(found)

    def report(
        self,
        path: str | os.PathLike[str],
        X: Any = None,
        *,
        inspection: Inspection | None = None,
        sample_weight: Any = None,
        where: Any = None,
        timeline: Timeline | None = None,
        labels: Any = None,
        overwrite: bool = False,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a page of the selection and its best mixture; as `GaussianMixture.report`.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import select_gaussian_mixture
        >>> rng = np.random.default_rng(0)
        >>> X = np.concatenate([rng.normal(m, 1.0, size=(200, 1)) for m in (-6.0, 6.0)])
        >>> found = select_gaussian_mixture(X, range(1, 4), "full", random_state=0)
        >>> found.report("selection.html", X, overwrite=True)
        """
        from dask_gmm.estimators.reported import report_of

        report_of(
            self.best_model,
            path,
            X,
            {"sample_weight": sample_weight, "where": where},
            selection=self,
            inspection=inspection,
            timeline=timeline,
            labels=labels,
            overwrite=overwrite,
            storage_options=storage_options,
        )

    def __dask_tokenize__(self) -> object:
        """Name the selection for Dask: by what it has found, not how long it took."""
        found = (self.criterion, self.table, self.best_model, self.n_rows, self.n_passes)
        token: object = normalize_token((type(self), found))
        return token

    @property
    def _head(self) -> str:
        best = self.best
        return (
            f"Selection by {self.criterion}: {best.n_components} components, "
            f"{best.covariance_type} covariance, of {len(self.table)} mixtures in "
            f"{self.n_passes} passes over {self.n_rows:,} rows"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        rows = [(row, self.value(row)) for row in self.table]
        try:
            best: MixtureGlance | str = glance_of(self.best_model)
        except InputError as error:  # somebody has changed it since
            best = str(error)
        return selection_html([self._head], self.criterion, rows, self.best, best)

    def __repr__(self) -> str:
        lines = [self._head, f"   {'K':>4}  {'type':<9}  {self.criterion:>18}  passes  outcome"]
        for row in self.table:
            mark = "→" if row is self.best else " "
            lines.append(
                f" {mark} {row.n_components:>4}  {row.covariance_type:<9}  "
                f"{self.value(row):>18,.4f}  {row.passes:>6}  {row.outcome}"
            )
        return "\n".join(lines)


def row_of(result: PointResult) -> SelectionRow:
    """What came of a point of the grid."""
    point, nan = result.point, float("nan")
    if result.best is None:
        return SelectionRow(
            n_components=point.n_components,
            covariance_type=point.family.name,
            n_parameters=0,
            n_effective=nan,
            log_likelihood=nan,
            score=nan,
            bic=nan,
            aic=nan,
            icl=nan,
            heldout=None,
            passes=0,
            seconds=0.0,
            outcome=Outcome.COLLAPSED.value,
            start="none",
            acceleration=result.acceleration,
            remaining_gain=None,
        )
    best, judged = result.best, result.best.judged
    criteria, end = judged.criteria, best.result
    return SelectionRow(
        n_components=point.n_components,
        covariance_type=point.family.name,
        n_parameters=judged.parameters.n_parameters,
        n_effective=criteria.n_effective,
        log_likelihood=criteria.log_likelihood,
        score=criteria.log_likelihood / criteria.n_effective,
        bic=criteria.bic,
        aic=criteria.aic,
        icl=criteria.icl,
        heldout=judged.heldout,
        passes=result.passes,
        seconds=result.seconds,
        outcome=end.outcome.value,
        start=best.origin,
        acceleration=result.acceleration,
        remaining_gain=end.remaining_gain,
    )
