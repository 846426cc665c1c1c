"""Passes over tables: one read each, the same bits anywhere, and memory that is bounded."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed import Client, LocalCluster

from dask_gmm import GaussianMixture
from dask_gmm.data.source import open_source
from dask_gmm.data.stores import read_counter
from dask_gmm.data.tables import table
from dask_gmm.errors import CheckpointError
from dask_gmm.fitting.events import PassFinished
from tests.data.tables.files import cloud, write

FILES, GROUPS = 3, 5


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of 15 row groups, each a block."""
    monkeypatch.setattr(table, "SMALLEST_BYTES", 1)
    monkeypatch.setattr(table, "FEWEST_BLOCKS", 10**9)
    for number in range(FILES):
        rows = cloud(900 + number, seed=number)
        write(tmp_path / "t" / f"{number}.parquet", rows, 200, w=1.0 + np.arange(len(rows)) % 3)
    return tmp_path / "t"


def fit(X: Any, **settings: Any) -> tuple[bytes, GaussianMixture]:
    given = {"max_iter": 4, "tol": 0.0, "init_size": 500, "columns": ["a", "b"], **settings}
    gm = GaussianMixture(2, random_state=0, acceleration=None, **given)
    with pytest.warns(UserWarning, match="did not converge"):
        gm.fit(X, sample_weight="w")
    return gm.means_.tobytes() + np.asarray(gm.lower_bounds_).tobytes(), gm


def test_the_same_bits_and_one_read_a_pass(folder: Path, two_processes: Client) -> None:
    def reads() -> int:
        return sum(count.gets for count in two_processes.run(read_counter).values())

    with dask.config.set(num_workers=1):
        expected, gm = fit(folder)
    assert fit(folder)[0] == expected
    at = reads()
    with two_processes.as_current():
        found, gm = fit(folder, cache=0)
    assert found == expected
    sampled = gm.history_[0].tasks  # at least two
    assert sampled > 1
    per_pass = 2 * FILES * GROUPS  # rows and weights of each row group
    passes = (reads() - at) / per_pass
    assert gm.n_passes_ <= passes <= gm.n_passes_ + 1  # and a sample


def test_lazy_labels_have_the_name_of_what_they_are_made_of(folder: Path) -> None:
    _, gm = fit(folder)
    lazy = gm.predict(folder)
    assert lazy.name == gm.predict(folder).name != gm.predict(folder / "0.parquet").name
    write(folder / "1.parquet", cloud(901, seed=9), 200)
    assert gm.predict(folder).name != lazy.name


@pytest.mark.slow
def test_lazy_labels_have_the_same_name_in_another_process(folder: Path) -> None:
    _, gm = fit(folder)
    code = (
        "import sys, pickle; from dask_gmm.data.tables import table; table.SMALLEST_BYTES = 1;"
        "table.FEWEST_BLOCKS = 10**9; gm, folder = pickle.load(open(sys.argv[1], 'rb'));"
        "print(gm.predict(folder).name)"
    )
    (folder.parent / "gm").write_bytes(pickle.dumps((gm, folder)))
    said = subprocess.check_output([sys.executable, "-c", code, folder.parent / "gm"], text=True)
    assert said.strip() == gm.predict(folder).name


def test_a_checkpoint_is_gone_on_with(folder: Path, tmp_path: Path) -> None:
    whole = GaussianMixture(3, columns=["a", "b"], random_state=0, acceleration=None).fit(folder)
    assert whole.n_iter_ > 3
    begun = GaussianMixture(3, columns=["a", "b"], random_state=0, acceleration=None, max_passes=2)
    with pytest.warns(UserWarning, match="max_passes=2"):
        begun.fit(folder, checkpoint=tmp_path / "c")
    for others, weights in ((["b", "a"], None), (["a", "b"], "w")):
        begun.set_params(columns=others)
        with pytest.raises(CheckpointError, match="data"):
            begun.fit(folder, sample_weight=weights, checkpoint=tmp_path / "c")
    begun.set_params(columns=["a", "b"], max_passes=None).fit(
        folder, checkpoint=tmp_path / "c", resume="must"
    )
    assert begun.means_.tobytes() == whole.means_.tobytes()


def most_held() -> int:
    """The most memory that this process has held, since it is this program."""
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(line)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what was held")
def test_ten_million_rows_on_two_workers(tmp_path: Path) -> None:
    """480 MB of float64 in workers that may hold 512 MiB each, of which Python takes half."""
    rng = np.random.default_rng(0)
    (tmp_path / "t").mkdir()
    columns = [f"x{j}" for j in range(6)]
    centres = rng.normal(scale=4.0, size=(3, 6))
    for number in range(5):
        n = 2_000_000
        rows = rng.standard_normal((6, n)) + centres[rng.choice(3, n, p=[0.5, 0.3, 0.2])].T
        values = dict(zip(columns, rows, strict=True))
        path = tmp_path / "t" / f"{number}.parquet"
        pq.write_table(
            pa.table({**values, "id": np.arange(n)}),
            path,
            row_group_size=200_000,
            use_dictionary=False,
            compression="none",
        )
    records: list[PassFinished] = []

    def note(event: Any) -> None:
        if isinstance(event, PassFinished):
            records.append(event)

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit="512MiB", dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        gm = GaussianMixture(3, columns=columns, random_state=0, callbacks=[note])
        gm.fit(tmp_path / "t")
        assert gm.predict_to(tmp_path / "t", tmp_path / "l.parquet", keep=["id"]) == 10**7
        peaks = client.run(most_held)
    source = open_source(tmp_path / "t", columns=columns)
    print(
        f"peaks {[f'{peak / 2**20:.0f} MiB' for peak in peaks.values()]}; table "
        f"{source.block_bytes * source.n_blocks / 2**20:.0f} MiB; "
        f"{[f'{r.rows / r.seconds / 1e6:.1f} M rows/s' for r in records]}"
    )
    assert len(peaks) == 2
    assert max(peaks.values()) < 512 * 2**20
    assert gm.converged_
    np.testing.assert_allclose(np.sort(gm.weights_), [0.2, 0.3, 0.5], atol=2e-3)
    assert pq.read_metadata(tmp_path / "l.parquet" / "0.parquet").num_row_groups == 10
