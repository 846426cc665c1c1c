"""The sample for the start: bounded, spread over the array, the same whoever reads it."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_gmm.data.source import NumpySource, Source, open_source
from dask_gmm.errors import InputError, NonFiniteError
from dask_gmm.execution import LocalBackend
from dask_gmm.fitting.sampling import Sample, automatic_size, draw_enough, sample_blocks


def draw(source: Source, size: int, seed: int = 0, threads: int = 1) -> Sample:
    return draw_enough(source, LocalBackend(threads), size, seed)[0]


def numbered(n: int, block_rows: int) -> NumpySource:
    """Rows that say where they stand."""
    return NumpySource.of(np.arange(float(n))[:, None] * [1.0, -1.0], block_rows=block_rows)


def test_all_rows_in_order_when_they_fit() -> None:
    source = numbered(1000, 37)
    sample = draw(source, 1000)
    assert sample.complete
    np.testing.assert_array_equal(sample.rows.values, source.array)


def test_a_sample_spreads_over_ordered_data() -> None:
    source = numbered(100_000, 100)
    sample = draw(source, 2_000)
    assert not sample.complete
    assert 2_000 <= len(sample.rows) <= 2_000 + len(sample_blocks(source, 2_000))
    positions = sample.rows.values[:, 0]
    assert np.all(np.diff(positions) > 0)
    shares = np.histogram(positions, bins=10, range=(0, 100_000))[0] / len(positions)
    np.testing.assert_allclose(shares, 0.1, atol=0.03)


def test_the_same_rows_for_any_number_of_threads() -> None:
    source = numbered(20_000, 50)
    one, two = (draw(source, 500, seed=3, threads=t).rows.values for t in (1, 2))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, draw(source, 500, seed=4).rows.values)


@given(
    n=st.integers(1, 3000),
    block_rows=st.integers(1, 500),
    size=st.integers(1, 4000),
)
def test_blocks_are_distinct_ordered_and_enough(n: int, block_rows: int, size: int) -> None:
    source = numbered(n, block_rows)
    blocks = sample_blocks(source, size)
    assert list(blocks) == sorted(set(blocks))
    assert blocks[0] >= 0
    assert blocks[-1] < source.n_blocks
    assert sum(source.block(i).rows or 0 for i in blocks) >= min(size, n)


@given(
    chunks=st.lists(st.integers(0, 400), min_size=1, max_size=60).filter(lambda c: sum(c) > 1),
    size=st.integers(1, 3000),
)
@settings(max_examples=30, deadline=None)
def test_uneven_blocks_give_rows_in_proportion(chunks: list[int], size: int) -> None:
    total = sum(chunks)
    lazy = da.from_array(np.arange(float(total))[:, None], chunks=(tuple(chunks), (1,)))
    source = open_source(lazy)
    sample = draw(source, size)
    assert sample.complete == (len(sample.rows) == total)
    assert min(size, total) <= len(sample.rows) <= min(size, total) + len(chunks)


def test_a_large_block_among_many_small_ones_is_drawn_from() -> None:
    chunks = (200_000, *[1] * 500)
    lazy = da.from_array(np.arange(200_500.0)[:, None], chunks=(chunks, (1,)))
    rows = draw(open_source(lazy), 10_000).rows.values
    assert np.mean(rows < 200_000) > 0.99


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint8, np.bool_])
def test_floats_keep_their_type_and_others_become_float64(dtype: type) -> None:
    source = NumpySource.of(np.ones((10, 2), dtype=dtype))
    kept = draw(source, 10).rows.values.dtype
    assert kept == (np.float32 if dtype is np.float32 else np.float64)


def test_a_row_that_is_not_finite_is_located() -> None:
    rows = np.ones((100, 3))
    rows[57, 1] = np.inf
    with pytest.raises(NonFiniteError, match=r"row 57 .*NumPy array"):
        draw(NumpySource.of(rows, block_rows=10), 100)


def test_a_drawn_row_is_located_where_it_lies_not_where_it_was_drawn() -> None:
    rows = np.ones((1000, 3))
    rows[900:, 1] = np.nan
    with pytest.raises(NonFiniteError) as caught:
        draw(NumpySource.of(rows, block_rows=1000), 100)
    assert caught.value.row >= 900


def test_no_rows_at_all() -> None:
    with pytest.raises(InputError, match="0 sample"):
        draw(NumpySource.of(np.empty((0, 3))), 10)


@pytest.mark.parametrize(
    ("n_parameters", "n_features", "expected"),
    [(10, 2, 100_000), (10_000, 16, 500_000), (10**9, 128, 256 * 2**20 // 1024)],
)
def test_the_automatic_size(n_parameters: int, n_features: int, expected: int) -> None:
    assert automatic_size(n_parameters, n_features) == expected


N, BLOCK = 6_000, 30
POSITIONS = np.arange(float(N))[:, None]


def masked(weights: np.ndarray, *, known: bool = True) -> Source:
    """Rows that say where they stand, in 200 blocks."""
    rows, w = (da.from_array(a, chunks=BLOCK) for a in (POSITIONS, weights))
    if not known:
        rows, w = rows[rows[:, 0] > -1.0], w[w > -1.0]
    return open_source(rows, sample_weight=w)


@given(
    kept=st.one_of(st.integers(1, 100), st.integers(100, N)),
    together=st.booleans(),
    known=st.booleans(),
    size=st.sampled_from([20, 200, 1500]),
)
@settings(max_examples=15, deadline=None)
@pytest.mark.slow
def test_rows_without_weight_do_not_take_the_others_places(
    kept: int, together: bool, known: bool, size: int
) -> None:
    """A mask leaves a sample as large as the rows it shows allow, wherever these lie."""
    rng = np.random.default_rng(kept)
    first = int(rng.integers(N - kept + 1))
    shown = np.arange(first, first + kept) if together else rng.choice(N, kept, replace=False)
    weights = np.zeros(N)
    weights[shown] = 2.0
    sample, _ = draw_enough(masked(weights, known=known), LocalBackend(1), size, 0)
    assert min(kept, size / 4) <= len(sample.rows) <= 3 * size + N / BLOCK
    assert np.isin(sample.rows.values[:, 0], shown).all()
    assert len(np.unique(sample.rows.values)) == len(sample.rows)
    assert sample.complete <= (len(sample.rows) == kept)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("size", [300, N])
def test_a_sample_weighs_as_much_as_all_rows(size: int, known: bool) -> None:
    """To within chance, with and without weights of its own, whatever part of the rows it is."""
    shown = np.random.default_rng(0).random(N) < 0.3
    weights = np.where(shown, 1.0 + POSITIONS[:, 0] / N, 0.0)
    for source, total in (
        (numbered(N, BLOCK), N),
        (masked(weights, known=known), weights.sum()),
        (open_source(da.from_array(POSITIONS, chunks=BLOCK), where=shown), shown.sum()),
    ):
        sample = draw_enough(source, LocalBackend(1), size, 0)[0]
        standing = sample.standing_for_all
        assert standing.total_weight == pytest.approx(sample.stands_for, rel=1e-12)
        assert standing.total_weight == pytest.approx(total, rel=1e-12 if size == N else 0.1)
        assert standing.values is sample.rows.values
        if sample.rows.weights is not None and standing.weights is not None:
            factors = standing.weights / sample.rows.weights
            np.testing.assert_allclose(factors, factors[0], rtol=1e-12)


def test_where_all_rows_have_weights_one_draw_does() -> None:
    source = masked(np.linspace(1e-3, 5.0, N))
    _, results = draw_enough(source, LocalBackend(1), 300, 0)
    assert [result.blocks for result in results] == [len(sample_blocks(source, 300))]


def test_each_draw_reads_more_until_one_knows() -> None:
    weights = np.zeros(N)
    weights[5 * BLOCK : 6 * BLOCK] = 1.0  # a block that no evenly spaced 64 rows lie in
    source = masked(weights)
    assert 5 not in sample_blocks(source, 30)
    sample, results = draw_enough(source, LocalBackend(1), 30, 0)
    assert [result.blocks for result in results] == [64, 200, 200]
    assert len(sample.rows) >= 8


def test_nobody_has_a_weight() -> None:
    with pytest.raises(InputError, match="at least one non-zero number"):
        draw_enough(masked(np.zeros(N)), LocalBackend(1), 30, 0)
