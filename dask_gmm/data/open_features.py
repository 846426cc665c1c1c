"""From several variables, of a Zarr group or an `xarray.Dataset`, to the source of their rows.

Each variable gives the rows some features: one, or one for each place along the dimension that
`feature_axis` names. All other dimensions are the samples'; every variable has the same, in any
order, and they are found by their names.

===============  ===================================================================================
variables        rows
===============  ===================================================================================
of a Zarr group  a `JoinedSource`: each array is read by its own reader
in memory        a `JoinedSource` too, and nothing is copied but block by block
of Dask arrays   a `DaskSource`: their graph joins the blocks, in common multiples of their chunks,
                 or in common parts of them where those would be too large
===============  ===================================================================================
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np

from dask_gmm.data.conventions import FillValue, decoding_of, fill_by_columns, suspicious_fill
from dask_gmm.data.conversion import plain_array
from dask_gmm.data.dask_source import DaskSource, check_block_type
from dask_gmm.data.decoding import Decoding, Remedies
from dask_gmm.data.joined_source import (
    JOINED_BLOCK_BYTES,
    Column,
    JoinedSource,
    common_chunks,
    joined_dtype,
    unlike,
)
from dask_gmm.data.layout import check_dtype
from dask_gmm.data.numpy_source import NumpySource
from dask_gmm.data.provenance import check_complete
from dask_gmm.data.stored_array import dimension_names
from dask_gmm.data.urls import join_url, scheme_of
from dask_gmm.errors import ArrayNotFoundError, InputError, StoreNotFoundError
from dask_gmm.interrupts import held

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from numpy.typing import NDArray

    from dask_gmm.data.base import Source
    from dask_gmm.data.zarr_open import FoundArray

__all__ = ["check_features", "is_dataset", "open_dataset", "open_stored_features"]


def check_features(features: Any) -> list[str]:
    """Return the names of some variables if they are that.

    Raises
    ------
    InputError
    """
    if isinstance(features, str) or not isinstance(features, list | tuple):
        example = [features] if isinstance(features, str) else ["TEMP", "PSAL"]
        raise InputError(
            f"features={features!r} is no list of names: give one, such as features={example!r}."
        )
    names = list(features)
    for name in names:
        if not isinstance(name, str) or not name.strip("/"):
            raise InputError(f"features holds {name!r}, which is no name of a variable.")
    if not names:
        raise InputError("features is empty: name at least one variable, or leave features out.")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(f"features names {repeated[0]!r} more than once: name each once.")
    return names


# -- dimensions ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Variable:
    """A variable's name and dimensions."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]

    def __str__(self) -> str:
        sizes = [f"{dim} {n}" for dim, n in zip(self.dims, self.shape, strict=True)]
        return f"{self.name} ({', '.join(sizes)})"

    def samples(self, dim: str | None) -> tuple[str, ...]:
        """Return its dimensions but that of features."""
        return tuple(name for name in self.dims if name != dim)

    def axis(self, dim: str | None) -> int | None:
        """Return the axis of features, None if it has none."""
        return self.dims.index(dim) if dim in self.dims else None


def _feature_dimension(
    variables: Sequence[_Variable], feature_axis: int | str, of: str
) -> str | None:
    """Return the dimension of features, None if each variable is one, once all fit together.

    Raises
    ------
    InputError
        The samples of the variables are not the same.
    """
    dim = feature_axis if isinstance(feature_axis, str) else None
    if dim is None and feature_axis != -1:
        raise InputError(
            f"feature_axis={feature_axis} is a number, but the variables of {of} are put together "
            f"by the names of their dimensions: name that of the features, or leave it out where "
            f"each variable is one feature."
        )
    listed = ", ".join(map(str, variables))
    if dim is not None and not any(dim in variable.dims for variable in variables):
        raise InputError(
            f"No feature of {of} has a dimension {dim!r}, which feature_axis names: {listed}."
        )
    first = variables[0].samples(dim)
    if any(sorted(variable.samples(dim)) != sorted(first) for variable in variables):
        raise InputError(
            f"The features of {of} have different dimensions, {listed}, but every sample needs all "
            f"of them: {_what_fits(variables, dim)}."
        )
    if not first:
        raise InputError(
            f"The features of {of} have no dimension of samples: {listed}. Choose variables that "
            f"have one, or another feature_axis."
        )
    sizes = [dict(zip(v.dims, v.shape, strict=True)) for v in variables]
    for name in first:
        if len({size[name] for size in sizes}) > 1:
            raise InputError(
                f"The dimension {name!r} has different lengths in the features of {of}: {listed}. "
                f"Choose variables of the same samples."
            )
    return dim


