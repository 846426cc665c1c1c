"""Classify profiles of the ocean: temperature and salinity together, gaps and land left as they are.

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

import numpy as np
import xarray as xr

from dask_gmm import GaussianMixture

VARIABLES = ["TEMP", "PSAL"]
# From south to north, and last an enclosed sea: at the surface, then at depth, then how deep (m)
# what is at the surface reaches.
FRONTS = [-52, -38, -15, 15, 38, 55]
SURFACE_T, SURFACE_S = [0, 8, 20, 28, 23, 11, -1, 19], [34, 34.3, 35.6, 34.6, 36.4, 34.9, 32, 38.6]
DEEP_T, DEEP_S = [0.5, 3, 4, 5, 6, 3.5, 0, 13.5], [34.7, 34.4, 34.6, 34.7, 35.2, 35, 34.9, 38.5]
REACH = [150, 400, 300, 120, 450, 600, 100, 250]


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
    data = {}
    for i, (top, deep, scale) in enumerate([(SURFACE_T, DEEP_T, 0.8), (SURFACE_S, DEEP_S, 0.1)]):
        top, deep = (np.take(values, mass)[..., None] for values in (top, deep))
        values = deep + (top - deep + scale * eddy[i]) * fade + scale / 8 * spread[i]
        values = values + warmth * (i == 0)
        values[rng.random(values.shape) < 0.03] = np.nan
        values[:, coast & ~inland, 5:] = np.nan
        values[:, land & ~inland] = np.nan
        data[VARIABLES[i]] = (to, values, {"units": ["degree_Celsius", "1e-3"][i]})
    data["sea"] = (to[1:3], inland | ~land)
    data["truth"] = (to[:3], np.where(data["sea"][1], mass, -1).astype("i1"))
    coords = {"time": time, "lat": lat, "lon": lon, "depth": depth}
    packed = {"dtype": "i2", "scale_factor": 0.002, "add_offset": 20.0, "_FillValue": -32768}
    encoding = {name: {**packed, "chunks": (6, 39, 60, 10)} for name in VARIABLES}
    xr.Dataset(data, coords).to_zarr(path, zarr_format=3, encoding=encoding)
