"""Quantiles of components along their features."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy.stats import norm, t

from dask_gmm import GaussianMixture, StudentTMixture
from dask_gmm.errors import InputError
from dask_gmm.plotting import component_colours, plot_profiles
from tests.inspected import inspected
from tests.plotting.legible import faults
from tests.plotting.mixtures import Made, made


def line_of(ax: Any, k: int, K: int) -> np.ndarray:
    (found,) = (line for line in ax.lines if line.get_color() == component_colours(K)[k])
    return np.asarray(found.get_xydata())


def band_of(ax: Any, k: int, K: int) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of the band at each place, by place."""
    wanted = [int(component_colours(K)[k][i : i + 2], 16) / 255 for i in (1, 3, 5)]
    (found,) = (
        c for c in ax.collections if c.get_facecolor()[0][:3] == pytest.approx(wanted, abs=1e-6)
    )
    points = found.get_paths()[0].vertices
    at = np.unique(points[:, 0])
    values = [points[points[:, 0] == x, 1] for x in at]
    return np.array([v.min() for v in values]), np.array([v.max() for v in values])


def rows_of(D: int = 6, n: int = 4000) -> tuple[Made, np.ndarray]:
    rng = np.random.default_rng(0)
    means = np.stack([np.zeros(D), 20.0 + np.arange(D)])
    X = np.concatenate([rng.normal(size=(n, D)), means[1] + rng.normal(size=(n, D)) * 2.0])
    variances = np.repeat([[1.0], [4.0]], D, axis=1)
    return Made(np.full(2, 0.5), means, variances, "diag"), X


def test_lines_and_bands_are_the_rows_quantiles() -> None:
    gm, X = rows_of()
    (ax,) = plot_profiles(gm, inspected(X, gm), quantiles=(0.1, 0.5, 0.9))
    for k, part in enumerate((X[:4000], X[4000:])):
        low, middle, high = np.quantile(part, [0.1, 0.5, 0.9], axis=0)
        assert line_of(ax, k, 2)[:, 1] == pytest.approx(middle, abs=0.1)
        found = band_of(ax, k, 2)
        assert found[0] == pytest.approx(low, abs=0.1)
        assert found[1] == pytest.approx(high, abs=0.1)


def test_bins_wider_than_a_component_do_not_widen_it() -> None:
    gm, X = rows_of()
    coarse = inspected(X, gm, n_values=6)  # of six deviations each
    (ax,) = plot_profiles(gm, coarse)
    low, high = band_of(ax, 0, 2)
    assert high - low == pytest.approx(np.full(6, 2 * norm.isf(0.1)), abs=0.15)


def test_quantiles_follow_rows_that_are_no_gaussians() -> None:
    """The histogram decides in which bin a quantile is, whatever the mixture believes."""
    gm = Made(np.ones(1), np.zeros((1, 2)), np.full((1, 2), 100.0), "diag")
    X = np.random.default_rng(0).exponential(size=(20_000, 2))
    (ax,) = plot_profiles(gm, inspected(X, gm, n_values=256), quantiles=(0.05, 0.5, 0.95))
    assert line_of(ax, 0, 1)[:, 1] == pytest.approx(np.median(X, axis=0), abs=0.03)
    assert band_of(ax, 0, 1)[1] == pytest.approx(np.quantile(X, 0.95, axis=0), abs=0.03)


def test_features_with_a_depth_go_down() -> None:
    gm, X = rows_of(8)
    names = [f"{v}[depth={d}]" for v in ("TEMP", "PSAL") for d in (300.0, 5.0, 1000.0, 50.0)]
    gm.feature_names_in_ = np.array(names, dtype=object)  # type: ignore[attr-defined]
    axes = plot_profiles(gm, inspected(X, gm))
    assert [ax.get_xlabel() for ax in axes] == ["TEMP", "PSAL"]
    assert axes[0].get_ylabel() == "depth"
    assert axes[0].get_ylim() == (1000.0, 5.0)
    value, depth = line_of(axes[0], 1, 2).T
    assert depth.tolist() == [5.0, 50.0, 300.0, 1000.0]
    assert value == pytest.approx([21, 23, 20, 22], abs=0.2)
    assert faults(axes[0].figure) == []


def test_other_coordinates_go_along() -> None:
    gm, X = rows_of(4)
    gm.feature_names_in_ = np.array([f"flux[wavelength={w}]" for w in (400, 500, 600, 700)])  # type: ignore[attr-defined]
    (ax,) = plot_profiles(gm, inspected(X, gm))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("wavelength", "flux")
    assert line_of(ax, 0, 2)[:, 0].tolist() == [400, 500, 600, 700]


def test_labels_that_are_no_numbers_are_names() -> None:
    gm, X = rows_of(3)
    gm.feature_names_in_ = np.array([f"flux[band={b}]" for b in ("red", "green", "nir")])  # type: ignore[attr-defined]
    (ax,) = plot_profiles(gm, inspected(X, gm))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["red", "green", "nir"]


def test_variables_beside_a_plain_feature() -> None:
    gm, X = rows_of(4)
    gm.feature_names_in_ = np.array(["T[depth=1]", "T[depth=9]", "SST", "MLD"])  # type: ignore[attr-defined]
    axes = plot_profiles(gm, inspected(X, gm))
    assert len(axes) == 2
    assert [label.get_text() for label in axes[1].get_xticklabels()] == ["SST", "MLD"]
    assert faults(axes[0].figure) == []


