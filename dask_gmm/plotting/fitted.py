"""What figures need of a fitted mixture, and the units that they show it in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Integral
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dask_gmm.errors import InputError
from dask_gmm.inspection import Inspection as LookedAt
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.low_rank import LowRank
from dask_gmm.shapes import GAUSSIAN, StudentShape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dask_gmm.inspection import Inspection
    from dask_gmm.mixture.form import CovarianceForm
    from dask_gmm.scaling import Scaling
    from dask_gmm.shapes import ComponentShape

    Array = NDArray[np.float64]

__all__ = [
    "Chosen",
    "Fitted",
    "Shown",
    "Traced",
    "check_fitted",
    "coordinate_of",
    "shape_of",
    "shown",
    "taken_of",
]


class Fitted(Protocol):
    """A fitted mixture: an estimator, or anything else with scikit-learn's fitted attributes.

    `history_`, `record_`, `remaining_gain_`, `scaling_`, `feature_names_in_`, `tol` and `stopping`
    are used where they are there.
    """

    covariance_type: Any
    weights_: Any
    means_: Any
    covariances_: Any


class Chosen(Protocol):
    """What came of a selection: `dask_gmm.Selection` describes its attributes."""

    @property
    def criterion(self) -> str:
        """Which number was compared."""

    @property
    def table(self) -> tuple[Any, ...]:
        """A row for each mixture."""

    @property
    def best(self) -> Any:
        """The row that was chosen."""


class Traced(Protocol):
    """An observer of a fit that has kept what its threads did when: `dask_gmm.Timeline`."""

    @property
    def passes(self) -> Sequence[Any]:
        """`PassTraced` of each pass."""

    @property
    def stages(self) -> Sequence[tuple[str, float, float]]:
        """Name, seconds since 1970 and duration of what came before the passes."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A fitted mixture in the units that figures show, which are the data's as far as can be.

    Standardised rows are shown as they were before that, whose map keeps ellipses ellipses. Where
    ``log1p`` or ``arcsinh`` was taken a feature is called so, and its axis is in those units: in
    the data's own a Gaussian would be none. Principal components are shown as such.

    Attributes
    ----------
    weights : (K,) float64
    means, deviations : (K, D) float64
        D features of the rows that the mixture is of; deviations are the roots of the diagonals of
        Σ_k, of t distributions their scales.
    names : tuple of str
        Of those features.
    scale, offset : (D,) float64
        Shown values are those of the mixture's rows times `scale` plus `offset`.
    shape : ComponentShape
    """

    weights: Array
    means: Array
    deviations: Array
    names: tuple[str, ...]
    scale: Array
    offset: Array
    shape: ComponentShape
    _form: CovarianceForm
    _covariances: Array

    @property
    def n_components(self) -> int:
        """K."""
        return len(self.weights)

    @property
    def n_features(self) -> int:
        """D, of the rows that the mixture is of."""
        return int(self.means.shape[1])

    def densities(self, x: Array, feature: int) -> Array:
        """Return each component's density of a feature, (K, n) at n places, without its weight."""
        m, s = self.means[:, feature], self.deviations[:, feature]
        found: Array = self.shape.density((x[:, None] - m) / s).T / s[:, None]
        return found

    def values(self, rows: Array, feature: int) -> Array:
        """Return a feature of the mixture's rows, (n, D), in the units shown; NaN stays NaN."""
        found: Array = rows[:, feature] * self.scale[feature] + self.offset[feature]
        return found

    def covariance(self, component: int, first: int, second: int) -> float:
        """Return a component's covariance of two features, in the units shown."""
        if first == second:
            return float(self.deviations[component, first] ** 2)
        if isinstance(self._form, LowRank):
            one, other = self._covariances[component, [first, second], 1:]
            return float(one @ other * self.scale[first] * self.scale[second])
        if not self._form.dense_factors:
            return 0.0
        matrix = self._covariances if self._form.shared else self._covariances[component]
        return float(matrix[first, second] * self.scale[first] * self.scale[second])

    def index(self, feature: Any) -> int:
        """Return which feature somebody means by a name or an index.

        Raises
        ------
        InputError
            None.
        """
        if isinstance(feature, str):
            for names in (self.names, self._plain_names):
                if feature in names:
                    return names.index(feature)
            like = get_close_matches(feature, self.names, n=3, cutoff=0.4) or self.names[:3]
            raise InputError(
                f"features holds {feature!r}, which the mixture does not know; it has "
                f"{self.n_features}, such as {', '.join(map(repr, like))}."
            )
        if type(feature) is bool or not isinstance(feature, Integral):
            raise InputError(
                f"features holds {feature!r}: give names of features, or their indices from 0 on."
            )
        at = int(feature)
        if not -self.n_features <= at < self.n_features:
            raise InputError(
                f"features holds {at}, but the mixture has {self.n_features} "
                f"feature{'s' * (self.n_features > 1)}, counted from 0."
            )
        return at % self.n_features

    @property
    def _plain_names(self) -> tuple[str, ...]:
        """Names without what was taken of them: of ``arcsinh(CD4/150)`` that in the middle."""
        return tuple((taken_of(name) or (name,))[0] for name in self.names)


