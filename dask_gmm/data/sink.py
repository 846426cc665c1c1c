"""Labels and posteriors → a Zarr array, block by block, from any process.

The output's chunks are the source's blocks, so no two writers ever share a chunk and a task that
runs twice writes the same object twice. Every block is written, also one of nothing but zeros
(Zarr by itself would leave it out), and the fill value is none of the values: a hole can be told
from an answer. The attribute `complete` turns true when everything is there.

A local output appears at its path only then: until `finish` it is written beside it, and what it
replaces stays as it is. Object stores cannot rename, so there an output is written in place, and
one that may be overwritten is deleted first.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import StorePath

from dask_gmm.data.atomic_replace import copy_beside, put_in_place
from dask_gmm.data.checked_store import first_line, translate_error
from dask_gmm.data.dask_source import DaskSource
from dask_gmm.data.grid import BlockRef, RegularAxis
from dask_gmm.data.open_stores import store_url
from dask_gmm.data.stores import writable_store
from dask_gmm.data.urls import (
    Options,
    check_options,
    join_url,
    normalize_url,
    same_place,
    scheme_of,
)
from dask_gmm.data.zarr_source import ZarrSource
from dask_gmm.errors import InputError, OutputExistsError, StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import DTypeLike, NDArray
    from zarr.abc.store import Store

    from dask_gmm.data.base import Source

__all__ = ["BlockWriter", "create_output", "output_chunks"]

COMPLETE = "complete"


@dataclass(frozen=True)
class BlockWriter:
    """Writes blocks of values to an output; small, picklable, without credentials.

    Attributes
    ----------
    url : str
        The output array.
    options : tuple of pairs
        Storage options.
    metadata : str
        The array's metadata document, as JSON.
    place : str
        Where it is written until `finish`: `url` itself, or a hidden sibling of a local path.
    overwrite : bool
        Whether an array at `url` may be replaced.
    """

    url: str
    options: Options
    metadata: str
    place: str
    overwrite: bool = False

    def write(self, block: BlockRef, values: NDArray[Any]) -> None:
        """Write the values of one block.

        Parameters
        ----------
        block : BlockRef
            A block of the source that the output was made for.
        values : ndarray of shape (n,), (n, K), the block's sample shape, or that and K
            One value, or K values, per row of the block.

        Raises
        ------
        InputError
            If the values are not one (or K) per row.
        StoreError
            If the store refuses them.
        """
        array = self._open()
        region: tuple[slice, ...] = tuple(
            slice(a, b) for a, b in zip(block.start, block.stop, strict=True)
        )
        shape = tuple(b - a for a, b in zip(block.start, block.stop, strict=True))
        if len(shape) < array.ndim:
            region, shape = (*region, slice(None)), (*shape, array.shape[-1])
        if block.rows is None or values.size != math.prod(shape):
            raise InputError(
                f"Block {block.index} of {self.url} takes values of shape {shape}, got "
                f"{values.shape}."
            )
        if values.size == 0:
            return
        if any(
            a % c or (b % c and b != n)
            for a, b, c, n in zip(block.start, block.stop, array.chunks, array.shape, strict=False)
        ):
            raise InputError(
                f"Block {block.index} covers only part of a chunk of {self.url}: make the output "
                f"with the chunks that output_chunks gives for its source."
            )
        place = f"block {block.index} of {self.url}"
        try:
            array[region] = values.reshape(shape)
        except Exception as error:  # every kind of store has errors of its own
            raise _not_written(error, place) from error

    def finish(self) -> None:
        """Mark the output as complete and put it in its place; call once, after the last block.

        Raises
        ------
        OutputExistsError
            If something has come to be at `url` that may not be deleted.
        StoreError
            If the store refuses. The blocks stay where they were written.
        """
        try:
            array = zarr.open_array(writable_store(self.place, self.options), mode="r+")
            array.update_attributes({COMPLETE: True})
            if self.place != self.url:
                store = writable_store(self.url, self.options)
                _make_room(store, self.url, overwrite=self.overwrite)
                put_in_place(self.place, self.url)
        except Exception as error:
            raise _not_written(error, self.url) from error

    def discard(self) -> None:
        """Delete what was written beside a local output; for when the pass has failed.

        What was at `url` before is there still. An output in an object store stays as it is,
        its attribute `complete` false.
        """
        if self.place != self.url:
            shutil.rmtree(self.place, ignore_errors=True)

    def _open(self) -> zarr.Array[Any]:
        store = writable_store(self.place, self.options)
        return zarr.Array(
            zarr.AsyncArray(
                json.loads(self.metadata), StorePath(store, ""), config={"write_empty_chunks": True}
            )
        )


def output_chunks(source: Source) -> tuple[int, ...]:
    """Return the chunk shape of an output for a source: the shape of its blocks.

    Raises
    ------
    InputError
        If a Dask collection's chunks are of unknown or uneven sizes: a Zarr array's are even.
    """
    chunks = []
    for axis, grid_axis in enumerate(source.grid.axes):
        if isinstance(grid_axis, RegularAxis):
            chunks.append(max(1, grid_axis.longest))
            continue
        sizes = grid_axis.sizes
        if not grid_axis.known:
            raise InputError(
                f"{source.name} has chunks of unknown sizes, so an output for it cannot be laid "
                f"out: pass `X.compute_chunk_sizes()`."
            )
        if any(size != sizes[0] for size in sizes[:-1]) or sizes[-1] > sizes[0]:
            where = axis if axis < source.feature_axis else axis + 1
            raise InputError(
                f"{source.name} has chunks of uneven sizes along axis {where}, but those of a Zarr "
                f"array are even: give it even chunks first, as "
                f"`X.rechunk({{{where}: {max(1, int(max(sizes)))}}})` does with a Dask array."
            )
        chunks.append(max(1, int(sizes[0])))
    return tuple(chunks)


def create_output(
    url: str,
    shape: Sequence[int],
    chunks: Sequence[int],
    dtype: DTypeLike = np.int32,
    options: Mapping[str, Any] | Options | None = None,
    *,
    overwrite: bool = False,
    attributes: Mapping[str, Any] | None = None,
    source: Source | None = None,
) -> BlockWriter:
    """Create a Zarr v3 array to write labels or posteriors to.

    Parameters
    ----------
    url : str
        Path or URL of the new array.
    shape : sequence of int
        The sample shape of the source; for posteriors, that and K.
    chunks : sequence of int
        From `output_chunks`; for posteriors, that and K.
    dtype : dtype, default=int32
        uint8 holds labels up to 254; its 255 stands for "not written".
    options : mapping or tuple of pairs, optional
        Storage options, never credentials.
    overwrite : bool, default=False
        Whether an *array* at `url` may be replaced. Anything else there is never deleted. A
        local one is replaced by `finish`, and can be read until then; in an object store it is
        deleted now.
    attributes : mapping, optional
        JSON-able provenance, written with the array.
    source : Source, optional
        The input, which is refused as the output, however its path is spelled. A Dask
        collection may be made of anything: it is refused where an object-store output would
        delete an array that `dask.array.from_zarr` reads, and nothing else is known of it.

    Returns
    -------
    BlockWriter

    Raises
    ------
    OutputExistsError
        If something is at `url` that may not be deleted.
    InputError
        If the output is the input, cannot be written to, or its chunks do not fit its shape.
    StoreError
        If the store refuses.
    """
    url = normalize_url(url)
    pairs = check_options(dict(options) if options is not None else None)
    if len(shape) != len(chunks):
        raise InputError(f"An output of shape {tuple(shape)} needs as many chunk lengths.")
    place = copy_beside(url) if scheme_of(url) == "file" else url
    _refuse_the_input(source, url, in_place=place == url)
    dtype = np.dtype(dtype)
    try:
        _make_room(writable_store(url, pairs), url, overwrite=overwrite)
        array = zarr.create_array(
            writable_store(place, pairs),
            shape=tuple(shape),
            chunks=tuple(max(1, c) for c in chunks),
            dtype=dtype,
            fill_value=_fill_value(dtype),
            attributes={**(attributes or {}), COMPLETE: False},
            dimension_names=_dimension_names(source, len(shape)),
            overwrite=overwrite,
        )
    except StoreError:
        raise
    except Exception as error:  # every kind of store has errors of its own
        raise _not_written(error, url) from error
    buffers = array.metadata.to_buffer_dict(default_buffer_prototype())
    document = json.loads(buffers["zarr.json"].to_bytes())
    document["attributes"] = {}
    return BlockWriter(url, pairs, json.dumps(document, sort_keys=True), place, overwrite)


def _dimension_names(source: Source | None, n_axes: int) -> list[str] | None:
    """Name the output's axes as the input does, so that xarray opens it among its like."""
    if source is None or source.axis_names is None:
        return None
    names = [n for axis, n in enumerate(source.axis_names) if axis != source.feature_axis]
    return names if len(names) == n_axes else [*names, "component"]


