"""Where an output begins: in a place of its own, or with what an earlier run has finished there.

The output says whether it is complete, and what it is made of (`dask_gmm.data.provenance`): the
metadata that call it complete are the last thing that is written. A local output appears at its
path only then: until `Output.finish` it is written beside it, and what it replaces stays as it is.
Object stores cannot rename, so there an output is written in place. The first thing that happens
to one that may be overwritten is that its metadata call it incomplete.

Two runs: on a local disk the second is refused while the first is alive. In an object store, or on
a file system without locks (NFS has none for directories), the second goes on with the first one's
output where both would write the same bytes, which harms neither; else it is refused, or where it
was told to begin anew the first ends with an error when it writes next, within a second.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.data.atomic_replace import (
    Claim,
    copies_beside,
    copy_beside,
    remove,
    restore,
    sweep,
)
from dask_gmm.data.concatenated_source import is_many
from dask_gmm.data.dask_source import DaskSource
from dask_gmm.data.grid import RegularAxis
from dask_gmm.data.joined_source import unlike
from dask_gmm.data.open_stores import store_url
from dask_gmm.data.output_array import (
    METADATA,
    delete_all_but_metadata,
    document_buffer,
    finished_blocks,
    make_room,
    new_document,
    put_document,
    read_attributes,
    read_document,
    refuse_listed,
)
from dask_gmm.data.provenance import (
    IMPUTED_ROWS,
    Recipe,
    attributes_of_output,
    is_incomplete,
    recipe_in,
)
from dask_gmm.data.sink import BlockWriter, Output, not_written
from dask_gmm.data.stored_parts import stored_parts
from dask_gmm.data.stores import writable_store
from dask_gmm.data.tables.parquet_source import ParquetSource
from dask_gmm.data.urls import (
    Options,
    check_options,
    join_url,
    normalize_url,
    same_place,
    scheme_of,
)
from dask_gmm.data.zarr_sync import sync
from dask_gmm.errors import InputError, OutputExistsError, StoreError
from dask_gmm.interrupts import allowed, held

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import DTypeLike
    from zarr.abc.store import Store

    from dask_gmm.data.base import Source

__all__ = [
    "RESUME",
    "Beginning",
    "advice",
    "begin_output",
    "output_chunks",
    "refuse_the_input",
]

RESUME = ("auto", "must", "never")
"""Go on if there is something to go on from, refuse to begin anew, or begin anew."""


def output_chunks(source: Source, *, or_table: bool = True) -> tuple[int, ...]:
    """Return the chunk shape of an output for a source: the shape of its blocks.

    Parameters
    ----------
    source : Source
    or_table : bool, default=True
        Whether the output may be a table instead, for which sizes need not be even.

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
            if isinstance(source, ParquetSource):
                remedy = "write a table, to a name that ends with .parquet."
                if not or_table:
                    remedy = "write the data anew, as one file with row groups of one size."
                raise InputError(
                    f"{source.name} has row groups of uneven sizes, but the chunks of a Zarr array "
                    f"are even: {remedy}"
                )
            where = axis if axis < source.feature_axis else axis + 1
            raise InputError(
                f"{source.name} has chunks of uneven sizes along axis {where}, but those of a Zarr "
                f"array are even: give it even chunks first, as "
                f"`X.rechunk({{{where}: {max(1, int(max(sizes)))}}})` does with a Dask array."
            )
        chunks.append(max(1, int(sizes[0])))
    return tuple(chunks)


