"""From a path, URL, `zarr.Array`, `zarr.Group` or store to an array: metadata reads only."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import zarr
from zarr.abc.store import Store
from zarr.storage import StorePath

from dask_gmm.data.atomic_replace import is_copy
from dask_gmm.data.checked_store import CheckedStore, first_line
from dask_gmm.data.open_stores import spec_of_store, store_name
from dask_gmm.data.provenance import check_complete
from dask_gmm.data.stores import MissingChunks, StoreSpec, probe_store, zip_version
from dask_gmm.data.tables.arrow import has_parquet_suffix
from dask_gmm.data.urls import join_url, scheme_of
from dask_gmm.data.zarr_source import ZarrSource
from dask_gmm.errors import (
    ArrayNotFoundError,
    DaskGMMError,
    InputError,
    StoreError,
    StoreNotFoundError,
)
from dask_gmm.interrupts import held

if TYPE_CHECKING:
    from collections.abc import Sequence

    Node = zarr.Array[Any] | zarr.Group

__all__ = [
    "FoundArray",
    "FoundGroup",
    "coordinates_beside",
    "find_beside",
    "find_by_url",
    "find_group_by_url",
    "find_group_in",
    "find_in_node",
    "find_in_store",
    "find_members",
    "grid_mappings",
    "open_found",
]

_LISTED = 20  # arrays that an error message names at most


class FoundArray(NamedTuple):
    """An open array, and what leads another process to it.

    Attributes
    ----------
    array : zarr.Array
    spec : StoreSpec
        How to reach its store again.
    store : Store or None
        The store itself where `spec` cannot lead back to it.
    code : str or None
        Code for the array, in the remedies that messages name; None where it was opened by the path
        or URL of the spec.
    """

    array: zarr.Array[Any]
    spec: StoreSpec
    store: Store | None = None
    code: str | None = None

    def checked(self) -> FoundArray:
        """Return it, unless it is an output that is not complete.

        Raises
        ------
        InputError
        """
        check_complete(self.array.attrs, join_url(self.spec.url, self.array.path))
        return self

    def beside(self) -> FoundGroup:
        """Return the group that holds it; its store's root where it is all of the store."""
        path = StorePath(self.array.store_path.store, self.array.path.rpartition("/")[0])
        return FoundGroup(zarr.open_group(path, mode="r"), self.spec, self.store)

    def source(self, feature_axis: int | str | None) -> ZarrSource:
        """Describe it as rows and features; None for `feature_axis` if each element is a row."""
        return ZarrSource.of(
            self.array,
            feature_axis,
            spec=self.spec,
            path=self.array.path,
            store=self.store,
            code=self.code,
        )


class FoundGroup(NamedTuple):
    """An open group, and what leads another process to it; as of `FoundArray`."""

    group: zarr.Group
    spec: StoreSpec
    store: Store | None = None
    code: str | None = None

    @property
    def name(self) -> str:
        """What messages call it: its URL."""
        return join_url(self.spec.url, self.group.path)

    def array(self, name: str) -> FoundArray:
        """Return an array of the group.

        Raises
        ------
        ArrayNotFoundError
        """
        node = self.group.get(name)
        if not isinstance(node, zarr.Array):
            raise ArrayNotFoundError(f"The group {self.name} has no array {name!r}.")
        code = None if self.code is None else f"{self.code}[{name!r}]"
        return FoundArray(node, self.spec, self.store, code)

    def inside(self, name: str) -> FoundGroup:
        """Return a group of the group."""
        node = self.group[name]
        assert isinstance(node, zarr.Group)
        code = None if self.code is None else f"{self.code}[{name!r}]"
        return FoundGroup(node, self.spec, self.store, code)

    def above(self, levels: int) -> FoundGroup | None:
        """Return the group so many levels above it in its store, None if there is none."""
        if not levels:
            return self
        parts = self.group.path.split("/")[:-levels]
        path = StorePath(self.group.store_path.store, "/".join(parts))
        try:
            group = zarr.open_group(path, mode="r")
        except (FileNotFoundError, KeyError):
            return None
        return FoundGroup(group, self.spec, self.store)


