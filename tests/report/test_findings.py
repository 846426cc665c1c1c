"""Each finding on a fit that has the flaw and on one that has not; and none where all is well."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given as each
from hypothesis import settings
from hypothesis import strategies as st

from dask_gmm import GaussianMixture, StudentTMixture, select_gaussian_mixture
from dask_gmm.estimators.attributes import set_parameters
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.mixture.student import StudentParameters
from dask_gmm.report import Evidence
from dask_gmm.report.findings import CHECKS, Severity, find, looked_at
from tests.inspected import inspected
from tests.plotting.mixtures import passes
from tests.report.fits import clouds, fitted, given, known

SQUARE = np.array([[0.0, 0.0], [9.0, 1.0], [1.0, 9.0]])
THIRDS = np.full(3, 1 / 3)
EYES = np.tile(np.eye(2), (3, 1, 1))


@pytest.fixture(scope="module")
def good() -> Evidence:
    return fitted(clouds())


def names(evidence: Evidence) -> set[str]:
    return {finding.name for finding in find(evidence)}


def mixture(
    weights: Any = THIRDS, means: Any = SQUARE, covariances: Any = EYES, **more: Any
) -> Any:
    """What is known of given parameters, and rows drawn from them."""
    gm = given(weights, means, covariances, **more)
    rng = np.random.default_rng(1)
    counts = rng.multinomial(3000, gm.weights_)
    form = gm._parameters().form.dense(gm.covariances_, *gm.means_.shape)
    rows = [rng.multivariate_normal(*p) for p in zip(gm.means_, form, counts, strict=True)]
    return known(np.concatenate(rows), gm)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("seed", range(3))
def test_clouds_that_lie_apart_give_no_worry(seed: int, covariance_type: str) -> None:
    evidence = fitted(clouds(seed, k=4, d=3), 4, covariance_type=covariance_type)
    assert find(evidence) == ()


@settings(max_examples=15, deadline=None)
@each(st.integers(0, 2**20), st.floats(0.5, 2.0), st.integers(1, 5), st.integers(1, 4))
def test_rows_of_the_mixture_itself_are_no_worry(seed: int, wide: float, k: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    means = 20.0 * np.arange(k)[:, None] * np.ones(d) + rng.normal(size=(k, d))
    gm = given(np.full(k, 1 / k), means, wide * np.ones((k, d)), covariance_type="diag")
    rows = means[np.arange(3000) % k] + np.sqrt(wide) * rng.normal(size=(3000, d))
    assert find(known(rows, gm)) == ()


def test_a_good_fit_says_what_was_looked_at(good: Evidence) -> None:
    assert find(good) == ()
    looked = looked_at(good)
    assert "components that overlap" in looked
    assert "the edge of the grid" not in looked
    assert "heavy tails" not in looked_at(replace(good, inspection=None))


def test_without_a_read_nothing_is_said_of_rows(good: Evidence) -> None:
    assert find(replace(good, inspection=None)) == ()


# -- the course ------------------------------------------------------------------------------------


ENDED: list[tuple[str, dict[str, Any], Severity]] = [
    ("collapsed", {"outcome": "collapsed"}, Severity.PROBLEM),
    ("not_converged", {"outcome": "max_iter"}, Severity.WARNING),
    ("budget", {"outcome": "max_passes"}, Severity.WARNING),
    ("budget", {"outcome": "max_bytes"}, Severity.WARNING),
]


@pytest.mark.parametrize(("name", "changes", "severity"), ENDED)
def test_how_it_ended(
    good: Evidence, name: str, changes: dict[str, Any], severity: Severity
) -> None:
    (found,) = find(replace(good, **changes))
    assert (found.name, found.severity) == (name, severity)
    assert found.remedy


@pytest.mark.parametrize(
    ("heights", "acceleration", "severity"),
    [
        ([-3.0, -2.9984, -2.9972, -2.9963], None, Severity.WARNING),  # nine are left of such
        ([-3.1, -3.0, -2.9974, -2.9973], None, None),  # and 4e-6 of these
        ([-3.1, -3.0, -2.9974, -2.9973], "squarem", None),
        ([-3.1, -3.0, -2.9974, -2.9973], "variance-reduced", Severity.WARNING),  # a sample says so
        ([-3.0, -2.9994], None, Severity.NOTE),
        ([], None, Severity.NOTE),
        ([-3.0, -3.0, -3.0, -2.9997], None, Severity.WARNING),  # out of a saddle
    ],
)
def test_a_plateau(
    good: Evidence, heights: list[float], acceleration: str | None, severity: Severity | None
) -> None:
    """Ten times a gain may be left, says the fit; gains that fall fast say that it is not."""
    history = passes(*(("plain", height, None) for height in heights))
    seen = replace(good, history=history, acceleration=acceleration, remaining_gain=0.05)
    assert [(f.name, f.severity) for f in find(seen)] == [("plateau", severity)] * bool(severity)


def test_a_rejected_step_is_no_gain(good: Evidence) -> None:
    steps = [("plain", -3.1), ("plain", -3.0), ("rejected", -9.0), ("plain", -2.9974)]
    history = passes(*((kind, height, None) for kind, height in [*steps, ("plain", -2.9973)]))
    assert find(replace(good, history=history, acceleration=None, remaining_gain=0.05)) == ()


def test_one_component_needs_no_start_and_may_have_any_units() -> None:
    rows = np.random.default_rng(0).normal(size=(3000, 2)) * [1.0, 1e4]
    gm = given([1.0], [[0.0, 0.0]], [np.diag([1.0, 1e8])])
    assert "scales" not in names(known(rows, gm))


@pytest.mark.parametrize("seed", range(5))
def test_rows_of_very_unequal_weights_tell_less(seed: int) -> None:
    """A few heavy rows are far out by chance, and are no reason to worry."""
    rng = np.random.default_rng(seed)
    rows, weights = rng.normal(size=(30_000, 2)), rng.pareto(1.5, 30_000) + 0.01
    gm = given([1.0], [[0.0, 0.0]], [np.eye(2)])
    gm.n_rows_ = len(rows)
    seen = Evidence.of(gm, inspected(rows, gm, sample_weight=weights, n_sample=30_000))
    assert seen.inspection is not None
    assert seen.inspection.n_effective == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert names(seen) == set()
    equal = Evidence.of(gm, inspected(rows, gm, sample_weight=np.full(30_000, 7.0)))
    assert equal.inspection is not None
    assert equal.inspection.n_effective == pytest.approx(30_000)


def test_covariances_without_correlations_are_never_made_matrices() -> None:
    d = 5000
    gm = given(
        [0.5, 0.5], np.stack([np.zeros(d), np.ones(d)]), np.ones((2, d)), covariance_type="diag"
    )
    seen = Evidence.of(gm)
    found = find(seen)
    assert "dense" not in vars(seen), "which has K D² elements"
    assert "nearly_singular" not in {f.name for f in found}


def test_what_is_left_is_said_in_nats_over_all_rows(good: Evidence) -> None:
    (found,) = find(replace(good, outcome="max_iter", remaining_gain=0.01))
    assert "0.01 nats a row" in found.sentence
    assert "30 nats over all rows" in found.sentence


def test_a_small_gain_that_is_left_is_none(good: Evidence) -> None:
    assert find(replace(good, remaining_gain=0.9e-3)) == ()
    assert find(replace(good, remaining_gain=None)) == ()


def test_the_sample_of_the_start(good: Evidence) -> None:
    assert good.record is not None
    p = good.parameters.n_parameters
    small = replace(good.record, sample_rows=19 * p, n_rows=3000)
    assert names(replace(good, record=small)) == {"small_sample"}
    enough = replace(small, sample_rows=20 * p)
    assert names(replace(good, record=enough)) == set()
    everything = replace(good.record, sample_rows=19 * p, n_rows=19 * p)
    assert "small_sample" not in names(replace(good, record=everything, n_rows=19 * p))


def grid(best: int, tried: list[int], values: dict[int, float], criterion: str = "bic") -> Any:
    rows = [
        SimpleNamespace(n_components=k, covariance_type="full", number=values.get(k, 1e4))
        for k in tried
    ]
    chosen = next(row for row in rows if row.n_components == best)
    return SimpleNamespace(
        criterion=criterion, table=tuple(rows), best=chosen, value=lambda row: row.number
    )


@pytest.mark.parametrize(
    ("best", "tried", "found"),
    [
        (4, [2, 3, 4], {"grid_edge"}),
        (2, [2, 3, 4], {"grid_edge"}),
        (3, [2, 3, 4], set()),
        (1, [1, 2, 3], set()),  # there are no fewer
        (3, [3], set()),
    ],
)
def test_the_edge_of_the_grid(good: Evidence, best: int, tried: list[int], found: set[str]) -> None:
    assert names(replace(good, selection=grid(best, tried, {best: 9e3}))) == found


@pytest.mark.parametrize(("apart", "found"), [(1.9, {"close_call"}), (2.1, set())])
def test_mixtures_that_are_as_good(good: Evidence, apart: float, found: set[str]) -> None:
    chosen = grid(3, [2, 3, 4], {3: 9e3, 4: 9e3 + apart})
    assert names(replace(good, selection=chosen)) == found
    of_rows = grid(3, [2, 3, 4], {3: 9e3, 4: 9e3 + apart}, "heldout")
    assert names(replace(good, selection=of_rows)) == set()


def test_of_a_real_selection() -> None:
    X = clouds(n=600)
    for counts, found in ((range(1, 5), set()), (range(1, 4), {"grid_edge"})):
        selection = select_gaussian_mixture(X, counts, "diag", random_state=0)
        assert selection.best_n_components == 3
        evidence = known(X, selection.best_model, selection=selection)
        assert names(evidence) == found


# -- the components --------------------------------------------------------------------------------


def test_components_that_reg_covar_holds_open() -> None:
    rows = np.concatenate([clouds(n=900), np.full((100, 2), 40.0)])
    evidence = fitted(rows, 4)
    found = {finding.name: finding for finding in find(evidence)}
    assert found["regularised"].severity is Severity.PROBLEM
    k = int(evidence.parameters.means[:, 0].argmax())
    assert f"Component {k} would be narrower" in found["regularised"].sentence


def test_small_units_are_a_warning_and_standardizing_mends_them() -> None:
    rows = 3e-3 * clouds()
    assert {f.name: f.severity for f in find(fitted(rows))} == {"regularised": Severity.WARNING}
    assert find(fitted(rows, standardize=True)) == ()


@pytest.mark.filterwarnings("ignore::dask_gmm.errors.HeywoodWarning")
def test_features_that_factors_explain_wholly() -> None:
    """One factor would have to explain 0.9·0.9/0.5 of the first feature."""
    correlations = [[1.0, 0.9, 0.9], [0.9, 1.0, 0.5], [0.9, 0.5, 1.0]]
    rows = np.random.default_rng(0).multivariate_normal(np.zeros(3), correlations, size=500)
    options = {"covariance_type": "factors:1", "reg_covar": 0.01, "tol": 1e-6}
    found = [f for f in find(fitted(rows, 1, **options)) if f.name == "heywood"]
    assert [f.severity for f in found] == [Severity.WARNING]
    assert "component 0" in found[0].sentence
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(500, 1)) + rng.normal(size=(500, 3))
    assert "heywood" not in names(fitted(rows, 1, **options))


def test_nearly_singular_covariances(good: Evidence) -> None:
    rows = clouds(d=2)
    sums = np.column_stack([rows, rows.sum(axis=1) + 1e-3])
    assert "nearly_singular" in names(fitted(sums, reg_covar=1e-9))
    assert "nearly_singular" not in names(good)


@pytest.mark.parametrize(
    ("rows", "severity"), [(2.0, Severity.PROBLEM), (20.0, Severity.WARNING), (500.0, None)]
)
def test_components_of_few_rows(rows: float, severity: Severity | None) -> None:
    part = rows / 3000
    evidence = mixture([part, (1 - part) / 2, (1 - part) / 2])
    evidence = replace(evidence, inspection=None)
    found = [f for f in find(evidence) if f.name == "few_rows"]
    assert [f.severity for f in found] == ([] if severity is None else [severity])


def test_components_that_are_alike() -> None:
    means = np.array([[0.0, 0.0], [0.1, 0.0], [9.0, 9.0]])
    found = find(mixture(means=means))
    assert [f.name for f in found] == ["duplicates"]  # and not that they overlap too
    assert "Components 0 and 1 are nearly the same Gaussian" in found[0].sentence


def test_components_that_overlap() -> None:
    means = np.array([[0.0, 0.0], [1.0, 0.0], [9.0, 9.0]])
    found = find(mixture(means=means))
    assert [f.name for f in found] == ["overlapping"]
    assert "One pair of components overlaps strongly: 0 and 1 (" in found[0].sentence
    apart = np.array([[0.0, 0.0], [5.0, 1.0], [9.0, 9.0]])
    assert find(mixture(means=apart)) == ()


def test_features_that_separate_nothing() -> None:
    rng = np.random.default_rng(0)
    rows = np.column_stack([clouds(), rng.normal(size=3000)])
    (found,) = find(fitted(rows))
    assert found.name == "idle_features"
    assert found.sentence.startswith("x2 separates no two components")


def test_a_feature_of_other_widths_separates() -> None:
    """Where means are the same: a narrow component inside a broad one."""
    covariances = np.stack([np.diag([1.0, 1.0]), np.diag([1.0, 36.0])])
    evidence = mixture([0.5, 0.5], [[0.0, 0.0], [9.0, 0.0]], covariances)
    assert "idle_features" not in names(evidence)


# -- the rows --------------------------------------------------------------------------------------


def test_rows_that_are_not_explained() -> None:
    rows = clouds()
    rows[[17, 400]] = [[60.0, -60.0], [-70.0, 70.0]]
    gm = given(THIRDS, [rows[k::3][1:100].mean(axis=0) for k in range(3)], EYES)
    (found,) = (f for f in find(known(rows, gm)) if f.name == "unexplained")
    assert [place for place, _, _ in found.rows[:2]] == ["row 400", "row 17"]
    assert found.rows[0][2] == (-70.0, 70.0)
    assert found.rows[0][1] < found.rows[1][1]


def test_rows_that_are_not_explained_are_shown_as_they_are_in_the_data() -> None:
    rows = 1000.0 + 50.0 * clouds()
    gm = GaussianMixture(3, random_state=0, standardize=True).fit(rows)
    rows[400] = [9000.0, -7000.0]
    (found,) = (f for f in find(known(rows, gm)) if f.name == "unexplained")
    assert found.rows[0][2] == pytest.approx((9000.0, -7000.0))
    assert found.features == ("x0", "x1")
    gm = GaussianMixture(3, random_state=0, n_pca=1).fit(clouds())
    rows = clouds()
    rows[400:402] = [[900.0, 700.0], [900.0, -700.0]]  # one of them along the component
    (found,) = (f for f in find(known(rows, gm)) if f.name == "unexplained")
    assert found.features == ("PC 1",)


def test_heavy_tails() -> None:
    rng = np.random.default_rng(0)
    rows = clouds()
    rows[::3] = SQUARE[1] * 9 + rng.standard_t(3, size=(1000, 2))
    found = {f.name: f for f in find(fitted(rows))}
    assert "heavier tails" in found["heavy_tails"].sentence
    assert "unexplained" in found


def test_shapes_that_are_no_gaussians() -> None:
    rng = np.random.default_rng(0)
    (found,) = find(fitted(rng.uniform(size=(3000, 2)), 1))
    assert (found.name, found.severity) == ("not_gaussian", Severity.NOTE)


def test_few_rows_for_the_parameters(good: Evidence) -> None:
    p = good.parameters.n_parameters
    few = replace(good, n_rows=10 * p - 1, inspection=None)
    assert "few_data" in names(few)
    assert "few_data" not in names(replace(few, n_rows=10 * p))


@pytest.mark.parametrize(
    ("policy", "part", "severity"),
    [
        ("drop", 0.3, Severity.WARNING),
        ("drop", 0.05, Severity.NOTE),
        ("marginalize", 0.3, Severity.NOTE),
        ("marginalize", 0.005, None),
    ],
)
def test_missing_values(policy: str, part: float, severity: Severity | None) -> None:
    rows = clouds(n=2000, apart=30.0)
    rows[: int(part * 2000), 1] = np.nan
    evidence = fitted(rows, missing=policy)
    found = [f for f in find(evidence) if f.name == "missing_values"]
    assert [f.severity for f in found] == ([] if severity is None else [severity])
    if severity is not None:
        assert f"{int(part * 2000):,} rows, {100 * part:.2g}\u00a0% of all" in found[0].sentence


@pytest.mark.parametrize(
    ("scale", "covariance_type", "found"),
    [
        (1e4, "full", {"scales"}),
        (100.0, "full", set()),
        (100.0, "diag", set()),
    ],
)
def test_features_on_other_scales(scale: float, covariance_type: str, found: set[str]) -> None:
    rows = clouds() * [1.0, scale]
    gm = given(
        THIRDS,
        [rows[k::3].mean(axis=0) for k in range(3)],
        [
            np.cov(rows[k::3].T) if covariance_type == "full" else rows[k::3].var(axis=0)
            for k in range(3)
        ],
        covariance_type=covariance_type,
    )
    assert names(known(rows, gm)) == found


def test_spheres_cannot_do_with_scales() -> None:
    rows = clouds() * [1.0, 20.0]
    evidence = fitted(rows, covariance_type="spherical")
    assert "scales" in names(evidence)
    assert "scales" not in names(fitted(rows, covariance_type="spherical", standardize=True))


# -- all of them -----------------------------------------------------------------------------------


def test_the_gravest_are_said_first(good: Evidence) -> None:
    worst = replace(good, outcome="collapsed", n_rows=100)
    severities = [finding.severity for finding in find(worst)]
    assert severities == sorted(severities, reverse=True)
    assert len(set(severities)) > 1


def test_every_finding_is_tested_here() -> None:
    """By the name of the check's function; `regularised` and `collapsed` are two of one kind."""
    from pathlib import Path

    text = Path(__file__).read_text(encoding="utf-8")
    missing = [check.__name__ for _, check, _ in CHECKS if f'"{check.__name__}"' not in text]
    assert missing == []


