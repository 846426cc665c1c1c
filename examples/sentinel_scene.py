"""Land cover of a satellite's scene: bands first, 0 where nothing was seen, labels on the grid.

A scene is made first, as Sentinel-2's are and as rioxarray writes them: reflectance of six bands
in 16-bit counts, the mark 0 beyond the edge of the swath, coordinates in metres and the reference
system of these in ``spatial_ref``. What a user writes is in `classify`. With ``--directory`` the
scene and its labels stay there.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import xarray as xr

from dask_gmm import GaussianMixture

COVERS = {  # counts in the bands B02, B03, B04, B08, B11 and B12
    "water": [700, 600, 400, 250, 120, 100],
    "forest": [400, 500, 350, 2600, 1300, 600],
    "meadow": [600, 900, 700, 4200, 2300, 1200],
    "stubble": [1100, 1400, 1800, 2500, 3600, 2800],
    "town": [1600, 1700, 1800, 2100, 2300, 2200],
    "cloud": [6500, 6300, 6200, 6600, 4200, 3300],
}


def write_scene(path: Path, height: int = 480, width: int = 560) -> None:
    """Fields of a few hundred metres, each of one cover and with a brightness of its own."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    seeds = rng.uniform(0, [[height], [width]], size=(2, 300))
    field = np.argmin((y[..., None] - seeds[0]) ** 2 + (x[..., None] - seeds[1]) ** 2, axis=-1)
    cover = rng.choice(len(COVERS), size=300)[field]
    bright = 1 + 0.05 * rng.normal(size=300)[field]
    counts = np.array(list(COVERS.values()))[cover].transpose(2, 0, 1) * bright
    counts *= 1 + 0.04 * rng.normal(size=counts.shape)
    outside = x > width * 0.9 - 0.2 * y
    counts[:, outside] = 0
    reference = {
        "grid_mapping_name": "transverse_mercator",
        "crs_wkt": 'PROJCS["WGS 84 / UTM zone 32N"]',
        "GeoTransform": "399960.0 10.0 0.0 5300040.0 0.0 -10.0",
    }
    attributes = {"_FillValue": 0, "grid_mapping": "spatial_ref"}
    scene = xr.Dataset(
        {
            "reflectance": (("band", "y", "x"), counts.round().astype("u2"), attributes),
            "truth": (("y", "x"), np.where(outside, -1, cover).astype("i1")),
        },
        coords={
            "band": np.arange(1, 7),
            "y": 5300040.0 - 10 * np.arange(height) - 5,
            "x": 399960.0 + 10 * np.arange(width) + 5,
            "spatial_ref": ((), 0, reference),
        },
    )
    chunks = {"reflectance": {"chunks": (6, 128, 128)}}
    scene.to_zarr(path, zarr_format=3, encoding=chunks, consolidated=False)


def classify(scene: Path, cover: Path) -> xr.DataArray:
    """Fit six covers, write the label of each pixel where it lies, and open them."""
    gm = GaussianMixture(
        n_components=6,
        features=["reflectance"],
        feature_axis="band",
        missing="drop",  # pixels of no data take no part, and are labelled -1
        missing_chunks="fill",  # Zarr writes no chunk that holds nothing else
        n_init=4,
        random_state=0,
    )
    gm.fit(scene)
    gm.predict_to(scene, cover)
    print(f"{gm.outcome_}: {gm.n_rows_:,} pixels, {gm.n_incomplete_rows_:,} without data")
    labels: xr.DataArray = xr.open_zarr(cover)["labels"]
    window = xr.open_zarr(scene, consolidated=False).sel(x=slice(400_000, 401_000))
    same = bool((gm.predict(window) == labels.sel(x=window.x)).all())  # lazily, a part alone
    print(f"labels of a window are the same: {same}")
    return labels


def main(directory: Path) -> None:
    scene, cover = directory / "scene.zarr", directory / "cover.zarr"
    write_scene(scene)
    labels = classify(scene, cover)
    counts = labels.to_series().value_counts().sort_index()
    for label, pixels in counts.items():
        print(f"label {label}: {pixels * 100 / 1e6:.2f} km²")
    print(labels["spatial_ref"].attrs["crs_wkt"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, help="where the scene and its labels stay")
    chosen: Path | None = parser.parse_args().directory
    with tempfile.TemporaryDirectory() as temporary:
        main(chosen or Path(temporary))
