"""An inspection is what NumPy says of all rows at once, in any grouping, for one read of them."""

from __future__ import annotations

import pickle
from dataclasses import astuple, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import logsumexp

from dask_gmm import GaussianMixture, StudentTMixture
from dask_gmm.data.source import open_source
from dask_gmm.errors import InputError, MemoryPlanError, NonFiniteError
from dask_gmm.estimators.attributes import set_parameters
from dask_gmm.execution import LocalBackend
from dask_gmm.execution.cluster import ClusterBackend
from dask_gmm.execution.tree import fold_in_order
from dask_gmm.fitting.events import PassAdvanced
from dask_gmm.fitting.keyed import keys_of
from dask_gmm.inspection import Inspection, InspectionJob, inspection_of
from dask_gmm.inspection import grid as grid_module
from dask_gmm.inspection import job as job_module
from dask_gmm.inspection.grid import Grid
from dask_gmm.inspection.kept import Keeping, KeptRows
from dask_gmm.mixture.kernels import KERNELS, MarginalKernel, get_kernel
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.mixture.sampling import sample_mixture
from dask_gmm.mixture.student import StudentParameters
from dask_gmm.rows import Rows
from tests.equal_shape import EQUAL_SHAPE
from tests.inspected import inspected as made
from tests.marks import quick_ones
from tests.memory import peak_of
from tests.mixture.problems import FAMILIES, draw, random_mixture

if TYPE_CHECKING:
    from pathlib import Path

    from distributed import Client
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

K, D, N = 4, 3, 3000


def fitted(parameters: MixtureParameters, dtype: Any = np.float64, **how: Any) -> GaussianMixture:
    """An estimator with these parameters."""
    k, d = parameters.means.shape
    kind = StudentTMixture if isinstance(parameters, StudentParameters) else GaussianMixture
    gm = kind(k, covariance_type=parameters.family.name, **how)
    set_parameters(gm, parameters, dtype)
    gm.n_features_in_, gm.converged_, gm.scaling_ = d, True, None
    return gm


@cache
def mixture(family: str = "full") -> MixtureParameters:
    return random_mixture(1, family, K, D, spread=1.5)


@cache
def values(family: str = "full") -> Floats:
    rows = draw(2, mixture(family), N)
    rows[::300] *= 5.0  # some that it explains badly
    np.random.default_rng(0).shuffle(rows)
    return rows


def drawn_from(p: MixtureParameters, n: int) -> Floats:
    """Rows of a mixture of variances, however many features it has."""
    rows = sample_mixture(p, n, np.random.RandomState(9))[0]
    np.random.default_rng(0).shuffle(rows)
    return rows


def by_force(
    rows: Floats, p: MixtureParameters, found: Inspection, w: Floats | None = None
) -> dict[str, Any]:
    """What an inspection should say, computed in the plainest way, of bins with these edges."""
    w = np.ones(len(rows)) if w is None else w
    dense = p.form.dense(p.covariances, *p.means.shape)
    degrees = p.degrees_of_freedom if isinstance(p, StudentParameters) else None
    known = ~np.isnan(rows)
    joint, squares = np.empty((2, len(rows), len(p.weights)))
    for own in np.unique(known, axis=0):
        (alike,) = np.nonzero((known == own).all(axis=1))
        for k, (mean, covariance) in enumerate(zip(p.means, dense, strict=True)):
            away, inner = rows[np.ix_(alike, own)] - mean[own], covariance[np.ix_(own, own)]
            density: Any = stats.multivariate_normal(None, inner)
            if degrees is not None:
                density = stats.multivariate_t(None, inner, degrees[k])
            joint[alike, k] = np.log(p.weights[k]) + density.logpdf(away)
            squares[alike, k] = (away * np.linalg.solve(inner, away.T).T).sum(axis=1)
    densities = logsumexp(joint, axis=1)
    r = np.exp(joint - densities[:, None])
    labels, complete = r.argmax(axis=1), known.all(axis=1)
    own = np.eye(len(p.weights))[labels] * w[:, None]
    d = rows.shape[1]
    chances: Any = stats.chi2.sf(squares, d)
    if degrees is not None:
        chances = stats.f.sf(squares / d, d, degrees)
    distance_bins = np.searchsorted(-found.distance_edges[1:-1], -chances, side="right")
    n_certainty = found.certainty.shape[1]
    certainty = np.minimum((r.max(axis=1) * n_certainty).astype(int), n_certainty - 1)

    def counted(bins: Any, weights: Any, count: int) -> Floats:
        return np.array([np.bincount(bins, column, count) for column in weights.T])

    return {
        "n_rows": len(rows),
        "n_incomplete": int((~complete).sum()),
        "weight": w.sum(),
        "log_likelihood": w @ densities,
        "counts": w @ r,
        "labelled": own.sum(axis=0),
        "overlap": r.T @ (r * w[:, None]),
        "certainty": counted(certainty, own, n_certainty),
        "entropy": -own.T @ (r * np.log(np.maximum(r, 1e-300))).sum(axis=1),
        "distances": np.array(
            [
                np.bincount(
                    distance_bins[complete, k],
                    (w * r[:, k])[complete],
                    len(found.distance_edges) - 1,
                )
                for k in range(len(p.weights))
            ]
        ),
        "log_density_counts": counted(
            inside(densities, found.log_density_edges), w[:, None], len(found.log_density_counts)
        )[0],
        "feature_counts": np.stack(
            [
                counted(inside(rows[known[:, j], j], edges), own[known[:, j]], len(edges) - 1)
                for j, edges in enumerate(found.feature_edges)
            ],
            axis=1,
        ),
        "sample_labels": labels,
        "lowest_log_densities": np.sort(densities)[: len(found.lowest)],
        "lowest": rows[np.argsort(densities)[: len(found.lowest)]],
    }


