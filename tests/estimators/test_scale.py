"""Promise 4 and its kin, on stores of the size they are about: minutes, and gigabytes of disk."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster

from dask_gmm import GaussianMixture
from dask_gmm.data.stores import read_counter
from dask_gmm.fitting.events import PassFinished

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]
MB = 10**6


def peak_rss() -> int:
    """Most memory that this process has ever held, in bytes."""
    with open("/proc/self/status") as status:  # noqa: PTH123
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def write_blocks(path: Path, n_blocks: int, rows: int, n_features: int) -> str:
    """Write an uncompressed store whose chunks are copies of three that differ."""
    array = zarr.create_array(
        str(path),
        shape=(n_blocks * rows, n_features),
        chunks=(rows, n_features),
        dtype="float64",
        compressors=None,
    )
    rng = np.random.default_rng(0)
    kinds = [rng.normal(i, 1.0, size=(rows, n_features)).tobytes() for i in (-3.0, 0.0, 3.0)]
    (path / "c").mkdir()
    for i in range(n_blocks):
        (path / "c" / str(i)).mkdir()
        (path / "c" / str(i) / "0").write_bytes(kinds[i % 3])
    assert array.nchunks == n_blocks
    return str(path)


def peaks_of_a_fit(path: str) -> tuple[list[int], GaussianMixture]:
    """Peak memory of each worker of a fresh cluster, over a fit of a few passes."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit="1GB", dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        gm = GaussianMixture(3, max_iter=3, tol=0.0, random_state=0).fit(path)
        return sorted(client.run(peak_rss).values()), gm


def test_memory_of_workers_is_bounded_and_does_not_grow(tmp_path: Path) -> None:
    """64 MB blocks: 1.5 GB and 6 GB take the same memory, below 700 MB a worker."""
    rows, n_features = 1_000_000, 8
    peaks = {}
    for n_blocks in (24, 94):
        path = tmp_path / f"{n_blocks}.zarr"
        peaks[n_blocks], gm = peaks_of_a_fit(write_blocks(path, n_blocks, rows, n_features))
        assert gm.n_rows_ == n_blocks * rows
        shutil.rmtree(path)
    small, large = peaks[24][-1], peaks[94][-1]
    print(f"peak memory of a worker: {small / MB:.0f} MB at 1.5 GB, {large / MB:.0f} MB at 6 GB")
    assert large < 700 * MB
    # Whether a block has just been dropped when the next one arrives is chance, and a longer fit
    # has more chances to catch the worst moment: one block more, whatever the size of the store.
    assert large - small < 1.25 * rows * n_features * 8


PROFILES: dict[str, Any] = {
    "features": ["TEMP", "PSAL"],
    "feature_axis": "depth",
    "missing": "marginalize",
}
STEPS, LAT, LON, DEPTH = 10, 100, 100, 10


def write_ocean(path: Path, n_blocks: int) -> str:
    """Packed profiles of two variables, levels last and first; a shelf, values lost, a land mask.

    A block is of 10 steps, 100,000 profiles, which are 16 MB in float64 and a quarter of it as
    they are stored. Like `write_blocks`, copies of one that is made.
    """
    rng = np.random.default_rng(0)
    shape = (STEPS, LAT, LON, DEPTH)
    warm = rng.random(shape[:3]) < 0.4
    group = zarr.create_group(str(path))
    for name, dims, mean in (
        ("TEMP", ("time", "lat", "lon", "depth"), 500),
        ("PSAL", ("depth", "time", "lat", "lon"), 300),
    ):
        values = np.round(mean * warm[..., None] + 100 * rng.normal(size=shape)).astype("i2")
        values[:, :, :20, 6:] = -32768  # a shelf
        values[rng.random(shape) < 0.002] = -32768
        order = [("time", "lat", "lon", "depth").index(dim) for dim in dims]
        stored = np.ascontiguousarray(values.transpose(order))
        sizes = {"time": n_blocks * STEPS, "lat": LAT, "lon": LON, "depth": DEPTH}
        array = group.create_array(
            name,
            shape=tuple(sizes[dim] for dim in dims),
            chunks=stored.shape,
            dtype="i2",
            dimension_names=dims,
            compressors=None,
            attributes={"scale_factor": 0.01, "add_offset": 20.0, "_FillValue": -32768},
        )
        assert array.nchunks == n_blocks
        for i in range(n_blocks):
            place = [str(i) if dim == "time" else "0" for dim in dims]
            chunk = path.joinpath(name, "c", *place)
            chunk.parent.mkdir(parents=True, exist_ok=True)
            chunk.write_bytes(stored.tobytes())
    group.create_array("sea", data=rng.random((LAT, LON)) < 0.7, dimension_names=("lat", "lon"))
    return str(path)