_TAKEN = re.compile(r"^(log1p|arcsinh)\((.*?)(/[0-9.e+-]+)?\)$")
_COORDINATE = re.compile(r"^(?P<variable>.+)\[(?:(?P<axis>[^=\[\]]+)=)?(?P<value>[^=\[\]]+)\]$")


def coordinate_of(name: str) -> tuple[str, str | None, str] | None:
    """Return variable, dimension and label of a name such as ``TEMP[depth=5.0]``, or None.

    The dimension is None in names such as ``TEMP[3]``, which have an index only.
    """
    found = _COORDINATE.match(name)
    return found and (found["variable"], found["axis"], found["value"])


def taken_of(name: str) -> tuple[str, str] | None:
    """Return a feature's own name and what was taken of it: ``("CD4", "arcsinh(·/150)")``."""
    found = _TAKEN.match(name)
    return found and (found[2], f"{found[1]}(·{found[3] or ''})")


def check_fitted(gm: Any) -> None:
    """Raise what scikit-learn raises where a mixture is asked for something before its fit.

    Raises
    ------
    sklearn.exceptions.NotFittedError (a ValueError)
        It is not fitted.
    InputError
        It is an inspection.
    """
    if all(hasattr(gm, name) for name in ("weights_", "means_", "covariances_")):
        return
    if isinstance(gm, LookedAt):
        raise InputError("The mixture comes first, and then its inspection: give them in turn.")
    from sklearn.exceptions import NotFittedError

    raise NotFittedError(
        f"This {type(gm).__name__} instance is not fitted yet. Call 'fit' with appropriate "
        f"arguments before drawing it."
    )


def shown(gm: Fitted, inspection: Inspection | None = None) -> Shown:
    """Return a fitted mixture in the units that figures show.

    Parameters
    ----------
    gm : fitted mixture
    inspection : Inspection, optional
        Is looked at: whether it is of a mixture of as many components and features.

    Raises
    ------
    sklearn.exceptions.NotFittedError (a ValueError)
        It is not fitted.
    InputError
        The inspection is another mixture's, or `covariance_type` was changed after the fit.
    """
    check_fitted(gm)
    weights, means, covariances = (
        np.asarray(a, np.float64) for a in (gm.weights_, gm.means_, gm.covariances_)
    )
    K, D = means.shape
    form = covariance_family(gm.covariance_type, getattr(gm, "n_factors", None)).form
    if covariances.shape != form.covariance_shape(K, D):
        raise InputError(
            f"The mixture's covariances have shape {covariances.shape}, which is none of "
            f"covariance_type={gm.covariance_type!r}: it was changed after the fit."
        )
    if inspection is not None:
        _check_inspection(inspection, K, D)
    scale, offset = np.ones(D), np.zeros(D)
    scaling: Scaling | None = getattr(gm, "scaling_", None)
    if scaling is not None and scaling.principal is None and scaling.standard is not None:
        scale, offset = scaling.standard.scale, scaling.standard.center
    return Shown(
        weights=weights,
        means=means * scale + offset,
        deviations=np.sqrt(form.diagonals(covariances, K, D)) * scale,
        names=_names(gm, scaling, D),
        scale=scale,
        offset=offset,
        shape=shape_of(gm),
        _form=form,
        _covariances=covariances,
    )


def shape_of(gm: Any) -> ComponentShape:
    """How rows of a fitted mixture's components lie about their means."""
    degrees = getattr(gm, "degrees_of_freedom_", None)
    if degrees is None or hasattr(gm, "mean_precision_"):  # those of a Wishart distribution
        return GAUSSIAN
    return StudentShape(np.asarray(degrees, np.float64))


def _check_inspection(inspection: Inspection, K: int, D: int) -> None:
    if not isinstance(inspection, LookedAt):
        raise InputError(
            f"inspection is {type(inspection).__name__}; figures are drawn of what one read has "
            f"found, not of the data: give gm.inspect(X)."
        )
    found, features = len(inspection.counts), len(inspection.feature_edges)
    if (found, features) != (K, D):
        raise InputError(
            f"The inspection is of {found} components of {features} features and the mixture has "
            f"{K} of {D}: inspect the data with this mixture."
        )


def _names(gm: Any, scaling: Scaling | None, n: int) -> tuple[str, ...]:
    """What features are called, with what was taken of them."""
    if scaling is not None and scaling.principal is not None:
        return tuple(f"PC {d + 1}" for d in range(n))
    given = getattr(gm, "feature_names_in_", None)
    names = [f"x{d}" for d in range(n)] if given is None else [str(name) for name in given]
    if scaling is None or scaling.elementwise is None:
        return tuple(names)
    taken = zip(names, scaling.elementwise.kinds, scaling.elementwise.cofactors, strict=True)
    return tuple(_taken(name, kind, float(cofactor)) for name, kind, cofactor in taken)


def _taken(name: str, kind: str, cofactor: float) -> str:
    if not kind:
        return name
    return f"{kind}({name})" if cofactor == 1.0 else f"{kind}({name}/{cofactor:g})"
