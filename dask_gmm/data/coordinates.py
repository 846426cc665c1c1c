"""The dimensions and coordinates of samples, given back to what is computed from them.

What comes of an xarray object is a `DataArray` with the dimensions of its samples and every
coordinate that lies along these alone. What is written of one, or of named variables of a Zarr
group, is an array in a group that holds the coordinates too, so that ``xarray.open_zarr`` opens it
labelled. Coordinates are written in parts, since those of a large grid need not fit in memory, and
as xarray encodes them: dates as whole numbers since a day, other coordinates than those that bear
the name of a dimension listed in the group's attribute ``coordinates`` (CF conventions 1.12,
sections 4.4 and 5).
"""

from __future__ import annotations

import base64
import json
import math
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.storage import StorePath

from dask_gmm.data.atomic_replace import is_copy
from dask_gmm.data.joined_source import JoinedSource, unlike
from dask_gmm.data.open_features import is_dataset
from dask_gmm.data.output_array import put_document, read_document
from dask_gmm.data.output_begin import refuse_the_input
from dask_gmm.data.provenance import ATTRIBUTE
from dask_gmm.data.sink import not_written
from dask_gmm.data.stored_array import dimension_names, metadata_document
from dask_gmm.data.stored_parts import stored_parts
from dask_gmm.data.stores import writable_store
from dask_gmm.data.urls import Options, check_options, join_url, normalize_url, scheme_of
from dask_gmm.data.zarr_open import coordinates_beside, grid_mappings
from dask_gmm.data.zarr_sync import sync
from dask_gmm.errors import InputError, OutputExistsError, StoreError
from dask_gmm.interrupts import held, take_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from zarr.abc.store import Store

    from dask_gmm.data.base import Source

__all__ = ["OutputPlace", "labelled", "labelled_rows", "output_place"]

_OLDER = {".zarray": "a Zarr array", ".zgroup": "a Zarr group of version 2"}

_MAPPING = "grid_mapping"
"""CF's attribute for the variable that holds a reference system."""

_ENCODING = ("units", "calendar", "dtype", "scale_factor", "add_offset", "_FillValue")

PART_BYTES = 16 * 2**20
"""What is read and written of a coordinate at a time, and its chunks at most."""


# -- in memory and lazily --------------------------------------------------------------------------


def labelled(
    X: Any,
    source: Source,
    values: Any,
    name: str,
    tail: str | Sequence[str] = (),
    labels: Sequence[str] = (),
) -> Any:
    """Return values of the samples as a DataArray where X is one, or a Dataset; else as they are.

    Parameters
    ----------
    X : object
        What `source` describes.
    source : Source
    values : ndarray or dask.array.Array
        Of the samples' shape, and with `tail` other axes.
    name : str
        Of the DataArray.
    tail : str or sequence of str
        Names of the last dimensions, which the samples do not have.
    labels : sequence of str
        Coordinates along each of these; none by default.
    """
    dims = _sample_dims(X, source)
    if dims is None:
        return values
    names: tuple[Hashable, ...] = dims
    for own in (tail,) if isinstance(tail, str) else tail:
        names = (*names, unlike(own, [str(dim) for dim in names])) if own else names
    found = _data_array(X, values, names, _along(X, dims).coords, name)
    own_dims = names[len(dims) :] if labels else ()
    return found.assign_coords({dim: list(labels) for dim in own_dims})


def labelled_rows(X: Any, source: Source, values: Any, name: str) -> Any:
    """Return rows as a DataArray where X is one, or a Dataset; else as they are.

    Parameters
    ----------
    X : object
        What `source` describes.
    source : Source
    values : ndarray or dask.array.Array
        Of the source's shape.
    name : str
        Of the DataArray.
    """
    dims = _sample_dims(X, source)
    if dims is None:
        return values
    if not is_dataset(X):
        return _data_array(X, values, X.dims, X.coords, name)
    assert source.axis_names is not None
    feature, coordinates = source.axis_names[-1], _along(X, dims).coords
    found = _data_array(X, values, (*dims, feature), coordinates, name)
    return found.assign_coords({feature: list(source.feature_names or ())})


