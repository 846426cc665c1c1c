"""What scaled rows promise, whichever source they are read from."""

from __future__ import annotations

import math
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dask_gmm.data.buffers import ReadBuffers
from dask_gmm.data.concatenated_source import is_many
from dask_gmm.data.joined_source import JoinedSource
from dask_gmm.data.lazy import lazy_map
from dask_gmm.data.scaled_source import ScaledSource, scaled
from dask_gmm.data.source import DaskSource, Source, open_source, with_weights, with_where
from dask_gmm.data.stores import read_counter
from dask_gmm.data.taking_part import with_missing
from dask_gmm.errors import NonFiniteError, TransformError
from dask_gmm.execution import LocalBackend, plan_pass
from dask_gmm.rows import Rows
from dask_gmm.scaling import Scaling, ScalingRequest
from dask_gmm.scaling.estimate import estimated_from_rows
from tests.conformance.test_sources import FEW, KINDS, every_kind, few_kinds, total, weights_for
from tests.execution.fakes import SumJob
from tests.marks import quick_ones

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.conformance.test_sources import Make

ASKED: dict[str, dict[str, Any]] = {
    "standard": {"standardize": True},
    "arcsinh": {"feature_transform": {0: ("arcsinh", 0.5), 1: "log1p"}},
    "all": {"feature_transform": "arcsinh", "standardize": True, "n_pca": 2},
}
every_scaling = pytest.mark.parametrize(
    "asked",
    [
        pytest.param(asked, id=name, marks=pytest.mark.slow if name == "arcsinh" else ())
        for name, asked in ASKED.items()
    ],
)


def scaling_of(x: NDArray[Any], asked: dict[str, Any]) -> Scaling:
    """By rows, (n, D)."""
    request = ScalingRequest.of(**asked)
    assert request is not None
    begun = request.begin(x.shape[1])
    rows = x if begun.elementwise is None else begun.apply(x)
    if not request.estimates:
        return begun
    return estimated_from_rows(begun, request, Rows(rows), rows.dtype)


def by_rows(source: Source, x: NDArray[Any], axis: int) -> NDArray[Any]:
    """The array with its features last, as the source has its samples."""
    return np.moveaxis(x, source.feature_axis if isinstance(source, JoinedSource) else axis, -1)


def each(source: Source, of_rows: NDArray[Any]) -> Any:
    """Weights or a mask as a source takes them: of many arrays one for each."""
    if not is_many(source):
        return of_rows
    stops = np.cumsum([part.n_rows for part in source.parts])
    return np.split(of_rows.reshape(-1), stops[:-1])


@every_kind
@every_scaling
@pytest.mark.parametrize("axis", quick_ones([0, -1], [-1]))
def test_each_block_is_scaled_rows(
    make: Make, asked: dict[str, Any], axis: int, tmp_path: Path
) -> None:
    x = np.random.default_rng(0).exponential(size=(7, 5, 6))
    raw = make(x, (3, 2, 4), axis, tmp_path)
    scaling = scaling_of(np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis]), asked)
    source = scaled(raw, scaling)
    assert source.n_features == scaling.n_outputs
    assert source.dtype == np.float64
    assert (source.n_rows, source.n_blocks) == (raw.n_rows, raw.n_blocks)
    assert source.shippable == raw.shippable
    buffers = ReadBuffers()
    largest = 0
    for i in range(source.n_blocks):
        block = source.block(i)
        expected = scaling.apply(raw.read(block).values)
        own = source.read(block)
        lent = source.read_into(block, buffers)
        np.testing.assert_allclose(own.values, expected, rtol=1e-13, atol=1e-13)
        assert lent.values.tobytes() == own.values.tobytes()
        assert own.values.shape == (block.rows, scaling.n_outputs)
        largest = max(largest, own.values.nbytes)
        if block.rows:
            assert source.locate(block, 0) == raw.locate(block, 0)
    assert source.block_bytes == largest
    assert source.read_bytes >= raw.read_bytes


@few_kinds
@every_scaling
def test_the_data_are_left_as_they_are(make: Make, asked: dict[str, Any], tmp_path: Path) -> None:
    x = np.random.default_rng(1).exponential(size=(20, 4))
    before = x.copy()
    raw = make(x, (6, 4), -1, tmp_path)
    source, buffers = scaled(raw, scaling_of(x, asked)), ReadBuffers()
    for _ in range(2):
        for i in range(source.n_blocks):
            source.read(source.block(i))
            source.read_into(source.block(i), buffers)
    assert np.array_equal(x, before)
    found = [raw.read(raw.block(i)).values for i in range(raw.n_blocks)]
    assert np.array_equal(np.concatenate(found), before)


