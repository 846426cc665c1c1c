"""The compiled kernel's own promises: accuracy on hard data, precision, vector widths."""

from __future__ import annotations

import logging
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, product
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dask_gmm.errors import InputError, NonFiniteError
from dask_gmm.mixture.kernels import Candidate, features, get_kernel
from dask_gmm.mixture.kernels.compiled import (
    CompiledKernel,
    compiler,
    kernel,
    moments,
    packing,
    store,
)
from dask_gmm.mixture.kernels.compiled.compiler import this_cpu
from dask_gmm.mixture.kernels.compiled.design import Design, tile_rows
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.rows import Rows
from tests.marks import quick_ones
from tests.memory import peak_of
from tests.mixture.problems import (
    FAMILIES,
    HardCase,
    draw,
    hard_cases,
    likelihood,
    maximize,
    random_mixture,
    whitening,
)

if TYPE_CHECKING:
    from dask_gmm.mixture.statistics import SufficientStatistics

KERNEL, ORACLE = CompiledKernel(), get_kernel("reference")

# Each width is other machine code to compile, with the loops and remainders of all. Hard cases
# meet every width in the fast suite, the shapes beyond them only the widest.
WIDEST, *NARROWER = this_cpu().widths
WIDTHS = [WIDEST, *(pytest.param(width, marks=pytest.mark.slow) for width in NARROWER)]
EPS = float(np.finfo(np.float64).eps)
EPS_SINGLE = float(np.finfo(np.float32).eps)


def covariance_error(
    p: MixtureParameters, found: SufficientStatistics, true: SufficientStatistics
) -> float:
    """Largest error of a covariance, in the metric of its component."""
    u = whitening(p)
    difference = (found.second - true.second) / true.counts[:, None, None]
    white = u @ difference @ u.transpose(0, 2, 1)
    return float(np.linalg.norm(white, 2, axis=(1, 2)).max())


@pytest.mark.parametrize("case", hard_cases(), ids=lambda case: case.name)
@pytest.mark.parametrize("width", this_cpu().widths)
def test_hard_cases_within_the_predicted_error(case: HardCase, width: int) -> None:
    compiled, p = CompiledKernel(width), case.parameters
    rows = draw(3, p, 2000)
    in_density = np.abs(compiled.log_densities(rows, p) - ORACLE.log_densities(rows, p)).max()
    (found,), (true,) = (c.statistics(Rows(rows), [Candidate(p)]) for c in (compiled, ORACLE))
    predicted = packing.rounding(p, features.common_centre(p), EPS)
    assert predicted >= EPS * min(case.condition, 1e8) / 10.0
    assert in_density <= 50.0 * predicted  # squares of distances of some σ
    assert covariance_error(p, found, true) <= 10.0 * predicted
    np.testing.assert_allclose(found.counts, true.counts, rtol=max(1e-12, 50.0 * predicted))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("d", [2, 8, 19])
def test_easy_data_to_the_last_digits(family: str, d: int) -> None:
    p = random_mixture(3, family, 6, d, offset=5.0)
    rows = draw(4, p, 3000)
    (found,), (true,) = (c.statistics(Rows(rows), [Candidate(p)]) for c in (KERNEL, ORACLE))
    assert found.log_likelihood == pytest.approx(true.log_likelihood, rel=1e-12)
    ours, exact = (maximize(s, 1e-6) for s in (found, true))
    scale = np.abs(exact.covariances).max()
    assert np.abs(ours.covariances - exact.covariances).max() <= 1e-11 * scale
    assert np.abs(ours.means - exact.means).max() <= 1e-11 * np.sqrt(scale)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("width", [0.0, 1e-4])