def begin_output(
    url: str,
    shape: Sequence[int],
    chunks: Sequence[int],
    dtype: DTypeLike = np.int32,
    options: Mapping[str, Any] | Options | None = None,
    *,
    recipe: Recipe,
    overwrite: bool = False,
    resume: str = "auto",
    source: Source | None = None,
    tail: Sequence[str] | None = None,
) -> Output:
    """Create a Zarr v3 array to write labels or posteriors to, or go on with one that was begun.

    Parameters
    ----------
    url : str
        Path or URL of the array.
    shape : sequence of int
        The sample shape of the source; for posteriors, that and K.
    chunks : sequence of int
        From `output_chunks`; for posteriors, that and K.
    dtype : dtype, default=int32
        uint8 holds labels up to 254; its 255 stands for "not written".
    options : mapping or tuple of pairs, optional
        Storage options, never credentials.
    recipe : Recipe
        What decides every byte of the output.
    overwrite : bool, default=False
        Whether a complete *array* at `url` may be replaced. Anything else there is never deleted.
        A local one is replaced by `Output.finish`, and can be read until then; in an object store
        it is lost now.
    resume : {"auto", "must", "never"}, default="auto"
        What becomes of an output there that is not complete. "auto" goes on with it, and begins
        one where there is none; "must" begins none, and has nothing to do where a complete one of
        the same recipe is there; "never" deletes it and begins anew.
    source : Source, optional
        The input, which is refused as the output, however its path is spelled. A Dask
        collection may be made of anything: it is refused where an object-store output would
        delete an array that `dask.array.from_zarr` reads, and nothing else is known of it.
    tail : sequence of str, optional
        Names of the axes behind those of the samples, of an output that is one of several, whose
        axes all have names; by default one of components, or of features, if the source's have.

    Returns
    -------
    Output

    Raises
    ------
    OutputExistsError
        If something is at `url` that may not be deleted, or another process is writing it.
    InputError
        If the output is the input, cannot be written to, or its chunks do not fit its shape; if
        what is there was begun with another recipe, or nothing is there and something must be.
    StoreError
        If the store refuses.
    """
    url = normalize_url(url)
    pairs = check_options(dict(options) if options is not None else None)
    if len(shape) != len(chunks):
        raise InputError(f"An output of shape {tuple(shape)} needs as many chunk lengths.")
    if resume not in RESUME:
        raise InputError(f"resume must be 'auto', 'must' or 'never', got {resume!r}.")
    local = scheme_of(url) == "file"
    refuse_the_input(source, url, in_place=not local)
    begin = Beginning(url, pairs, recipe, overwrite, resume)
    of_rows = recipe.parts.get("values") == IMPUTED_ROWS
    names = _dimension_names(source, len(shape), tail, of_rows=of_rows)
    document = new_document(shape, chunks, np.dtype(dtype), names)
    try:
        begun: Output
        if local:
            begun = begin.beside(document)
            return begun
        with allowed():  # nothing is claimed there, and much may have to be deleted
            begun = begin.in_place(document)
        return begun
    except (InputError, StoreError):
        raise
    except Exception as error:  # every kind of store has errors of its own
        raise not_written(error, url, "Nothing there was changed." if local else "") from error