@held()
def find_group_by_url(spec: StoreSpec, path: str | None = None) -> FoundGroup | None:
    """Open the group at a path or URL, or the one in it; None where that is something else."""
    if scheme_of(spec.url) == "file" and _is_zip_file(spec.url):
        spec = replace(spec, zip_version=zip_version(spec.url))
    node = _open_node(probe_store(spec), (path or "").strip("/"), spec.url)
    return FoundGroup(node, spec) if isinstance(node, zarr.Group) else None


@held()
def open_found(spec: StoreSpec) -> Node:
    """Open the array or the group at a path or URL, whatever it is.

    Raises
    ------
    As `find_by_url`, but for a group and for what is not complete.
    """
    if scheme_of(spec.url) == "file" and _is_zip_file(spec.url):
        spec = replace(spec, zip_version=zip_version(spec.url))
    return _open_node(probe_store(spec), "", spec.url)


@held()
def find_group_in(
    X: zarr.Group | Store, path: str | None = None, *, missing_chunks: MissingChunks = "error"
) -> FoundGroup | None:
    """Return an open group, or that of a store, or the one in it; None for something else."""
    original = X if isinstance(X, Store) else X.store_path.store
    name = store_name(original)
    own = "" if isinstance(X, Store) else X.path
    inside = "/".join(part for part in (own, (path or "").strip("/")) if part)
    node = _open_node(CheckedStore(original, name, missing_chunks, probing=True), inside, name)
    if not isinstance(node, zarr.Group):
        return None
    spec = spec_of_store(original, missing_chunks)
    if spec is not None:
        return FoundGroup(node, spec, code="X")
    return FoundGroup(node, StoreSpec(name, (), missing_chunks), original, "X")


@held()
def find_by_url(spec: StoreSpec, array: str | None = None) -> FoundArray:
    """Open the array at a path or URL.

    Parameters
    ----------
    spec : StoreSpec
        The store; its URL leads to an array, or to a group that holds it. A local one may be a
        zip file.
    array : str, optional
        Path of the array inside the group at the URL. Without it the URL must be an array, or a
        group that holds exactly one.

    Raises
    ------
    StoreNotFoundError, ArrayNotFoundError, StoreError
        If nothing is there, no such array is there, or the store does not answer.
    InputError
        If what is there is no store.
    """
    if scheme_of(spec.url) == "file" and _is_zip_file(spec.url):
        spec = replace(spec, zip_version=zip_version(spec.url))
    path = (array or "").strip("/")
    store = probe_store(spec)
    node = _open_node(store, path, spec.url)
    return FoundArray(_array_of(node, join_url(spec.url, path), store), spec).checked()


@held()
def find_in_node(
    node: Node,
    *,
    missing_chunks: MissingChunks = "error",
    array: str | None = None,
    code: str = "X",
) -> FoundArray:
    """Return an array, or an array of a group, that the caller has opened.

    Where something without credentials can stand for the node's store (`spec_of_store`), the array
    is found by that and every process opens it with its own credentials; otherwise it stays in this
    process. In messages `code` stands for the node.
    """
    return _found_in(node, node.store_path.store, missing_chunks, array, code)


@held()
def find_in_store(
    store: Store,
    *,
    missing_chunks: MissingChunks = "error",
    array: str | None = None,
    code: str = "X",
) -> FoundArray:
    """Return the array at the root of an open store, or an array of the group there."""
    name = store_name(store)
    node = _open_node(CheckedStore(store, name, missing_chunks, probing=True), "", name)
    return _found_in(node, store, missing_chunks, array, f"zarr.open({code}, mode='r')")


