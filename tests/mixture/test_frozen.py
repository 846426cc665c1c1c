"""Parts of a mixture that stay as given: constrained maxima, by SciPy and finite differences."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

import tests.equal_shape  # noqa: F401  # registers a constrained family
from dask_gmm import Prior
from dask_gmm.errors import CollapsedComponentError, InputError
from dask_gmm.fitting.acceleration.by_objective import SquaremByObjective
from dask_gmm.fitting.collapse import MStep
from dask_gmm.fitting.loop import PlainEM
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.frozen import PARTS, Frozen, FrozenParts, arrays_of
from dask_gmm.mixture.kernels import Candidate, get_kernel
from dask_gmm.mixture.moments import expected_log_density, per_row
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.mixture.posterior import MaximumAPosteriori
from dask_gmm.rows import Rows
from tests.fitting.acceleration.problems import Passes
from tests.fitting.runs import fit
from tests.marks import quick_ones
from tests.mixture.problems import FAMILIES, by_objective, draw, likelihood, random_mixture

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.model import MixtureModel
    from dask_gmm.mixture.statistics import SufficientStatistics

K, D = 3, 2
PRIOR = Prior(concentration=3.0, mean=[0.5, -0.5], shrinkage=4.0, degrees_of_freedom=5, scale=2.0)
ASKED: list[Any] = [
    "weights",
    "means",
    "covariances",
    ["weights", "covariances"],
    {"weights": [1], "means": [0, 2]},
    0,
]


def base_of(family: str, prior: Prior | None = None, reg_covar: float = 0.0) -> MixtureModel:
    if prior is None:
        return likelihood(family, reg_covar)
    return MaximumAPosteriori(covariance_family(family), reg_covar, prior, K)


def frozen(base: MixtureModel, asked: Any, at: MixtureParameters) -> Frozen:
    """The model that leaves parts as they are at a mixture."""
    parts = FrozenParts.of(asked, at.n_components)
    assert parts is not None
    parts.check(base.family, *at.means.shape)
    return Frozen.around(base, parts, *arrays_of(at))


def e_step(p: MixtureParameters, rows: Rows) -> SufficientStatistics:
    (found,) = get_kernel().statistics(rows, [Candidate(p)])
    return found


def assert_kept(parts: FrozenParts, p: MixtureParameters, given: MixtureParameters) -> None:
    """To the last bit."""
    for name, held in (("weights", parts.weights), ("means", parts.means)):
        chosen = list(held)
        assert np.array_equal(getattr(p, name)[chosen], getattr(given, name)[chosen])
    if parts.covariances:
        chosen = ... if p.form.shared else list(parts.covariances)  # type: ignore[assignment]
        assert np.array_equal(p.covariances[chosen], given.covariances[chosen])
        assert np.array_equal(p.precisions_cholesky[chosen], given.precisions_cholesky[chosen])
    assert p.weights.sum() == pytest.approx(1.0, abs=1e-12)


# -- what is asked for -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("means", ((), (0, 1, 2), ())),
        (["weights", "covariances"], ((0, 1, 2), (), (0, 1, 2))),
        (1, ((1,), (1,), (1,))),
        (np.array([2, 0]), ((0, 2), (0, 2), (0, 2))),
        ({"means": [0, 1], "weights": True}, ((0, 1, 2), (0, 1), ())),
        ({"covariances": 2}, ((), (), (2,))),
        (["means", 1], ((1,), (0, 1, 2), (1,))),
    ],
    ids=str,
)
def test_what_may_be_named(asked: Any, expected: Any) -> None:
    parts = FrozenParts.of(asked, 3)
    assert parts is not None
    assert (parts.weights, parts.means, parts.covariances) == expected


@pytest.mark.parametrize("nothing", [None, [], {}, {"means": []}], ids=str)
def test_nothing_is_nothing(nothing: Any) -> None:
    assert FrozenParts.of(nothing, 3) is None


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("mean", "frozen names 'mean', which is no part"),
        ({"precisions": True}, "frozen names 'precisions', which is no part"),
        (3, "frozen names component 3, and components are numbered from 0 to 2"),
        (-1, "component -1"),
        (True, "component True"),
        ({"means": False}, "component False"),
        ({"means": [0.5]}, "component 0.5"),
        ([None], "component None"),
    ],
    ids=str,
)
def test_what_may_not(asked: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        FrozenParts.of(asked, 3)


@pytest.mark.parametrize("family", ["tied", "equal-shape"])
def test_covariances_that_are_estimated_together_are_frozen_together(family: str) -> None:
    some, every = FrozenParts.of([0], 3), FrozenParts.of("covariances", 3)
    assert some is not None
    assert every is not None
    with pytest.raises(InputError, match="name all or none"):
        some.check(covariance_family(family), 3, 2)
    every.check(covariance_family(family), 3, 2)


def test_something_is_to_be_free_and_all_else_given() -> None:
    everything = FrozenParts.of(list(PARTS), 3)
    assert everything is not None
    with pytest.raises(InputError, match="leaves nothing to fit"):
        everything.check(covariance_family("full"), 3, 2)
    parts = FrozenParts.of("covariances", 3)
    assert parts is not None
    with pytest.raises(InputError, match="give precisions_init"):
        Frozen.around(likelihood("full"), parts, np.full(3, 1 / 3), np.zeros((3, 2)), None)
    p = random_mixture(0, "full", K, D)
    with pytest.raises(InputError, match="conjugate priors"):
        Frozen.around(by_objective("full"), parts, *arrays_of(p))
    with pytest.raises(InputError, match="cannot be that of 'diag'"):
        frozen(base_of("full"), "means", p).of_mixture(covariance_family("diag"), K)


@pytest.mark.parametrize(
    ("family", "asked", "free"),
    [
        ("full", "weights", 15),
        ("full", {"weights": [0]}, 16),
        ("full", {"weights": [0, 1]}, 15),
        ("full", "means", 11),
        ("full", 0, 11),
        ("tied", "covariances", 8),
        ("diag", {"covariances": [0, 1]}, 10),
        ("spherical", ["weights", "means"], 3),
    ],
    ids=str,
)
def test_free_parameters_are_counted(family: str, asked: Any, free: int) -> None:
    parts = FrozenParts.of(asked, 3)
    assert parts is not None
    assert parts.n_free(covariance_family(family), 3, 2) == free


# -- the M-step ------------------------------------------------------------------------------------


@given(
    family=st.sampled_from([*FAMILIES, "equal-shape"]),
    asked=st.sampled_from(ASKED),
    seed=st.integers(0, 10_000),
    under=st.booleans(),
    weighted=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_the_objective_never_falls(
    family: str, asked: Any, seed: int, under: bool, weighted: bool
) -> None:
    kind = "diag" if family == "equal-shape" else family
    p = random_mixture(seed, kind, K, D)
    if family == "equal-shape":
        near = covariance_family(family).nearest(p.weights, p.covariances, D)
        p = MixtureParameters.create(family, p.weights, p.means, near)
    if asked == 0 and not p.family.independent:
        asked = {"weights": [0], "means": [0]}
    model = frozen(base_of(family, PRIOR if under else None), asked, p)
    values = draw(seed + 1, random_mixture(seed + 2, kind, K, D), 80)
    weights = np.random.default_rng(seed).exponential(size=80) if weighted else None
    rows, at, before = Rows(values, weights), p, -np.inf
    for _ in range(6):
        found = e_step(at, rows)
        now = model.objective(found, at)
        assert now >= before - 1e-10 * (1.0 + abs(now))
        before = now
        try:
            at = model.update(found, at)
        except CollapsedComponentError:  # a component has closed in on a row
            return
        assert_kept(model.parts, at, p)


@pytest.mark.parametrize("under", [False, True])
@pytest.mark.parametrize("asked", ASKED, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_m_step_is_the_maximum(family: str, asked: Any, under: bool) -> None:
    """No mixture near it with the same parts has a larger expected log-density."""
    if asked == 0 and family == "tied":
        asked = {"weights": [0], "means": [0]}
    p = random_mixture(3, family, K, D)
    model = frozen(base_of(family, PRIOR if under else None), asked, p)
    found = e_step(p, Rows(draw(4, random_mixture(5, family, K, D), 200)))
    moments = per_row(found) + model.regulariser(found)
    top = model.update(found, p)
    chart, rng = model.chart, np.random.default_rng(0)
    here, best = chart.to_vector(top), expected_log_density(moments, top)
    for _ in range(40):
        near = chart.from_vector(here + 0.02 * rng.normal(size=len(here)), top)
        assert near is not None
        assert_kept(model.parts, near, p)
        assert expected_log_density(moments, near) <= best + 1e-12


def test_what_is_frozen_where_it_would_go_changes_nothing() -> None:
    p = random_mixture(3, "full", K, D)
    found = e_step(p, Rows(draw(4, p, 200)))
    base = base_of("full", reg_covar=1e-3)
    free = base.update(found)
    for asked in ("means", "weights", "covariances", {"means": [1], "weights": [2]}):
        held = frozen(base, asked, free).update(found, p)
        np.testing.assert_allclose(held.weights, free.weights, rtol=1e-12)
        np.testing.assert_allclose(held.means, free.means, rtol=1e-10)
        np.testing.assert_allclose(held.covariances, free.covariances, rtol=1e-10, atol=1e-12)


def test_groups_of_rows_are_no_mixture() -> None:
    """Where no E-step's parameters are known, starts are made of everything."""
    p, base = random_mixture(3, "full", K, D), base_of("full")
    found = e_step(p, Rows(draw(4, p, 200)))
    assert frozen(base, "means", p).update(found) == base.update(found)