def _what_fits(variables: Sequence[_Variable], dim: str | None) -> str:
    """Say what would make dimensions fit: a dimension of features, or fewer variables."""
    if dim is None:
        for name in sorted({name for variable in variables for name in variable.dims}):
            if len({tuple(sorted(v.samples(name))) for v in variables}) == 1:
                return f"if {name!r} is one of features, say feature_axis={name!r}"
    first = sorted(variables[0].samples(dim))
    alike = [v.name for v in variables if sorted(v.samples(dim)) == first]
    return f"choose those that fit, for example features={alike!r}"


def _names_of(variable: str, dim: str | None, labels: Sequence[str] | None, n: int) -> list[str]:
    """Name the features that a variable gives: itself, or it at each place along the dimension."""
    if dim is None:
        return [variable]
    if labels is None:
        return [f"{variable}[{i}]" for i in range(n)]
    return [f"{variable}[{dim}={label}]" for label in labels]


def _spelled(labels: NDArray[Any]) -> list[str]:
    """Spell coordinates as their type prints them: 0.1 is 0.1 in float32 too."""
    return [str(label) for label in labels]


# -- stored ----------------------------------------------------------------------------------------


def open_stored_features(
    find: Callable[[str, bool], FoundArray], features: Sequence[str], feature_axis: int | str
) -> JoinedSource:
    """Describe rows whose features are arrays of a Zarr group.

    Parameters
    ----------
    find : callable
        Opens an array by its name in the group; its other argument says whether a chunk that is
        not stored holds the fill value whatever the user says, as those of coordinates may.
    features : sequence of str
        Names of the arrays, in the order of the features.
    feature_axis : int or str
        Name of their dimension of features; -1 if each array is one feature.

    Raises
    ------
    InputError
        Their samples are not the same, or cannot be told by name.
    ArrayNotFoundError, StoreNotFoundError, StoreError
        One of them is not there.
    """
    found = [find(name, False) for name in features]
    of = _group_of(found[0], features[0])
    variables, named = _stored_variables(features, found, of)
    dim = _feature_dimension(variables, feature_axis, of)
    columns, names = [], []
    for variable, array in zip(variables, found, strict=True):
        source = array.source(variable.axis(dim))
        columns.append(Column(variable.name, source, variable.samples(dim)))
        own = dim if dim in variable.dims else None
        labels = None if own is None else _stored_labels(find, variable.name, own, source)
        names += _names_of(variable.name, own, labels, source.n_features)
    joined = JoinedSource.of(
        columns,
        name=f"{of} ({', '.join(features)})",
        feature_names=names,
        remedy=_by_dask(found[0], of, features),
    )
    return joined if named else replace(joined, axis_names=None)


def _group_of(found: FoundArray, name: str) -> str:
    """Return the URL of the group in which an array has a name."""
    path = found.array.path.removesuffix(name.strip("/")).strip("/")
    return join_url(found.spec.url, path)


def _stored_variables(
    features: Sequence[str], found: Sequence[FoundArray], of: str
) -> tuple[list[_Variable], bool]:
    """Return the dimensions of arrays, by place where none is named; and whether they are named."""
    dims = [dimension_names(array.array) for array in found]
    shapes = [tuple(array.array.shape) for array in found]
    for name, own in zip(features, dims, strict=True):
        if own is not None and len(set(own)) < len(own):
            raise InputError(f"The array {name!r} of {of} has two dimensions of the same name.")
    if None not in dims:
        known = [own for own in dims if own is not None]
        return [_Variable(*v) for v in zip(features, known, shapes, strict=True)], True
    if len(set(shapes)) == 1 and not any(dims):
        numbered = tuple(f"axis {i}" for i in range(len(shapes[0])))
        return [_Variable(n, numbered, s) for n, s in zip(features, shapes, strict=True)], False
    nameless = [name for name, own in zip(features, dims, strict=True) if own is None]
    raise InputError(
        f"The array {nameless[0]!r} of {of} does not name its dimensions, so nobody can say which "
        f"of its elements belong to which of the others': write them as xarray does, or give all "
        f"of them dimension_names (attribute _ARRAY_DIMENSIONS in Zarr v2)."
    )