@held()
def find_members(
    X: StoreSpec | zarr.Group | Store,
    patterns: Sequence[str],
    *,
    missing_chunks: MissingChunks = "error",
) -> dict[str, FoundArray]:
    """Return the arrays of a group whose names match, by these, in their order.

    Parameters
    ----------
    X : StoreSpec, zarr.Group or Store
        The group.
    patterns : sequence of str
        Names, or patterns of names with ``*``, ``?`` and ``[...]``; those with a ``/`` match
        arrays of groups inside of it.
    missing_chunks : {"error", "fill"}

    Raises
    ------
    ArrayNotFoundError
        A name or pattern matches none, or it is no group.
    StoreNotFoundError, StoreError
        Nothing is there, or the store does not answer.
    """
    spec: StoreSpec | None = X if isinstance(X, StoreSpec) else None
    original: Store | None = None
    if spec is not None:
        if scheme_of(spec.url) == "file" and _is_zip_file(spec.url):
            spec = replace(spec, zip_version=zip_version(spec.url))
        node = _open_node(probe_store(spec), "", spec.url)
        name = spec.url
    elif isinstance(X, Store):
        name, original = store_name(X), X
        node = _open_node(CheckedStore(X, name, missing_chunks, probing=True), "", name)
    else:
        assert isinstance(X, zarr.Group)
        node, original = X, X.store_path.store
        name = join_url(store_name(original), X.path)
    if not isinstance(node, zarr.Group):
        raise ArrayNotFoundError(f"{name} is itself an array, so arrays= names none: leave it out.")
    if original is not None:
        spec = spec_of_store(original, missing_chunks)
    deep = any("/" in pattern for pattern in patterns)
    try:
        members = dict(node.members(max_depth=None if deep else 0))
    except Exception as error:  # plain HTTP servers answer a listing in many ways
        raise StoreError(
            f"The arrays of {name} cannot be listed ({first_line(error)}): pass a list of the URLs "
            f"of the arrays."
        ) from error
    arrays = {path: found for path, found in members.items() if isinstance(found, zarr.Array)}
    chosen: dict[str, FoundArray] = {}
    for pattern in patterns:
        matching = sorted(path for path in arrays if _matches(path, pattern))
        if not matching:
            raise ArrayNotFoundError(f"No array of {name} is called {pattern!r}. {_listing(node)}")
        for path in matching:
            own = spec or StoreSpec(store_name(original), (), missing_chunks)  # type: ignore[arg-type]
            kept = original if spec is None else None
            chosen[path] = FoundArray(arrays[path], own, kept, f"X[{path!r}]").checked()
    return chosen


def _matches(path: str, pattern: str) -> bool:
    """Whether a path matches a pattern part by part; what is written beside its place does not."""
    parts, wanted = path.split("/"), pattern.strip("/").split("/")
    return len(parts) == len(wanted) and all(
        fnmatchcase(part, own) and not is_copy(part)
        for part, own in zip(parts, wanted, strict=True)
    )


def _found_in(
    node: Node, original: Store, missing_chunks: MissingChunks, array: str | None, code: str
) -> FoundArray:
    """Find an array in a node of a store that the caller has opened."""
    spec = spec_of_store(original, missing_chunks)
    name = spec.url if spec else store_name(original)
    if isinstance(node, zarr.Array):
        if array is not None:
            raise InputError(
                f"array={array!r} names an array of a group, but {join_url(name, node.path)} is "
                f"itself an array."
            )
        found = node
    else:
        path = "/".join(part for part in (node.path, (array or "").strip("/")) if part)
        checked = CheckedStore(original, name, missing_chunks, probing=True)
        inside = node if array is None else _open_node(checked, path, name)
        found = _array_of(inside, join_url(name, path), checked)
        code = f"{code}[{found.path.removeprefix(node.path).strip('/')!r}]"
    if spec is not None:
        return FoundArray(found, spec, code=code).checked()
    return FoundArray(found, StoreSpec(name, (), missing_chunks), original, code).checked()


