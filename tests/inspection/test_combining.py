"""The reads that combine components: exact over all rows, few, of the same bits however made."""

from __future__ import annotations

import pickle
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_gmm.data.source import open_source
from dask_gmm.errors import NonFiniteError
from dask_gmm.execution import LocalBackend
from dask_gmm.execution.tree import fold_in_order
from dask_gmm.inspection import combining as module
from dask_gmm.inspection.combining import Combined, CombiningJob, CombiningSums, combine
from dask_gmm.mixture.combining import nodes_of
from dask_gmm.mixture.kernels import FASTEST, MarginalKernel, get_kernel
from dask_gmm.mixture.sampling import sample_mixture
from tests.mixture.mixtures import made
from tests.mixture.test_combining import by_definition

K, D, N = 6, 2, 3000
MIXTURE = made("full", K, D, seed=11, spread=1.5)


def drawn(n: int = N, seed: int = 0) -> np.ndarray:
    X, _ = sample_mixture(MIXTURE, n, np.random.RandomState(seed))
    return X[np.random.default_rng(seed).permutation(n)]


X = drawn()


def combined(
    source: Any, max_passes: int = 10, kernel: Any = FASTEST
) -> tuple[Combined, list[Any]]:
    jobs: list[CombiningJob] = []
    with LocalBackend(n_threads=2).open(source) as passes:

        def run(job: CombiningJob) -> CombiningSums:
            jobs.append(job)
            value: CombiningSums = passes.run(job).value
            return value

        return combine(CombiningJob.first(MIXTURE, kernel, source), run, max_passes), jobs


def merged_by_force(steps: list[set[frozenset[int]]], t: np.ndarray, w: np.ndarray) -> list[float]:
    """Rows labelled as one of the two clusters of each step."""
    clusters, found = [frozenset([k]) for k in range(K)], []
    for pair in steps:
        shares = np.stack([t[:, sorted(c)].sum(axis=1) for c in clusters], axis=1)
        labels = shares.argmax(axis=1)
        mine = np.isin(labels, [i for i, c in enumerate(clusters) if c in pair])
        found.append(float(w[mine].sum()))
        clusters = [c for c in clusters if c not in pair] + [frozenset.union(*pair)]
    return found


def check(found: Combined, t: np.ndarray, w: np.ndarray) -> None:
    steps, entropies = by_definition(t, w)
    held = nodes_of(found.merges, K)
    mine = [{frozenset(np.flatnonzero(held[n]).tolist()) for n in pair} for pair in found.merges]
    assert mine == steps
    np.testing.assert_allclose(found.entropies[::-1], entropies, rtol=1e-9, atol=1e-8 * w.sum())
    np.testing.assert_allclose(found.merged, merged_by_force(steps, t, w), rtol=1e-12)
    assert found.n_greedy == K - 1
    assert found.n_rows == len(t)
    assert found.weight == pytest.approx(w.sum())


@pytest.mark.parametrize("case", ["plain", "weights", "gaps", "float32"])
def test_two_reads_are_the_definition(case: str) -> None:
    rows, weights, kernel = X, None, get_kernel("auto")
    if case == "weights":
        weights = np.random.default_rng(1).exponential(size=N)
    if case == "gaps":
        rows = np.where(np.random.default_rng(2).uniform(size=X.shape) < 0.2, np.nan, X)
        rows = rows[~np.isnan(rows).all(axis=1)]
        kernel = MarginalKernel(kernel)
    if case == "float32":
        rows = X.astype(np.float32)
    source = open_source(rows, sample_weight=weights)
    if case == "gaps":
        from dask_gmm.data.taking_part import with_missing

        source = with_missing(source, "marginalize")
    found, jobs = combined(source, kernel=kernel)
    assert found.n_passes == len(jobs) == 2
    t = kernel.predictor(MIXTURE).posteriors(rows)
    check(found, t, np.ones(len(rows)) if weights is None else weights)


