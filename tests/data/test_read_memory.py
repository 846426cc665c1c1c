"""`read_bytes` is an upper bound of what a read holds beside its block."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from dask_gmm.data.scaled_source import scaled
from dask_gmm.data.source import ZarrSource, open_source
from dask_gmm.data.taking_part import with_missing
from dask_gmm.data.through_zarr import zarr_transient_bytes
from dask_gmm.scaling import ScalingRequest
from tests.marks import quick_ones
from tests.memory import peak_of

if TYPE_CHECKING:
    from pathlib import Path

LAYOUTS: dict[str, dict[str, Any]] = {
    "one chunk": {"chunks": (125_000, 8)},
    "uncompressed": {"chunks": (125_000, 8), "compressors": None},
    "split features": {"chunks": (125_000, 1)},
    "v2": {"chunks": (125_000, 8), "zarr_format": 2},
    "whole shards": {"chunks": (12_500, 8), "shards": (125_000, 8)},
    "uncompressed shards": {"chunks": (12_500, 8), "shards": (125_000, 8), "compressors": None},
}


@pytest.mark.parametrize(
    ("layout", "feature_axis"),
    quick_ones(
        itertools.product(LAYOUTS, [0, 1]),
        [("one chunk", 1), ("split features", 0), ("uncompressed shards", 1)],
    ),
)
def test_bound(layout: str, feature_axis: int, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(250_000, 8))
    kwargs = dict(LAYOUTS[layout])
    if feature_axis == 0:
        values = np.ascontiguousarray(values.T)
        kwargs["chunks"] = kwargs["chunks"][::-1]
        if "shards" in kwargs:
            kwargs["shards"] = kwargs["shards"][::-1]
    array = zarr.create_array(tmp_path / "x.zarr", shape=values.shape, dtype="f8", **kwargs)
    array[...] = values
    del values
    source = open_source(tmp_path / "x.zarr", feature_axis=feature_axis)
    assert source.n_blocks == 2
    assert source.read(source.block(0)).values.nbytes == source.block_bytes == 8_000_000
    most = source.block_bytes + source.read_bytes + 2**20
    peak = peak_of(lambda: source.read(source.block(1)).values, most)
    assert peak <= most
    # And it is no wild guess, which would refuse fits that fit.
    assert peak >= (source.block_bytes + source.read_bytes) / 2.5


@pytest.mark.parametrize(
    ("place", "dtype", "n_pca"),
    quick_ones(
        itertools.product(["memory", *LAYOUTS], ["f8", "f4", "i2"], [None, 3]),
        [
            ("memory", "f8", None),
            ("uncompressed", "f8", 3),
            ("whole shards", "i2", None),
        ],
    ),
)
def test_bound_of_scaled_blocks(place: str, dtype: str, n_pca: int | None, tmp_path: Path) -> None:
    """Of rows in the reader's memory no second block is held, unless their type is another."""
    values = np.random.default_rng(0).integers(1, 99, size=(250_000, 8)).astype(dtype)
    request = ScalingRequest.of("log1p", True, n_pca)
    assert request is not None
    if place == "memory":
        raw = open_source(values, block_rows=125_000)
    else:
        array = zarr.create_array(
            tmp_path / "x.zarr", shape=values.shape, dtype=dtype, **LAYOUTS[place]
        )
        array[...] = values
        del values
        raw = open_source(tmp_path / "x.zarr")
    source = scaled(raw, request.unestimated(8))
    size = 125_000 * (n_pca or 8) * (4 if dtype == "f4" else 8)
    source.read(source.block(0))  # what is made once
    assert source.block_bytes == size
    most = size + source.read_bytes + 2**20
    assert peak_of(lambda: source.read(source.block(1)).values, most) <= most


@pytest.mark.parametrize(
    ("layout", "through_zarr"),
    quick_ones(
        itertools.product(LAYOUTS, [False, True]),
        [
            ("one chunk", False),
            ("v2", True),
        ],
    ),
)
def test_bound_of_packed_blocks(layout: str, through_zarr: bool, tmp_path: Path) -> None:
    """The direct reader decodes a block where it is: no second one is held."""
    values = np.random.default_rng(0).integers(0, 999, size=(250_000, 8)).astype("i2")
    options = dict(LAYOUTS[layout])
    if through_zarr and options.get("zarr_format") == 2:
        options["order"] = "F"
    array = zarr.create_array(tmp_path / "x.zarr", shape=values.shape, dtype="i2", **options)
    array[...] = values
    array.attrs.update(scale_factor=0.5, add_offset=2.0, missing_value=-9)
    del values
    source = open_source(tmp_path / "x.zarr")
    assert isinstance(source, ZarrSource)
    if through_zarr:
        transient = zarr_transient_bytes(array, (125_000, 8))
        source = replace(source, layout=None, transient_bytes=transient)
    assert source.read(source.block(0)).values.nbytes == source.block_bytes == 8_000_000
    most = source.block_bytes + source.read_bytes + 2**20
    if not through_zarr:
        most = min(most, 13_000_000)
    peak = peak_of(lambda: source.read(source.block(1)).values, most)
    assert peak <= source.block_bytes + source.read_bytes + 2**20
    assert peak >= (source.block_bytes + source.read_bytes) / 2.5
    if not through_zarr:
        assert peak <= 13_000_000, "eight are the block, and four a chunk as it is stored, and more"


@pytest.mark.parametrize(
    ("missing", "weighted"),
    quick_ones(
        itertools.product(["drop", "marginalize"], [False, True]),
        [("drop", False), ("marginalize", True)],
    ),
)
def test_bound_of_packed_variables_of_which_rows_are_left_out(
    missing: str, weighted: bool, tmp_path: Path
) -> None:
    group = zarr.create_group(tmp_path / "x.zarr")
    rng = np.random.default_rng(0)
    values = rng.integers(0, 99, size=(250_000, 4)).astype("i2")  # one in a hundred is missing
    values[rng.random(len(values)) < 0.1] = 0  # and whole rows are
    for name in ("a", "b"):
        array = group.create_array(
            name, data=values, chunks=(125_000, 4), dimension_names=("sample", "level")
        )
        array.attrs.update(scale_factor=0.5, add_offset=2.0, _FillValue=0)
    group.create_array("sea", data=rng.random(len(values)) < 0.7, chunks=(125_000,))
    packed = group.create_array("w", data=values[:, 0], chunks=(125_000,))
    packed.attrs.update(scale_factor=0.5, missing_value=-1)
    del values
    opened = open_source(
        tmp_path / "x.zarr",
        features=["a", "b"],
        feature_axis="level",
        where="sea",
        sample_weight="w" if weighted else None,
    )
    source = with_missing(opened, missing)
    first = source.read(source.block(0))
    assert 0 < first.left_out < first.n_read == 125_000
    assert first.gaps > 0
    peak = peak_of(lambda: source.read(source.block(1)).values)
    assert peak <= source.block_bytes + source.read_bytes + 2**20
    assert peak >= (source.block_bytes + source.read_bytes) / 2.5