@few_kinds
@pytest.mark.parametrize("dtype", ["f4", "i2", "u1", ">f8"])
def test_types(make: Make, dtype: str, tmp_path: Path) -> None:
    x = (np.arange(60).reshape(20, 3) % 7).astype(dtype)
    raw = make(x, (6, 3), -1, tmp_path)
    scaling = scaling_of(x, {"feature_transform": "log1p", "standardize": True})
    source, buffers = scaled(raw, scaling), ReadBuffers()
    assert source.dtype == (np.float32 if raw.dtype == np.float32 else np.float64)
    for i in range(source.n_blocks):
        rows = source.read_into(source.block(i), buffers).values
        assert rows.dtype == source.dtype
        block = source.block(i)
        expected = scaling.apply(x[block.start[0] : block.stop[0]])
        np.testing.assert_allclose(rows, expected, rtol=1e-6)


@few_kinds
@every_scaling
def test_lazily(make: Make, asked: dict[str, Any], tmp_path: Path) -> None:
    x = np.random.default_rng(2).exponential(size=(7, 5, 6))
    raw = make(x, (3, 2, 4), 1, tmp_path)
    moved = np.moveaxis(x, 1, -1)
    scaling = scaling_of(moved.reshape(-1, 5), asked)
    sums: Any = lazy_map(scaled(raw, scaling), total, "f8")
    of_rows = scaling.apply(moved.reshape(-1, 5)).sum(axis=1)
    expected = of_rows if is_many(raw) else of_rows.reshape(moved.shape[:-1])
    np.testing.assert_allclose(sums.compute(scheduler="sync"), expected, atol=1e-12)
    again: Any = lazy_map(scaled(raw, scaling), total, "f8")
    other: Any = lazy_map(raw, total, "f8")
    if raw.content_token() is not None:
        assert again.name == sums.name
    assert other.name != sums.name


@every_kind
def test_it_travels_where_the_rows_do(make: Make, tmp_path: Path) -> None:
    x = np.random.default_rng(1).exponential(size=(8, 3))
    raw = make(x, (3, 3), -1, tmp_path)
    source = scaled(raw, scaling_of(x, ASKED["all"]))
    if raw.shippable:
        other = pickle.loads(pickle.dumps(source))
        for i in range(source.n_blocks):
            block = source.block(i)
            assert np.array_equal(other.read(block).values, source.read(block).values)
    assert source.stays_because == raw.stays_because


@few_kinds
@every_scaling
def test_weights_masks_and_gaps_come_first(
    make: Make, asked: dict[str, Any], tmp_path: Path
) -> None:
    x = np.random.default_rng(0).exponential(size=(7, 5, 6))
    w = weights_for(x.shape[:-1])
    x[w == 0.0] = -7.0  # which has no logarithm
    taken = np.random.default_rng(3).random(w.shape) < 0.8
    x[0, 1, 2] = x[3, 3, 3] = np.nan
    x[..., 1][~taken] = -1.0
    raw = with_missing(make(x, (3, 2, 6), -1, tmp_path), "drop")
    complete = (w > 0) & taken & ~np.isnan(x).any(axis=-1)
    if is_many(raw):
        x, complete = x.reshape(-1, 6), complete.reshape(-1)
    raw = with_weights(with_where(raw, each(raw, taken)), each(raw, w))
    w = w.reshape(complete.shape)
    scaling = scaling_of(x[complete], asked)
    source, buffers = scaled(raw, scaling), ReadBuffers()
    for i in range(source.n_blocks):
        block = source.block(i)
        box = tuple(slice(a, b) for a, b in zip(block.start, block.stop, strict=True))
        kept = complete[box].reshape(-1)
        for _ in range(2):
            rows = source.read_into(block, buffers)
            expected = scaling.apply(x[box].reshape(-1, 6)[kept])
            np.testing.assert_allclose(rows.values, expected, atol=1e-12)
            assert rows.weights is not None
            assert np.array_equal(rows.weights, w[box].reshape(-1)[kept])
            assert rows.n_read == block.rows
            assert rows.gaps == raw.read(block).gaps


@few_kinds
def test_gaps_stay_gaps(make: Make, tmp_path: Path) -> None:
    x = np.random.default_rng(0).exponential(size=(20, 4))
    scaling = scaling_of(x, {"feature_transform": "log1p", "standardize": True})
    x[np.random.default_rng(1).random(x.shape) < 0.3] = np.nan
    source = scaled(with_missing(make(x, (6, 4), -1, tmp_path), "marginalize"), scaling)
    for i in range(source.n_blocks):
        block = source.block(i)
        rows = source.read(block)
        part = x[block.start[0] : block.stop[0]]
        part = part[~np.isnan(part).all(axis=1)]
        np.testing.assert_allclose(rows.values, scaling.apply(part))
        assert rows.gaps == np.isnan(x[block.start[0] : block.stop[0]]).any(axis=1).sum()