def _data_array(X: Any, values: Any, dims: Any, coordinates: Any, name: str) -> Any:
    found = sys.modules["xarray"].DataArray(values, dims=dims, coords=coordinates, name=name)
    mapping = _grid_mapping(X)
    if mapping in found.coords:
        found.encoding[_MAPPING] = mapping
    return found


def _grid_mapping(X: Any) -> str | None:
    """Return the name of what says in which reference system an object's coordinates are.

    xarray keeps it in the encoding of a variable, or in its attributes (CF conventions, 5.6).
    """
    for variable in X.variables.values() if is_dataset(X) else (X,):
        named = str(variable.encoding.get(_MAPPING) or variable.attrs.get(_MAPPING, ""))
        if named and not named.split()[1:]:
            return named
    return None


def _sample_dims(X: Any, source: Source) -> tuple[Hashable, ...] | None:
    """Return the dimensions of the samples of an xarray object, None of any other."""
    xarray = sys.modules.get("xarray")
    if is_dataset(X):
        keys = {str(dim): dim for dim in X.dims}
        return tuple(keys[name] for name in (source.axis_names or ())[:-1])
    if xarray is not None and isinstance(X, xarray.DataArray):
        return tuple(dim for axis, dim in enumerate(X.dims) if axis != source.feature_axis)
    return None


def _along(X: Any, dims: Sequence[Hashable]) -> Any:
    """Return a Dataset of the coordinates that lie along some dimensions and no others."""
    coordinates = X.coords.to_dataset()
    mapping = _grid_mapping(X)
    if is_dataset(X) and mapping in X.data_vars:  # which xarray takes for data where nobody asks
        coordinates = coordinates.assign_coords({mapping: X[mapping].variable})
    others = [key for key, c in coordinates.coords.items() if not set(c.dims) <= set(dims)]
    return coordinates.drop_vars(others)


# -- written ---------------------------------------------------------------------------------------


def output_place(url: str, X: Any, source: Source, name: str) -> str:
    """Return where an output goes: to `url` itself, or under its name into the group there.

    A group it is where the samples have dimensions with names, and X is an xarray object or
    several variables.
    """
    return join_url(normalize_url(url), name) if _has_labels(X, source) else url


def _has_labels(X: Any, source: Source) -> bool:
    variables = isinstance(source, JoinedSource) and source.axis_names is not None
    return variables or _sample_dims(X, source) is not None