def test_t_distributions_are_held_against_their_own_tails() -> None:
    """Heavy tails worry about Gaussians, which the remedy knows, and not about what has them."""
    rng = np.random.default_rng(0)
    X = clouds(n=6000) * np.sqrt(3.0 / rng.chisquare(3.0, size=(6000, 1)))
    centres = clouds(n=3, apart=60.0)
    X = centres[np.arange(6000) % 3] + 0.1 * X
    gaussian = fitted(X)
    assert "heavy_tails" in names(gaussian)
    (found,) = (finding for finding in find(gaussian) if finding.name == "heavy_tails")
    assert "than Gaussians" in found.sentence
    assert "StudentTMixture" in found.remedy
    student = StudentTMixture(3, random_state=0, tol=1e-6, max_iter=500).fit(X)
    evidence = Evidence.of(student, student.inspect(X))
    assert not {"heavy_tails", "unexplained"} & names(evidence)
    told = StudentTMixture(3, degrees_of_freedom=200, random_state=0, max_iter=500).fit(X)
    (found,) = (
        finding
        for finding in find(Evidence.of(told, told.inspect(X)))
        if finding.name == "heavy_tails"
    )
    assert "than t distributions" in found.sentence
    assert "degrees_of_freedom='each'" in found.remedy


def test_t_distributions_of_other_tails_are_not_alike() -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_t(1.0, size=(3000, 2))
    gm = StudentTMixture(2, random_state=0, max_iter=1).fit(X)
    alike: dict[str, Any] = {"means": np.zeros((2, 2)), "covariances": np.array([np.eye(2)] * 2)}
    for degrees, expected in (([0.6, 300.0], False), ([4.0, 4.5], True), ([200.0, 1e5], True)):
        gaussian = MixtureParameters.create("full", [0.5, 0.5], **alike)
        set_parameters(gm, StudentParameters.of(gaussian, degrees), np.dtype(np.float64))
        assert ("duplicates" in names(Evidence.of(gm, gm.inspect(X)))) == expected, degrees


def test_remedies_name_options_that_there_are() -> None:
    import re
    from inspect import getsource, signature

    from dask_gmm.cli.main import main
    from dask_gmm.report import of_components, of_course, of_data

    modules = (of_components, of_course, of_data)
    text = "".join(getsource(module) for module in modules)
    known = {o for name in ("fit", "select") for p in main.commands[name].params for o in p.opts}
    named = set(re.findall(r"(--[a-z][a-z-]*)\b", text))
    assert len(named) > 8
    assert named <= known, named - known
    arguments = {
        *signature(GaussianMixture).parameters,
        *signature(StudentTMixture).parameters,
        *signature(GaussianMixture.fit).parameters,
    }
    given = set(re.findall(r"\b([a-z_]+)=(?:'|True\b| \()", text)) - {"strict"}
    assert len(given) > 5
    assert given <= {*arguments, "criterion"}, given
