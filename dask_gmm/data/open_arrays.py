"""From a list or dict of arrays, one for each of many samples, to one source of all their rows.

===================  ===============================================================================
arrays               rows
===================  ===============================================================================
stored or in memory  a `ConcatenatedSource`: each is read by its own reader
some of Dask         a `ConcatenatedDaskSource`: their graphs make the blocks of one collection
===================  ===============================================================================

What a list holds decides what it is: of numbers, and of rows of numbers, it is one table, as
scikit-learn takes it; of whatever else can be read as a table, it is many.
"""

from __future__ import annotations

import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import zarr
from zarr.abc.store import Store

from dask_gmm.data.atomic_replace import is_copy
from dask_gmm.data.concatenated_source import ConcatenatedDaskSource, ConcatenatedSource
from dask_gmm.data.concatenated_weights import EQUAL_PER_ARRAY, EqualPerArray
from dask_gmm.data.conversion import kind_of
from dask_gmm.data.dask_source import DaskSource
from dask_gmm.data.joined_source import joined_dtype
from dask_gmm.data.lazy import lazy_map
from dask_gmm.data.sparse_source import is_sparse
from dask_gmm.data.stores import MissingChunks, store_spec
from dask_gmm.data.tables.open import is_arrow_dataset
from dask_gmm.data.urls import normalize_url, scheme_of
from dask_gmm.data.zarr_open import find_members
from dask_gmm.errors import InputError, StoreNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from dask_gmm.data.base import Source

__all__ = [
    "concatenated",
    "each_of",
    "holds_arrays",
    "is_pattern_of_stores",
    "open_arrays",
    "placed_arrays",
]

_THREADS = 16
"""That open stored arrays: most of it waits for a disk or a network."""

_SUFFIXES = (".zarr", ".zip", ".h5ad", ".parquet", ".csv", ".npy")


# -- what a list is --------------------------------------------------------------------------------


def holds_arrays(X: Any) -> bool:
    """Whether X is a list, a tuple or a dict of arrays, and not one table.

    Raises
    ------
    InputError
        It is neither: rows and arrays in one list, lists of rows, columns by their names.
    """
    if _is_dict(X):
        _check_keys(X)
        return True
    if not isinstance(X, list | tuple) or not len(X):
        return False
    kinds = [_is_array(item) for item in X]
    if all(kinds):
        return True
    if any(kinds):
        row, array = kinds.index(False), kinds.index(True)
        raise InputError(
            f"X[{row}] is a row or a number ({kind_of(X[row])}), and X[{array}] an array of rows "
            f"({kind_of(X[array])}): pass one table, or a list of arrays of two axes, one for each "
            f"sample."
        )
    _refuse_nested(X)
    return False


def _is_dict(X: Any) -> bool:
    """Whether X is a dict, and not a sparse matrix that happens to be kept in one (DOK)."""
    return isinstance(X, dict) and not is_sparse(X)


def _is_array(item: Any) -> bool:
    """Whether an item of a list is a table of its own, or leads to one."""
    if isinstance(item, str | os.PathLike | zarr.Array | zarr.Group | Store) or is_sparse(item):
        return True
    if isinstance(item, list | tuple | dict) or np.isscalar(item) or item is None:
        return False
    shape = getattr(item, "shape", None)
    if isinstance(shape, tuple):
        return len(shape) >= 2
    if type(item).__module__.startswith(("xarray.", "dask.")) or is_arrow_dataset(item):
        return True
    # Of polars a query, to be refused as one; of Arrow readers and the like, but no columns.
    streams = hasattr(item, "__arrow_c_stream__") and not hasattr(item, "__array__")
    return streams or hasattr(item, "column_names") or hasattr(item, "collect_schema")