@dataclass(frozen=True)
class _Coordinate:
    """A coordinate of the samples, as it is to lie in a store.

    Attributes
    ----------
    name : str
    dims : tuple of str
    shape : tuple of int
    dtype : dtype
        Of what is stored.
    attributes : mapping
        JSON values.
    read : callable
        Returns the stored values of a region.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: Any
    attributes: Mapping[str, Any]
    read: Callable[[tuple[slice, ...]], NDArray[Any]]

    @property
    def part(self) -> tuple[int, ...]:
        """Extent of what is read at a time: as much of the last axes as it takes."""
        left = max(1, PART_BYTES // max(1, np.dtype(self.dtype).itemsize))
        extent = []
        for size in reversed(self.shape):
            extent.append(max(1, min(size, left)))
            left = max(1, left // extent[-1])
        return tuple(reversed(extent))

    def regions(self) -> Iterator[tuple[slice, ...]]:
        """Yield the parts."""
        if 0 in self.shape:
            return
        counts = [-(-n // c) for n, c in zip(self.shape, self.part, strict=True)]
        for place in np.ndindex(*counts):
            yield tuple(
                slice(i * c, min((i + 1) * c, n))
                for i, c, n in zip(place, self.part, self.shape, strict=True)
            )


class OutputPlace:
    """Where an output goes, and the coordinates of its samples with it. Use `look`.

    Attributes
    ----------
    url : str
        Of the output's array.
    """

    url: str

    def __init__(self, url: str) -> None:
        self.url = url

    @staticmethod
    def look(
        url: str,
        name: str,
        options: Mapping[str, Any] | None,
        X: Any,
        source: Source,
        *,
        overwrite: bool,
        of_rows: bool = False,
        beside: Mapping[str, Sequence[str]] | None = None,
    ) -> OutputPlace:
        """Look at the place of an output; what is to be overwritten is no longer listed there.

        Parameters
        ----------
        url : str
            The array's, or that of the group that it goes to; see `output_place`.
        name : str
            Its name in a group.
        options : mapping, optional
            Storage options.
        X, source : object, Source
            What its samples are.
        overwrite : bool
            Whether an output that is there may be replaced.
        of_rows : bool
            Whether the output has the features too, whose coordinates then are written with it.
        beside : mapping of str to sequence of str, optional
            That the output is one of several, in a group also where samples have no labels; and
            coordinates of other dimensions, by these.

        Raises
        ------
        OutputExistsError
            Something else than a group of Zarr v3 is where one must be.
        InputError
            It would destroy the data.
        """
        place = output_place(url, X, source, name)
        has_labels = _has_labels(X, source)
        if beside is not None and not has_labels:
            place = join_url(normalize_url(url), name)
        refuse_the_input(source, place, in_place=scheme_of(normalize_url(place)) != "file")
        if beside is None and not has_labels:
            return OutputPlace(place)
        pairs = check_options(dict(options) if options else None)
        own = [_of_names(dim, labels) for dim, labels in (beside or {}).items()]
        samples = _coordinates_of(X, source, of_rows=of_rows) if has_labels else ()
        coordinates = (*samples, *own)
        group = _Group(
            normalize_url(url),
            pairs,
            name,
            coordinates,
            _mapping_of(X, source) if has_labels else None,
        )
        if name in [coordinate.name for coordinate in group.coordinates]:
            raise InputError(
                f"{source.name} has a coordinate {name!r}, which is what the output is called in "
                f"its group: give the coordinate another name."
            )
        group.check()
        if overwrite:
            group.forget()
        return group

    def begin(self) -> None:
        """Write what belongs beside the output, which has been begun.

        Raises
        ------
        OutputExistsError
            Something else of the same name is there.
        """

    def end(self) -> None:
        """Let those find the output who look, now that it is complete."""


class _Group(OutputPlace):
    """A group that holds the output and the coordinates of its samples."""

    def __init__(
        self,
        url: str,
        options: Options,
        name: str,
        coordinates: Sequence[_Coordinate],
        mapping: str | None,
    ) -> None:
        super().__init__(join_url(url, name))
        self._mapping = mapping if mapping in [c.name for c in coordinates] else None
        self._url = url
        self._options = options
        self._name = name
        self.coordinates = coordinates

    def check(self) -> None:
        """Refuse a place that is no group of Zarr v3, and cannot be made one.

        Raises
        ------
        OutputExistsError
        """
        document = read_document(self._url, self._options)
        if document is not None and document.get("node_type") == "group":
            return
        what = None if document is None else "a Zarr array"
        for entry in self._entries() if document is None else ():
            if entry in _OLDER:
                what = _OLDER[entry]
                break
            # An output that was begun there, and no more.
            if entry != self._name and not is_copy(entry):
                what = "something that is no Zarr group"
        if what is not None:
            raise OutputExistsError(
                f"{self._url} holds {what}, but the labels of xarray objects and of several "
                f"variables are written into a group of Zarr v3, with their coordinates: choose "
                f"another place."
            )

    def _entries(self) -> list[str]:
        async def entries() -> list[str]:
            store = writable_store(self._url, self._options)
            return [entry.strip("/") async for entry in store.list_dir("")]

        return sorted(sync(entries()))

    @held()
    def begin(self) -> None:
        """Make the group, and write the coordinates that it does not have yet.

        Raises
        ------
        OutputExistsError
            It has one of the name that is another.
        """
        if read_document(self._url, self._options) is None:
            if scheme_of(self._url) == "file":
                Path(self._url).mkdir(parents=True, exist_ok=True)
            own = {ATTRIBUTE: {"coordinates": True}}
            group = {"zarr_format": 3, "node_type": "group", "attributes": own}
            put_document(self._url, self._options, group)
        try:
            self._write_coordinates()
            self._list()
        except (InputError, StoreError):
            raise
        except Exception as error:  # every kind of store has errors of its own
            raise not_written(error, f"The coordinates in {self._url}") from error

    def forget(self) -> None:
        """Take the output that is to be overwritten out of the group's consolidated metadata."""
        document = read_document(self._url, self._options)
        if self._name in _consolidated(document):
            assert document is not None
            del _consolidated(document)[self._name]
            put_document(self._url, self._options, document)

    @held()
    def end(self) -> None:
        """List the output where those look who open the group."""
        document = read_document(self.url, self._options) if self._mapping else None
        if document is not None and _MAPPING not in document.get("attributes", {}):
            attributes = {**document.get("attributes", {}), _MAPPING: self._mapping}
            put_document(self.url, self._options, {**document, "attributes": attributes})
        self._list(self._name)

    def _list(self, *outputs: str) -> None:
        """Put coordinates and outputs into the group's consolidated metadata.

        If it has some, or is one that was made for outputs: xarray warns of groups without.
        """
        document = read_document(self._url, self._options)
        if document is None:  # somebody has removed it
            return
        if ATTRIBUTE in document.get("attributes", {}):
            empty = {"kind": "inline", "must_understand": False, "metadata": {}}
            document.setdefault("consolidated_metadata", empty)
        if document.get("consolidated_metadata") is None:
            return
        listed = _consolidated(document)
        for name in [*(coordinate.name for coordinate in self.coordinates), *outputs]:
            found = read_document(join_url(self._url, name), self._options)
            if found is not None:
                listed[name] = found
        put_document(self._url, self._options, document)

    def _write_coordinates(self) -> None:
        store = writable_store(self._url, self._options)
        group = zarr.open_group(store, mode="r+", use_consolidated=False)
        written = set()
        for coordinate in self.coordinates:
            if coordinate.name in group:
                self._check_same(group[coordinate.name], coordinate)
            else:
                self._write(store, coordinate)
                written.add(coordinate.name)
        document = read_document(self._url, self._options) or {}
        attributes = document.setdefault("attributes", {})
        named = str(attributes.get("coordinates", "")).split()
        for coordinate in self.coordinates:
            # Of a group that is somebody else's the variables say which theirs are.
            own = ATTRIBUTE in attributes or coordinate.name in written
            if own and coordinate.dims != (coordinate.name,) and coordinate.name not in named:
                named.append(coordinate.name)
        if named != str(attributes.get("coordinates", "")).split():
            attributes["coordinates"] = " ".join(named)
            put_document(self._url, self._options, document)

    def _write(self, store: Store, coordinate: _Coordinate) -> None:
        """Write a coordinate, and last what makes an array of it: one half written is none."""
        document: Any = _document_of(coordinate)
        array: Any = zarr.Array(
            zarr.AsyncArray(
                document,
                StorePath(store, coordinate.name),
                config={"write_empty_chunks": True},
            )
        )
        for region in coordinate.regions():
            take_signals()
            array[region] = coordinate.read(region)
        place = join_url(self._url, coordinate.name)
        if scheme_of(place) == "file":
            Path(place).mkdir(exist_ok=True)
        put_document(place, self._options, {**document, "attributes": coordinate.attributes})

    def _check_same(self, there: Any, coordinate: _Coordinate) -> None:
        """Refuse to put an output beside other coordinates than its samples'."""
        same = (
            isinstance(there, zarr.Array)
            and there.shape == coordinate.shape
            and (dimension_names(there) or ()) == coordinate.dims
            and all(
                _equal(
                    _decoded(np.asarray(there[region]), dict(there.attrs)),
                    _decoded(coordinate.read(region), coordinate.attributes),
                )
                for region in coordinate.regions()
            )
        )
        if not same:
            raise OutputExistsError(
                f"{self._url} holds another {coordinate.name!r} than that of the samples, so their "
                f"labels do not belong there: choose another place."
            )


