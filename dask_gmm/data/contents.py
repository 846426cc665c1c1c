"""What lies at a place, by its metadata: arrays, a group of them, a table; nothing else is read."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from dask_gmm.data.atomic_replace import is_copy
from dask_gmm.data.checked_store import first_line
from dask_gmm.data.conventions import stored_decoding
from dask_gmm.data.decoding import Remedies
from dask_gmm.data.provenance import ATTRIBUTE, recipe_in
from dask_gmm.data.stored_array import dimension_names
from dask_gmm.data.tables.columns import column_names
from dask_gmm.data.tables.find import find_table, holds_parquet, is_pattern, is_table
from dask_gmm.data.tables.output import said_at
from dask_gmm.data.urls import crosses_network, join_url
from dask_gmm.data.zarr_open import open_found
from dask_gmm.errors import InputError, StoreError, StoreNotFoundError
from dask_gmm.interrupts import held

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dask_gmm.data.decoding import Decoding
    from dask_gmm.data.stores import StoreSpec

__all__ = [
    "ArrayContents",
    "Contents",
    "GroupContents",
    "OutputSays",
    "TableContents",
    "contents_at",
]


@dataclass(frozen=True)
class OutputSays:
    """What an output of this package says of itself.

    Attributes
    ----------
    complete : bool
    values : str or None
        What was written: labels, posteriors, ...
    data : str or None
        Of which data.
    model : str or None
        Digest of the mixture's parameters, and of what rows are scaled by.
    version : str or None
        Of dask-gmm.
    """

    complete: bool
    values: str | None = None
    data: str | None = None
    model: str | None = None
    version: str | None = None

    @classmethod
    def by(cls, attributes: Mapping[str, Any]) -> OutputSays | None:
        """Return what attributes say, None where they are not those of an output."""
        own = attributes.get(ATTRIBUTE)
        if not isinstance(own, dict) or "complete" not in own:
            return None
        recipe = recipe_in(attributes) or {}
        told = {
            name: None if recipe.get(name) is None else str(recipe[name])
            for name in ("values", "data", "model", "version")
        }
        return cls(bool(own["complete"]), **told)


@dataclass(frozen=True)
class ArrayContents:
    """An array.

    Attributes
    ----------
    name : str
        In its group; of an array by itself its path or URL.
    shape, chunks : tuple of int
    shards : tuple of int or None
    dtype : str
        Of the elements as they are stored.
    measured : str or None
        Type of what they mean; None where no mixture can be fitted to it.
    decoding : str
        In words how measurements are made of elements, "" where these are measurements; or why
        none can be.
    dimensions : tuple of str or None
    units : str or None
        As its attributes have them.
    coordinate : bool
        Whether it gives the places along a dimension of its group's arrays.
    said : OutputSays or None
    """

    name: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    dtype: str
    measured: str | None
    decoding: str
    dimensions: tuple[str, ...] | None
    units: str | None
    coordinate: bool
    said: OutputSays | None

    @property
    def nbytes(self) -> int:
        """Bytes of the elements as they are stored, before compression; 0 for objects."""
        try:
            return math.prod(self.shape) * np.dtype(self.dtype).itemsize
        except TypeError:
            return 0

    @property
    def usable(self) -> bool:
        """Whether a mixture can be fitted to it."""
        whole = self.said is None or self.said.complete
        return self.measured is not None and bool(self.shape) and not self.coordinate and whole


@dataclass(frozen=True)
class GroupContents:
    """A group.

    Attributes
    ----------
    name : str
        Path or URL.
    arrays : tuple of ArrayContents
        Of its own, by name.
    groups : tuple of str
        Names of those inside.
    encoding : str or None
        "anndata", or another that its attributes name.
    said : OutputSays or None
    """

    name: str
    arrays: tuple[ArrayContents, ...]
    groups: tuple[str, ...]
    encoding: str | None
    said: OutputSays | None


@dataclass(frozen=True)
class TableContents:
    """A Parquet table.

    Attributes
    ----------
    name : str
        Path or URL.
    n_files, n_rows, n_row_groups : int
    stored_bytes : int
        Of all columns.
    columns : tuple of (str, str)
        Names and types; those that paths spell have the type "from the path".
    said : OutputSays or None
        An output that is not complete has no columns to tell of.
    """

    name: str
    n_files: int
    n_rows: int
    n_row_groups: int
    stored_bytes: int
    columns: tuple[tuple[str, str], ...]
    said: OutputSays | None


Contents = ArrayContents | GroupContents | TableContents


@held()
def contents_at(spec: StoreSpec, *, leave: str | None = None) -> Contents | None:
    """Describe what is at a place; None where there is neither a Zarr array or group nor a table.

    Parameters
    ----------
    spec : StoreSpec
    leave : str, optional
        None too for a group whose attribute ``format`` is this: who asks knows more of it.

    Raises
    ------
    StoreError
        The store does not answer, or metadata cannot be used.
    InputError
        A file is neither a zip file nor Parquet; or the files are those of a lake's table.
    """
    if is_table(spec.url):
        return _table(spec)
    try:
        found = open_found(spec)
    except StoreNotFoundError:
        remote = crosses_network(spec.url)
        return _table(spec) if remote and holds_parquet(spec) else None
    if isinstance(found, zarr.Array):
        return _array(found, spec.url, spec.url, ())
    if leave is not None and found.attrs.get("format") == leave:
        return None
    return _group(found, spec.url)


def _group(group: zarr.Group, url: str) -> GroupContents:
    """Describe a group by the metadata of its own members.

    Raises
    ------
    StoreError
        Its store cannot list.
    """
    try:
        members = dict(group.members(max_depth=0))
    except Exception as error:  # plain HTTP servers answer a listing in many ways
        raise StoreError(
            f"{url} is a Zarr group, and its store cannot list what it holds "
            f"({first_line(error)}): give the path or URL of one of its arrays."
        ) from error
    nodes = {name: node for name, node in sorted(members.items()) if not is_copy(name)}
    arrays = {name: node for name, node in nodes.items() if isinstance(node, zarr.Array)}
    spanned = {
        dimension
        for name, array in arrays.items()
        for dimension in dimension_names(array) or ()
        if len(array.shape) > 1 or dimension != name
    }
    named = {str(array.attrs.get("coordinates", "")) for array in arrays.values()}
    coordinates = spanned | {name for text in named for name in text.split()}
    encoding = group.attrs.get("encoding-type")
    return GroupContents(
        url,
        tuple(
            _array(array, name, join_url(url, name), coordinates) for name, array in arrays.items()
        ),
        tuple(name for name, node in nodes.items() if isinstance(node, zarr.Group)),
        None if encoding is None else str(encoding),
        OutputSays.by(dict(group.attrs)),
    )


def _array(
    array: zarr.Array[Any], name: str, url: str, coordinates: set[str] | tuple[()]
) -> ArrayContents:
    dtype, words, measured = _dtype_of(array), "", None
    try:
        kind = np.dtype(dtype)
        if kind.kind in "biuf":
            decoding, _ = stored_decoding(array, url, Remedies("X", "X"))
            measured = str(kind if decoding is None else decoding.dtype)
            words = "" if decoding is None else _in_words(decoding)
        else:
            words = "no real numbers"
    except (InputError, TypeError) as error:
        measured, words = None, first_line(error)
    units = array.attrs.get("units")
    return ArrayContents(
        name,
        tuple(int(n) for n in array.shape),
        tuple(int(n) for n in array.chunks),
        None if array.shards is None else tuple(int(n) for n in array.shards),
        dtype,
        measured,
        words,
        dimension_names(array),
        None if units is None else str(units),
        name in coordinates,
        OutputSays.by(dict(array.attrs)),
    )


def _dtype_of(array: zarr.Array[Any]) -> str:
    """Return the type of an array's elements, also where NumPy has none."""
    try:
        return str(array.dtype)
    except Exception as error:  # noqa: BLE001  types of other packages, in as many ways
        return f"unknown ({first_line(error)})"


