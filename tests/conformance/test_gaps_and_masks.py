"""Rows that miss values, and rows that a mask leaves out: the same on every road and backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
import zarr

from dask_gmm.data.buffers import ReadBuffers
from dask_gmm.data.source import Source, open_source
from dask_gmm.data.stores import read_counter
from dask_gmm.data.taking_part import with_missing
from dask_gmm.errors import WhereError
from dask_gmm.execution import LocalBackend, plan_pass
from dask_gmm.execution.tree import root_level
from dask_gmm.fitting.passes import StatisticsJob
from dask_gmm.mixture.kernels import Candidate, MarginalKernel, get_kernel
from tests.conformance.test_backends import BACKENDS
from tests.mixture.gappy import with_gaps
from tests.mixture.problems import draw, random_mixture

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dask_gmm.execution.backend import Backend

N = 1009
P = random_mixture(1, "full", 3, 4)
WHOLE = draw(2, P, N)
X = with_gaps(3, WHOLE, 0.2)
X[100:150] = np.nan  # a block of rows without any value
W = np.random.default_rng(4).exponential(size=N)
MASK = np.random.default_rng(5).random(N) < 0.6
MASK[200:250] = False  # a block that is masked
HELD = np.where(MASK[:, None], X, np.inf)  # what is masked may hold anything
WEIGHTS = np.where(MASK, W, np.nan)

IN_PROCESS = ("local, 2 threads", "cluster, 2 processes")


@pytest.fixture(scope="module", params=IN_PROCESS)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    with BACKENDS[request.param](request) as found:
        yield found


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("masked") / "g.zarr")
    found = zarr.create_group(path)
    whole: Any = {"write_empty_chunks": True}
    for name, values, chunks in (
        ("x", HELD, (50, 4)),
        ("w", WEIGHTS, (70,)),
        ("tiled", MASK, (25,)),
        ("shared", MASK.astype("u1"), (300,)),
    ):
        array = found.create_array(
            name, shape=values.shape, chunks=chunks, dtype=values.dtype, config=whole
        )
        array[:] = values
    names = ("sample", "level")
    for name, values, chunks, none in (
        ("a", HELD[:, :2], (25, 2), -1e300),
        ("b", HELD[:, 2:], (50, 1), -1e300),
        ("packed w", WEIGHTS, (70,), -1.0),
    ):
        array = found.create_array(
            name,
            shape=values.shape,
            chunks=chunks,
            dtype="f8",
            dimension_names=names[: values.ndim],
            attributes={"scale_factor": 2.0, "missing_value": none},
            config=whole,
        )
        array[:] = np.where(np.isnan(values), none, values / 2)
    return path


def roads(path: str, *, weighted: bool) -> dict[str, Source]:
    """The same rows, weights and mask, from everywhere."""
    chunked = da.from_array(HELD, chunks=(50, 4))
    lazy = da.from_array(WEIGHTS, chunks=333)

    def opened(x: Any, w: Any, where: Any, **options: Any) -> Source:
        return open_source(x, sample_weight=w if weighted else None, where=where, **options)

    return {
        "Zarr, tiled": opened(path, "w", "tiled", array="x"),
        "Zarr, shared": opened(path, "w", "shared", array="x"),
        "packed, packed": opened(
            path, "packed w", "tiled", features=["a", "b"], feature_axis="level"
        ),
        "packed, memory": opened(path, W, MASK, features=["a", "b"], feature_axis="level"),
        "Zarr, memory": opened(path, np.where(MASK, W, 0), MASK, array="x"),
        "Dask, memory": opened(chunked, WEIGHTS, MASK),
        "Dask, Zarr": opened(chunked, lazy, f"{path}/shared"),
        "Dask, Dask": opened(chunked, f"{path}/w", da.from_array(MASK, chunks=90)),
        "memory, memory": opened(HELD, WEIGHTS, MASK, block_rows=50),
        "memory, Zarr": opened(HELD, WEIGHTS, f"{path}/tiled", block_rows=50),
    }


def job() -> StatisticsJob:
    return StatisticsJob((Candidate(P),), MarginalKernel(get_kernel("blas")))


def expected(missing: str, *, weighted: bool) -> Any:
    """One thread, one unit, over rows from which those that take no part were taken before."""
    gone = np.isnan(X).any(axis=1) if missing == "drop" else np.isnan(X).all(axis=1)
    total: Any = None
    for start in range(0, N, 50):
        kept = (MASK & ~gone)[start : start + 50]
        rows = X[start : start + 50][kept]
        weights = W[start : start + 50][kept] if weighted else None
        source = open_source(rows, sample_weight=weights)
        if not len(rows):
            continue
        value = LocalBackend(1).run(plan_pass(source, n_threads=1), job()).value.statistics[0]
        total = value if total is None else total + value
    return total


@pytest.mark.parametrize(
    ("missing", "weighted"),
    [
        ("marginalize", True),
        pytest.param("drop", False, marks=pytest.mark.slow),
        pytest.param("marginalize", False, marks=pytest.mark.slow),
        pytest.param("drop", True, marks=pytest.mark.slow),
    ],
)
def test_the_same_bits_by_every_road(
    backend: Backend, group: str, missing: str, weighted: bool
) -> None:
    reference = None
    told = expected(missing, weighted=weighted)
    n_gaps = int((np.isnan(X).any(axis=1) & MASK).sum())
    for name, opened in roads(group, weighted=weighted).items():
        source = with_missing(opened, missing)
        if not isinstance(backend, LocalBackend) and not source.shippable:
            continue
        result = backend.run(plan_pass(source, n_threads=2, unit_level=2), job())
        (found,), gaps = result.value.statistics, result.value.gaps
        reference = reference or found
        assert found == reference, name
        assert (found.rows, gaps, result.rows) == (told.rows, n_gaps, N), name
        np.testing.assert_allclose(found.sums, told.sums, rtol=1e-12, atol=1e-9, err_msg=name)


def test_units_change_no_bit(group: str) -> None:
    source = with_missing(open_source(group, array="x", where="shared"), "marginalize")
    found = {
        level: LocalBackend(2).run(plan_pass(source, n_threads=2, unit_level=level), job()).value
        for level in (0, 2, root_level(source.n_blocks))
    }
    assert len({value.statistics[0].sums.tobytes() for value in found.values()}) == 1


@pytest.mark.parametrize("missing", ["drop", "marginalize"])
def test_blocks_are_the_same_whichever_memory_they_are_read_into(group: str, missing: str) -> None:
    gone = np.isnan(X).any(axis=1) if missing == "drop" else np.isnan(X).all(axis=1)
    for name, opened in roads(group, weighted=True).items():
        source, buffers = with_missing(opened, missing), ReadBuffers()
        for turn in range(2):  # the second time it is known which blocks have gaps
            for i in (0, 2, 4, 20):
                block = source.block(i)
                where = slice(block.start[0], block.stop[0])
                places = np.flatnonzero((MASK & ~gone)[where])
                for rows in (source.read(block), source.read_into(block, buffers)):
                    np.testing.assert_array_equal(rows.values, X[where][places], err_msg=name)
                    np.testing.assert_array_equal(rows.weights, W[where][places])
                    assert [rows.place(j) for j in range(len(rows))] == places.tolist()
                    assert rows.n_read == len(X[where]), (name, turn)
    np.testing.assert_array_equal(HELD, np.where(MASK[:, None], X, np.inf))  # nobody wrote to it


def test_what_is_no_mask_is_located(backend: Backend, tmp_path: Path) -> None:
    flags = MASK.astype("u1")
    flags[612] = 3
    found = zarr.create_group(str(tmp_path / "g.zarr"))
    found.create_array("x", data=X, chunks=(50, 4))
    found.create_array("flags", data=flags, chunks=(1009,))
    chunked = da.from_array(X, chunks=(50, 4))
    for source in (
        open_source(found, array="x", where="flags"),
        open_source(chunked, where=str(tmp_path / "g.zarr/flags")),
        open_source(chunked, where=da.from_array(flags, chunks=50)),
    ):
        with pytest.raises(WhereError, match=r"where is 3.0 at row 12 of block 12"):
            backend.run(plan_pass(source, n_threads=2), job())
    with pytest.raises(WhereError, match=r"where is 3.0 at row 612"):
        open_source(X, where=flags)


def test_one_read_per_block(group: str) -> None:
    source = with_missing(open_source(group, array="x", where="tiled"), "marginalize")
    before = read_counter()
    LocalBackend(1).run(plan_pass(source, n_threads=1), job())
    assert (read_counter() - before).gets == 21 + 41  # chunks of rows, chunks of the mask