def test_packed_profiles_with_gaps_and_a_mask_on_two_processes(tmp_path: Path) -> None:
    """The same bits as in process, each chunk once a pass, and memory that does not grow."""
    peaks, reads = {}, list[int]()
    for n_blocks in (4, 16):  # 64 and 256 MB of float64
        path = write_ocean(tmp_path / f"{n_blocks}.zarr", n_blocks)
        with (
            LocalCluster(
                n_workers=2, threads_per_worker=1, memory_limit="500MB", dashboard_address=None
            ) as cluster,
            Client(cluster) as client,
        ):

            def count(event: object, client: Client = client) -> None:
                if isinstance(event, PassFinished):
                    reads.append(sum(found.gets for found in client.run(read_counter).values()))

            own = {**PROFILES, "max_iter": 3, "tol": 0.0, "random_state": 0, "cache": 0}
            there = GaussianMixture(2, callbacks=[count], **own).fit(path, where="sea")
            peaks[n_blocks] = max(client.run(peak_rss).values())
        passes, tasks = np.diff(reads[-3:]), max(record.tasks for record in there.history_)
        # The map of the sea belongs to all blocks: a task reads it once.
        assert np.all(passes > 2 * n_blocks)
        assert np.all(passes <= 2 * n_blocks + tasks)
    sea = zarr.open_array(f"{path}/sea", mode="r")[...]
    assert there.n_rows_ == np.count_nonzero(sea) * STEPS * n_blocks
    assert 0 < there.n_incomplete_rows_ < there.n_rows_
    print(f"peak memory of a worker: { ({n: round(peak / MB) for n, peak in peaks.items()}) } MB")
    assert peaks[16] < 500 * MB
    assert peaks[16] - peaks[4] < 1.25 * STEPS * LAT * LON * 2 * DEPTH * 8
    here = GaussianMixture(2, **own).fit(path, where="sea")
    for name in ("weights_", "means_", "covariances_", "lower_bounds_"):
        expected = np.asarray(getattr(here, name))
        assert np.asarray(getattr(there, name)).tobytes() == expected.tobytes(), name


def test_a_hundred_thousand_small_blocks_are_few_tasks(tmp_path: Path) -> None:
    rows, n_features, n_blocks = 4, 2, 100_000
    path = tmp_path / "small.zarr"
    path.mkdir()
    metadata = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [rows * n_blocks, n_features],
        "data_type": "float64",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [rows, n_features]}},
        "chunk_key_encoding": {"name": "v2", "configuration": {"separator": "."}},
        "fill_value": 0.0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
    }
    (path / "zarr.json").write_text(json.dumps(metadata))
    rng = np.random.default_rng(0)
    chunks = [rng.normal(size=(rows, n_features)).tobytes() for _ in range(100)]
    for i in range(n_blocks):
        (path / f"{i}.0").write_bytes(chunks[i % 100])
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        gm = GaussianMixture(
            2,
            max_iter=1,
            tol=0.0,
            acceleration=None,
            weights_init=[0.5, 0.5],
            means_init=[[-1.0, 0.0], [1.0, 0.0]],
            precisions_init=np.stack([np.eye(2)] * 2),
        ).fit(str(path))
    (record,) = gm.history_
    print(f"{record.blocks} blocks in {record.tasks} tasks, {record.seconds:.1f} s")
    assert record.blocks == n_blocks
    assert record.rows == rows * n_blocks
    assert record.tasks <= 2000