def _in_words(decoding: Decoding) -> str:
    """Return what is done to elements, in words; "" for nothing."""
    said = []
    if decoding.meant != decoding.stored:
        said.append(f"taken for {decoding.meant}")
    if decoding.marks:
        values = ", ".join(str(mark.value) for mark in decoding.marks[:3])
        said.append(f"{values}{', …' if len(decoding.marks) > 3 else ''} missing")
    if decoding.packed_valid or decoding.valid:
        said.append("what is out of the valid range missing")
    if decoding.scale is not None:
        said.append(f"times {decoding.scale}")
    if decoding.offset is not None:
        said.append(f"plus {decoding.offset}")
    return ", ".join(said)


def _table(spec: StoreSpec) -> TableContents:
    attributes = None
    if not is_pattern(spec.url):
        _, attributes = said_at(spec.url, spec.options)
    said = None if attributes is None else OutputSays.by(attributes)
    if said is not None and not said.complete:
        return TableContents(spec.url, 0, 0, 0, 0, (), said)
    table, schemas = find_table(replace(spec, missing_chunks="error"))
    first = schemas[0]
    columns = [(name, str(first.schema.field(name).type)) for name in column_names(first.schema)]
    known = {name for name, _ in columns}
    columns += [(name, "from the path") for name, _ in first.partition if name not in known]
    sizes = [size for schema in schemas for size in schema.sizes.values()]
    return TableContents(
        spec.url,
        len(table.files),
        sum(sum(file.rows) for file in table.files),
        sum(len(file.rows) for file in table.files),
        int(sum(size[0].sum() for size in sizes)),
        tuple(columns),
        said,
    )
