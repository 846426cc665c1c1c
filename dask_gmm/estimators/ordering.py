"""`order=`: how the components of a fitted mixture are numbered."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import InputError
from dask_gmm.mixture.ordering import by_feature, by_principal_axis, by_weight

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dask_gmm.fitting.fit import FitReport
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.scaling import Scaling

__all__ = ["check_order", "in_order", "order_of", "refuse_with_order"]

_WEIGHT, _PRINCIPAL = "weight", "principal"
_MOST_NAMES = 10


def check_order(order: object, names: Sequence[str] | None, n_features: int) -> None:
    """Refuse an order that there is not for data of these features.

    Parameters
    ----------
    order : object
        As `GaussianMixture` takes it.
    names : sequence of str or None
        Of the data's features.
    n_features : int

    Raises
    ------
    InputError
    """
    if order is not None and order not in (_WEIGHT, _PRINCIPAL):
        _feature(order, names, n_features)


def refuse_with_order(estimator: Any, order: object) -> None:
    """Refuse an order where something is said of single components by their numbers.

    Raises
    ------
    InputError
    """
    if order is None:
        return
    if getattr(getattr(estimator, "prior", None), "of_each", False):
        raise InputError(
            f"order={order!r} would part components from priors of their own: leave it out, they "
            f"are in the order of the prior."
        )
    frozen = getattr(estimator, "frozen", None)
    if isinstance(frozen, dict):
        named = [of for of in frozen.values() if of is not True]  # True: of all components
    else:
        named = [frozen] if isinstance(frozen, str | Integral) else list(frozen or ())
    if not all(part is None or isinstance(part, str) for part in named):
        raise InputError(
            f"order={order!r} would number the components anew that frozen names: leave it out, or "
            f"sort the mixture afterwards by reordered."
        )


def order_of(
    parameters: MixtureParameters,
    scaling: Scaling | None,
    order: object,
    names: Sequence[str] | None,
) -> NDArray[np.intp]:
    """The components in an order: as `GaussianMixture` takes it, or a permutation; (K,).

    Raises
    ------
    InputError
        There is none such.
    """
    k = parameters.n_components
    if order is None:
        return np.arange(k)
    if not isinstance(order, str | Integral):
        return _permutation(order, k)
    if order == _WEIGHT:
        return by_weight(parameters)
    if order == _PRINCIPAL:
        return by_principal_axis(parameters)
    # Of a mixture of scaled rows where its means lie in the data's units.
    means = parameters.means if scaling is None else scaling.inverse(parameters.means)
    return by_feature(means, _feature(order, names, means.shape[1]))


def in_order(report: FitReport, order: object, names: Sequence[str] | None) -> FitReport:
    """What came of a fit, with the components of its best mixture in an order."""
    if order is None:
        return report
    best = report.best
    found = order_of(best.parameters, report.scaling, order, names)
    if np.array_equal(found, np.arange(len(found))):
        return report
    said = f"(Components are numbered here as in the fit; order={order!r} has sorted them since.)"
    mended = tuple(f"{note} {said}" for note in best.mended)
    parameters = best.parameters.reordered(found)
    kept = None if report.kept is None else report.kept.taken(found.tolist())
    return replace(report, best=replace(best, parameters=parameters, mended=mended), kept=kept)


def _feature(order: Any, names: Sequence[str] | None, n_features: int) -> int:
    """The number of the feature that an order names."""
    if isinstance(order, str):
        if names is not None and order in names:
            return list(names).index(order)
        known = "the data's features have no names: give its number"
        if names is not None:
            shown = ", ".join(map(repr, names[:_MOST_NAMES]))
            known = f"they are {shown}{', ...' if len(names) > _MOST_NAMES else ''}"
        raise InputError(
            f"order={order!r} is no order of components: give 'weight', 'principal' or a feature, "
            f"and {known}."
        )
    if isinstance(order, bool) or not isinstance(order, Integral):
        raise InputError(
            f"order={order!r} is no order of components: give 'weight', 'principal', or a feature "
            f"by its name or number."
        )
    number = int(order)
    if not 0 <= number < n_features:
        raise InputError(
            f"order={order!r} names no feature: the data have {n_features:,}, from 0 on."
        )
    return number


def _permutation(order: Any, n_components: int) -> NDArray[np.intp]:
    """A permutation of the components, as somebody gives it.

    Raises
    ------
    InputError
    """
    try:
        given = np.asarray(order)
    except ValueError:  # of lists that are no array
        given = np.empty(0)
    whole = given.shape == (n_components,) and given.dtype.kind in "iu"
    if not whole or not np.array_equal(np.sort(given), np.arange(n_components)):
        raise InputError(
            f"order={order!r} is no order of {n_components:,} components: give each of their "
            f"numbers once, or 'weight', 'principal', or a feature by its name or number."
        )
    return given.astype(np.intp)
