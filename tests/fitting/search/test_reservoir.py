"""Rows of low density that a pass keeps: the same ones whoever adds what blocks have kept."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_gmm.data.source import open_source
from dask_gmm.execution import LocalBackend
from dask_gmm.execution.tree import fold_in_order
from dask_gmm.fitting.keyed import keys_of
from dask_gmm.fitting.passes import StatisticsJob
from dask_gmm.fitting.search.reservoir import (
    Reservoir,
    Sieve,
    Sieved,
    SievedStatistics,
    SievingEvaluator,
    SievingJob,
    threshold_of,
)
from dask_gmm.mixture.kernels import Candidate
from dask_gmm.rows import Rows
from tests.fitting.search.problems import KERNEL, sample_of
from tests.memory import peak_of
from tests.mixture.problems import draw, random_mixture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

D = 2


def same(one: Reservoir, other: Reservoir) -> bool:
    """Equal to the bit."""
    arrays = ("values", "weights", "keys", "places")
    return (one.most, one.below) == (other.most, other.below) and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays
    )


@st.composite
def blocks(draw_: st.DrawFn) -> tuple[list[Reservoir], Sieve]:
    """What some blocks of random lengths keep, of which some rows are low."""
    seed, most = draw_(st.integers(0, 2**16)), draw_(st.integers(1, 12))
    sizes = draw_(st.lists(st.integers(0, 30), min_size=1, max_size=9))
    rng, sieve = np.random.default_rng(seed), Sieve(0.0, most)
    kept = []
    for block, size in enumerate(sizes):
        rows = Rows(rng.normal(size=(size, D)), rng.uniform(0.5, 2.0, size=size))
        kept.append(Reservoir.of(rows, rng.normal(size=size), block, sieve))
    return kept, sieve


@settings(max_examples=60)
@given(drawn=blocks(), data=st.data())
def test_they_are_a_commutative_monoid(
    drawn: tuple[list[Reservoir], Sieve], data: st.DataObject
) -> None:
    """Any order and grouping gives the bits of any other: no sum is rounded."""
    kept, sieve = drawn
    expected = fold_in_order(kept, len(kept))
    nothing = Reservoir.of(Rows(np.empty((0, D)), np.empty(0)), np.empty(0), 0, sieve)
    left = data.draw(st.permutations([*kept, nothing]))
    while len(left) > 1:
        i = data.draw(st.integers(0, len(left) - 2))
        left[i : i + 2] = [left[i] + left[i + 1]]
    assert same(left[0], expected)


@settings(max_examples=60)
@given(drawn=blocks())
def test_the_lowest_keys_of_all_low_rows_are_kept(drawn: tuple[list[Reservoir], Sieve]) -> None:
    kept, sieve = drawn
    unbounded = [replace(r, most=10**6) for r in kept]
    total = fold_in_order(kept, len(kept))
    everything = fold_in_order(unbounded, len(kept))
    assert len(total) == min(sieve.most, total.below)
    assert total.below == sum(r.below for r in kept)
    assert np.array_equal(total.keys, everything.keys[: sieve.most])
    assert np.array_equal(total.values, everything.values[: sieve.most])
    assert np.all(np.diff(total.keys.astype(object)) >= 0)


def test_rows_of_equal_keys_stay_by_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dask_gmm.fitting.search.reservoir.keys_of",
        lambda _, places: np.zeros(len(places), np.uint64),
    )
    rows, sieve = Rows(np.arange(10.0).reshape(5, D)), Sieve(0.0, 7)
    first, second = (Reservoir.of(rows, np.full(5, -1.0), block, sieve) for block in (0, 1))
    for total in (first + second, second + first):
        assert total.places.tolist() == [[0, i] for i in range(5)] + [[1, 0], [1, 1]]


def test_every_place_has_the_same_chance() -> None:
    """Of 40 blocks of 500 rows 2,000 stay: by Pearson's test as from an urn."""
    sieve, rows = Sieve(0.0, 2000), Rows(np.zeros((500, D)))
    low = np.full(500, -1.0)
    total = fold_in_order([Reservoir.of(rows, low, b, sieve) for b in range(40)], 40)
    assert total.below == 20_000
    assert total.standing.total_weight == pytest.approx(20_000)
    for counted in (total.places[:, 0], total.places[:, 1] // 25):
        counts = np.bincount(counted)
        expected = len(total) / len(counts)
        assert np.square(counts - expected).sum() / expected < 2.2 * len(counts)
    assert len(np.unique(keys_of(3, np.arange(100_000)))) == 100_000


def test_what_is_kept_of_a_row() -> None:
    values = np.arange(12.0, dtype=np.float32).reshape(6, D)
    values[1, 0] = np.nan
    weights, places = np.arange(1.0, 7.0), np.array([0, 3, 4, 7, 8, 9])
    densities = np.array([-5.0, -5.0, 1.0, -3.0, -2.0, -9.0])
    rows = Rows(values, weights, places)
    kept = Reservoir.of(rows, densities, 4, Sieve(-2.0, 10))
    assert kept.below == 3  # one is at the threshold, one misses a value
    assert kept.values.dtype == np.float32
    order = np.argsort(kept.places[:, 1])
    assert kept.places[order].tolist() == [[4, 0], [4, 7], [4, 9]]
    assert np.array_equal(kept.values[order], values[[0, 3, 5]])
    assert kept.weights[order].tolist() == [1.0, 4.0, 6.0]
    values[:] = 0.0  # a later block is read there
    assert kept.values.any()
    assert Reservoir.of(Rows(np.ones((3, D), int)), np.zeros(3), 0, Sieve(1.0, 2)).below == 3


def test_parts_of_a_block_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows, densities = Rows(rng.normal(size=(1000, D))), rng.normal(size=1000)
    whole = Reservoir.of(rows, densities, 7, Sieve(-1.0, 50))
    monkeypatch.setattr("dask_gmm.fitting.search.reservoir._PART", 64)
    assert same(Reservoir.of(rows, densities, 7, Sieve(-1.0, 50)), whole)


def test_how_low_is_low() -> None:
    p = random_mixture(0, "full", 2, D)
    for n, below in ((1000, 10), (40_000, 20), (9, 0)):
        sample = sample_of(draw(1, p, n))
        densities = KERNEL.log_densities(sample.rows.values, p)
        assert (densities < threshold_of(sample, p)).sum() == below
    assert Sieve.of(sample, p).most == 8192
    assert Sieve.of(sample_of(np.zeros((30, 500))), random_mixture(0, "diag", 2, 500)).most < 600


# -- in a pass -----------------------------------------------------------------------------------


P, OTHER = random_mixture(3, "full", 3, D), random_mixture(4, "diag", 4, D)
VALUES = draw(5, P, 4000)


def evaluated(source: Any, candidates: Sequence[Candidate], n_threads: int = 2) -> Any:
    with LocalBackend(n_threads).open(source) as passes:
        return SievingEvaluator(passes, KERNEL).evaluate(candidates)


def test_a_pass_keeps_what_one_look_at_all_rows_finds() -> None:
    sieve = Sieve(threshold_of(sample_of(VALUES), P), 8)
    source = open_source(da.from_array(VALUES, chunks=(170, -1)))
    sieved = Sieved(Candidate(P), sieve)
    found, other = evaluated(source, [sieved, Candidate(OTHER)])
    assert isinstance(found, SievedStatistics)
    densities = KERNEL.log_densities(VALUES, P)
    assert found.reservoir.below == (densities < sieve.threshold).sum() == 10
    assert len(found.reservoir) == 8
    places = found.reservoir.places @ [170, 1]
    assert np.array_equal(found.reservoir.values, VALUES[places])
    again, _ = evaluated(source, [sieved, Candidate(OTHER)], n_threads=1)
    assert same(found.reservoir, again.reservoir)
    # Nothing else of the pass has another bit.
    plain = evaluated(source, [Candidate(P), Candidate(OTHER)])
    assert np.array_equal(found.sums, plain[0].sums)
    assert other == plain[1]


def test_rows_on_each_other_are_in_one_stratum() -> None:
    """However their densities are computed, at the threshold none is low."""
    values = np.vstack([draw(1, P, 900), np.repeat(draw(2, P, 1) + 50.0, 100, axis=0)])
    sample = sample_of(values)
    threshold = threshold_of(sample, P)
    _, densities = KERNEL.e_step([Candidate(P)]).with_log_densities(Rows(values))
    for found in (densities, KERNEL.log_densities(values, P)):
        assert (found < threshold).sum() == 0


def test_blocks_of_unknown_size_are_planned_for_as_any() -> None:
    job = SievingJob(StatisticsJob((Candidate(P),), KERNEL), Sieve(0.0, 100), None)
    assert job.workspace_bytes >= replace(job, block_rows=1000).workspace_bytes


def test_without_a_sieve_a_pass_is_as_ever() -> None:
    with LocalBackend(1).open(open_source(VALUES)) as passes:
        job = SievingEvaluator(passes, KERNEL).job([Candidate(P)])
    assert type(job) is StatisticsJob


@pytest.mark.parametrize("low", [0.01, 1.0])
def test_the_plan_covers_what_is_held(low: float) -> None:
    """Also where all rows of a block are low."""
    values: NDArray[np.float64] = draw(6, P, 300_000)
    threshold = float(np.quantile(KERNEL.log_densities(values[:4000], P), low)) + 100.0 * (low == 1)
    statistics = StatisticsJob((Candidate(P),), KERNEL)
    job = SievingJob(statistics, Sieve(threshold, 8192), len(values))
    opened, block = job.open(), open_source(values).block(0)
    opened(Rows(values[:1000]), block)

    promised = job.workspace_bytes + job.value_bytes
    assert peak_of(lambda: opened(Rows(values), block), promised) <= promised
    kept = opened(Rows(values), block).reservoir
    held = sum(a.nbytes for a in (kept.values, kept.weights, kept.keys, kept.places))
    assert held <= job.sieve.value_bytes(D)
