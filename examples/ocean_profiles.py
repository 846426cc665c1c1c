"""Classify profiles of the ocean by temperature and salinity, gaps and land left as they are.

Two years of monthly profiles are made first: eight water masses whose fronts follow the sun, a
continent, a shelf over which nothing is measured below 150 m, values lost here and there; packed
into 16-bit integers, as such data come. What a user writes is in `classify` and `describe`. With
``--directory`` the data and the classes stay there, and ``classes.png`` if matplotlib is installed.
"""

from __future__ import annotations

import argparse
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from dask_gmm import GaussianMixture

VARIABLES = ["TEMP", "PSAL"]
COLOURS: dict[str, Any] = {"cmap": "tab10", "vmin": -0.5, "vmax": 9.5}
FRONTS = [-52, -38, -15, 15, 38, 55]
# From south to north, and last an enclosed sea: at the surface, at depth, how much waters vary.
WATERS: dict[str, tuple[list[float], list[float], float]] = {
    "TEMP": ([0, 8, 20, 28, 23, 11, -1, 19], [0.5, 3, 4, 5, 6, 3.5, 0, 13.5], 0.8),
    "PSAL": (
        [34, 34.3, 35.6, 34.6, 36.4, 34.9, 32, 38.6],
        [34.7, 34.4, 34.6, 34.7, 35.2, 35, 34.9, 38.5],
        0.1,
    ),
}
REACH = [150, 400, 300, 120, 450, 600, 100, 250]  # m: how deep what is at the surface reaches


def write_ocean(path: Path) -> None:
    rng, to = np.random.default_rng(0), ("time", "lat", "lon", "depth")
    time = xr.date_range("2000-01-01", periods=24, freq="MS")
    lat, lon = np.arange(-76.0, 77, 4), np.arange(3.0, 360, 6)
    depth = np.array([5.0, 20, 50, 100, 150, 200, 300, 500, 750, 1000])
    shape = (time.size, lat.size, lon.size)
    season = np.sin(2 * np.pi * (np.arange(time.size) - 3) / 12)[:, None, None]  # most in July
    land = (abs(lon - 45) < 30) & (abs(lat[:, None]) < 62) | (lat[:, None] < -70)
    inland = (abs(lon - 45) < 15) & (abs(lat[:, None] - 38) < 7)  # the enclosed sea
    coast = sum(np.roll(land, step, axis=1) for step in (-1, 1)) & ~land
    mass = np.searchsorted(FRONTS, np.broadcast_to(lat[:, None] - 8 * season, shape))
    mass = np.where(inland, 7, mass)
    eddy, spread = rng.normal(size=(2, *shape, 1)), rng.normal(size=(2, *shape, 10))
    fade = np.exp(-depth / np.take(REACH, mass)[..., None])
    warmth = (1.5 * season * np.sign(lat)[:, None])[..., None] * np.exp(-depth / 40)
    data = xr.Dataset(coords={"time": time, "lat": lat, "lon": lon, "depth": depth})
    for i, (name, (top, deep, scale)) in enumerate(WATERS.items()):
        at_top, below = np.take(top, mass)[..., None], np.take(deep, mass)[..., None]
        values = below + (at_top - below + scale * eddy[i]) * fade + scale / 8 * spread[i]
        values += warmth * (name == "TEMP")
        values[rng.random(values.shape) < 0.03] = np.nan
        values[:, coast & ~inland, 5:] = np.nan
        values[:, land & ~inland] = np.nan
        data[name] = (to, values)
    data["sea"] = (to[1:3], inland | ~land)
    data["truth"] = (to[:3], np.where(inland | ~land, mass, -1).astype("i1"))
    packed = {"dtype": "i2", "scale_factor": 0.002, "add_offset": 20.0, "_FillValue": -32768}
    encoding = {name: {**packed, "chunks": (6, 39, 60, 10)} for name in VARIABLES}
    data.to_zarr(path, zarr_format=3, encoding=encoding, consolidated=False)


def classify(ocean: Path, classes: Path) -> xr.Dataset:
    """Fit eight classes, write a map of them for each month, and open it beside the data."""
    gm = GaussianMixture(
        n_components=8,
        features=VARIABLES,
        feature_axis="depth",
        missing="marginalize",  # each profile with the values that it has
        n_init=4,
        random_state=0,
    )
    gm.fit(ocean, where="sea")  # a mask on (lat, lon), for each month
    gm.predict_to(ocean, classes, where="sea")
    print(f"{gm.outcome_}: {gm.n_rows_:,} profiles, {gm.n_incomplete_rows_:,} of them with gaps")
    data: xr.Dataset = xr.open_zarr(ocean, consolidated=False)
    return data.assign(xr.open_zarr(classes))


def describe(data: xr.Dataset) -> xr.Dataset:
    """Quantile profiles of each class: the classes in memory, a byte each, the rest by chunks."""
    by_class = data[VARIABLES].groupby(data["labels"].compute())
    quantiles: xr.Dataset = by_class.quantile([0.05, 0.5, 0.95]).compute()
    return quantiles.sel(labels=slice(0, None))  # -1 is land


def draw(data: xr.Dataset, profiles: xr.Dataset, picture: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    for ax, month in zip(axes[0], ("2000-01", "2000-07"), strict=True):
        labels = data["labels"].sel(time=month).squeeze()
        ax.pcolormesh(labels["lon"], labels["lat"], labels.where(labels >= 0), **COLOURS)
        ax.set_title(f"classes in {month}")
    for ax, name in zip(axes[1], VARIABLES, strict=True):
        for k in profiles["labels"].values:
            low, middle, high = profiles[name].sel(labels=k).transpose("quantile", "depth").values
            ax.fill_betweenx(profiles["depth"], low, high, color=f"C{k}", alpha=0.3)
            ax.plot(middle, profiles["depth"], color=f"C{k}", label=str(k))
        ax.set(xlabel=name, ylabel="depth (m)", ylim=(1000, 0))
    axes[1, 0].legend(title="class")
    figure.savefig(picture)


def main(directory: Path) -> None:
    ocean, classes = directory / "ocean.zarr", directory / "classes.zarr"
    write_ocean(ocean)
    data = classify(ocean, classes)
    profiles = describe(data)
    surface = profiles.sel(quantile=0.5).isel(depth=0)
    for k in np.argsort(surface["TEMP"].values):
        temp, salt = (surface[name].values[k] for name in VARIABLES)
        print(f"class {k}: {temp:5.1f} °C and {salt:5.2f} at the surface")
    if find_spec("matplotlib") is None:
        print("no picture: matplotlib is not installed")
        return
    draw(data, profiles, directory / "classes.png")
    print("wrote classes.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, help="where data, classes and picture stay")
    chosen: Path | None = parser.parse_args().directory
    with tempfile.TemporaryDirectory() as temporary:
        main(chosen or Path(temporary))