def test_reynolds_adaptation_of_means() -> None:
    """α_k E_k + (1 − α_k) μ_k with α_k = n_k / (n_k + r); all else stays (2000, eqs. 11-14)."""
    ubm, rows = random_mixture(3, "diag", K, D), Rows(draw(4, random_mixture(9, "diag", K, D), 150))
    base = base_of("diag", Prior.adapting(ubm.means, relevance=16.0))
    model = frozen(base, ["weights", "covariances"], ubm)
    found = e_step(ubm, rows)
    n, own = found.counts, ubm.means + found.first / found.counts[:, None]
    part = (n / (n + 16.0))[:, None]
    adapted = model.update(found, ubm)
    np.testing.assert_allclose(adapted.means, part * own + (1 - part) * ubm.means, rtol=1e-12)
    assert_kept(model.parts, adapted, ubm)


# -- fixed points ----------------------------------------------------------------------------------

PROBLEMS: dict[str, tuple[str, Any, bool]] = {
    "means": ("full", "means", False),
    "a component, with a prior": ("full", 0, True),
    "means about a shared covariance": ("tied", {"means": [0, 2]}, False),
    "adaptation": ("tied", ["weights", "covariances"], True),
    "some of each": ("diag", {"weights": [1], "covariances": [0]}, False),
    "with a prior": ("spherical", {"weights": [0], "means": [1, 2]}, True),
    "a constrained family": ("equal-shape", {"means": [0]}, False),
}