def _mapping_of(X: Any, source: Source) -> str | None:
    if _sample_dims(X, source) is not None:
        return _grid_mapping(X)
    return next(iter(grid_mappings(stored_parts(source) or ())), None)


def _consolidated(document: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the documents that a group's document holds copies of, by their names."""
    found: dict[str, Any] = ((document or {}).get("consolidated_metadata") or {}).get(
        "metadata", {}
    )
    return found


def _document_of(coordinate: _Coordinate) -> dict[str, Any]:
    """Return the metadata of a coordinate's array, without attributes."""
    array: Any = zarr.create_array(
        zarr.storage.MemoryStore(),
        shape=coordinate.shape,
        chunks=coordinate.part,
        dtype=coordinate.dtype,
        dimension_names=coordinate.dims,
    )
    return metadata_document(array)


def _equal(one: NDArray[Any], other: NDArray[Any]) -> bool:
    numbers = one.dtype.kind in "fmM" and other.dtype.kind in "fmM"
    return bool(np.array_equal(one, other, equal_nan=numbers))


def _decoded(values: NDArray[Any], attributes: Mapping[str, Any]) -> NDArray[Any]:
    """Return what stored values mean, where xarray is there to say; else what is stored."""
    telling = {key: attributes[key] for key in _ENCODING if key in attributes}
    if isinstance(telling.get("_FillValue"), str):
        del telling["_FillValue"]  # of floats, and in base64
    if not telling:
        return values
    try:
        from xarray import Variable
        from xarray.conventions import decode_cf_variable
    except ImportError:
        return values
    dims = [f"d{i}" for i in range(values.ndim)]
    return np.asarray(decode_cf_variable("x", Variable(dims, values, telling)).values)


def _coordinates_of(X: Any, source: Source, *, of_rows: bool) -> Iterator[_Coordinate]:
    dims = _sample_dims(X, source)
    whole = dims is not None and not is_dataset(X)  # a DataArray has coordinates of its features
    if of_rows and not whole and source.axis_names and source.feature_names:
        yield _of_names(source.axis_names[source.feature_axis], source.feature_names)
    if dims is not None:
        dims = tuple(X.dims) if of_rows and whole else dims
        found = _along(X, dims)
        indexes = [key for key, index in found.indexes.items() if index.nlevels > 1]
        found = found.reset_index(indexes) if indexes else found
        for key, array in found.variables.items():
            if array.ndim or key not in indexes:
                yield _of_variable(str(key), array)
        return
    stored = stored_parts(source)
    assert stored is not None
    names = (source.axis_names or ())[:-1]
    for array in coordinates_beside(stored, names):
        dims_of = dimension_names(array) or ()
        if set(dims_of) <= set(names):
            yield _of_array(array, dims_of)


# -- of xarray -------------------------------------------------------------------------------------

_TICKS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}