def test_more_variables_than_there_is_room_for() -> None:
    gm, X = rows_of(20)
    names = [f"V{i}[depth={d}]" for i in range(10) for d in (1, 2)]
    gm.feature_names_in_ = np.array(names)  # type: ignore[attr-defined]
    axes = plot_profiles(gm, inspected(X, gm))
    assert len(axes) == 8
    assert "8 of 10 variables" in axes[0].figure.get_suptitle()
    assert faults(axes[0].figure) == []
    given = [Figure().subplots() for _ in range(10)]
    assert plot_profiles(gm, inspected(X, gm), axes=given) is given


def test_columns_of_a_table_are_in_their_own_deviations() -> None:
    X = rows_of(3)[1]
    frame = pd.DataFrame(X * [1.0, 1e6, 1e-6], columns=["age", "income", "rate"])
    fitted = GaussianMixture(2, random_state=0, standardize=True).fit(frame)
    (ax,) = plot_profiles(fitted, inspected(frame.to_numpy(), fitted))
    assert "standard deviations" in ax.get_ylabel()
    found = np.stack([line_of(ax, k, 2)[:, 1] for k in (0, 1)])
    assert np.sort(found, axis=0) == pytest.approx(np.repeat([[-1.0], [1.0]], 3, axis=1), abs=0.1)
    assert faults(ax.figure) == []


def test_transformed_values_come_back() -> None:
    X = np.random.default_rng(0).lognormal(5, 1, size=(8000, 4))
    how: Any = "log1p"
    gm = GaussianMixture(1, feature_transform=how, standardize=True).fit(X)
    (ax,) = plot_profiles(gm, inspected(X, gm, n_values=256))
    assert line_of(ax, 0, 1)[:, 1] == pytest.approx(np.median(X, axis=0), rel=0.03)
    assert band_of(ax, 0, 1)[1] == pytest.approx(np.quantile(X, 0.9, axis=0), rel=0.03)


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_principal_components_are_turned_back_by_the_mixture(kind: str) -> None:
    X = np.random.default_rng(0).normal(size=(2000, 3)) @ np.random.default_rng(1).normal(
        size=(3, 3)
    )
    gm = GaussianMixture(1, covariance_type=kind, n_pca=3).fit(X)
    (ax,) = plot_profiles(gm, inspected(X, gm))
    original = gm.original_units()
    assert line_of(ax, 0, 1)[:, 1] == pytest.approx(original.means[0], abs=1e-8)
    upper = original.means[0] + norm.isf(0.1) * original.widths[0]
    assert band_of(ax, 0, 1)[1] == pytest.approx(upper)
    assert "by the mixture" in ax.figure.get_suptitle()


def test_one_feature_is_drawn_by_component() -> None:
    gm, inspection = made("one feature")
    (ax,) = plot_profiles(gm, inspection)
    assert ax.get_xlabel() == "component"
    assert len(ax.containers) == 3


def test_of_many_components_the_heaviest_have_colours() -> None:
    (ax,) = plot_profiles(*made("many components"))
    assert len(ax.lines) == 40
    assert sum(line.get_color() == "#c4c4c4" for line in ax.lines) == 28
    names = [text.get_text() for text in ax.figure.legends[0].get_texts()]
    assert "and 28 more" in names


def test_a_component_or_feature_without_values_is_left_out() -> None:
    gm, inspection = made("gaps")
    counts = inspection.feature_counts.copy()
    counts[1] = 0.0
    (ax,) = plot_profiles(gm, replace(inspection, feature_counts=counts))
    assert len(ax.lines) == 2
    assert np.isnan(line_of(ax, 0, 3)[3, 1])  # feature 3 is missing everywhere


@pytest.mark.parametrize(
    "quantiles", [(0.1, 0.9), (0.9, 0.5, 0.1), (0.0, 0.5, 1.0), (0.1, float("nan"), 0.9)]
)
def test_quantiles_that_are_none(quantiles: Any) -> None:
    with pytest.raises(InputError, match="no three rising numbers"):
        plot_profiles(*made("two features"), quantiles=quantiles)


def test_t_distributions_say_where_in_a_bin_a_quantile_is() -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_t(2.0, size=(40_000, 2))
    gm = Made(np.ones(1), np.zeros((1, 2)), np.ones((1, 2)), "diag")
    gm.degrees_of_freedom_ = np.array([2.0])
    (ax,) = plot_profiles(gm, inspected(X, gm, n_values=8))  # of twenty scales each
    low, high = band_of(ax, 0, 1)
    assert high - low == pytest.approx(np.full(2, 2 * t.isf(0.1, 2.0)), abs=0.1)


def test_principal_components_of_t_distributions() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 3)) @ np.diag([3.0, 1.0, 0.3])
    gm = StudentTMixture(1, degrees_of_freedom=3, n_pca=2, random_state=0).fit(X)
    (ax,) = plot_profiles(gm, gm.inspect(X))
    low, high = band_of(ax, 0, 1)  # in units of what is shown as each feature's deviation
    assert high - low == pytest.approx(np.full(3, 2 * t.isf(0.1, 3)), rel=1e-6)


def test_quantiles_far_out_are_those_of_the_rows() -> None:
    """Bins reach as far as heavy tails do."""
    rows = np.random.default_rng(0).standard_t(0.8, size=(40_000, 2))
    gm = StudentTMixture(1, random_state=0, max_iter=300).fit(rows)
    (ax,) = plot_profiles(gm, gm.inspect(rows), quantiles=(0.05, 0.5, 0.95))
    low, high = band_of(ax, 0, 1)
    expected = np.quantile(rows, [0.05, 0.95], axis=0)
    assert low == pytest.approx(expected[0], rel=0.15)
    assert high == pytest.approx(expected[1], rel=0.15)
