"""Whole tables or an error: files that are cut off, damaged, gone or written anew."""

from __future__ import annotations

import os
import pickle
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from dask_gmm import GaussianMixture
from dask_gmm.data.buffers import ReadBuffers
from dask_gmm.data.source import open_source
from dask_gmm.data.stores import read_counter
from dask_gmm.data.tables import footers, table
from dask_gmm.errors import (
    CheckpointError,
    CorruptChunkError,
    DataChangedError,
    MemoryPlanError,
    MissingChunkError,
    StoreError,
)
from dask_gmm.execution import LocalBackend, plan_pass
from dask_gmm.execution.cluster import ClusterBackend
from dask_gmm.execution.plan import check_memory
from dask_gmm.fitting.events import PassFinished
from tests.data.tables.files import all_rows, cloud, write
from tests.execution.fakes import SumJob
from tests.marks import quick_ones

if TYPE_CHECKING:
    from collections.abc import Callable

    from distributed import Client

    from dask_gmm.execution.backend import Backend


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row group is a block, and passes that take no time are looked at too."""
    monkeypatch.setattr(table, "SMALLEST_BYTES", 1)
    monkeypatch.setattr(table, "FEWEST_BLOCKS", 10**9)
    monkeypatch.setattr("dask_gmm.execution.watch.SHARE", 1e9)


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def cut_within(path: Path) -> None:
    """Leave out a piece of the middle: the footer stays, and what it points at does not."""
    content = path.read_bytes()
    path.write_bytes(content[:1000] + content[1400:])


def flip(path: Path) -> None:
    """Change one bit of a page of the second row group's column b."""
    chunk = pq.read_metadata(path).row_group(1).column(2)
    content = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start + chunk.total_compressed_size - 5] ^= 16
    path.write_bytes(bytes(content))


def other_values(path: Path) -> None:
    write(path, cloud(seed=1))


DAMAGES: dict[str, tuple[Callable[[Path], object], type[StoreError], str]] = {
    "cut off": (cut, CorruptChunkError, r"b.parquet is no Parquet file, or is truncated"),
    "cut within": (cut_within, CorruptChunkError, r"Row group \d+ of .*b.parquet cannot be dec"),
    "a flipped bit": (
        flip,
        CorruptChunkError,
        r"Row group 1 of .*b.parquet cannot be decoded: column 'b' is damaged or truncated .*CRC",
    ),
    "gone": (os.remove, MissingChunkError, r"b.parquet is not there"),
    "written anew": (other_values, DataChangedError, r"b.parquet was rewritten while it was"),
}


