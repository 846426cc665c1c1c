"""Small Parquet tables for the tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from dask_gmm.data.source import Source

__all__ = ["all_rows", "cloud", "write"]


def cloud(n: int = 600, seed: int = 0) -> NDArray[np.float64]:
    """Rows (n, 2) of two components that lie apart."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2)) + np.where(rng.random(n) < 0.4, -4.0, 4.0)[:, None]


def write(path: Path, rows: NDArray[Any] | None = None, group: int = 50, **more: Any) -> Path:
    """Write columns a and b, the number of each row as id, and others."""
    rows = cloud() if rows is None else rows
    options = more.pop("options", {})
    columns = {"id": np.arange(len(rows)), "a": rows[:, 0], "b": rows[:, 1], **more}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=group, **options)
    return path


def all_rows(source: Source) -> NDArray[Any]:
    """Read a source block by block."""
    return np.concatenate([source.read(source.block(i)).values for i in range(source.n_blocks)])
