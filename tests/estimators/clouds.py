"""Rows for the tests of selection: a number of components that is right, and one family."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import zarr

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

TRUE_K = 4
N_BLOCKS = 10
N_ROWS = 6000


def tilted_clouds() -> NDArray[np.float64]:
    """Four tilted clouds: full covariances are right, diagonal ones need more components."""
    rng = np.random.default_rng(0)
    means = np.array([[0.0, 0, 0], [7, 0, 0], [0, 7, 0], [0, 0, 7]])
    roots = np.stack([np.eye(3) + 0.8 * np.tri(3, k=-1) * s for s in (1, -1, 1, -1)])
    z = rng.choice(TRUE_K, p=[0.4, 0.3, 0.2, 0.1], size=N_ROWS)
    noise = np.einsum("nij,nj->ni", roots[z], rng.normal(size=(N_ROWS, 3)))
    x: NDArray[np.float64] = means[z] + noise
    return x


def write_clouds(rows: NDArray[np.float64], folder: Path) -> str:
    """Write them to a store of `N_BLOCKS` chunks; its path."""
    path = str(folder / "rows.zarr")
    zarr.create_array(path, data=rows, chunks=(N_ROWS // N_BLOCKS, 3))
    return path
