"""From what a user passes as `X` to a source, with scikit-learn's checks where they apply."""

from __future__ import annotations

import hashlib
import os
import warnings
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from dask.base import is_dask_collection
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data
from zarr.abc.store import Store

from dask_gmm.data.conventions import attributes_of
from dask_gmm.data.conversion import frame_layout, plain_array
from dask_gmm.data.frames import as_frame, column_names_of, narrowed
from dask_gmm.data.open_arrays import each_of, holds_arrays
from dask_gmm.data.open_encoded import is_anndata
from dask_gmm.data.open_features import is_dataset
from dask_gmm.data.open_weights import beside_rows
from dask_gmm.data.output_begin import RESUME
from dask_gmm.data.source import (
    Source,
    is_remote,
    open_memory,
    open_source,
)
from dask_gmm.data.sparse_source import is_sparse
from dask_gmm.data.stores import ChunkPolicies
from dask_gmm.data.tables.columns import check_names
from dask_gmm.data.tables.open import is_arrow_dataset
from dask_gmm.data.taking_part import with_missing
from dask_gmm.data.telltale_names import doubtful_features
from dask_gmm.data.urls import check_options, scheme_of
from dask_gmm.errors import FeaturesWarning, InputError
from dask_gmm.fitting.checkpoint import Checkpoint
from dask_gmm.fitting.search.choice import asked_search
from dask_gmm.scaling import ScalingRequest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from dask_gmm.mixture.prior import Prior

__all__ = [
    "check_n_effective",
    "checkpoint_at",
    "keeping_features",
    "open_input",
    "refuse_given_components",
    "refuse_with_frozen",
    "refuse_with_prior",
    "scaling_asked",
]

_MOST_NAMES = 20  # that a message lists


def check_n_effective(n_effective: object) -> None:
    """Refuse a number of independent observations that is none.

    Raises
    ------
    InputError
    """
    number = isinstance(n_effective, Real) and not isinstance(n_effective, bool)
    if not (number and 0.0 < n_effective < float("inf")):  # type: ignore[operator]
        raise InputError(
            f"n_effective={n_effective!r} is no number of observations: give a positive number, or "
            f"leave it out for the sum of the weights."
        )


def checkpoint_at(
    url: str | os.PathLike[str] | None,
    resume: str,
    storage_options: Mapping[str, Any] | None,
    random_state: Any,
    missing_chunks: str | Mapping[str, str],
) -> Checkpoint | None:
    """Where a fit is to commit, None for nowhere.

    Raises
    ------
    InputError
        `url` is no place, or `resume` is unknown.
    """
    if resume not in RESUME:
        raise InputError(f"resume={resume!r} is unknown; choose one of {', '.join(RESUME)}.")
    if url is None:
        if resume == "must":
            raise InputError('resume="must" needs a checkpoint: say where it is by checkpoint=.')
        return None
    if not isinstance(url, str | os.PathLike):
        raise InputError(f"checkpoint={url!r} is no place: give a path or a URL.")
    place = os.fspath(url)
    if not place:
        raise InputError("checkpoint is empty: give a path or a URL.")
    options = None if scheme_of(place) in {"file", "local"} else storage_options
    return Checkpoint(
        place, options, resume, _draws(random_state), ChunkPolicies.of(missing_chunks).words
    )


def _draws(random_state: Any) -> int | str | None:
    """What tells a `random_state` from others; None where it is left open."""
    if random_state is None or isinstance(random_state, Integral):
        return None if random_state is None else int(random_state)
    kind, keys, *rest = random_state.get_state(legacy=True)
    return hashlib.sha256(repr((kind, keys.tolist(), rest)).encode()).hexdigest()[:16]


def scaling_asked(estimator: Any) -> ScalingRequest | None:
    """What an estimator is to do to rows before the mixture sees them; None for nothing.

    Raises
    ------
    InputError
    """
    return ScalingRequest.of(
        estimator.feature_transform,
        estimator.standardize,
        estimator.n_pca,
        whiten=estimator.whiten,
        scaling_from=estimator.scaling_from,
        missing=estimator.missing,
    )


def refuse_given_components(estimator: Any, scaling: ScalingRequest) -> None:
    """Refuse starts in coordinates whose number the data are to decide.

    Raises
    ------
    InputError
    """
    given = (estimator.means_init, estimator.precisions_init)
    if isinstance(scaling.n_pca, float) and any(start is not None for start in given):
        raise InputError(
            f"means_init and precisions_init are of the principal components, and "
            f"n_pca={scaling.n_pca} leaves their number to the data: give a whole number."
        )