def _of_variable(name: str, variable: Any) -> _Coordinate:
    """Describe an xarray variable as it is stored: dates as whole numbers, strings as UTF-8."""
    dims, shape = tuple(map(str, variable.dims)), tuple(variable.shape)
    attributes = {str(key): _plain(value) for key, value in variable.attrs.items()}
    if not isinstance(variable.dtype, np.dtype):  # pandas' own: categories, intervals, periods
        return _of_values(name, dims, _as_stored(np.asarray(variable.values)), attributes)
    dtype = np.dtype(variable.dtype)
    if dtype.kind in "mM":
        unit = np.datetime_data(dtype)[0]
        ticks = _TICKS[unit]
        told = (
            {"units": f"{ticks} since 1970-01-01", "calendar": "proleptic_gregorian"}
            if dtype.kind == "M"
            else {"units": ticks, "dtype": f"timedelta64[{unit}]"}
        )

        def counts(region: tuple[slice, ...]) -> NDArray[Any]:
            return np.asarray(variable[region].values).astype(dtype).view(np.int64)

        return _Coordinate(name, dims, shape, np.dtype("i8"), {**attributes, **told}, counts)
    if dtype.kind in "biufU":
        fill = attributes.get("_FillValue")
        if dtype.kind == "f" and isinstance(fill, int | float):  # of what xarray has not decoded
            attributes["_FillValue"] = _as_text(fill)

        def values(region: tuple[slice, ...]) -> NDArray[Any]:
            return np.asarray(variable[region].values, dtype)

        return _Coordinate(name, dims, shape, dtype, attributes, values)
    from xarray.conventions import encode_cf_variable

    encoded = encode_cf_variable(variable.drop_encoding(), name=name)  # dates of other calendars
    whole = _as_stored(np.asarray(encoded.values))
    told = {str(key): _plain(value) for key, value in encoded.attrs.items() if key != "_FillValue"}
    return _of_values(name, dims, whole, told)


