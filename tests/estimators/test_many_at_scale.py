"""Many samples on two processes: reads counted there, and memory that is bounded."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import xarray as xr
import zarr
from distributed import Client, LocalCluster

from dask_gmm import GaussianMixture
from dask_gmm.data.source import open_source
from dask_gmm.data.stores import read_counter
from dask_gmm.fitting.events import PassFinished
from tests.data.test_sparse_source import write_anndata

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what was held"),
]

SAMPLES, GENES = 20, 24
MOST = 58 * 2**20
"""What a worker's memory may grow by beyond a fit of a fifth of the samples."""


def most_held() -> int:
    """The most memory that this process has held, since it is this program."""
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(line)


def gets() -> int:
    return read_counter().gets


def sample(number: int, n: int) -> Any:
    rng = np.random.default_rng(number)
    x = rng.standard_normal((n, GENES), dtype=np.float32)
    x[: n * (number + 1) // (SAMPLES + 1), :4] += 7.0
    return x


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_workers_hold_a_few_blocks(kind: str, tmp_path: Path) -> None:
    total = 0
    for number in range(SAMPLES):
        n = 36_000 + 3_000 * number
        total += n
        x, path = sample(number, n), tmp_path / f"s{number:02}.zarr"
        if kind == "dense":
            zarr.create_array(path, data=x, chunks=(20_000, GENES))
        else:
            x[np.abs(x) < 0.3] = 0.0
            write_anndata(path, scipy.sparse.csr_array(x), chunk=400_000)
    records: list[PassFinished] = []

    def note(event: Any) -> None:
        if isinstance(event, PassFinished):
            records.append(event)

    pattern = f"{tmp_path}/s*.zarr"
    gm = GaussianMixture(2, random_state=0, acceleration=None, max_iter=2, tol=0, cache=0)
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit="1GB", dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        few = f"{tmp_path}/s0[0-3].zarr"  # of which each worker has some, and all code once
        gm.fit(few).predict_to(few, str(tmp_path / "few.zarr"))
        idle = client.run(most_held)
        gm.set_params(callbacks=[note]).fit(pattern, sample_weight="equal-per-array")
        gm.set_params(callbacks=None)
        before = sum(client.run(gets).values())
        gm.predict_to(pattern, str(tmp_path / "labels.zarr"))
        read = sum(client.run(gets).values()) - before
        peaks = client.run(most_held)
    source: Any = open_source(pattern)
    size = source.n_rows * GENES * 4
    grown = [peaks[worker] - idle[worker] for worker in idle]
    print(
        f"grown by {[f'{more / 2**20:.0f} MiB' for more in grown]}; rows "
        f"{size / 2**20:.0f} MiB; {[f'{r.rows / r.seconds / 1e6:.1f} M rows/s' for r in records]}"
    )
    assert source.n_rows == total
    assert size > 2 * MOST
    assert len(grown) == 2
    assert max(grown) < MOST
    if kind == "dense":
        assert read == source.n_blocks
    else:  # chunks in which two units meet are read by both
        chunks = sum(part.data.n_blocks * 2 + part.indptr.n_blocks for part in source.parts)
        assert chunks <= read <= chunks + 3 * source.n_blocks
    shares = xr.open_zarr(tmp_path / "labels.zarr").proportions.values
    k = int(np.argmax(gm.means_[:, 0]))
    expected = [(number + 1) / (SAMPLES + 1) for number in range(SAMPLES)]
    np.testing.assert_allclose(shares[:, k], expected, atol=2e-3)
    assert gm.weights_[k] == pytest.approx(np.mean(expected), abs=2e-3)
    with_here = gm.proportions(pattern)
    assert with_here.tobytes() == shares.tobytes()