def _refuse_nested(X: Sequence[Any]) -> None:
    """Refuse a list of lists of rows, and of rows of different lengths, before NumPy does."""
    lists = [isinstance(row, list | tuple | np.ndarray) for row in X]
    if not all(lists):
        return
    for number, row in enumerate(X):
        if len(np.shape(row)) > 1 if isinstance(row, np.ndarray) else _of_rows(row):
            raise InputError(
                f"X[{number}] is a list of rows. If X is many samples, make arrays of them: "
                f"`[numpy.asarray(x) for x in X]`; if it is one array of more than two axes, pass "
                f"`numpy.asarray(X)` and say which axis holds the features."
            )
    lengths = [len(row) if np.ndim(row) else -1 for row in X]
    other = next((i for i, n in enumerate(lengths) if n != lengths[0]), None)
    if other is not None:
        raise InputError(
            f"X is a list of rows of different lengths: X[0] has {lengths[0]} and X[{other}] "
            f"{lengths[other]}, but each row needs the same features. If each is a sample of one "
            f"feature, pass `[numpy.reshape(x, (-1, 1)) for x in X]`."
        )


def _of_rows(row: Sequence[Any]) -> bool:
    return bool(len(row)) and all(isinstance(item, list | tuple | np.ndarray) for item in row)


def _check_keys(X: Mapping[Any, Any]) -> None:
    if not X:
        raise InputError("X is an empty dict: give at least one array, under the sample's name.")
    for key, item in X.items():
        if not isinstance(key, str) or not key.strip("/"):
            raise InputError(f"X is a dict with the key {key!r}: names of samples are strings.")
        if not _is_array(item):
            raise InputError(
                f"X[{key!r}] is no array of rows ({kind_of(item)}). X is a dict of arrays, one for "
                f"each sample; of columns of one table make a frame: `pandas.DataFrame(X)`."
            )
    names = [key.strip("/") for key in X]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(
            f"X is a dict with two arrays called {twice!r}, as slashes at the ends of names say "
            f"nothing: give each a name of its own."
        )


def each_of(X: Any) -> list[Any]:
    """Return the arrays of a list or dict of them; of anything else that alone."""
    if _is_dict(X):
        return list(X.values())
    if isinstance(X, list | tuple):
        return list(X)
    return [X]


# -- by their places ------------------------------------------------------------------------------

_PATTERN = re.compile(r"[*?\[]")


def placed_arrays(
    X: Any,
    arrays: str | Sequence[str] | None,
    storage_options: Mapping[str, Any] | None = None,
    missing_chunks: MissingChunks = "error",
) -> dict[str, Any] | None:
    """Return the arrays that a place stands for, by their names; None where it is one alone.

    Parameters
    ----------
    X : object
        What the user passed: a path with ``*``, ``?`` or ``[...]`` stands for the stores that
        match; with `arrays` a group, or a folder of stores, for those in it.
    arrays : str or sequence of str, optional
        Names, or patterns of names, of arrays in a group or of stores in a folder.
    storage_options : mapping, optional
    missing_chunks : {"error", "fill"}

    Raises
    ------
    InputError, ArrayNotFoundError, StoreNotFoundError, StoreError
        Nothing matches, or X is nothing that holds arrays.
    """
    path = os.fspath(X) if isinstance(X, str | os.PathLike) else None
    if arrays is None:
        return _stores_at(path) if path is not None and is_pattern_of_stores(X) else None
    patterns = [arrays] if isinstance(arrays, str) else list(arrays)
    if not patterns or not all(isinstance(one, str) and one.strip("/") for one in patterns):
        raise InputError(
            f"arrays={arrays!r} is no name: give one, a pattern such as '*', or a list of these."
        )
    if path is not None:
        if scheme_of(path) == "file" and _is_plain_folder(Path(normalize_url(path))):
            found: dict[str, Any] = {}
            for one in patterns:
                found |= {p: p for p in sorted(_matching(os.path.join(path, one)))}  # noqa: PTH118
            return _named(list(found), f"{path} with arrays={arrays!r}")
        return dict(find_members(store_spec(path, storage_options, missing_chunks), patterns))
    if isinstance(X, zarr.Group | Store):
        return dict(find_members(X, patterns, missing_chunks=missing_chunks))
    raise InputError(
        f"arrays={arrays!r} names arrays of a Zarr group or stores in a folder; X is {kind_of(X)}."
    )


def is_pattern_of_stores(X: Any) -> bool:
    """Whether a path or URL stands for all Zarr stores that match it; others' are of a table."""
    path = os.fspath(X) if isinstance(X, str | os.PathLike) else ""
    if not _PATTERN.search(path):
        return False
    if scheme_of(path) != "file":
        return ".zarr" in path.rpartition("/")[2]
    if Path(path).exists():
        return False
    found = _matching(path)
    return any(map(_is_store, found)) if found else ".zarr" in path