@few_kinds
@pytest.mark.parametrize("value", [-1.0, -3.0])
@pytest.mark.parametrize("missing", ["error", "drop", "marginalize"])
def test_what_has_no_logarithm_is_located(
    make: Make, value: float, missing: str, tmp_path: Path
) -> None:
    x = np.random.default_rng(0).exponential(size=(20, 4))
    scaling = scaling_of(x, {"feature_transform": "log1p"})
    x[13, 2] = value
    if missing != "error":
        x[12] = np.nan  # left out, and the row's place is the same
    source = scaled(with_missing(make(x, (6, 4), -1, tmp_path), missing), scaling)

    def run() -> None:
        LocalBackend(1).run(plan_pass(source, n_threads=1), SumJob())

    row = 6 if is_many(source.unscaled) else 13  # of the third array, or of all
    place = rf"feature 2 of row \d+ of block \d+ \(.*{row}.*\) is -"
    with pytest.raises(TransformError, match=place):
        run()
    with pytest.raises(TransformError, match="feature 2 of row"):
        lazy_map(source, total, "f8").compute(scheduler="sync")


@few_kinds
def test_what_cannot_be_projected_is_located(make: Make, tmp_path: Path) -> None:
    x = np.random.default_rng(0).exponential(size=(20, 4))
    scaling = scaling_of(x, ASKED["all"])
    x[13, 2] = np.nan
    source = scaled(make(x, (6, 4), -1, tmp_path), scaling)
    row = 6 if is_many(source.unscaled) else 13
    place = rf"Feature 2 of row \d+ of block \d+ \(.*{row}.*\) is nan"
    with pytest.raises(NonFiniteError, match=place):
        LocalBackend(1).run(plan_pass(source, n_threads=1), SumJob())


def test_metadata_explain_what_cannot_be_projected(tmp_path: Path) -> None:
    import zarr

    x = np.arange(40, dtype="i2").reshape(10, 4)
    array = zarr.create_array(tmp_path / "x.zarr", data=x, chunks=(5, 4))
    array.attrs.update(_FillValue=26, scale_factor=0.5)
    scaling = scaling_of(0.5 * x, {"standardize": True, "n_pca": 1})
    source = scaled(open_source(tmp_path / "x.zarr"), scaling)
    with pytest.raises(NonFiniteError, match="_FillValue"):
        LocalBackend(1).run(plan_pass(source, n_threads=1), SumJob())


@pytest.mark.parametrize("name", FEW)
def test_a_pass_is_one_read_and_has_the_same_bits_on_threads(name: str, tmp_path: Path) -> None:
    x = np.random.default_rng(4).exponential(size=(400, 3))
    raw = KINDS[name](x, (40, 3), -1, tmp_path)
    source = scaled(raw, scaling_of(x, {"standardize": True}))
    before = read_counter()
    one = LocalBackend(1).run(plan_pass(source, n_threads=1), SumJob())
    gets = (read_counter() - before).gets
    unscaled = read_counter()
    LocalBackend(1).run(plan_pass(raw, n_threads=1), SumJob())
    assert gets == (read_counter() - unscaled).gets
    two = LocalBackend(2).run(plan_pass(source, n_threads=2), SumJob())
    assert np.array_equal(np.asarray(one.value), np.asarray(two.value))
    assert one.rows == math.prod(x.shape[:-1])


def test_rows_in_the_readers_memory_are_scaled_there(tmp_path: Path) -> None:
    import zarr

    x = np.random.default_rng(4).exponential(size=(400, 3))
    zarr.create_array(tmp_path / "x.zarr", data=x, chunks=(100, 3))
    raw = open_source(tmp_path / "x.zarr")
    buffers = ReadBuffers()
    source = scaled(raw, scaling_of(x, {"standardize": True}))
    assert isinstance(source, ScaledSource)
    assert buffers.rows.holds(source.read_into(source.block(0), buffers).values)
    assert source.read_bytes - raw.read_bytes < 2**20
    projected = scaled(raw, scaling_of(x, {"n_pca": 2}))
    assert buffers.scaled.holds(projected.read_into(source.block(0), buffers).values)
    assert projected.read_bytes - raw.read_bytes >= raw.block_bytes
    assert not isinstance(raw, DaskSource)
