"""Values of several kinds for each row, written in one read: arrays of a group, or a table."""

from __future__ import annotations

import os
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.data.concatenated_source import is_many
from dask_gmm.data.coordinates import OutputPlace
from dask_gmm.data.output_begin import output_chunks
from dask_gmm.data.output_fields import FieldLayout, begin_fields
from dask_gmm.data.tables.arrow import has_parquet_suffix
from dask_gmm.data.tables.output import begin_table, kept_columns, layout_of
from dask_gmm.data.tables.writer import ValueColumns
from dask_gmm.errors import InputError
from dask_gmm.fitting.fields import taken_apart
from dask_gmm.fitting.prediction import WriteJob
from dask_gmm.interrupts import allowed, held

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dask_gmm.data.provenance import Recipe
    from dask_gmm.data.source import Source
    from dask_gmm.fitting.fields import FieldsFunction

    Recipes = Callable[[str, dict[str, Any]], Recipe]
    Write = Callable[[Source, WriteJob, Any], None]

__all__ = ["write_fields"]


def write_fields(
    X: Any,
    source: Source,
    function: FieldsFunction,
    output: str | os.PathLike[str],
    recipe: Recipes,
    write: Write,
    *,
    how: Mapping[str, Any],
    keep: Sequence[str] | None = None,
) -> int:
    """Write what a function says of each row, and return how many rows there are.

    Parameters
    ----------
    X, source : object, Source
        Whose rows they are.
    function : FieldsFunction
    output : path or URL
        Of a group, with an array for each kind of value, or of a Parquet table.
    recipe : callable
        Takes what an output is called and what describes it; returns its recipe.
    write : callable
        Runs a `WriteJob` over the blocks that an output lacks, and finishes it.
    how : mapping
        `options`, `overwrite` and `resume`, as of `begin_output`.
    keep : sequence of str, optional
        Columns of the data that a table has too.

    Raises
    ------
    InputError
        The data are many arrays, or what was asked for is not to be had of such an output.
    """
    url = os.fspath(output)
    if is_many(source):
        names = " and ".join(field.name for field in function.fields)
        raise InputError(
            f"{source.name} are many, and {names} are written of one: call it for each."
        )
    if has_parquet_suffix(url):
        return _write_table(X, source, function, url, recipe, write, how, keep)
    if keep is not None:
        raise InputError(
            f"keep= is for tables, and {url} would be a Zarr group: give it a name that ends with "
            f".parquet."
        )
    shape = tuple(int(n) for n in source.sample_shape if n is not None)
    chunks = output_chunks(source)  # refuses those of unknown sizes
    options, overwrite = how["options"], how["overwrite"]
    places, layouts = [], []
    for field in function.fields:
        beside = dict.fromkeys(field.axes, field.labels) if field.labels else {}
        look = partial(OutputPlace.look, url, field.name, options, X, source)
        places.append(look(overwrite=overwrite, beside=beside))
        own = (*shape, *field.shape), (*chunks, *field.shape)
        described = {**function.described(), "shape": list(own[0]), "chunks": list(own[1])}
        made = recipe(field.name, {**described, "of": [f.name for f in function.fields]})
        layouts.append(FieldLayout(places[-1].url, *own, field.dtype, made, field.axes))
    begin = begin_fields(layouts, partial(taken_apart, function.fields), source=source, **how)
    with held(), begin as begun, allowed():
        for place in places:
            place.begin()
        n_rows = source.max_block_rows or 0
        write(
            source, WriteJob(function, begun.writer, _row_bytes(function) * n_rows, n_rows), begun
        )
        for place in places:
            place.end()
    return prod(shape)


def _write_table(
    X: Any,
    source: Source,
    function: FieldsFunction,
    url: str,
    recipe: Recipes,
    write: Write,
    how: Mapping[str, Any],
    keep: Sequence[str] | None,
) -> int:
    """Write a Parquet table with a column for each value, and return its rows."""
    names = tuple(name for field in function.fields for name in field.columns)
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"Two columns of {url} would be called {twice[0]!r}: rename a feature.")
    dtypes = tuple(field.dtype for field in function.fields for _ in field.columns)
    kept = kept_columns(source, X, keep, names)
    described = {
        **function.described(),
        "shape": list(source.sample_shape),
        "blocks": source.n_blocks,
        "keep": list(kept.columns) if kept is not None else [],
    }
    begin = begin_table(
        url,
        layout_of(source),
        label_dtype=np.dtype(np.int32),  # of labels, which it has none of
        recipe=recipe(" and ".join(field.name for field in function.fields), described),
        keep=kept,
        source=source,
        columns=ValueColumns(names, dtypes),
        **how,
    )
    with held(), begin as begun, allowed():
        n_rows = source.max_block_rows or 0
        size = _row_bytes(function) * n_rows + (0 if kept is None else kept.block_bytes)
        write(source, WriteJob(function, begun.writer, size, n_rows), begun)
    return begun.n_rows


def _row_bytes(function: FieldsFunction) -> int:
    """Bytes of a row's values, as they are computed and as they are written."""
    written = sum(np.dtype(field.dtype).itemsize * field.width for field in function.fields)
    return 8 * function.n_outputs + written