def _is_store(path: str) -> bool:
    return (Path(path).is_dir() and not _is_plain_folder(Path(path))) or path.endswith(".zip")


def _stores_at(pattern: str) -> dict[str, Any]:
    """Return the stores whose paths match a pattern, by names."""
    if scheme_of(pattern) != "file":
        raise InputError(
            f"{pattern} is a pattern, and of a remote store nobody here lists what matches it: "
            f"pass a list of URLs, or the URL of a group and arrays='*'."
        )
    return _named(sorted(_matching(pattern)), pattern)


def _matching(pattern: str) -> list[str]:
    found = glob(normalize_url(pattern), recursive=True)  # noqa: PTH207  absolute, of any depth
    return [path for path in found if not is_copy(Path(path).name)]


def _named(paths: Sequence[str], wanted: str) -> dict[str, Any]:
    if not paths:
        raise StoreNotFoundError(f"There is nothing at {wanted}.")
    return dict(zip(names_of(paths), paths, strict=True))


def _is_plain_folder(path: Path) -> bool:
    """Whether a path is a folder that is no Zarr node itself."""
    marks = ("zarr.json", ".zarray", ".zgroup")
    return path.is_dir() and not any((path / mark).exists() for mark in marks)


# -- names -----------------------------------------------------------------------------------------


def names_of(X: Any) -> list[str]:
    """Return names for the arrays of a list or dict: keys, what tells paths apart, or numbers."""
    if isinstance(X, dict):
        return [key.strip("/") for key in X]
    places = [_place_of(item) for item in X]
    told = _apart([place for place in places if place is not None])
    if len(told) < len(places) or len(set(told)) < len(told):
        return [str(number) for number in range(len(places))]
    return told


def _place_of(item: Any) -> list[str] | None:
    """Return the parts of a path or URL, of what has one."""
    if isinstance(item, str | os.PathLike):
        return [part for part in normalize_url(item).split("/") if part]
    if isinstance(item, zarr.Array) and item.path:
        return item.path.split("/")
    xarray = sys.modules.get("xarray")
    if xarray is not None and isinstance(item, xarray.DataArray) and isinstance(item.name, str):
        return [item.name]
    return None


def _apart(places: Sequence[Sequence[str]]) -> list[str]:
    """Return what tells some places apart: without what they all begin and end with."""
    if not places:
        return []
    shortest = min(map(len, places))
    head = 0
    while head < shortest - 1 and len({place[head] for place in places}) == 1:
        head += 1
    tail = 0
    while tail < shortest - head - 1 and len({place[-1 - tail] for place in places}) == 1:
        tail += 1
    own = [list(place[head : len(place) - tail]) for place in places]
    return ["/".join([*parts[:-1], _without_suffix(parts[-1])]) for parts in own]


def _without_suffix(name: str) -> str:
    for suffix in _SUFFIXES:
        if name.endswith(suffix) and name != suffix:
            return name.removesuffix(suffix)
    return name


# -- opening ---------------------------------------------------------------------------------------


Beside = list[Any]


def open_arrays(
    X: Any, beside: Beside, open_one: Callable[[Any, Beside], tuple[Source, Beside]]
) -> tuple[Source, Beside]:
    """Describe the rows of a list or dict of arrays.

    Parameters
    ----------
    X : list, tuple or dict
        For which `holds_arrays`.
    beside : list
        What was given beside all of them: weights, a mask.
    open_one : callable
        Describes one of them, given what lies beside it; names of its own columns or variables
        come back as these.

    Returns
    -------
    Source
    list
        What lies beside: of each array its own, where there is one for each.

    Raises
    ------
    InputError
        One of them cannot be used, or has other features than the others.
    """
    items, names = each_of(X), names_of(X)
    keys = list(X) if isinstance(X, dict) else list(range(len(items)))
    given = [_shared_out(one, names) for one in beside]

    def opened(number: int) -> tuple[Source, Beside]:
        own = [None if each is None else each[number] for each in given]
        try:
            source, own = open_one(items[number], own)
        except InputError as error:
            code = f"X[{keys[number]!r}]"
            raise InputError(f"{error} (X stands for {code} here, one of the arrays.)") from error
        if source.in_memory:
            source = replace(source, name=f"X[{keys[number]!r}]")  # type: ignore[type-var]
        return source, own

    stored = [isinstance(item, str | os.PathLike) for item in items]
    if any(stored) and len(items) > 1:
        with ThreadPoolExecutor(_THREADS, "dask-gmm-open") as pool:
            found = list(pool.map(opened, range(len(items))))
    else:
        found = [opened(number) for number in range(len(items))]
    results = [
        one if each is None else _put_back(one, [own[role] for _, own in found])
        for role, (one, each) in enumerate(zip(beside, given, strict=True))
    ]
    return concatenated([source for source, _ in found], names), results


