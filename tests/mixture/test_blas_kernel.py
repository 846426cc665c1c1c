"""The BLAS kernel's own promises: the predictor, the choice of a form, shared features."""

from __future__ import annotations

import numpy as np
import pytest

from dask_gmm.mixture.kernels import Candidate, blas, features, get_kernel, schemes
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.rows import Rows
from tests.marks import quick_ones
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

KERNEL, ORACLE = get_kernel("blas"), get_kernel("reference")
EPS = float(np.finfo(np.float64).eps)


def errors(case: HardCase) -> tuple[float, float]:
    """Largest error of a log-density, and of a covariance in the metric of its component."""
    p = case.parameters
    rows = draw(3, p, 2000)
    in_density = np.abs(KERNEL.log_densities(rows, p) - ORACLE.log_densities(rows, p)).max()
    (found,), (true,) = (c.statistics(Rows(rows), [Candidate(p)]) for c in (KERNEL, ORACLE))
    u = whitening(p)
    difference = (found.second - true.second) / true.counts[:, None, None]
    white = u @ difference @ u.transpose(0, 2, 1)
    np.testing.assert_allclose(found.counts, true.counts, rtol=1e-9)
    return float(in_density), float(np.linalg.norm(white, 2, axis=(1, 2)).max())


@pytest.mark.parametrize("case", hard_cases(), ids=lambda case: case.name)
def test_hard_cases_within_the_predicted_error(case: HardCase) -> None:
    in_density, in_covariance = errors(case)
    assert in_density <= 1e-10
    assert in_covariance <= max(1e-10, EPS * case.condition)


@pytest.mark.parametrize("case", hard_cases(), ids=lambda case: case.name)
def test_the_predictor_is_right_about_the_linear_form(
    case: HardCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blas, "LARGEST_CANCELLATION", np.inf)
    predicted = schemes.cancellation(case.parameters, features.common_centre(case.parameters))
    in_density, in_covariance = errors(case)
    assert in_density <= 5.0 * predicted
    assert in_covariance <= 5.0 * predicted
    assert in_density >= predicted / 50.0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("width", [0.0, 1e-4])
def test_a_component_that_collapses_in_one_step(family: str, width: float) -> None:
    """The covariances known before the step are wide: only the rows can tell what will be lost."""
    rng = np.random.default_rng(5)
    flat = 37.3 + width * rng.normal(size=(3000, 3))
    rows = np.concatenate([flat, 20.0 * rng.normal(size=(1500, 3)) - 60.0])
    if family == "tied":
        rows = np.concatenate([flat, width * rng.normal(size=(1500, 3)) - 60.0])
    start = random_mixture(6, family, 2, 3)
    p = MixtureParameters.create(
        family, [0.5, 0.5], [[37.0] * 3, [-60.0] * 3], 400.0 * start.covariances
    )
    assert not isinstance(blas._choose(Candidate(p)), schemes.WhiteningScheme)
    (found,), (true,) = (c.statistics(Rows(rows), [Candidate(p)]) for c in (KERNEL, ORACLE))
    ours, exact = (maximize(s, 1e-6) for s in (found, true))
    k, d = p.means.shape
    u = whitening(exact)
    white = u @ ours.family.form.dense(ours.covariances, k, d) @ u.transpose(0, 2, 1)
    # What is left is the rounding of the shift from c_k to the new mean (`centring_error`).
    lost = likelihood(family, 1e-6).centring_error(true)
    assert np.abs(white - np.eye(d)).max() < 1e-8 + 100.0 * lost
    np.testing.assert_allclose(found.second, true.second, rtol=1e-12, atol=1e-9)


def test_the_form_follows_the_predictor() -> None:
    chosen = {c.name: type(blas._choose(Candidate(c.parameters))) for c in hard_cases()}
    assert chosen["offset 1e8"] is schemes.LinearScheme
    assert chosen["means spread over 1e4 sigma"] is schemes.WhiteningScheme
    assert chosen["condition 1e10"] is schemes.WhiteningScheme
    easy = {f: type(blas._choose(Candidate(random_mixture(1, f, 3, 4)))) for f in FAMILIES}
    assert easy.pop("tied") is schemes.TiedScheme
    assert set(easy.values()) == {schemes.LinearScheme}


def test_restarts_share_their_features_after_one_step() -> None:
    """An EM step keeps the data's overall mean and variance, whatever the components."""
    truth = random_mixture(2, "full", 5, 3, offset=100.0)
    rows = draw(3, truth, 2000)
    centres = set()
    for seed, k, family in ((0, 3, "full"), (1, 5, "full"), (2, 8, "diag"), (3, 4, "tied")):
        rng = np.random.default_rng(seed)
        start = random_mixture(seed, family, k, 3)
        means = rows[rng.choice(len(rows), size=k)]
        p = MixtureParameters.create(family, start.weights, means, start.covariances)
        (s,) = KERNEL.statistics(Rows(rows), [Candidate(p)])
        centres.add(features.common_centre(maximize(s, 0.0)).tobytes())
    assert len(centres) == 1


def test_the_centre_of_degenerate_mixtures_is_finite() -> None:
    tiny = MixtureParameters.create("spherical", [1.0], [[1e8, 0.0]], [1e-300])
    huge = MixtureParameters.create("spherical", [1.0], [[1e150, -1e150]], [1e300])
    for p in (tiny, huge):
        assert np.all(np.isfinite(features.common_centre(p)))
        assert np.isfinite(KERNEL.log_densities(p.means, p)).all()


@pytest.mark.parametrize("d", [1, 2, 5])
def test_products_are_in_the_order_of_their_pairs(d: int) -> None:
    rows = np.random.default_rng(0).normal(size=(7, d))
    centre = np.arange(d, dtype=np.float64)
    made = features.Products(centre, 16).fill(rows)
    left, right = features.Products.pairs(d)
    x = rows - centre
    expected = np.concatenate([x[:, left] * x[:, right], x, np.ones((7, 1))], axis=1).T
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("d", [3, 33, 70])
def test_triangular_product_by_panels(d: int) -> None:
    rng = np.random.default_rng(1)
    rows, upper, out = rng.normal(size=(9, d)), np.triu(rng.normal(size=(d, d))), np.empty((9, d))
    schemes._times_upper(rows, upper, out)
    np.testing.assert_allclose(out, rows @ upper, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", quick_ones(FAMILIES, ["diag"]))
def test_tiles_are_of_one_size_per_family_and_shape(family: str) -> None:
    for k, d in ((1, 1), (16, 16), (64, 128), (512, 2), (2, 1000)):
        form = blas._choose(Candidate(random_mixture(4, family, k, d, spread=0.1)))
        assert 192 <= form.features.tile_rows <= 4160