@pytest.mark.parametrize("known", [True, False], ids=["known", "new to the process"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_an_error_that_names_the_file(damage: str, known: bool, tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / "t" / f"{name}.parquet", options={"write_page_checksum": True})
    source = open_source(tmp_path / "t")
    assert source.n_blocks == 24
    harm, kind, message = DAMAGES[damage]
    harm(tmp_path / "t" / "b.parquet")
    if not known:
        source = pickle.loads(pickle.dumps(source))
        footers._known.clear()
    with pytest.raises(kind, match=message) as caught:
        all_rows(source)
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args


@pytest.fixture(params=["one thread", "two processes"])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "one thread":
        return LocalBackend(1)
    client: Client = request.getfixturevalue("two_processes")
    return ClusterBackend(client)


@pytest.mark.parametrize("damage", quick_ones(DAMAGES, ["a flipped bit", "written anew"]))
def test_damage_between_two_passes(damage: str, tmp_path: Path, backend: Backend) -> None:
    for name in "ab":
        write(tmp_path / "t" / f"{name}.parquet", options={"write_page_checksum": True})
    harm, kind, message = DAMAGES[damage]
    with backend.open(open_source(tmp_path / "t")) as passes:
        first = passes.run(SumJob()).value
        assert passes.run(SumJob()).value == first
        harm(tmp_path / "t" / "b.parquet")
        with pytest.raises((kind, DataChangedError), match=f"{message}|was rewritten"):
            passes.run(SumJob())


def test_a_file_changed_in_a_fit_is_found_out(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet")

    def rewrite(event: Any) -> None:
        if isinstance(event, PassFinished) and event.number == 2:
            other_values(path)

    with pytest.raises(DataChangedError, match=r"t.parquet was rewritten while it was being read"):
        GaussianMixture(
            2, columns=["a", "b"], acceleration=None, tol=0, cache=0, callbacks=[rewrite]
        ).fit(path)


def test_files_that_are_touched_or_copied_are_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet")
    source = open_source(path)
    digest, content = source.metadata_digest(), source.content_digest()
    rows = all_rows(source)
    os.utime(path, ns=(1, 1))
    np.testing.assert_array_equal(all_rows(source), rows)
    assert source.metadata_digest() == digest
    assert source.content_digest() != content
    (tmp_path / "copy").mkdir()
    copy = tmp_path / "copy" / "u.parquet"
    copy.write_bytes(path.read_bytes())
    assert open_source(copy).metadata_digest() == digest
    assert open_source(write(tmp_path / "o.parquet", cloud(seed=1))).metadata_digest() != digest


def test_a_checkpoint_of_other_rows_is_refused(tmp_path: Path) -> None:
    path, place = write(tmp_path / "t.parquet"), tmp_path / "checkpoint"
    gm = GaussianMixture(2, random_state=0, max_iter=2, tol=0, acceleration=None)
    with pytest.warns(UserWarning, match="did not converge"):
        gm.fit(path, checkpoint=place)
    other_values(path)
    with pytest.raises(CheckpointError, match="data"):
        gm.fit(path, checkpoint=place)


# What is read.


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what was read")
def test_a_pass_reads_each_byte_of_the_columns_once_and_no_other(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", cloud(20_000), group=1000)
    source = open_source(path, columns=["a", "b"], sample_weight="id")
    metadata = pq.read_metadata(path)
    expected = sum(
        metadata.row_group(i).column(j).total_compressed_size for i in range(20) for j in range(3)
    )
    assert source.stored_bytes == expected
    before, read_before = read_counter(), _bytes_read()
    buffers = ReadBuffers()
    for i in range(source.n_blocks):
        source.read_into(source.block(i), buffers)
    read, counted = _bytes_read() - read_before, read_counter() - before
    assert counted.bytes == expected
    assert counted.gets == 40  # row groups, and their weights
    assert expected <= read < 1.02 * expected + 1e5


def _bytes_read() -> int:
    """What this process has asked the system to read."""
    match = re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())
    assert match is not None
    return int(match[1])


def test_small_row_groups_are_read_together_and_others_are_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "SMALLEST_BYTES", 100 * 24)
    monkeypatch.setattr(table, "FEWEST_BLOCKS", 16)
    write(tmp_path / "t" / "a.parquet", cloud(250), group=30)
    write(tmp_path / "t" / "b.parquet", cloud(250), group=230)
    source = open_source(tmp_path / "t")
    sizes = [source.block(i).rows for i in range(source.n_blocks)]
    assert sizes == [120, 120, 10, 230, 20]
    assert source.place_of(source.block(0)) == f"Row groups 0 to 3 of {tmp_path}/t/a.parquet"
    assert source.place_of(source.block(4)) == f"Row group 1 of {tmp_path}/t/b.parquet"
    np.testing.assert_array_equal(all_rows(source)[:, 1:], np.concatenate([cloud(250)] * 2))


def test_row_groups_that_no_worker_can_hold_are_refused_with_the_remedy(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "t.parquet", cloud(20_000), group=20_000))
    with pytest.raises(MemoryPlanError, match=r"t.parquet in row groups smaller than") as caught:
        check_memory(plan_pass(source, n_threads=1), SumJob(), 100_000, 1)
    assert "chunks" not in str(caught.value)


def test_what_a_read_holds_is_what_it_says(tmp_path: Path) -> None:
    import pyarrow as pa

    rows = np.random.default_rng(0).normal(size=(200_000, 2))
    path = write(tmp_path / "t.parquet", rows, group=100_000)
    source = open_source(path, columns=["a", "b"])
    buffers = ReadBuffers()
    pool = pa.default_memory_pool()
    peak = []
    for i in range(source.n_blocks):
        before = pool.bytes_allocated()
        found = pool.max_memory()
        source.read_into(source.block(i), buffers)
        peak.append(max(0, pool.max_memory() - max(found, before)))
    assert max(peak) <= source.read_bytes
    assert source.read_bytes < 3 * source.block_bytes