def _refuse_the_input(source: Source | None, url: str, *, in_place: bool) -> None:
    """Raise if the output would replace its input, or lie inside it."""
    inputs: list[str] = []
    if isinstance(source, ZarrSource):
        base = source.spec.place if source.store is None else store_url(source.store)
        inputs = [] if base is None else [join_url(base, source.path)]
    elif isinstance(source, DaskSource) and in_place:
        # Of a local output the collection reads the old chunks until the new ones are all there.
        for array in source.zarr_arrays():
            base = store_url(array.store_path.store)
            inputs += [] if base is None else [join_url(base, array.path)]
    for place in inputs:
        if same_place(place, url):
            raise InputError(
                f"{url} is the input (or lies inside of it, or around it): write the output "
                f"somewhere else."
            )


def _make_room(store: Store, url: str, *, overwrite: bool) -> None:
    """Check that nothing is in the way but, at most, an array that may be overwritten."""
    from zarr.core.sync import sync

    if sync(store.is_empty("")):
        return
    try:
        found: object = zarr.open(store=store, mode="r")
    except (FileNotFoundError, KeyError, ValueError):
        found = None
    if not isinstance(found, zarr.Array):
        what = "a Zarr group" if isinstance(found, zarr.Group) else "something that is not Zarr"
        raise OutputExistsError(
            f"{url} holds {what}, which is never deleted here: choose another place for the "
            f"output, such as a new name inside it."
        )
    if not overwrite:
        raise OutputExistsError(
            f"The output {url} already exists: choose another name, or allow it to be overwritten "
            f"(overwrite=True, --overwrite)."
        )


def _fill_value(dtype: np.dtype[Any]) -> Any:
    """Return a value that no label and no probability has."""
    if dtype.kind == "f":
        return float("nan")
    if dtype.kind == "i":
        return -1
    return int(np.iinfo(dtype).max)


def _not_written(error: Exception, place: str) -> StoreError:
    if isinstance(error, StoreError):
        return error
    if isinstance(error, OSError) and error.errno is not None:
        return StoreError(f"{place} could not be written: {error.strerror or first_line(error)}.")
    message = str(translate_error(error, place))
    return StoreError(message.replace("could not be read", "could not be written"))