@held()
def _stored_labels(
    find: Callable[[str, bool], FoundArray], variable: str, dim: str, source: Source
) -> list[str] | None:
    """Return the coordinates along the dimension of features, None if the group has none."""
    group = variable.strip("/").rpartition("/")[0]
    try:
        array = find(f"{group}/{dim}" if group else dim, True).array
    except (ArrayNotFoundError, StoreNotFoundError):
        return None
    if array.shape != (source.n_features,):
        return None
    attributes = dict(array.attrs)
    values = np.asarray(array[...])
    encoded = {"scale_factor", "add_offset", "_Unsigned", "dtype"} & attributes.keys()
    if encoded or " since " in str(attributes.get("units", "")):
        try:
            from xarray import Variable
            from xarray.conventions import decode_cf_variable
        except ImportError:
            return None
        values = np.asarray(decode_cf_variable(dim, Variable((dim,), values, attributes)).values)
    return _spelled(values)


def _by_dask(found: FoundArray, of: str, features: Sequence[str]) -> str:
    """Say what to do where chunks have no common multiple: Dask holds parts of what it has read."""
    otherwise = "Rewrite some of them in the chunks of the others"
    plain = found.store is None and not found.spec.pickled and not found.spec.zip_version
    if plain and scheme_of(of) == "file":
        code = f"xarray.open_zarr({of!r})[{list(features)!r}]"
        return f"{otherwise}, or pass `{code}`, of which Dask makes blocks that fit."
    return f"{otherwise}, or open them by xarray.open_zarr, of which Dask makes blocks that fit."


# -- labelled --------------------------------------------------------------------------------------


def open_dataset(
    X: Any, features: Sequence[str] | None, feature_axis: int | str, block_rows: int | None = None
) -> Source:
    """Describe rows whose features are variables of an `xarray.Dataset`.

    Parameters
    ----------
    X : xarray.Dataset
    features : sequence of str, optional
        Names of variables, in the order of the features; all data variables by default.
    feature_axis : int or str
        Name of their dimension of features; -1 if each variable is one feature.
    block_rows : int, optional
        Most rows in a block of variables in memory.

    Raises
    ------
    InputError
        Their samples are not the same, or they hold no real numbers.
    """
    arrays = {str(name): X[name] for name in _chosen(X, features)}
    of = "the Dataset"
    variables = [
        _Variable(name, tuple(map(str, array.dims)), array.shape) for name, array in arrays.items()
    ]
    dim = _feature_dimension(variables, feature_axis, of)
    names: list[str] = []
    for variable in variables:
        own = dim if dim in variable.dims else None
        labels = None if own is None else _labels(arrays[variable.name], own)
        n = 1 if own is None else variable.shape[variable.dims.index(own)]
        names += _names_of(variable.name, own, labels, n)
    for name, array in arrays.items():
        check_complete(array.attrs, f"The variable {name!r}")
    lazy = any(array.chunks is not None or not array._in_memory for array in arrays.values())
    name = f"Dataset ({', '.join(arrays)})"
    if lazy:
        source: Source = _lazy(arrays, variables, dim, name)
        return replace(source, feature_names=tuple(names))  # type: ignore[type-var]
    columns = [_in_memory(arrays[variable.name], variable, dim) for variable in variables]
    return JoinedSource.of(columns, name=name, feature_names=names, block_rows=block_rows)


def _chosen(X: Any, features: Sequence[str] | None) -> list[Hashable]:
    """Return the keys of the variables that are features."""
    if features is None:
        if not X.data_vars:
            raise InputError("The Dataset has no data variables, so no features.")
        return list(X.data_vars)
    keys = {str(key): key for key in X.variables}
    for name in features:
        if name not in keys:
            held = ", ".join(repr(str(key)) for key in X.data_vars)
            raise InputError(f"The Dataset has no variable {name!r}; its data variables: {held}.")
    return [keys[name] for name in features]


def _labels(array: Any, dim: str) -> list[str] | None:
    """Return the coordinates along a dimension, None if it has none."""
    key = {str(name): name for name in array.dims}[dim]
    return _spelled(array.coords[key].values) if key in array.coords else None