def test_a_component_that_collapses_in_one_step(family: str, dtype: str, width: float) -> None:
    """The covariances known before the step are wide: only the rows can tell what will be lost."""
    rng = np.random.default_rng(5)
    flat = 37.3 + width * rng.normal(size=(3000, 3))
    wide = width if family == "tied" else 20.0
    rows = np.concatenate([flat, wide * rng.normal(size=(1500, 3)) - 60.0]).astype(dtype)
    start = random_mixture(6, family, 2, 3)
    p = MixtureParameters.create(
        family, [0.5, 0.5], [[37.0] * 3, [-60.0] * 3], 400.0 * start.covariances
    )
    (found,), (true,) = (c.statistics(Rows(rows), [Candidate(p)]) for c in (KERNEL, ORACLE))
    ours, exact = (maximize(s, 1e-6) for s in (found, true))
    u = whitening(exact)
    white = u @ ours.family.form.dense(ours.covariances, 2, 3) @ u.transpose(0, 2, 1)
    # What is left is the rounding of the shift from c_k to the new mean (`centring_error`).
    lost = likelihood(family, 1e-6).centring_error(true)
    assert np.abs(white - np.eye(3)).max() < 1e-8 + 100.0 * lost
    np.testing.assert_allclose(found.second, true.second, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("d", [3, 16, 20])
def test_float32_rows_in_float32(family: str, d: int) -> None:
    p = random_mixture(7, family, 5, d)
    rows = draw(8, p, 4000).astype(np.float32)
    (found,), (true,) = (c.statistics(Rows(rows), [Candidate(p)]) for c in (KERNEL, ORACLE))
    assert (
        found.log_likelihood
        != CompiledKernel(single=False).statistics(Rows(rows), [Candidate(p)])[0].log_likelihood
    ), "it was not computed in float32"
    assert found.log_likelihood == pytest.approx(true.log_likelihood, rel=1e-6)
    ours, exact = (maximize(s, 1e-6) for s in (found, true))
    scale = np.abs(exact.covariances).max()
    assert np.abs(ours.covariances - exact.covariances).max() <= 1e-4 * scale
    np.testing.assert_allclose(
        KERNEL.log_densities(rows, p), ORACLE.log_densities(rows, p), atol=1e-4, rtol=1e-5
    )


@pytest.mark.parametrize("case", hard_cases(), ids=lambda case: case.name)
def test_float32_rows_in_float64_where_the_predictor_says_so(
    case: HardCase, caplog: pytest.LogCaptureFixture
) -> None:
    p = case.parameters
    rows = draw(3, p, 500).astype(np.float32)
    centre = features.common_centre(p).astype(np.float32).astype(np.float64)
    lossy = packing.rounding(p, centre, EPS_SINGLE) > moments.LARGEST_SINGLE_ERROR
    assert lossy == (case.name not in ("offset 1e4", "offset 1e8"))
    kernel._say_once.cache_clear()
    caplog.set_level(logging.INFO, logger=kernel.__name__)
    for _ in range(2):
        (found,) = KERNEL.statistics(Rows(rows), [Candidate(p)])
    assert len(caplog.messages) == int(lossy)
    (exact,) = CompiledKernel(single=False).statistics(Rows(rows), [Candidate(p)])
    flat = case.name == "offset 1e8"  # float32 rows lie 8 σ apart there: components collapse
    assert (found == exact) == (lossy or flat)


def test_float32_rows_beyond_float32_are_computed_in_float64() -> None:
    p = random_mixture(9, "full", 3, 4)
    rows = draw(10, p, 2000).astype(np.float32)
    rows[1234] = 1e25
    (found,), (true,) = (c.statistics(Rows(rows), [Candidate(p)]) for c in (KERNEL, ORACLE))
    assert found.log_likelihood == pytest.approx(true.log_likelihood, rel=1e-12)
    np.testing.assert_array_equal(KERNEL.labels(rows, p), ORACLE.labels(rows, p))


SHAPES, AT_ONCE = (1, 4, 6, 7, 8, 9, 16, 17, 31, 48, 65), (1, 6, 7, 9, 17)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("d", "width"),
    # Each for the widest vectors, and for one narrower width in turn.
    [
        *(pytest.param(d, WIDEST, marks=() if d in AT_ONCE else pytest.mark.slow) for d in SHAPES),
        *(pytest.param(*c, marks=pytest.mark.slow) for c in zip(SHAPES, cycle(NARROWER))),
    ],
)
def test_every_shape_of_panels_and_blocks(family: str, d: int, width: int) -> None:
    p = random_mixture(13, family, 6, d, spread=0.5)
    rows = draw(14, p, 450)
    (true,) = ORACLE.statistics(Rows(rows), [Candidate(p)])
    compiled = CompiledKernel(width)
    for dtype in ("float64", "float32"):
        # With weights: a tied mixture that overlaps would go through BLAS else.
        weights = np.ones(450)
        (found,) = compiled.statistics(Rows(rows.astype(dtype), weights), [Candidate(p)])
        rtol = 1e-12 if dtype == "float64" else 2e-5
        assert found.log_likelihood == pytest.approx(true.log_likelihood, rel=rtol)
        for name in ("counts", "first", "second"):
            a, b = getattr(found, name), getattr(true, name)
            np.testing.assert_allclose(a, b, atol=rtol * (np.abs(b).max() + 1.0), err_msg=name)


