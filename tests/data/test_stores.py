"""One store per process, many threads; what the failures of stores are called."""

from __future__ import annotations

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from dask_gmm.data.checked_store import ReadCount, translate_error
from dask_gmm.data.grid import even_chunks
from dask_gmm.data.source import Source, ZarrSource, open_source
from dask_gmm.data.stores import read_counter, store_for, store_spec

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def sum_of(source: Source, block: int) -> float:
    return float(source.read(source.block(block)).values.sum())


def test_threads_share_one_array(tmp_path: Path, cube: NDArray[np.float64]) -> None:
    zarr.create_array(tmp_path / "x.zarr", data=cube, chunks=(1, 5, 9))
    source = open_source(tmp_path / "x.zarr")
    assert isinstance(source, ZarrSource)
    pickled = pickle.dumps(source)
    before = read_counter()
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(sum_of, pickle.loads(pickled), i % 13) for i in range(104)]
        sums = [job.result() for job in jobs]
    assert sums == [cube[i % 13].sum() for i in range(104)]
    assert (read_counter() - before).gets == 104
    again = pickle.loads(pickled)
    assert again == source
    assert again.open() is source.open()


@pytest.mark.slow
def test_spawned_process(tmp_path: Path, cube: NDArray[np.float64]) -> None:
    zarr.create_array(tmp_path / "x.zarr", data=cube, chunks=(4, 5, 9))
    source = open_source(tmp_path / "x.zarr")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(sum_of, source, 3).result() == cube[12:].sum()


def test_array_written_anew_is_read_anew(tmp_path: Path) -> None:
    """The cache of open arrays goes by their metadata, not by their place."""
    path = tmp_path / "x.zarr"
    for chunk in (2, 3, 4):
        zarr.create_array(path, data=np.full((12, 2), chunk), chunks=(chunk, 2), overwrite=True)
        source = open_source(path)
        rows = [source.read(source.block(i)).values for i in range(source.n_blocks)]
        assert [len(r) for r in rows] == [chunk] * (12 // chunk)
        assert all((r == chunk).all() for r in rows)


def test_array_that_changed_under_a_source(tmp_path: Path) -> None:
    """A source never reads what it does not describe: other chunks are damage to it."""
    path = tmp_path / "x.zarr"
    zarr.create_array(path, data=np.ones((12, 2)), chunks=(4, 2))
    source = open_source(path)
    zarr.create_array(path, data=np.ones((12, 3)), chunks=(4, 3), overwrite=True)
    with pytest.raises(OSError, match="cannot be decoded"):
        source.read(source.block(0))


def test_a_store_is_read_only(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "x.zarr", data=np.ones((12, 2)))
    store = store_for(store_spec(tmp_path / "x.zarr"))
    array = zarr.open_array(store, mode="r")
    with pytest.raises(ValueError, match="read-only"):
        array[:] = 0
    with pytest.raises(ValueError, match="read-only"):
        store.with_read_only(False)


def test_metadata_are_not_counted(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "x.zarr", data=np.ones((12, 2)))
    before = read_counter()
    open_source(tmp_path / "x.zarr")
    assert read_counter() - before == ReadCount(0, 0)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Generic S3 error: PUT http://169.254.169.254/latest/api/token timed out", "No cred"),
        ("Server returned non-2xx status code: 403 Forbidden: <xml>", "was denied"),
        ("status code: 503 Service Unavailable: <xml>", "fewer workers"),
        ("error sending request\n\nDebug source: …", "Check the address, the endpoint"),
        ("", "RuntimeError"),
    ],
)
def test_one_sentence_for_what_a_store_says(message: str, expected: str) -> None:
    translated = str(translate_error(RuntimeError(message), "s3://b/x"))
    assert expected in translated
    assert "s3://b/x" in translated
    assert "\n" not in translated


@given(st.lists(st.integers(0, 50), min_size=1, max_size=4), st.integers(0, 10_000))
def test_even_chunks_are_small_enough(shape: list[int], max_positions: int) -> None:
    chunks = even_chunks(shape, max_positions)
    assert len(chunks) == len(shape)
    assert all(c >= 1 for c in chunks)
    assert np.prod(chunks) <= max(1, max_positions)
    # Whole along the last axes before an earlier one is longer than one.
    for axis in range(len(shape) - 1):
        if chunks[axis] > 1:
            assert chunks[axis + 1] >= shape[axis + 1]
