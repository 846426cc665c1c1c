"""Ellipses and curves against the formulas that they stand for."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import rc_context
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from scipy.integrate import trapezoid
from scipy.stats import norm, t
from xarray import DataArray

from dask_gmm import GaussianMixture
from dask_gmm.errors import InputError
from dask_gmm.plotting import component_colours, plot_components, plot_map, plot_profiles
from dask_gmm.plotting.components import separating
from dask_gmm.plotting.fitted import coordinate_of, shown
from dask_gmm.plotting.text import short_name
from tests.inspected import inspected
from tests.plotting.legible import faults
from tests.plotting.mixtures import Made, made


def collection_of(ax: Any) -> Any:
    (found,) = (c for c in ax.collections if isinstance(c, LineCollection))
    return found


def ellipses(ax: Any) -> list[np.ndarray]:
    return [np.asarray(segment) for segment in collection_of(ax).get_segments()]


def squared(points: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    y = points - mean
    found: np.ndarray = np.einsum("ni,ij,nj->n", y, np.linalg.inv(covariance), y)
    return found


@pytest.mark.parametrize("case", ["two features", "tied", "diag", "spherical"])
def test_ellipses_are_where_distances_are_one_and_two(case: str) -> None:
    gm, inspection = made(case)
    ax = Figure().subplots()
    plot_components(gm, inspection, features=[1, 0], axes=ax)
    found = ellipses(ax)
    K, D = gm.means_.shape
    c = gm.covariances_
    dense = {
        "full": lambda: c,
        "tied": lambda: np.broadcast_to(c, (K, D, D)),
        "diag": lambda: c[:, :, None] * np.eye(D),
        "spherical": lambda: c[:, None, None] * np.eye(D),
    }[gm.covariance_type]()
    assert len(found) == 2 * K
    collection = collection_of(ax)
    order = np.argsort(-gm.weights_, kind="stable")
    for i, k in enumerate(order):
        at = gm.means_[k, [1, 0]], dense[k][np.ix_([1, 0], [1, 0])]
        assert squared(found[2 * i], *at) == pytest.approx(1.0)
        assert squared(found[2 * i + 1], *at) == pytest.approx(4.0)
    widths = np.asarray(collection.get_linewidths())
    assert (np.diff(widths[::2]) <= 0.0).all()  # by weight
    colours = component_colours(K)
    assert np.asarray(collection.get_colors())[0] == pytest.approx(
        [*(int(colours[order[0]][i : i + 2], 16) / 255 for i in (1, 3, 5)), 1.0]
    )


def test_standardised_rows_are_shown_in_the_units_of_the_data() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 2)) @ [[2e3, 5e2], [0, 1e-4]] + np.repeat(
        [[0, 9e3], [1e4, 0]], 200, 0
    )
    gm = GaussianMixture(2, standardize=True, random_state=0).fit(X)
    ax = Figure().subplots()
    plot_components(gm, inspected(X, gm), axes=ax)
    original = gm.original_units()
    order = np.argsort(-gm.weights_, kind="stable")
    for i, k in enumerate(order):
        one = ellipses(ax)[2 * i]
        assert squared(one, original.means[k], original.covariances[k]) == pytest.approx(
            1.0, rel=1e-4
        )
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x0", "x1")
    mesh = np.asarray(ax.collections[0].get_array())
    assert mesh.sum() > 390  # nearly all rows are within the limits


def test_what_was_taken_of_features_is_said() -> None:
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.lognormal(3, 1, size=(200, 2)), columns=["CD4", "age"])
    how: Any = {"CD4": ("arcsinh", 150), "age": "log1p"}
    gm = GaussianMixture(1, feature_transform=how, standardize=True).fit(X)
    mixture = shown(gm)
    assert mixture.names == ("arcsinh(CD4/150)", "log1p(age)")
    assert mixture.index("CD4") == 0  # by its own name too
    taken = np.stack([np.arcsinh(X["CD4"] / 150), np.log1p(X["age"])], axis=1)
    assert mixture.means[0] == pytest.approx(taken.mean(axis=0))
    assert mixture.deviations[0] == pytest.approx(taken.std(axis=0), rel=1e-4)


def test_principal_components_are_called_so() -> None:
    X = np.random.default_rng(0).normal(size=(200, 5))
    gm = GaussianMixture(1, n_pca=2).fit(X)
    assert shown(gm).names == ("PC 1", "PC 2")
    axes = plot_components(gm, inspected(X, gm))
    assert axes.shape == (2, 2)
    assert axes[1, 0].get_xlabel() == "PC 1"


def test_the_marginal_is_the_mixtures_density() -> None:
    gm, inspection = made("one feature")
    ax: Any = plot_components(gm, inspection)[0, 0]
    (line,) = (line for line in ax.lines if line.get_label() == "mixture")
    x, y = np.asarray(line.get_xydata()).T
    s = np.sqrt(gm.covariances_[:, 0, 0])
    assert y == pytest.approx((gm.weights_ * norm.pdf(x[:, None], gm.means_[:, 0], s)).sum(axis=1))
    assert trapezoid(y, x) == pytest.approx(1.0, abs=0.02)
    drawn = sum(np.asarray(part.get_ydata()) for part in ax.lines if part is not line)
    assert drawn == pytest.approx(y)


def test_the_histogram_is_the_weighted_samples() -> None:
    gm, _ = made("one feature")
    rows = np.random.default_rng(0).normal(size=(300, 1)) * 3
    weights = np.where(rows[:, 0] > 0, 3.0, 1.0)
    ax: Any = plot_components(gm, inspected(rows, gm, sample_weight=weights))[0, 0]
    values, edges, _ = ax.patches[0].get_data()
    for i in (5, 10, 15):
        inside = (rows[:, 0] >= edges[i]) & (rows[:, 0] < edges[-1])
        part = (values[i:] * np.diff(edges)[i:]).sum()
        assert part == pytest.approx(weights[inside].sum() / weights.sum(), abs=1e-9)


def test_of_many_features_those_that_separate() -> None:
    D = 30
    means = np.zeros((4, D))
    means[0, 7], means[1, 20], means[2, 11], means[3, 25] = 9.0, 9.0, 9.0, 9.0
    means[0, 8] = 8.9  # tells the same component apart as 7
    gm = Made(np.full(4, 0.25), means, np.ones((4, D)), "diag")
    assert separating(shown(gm), 4) == [7, 11, 20, 25]
    rows = np.random.default_rng(0).normal(size=(200, D)) + np.repeat(means, 50, axis=0)
    axes = plot_components(gm, inspected(rows, gm))
    assert [ax.get_xlabel() for ax in axes[-1]] == ["x7", "x11", "x20", "x25"]
    assert axes[0, 0].figure.get_suptitle().startswith("4 of 30 features")


def test_all_features_say_nothing_of_a_choice() -> None:
    axes = plot_components(*made("two features"))
    assert axes[0, 0].figure.get_suptitle() == ""


def test_one_component_has_nothing_to_separate() -> None:
    gm = Made(np.ones(1), np.zeros((1, 9)), np.ones((1, 9)), "diag")
    assert separating(shown(gm), 4) == [0, 1, 2, 3]


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_units_change_no_choice(seed: int) -> None:
    rng = np.random.default_rng(seed)
    K, D = 5, 8
    means, variances = rng.normal(size=(K, D)) * 3, rng.gamma(2, size=(K, D))
    scale = 10.0 ** rng.integers(-8, 9, size=D)
    gm = Made(rng.dirichlet(np.ones(K)), means, variances, "diag")
    other = replace(gm, means_=means * scale, covariances_=variances * scale**2)
    assert separating(shown(gm), 3) == separating(shown(other), 3)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([], "features is empty"),
        (["x0", 0], "features has 'x0' twice"),
        ([5], "features holds 5, but the mixture has 2 features"),
        ([-3], "features holds -3"),
        (["x7"], "features holds 'x7', which the mixture does not know; it has 2, such as"),
        ([True], "features holds True"),
        ([1.5], "features holds 1.5"),
    ],
)
def test_unknown_features(features: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plot_components(*made("two features"), features=features)


def test_too_many_features_are_refused() -> None:
    with pytest.raises(InputError, match="169 panels"):
        plot_components(*made("hundred features"), features=range(13))


def test_features_by_name_index_and_from_the_end() -> None:
    axes = plot_components(*made("overlapping"), features=["x3", np.int64(1), -1])
    assert [ax.get_xlabel() for ax in axes[-1]] == ["x3", "x1", "x7"]


def test_a_changed_covariance_type_is_refused() -> None:
    gm, inspection = made("two features")
    with pytest.raises(InputError, match="changed after the fit"):
        plot_components(replace(gm, covariance_type="diag"), inspection)


def test_names_and_their_coordinates() -> None:
    assert coordinate_of("TEMP[depth=5.0]") == ("TEMP", "depth", "5.0")
    assert coordinate_of("TEMP[3]") == ("TEMP", None, "3")
    assert coordinate_of("TEMP") is None
    assert short_name("TEMP[depth=5.0]") == "TEMP\ndepth 5"
    assert short_name("arcsinh(CD4/150)") == "CD4\narcsinh(·/150)"
    assert short_name("B02") == "B02"
    assert max(map(len, short_name("a" * 90, "×10⁻⁵").splitlines())) <= 16


def test_a_figure_of_another_width() -> None:
    gm, inspection = made("overlapping")
    axes = plot_components(gm, inspection, width=6.7)
    figure = axes[0, 0].figure
    assert figure.get_size_inches().tolist() == [6.7, 6.7]
    assert faults(figure) == []
    with pytest.raises(InputError, match="axes= have one already"):
        plot_components(gm, inspection, width=6.7, axes=axes)
    for width in (0.0, -1.0, float("nan"), 1e9):
        with pytest.raises(InputError, match="is no width of a figure"):
            plot_components(gm, inspection, width=width)


FORMULAS = ["$\\frac{$", "US$ and $"]


@pytest.mark.parametrize(
    "draw",
    [
        plot_components,
        lambda gm, seen: plot_components(gm, seen, axes=Figure().subplots()),
        plot_profiles,
        lambda gm, seen: plot_map(
            DataArray(np.zeros((2, 2), int), dims=FORMULAS, coords={FORMULAS[0]: ["$a$", "$^$"]})
        ),
    ],
    ids=["components", "one panel", "profiles", "map"],
)
def test_no_name_is_a_formula(draw: Any) -> None:
    """Between dollars matplotlib looks for TeX, and fails where there is none."""
    gm, inspection = made("two features")
    gm = replace(gm)
    gm.feature_names_in_ = np.array(FORMULAS)  # type: ignore[attr-defined]
    figure = np.ravel(draw(gm, inspection))[0].figure
    file = io.StringIO()
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(file, format="svg")
    assert "US$ and $" in file.getvalue()


def test_curves_of_t_distributions() -> None:
    gm, inspection = made("heavy tails")
    ax: Any = plot_components(gm, inspection, features=[1])[0, 0]
    drawn = [line.get_data() for line in ax.lines]
    order = np.argsort(-gm.weights_, kind="stable")
    for k, (x, y) in zip(order, drawn, strict=False):
        nu, scale = gm.degrees_of_freedom_[k], np.sqrt(gm.covariances_[k, 1, 1])
        expected = gm.weights_[k] * t.pdf(x, nu, gm.means_[k, 1], scale)
        np.testing.assert_allclose(y, expected, rtol=1e-6)
    np.testing.assert_allclose(drawn[-1][1], sum(y for _, y in drawn[:-1]), rtol=1e-12)