def inside(x: Floats, edges: Floats) -> NDArray[np.intp]:
    """Which bins values lie in, those beyond in the outermost."""
    return np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)


def agree(found: Inspection, expected: dict[str, Any], tolerance: float = 1e-9) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(
            getattr(found, name), value, err_msg=name, rtol=tolerance, atol=tolerance
        )


def same(one: Inspection, other: Inspection) -> bool:
    """Whether two have the same bits; their places may be called otherwise."""
    return all(
        np.asarray(getattr(one, f.name)).tobytes() == np.asarray(getattr(other, f.name)).tobytes()
        for f in fields(Inspection)
        if f.name != "lowest_places"
    )


# -- the sums ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_sums_are_those_of_brute_force(family: str, kernel: str) -> None:
    rows = values(family)[: 400 if kernel == "reference" else 1200]
    found = fitted(mixture(family), kernel=kernel).inspect(da.from_array(rows, chunks=(170, D)))
    expected = by_force(rows, mixture(family), found)
    agree(found, expected, 1e-7)
    assert found.sample_weights is None
    np.testing.assert_array_equal(found.sample, rows)  # all of them: they are few
    assert found.score == pytest.approx(fitted(mixture(family)).score(rows), rel=1e-12)


def test_of_a_family_that_somebody_has_registered() -> None:
    p = mixture("diag")
    variances = p.covariances[:1] * np.arange(1.0, K + 1.0)[:, None]  # of one shape
    own = MixtureParameters.create(EQUAL_SHAPE, p.weights, p.means, variances)
    rows = draw(2, own, 500)
    found = fitted(own).inspect(rows)
    agree(found, by_force(rows, own, found))


def test_weights_and_masks_leave_rows_out() -> None:
    rows, rng = values(), np.random.default_rng(3)
    w = rng.integers(0, 4, N).astype(np.float64) / 2.0
    where = rng.random(N) < 0.7
    gm = fitted(mixture())
    chunks = (400, D)
    found = gm.inspect(
        da.from_array(rows, chunks=chunks),
        sample_weight=da.from_array(w, chunks=400),
        where=da.from_array(where, chunks=400),
    )
    part = where & (w > 0)
    agree(found, by_force(rows[part], mixture(), found, w[part]))
    assert found.sample_weights is not None
    np.testing.assert_array_equal(found.sample_weights, w[part])
    np.testing.assert_array_equal(found.sample, rows[part])
    masked = gm.inspect(rows, where=where)
    assert masked.sample_weights is None
    assert masked.weight == masked.n_rows == where.sum()


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_that_miss_values_count_by_what_they_have(weighted: bool) -> None:
    rows, rng = values()[:900].copy(), np.random.default_rng(5)
    rows[rng.random(rows.shape) < 0.15] = np.nan
    rows[7] = np.nan  # without any value: it takes no part
    w = rng.random(len(rows)) + 0.5 if weighted else None
    gm = fitted(mixture(), missing="marginalize")
    found = gm.inspect(rows, sample_weight=w)
    part = ~np.isnan(rows).all(axis=1)
    expected = by_force(rows[part], mixture(), found, None if w is None else w[part])
    agree(found, expected)
    assert found.n_incomplete == np.isnan(rows[part]).any(axis=1).sum()
    dropped = fitted(mixture(), missing="drop").inspect(rows)
    whole = rows[~np.isnan(rows).any(axis=1)]
    agree(dropped, by_force(whole, mixture(), dropped))
    assert dropped.n_incomplete == 0


