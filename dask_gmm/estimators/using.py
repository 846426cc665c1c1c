"""What is asked of a fitted mixture, checked: features by name or number, values, thresholds."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.data.frames import as_frame, column_names_of
from dask_gmm.data.open_arrays import holds_arrays
from dask_gmm.data.open_features import is_dataset
from dask_gmm.data.tables.find import is_table
from dask_gmm.data.tables.open import is_arrow_dataset
from dask_gmm.data.taking_part import with_missing
from dask_gmm.errors import InputError
from dask_gmm.estimators.inputs import open_input
from dask_gmm.estimators.shown import feature_names
from dask_gmm.fitting.anomalies import AnomalyThreshold

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dask_gmm.data.source import Source

    Indices = NDArray[np.intp]

__all__ = [
    "checked_rate",
    "checked_top_k",
    "features_asked",
    "given_values",
    "is_whole",
    "named",
    "open_given",
    "threshold_from",
]

_MOST_NAMES = 20  # that a message lists


def features_asked(gm: Any, features: Any, what: str) -> Indices:
    """Return which features are meant, in the order in which they are named.

    Parameters
    ----------
    gm : estimator
        Fitted.
    features : str, int, or sequence of these
        Names, or numbers from 0; of a variable with levels its name stands for all of them.
    what : str
        The argument, for messages.

    Raises
    ------
    InputError
        A feature is not there or comes twice, or there are none.
    """
    single = isinstance(features, str | Integral)
    try:
        asked = [features] if single else list(features)
    except TypeError:
        raise InputError(
            f"{what}={features!r} names no features: give a list of their names or numbers."
        ) from None
    found = [i for feature in asked for i in _indices(gm, feature, what)]
    if not found:
        raise InputError(f"{what} is empty: name one feature or more.")
    twice = [i for i in found if found.count(i) > 1]
    if twice:
        raise InputError(f"{what} names feature {named(gm, twice[0])!r} twice.")
    return np.array(found, dtype=np.intp)


def named(gm: Any, feature: int) -> str:
    """Return what a feature is called."""
    names = feature_names(gm)
    return f"feature {feature}" if names is None else names[feature]


def given_values(gm: Any, given: Any) -> tuple[Indices, NDArray[np.float64]]:
    """Return which features are given, and their values.

    Raises
    ------
    InputError
        It is no mapping of features to numbers, or all features are given.
    """
    if not isinstance(given, Mapping):
        raise InputError(
            f"given is a {type(given).__name__}; give the values of features by their names or "
            f"numbers, such as given={{{_example(gm)!r}: 1.0}}."
        )
    features, values = [], []
    for feature, value in given.items():
        own = _indices(gm, feature, "given")
        if len(own) > 1:
            raise InputError(
                f"given names {feature!r}, which are {len(own)} features: give each of them, such "
                f"as {named(gm, own[0])!r}."
            )
        number = isinstance(value, Real) and not isinstance(value, bool | np.bool_)
        if not (number and np.isfinite(float(value))):
            raise InputError(f"given[{feature!r}] is {value!r}: give a finite number.")
        features.append(own[0])
        values.append(float(value))
    found = features_asked(gm, features, "given")
    if len(found) == gm.n_features_in_:
        raise InputError("given has all features, so that nothing is left: leave some out.")
    return found, np.array(values)


def checked_top_k(k: Any, n_components: int) -> int:
    """Return how many components are asked for.

    Raises
    ------
    InputError
    """
    if not (is_whole(k) and 1 <= int(k) <= n_components):
        raise InputError(
            f"top_k is {k!r}: give a whole number from 1 to {n_components}, the number of "
            f"components."
        )
    return int(k)


def checked_rate(rate: Any) -> float:
    """Return a false-alarm rate.

    Raises
    ------
    InputError
    """
    number = isinstance(rate, Real) and not isinstance(rate, bool | np.bool_)
    if not (number and 0.0 < float(rate) < 1.0):
        raise InputError(
            f"false_alarm_rate={rate!r} is no part of the rows: give a number between 0 and 1, "
            f"such as 0.001."
        )
    return float(rate)


def threshold_from(threshold: Any) -> float:
    """Return a threshold's log-density.

    Raises
    ------
    InputError
    """
    if isinstance(threshold, AnomalyThreshold):
        return threshold.log_density
    number = isinstance(threshold, Real) and not isinstance(threshold, bool | np.bool_)
    if not number or np.isnan(float(threshold)):
        raise InputError(
            f"The threshold is {threshold!r}: give a log-density in nats, or what "
            f"anomaly_threshold returns."
        )
    return float(threshold)


def open_given(
    gm: Any, X: Any, given: Indices, where: Any = None
) -> tuple[Source, tuple[int, ...] | None]:
    """Describe data that have the given features, or all; return where the given ones are in these.

    None where the data have no others. Of tables and Datasets, which name their columns, the given
    ones are taken by name and nothing else is read; other data have all features of the mixture in
    their order, or the given ones in theirs. What the other features hold does not matter.

    Raises
    ------
    InputError
        The data have other features.
    """
    names, probe = feature_names(gm), copy.copy(gm)
    own = None if names is None else [names[i] for i in given.tolist()]
    probe.missing = "error"
    if own is not None and _names_columns(gm, X):
        probe.columns = own
    elif own is not None and _names_variables(gm, X, own):
        probe.features = own
    elif not isinstance(X, str | os.PathLike):
        probe.columns = None
    source = open_input(probe, X, where=where, reset=True, fewest_rows=1)
    found = feature_names(probe)
    if source.n_features == len(given):
        _check_names(found, own)
        return with_missing(source, "error"), None
    if source.n_features == gm.n_features_in_:
        _check_names(found, None if names is None else list(names))
        return with_missing(source, "error"), tuple(given.tolist())
    raise InputError(
        f"{source.name} has {source.n_features} features; it is to have the {len(given)} that are "
        f"given, in their order, or all {gm.n_features_in_} of the mixture."
    )


def _names_columns(gm: Any, X: Any) -> bool:
    """Whether columns of X are taken by their names."""
    if holds_arrays(X):
        return False
    if isinstance(X, str | os.PathLike):
        return gm.columns is not None or is_table(os.fspath(X))
    return is_arrow_dataset(X) or column_names_of(as_frame(X)) is not None


def _names_variables(gm: Any, X: Any, names: Sequence[str]) -> bool:
    """Whether features are variables, each of which is one, that are taken by their names."""
    if is_dataset(X):
        return all(name in X.data_vars for name in names)
    return gm.features is not None and set(names) <= set(gm.features)


def _check_names(found: Sequence[str] | None, expected: Sequence[str] | None) -> None:
    if found is None or expected is None or list(found) == list(expected):
        return
    pairs = zip(found, expected, strict=True)
    i = next(i for i, (name, other) in enumerate(pairs) if name != other)
    raise InputError(
        f"Feature {i} of X is called {found[i]!r}, where {expected[i]!r} is to be. Select and "
        f"order the given features, or all of the fit."
    )


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number, which true and false are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _indices(gm: Any, feature: Any, what: str) -> list[int]:
    """Return the features that a name or a number means."""
    d, names = int(gm.n_features_in_), feature_names(gm)
    if is_whole(feature):
        if -d <= int(feature) < d:
            return [int(feature) % d]
        raise InputError(
            f"{what} names feature {feature}, but features are numbered from 0 to {d - 1}."
        )
    if not isinstance(feature, str):
        raise InputError(f"{what} has {feature!r} for a feature: give its name or its number.")
    if names is None:
        raise InputError(
            f"{what} names the feature {feature!r}, but the mixture was fitted to data whose "
            f"features have no names: give its number, from 0 to {d - 1}."
        )
    found = [i for i, name in enumerate(names) if name == feature]
    found = found or [i for i, name in enumerate(names) if name.startswith(f"{feature}[")]
    if found:
        return found
    shown = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
    raise InputError(f"{what} names the feature {feature!r}; the features are {shown}.")


def _example(gm: Any) -> str | int:
    names = feature_names(gm)
    return 0 if names is None else names[0]