def test_a_wrong_guess_costs_another_read_and_changes_nothing(monkeypatch: Any) -> None:
    """A sample that says something else of rows of several components than they do."""
    honest, jobs = combined(open_source(X))
    assert len(jobs) == 2

    def turned(job: CombiningJob, seen: CombiningSums) -> tuple[np.ndarray, np.ndarray]:
        return np.random.default_rng(5).dirichlet(np.full(K, 0.2), size=400), np.full(400, 60.0)

    monkeypatch.setattr(module, "_sampled", turned)
    found, jobs = combined(open_source(X))
    assert len(jobs) > 2
    check(found, FASTEST.predictor(MIXTURE).posteriors(X), np.ones(N))
    assert np.array_equal(found.merges, honest.merges)

    short, jobs = combined(open_source(X), max_passes=2)
    assert len(jobs) == short.n_passes == 2
    assert 0 < short.n_greedy < K - 1
    first = short.n_greedy
    assert np.array_equal(short.merges[:first], honest.merges[:first])
    assert not np.array_equal(short.merges[first], honest.merges[first])
    # Its curve is that of all rows, along the way that was guessed.
    t, held = FASTEST.predictor(MIXTURE).posteriors(X), nodes_of(short.merges, K)
    alive = set(range(K))
    for m, (a, b) in enumerate(short.merges.tolist()):
        shares = t @ held[sorted(alive)].T.astype(float)
        entropy = -(shares * np.log(np.maximum(shares, 1e-300))).sum()
        assert short.entropies[K - 1 - m] == pytest.approx(entropy, rel=1e-9)
        alive = alive - {a, b} | {K + m}


@given(edges=st.lists(st.integers(1, 299), max_size=6, unique=True), weighted=st.booleans())
@settings(max_examples=5, deadline=None)
def test_values_add_up_and_keep_the_same_rows(edges: list[int], weighted: bool) -> None:
    rows = X[:300]
    weights = np.arange(300) % 3 + 0.5 if weighted else None
    source = open_source(rows, sample_weight=weights)
    job = CombiningJob.first(MIXTURE, FASTEST, source)
    whole = job.open()(source.read(source.block(0)), source.block(0))
    cuts = [0, *sorted(edges), 300]
    values = []
    for begin, end in pairwise(cuts):
        own = None if weights is None else weights[begin:end]
        part = open_source(rows[begin:end], sample_weight=own)
        values.append(job.open()(part.read(part.block(0)), part.block(0)))
    total = fold_in_order(values, len(values))
    np.testing.assert_allclose(total.gains, whole.gains, rtol=1e-10, atol=1e-12)
    assert total.rows == 300
    assert total.weight == pytest.approx(whole.weight)
    assert total.several == pytest.approx(whole.several)
    assert whole.sample is not None
    assert total.sample is not None
    assert len(whole.sample) == len(total.sample) > 0


def test_the_job_travels_and_knows_its_bytes() -> None:
    source = open_source(X)
    job = CombiningJob.first(MIXTURE, FASTEST, source)
    again = pickle.loads(pickle.dumps(job))
    a, b = (j.open()(source.read(source.block(0)), source.block(0)) for j in (job, again))
    assert np.array_equal(a.gains, b.gains)
    assert a.sample is not None
    held = a.gains.nbytes + a.sample.values.nbytes
    assert held <= job.value_bytes < 2**23
    assert job.workspace_bytes < 2**26


def test_two_components_and_one_take_a_read() -> None:
    for k in (1, 2):
        mixture = made("full", k, D, seed=4)
        source = open_source(X)
        with LocalBackend(n_threads=1).open(source) as passes:
            job = CombiningJob.first(mixture, FASTEST, source)
            assert job.most == 0
            found = combine(job, lambda job: passes.run(job).value, 4)
        assert found.n_passes == 1
        assert found.merged.tolist() == [float(N)] * (k - 1)
        assert found.n_greedy == k - 1


def test_a_row_that_is_not_finite_is_named() -> None:
    rows = X.copy()
    rows[2500, 1] = np.inf
    source = open_source(rows)
    with (
        LocalBackend(n_threads=1).open(source) as passes,
        pytest.raises(NonFiniteError, match="2500"),
    ):
        passes.run(CombiningJob.first(MIXTURE, FASTEST, source))


def test_only_some_rows_may_be_in_the_sample_of_many() -> None:
    class Large:
        selects, n_rows = False, 10**9

    class Unknown:
        selects, n_rows = False, None

    large: Any = CombiningJob.first(MIXTURE, FASTEST, Large())  # type: ignore[arg-type]
    assert large.below is not None
    assert 0 < large.below < 2**64 * 1e-4
    assert CombiningJob.first(MIXTURE, FASTEST, Unknown()).below is None  # type: ignore[arg-type]