def refuse_with_prior(estimator: Any, prior: Prior) -> None:
    """Refuse what cannot be asked for beside a prior.

    Raises
    ------
    InputError
    """
    arrays = (prior.mean, prior.scale)
    if isinstance(estimator.n_pca, float) and any(isinstance(a, np.ndarray) for a in arrays):
        raise InputError(
            f"The prior's mean and scale are of the principal components, and "
            f"n_pca={estimator.n_pca} leaves their number to the data: give a whole number."
        )
    if not prior.of_each:
        return
    if estimator.on_collapse in ("reseed", "merge"):
        raise InputError(
            f"on_collapse={estimator.on_collapse!r} moves components about, and the prior is one "
            f"for each of them: take on_collapse='stop', or a prior that all have in common."
        )
    if asked_search(estimator.search) not in ("auto", "off"):
        raise InputError(
            f"search={estimator.search!r} moves components about, and the prior is one for each "
            f"of them: take search='off', or a prior that all have in common."
        )


def refuse_with_frozen(estimator: Any) -> None:
    """Refuse what cannot be asked for beside parts that stay as they are given.

    Raises
    ------
    InputError
    """
    if estimator.on_collapse in ("reseed", "merge"):
        raise InputError(
            f"on_collapse={estimator.on_collapse!r} moves components about, and frozen says which "
            f"of them stay: take on_collapse='stop'."
        )


@contextmanager
def keeping_features(estimator: Any) -> Iterator[None]:
    """Put the description of the features back if a fit fails, so that it fits the parameters."""
    names = ("n_features_in_", "feature_names_in_")
    before = {name: getattr(estimator, name) for name in names if hasattr(estimator, name)}
    try:
        yield
    except BaseException:
        if hasattr(estimator, "precisions_cholesky_"):
            for name in names:
                if hasattr(estimator, name):
                    delattr(estimator, name)
            vars(estimator).update(before)
        raise


def open_input(
    estimator: Any,
    X: Any,
    sample_weight: Any = None,
    where: Any = None,
    *,
    reset: bool,
    checkpoint: Checkpoint | None = None,
    fewest_rows: int | None = None,
) -> Source:
    """Describe the data that an estimator is given, and check or set its features.

    Of rows and columns in memory there are `fewest_rows` at least: two for a fit, else one. Storage
    options that the checkpoint takes may mean nothing to the data.

    Two-dimensional data in memory go through scikit-learn's own validation, so that its users
    meet its messages and feature names; everything else is opened by its metadata.

    Warns
    -----
    FeaturesWarning
        Of features to be fitted a name says that they are none.

    Raises
    ------
    InputError
        The data cannot be used, or have another number of features than those that were fitted.
    """
    source = _opened(
        estimator,
        X,
        sample_weight,
        where,
        reset=reset,
        checkpoint=checkpoint,
        fewest_rows=fewest_rows,
    )
    if reset:
        chosen = estimator.columns is not None or estimator.features is not None
        doubt = doubtful_features(source, estimator.feature_axis, chosen=chosen)
        if doubt is not None:
            warnings.warn(doubt, FeaturesWarning, stacklevel=4)
    return source


