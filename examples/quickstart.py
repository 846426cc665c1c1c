"""Fit a mixture to a Zarr store on disk, label its rows, save the model and load it again.

Run it from anywhere: ``python examples/quickstart.py``. With ``--directory`` the store and the
model stay there; without it they are temporary.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import zarr

from dask_gmm import GaussianMixture

ROWS, CHUNK = 400_000, 50_000
WEIGHTS = np.array([0.5, 0.3, 0.2])
MEANS = np.array([[0.0, 0.0, 0.0], [4.0, 0.0, 1.0], [0.0, 5.0, -1.0]])
WIDTHS = np.array([1.0, 0.5, 0.8])


def write_points(path: Path) -> None:
    """Write rows of three Gaussians chunk by chunk: the whole array is never in memory."""
    rng = np.random.default_rng(0)
    points = zarr.create_array(path, shape=(ROWS, 3), chunks=(CHUNK, 3), dtype="float64")
    for start in range(0, ROWS, CHUNK):
        origin = rng.choice(len(WEIGHTS), CHUNK, p=WEIGHTS)
        noise = rng.standard_normal((CHUNK, 3)) * WIDTHS[origin, None]
        points[start : start + CHUNK] = MEANS[origin] + noise


def main(directory: Path) -> None:
    data, model = directory / "points.zarr", directory / "model.zarr"
    write_points(data)

    gm = GaussianMixture(n_components=3, random_state=0).fit(data)
    print(f"{gm.outcome_}; passes over {gm.n_rows_:,} rows: {gm.n_passes_}")
    order = np.argsort(-gm.weights_)
    for true_weight, true_mean, k in zip(WEIGHTS, MEANS, order, strict=True):
        print(f"  truth {true_weight:.3f} {true_mean}  found {gm.weights_[k]:.3f}", end=" ")
        print(np.array2string(gm.means_[k], precision=2, suppress_small=True))

    labels = gm.predict(data)  # nothing has been read: a lazy array, chunked as the data
    print(f"labels: {type(labels).__module__}, shape {labels.shape}, chunks of {labels.chunksize}")
    print(f"rows of each component: {np.bincount(labels.compute())[order]}")

    gm.save(model)
    again = GaussianMixture.load(model)
    print(f"loaded model has the same means: {np.array_equal(gm.means_, again.means_)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, help="where the store and the model stay")
    chosen: Path | None = parser.parse_args().directory
    with tempfile.TemporaryDirectory() as temporary:
        main(chosen or Path(temporary))
