"""`Evidence`: all that a report knows of a fit, as one frozen value that findings are made from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.parameters import MixtureParameters, frozen_array
from dask_gmm.plotting.fitted import shown
from dask_gmm.report.geometry import Separation, separation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from dask_gmm.fitting.events import PassFinished
    from dask_gmm.fitting.record import FitRecord
    from dask_gmm.inspection import Inspection
    from dask_gmm.plotting.fitted import Shown
    from dask_gmm.scaling import Scaling
    from dask_gmm.shapes import ComponentShape

    Floats = NDArray[np.float64]

__all__ = ["Evidence", "parameters_of"]

_MOST_WORK = 2e9
"""K²D³ from which distances of all pairs would take seconds."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of a fitted mixture.

    Attributes
    ----------
    parameters : MixtureParameters
        Of scaled rows, where rows are scaled.
    names : tuple of str
        Of the D features that the mixture is of, as figures have them.
    settings : mapping
        The estimator's constructor arguments.
    outcome : str
        As `Outcome.value`.
    n_iter : int
    lower_bound : float
        Mean log-likelihood, in nats per row; of a posterior the bound per row.
    remaining_gain : float or None
        What the rise to the optimum may be, in nats per row; None where nobody knows.
    acceleration : str or None
    n_rows : int or None
        That were fitted.
    n_incomplete : int
        Rows that miss a value.
    data_names : tuple of str
        Of the data's features, which are others where a mixture is one of principal components.
    seen : Shown
        The mixture in the units that figures show.
    scaling : Scaling or None
    history : tuple of PassFinished
    record : FitRecord or None
    inspection : Inspection or None
    card : mapping or None
        The model card, where the estimator makes one.
    selection : Selection or None
        With `criterion`, `table`, `best`, `value(row)`.
    n_frozen : int
        Parameters that were left as they were given.
    """

    parameters: MixtureParameters
    names: tuple[str, ...]
    settings: Mapping[str, Any]
    outcome: str
    n_iter: int
    lower_bound: float
    remaining_gain: float | None
    acceleration: str | None
    n_rows: int | None
    n_incomplete: int
    data_names: tuple[str, ...]
    seen: Shown
    scaling: Scaling | None = None
    history: tuple[PassFinished, ...] = ()
    record: FitRecord | None = None
    inspection: Inspection | None = None
    card: Mapping[str, Any] | None = None
    selection: Any = None
    n_frozen: int = 0

    @classmethod
    def of(cls, gm: Any, inspection: Inspection | None = None, selection: Any = None) -> Evidence:
        """Gather what a fitted estimator, one read of its data, and a selection say."""
        parameters, seen = parameters_of(gm), shown(gm)
        gain = getattr(gm, "remaining_gain_", None)
        record = getattr(gm, "record_", None)
        rows = getattr(gm, "n_rows_", None)
        if rows is None and record is not None:
            rows = record.n_rows
        if rows is None and inspection is not None:
            rows = inspection.n_rows
        return cls(
            parameters=parameters,
            names=seen.names,
            seen=seen,
            data_names=_data_names(gm),
            settings={k: v for k, v in gm.get_params(deep=False).items() if k != "callbacks"},
            outcome=str(gm.outcome_),
            n_iter=int(gm.n_iter_),
            lower_bound=float(
                gm._bound_per_row() if hasattr(gm, "_bound_per_row") else gm.lower_bound_
            ),
            remaining_gain=None if gain is None or not isfinite(gain) else float(gain),
            acceleration=getattr(gm, "acceleration_", None),
            n_rows=rows,
            n_incomplete=int(getattr(gm, "n_incomplete_rows_", 0) or 0),
            scaling=getattr(gm, "scaling_", None),
            history=tuple(getattr(gm, "history_", ())),
            record=record if record is not None else getattr(selection, "record", None),
            inspection=inspection,
            card=gm.model_card() if hasattr(gm, "model_card") else None,
            selection=selection,
            n_frozen=int(getattr(gm, "n_frozen_", 0)),
        )

    @property
    def n_parameters(self) -> int:
        """Free parameters."""
        return self.parameters.n_parameters - self.n_frozen

    @property
    def shape(self) -> ComponentShape:
        """How rows of a component lie about its mean."""
        return self.parameters.shape

    @property
    def n_components(self) -> int:
        """K."""
        return self.parameters.n_components

    @property
    def n_features(self) -> int:
        """D."""
        return self.parameters.n_features

    @property
    def family(self) -> str:
        """What covariances share."""
        return self.parameters.family.name

    @cached_property
    def dense(self) -> Floats:
        """Σ_k as full matrices, (K, D, D)."""
        shape = self.n_components, self.n_features
        found = self.parameters.form.dense(self.parameters.covariances, *shape)
        return np.broadcast_to(found, (shape[0], shape[1], shape[1]))

    @cached_property
    def variances(self) -> Floats:
        """Of each component along each feature, (K, D)."""
        shape = self.n_components, self.n_features
        return self.parameters.form.diagonals(self.parameters.covariances, *shape)

    @cached_property
    def rows_of(self) -> Floats:
        """How many rows each component has, (K,); NaN where the number of rows is unknown.

        Of weighted rows their number times the component's part of the weight.
        """
        shares = self.parameters.weights
        if self.inspection is not None:
            shares = self.inspection.counts / self.inspection.weight
        return shares * (np.nan if self.n_rows is None else self.n_rows)

    @cached_property
    def total_deviations(self) -> Floats:
        """Standard deviation of each feature, (D,): of the rows, or else under the mixture."""
        if self.inspection is not None and len(self.inspection.sample) > 1:
            return _deviations(self.inspection.sample, self.inspection.sample_weights)
        weights, means = self.parameters.weights, self.parameters.means
        centred = means - weights @ means
        total: Floats = np.sqrt(weights @ (self.variances + centred * centred))
        return total

    @cached_property
    def separation(self) -> Separation | None:
        """How far apart components lie; None where they are many, or a matrix is singular."""
        k, d = self.n_components, self.n_features
        if k * k * d**3 > _MOST_WORK:
            return None
        try:
            found = separation(self.parameters.means, self.dense)
        except np.linalg.LinAlgError:
            return None
        return found if np.isfinite(found.distances).all() else None

    def as_read(self, rows: Floats) -> tuple[tuple[str, ...], Floats]:
        """Rows of the mixture as the data has them, (n, D), and the names of their features.

        Principal components, of which fewer may be left than there were features, stay such.
        """
        if self.scaling is None or self.scaling.principal is not None:
            return self.names, rows
        return self.data_names, self.scaling.inverse(rows)

    @property
    def height(self) -> str:
        """What `lower_bound` is: with a prior no likelihood."""
        if self.setting("prior") is not None:
            return "log-posterior"
        return self.parameters.objective_name

    def setting(self, name: str, default: Any = None) -> Any:
        """One of the estimator's arguments."""
        return self.settings.get(name, default)