def heights(model: Frozen, rows: Rows, like: MixtureParameters) -> Any:
    """The objective over the coordinates of the chart."""

    def of(vector: NDArray[np.float64]) -> float:
        p = model.chart.from_vector(vector, like)
        return -np.inf if p is None else model.objective(e_step(p, rows), p)

    return of


@pytest.mark.parametrize("problem", quick_ones(PROBLEMS, ["means", "adaptation"]))
def test_fixed_points_are_those_of_the_stated_objective(problem: str) -> None:
    """Its finite differences vanish in all that is free, and SciPy goes no higher from there."""
    family, asked, under = PROBLEMS[problem]
    kind = "diag" if family == "equal-shape" else family
    rows = Rows(draw(4, random_mixture(3, kind, K, D), 150))
    p = random_mixture(3, kind, K, D)
    if family == "equal-shape":
        near = covariance_family(family).nearest(p.weights, p.covariances, D)
        p = MixtureParameters.create(family, p.weights, p.means, near)
    model = frozen(base_of(family, PRIOR if under else None), asked, p)
    m_step = MStep(model)
    plain = fit(PlainEM(1e-14, 4000, m_step), Passes(rows.values), p).parameters
    bold = fit(SquaremByObjective(1e-10, 400, m_step), Passes(rows.values), p).parameters
    assert_kept(model.parts, plain, p)
    assert_kept(model.parts, bold, p)
    of = heights(model, rows, plain)
    end, step = model.chart.to_vector(plain), 1e-5
    for i in range(len(end)):
        along = step * np.eye(len(end))[i]
        assert abs(of(end + along) - of(end - along)) / (2 * step) < 1e-6
    minimize: Any = optimize.minimize
    best = minimize(lambda v: -of(v), end, method="BFGS", options={"maxiter": 20})
    assert -best.fun <= of(end) + 1e-9
    assert of(model.chart.to_vector(bold)) == pytest.approx(of(end), abs=1e-8)


def test_an_empty_component_that_is_frozen_stays() -> None:
    """Far away from all rows, without a variance to estimate."""
    p = MixtureParameters.create(
        "full", [0.5, 0.3, 0.2], [[0.0, 0.0], [2.0, 0.0], [1e4, 0.0]], np.stack([np.eye(2)] * 3)
    )
    rows = Rows(np.random.default_rng(0).normal(size=(60, 2)))
    model = frozen(base_of("full"), 2, p)
    after = model.update(e_step(p, rows), p)
    assert_kept(model.parts, after, p)
    assert np.all(np.isfinite(after.means))
    assert model.centring_error(e_step(p, rows)) < 1e-12


def test_models_travel() -> None:
    p = random_mixture(3, "full", K, D)
    model = frozen(base_of("full", PRIOR), 0, p)
    there: Frozen = pickle.loads(pickle.dumps(model))
    found = e_step(p, Rows(draw(4, p, 100)))
    assert there.update(found, p) == model.update(found, p)
    assert there.weights is not None
    assert not there.weights.flags.writeable