def test_float32_rows_and_integers() -> None:
    rows = values().astype(np.float32)
    gm = fitted(mixture(), np.float32)
    found = gm.inspect(rows)
    expected = by_force(rows.astype(np.float64), mixture(), found)
    for name in ("counts", "overlap", "entropy", "log_likelihood"):
        np.testing.assert_allclose(getattr(found, name), expected[name], rtol=2e-3, atol=0.2)
    whole = np.rint(values() * 10).astype(np.int16)
    p = mixture()
    wide = MixtureParameters.create("full", p.weights, 10 * p.means, 100 * p.covariances)
    found = fitted(wide).inspect(whole)
    agree(found, by_force(whole.astype(np.float64), wide, found), 1e-7)


def test_scaled_rows_are_those_that_the_mixture_is_of() -> None:
    rows = values() * [1.0, 100.0, 0.01] + 5.0
    gm = GaussianMixture(2, standardize=True, random_state=0, max_iter=3, tol=0.1).fit(rows)
    found = gm.inspect(rows)
    assert gm.scaling_ is not None
    inner = gm.scaling_.transform(rows)
    agree(found, by_force(inner, gm._parameters(), found), 1e-7)
    np.testing.assert_array_equal(found.sample, inner)


@pytest.mark.parametrize("case", ["plain", "weighted", "gaps", "scaled"])
def test_those_that_other_tests_make_are_true(case: str) -> None:
    """Whoever draws or describes inspections has them from `tests.inspected`."""
    rows, rng = values()[:900].copy(), np.random.default_rng(5)
    w = rng.integers(0, 3, len(rows)).astype(np.float64) if case == "weighted" else None
    if case == "gaps":
        rows[rng.random(rows.shape) < 0.2] = np.nan
    gm = fitted(mixture(), missing="marginalize")
    if case == "scaled":
        gm = GaussianMixture(2, standardize=True, random_state=0).fit(rows)
    found = gm.inspect(da.from_array(rows, chunks=(250, D)), sample_weight=w)
    expected = made(rows, gm, sample_weight=w, n_lowest=len(found.lowest))
    names = ["n_rows", "n_incomplete", "weight", "log_likelihood", "counts", "labelled", "overlap"]
    names += ["certainty", "entropy", "lowest", "lowest_log_densities"]
    agree(found, {name: getattr(expected, name) for name in names}, 1e-7)
    for name in ("distances", "log_density_counts", "feature_counts"):  # in bins of their own
        one, other = (getattr(which, name).sum(axis=-1) for which in (found, expected))
        np.testing.assert_allclose(one, other, err_msg=name, rtol=1e-7)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(FAMILIES), st.integers(1, 5), st.integers(1, 4))
def test_what_adds_up(seed: int, family: str, k: int, d: int) -> None:
    p = random_mixture(seed, family, k, d)
    rows = draw(seed + 1, p, 200)
    found = fitted(p).inspect(rows)
    np.testing.assert_allclose(found.overlap.sum(axis=1), found.counts, rtol=1e-12)
    np.testing.assert_array_equal(found.overlap, found.overlap.T)
    np.testing.assert_allclose(found.distances.sum(axis=1), found.counts, rtol=1e-12)
    np.testing.assert_array_equal(found.certainty.sum(axis=1), found.labelled)
    np.testing.assert_array_equal(found.feature_counts.sum(axis=2).T, [found.labelled] * d)
    assert found.counts.sum() == pytest.approx(200.0)
    assert found.log_density_counts.sum() == found.labelled.sum() == found.weight == 200.0
    assert (np.diff(found.distance_edges) < 0.0).all()
    assert (found.distance_edges[[0, -1]] == [1.0, 0.0]).all()
    tails = found.distance_edges[(found.distance_edges < 0.06) & (found.distance_edges > 1e-10)]
    assert (tails[:-1] / tails[1:] < 2.51).all(), "or curves of tails would have corners"
    assert {1e-2, 1e-4} <= set(tails), "which reports speak of"
    assert (np.diff(found.feature_edges) > 0.0).all()
    assert (np.diff(found.log_density_edges) > 0.0).all()
    assert (found.entropy >= -1e-9).all()
    assert (found.entropy <= found.labelled * np.log(k) + 1e-9).all()