def _shared_out(given: Any, names: Sequence[str]) -> list[Any] | None:
    """Return what was given for each array; None where it was not given for each."""
    if isinstance(given, EqualPerArray):
        return _shared_out(given.weights, names)
    if isinstance(given, str):
        return None if given == EQUAL_PER_ARRAY else [given] * len(names)
    if isinstance(given, dict) and set(given) == set(names):
        return [given[name] for name in names]
    if isinstance(given, list | tuple) and len(given) == len(names):
        return list(given)
    return None


def _put_back(given: Any, each: list[Any]) -> Any:
    return EqualPerArray(each) if isinstance(given, EqualPerArray) else each


def concatenated(parts: Sequence[Source], names: Sequence[str]) -> Source:
    """Return the rows of some sources, one source's after another's.

    Parameters
    ----------
    parts : sequence of Source
        Without weights.
    names : sequence of str
        What the user calls them, each once.

    Raises
    ------
    InputError
        They have different features.
    """
    labels = [f"array {i} ({name!r})" for i, name in enumerate(names)]
    features = _common_features(parts, labels)
    if not any(isinstance(part, DaskSource) for part in parts):
        return ConcatenatedSource.of(parts, names, features)
    dtype = joined_dtype([part.dtype for part in parts])
    collections = [
        _collection(part, dtype, label) for part, label in zip(parts, labels, strict=True)
    ]
    concatenate: Callable[..., da.Array] = da.concatenate  # untyped in Dask
    whole = concatenate(collections, axis=0, allow_unknown_chunksizes=True)
    return ConcatenatedDaskSource.of(whole, parts, names, features)


def _common_features(parts: Sequence[Source], labels: Sequence[str]) -> tuple[str, ...] | None:
    """Return the names of the features, None where no array has some."""
    first, named = parts[0], None
    for number, part in enumerate(parts):
        if part.n_features != first.n_features:
            raise InputError(
                f"The arrays have different numbers of features: {labels[0]} has "
                f"{first.n_features} and {labels[number]} has {part.n_features}. Select the same "
                f"of each."
            )
        if part.feature_names is None:
            continue
        named = number if named is None else named
        theirs = parts[named].feature_names or ()
        if part.feature_names != theirs:
            i = next(i for i, n in enumerate(part.feature_names) if n != theirs[i])
            raise InputError(
                f"The arrays have different features: feature {i} of {labels[named]} is "
                f"{theirs[i]!r} and of {labels[number]} {part.feature_names[i]!r}. Select and "
                f"order them alike."
            )
    return None if named is None else parts[named].feature_names


def _collection(part: Source, dtype: np.dtype[Any], label: str) -> da.Array:
    """Return the rows of an array as a Dask array, in its blocks."""
    if len(part.shape) != 2:
        raise InputError(
            f"{label.capitalize()} has {len(part.shape)} axes. Of arrays of which some are Dask "
            f"collections each must be a table of rows and features: reshape it."
        )
    if isinstance(part, DaskSource):
        found: Any = part.collection if part.feature_axis == 1 else part.collection.T
        if part.decoding is not None:
            found = found.map_blocks(part.decoding.decode, dtype=part.dtype)
    else:
        found = lazy_map(part, _as_they_are, part.dtype, part.n_features)
    converted: da.Array = found if found.dtype == dtype else found.astype(dtype)
    return converted


def _as_they_are(rows: NDArray[Any]) -> NDArray[Any]:
    return rows.copy()  # a read's memory may be another's soon
