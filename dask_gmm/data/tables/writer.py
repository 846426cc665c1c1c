"""Labels and posteriors as Parquet, block by block, from any process: a part for each block.

`dask_gmm.data.tables.output` makes the table of the parts when all are there.
"""

from __future__ import annotations

import math
import re
import socket
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.data.missing import no_label
from dask_gmm.data.provenance import Recipe, recipe_in
from dask_gmm.data.sink import LOOK_EVERY, compare, not_written
from dask_gmm.data.tables.arrow import pyarrow_for
from dask_gmm.data.tables.parts import LocalParts, RemoteParts, parts_of
from dask_gmm.errors import InputError, StoreError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.data.grid import BlockRef
    from dask_gmm.data.tables.table import Table
    from dask_gmm.data.urls import Options

__all__ = [
    "LABEL",
    "Kept",
    "KeptColumns",
    "KeptRows",
    "OpenTableWriter",
    "TableWriter",
    "ValueColumns",
    "posterior_names",
]

LABEL = "label"


def posterior_names(k: int) -> list[str]:
    """Return the names of the columns of posteriors."""
    return [f"posterior_{i}" for i in range(k)]


class Kept(ABC):
    """Columns that pass through from the data to the output.

    Attributes
    ----------
    columns : tuple of str
    """

    columns: tuple[str, ...]

    @abstractmethod
    def of(self, block: BlockRef) -> Any:
        """Return those of a block's rows, as a `pyarrow.Table`."""

    @property
    @abstractmethod
    def block_bytes(self) -> int:
        """Memory that those of a block take, with what their reading holds."""


@dataclass(frozen=True)
class KeptColumns(Kept):
    """Columns of a stored table.

    Attributes
    ----------
    table : Table
        In the blocks of the data.
    columns : tuple of str
    held : int
        Bytes that those of a block take at most, with what their reading holds.
    spelled : bool
        Whether those that the paths of files spell are written. Where the output has files of the
        same paths these spell them, and readers take no second column of such a name.
    """

    table: Table
    columns: tuple[str, ...]
    held: int = 0
    spelled: bool = True

    def of(self, block: BlockRef) -> Any:
        """Read them."""
        return self.table.arrow(block.index, self.columns, spelled=self.spelled)

    @property
    def block_bytes(self) -> int:
        """As stored, decompressed and decoded."""
        return self.held


@dataclass(frozen=True, eq=False)
class KeptRows(Kept):
    """Columns of a frame in this process's memory, as a `pyarrow.Table`."""

    table: Any
    columns: tuple[str, ...]

    def of(self, block: BlockRef) -> Any:
        """Return a slice."""
        return self.table.slice(block.start[0], block.stop[0] - block.start[0])

    @property
    def block_bytes(self) -> int:
        """Nothing: they are here."""
        return 0


@dataclass(frozen=True)
class ValueColumns:
    """Values of rows as columns of their own, one for each.

    Attributes
    ----------
    names, dtypes : tuple of str
    """

    names: tuple[str, ...]
    dtypes: tuple[str, ...]

    def of(self, values: NDArray[Any], arrow: Any) -> dict[str, Any]:
        """Return the columns of (n, C) values; NaN stands for none, which is null."""
        found = {}
        for name, dtype, own in zip(self.names, self.dtypes, values.T, strict=True):
            absent = np.isnan(own)
            filled = np.where(absent, 0.0, own).astype(dtype)
            found[name] = arrow.array(filled, mask=absent if absent.any() else None)
        return found

    def in_part(self, part: Any) -> NDArray[np.float64]:
        """Return the values that columns were made of, (n, C)."""
        columns = [part.column(name).cast("float64").fill_null(math.nan) for name in self.names]
        return np.stack([column.to_numpy() for column in columns], axis=1)