def _conventions(
    array: Any, name: str, dtype: np.dtype[Any]
) -> tuple[Decoding | None, FillValue | None]:
    """Return what a variable's attributes say of its elements."""
    code = f"X[{name!r}]"
    remedies = Remedies(
        code,
        f"{code}.drop_attrs()",
        f"xarray.decode_cf({code}.to_dataset(name='decoded'))['decoded']",
    )
    decoding = decoding_of(array.attrs, dtype, name, remedies, decoded=array.encoding)
    fill = suspicious_fill(array.encoding.get("fill_value"), dtype, decoding, remedies)
    return decoding, fill


def _in_memory(array: Any, variable: _Variable, dim: str | None) -> Column:
    name, axis = variable.name, variable.axis(dim)
    values = plain_array(array.data, name, f"X[{name!r}]")
    values = values[..., None] if axis is None else values
    check_dtype(values.dtype, name, f"X[{name!r}]")
    decoding, fill = _conventions(array, name, values.dtype)
    source = NumpySource.of(values, -1 if axis is None else axis, name=name, decoding=decoding)
    return Column(name, replace(source, fill=fill), variable.samples(dim))


def _lazy(
    arrays: Mapping[str, Any], variables: Sequence[_Variable], dim: str | None, name: str
) -> DaskSource:
    """Describe what a Dask graph makes of several variables."""
    samples = variables[0].samples(dim)
    parts, fills, start = [], [], 0
    for variable in variables:
        array = arrays[variable.name]
        keys = {str(key): key for key in array.dims}
        tail = [keys[dim]] if dim is not None and dim in keys else []
        data = array.transpose(*[keys[axis] for axis in samples], *tail)
        # Opened lazily without Dask: reading .values would load all of it.
        stored_in = {} if data._in_memory else data.encoding.get("preferred_chunks", {})
        data = data.data if data.chunks is not None else data.chunk(stored_in).data
        check_block_type(type(data._meta), variable.name, f"X[{variable.name!r}]")
        check_dtype(data.dtype, variable.name, f"X[{variable.name!r}]")
        data = data if tail else data[..., None]
        stop = start + data.shape[-1]
        decoding, fill = _conventions(array, variable.name, data.dtype)
        if decoding is not None:
            data = data.map_blocks(decoding.decode, dtype=decoding.dtype)
        fills.append((start, stop, variable.name, fill))
        parts.append((data, array.chunks is not None or bool(stored_in)))
        start = stop
    dtype = joined_dtype([data.dtype for data, _ in parts])
    converted = [(data if data.dtype == dtype else data.astype(dtype), c) for data, c in parts]
    concatenate: Callable[..., da.Array] = da.concatenate  # untyped in Dask
    return DaskSource.of(
        concatenate(_in_common_blocks(converted, start * dtype.itemsize), axis=-1),
        -1,
        name=name,
        axis_names=(*samples, unlike("feature", samples)),
        conventions=(None, fill_by_columns(fills)),
    )


def _in_common_blocks(parts: Sequence[tuple[Any, bool]], row_bytes: int) -> list[Any]:
    """Return collections in the same blocks; those that Dask has not cut do not ask for any."""
    arrays = [data.rechunk({data.ndim - 1: -1}) for data, _ in parts]
    cut = [data for data, (_, chunked) in zip(arrays, parts, strict=True) if chunked] or arrays
    wanted = cut[0].chunks[:-1]
    if any(data.chunks[:-1] != wanted for data in cut):
        shape = cut[0].shape[:-1]
        even = [[max(sizes) for sizes in data.chunks[:-1]] for data in cut]
        common = common_chunks(shape, even)
        small = math.prod(common) * row_bytes <= JOINED_BLOCK_BYTES
        if small and all(_are_even(data.chunks[:-1]) for data in cut):
            wanted = common
        else:
            axes = tuple(range(len(shape)))
            unify: Callable[..., Any] = da.core.unify_chunks  # untyped in Dask
            pairs = [item for data in cut for item in (data[..., 0], axes)]
            wanted = unify(*pairs)[1][0].chunks
    return [data.rechunk((*wanted, -1)) for data in arrays]


def _are_even(chunks: Sequence[Sequence[int]]) -> bool:
    return all(set(sizes[:-1]) <= {sizes[0]} and sizes[-1] <= sizes[0] for sizes in chunks)


def is_dataset(X: object) -> bool:
    """Whether X is an `xarray.Dataset`; nobody has made one where xarray is not imported."""
    xarray = sys.modules.get("xarray")
    return xarray is not None and isinstance(X, xarray.Dataset)
