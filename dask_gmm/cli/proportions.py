"""The proportions of components in each of many arrays: as a table, as JSON, as a file."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dask_gmm.errors import InputError, StoreError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.table import Table

    from dask_gmm.data.base import Source

__all__ = ["check_proportions", "proportions_json", "proportions_table", "write_csv"]

_MOST_ARRAYS = 20  # that the terminal shows


def check_proportions(path: str, source: Source, output: str) -> None:
    """Refuse a table of proportions that cannot be made, or not be written there.

    Raises
    ------
    InputError
        The data are one array, or the output is a table, which holds none.
    StoreError
        There is no such folder.
    """
    from dask_gmm.data.concatenated_source import is_many
    from dask_gmm.data.tables.arrow import has_parquet_suffix

    if not is_many(source):
        raise InputError(
            f"--proportions says what part each component has in each of many arrays, and "
            f"{source.name} is one: leave it out, or name many with --arrays or a pattern."
        )
    if has_parquet_suffix(output):
        raise InputError(
            f"--proportions are written with labels in a Zarr group, and {output} is a table: give "
            f"the output a name that does not end with .parquet."
        )
    if not Path(path).absolute().parent.is_dir() or Path(path).is_dir():
        raise StoreError(f"{path} cannot be written: it is a folder, or lies in none.")


def write_csv(
    path: str, names: list[str], shares: NDArray[np.float64], counts: NDArray[np.int64]
) -> None:
    """Write a row for each array: its name, the proportions, and the rows with each label."""
    k = shares.shape[1]
    try:
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(
                ["array", *(f"proportion_{i}" for i in range(k)), *(f"count_{i}" for i in range(k))]
            )
            for name, own, labels in zip(names, shares.tolist(), counts.tolist(), strict=True):
                writer.writerow([name, *("" if s != s else repr(s) for s in own), *labels])  # noqa: PLR0124  NaN
    except OSError as error:
        raise StoreError(f"{path} could not be written: {error.strerror}.") from error


def proportions_json(names: list[str], shares: NDArray[np.float64]) -> dict[str, Any]:
    """Return the proportions by the arrays' names; null where no row counts."""
    return {
        name: [None if s != s else s for s in own]  # noqa: PLR0124  NaN
        for name, own in zip(names, shares.tolist(), strict=True)
    }


def proportions_table(names: list[str], shares: NDArray[np.float64], width: int) -> Table:
    """Return the proportions of the first arrays and components as the terminal shows them."""
    from dask_gmm.cli.tables import bare_table

    longest = max(len(name) for name in names[:_MOST_ARRAYS])
    shown = max(1, min(shares.shape[1], (width - longest) // 9 - 1))
    table = bare_table()
    table.add_column("array")
    for i in range(shown):
        table.add_column(str(i), justify="right")
    for name, own in zip(names[:_MOST_ARRAYS], shares[:, :shown], strict=False):
        table.add_row(name, *(f"{share:.4f}" for share in own))
    if len(names) > _MOST_ARRAYS:
        table.add_row(f"... {len(names) - _MOST_ARRAYS:,} more", *[""] * shown)
    return table