@held()
def find_beside(source: ZarrSource, name: str) -> FoundArray | None:
    """Return the array of that name in the group that holds a source's array, None if none is.

    Raises
    ------
    StoreError
        The store does not answer.
    """
    group = _group_of(source)
    node = None if group is None else group.open(name)
    if group is None or not isinstance(node, zarr.Array):
        return None
    return FoundArray(node, group.spec, source.store).checked()


@held()
def coordinates_beside(
    sources: Sequence[ZarrSource], dimensions: Sequence[str]
) -> list[zarr.Array[Any]]:
    """Return the arrays in the group of some stored ones that are coordinates of dimensions.

    Those that bear the name of a dimension, and those that attributes ``coordinates`` and
    ``grid_mapping`` name. Chunks that are not there hold the fill value: xarray leaves such out.

    Raises
    ------
    StoreError
        The store does not answer.
    """
    names = list(dimensions)
    for source in sources:
        own = _group_of(source)
        if own is not None:
            for node in (own.open(_name_in_group(source)), own.open()):
                names += str({} if node is None else node.attrs.get("coordinates", "")).split()
    names += grid_mappings(sources)
    spec = replace(sources[0].spec, missing_chunks="fill")
    group = _group_of(replace(sources[0], spec=spec))
    found = [None if group is None else group.open(name) for name in dict.fromkeys(names)]
    return [node for node in found if isinstance(node, zarr.Array)]


def grid_mappings(sources: Sequence[ZarrSource]) -> list[str]:
    """Return the names of the variables that hold the reference systems of some stored arrays.

    Raises
    ------
    StoreError
        The store does not answer.
    """
    found = []
    for source in sources:
        group = _group_of(source)
        node = None if group is None else group.open(_name_in_group(source))
        named = "" if node is None else str(node.attrs.get("grid_mapping", ""))
        if len(named.split()) == 1:
            found.append(named)
    return list(dict.fromkeys(found))


def _name_in_group(source: ZarrSource) -> str:
    return (source.path or source.spec.url).rpartition("/")[2]


class _Group(NamedTuple):
    """A group that holds a stored array."""

    store: CheckedStore
    spec: StoreSpec
    path: str

    def open(self, name: str = "") -> Node | None:
        """Open what has a name in it, or the group itself; None if nothing has."""
        path = "/".join(part for part in (self.path, name.strip("/")) if part)
        try:
            return _open_node(self.store, path, self.spec.url)
        except (ArrayNotFoundError, StoreNotFoundError):
            return None


def _group_of(source: ZarrSource) -> _Group | None:
    """Return the group that holds a source's array, None if the array is all of its store."""
    spec, folder = source.spec, source.path.rpartition("/")[0]
    if not source.path:
        if source.store is not None or spec.pickled or spec.zip_version:
            return None
        parent = spec.url.rpartition("/")[0]
        if parent.endswith(":/"):
            return None  # the array is all of the bucket
        spec = replace(spec, url=parent or "/")
    if source.store is None:
        return _Group(probe_store(spec), spec, folder)
    store = CheckedStore(source.store, spec.url, spec.missing_chunks, probing=True)
    return _Group(store, spec, folder)


def _is_zip_file(path: str) -> bool:
    """Whether a local store is a zip file; raise if it is no store at all."""
    if not Path(path).exists():
        raise StoreNotFoundError(f"There is no such path: {path}.")
    if Path(path).is_dir():
        return False
    if not zipfile.is_zipfile(path):
        if has_parquet_suffix(path):
            raise InputError(
                f"{path} is a Parquet table, and a Zarr array is needed here. The weights of a "
                f"table's rows are one of its columns: give the column's name."
            )
        raise InputError(
            f"{path} is a file, and no Parquet; a Zarr store is a directory, or a zip file of one. "
            f"{_how_to_load(path)}"
        )
    return True