@pytest.mark.parametrize("d", [1, 2, 9, 300])
def test_distances_of_the_model_are_uniform(d: int) -> None:
    """Rows of the mixture itself: χ² tells nothing of bins that are equal, 0.1 % by chance."""
    p = random_mixture(4, "diag", 2, d)
    found = fitted(p).inspect(drawn_from(p, 20_000 if d < 300 else 2000))
    equal = found.distances[:, :19].sum(axis=0) / found.weight  # twentieths
    n = found.weight
    pearson = n * ((equal - 0.05) ** 2 / 0.05).sum() + n * (0.05 - (1 - equal.sum())) ** 2 / 0.05
    assert pearson < stats.chi2.isf(1e-3, 19)
    inner = found.log_density_counts[1:-1].sum()
    assert inner > 0.999 * n  # bins lie where rows are


@pytest.mark.slow
def test_bins_of_squares_are_exact() -> None:
    for d in (1, 2, 7, 60, 3000):
        grid = Grid.of(random_mixture(0, "spherical", 2, d), get_kernel("reference"))
        inner = grid.squares[0, 1:-1]
        near = np.concatenate([inner, np.nextafter(inner, 0), np.nextafter(inner, np.inf)])
        rng = np.random.default_rng(d)
        x = np.concatenate([near, rng.chisquare(d, 5000), [-1e-9, 0.0, 1e12, np.inf]])
        expected = np.searchsorted(inner, x, side="right")
        nobody = np.zeros(len(x), dtype=np.intp)  # the same edges for all
        np.testing.assert_array_equal(grid.distance_bins(x, nobody), expected)


@pytest.mark.parametrize("family", quick_ones(FAMILIES, ("full", "tied")))
def test_t_distributions_are_held_against_their_own_tails(family: str) -> None:
    degrees = [0.6, 3.0, 40.0, 1e5]
    p = StudentParameters.of(mixture(family), degrees)
    rows = drawn_from(p, 1500)
    w = np.random.default_rng(1).uniform(0.5, 3.0, len(rows))
    found = fitted(p).inspect(da.from_array(rows, chunks=(170, D)), sample_weight=w)
    agree(found, by_force(rows, p, found, w), 1e-7)
    drawn = fitted(p).inspect(drawn_from(p, 40_000))
    # As many in each twentieth, of each component: rows of its own lie as it says.
    for k in range(K):
        n = drawn.distances[k].sum()
        parts = np.append(drawn.distances[k, :19], drawn.distances[k, 19:].sum())
        assert ((parts - n / 20) ** 2 / (n / 20)).sum() < stats.chi2.isf(1e-4, 19), k


def test_components_that_nobody_belongs_to() -> None:
    p = MixtureParameters.create(
        "spherical", [1.0, 0.0, 0.0], [[0.0, 0.0], [1.0, 1.0], [1e3, 1e3]], [1.0, 1.0, 1.0]
    )
    rows = np.random.default_rng(0).normal(size=(500, 2))
    found = fitted(p).inspect(rows)
    assert found.counts.tolist() == found.labelled.tolist() == [500.0, 0.0, 0.0]
    assert found.distances[1:].sum() == 0.0
    for field in fields(Inspection):
        if field.type == "Floats":
            assert np.isfinite(getattr(found, field.name)).all(), field.name


# -- which rows are kept -------------------------------------------------------------------------


def test_a_sample_is_drawn_uniformly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid_module, "_SAMPLE_ROWS", 300)
    rows = np.arange(20_000.0)[:, None]
    p = MixtureParameters.create("diag", [1.0], [[10_000.0]], [[6000.0**2]])
    found = fitted(p).inspect(da.from_array(rows, chunks=(1700, 1)))
    assert found.sample.shape == (300, 1)
    drawn = found.sample[:, 0]
    assert (np.diff(drawn) > 0).all()  # in the order of their places
    assert stats.kstest(drawn / 20_000.0, "uniform").pvalue > 1e-3
    # Where nobody knows how many rows there are, each block has its own: the same come out.
    unknown = da.from_array(rows, chunks=(1700, 1))
    unknown = unknown[unknown[:, 0] >= 0.0]
    again = fitted(p).inspect(unknown)
    np.testing.assert_array_equal(again.sample, found.sample)


