"""`read_bytes` is an upper bound of what a read holds beside its block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from dask_gmm.data.source import open_source
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


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("feature_axis", [0, 1])
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