@pytest.mark.parametrize(("k", "d"), [(1, 1), (1024, 2), (64, 128), (3, 1000)])
def test_tiles_fit_every_step(k: int, d: int) -> None:
    for family, width, single in product(FAMILIES, (512, 256, 128), (False, True)):
        design = CompiledKernel(width).design(family, d, k, single, single)
        assert design.tile == tile_rows(d, k)
        assert design.tile % design.step == 0
        assert design.tile % design.lanes.count == 0
        assert design.pitch >= design.tile
        assert design.pitch * design.lanes.itemsize % 128 == 64, "an odd number of cache lines"


def compile_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget all programs for the length of a test."""
    monkeypatch.setattr(compiler, "_programs", {})
    monkeypatch.setattr(store, "recall", lambda key, make: make())


def test_many_components() -> None:
    p = random_mixture(15, "diag", 1024, 3, spread=30.0)
    rows = draw(16, p, 1000)
    (found,), (true,) = (c.statistics(Rows(rows), [Candidate(p)]) for c in (KERNEL, ORACLE))
    assert found.log_likelihood == pytest.approx(true.log_likelihood, rel=1e-12)
    np.testing.assert_allclose(found.counts, true.counts, atol=1e-11)
    np.testing.assert_array_equal(KERNEL.labels(rows, p), ORACLE.labels(rows, p))


def test_without_llvmlite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask_gmm.mixture.kernels.installed.find_spec", lambda name: None)
    assert get_kernel().name == "blas"
    with pytest.raises(InputError, match="llvmlite"):
        get_kernel("compiled")


def test_importing_the_package_does_not_load_llvm() -> None:
    import subprocess

    code = "import dask_gmm.mixture.kernels, sys; sys.exit('llvmlite' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("dtype", "d"),
    quick_ones(product(["float64", "float32"], [16, 21, 70]), [("float64", 16), ("float32", 70)]),
)
@pytest.mark.parametrize(
    "spread", [*(pytest.param(s, marks=pytest.mark.slow) for s in (0.1, 2.0)), 6.0]
)
def test_ruling_out_components_changes_no_bit(
    d: int, dtype: str, spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = random_mixture(17, "full", 7, d, spread=spread)
    rows = draw(18, p, 3000).astype(dtype)
    rows[::50] *= 3.0  # some that are far from every component
    asked = CompiledKernel()
    found = asked.statistics(Rows(rows), [Candidate(p)]), asked.log_densities(rows, p)
    labels, posteriors = asked.labels(rows, p), asked.posteriors(rows, p)
    assert asked.design("full", d, 7, False, False).eliminates
    monkeypatch.setattr(Design, "eliminates", False)
    compile_anew(monkeypatch)
    assert asked.statistics(Rows(rows), [Candidate(p)]) == found[0]
    np.testing.assert_array_equal(asked.log_densities(rows, p), found[1])
    np.testing.assert_array_equal(asked.labels(rows, p), labels)
    np.testing.assert_allclose(asked.posteriors(rows, p), posteriors, rtol=0, atol=1e-15)


@pytest.mark.parametrize("feature", [0, 15, 31])
def test_a_row_that_is_no_number_is_found_behind_the_panels_that_rule_out(feature: int) -> None:
    p = random_mixture(19, "full", 5, 32, spread=6.0)
    rows = draw(20, p, 3000)
    rows[1777, feature] = np.nan
    with pytest.raises(NonFiniteError) as caught:
        KERNEL.statistics(Rows(rows), [Candidate(p)])
    assert (caught.value.row, caught.value.feature) == (1777, feature)


def test_overlapping_tied_mixtures_go_through_blas() -> None:
    far = random_mixture(21, "tied", 6, 4, spread=100.0)
    near = random_mixture(21, "tied", 6, 4, spread=0.1)
    assert packing.neighbours(far) == pytest.approx(1.0)
    assert packing.neighbours(near) == pytest.approx(6.0)
    rows = draw(22, near, 700)
    expected = get_kernel("blas").statistics(Rows(rows), [Candidate(near)])
    assert KERNEL.statistics(Rows(rows), [Candidate(near)]) == expected
    (weighted,) = KERNEL.statistics(Rows(rows, np.ones(700)), [Candidate(near)])
    assert weighted.log_likelihood == pytest.approx(expected[0].log_likelihood, rel=1e-12)
    np.testing.assert_allclose(weighted.second, expected[0].second, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("family", quick_ones(["diag", "spherical"], ["diag"]))
def test_many_features_make_no_square_matrices(family: str) -> None:
    p = random_mixture(23, family, 4, 1000, spread=0.1)
    rows = draw(24, p, 20).astype(np.float32)
    KERNEL.statistics(Rows(rows), [Candidate(p)])
    enough = 1000 * 1000 * 8 - 1
    assert peak_of(lambda: KERNEL.statistics(Rows(rows), [Candidate(p)]), enough) <= enough


def shares(p: MixtureParameters) -> bool:
    d, k = p.n_features, p.n_components
    design = KERNEL.design(p.family.name, d, k, False, False)
    return packing.may_share(design, Candidate(p), features.common_centre(p))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("family", ["full", "diag", "spherical"])
@pytest.mark.parametrize(("k", "d"), [(1, 9), (6, 12), (3, 16), (9, 21)])
def test_sharing_products_changes_only_the_rounding(
    family: str, k: int, d: int, width: int
) -> None:
    """Components that overlap everywhere, with K and products that do not fill whole groups."""
    p = random_mixture(25, family, k, d, spread=0.1)
    assert shares(p)
    rows = draw(26, p, 1700)
    (true,) = ORACLE.statistics(Rows(rows), [Candidate(p)])
    for dtype in ("float64", "float32"):
        (found,) = CompiledKernel(width).statistics(Rows(rows.astype(dtype)), [Candidate(p)])
        rtol = 1e-13 if dtype == "float64" else 2e-5
        for name in ("counts", "first", "second"):
            a, b = getattr(found, name), getattr(true, name)
            np.testing.assert_allclose(a, b, atol=rtol * (np.abs(b).max() + 1.0), err_msg=name)


def test_products_are_not_shared_far_from_the_centre_or_for_few_or_many_features() -> None:
    far = random_mixture(27, "diag", 4, 12, spread=100.0)
    assert not shares(far)
    assert not shares(random_mixture(27, "full", 4, 3, spread=0.1))
    assert not shares(random_mixture(27, "tied", 4, 12, spread=0.1))
    assert not shares(random_mixture(27, "full", 2, 60, spread=0.0))


@pytest.mark.parametrize("family", ["full", "diag", "spherical"])
def test_a_component_that_collapses_spoils_no_other(family: str) -> None:
    """Its shared products cancel, so it is taken again by its differences, and it alone."""
    wide = random_mixture(28, family, 2, 12, spread=0.5)
    narrow = MixtureParameters.create(
        family, wide.weights, wide.means + 5.0, 40.0 * wide.covariances
    )
    rows = 9.0 + 1e-7 * np.random.default_rng(29).normal(size=(1000, 12))
    candidates = [Candidate(wide), Candidate(narrow, np.full((2, 12), 9.0)), Candidate(narrow)]
    assert shares(narrow)
    together = KERNEL.statistics(Rows(rows), candidates)
    for candidate, found in zip(candidates, together, strict=True):
        assert KERNEL.statistics(Rows(rows), [candidate]) == (found,)
        (true,) = ORACLE.statistics(Rows(rows), [candidate])
        np.testing.assert_allclose(found.second, true.second, rtol=1e-12, atol=1e-9)
    # About a point amid the rows nothing need be lost; about the centre, half the width would be.
    (true,) = ORACLE.statistics(Rows(rows), candidates[1:2])
    error = np.abs(together[1].second - true.second).max()
    assert error <= 1e-6 * np.abs(true.second).max()


def test_what_is_kept_for_the_next_block_changes_no_bit() -> None:
    """Dtypes and weights take turns, and rows that float32 loses; each thread has its own."""
    mixtures = [random_mixture(30 + i, "full", 3, 5, spread=s) for i, s in enumerate((0.1, 3.0))]
    candidates = [Candidate(p) for p in mixtures]
    rows = draw(31, mixtures[0], 900)
    weights = np.random.default_rng(32).uniform(size=900)
    far = rows.astype(np.float32)
    far[5] = 1e25  # beyond the squares of float32
    blocks = [
        Rows(block, w)
        for block in (rows, rows.astype(np.float32), rows[:7], far, rows.astype(np.float32)[:9])
        for w in (None, weights[: len(block)])
    ]
    fresh = [KERNEL.statistics(block, candidates) for block in blocks]
    densities = [KERNEL.log_densities(block.values, mixtures[0]) for block in blocks]

    def agrees() -> bool:
        e_step, predictor = KERNEL.e_step(candidates), KERNEL.predictor(mixtures[0])
        return all(
            e_step.statistics(block) == found
            and np.array_equal(predictor.log_densities(block.values), values)
            for _ in range(2)
            for block, found, values in zip(blocks, fresh, densities, strict=True)
        )

    with ThreadPoolExecutor(2) as threads:
        assert all(future.result() for future in [threads.submit(agrees) for _ in range(4)])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_an_e_step_holds_no_more_than_promised(dtype: str) -> None:
    """What is prepared and what a call takes, also where float32 loses a component's digits."""
    wide, rows = (
        random_mixture(33, "full", 24, 40),
        draw(34, random_mixture(33, "full", 2, 40), 900),
    )
    rows = (1e-20 * rows).astype(
        dtype
    )  # narrow: float32 suits the parameters and not what is found
    KERNEL.statistics(Rows(rows), [Candidate(wide)])

    def use() -> None:
        e_step = KERNEL.e_step([Candidate(wide)])
        for _ in range(3):
            e_step.statistics(Rows(rows))

    enough = KERNEL.workspace_bytes(40, [24]) + 20_000
    assert peak_of(use, enough) <= enough


def test_a_kernel_is_a_value() -> None:
    kernels = [get_kernel(name) for name in ("auto", "compiled", "blas", "reference")]
    kernels += [CompiledKernel(), CompiledKernel(256), CompiledKernel(single=False)]
    assert len(set(kernels)) == len(kernels)
    for one in kernels:
        assert pickle.loads(pickle.dumps(one)) == one
        assert len(pickle.dumps(one)) < 200


def test_a_kernel_is_found_where_it_is_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver has llvmlite and the worker has not."""
    p = random_mixture(37, "full", 2, 3)
    rows, candidates = Rows(draw(38, p, 50)), [Candidate(p)]
    fastest, compiled = get_kernel("auto"), get_kernel("compiled")
    monkeypatch.setattr("dask_gmm.mixture.kernels.installed.find_spec", lambda name: None)
    there = pickle.loads(pickle.dumps(fastest))
    assert there.statistics(rows, candidates) == get_kernel("blas").statistics(rows, candidates)
    with pytest.raises(InputError, match="llvmlite"):
        pickle.loads(pickle.dumps(compiled)).e_step(candidates)