def test_a_block_gives_the_sample_no_more_than_its_part() -> None:
    source = open_source(da.from_array(np.zeros((10**6, D)), chunks=(10**4, D)))
    job = InspectionJob.of(mixture(), get_kernel("auto"), source)
    sums = job.open()(Rows(draw(3, mixture(), 10**4)), source.block(3))
    assert 150 < len(sums.sample) < 300
    assert len(sums.lowest) == 64


def test_the_lowest_rows_are_named_as_errors_name_them(tmp_path: Path) -> None:
    rows = values().reshape(30, 100, D)
    array = zarr.create_array(tmp_path / "x.zarr", shape=rows.shape, chunks=(7, 50, D), dtype="f8")
    array[:] = rows
    found = fitted(mixture()).inspect(tmp_path / "x.zarr")
    flat = get_kernel("auto").log_densities(values(), mixture())
    order = np.argsort(flat)[:64]
    np.testing.assert_array_equal(found.lowest, values()[order])
    i, j = divmod(int(order[0]), 100)
    assert f"[{i}, {j}, :]" in found.lowest_places[0]
    assert str(tmp_path) in found.lowest_places[0]
    many = fitted(mixture()).inspect([rows[:10].reshape(-1, D), rows[10:].reshape(-1, D)])
    np.testing.assert_array_equal(many.lowest, found.lowest)
    assert "array 1" in " ".join(many.lowest_places)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_kept_rows_depend_on_no_grouping(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    most = data.draw(st.integers(1, 8))
    sizes = data.draw(st.lists(st.integers(0, 15), min_size=1, max_size=6))
    keys = [rng.integers(0, 6, n).astype(np.float64) for n in sizes]  # many are equal
    parts = []
    for block, own in enumerate(keys):
        keeping, step = Keeping(most, np.float64), data.draw(st.integers(1, 7))
        for start in range(0, len(own), step):
            part = own[start : start + step]
            keeping.add(start, part, np.zeros(len(part), np.intp))
        parts.append(keeping.kept(Rows(own[:, None].copy()), block))
    whole = fold_in_order(parts, len(parts))
    backwards = fold_in_order(parts[::-1], len(parts))
    everything = sorted((k, b, i) for b, own in enumerate(keys) for i, k in enumerate(own))[:most]
    for found in (whole, backwards):
        assert isinstance(found, KeptRows)
        assert [(k, *p) for k, p in zip(found.keys, found.places.tolist(), strict=True)] == (
            everything
        )
        np.testing.assert_array_equal(found.values[:, 0], found.keys)


# -- one read, anywhere --------------------------------------------------------------------------


def inspected(backend: Any, source: Any, kernel: Any = None) -> tuple[Inspection, Any]:
    job = InspectionJob.of(mixture(), kernel or get_kernel("auto"), source)
    with backend.open(source) as passes:
        result = passes.run(job)
    return inspection_of(result.value, job, source), result


def test_the_bits_are_the_same_anywhere(two_processes: Client, tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "x.zarr", shape=(N, D), chunks=(130, D), dtype="f8")
    array[:] = values()
    source = open_source(tmp_path / "x.zarr")
    one, result = inspected(LocalBackend(1), source)
    assert (result.rows, result.blocks) == (N, source.n_blocks)
    for backend in (LocalBackend(2), ClusterBackend(two_processes)):
        found, again = inspected(backend, source)
        assert same(found, one), backend
        assert found.lowest_places == one.lowest_places
        assert again.bytes_read == result.bytes_read == N * D * 8
    assert same(fitted(mixture()).inspect(tmp_path / "x.zarr"), one)


def test_it_is_one_read() -> None:
    reads: list[int] = []

    def read(block: Floats, block_id: Any = None) -> Floats:
        reads.append(block_id[0])
        return block

    lazy = da.from_array(values(), chunks=(500, D)).map_blocks(
        read, dtype="f8", meta=np.empty((0, D))
    )
    events: list[Any] = []
    gm = fitted(mixture(), callbacks=[events.append])
    gm.inspect(lazy)
    assert sorted(reads) == list(range(6))
    last = [event for event in events if isinstance(event, PassAdvanced)][-1]
    assert last.progress.blocks_done == 6


def test_a_job_travels() -> None:
    source = open_source(values())
    job = InspectionJob.of(mixture(), get_kernel("auto"), source)
    other = pickle.loads(pickle.dumps(job))
    rows, block = Rows(values()), source.block(0)
    one, two = (inspection_of(j.open()(rows, block), j, source) for j in (job, other))
    assert same(one, two)


def test_tiles_change_little_and_hold_what_is_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fitted(mixture()).inspect(values())
    monkeypatch.setattr(job_module, "_TILE_ENTRIES", 2**10)
    tiled = fitted(mixture()).inspect(values())
    for one, other in zip(astuple(whole)[:-1], astuple(tiled)[:-1], strict=True):
        if one is not None:
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("k", "d", "n", "gaps"),
    [(3, 2, 60_000, False), (40, 30, 20_000, False), (2, 400, 4000, False), (5, 6, 20_000, True)],
)
def test_memory_stays_within_what_is_planned(k: int, d: int, n: int, gaps: bool) -> None:
    p = random_mixture(0, "diag", k, d, spread=0.2)  # all components share all rows
    values = drawn_from(p, n)
    if gaps:
        values[np.random.default_rng(0).random(values.shape) < 0.2] = np.nan
    kernel = MarginalKernel(get_kernel("blas")) if gaps else get_kernel("blas")
    source = open_source(values)
    job = replace(InspectionJob.of(p, kernel, source), below=None)
    rows, block = Rows(values, np.ones(n)), source.block(0)
    opened = job.open()
    opened(rows, block)  # what is opened once
    bound = job.workspace_bytes + job.value_bytes
    assert peak_of(lambda: opened(rows, block), enough=bound) <= bound
    sums = opened(rows, block)
    arrays = [v for v in vars(sums).values() if isinstance(v, np.ndarray)]
    kept = [v for part in (sums.sample, sums.lowest) for v in vars(part).values()]
    held = sum(v.nbytes for v in [*arrays, *kept] if isinstance(v, np.ndarray))
    assert held <= job.value_bytes