def _opened(
    estimator: Any,
    X: Any,
    sample_weight: Any,
    where: Any,
    *,
    reset: bool,
    checkpoint: Checkpoint | None,
    fewest_rows: int | None,
) -> Source:
    options = estimator.storage_options
    check_options(options)  # nobody should find out on a cluster that keys are not taken
    many = holds_arrays(X)
    places = [place for given in (X, sample_weight, where) for place in each_of(given)]
    if checkpoint is not None and checkpoint.storage_options:
        options = options if any(map(is_remote, places)) else None
    columns = check_names(estimator.columns)
    if not (many or isinstance(X, str | os.PathLike) or is_arrow_dataset(X)):
        X = as_frame(X)
        if not reset and column_names_of(X) is None:
            columns = None  # rows as they were fitted, from where no names are known
        X, (sample_weight, where) = narrowed(X, columns, [sample_weight, where])
        columns = None
    in_memory = not (many or _is_lazy(X)) and _is_plain(X, estimator.feature_axis)
    if in_memory:
        fewest = fewest_rows or (2 if reset else 1)
        source: Source = open_memory(X, _plain_rows(estimator, X, fewest, reset=reset))
        layout = frame_layout(X)
        if layout is not None and estimator.feature_axis not in (0, -2):
            source = replace(source, feature_names=layout.names)  # type: ignore[type-var]
        source = with_missing(source, estimator.missing)
        policies = ChunkPolicies.of(estimator.missing_chunks)
        return beside_rows(source, sample_weight, where, options, policies)
    source = open_source(
        X,
        feature_axis=estimator.feature_axis,
        storage_options=options
        if any(isinstance(place, str | os.PathLike) for place in places)
        else None,
        missing_chunks=estimator.missing_chunks,
        array=estimator.array if many or _is_place(X) else None,
        sample_weight=sample_weight,
        features=estimator.features if many or is_dataset(X) or _is_place(X) else None,
        where=where,
        columns=columns,
        arrays=estimator.arrays if _is_place(X) else None,
        fitted_columns=None if reset else getattr(estimator, "feature_names_in_", None),
    )
    _check_features(estimator, source, reset=reset)
    return with_missing(source, estimator.missing)


def _plain_rows(estimator: Any, X: Any, fewest: int, *, reset: bool) -> NDArray[Any]:
    """Return rows and columns in memory as scikit-learn checks them, and check or set features."""
    values = plain_array(X, "X")
    values = values.T if estimator.feature_axis in (0, -2) else values
    frame = frame_layout(X) is not None
    # Attributes speak of elements of the type that is stored.
    own_type = isinstance(X, np.ndarray) or (not frame and bool(attributes_of(X)))
    integers = own_type and values.dtype.kind in "iub"
    checks: dict[str, Any] = {
        "dtype": None if integers else [np.float64, np.float32],
        "ensure_min_samples": fewest,
        "ensure_all_finite": False,  # the kernels look as they read: no pass for it alone
    }
    if frame and estimator.feature_axis not in (0, -2):
        validate_data(estimator, X, reset=reset, skip_check_array=True)  # the columns' names
        rows = check_array(values, estimator=estimator, **checks)
    else:
        rows = validate_data(estimator, values, reset=reset, **checks)
    checked: NDArray[Any] = rows
    return checked


def _is_lazy(X: Any) -> bool:
    """Whether X names or describes data instead of holding them dense."""
    return (
        isinstance(X, str | os.PathLike | zarr.Array | zarr.Group | Store)
        or is_dask_collection(X)
        or is_arrow_dataset(X)
        or type(X).__module__.startswith("xarray.")
        or is_sparse(X)
        or is_anndata(X)
    )


def _is_place(X: Any) -> bool:
    """Whether X may hold several arrays of which one, or some, are named."""
    return isinstance(X, str | os.PathLike | zarr.Group | Store)


def _is_plain(X: Any, feature_axis: int | str) -> bool:
    """Whether X is something that scikit-learn knows: rows and columns, in memory."""
    known_axis = isinstance(feature_axis, str) or feature_axis in (-2, -1, 0, 1)
    return known_axis and getattr(X, "ndim", 2) <= 2


def _check_features(estimator: Any, source: Source, *, reset: bool) -> None:
    names = source.feature_names
    if reset:
        estimator.n_features_in_ = source.n_features
        if names is not None:
            estimator.feature_names_in_ = np.asarray(names, dtype=object)
        elif hasattr(estimator, "feature_names_in_"):
            del estimator.feature_names_in_
        return
    if source.n_features != estimator.n_features_in_:
        raise InputError(
            f"X has {source.n_features} features, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input."
        )
    fitted = getattr(estimator, "feature_names_in_", None)
    if names is not None and fitted is not None and list(names) != list(fitted):
        raise InputError(
            f"The feature names should match those that were passed during fit: X has "
            f"{_listed(names, fitted)}, the mixture was fitted to {_listed(fitted, names)}. Select "
            f"and order them alike."
        )


def _listed(names: Sequence[str], others: Sequence[str]) -> str:
    """Return some names, or where they are many the first that differs from the others'."""
    if max(len(names), len(others)) <= _MOST_NAMES:
        return ", ".join(names)
    pairs = zip(names, others, strict=True)
    i = next(i for i, (name, other) in enumerate(pairs) if name != other)
    return f"{names[i]} as feature {i}"
