"""From what a user passes as a table to its source."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dask_gmm.data.stores import StoreSpec
from dask_gmm.data.tables.columns import FileSchema, check_names
from dask_gmm.data.tables.find import find_table, open_files
from dask_gmm.data.tables.footers import from_footers
from dask_gmm.data.tables.parquet_source import ParquetSource, ParquetWeights
from dask_gmm.data.tables.places import place_of
from dask_gmm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.data.tables.table import Table

__all__ = ["column_weights", "is_arrow_dataset", "open_arrow_dataset", "open_table"]


class Opened(NamedTuple):
    """A table, and what was given beside it.

    Attributes
    ----------
    source : ParquetSource
    beside : list
        A name of one of its columns has become `ParquetWeights`; all else is as it was given.
    """

    source: ParquetSource
    beside: list[Any]


def open_table(
    spec: StoreSpec, columns: Sequence[str] | None = None, beside: Sequence[Any] = ()
) -> Opened:
    """Describe a Parquet file, folder or pattern; footers are read.

    Parameters
    ----------
    spec : StoreSpec
    columns : sequence of str, optional
        The features; by default all columns but those of `beside`.
    beside : sequence
        Weights and masks, where they are strings perhaps columns of the table.

    Raises
    ------
    As `find_table`, and InputError where columns are not there or are no numbers.
    """
    names = check_names(columns)
    table, schemas = find_table(spec, _read(names, beside))
    return _opened(table, schemas, names, beside)


def is_arrow_dataset(X: Any) -> bool:
    """Whether X is a `pyarrow.dataset.Dataset`."""
    dataset = sys.modules.get("pyarrow.dataset")
    return dataset is not None and isinstance(X, dataset.Dataset)


def open_arrow_dataset(
    X: Any, columns: Sequence[str] | None = None, beside: Sequence[Any] = ()
) -> Opened:
    """Describe a dataset of Parquet files on this machine's disks, as `open_table` does.

    Raises
    ------
    InputError
        It is of another kind, or somebody has filtered it.
    """
    import pyarrow.dataset

    plain = (
        isinstance(X, pyarrow.dataset.FileSystemDataset)
        and isinstance(X.format, pyarrow.dataset.ParquetFileFormat)
        and X.filesystem.type_name == "local"
        and not getattr(X, "_scan_options", None)
        and len(X.files) > 0
    )
    if not plain:
        raise InputError(
            "X is a pyarrow Dataset that is not just Parquet files of this machine's disks: pass "
            "`X.to_table()` where that fits into memory, else the path or URL of its files."
        )
    files = [os.path.abspath(file) for file in X.files]  # noqa: PTH100
    root = os.path.commonpath([Path(file).parent for file in files])
    keys = [Path(file).relative_to(root).as_posix() for file in files]
    name = files[0] if len(files) == 1 else root
    names = check_names(columns)
    table, schemas = open_files(StoreSpec(root), name, keys, _read(names, beside))
    return _opened(table, schemas, names, beside)


def column_weights(source: ParquetSource, column: str) -> ParquetWeights | None:
    """Return the column of that name as the weights of a table's rows, None if there is none.

    Raises
    ------
    InputError
        It holds no numbers.
    """
    table, place = source.table, place_of(source.table.spec)
    keys = [file.key for file in table.files]
    found = from_footers(place, keys, lambda footer: (footer.schema, footer.sizes([column])))
    schemas = [
        FileSchema(place.url(file.key), schema, file.partition, sizes)
        for file, (schema, sizes) in zip(table.files, found, strict=True)
    ]
    if not _has(schemas, column):
        return None
    return ParquetWeights.of(table, schemas, column)


def _opened(
    table: Table,
    schemas: Sequence[FileSchema],
    names: Sequence[str] | None,
    beside: Sequence[Any],
) -> Opened:
    own = [name for name in beside if isinstance(name, str) and _has(schemas, name)]
    source = ParquetSource.of(table, schemas, names, beside=own)
    found = [
        ParquetWeights.of(source.table, schemas, item)
        if isinstance(item, str) and item in own
        else item
        for item in beside
    ]
    return Opened(source, found)


def _read(names: Sequence[str] | None, beside: Sequence[Any]) -> Sequence[str] | None:
    """Return the columns that may be read, None for all."""
    if names is None:
        return None
    return [*names, *(name for name in beside if isinstance(name, str))]


def _has(schemas: Sequence[FileSchema], column: str) -> bool:
    first = schemas[0]
    return column in first.schema.names or column in dict(first.partition)