@dataclass(frozen=True)
class TableWriter:
    """How to write blocks of values to a table; small, picklable, without credentials.

    Attributes
    ----------
    url : str
        The output.
    place : str
        The hidden folder or prefix beside it where its parts are until it is complete.
    options : tuple of pairs
        Storage options.
    mark : str
        The recipe's digest, by which the work is known as this run's.
    label_dtype : str
        Type of the labels.
    keep : Kept or None
        What passes through.
    witnesses : tuple of int
        Blocks that are there already. They are computed and compared, not written.
    advice : str
        A sentence for errors.
    columns : ValueColumns or None
        What values are, where they are neither labels nor posteriors.
    """

    url: str
    place: str
    options: Options
    mark: str
    label_dtype: str
    keep: Kept | None = None
    witnesses: tuple[int, ...] = ()
    advice: str = ""
    columns: ValueColumns | None = None

    @property
    def parts(self) -> LocalParts | RemoteParts:
        """The work."""
        return parts_of(self.place, self.options)

    def open(self) -> OpenTableWriter:
        """Open the output for one thread."""
        return OpenTableWriter(self)

    def check_mine(self) -> None:
        """Make sure that the work is still the one that this run does.

        Raises
        ------
        StoreError
            Somebody has begun another one in its place, or has removed it.
        """
        found = self.parts.recipe()
        if found is None:
            raise StoreError(
                f"What this run has written of {self.url} is not at {self.place} as seen from "
                f"{socket.gethostname()}: it is complete by now and this is a late attempt, or "
                f"somebody has removed it, or that is a disk of one machine and not of all that "
                f"work. Give a place that all of them see."
            )
        if Recipe(recipe_in(found) or {}).digest != self.mark:
            raise StoreError(
                f"{self.url} is no longer written by this run: another has begun it anew. Let one "
                f"run at a time write it."
            )


class OpenTableWriter:
    """Writes blocks of values as parts; one thread's at a time."""

    def __init__(self, writer: TableWriter) -> None:
        self._writer = writer
        self._looked = -math.inf

    def write(self, block: BlockRef, values: NDArray[Any]) -> None:
        """Write the values of one block.

        Parameters
        ----------
        block : BlockRef
        values : ndarray of shape (n,) or (n, K)
            Labels, or posteriors, of which the labels are made too.

        Raises
        ------
        InputError
            A block that is there already has other values.
        StoreError
            The store refuses them, or the output is no longer this run's.
        """
        writer = self._writer
        place = f"Block {block.index} of {writer.url}"
        if block.rows is not None and len(values) != block.rows:
            raise InputError(f"{place} takes {block.rows} values, got {len(values)}.")
        try:
            if time.monotonic() - self._looked >= LOOK_EVERY:
                writer.check_mine()
                self._looked = time.monotonic()
            if block.index in writer.witnesses:
                part = writer.parts.read(block.index)
                there = (
                    _values_in(part, writer.label_dtype)
                    if writer.columns is None
                    else writer.columns.in_part(part)
                )
                compare(there, values, place)
            else:
                self._write(block, values)
        except (InputError, StoreError):
            raise
        except Exception as error:  # Arrow has several kinds of them
            raise not_written(error, place, writer.advice) from error

    def _write(self, block: BlockRef, values: NDArray[Any]) -> None:
        writer = self._writer
        pyarrow = pyarrow_for(writer.url)
        columns: dict[str, Any] = {}
        if writer.keep is not None:
            kept = writer.keep.of(block)
            columns = dict(zip(kept.column_names, kept.columns, strict=True))
        if writer.columns is not None:
            columns |= writer.columns.of(values, pyarrow)
            writer.parts.write(block.index, pyarrow.table(columns))
            return
        if values.ndim == 1:
            labels, absent = values, values == no_label(writer.label_dtype)
        else:
            absent = np.isnan(values[:, 0])  # rows that take no part
            labels = values.argmax(axis=1).astype(writer.label_dtype)
        mask = absent if absent.any() else None
        columns[LABEL] = pyarrow.array(np.ascontiguousarray(labels), mask=mask)
        if values.ndim == 2:
            for name, column in zip(posterior_names(values.shape[1]), values.T, strict=True):
                columns[name] = pyarrow.array(np.ascontiguousarray(column), mask=mask)
        writer.parts.write(block.index, pyarrow.table(columns))


def _values_in(part: Any, label_dtype: str) -> NDArray[Any]:
    """Return the posteriors in a part if there are some, else its labels; null as it was before."""
    names = [name for name in part.column_names if re.fullmatch(r"posterior_\d+", name)]
    if not names:
        labels: NDArray[Any] = part.column(LABEL).fill_null(no_label(label_dtype)).to_numpy()
        return labels
    return np.stack([part.column(n).fill_null(math.nan).to_numpy() for n in names], axis=1)