@dataclass(frozen=True)
class Beginning:
    """What somebody who begins an output wants; see `begin_output`.

    An output that is no Zarr array is begun by a subclass that overrides `attributes_at`,
    `make_room`, `start` and `output`.
    """

    url: str
    options: Options
    recipe: Recipe
    overwrite: bool
    resume: str

    def attributes_at(self, place: str) -> Mapping[str, Any] | None:
        """Return what the output at a place says of itself, None where none is."""
        return read_attributes(place, self.options)

    def make_room(self) -> None:
        """Check that nothing is in the way but, at most, an output that may be overwritten."""
        make_room(writable_store(self.url, self.options), self.url, overwrite=self.overwrite)

    def start(self, place: str, document: Mapping[str, Any]) -> None:
        """Begin an output at a place that is empty and claimed."""
        put_document(place, self.options, {**document, "attributes": self._attributes})

    def beside(self, document: Mapping[str, Any]) -> Any:
        """Begin, or go on with, a local output."""
        restore(self.url)
        begun = [copy for copy in copies_beside(self.url) if self._is_work(copy)]
        if self._is_done():
            return self.output(self.url, None, finished=None)
        self.make_room()
        place = copy_beside(self.url, self.recipe.digest)
        goes_on = self._goes_on([self._recipe_at(copy) for copy in begun])
        for copy in begun:
            if not goes_on:
                self._discard(copy)
        Path(place).mkdir(parents=True, exist_ok=True)
        with held():  # a claim that nobody knows of is not released
            claim = self._claim(place)
            try:
                with allowed():
                    if goes_on:
                        sweep(place)
                        return self.output(place, claim)
                    self.start(place, document)
                    return self.output(place, claim, finished=[])
            except BaseException:
                claim.release()
                if not goes_on:
                    remove(place)
                raise

    def in_place(self, document: dict[str, Any]) -> Any:
        """Begin, or go on with, an output in an object store."""
        if self._is_done():
            return self.output(self.url, None, finished=None)
        store = writable_store(self.url, self.options)
        attributes = self.attributes_at(self.url)
        under_way = attributes is not None and is_incomplete(attributes)
        if not under_way:
            self.make_room()
        if self._goes_on([self._recipe_at(self.url)] if under_way else []):
            return self.output(self.url, None)
        own = {**document, "attributes": self._attributes}
        if sync(store.is_empty("")):
            self._create(store, own)
        else:
            self._clear(store, own)
        return self.output(self.url, None, finished=[])

    def _is_done(self) -> bool:
        """Whether the complete output that must be gone on with is there: nothing is left to do."""
        if self.resume != "must" or not self.recipe.comparable:
            return False
        attributes = self.attributes_at(self.url)
        if attributes is None or is_incomplete(attributes):
            return False
        return Recipe(recipe_in(attributes) or {}).digest == self.recipe.digest

    def _is_work(self, copy: str) -> bool:
        """Whether a copy beside the output is an unfinished one; what is not is cleaned up."""
        if copy == copy_beside(self.url, Recipe(self._recipe_at(copy)).digest):
            return True
        self._discard(copy)  # the rest of one that was being deleted
        return False

    def _goes_on(self, begun: Sequence[Mapping[str, Any]]) -> bool:
        """Whether one of the outputs that were begun, by their recipes, is to be gone on with."""
        if self.resume == "never":
            return False
        others = [found for found in begun if Recipe(found).digest != self.recipe.digest]
        if len(others) < len(begun) and self.recipe.comparable:
            return True
        for found in others:
            if "metadata" in found:  # else its rows were in a memory that is gone
                raise InputError(
                    f"An output at {self.url} was begun and is not complete, and it is another "
                    f"one: {self.recipe.differences(found)}. Choose another name, or begin anew in "
                    f'its place with resume="never" (--no-resume).'
                )
        if self.resume == "must" and not self.recipe.comparable:
            raise InputError(
                f"{self.url} cannot be gone on with: its rows lie in this process's memory, where "
                f"nothing tells them from others. Let them come from a path, a URL or a Dask "
                f'collection, or pass resume="never" (--no-resume).'
            )
        if self.resume == "must":
            raise InputError(
                f"There is no output at {self.url} to go on with, and none is to be begun: leave "
                f'out resume="must" (--resume), or give the place where one was begun.'
            )
        return False

    def _claim(self, copy: str) -> Claim:
        try:
            return Claim(copy)
        except BlockingIOError as error:
            raise OutputExistsError(
                f"{self.url} is being written by another process at this moment: wait for its "
                f"end, or choose another name."
            ) from error

    def _discard(self, copy: str) -> None:
        with held():
            claim = self._claim(copy)
            try:
                remove(copy)
            finally:
                claim.release()

    def _create(self, store: Store, document: dict[str, Any]) -> None:
        """Write the first object of a new output, unless somebody else was faster."""
        sync(store.set_if_not_exists(METADATA, document_buffer(document)))
        if Recipe(self._recipe_at(self.url)).digest != self.recipe.digest:
            raise OutputExistsError(
                f"Another process has begun an output at {self.url} at this moment: choose "
                f"another name."
            )

    def _clear(self, store: Store, document: dict[str, Any]) -> None:
        """Make an array into the beginning of a new one.

        At no moment is it complete, or can chunks of the old one pass for the new one's: the recipe
        is written when they are gone.
        """
        refuse_listed(self.url, self.options)
        nameless = {**document, "attributes": attributes_of_output(None, complete=False)}
        sync(store.set(METADATA, document_buffer(nameless)))
        sync(delete_all_but_metadata(store))
        sync(store.set(METADATA, document_buffer(document)))

    @property
    def _attributes(self) -> dict[str, Any]:
        return attributes_of_output(self.recipe.parts, complete=False)

    def _recipe_at(self, place: str) -> Mapping[str, Any]:
        return recipe_in(self.attributes_at(place) or {}) or {}

    def witnesses(self, finished: Sequence[int]) -> tuple[int, ...]:
        """Return the finished blocks that are to speak for the others.

        The first and the last, where no digest of the data is known.
        """
        return () if self.recipe.exact else tuple(sorted({*finished[:1], *finished[-1:]}))

    def output(self, place: str, claim: Claim | None, finished: Sequence[int] | None = ()) -> Any:
        """Return what is at a place, where by default somebody looks which blocks are finished.

        None stands for all of them, and nothing left to do.
        """
        document = read_document(place, self.options)
        if document is None:  # moved away since it was looked at
            raise OutputExistsError(
                f"Another process has completed {self.url} at this moment: have a look at it."
            )
        document["attributes"] = {}
        if finished == ():
            finished = finished_blocks(place, self.options, document)
        done = finished or []
        writer = BlockWriter(
            self.url,
            self.options,
            json.dumps(document, sort_keys=True),
            place,
            self.recipe.digest,
            self.witnesses(done),
            advice(self.url, place),
        )
        return Output(
            writer,
            claim,
            self.recipe,
            overwrite=self.overwrite,
            finished=done,
            complete=finished is None,
        )