def parameters_of(gm: Any) -> MixtureParameters:
    """The parameters of a fitted estimator, by its attributes; float64."""
    exact = getattr(gm, "_parameters", None)
    if exact is not None:
        found: MixtureParameters = exact()
        return found
    return MixtureParameters(
        covariance_family(gm.covariance_type, getattr(gm, "n_factors", None)),
        frozen_array(gm.weights_),
        frozen_array(gm.means_),
        frozen_array(gm.covariances_),
        frozen_array(gm.precisions_cholesky_),
    )


def _data_names(gm: Any) -> tuple[str, ...]:
    given = getattr(gm, "feature_names_in_", None)
    if given is not None:
        return tuple(str(name) for name in given)
    scaling = getattr(gm, "scaling_", None)
    count = np.shape(gm.means_)[1] if scaling is None else scaling.n_features
    return tuple(f"x{i}" for i in range(int(count)))


def _deviations(rows: Floats, weights: Floats | None) -> Floats:
    """Of the values that are there; 0 of a feature that has none."""
    there = ~np.isnan(rows)
    w = there * (1.0 if weights is None else weights[:, None])
    total = np.maximum(w.sum(axis=0), np.finfo(np.float64).tiny)
    filled = np.where(there, rows, 0.0)
    centred = filled - (w * filled).sum(axis=0) / total
    found: Floats = np.sqrt((w * centred**2).sum(axis=0) / total)
    return found