def _how_to_load(path: str) -> str:
    """What to do with a file that is no store, by its name."""
    name = path.lower()
    if name.endswith((".csv", ".csv.gz")):
        return "Read a CSV block by block: pass `dask.dataframe.read_csv(X)`."
    if name.endswith((".nc", ".nc4", ".cdf", ".h5", ".hdf5")):
        return "Open NetCDF lazily: pass `xarray.open_dataset(X, chunks={})`."
    return (
        "Load what is something else and pass the array: a .npy by `numpy.load(X, mmap_mode='r')`. "
        "The command line reads stores alone: zarr.create_array('X.zarr', data=array, "
        "chunks=(100_000, array.shape[1])) writes one."
    )


def _open_node(store: CheckedStore, path: str, url: str) -> Node:
    where = join_url(url, path)
    try:
        return zarr.open(store=store, path=path, mode="r")
    except DaskGMMError:
        raise
    except (FileNotFoundError, KeyError) as error:
        if store.denied is not None:
            raise store.denied from error
        if not path:
            raise StoreNotFoundError(
                f"There is no Zarr array or group at {url}. Check the path and, in an object "
                f"store, the bucket."
            ) from error
        raise _no_such_array(store, path, url) from error
    except Exception as error:  # whatever malformed metadata set off
        raise StoreError(
            f"The Zarr metadata of {where} cannot be used: {first_line(error)}."
        ) from error


def _no_such_array(store: CheckedStore, path: str, url: str) -> StoreError:
    try:
        root = zarr.open(store=store, mode="r")
    except DaskGMMError:
        raise
    except Exception:  # noqa: BLE001  nothing usable at the root: say just that
        return StoreNotFoundError(f"There is no Zarr array or group at {join_url(url, path)}.")
    if isinstance(root, zarr.Array):
        return ArrayNotFoundError(
            f"{url} is itself an array, so it holds no array {path!r}: leave array= (or features=) "
            f"out."
        )
    return ArrayNotFoundError(f"The group {url} has no array {path!r}. {_listing(root)}")


def _array_of(node: Node, where: str, store: CheckedStore) -> zarr.Array[Any]:
    """Return the node of a store if it is an array, or the only array of a group."""
    if isinstance(node, zarr.Array):
        return node
    names = _array_names(node)
    if names is not None and len(names) == 1:
        return _only_array(node, names[0], store)
    raise ArrayNotFoundError(f"{where} is a Zarr group: say which of its arrays. {_listing(node)}")


def _only_array(group: zarr.Group, name: str, store: CheckedStore) -> zarr.Array[Any]:
    """Open an array by its own metadata, as a group's consolidated ones may be older."""
    path = f"{group.path}/{name}".strip("/")
    try:
        return zarr.open_array(store, path=path, mode="r", zarr_format=group.metadata.zarr_format)
    except (FileNotFoundError, KeyError):  # the consolidated ones are all there are
        only = group[name]
        assert isinstance(only, zarr.Array)
        return only


def _array_names(group: zarr.Group) -> list[str] | None:
    """Return the names of a group's arrays, None if its store cannot list."""
    try:
        return sorted(name for name in group.array_keys() if not is_copy(name))
    except Exception:  # noqa: BLE001  plain HTTP servers answer a listing in many ways
        return None


def _listing(group: zarr.Group) -> str:
    names = _array_names(group)
    if names is None:
        return (
            "Its store cannot list what it holds (plain HTTP, no consolidated metadata): name one "
            "with array=."
        )
    if not names:
        return "It holds no arrays of its own; an array in a subgroup is named array='group/name'."
    described = []
    for name in names[:_LISTED]:
        member = group[name]
        assert isinstance(member, zarr.Array)
        described.append(f"{name!r} {member.shape}")
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (
        f"It holds {', '.join(described)}{more}: pass array=NAME, or features=[NAME, NAME] for "
        f"several."
    )
