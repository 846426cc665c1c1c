"""Find the cell populations of twenty cytometry samples at once, one of them 0.05 % of all cells.

The samples are simulated first: five markers on a linear scale, a different number of cells in
each, other proportions in each donor, and in every second donor a population of one cell in a
thousand. What a user writes is in `classify`: their number is chosen and the mixture fitted over
all samples as one, each counting alike, on the scale of arcsinh, to which cells are brought as they
are read; and the table of proportions comes from the read that writes the labels.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from dask_gmm import select_gaussian_mixture

MARKERS = ["CD3", "CD4", "CD8", "CD19", "CD123"]
COFACTOR = 150.0  # below it a measurement is noise
# Helper, killer and B cells, monocytes, and the rare plasmacytoid dendritic cells: where they lie
# on the scale of arcsinh(x / COFACTOR), how far they spread there, and their part of all cells.
PLACES = np.array(
    [[4, 4, 0, 0, 0], [4, 0, 4, 0, 0], [0, 0, 0, 4, 0], [0, 2, 0, 0, 2], [0, 2, 0, 0, 6]], float
)
SPREADS = np.array([0.35, 0.4, 0.4, 0.5, 0.3])
SHARES = np.array([0.42, 0.28, 0.12, 0.18])
RARE = 0.001  # in every second sample


def write_samples(folder: Path, samples: int = 20) -> Any:
    """Write raw cells, a store for each sample; return the true part of rare cells in each."""
    rng = np.random.default_rng(0)
    true = []
    for number in range(samples):
        n = int(rng.lognormal(np.log(15_000), 0.6))
        rare = rng.poisson(RARE * n) if number % 2 else 0
        common = rng.choice(4, n - rare, p=rng.dirichlet(60 * SHARES))
        kinds = np.append(common, np.full(rare, 4))
        shift = rng.normal(0.0, 0.05, size=5)  # staining differs from day to day
        scaled = PLACES[kinds] + shift + SPREADS[kinds, None] * rng.standard_normal((n, 5))
        raw = (COFACTOR * np.sinh(rng.permutation(scaled))).astype("f4")
        zarr.create_array(folder / f"donor{number:02}.zarr", data=raw, chunks=(8192, 5))
        true.append(rare / n)
    return np.array(true)


def classify(folder: Path, output: Path) -> xr.Dataset:
    """Fit the mixture to all samples, and write labels and proportions."""
    samples = f"{folder}/donor*.zarr"
    found = select_gaussian_mixture(
        samples,
        range(4, 8),
        covariance_types="full",
        sample_weight="equal-per-array",
        feature_transform=("arcsinh", COFACTOR),
        random_state=0,
    )
    found.best_model.predict_to(samples, output)
    means = xr.DataArray(found.best_model.means_, dims=("component", "marker"))
    table: xr.Dataset = xr.open_zarr(output).load()
    return table.assign(means=means.assign_coords(marker=MARKERS))


def main(directory: Path) -> None:
    true = write_samples(directory)
    table = classify(directory, directory / "labels.zarr")
    rare = int(table.means.sel(marker="CD123").values.argmax())
    found = table.proportions.sel(component=rare).values
    order = np.argsort(-table.proportions.mean("array").values)
    print("population  " + "  ".join(f"{name:>6}" for name in MARKERS) + "  mean part")
    for k in order:
        means = "  ".join(f"{value:6.2f}" for value in table.means[k].values)
        print(f"{k:10d}  {means}  {float(table.proportions[:, k].mean()):9.5f}")
    print(f"rare: {found.mean():.5f} of the cells, in truth {true.mean():.5f}")
    print(f"samples: {len(true)}, largest error of a sample: {np.abs(found - true).max():.5f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