def advice(url: str, place: str) -> str:
    """Say what is as it was when writing fails, and what to do."""
    again = 'run it again with resume="auto" to go on from there.'
    if place == url:
        return f"The output stays marked as incomplete, and its finished blocks are kept: {again}"
    return f"What was at {url} before is as it was, and the finished blocks are kept: {again}"


def _dimension_names(
    source: Source | None, n_axes: int, tail: Sequence[str] | None, *, of_rows: bool = False
) -> list[str] | None:
    """Name the output's axes as the input does, so that xarray opens it among its like."""
    if source is None or (source.axis_names is None and tail is None):
        return None
    if source.axis_names is None:
        n_samples = n_axes - len(tail or ())
        names = ["row"] if n_samples == 1 else [f"axis_{axis}" for axis in range(n_samples)]
    else:
        names = [n for axis, n in enumerate(source.axis_names) if axis != source.feature_axis]
        if of_rows and len(names) < n_axes:
            return [*names, source.axis_names[source.feature_axis]]
    for name in tail or ("component",) * (n_axes - len(names)):
        names = [*names, unlike(name, names)]
    return names


def refuse_the_input(source: Source | None, url: str, *, in_place: bool) -> None:
    """Refuse to write over the data, into them or around them.

    Parameters
    ----------
    source : Source or None
    url : str
        What is to be written.
    in_place : bool
        Whether that is written where it is to be, while the data are read.

    Raises
    ------
    InputError
    """
    for place in [] if source is None else _inputs(source, in_place=in_place):
        if same_place(place, url):
            raise InputError(
                f"{url} is the input (or lies inside of it, or around it): write somewhere else."
            )


def _inputs(source: Source, *, in_place: bool) -> list[str]:
    """Return the places that a source is read from, and its mask."""
    inputs: list[str] = [] if source.weights is None else list(source.weights.stores)
    if is_many(source):
        each = [_inputs(part, in_place=in_place) for part in source.parts]
        return list(dict.fromkeys([*inputs, *(place for places in each for place in places)]))
    for part in stored_parts(source) or ():
        base = part.spec.place if part.store is None else store_url(part.store)
        inputs += [] if base is None else [join_url(base, part.path)]
    if isinstance(source, ParquetSource):
        table = source.table
        # A folder's new files would be rows of the next read.
        whole = table.name == table.spec.url
        inputs += [join_url(table.spec.url, "" if whole else file.key) for file in table.files]
        inputs = list(dict.fromkeys(inputs))
    elif isinstance(source, DaskSource) and in_place:
        # Of a local output the collection reads the old chunks until the new ones are all there.
        for array in source.zarr_arrays():
            base = store_url(array.store_path.store)
            inputs += [] if base is None else [join_url(base, array.path)]
    return inputs