def _of_names(dim: str, names: Sequence[str]) -> _Coordinate:
    """Describe the names of the features, along their dimension."""
    return _of_values(dim, (dim,), np.asarray(names, np.dtypes.StringDType()), {})


def _as_stored(values: NDArray[Any]) -> NDArray[Any]:
    """Return numbers as they are, and all else as it is spelled."""
    if values.dtype.kind in "biuf":
        return values
    if values.dtype.kind == "O":
        spelled = [str(value) for value in values.ravel()]
        values = np.asarray(spelled, np.dtypes.StringDType()).reshape(values.shape)
    return values.astype(np.dtypes.StringDType())


def _of_values(
    name: str, dims: tuple[str, ...], whole: NDArray[Any], attributes: Mapping[str, Any]
) -> _Coordinate:
    """Describe a coordinate that is in memory as it is to be stored."""

    def cut(region: tuple[slice, ...]) -> NDArray[Any]:
        part: NDArray[Any] = whole[region]
        return part

    return _Coordinate(name, dims, whole.shape, whole.dtype, attributes, cut)


def _as_text(number: float) -> str:
    """Return a fill value of floats as xarray spells it in attributes."""
    return base64.standard_b64encode(struct.pack("<d", number)).decode()


def _plain(value: Any) -> Any:
    """Return an attribute as JSON holds it."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return str(value)
    return value


# -- of a store ------------------------------------------------------------------------------------


def _of_array(array: zarr.Array[Any], dims: tuple[str, ...]) -> _Coordinate:
    """Describe a stored coordinate, encoded as it is."""
    left_out = {"_ARRAY_DIMENSIONS", "coordinates"}
    attributes = {key: value for key, value in array.attrs.items() if key not in left_out}
    dtype = np.dtype(array.dtype)
    fill = array.fill_value
    if array.metadata.zarr_format == 2 and fill is not None and dtype.kind in "iuf":
        # There it is what counts as missing, and here an attribute; xarray's spelling of floats.
        number = float(fill) if dtype.kind == "f" else int(fill)
        if dtype.kind != "f":
            attributes.setdefault("_FillValue", number)
        elif not math.isnan(number):
            attributes.setdefault("_FillValue", _as_text(number))

    kept = np.dtypes.StringDType() if dtype.kind in "OT" else dtype.newbyteorder("=")

    def values(region: tuple[slice, ...]) -> NDArray[Any]:
        found = np.asarray(array[region])
        return found if found.dtype == kept else found.astype(kept)

    name = array.path.rpartition("/")[2]
    return _Coordinate(name, dims, tuple(array.shape), kept, attributes, values)