def test_what_does_not_fit_is_refused_before_anything_is_read(two_processes: Client) -> None:
    gm = fitted(random_mixture(0, "diag", 2, 400))
    with pytest.raises(MemoryPlanError, match="does not fit"):
        gm.inspect(da.zeros((10**8, 400), chunks=(10**7, 400)))


# -- mistakes ------------------------------------------------------------------------------------


def test_mistakes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    gm = fitted(mixture())
    monkeypatch.setattr(job_module, "_TILE_ENTRIES", 2**10)
    rows = values().copy()
    rows[2345, 1] = np.nan
    with pytest.raises(NonFiniteError, match="row 2345 of NumPy array"):
        gm.inspect(rows)
    with pytest.raises(ValueError, match="expecting 3 features"):
        gm.inspect(values()[:, :2])
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        gm.inspect(np.empty((0, D)))
    with pytest.raises(InputError, match=r"where"):
        gm.inspect(values(), where=np.zeros(N, dtype=bool))
    with pytest.raises(Exception, match="not fitted"):
        GaussianMixture(2).inspect(values())


# -- gaps and masks -------------------------------------------------------------------------------


def test_rows_that_miss_values_have_no_distance_where_components_lie_apart() -> None:
    rng = np.random.default_rng(3)
    centres = 40.0 * np.arange(6)[:, None] * np.ones(2)
    X = (centres[:, None, :] + rng.normal(size=(6, 50, 2))).reshape(-1, 2)
    gm = GaussianMixture(6, means_init=centres, missing="marginalize", search="off").fit(X)
    X[::5, 1] = np.nan
    found = gm.inspect(X)
    assert found.n_incomplete == 60
    assert found.distances.sum() == pytest.approx(240.0)
    np.testing.assert_allclose(found.distances.sum(axis=1), 40.0)


def test_masked_rows_keep_their_places_and_their_keys() -> None:
    X = np.random.default_rng(4).normal(size=(400, 2))
    gm = GaussianMixture(1).fit(X)
    where = np.arange(400) >= 150
    X[:150] *= 100.0  # the rows that a wrong place would name
    found = gm.inspect(X, where=where)
    lowest = 150 + int(np.argmin(gm.score_samples(X[150:])))
    assert found.lowest_places[0].startswith(f"row {lowest} of block 0")
    job = InspectionJob.of(gm._parameters(), gm._kernel(), open_source(X, where=where))
    opened, source = job.open(), open_source(X, where=where)
    block = source.block(0)
    kept = opened(source.read(block), block).sample
    keys = keys_of(0, np.arange(400))
    np.testing.assert_array_equal(kept.keys, np.sort(keys[150:]))
    np.testing.assert_array_equal(keys[kept.places[:, 1]], kept.keys)
    np.testing.assert_array_equal(kept.values, X[kept.places[:, 1]])
