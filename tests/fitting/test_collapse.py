"""What becomes of components that collapse or empty, by each rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dask_gmm import GaussianMixture
from dask_gmm.errors import CollapsedComponentError, CollapsedComponentWarning, InputError
from dask_gmm.fitting.collapse import MStep, worst_place
from dask_gmm.mixture.kernels import Candidate, get_kernel
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.rows import Rows
from tests.mixture.problems import likelihood

if TYPE_CHECKING:
    from numpy.typing import NDArray

VARIANCES = {
    "full": np.stack([np.eye(2)] * 3),
    "diag": np.ones((3, 2)),
    "spherical": np.ones(3),
    "tied": np.eye(2),
}


def rows() -> NDArray[np.float64]:
    """One row many times over, and two clouds."""
    rng = np.random.default_rng(0)
    clouds = [rng.normal(size=(150, 2)) + np.array([20.0 * sign, 0.0]) for sign in (-1, 1)]
    return np.concatenate([np.zeros((50, 2)), *clouds])


def collapsing(on_collapse: str, family: str = "full", **settings: Any) -> GaussianMixture:
    """A fit of which component 0 has nothing but the repeated row."""
    return GaussianMixture(
        3,
        covariance_type=family,
        reg_covar=0.0,
        weights_init=[0.2, 0.4, 0.4],
        means_init=[[0.0, 0.0], [20.0, 0.0], [22.0, 1.0]],
        precisions_init=VARIANCES[family],
        on_collapse=on_collapse,
        **settings,
    )


def narrow() -> NDArray[np.float64]:
    """The rows without the left cloud, so that component 0 must collapse."""
    x = rows()
    return x[x[:, 0] > -5.0]


@pytest.mark.parametrize("acceleration", ["squarem", "variance-reduced"])
def test_accelerated_fits_keep_to_the_rule(acceleration: str) -> None:
    """Whatever they try, it is a plain step's M-step that mends, stops or fails."""
    fast: dict[str, Any] = {"acceleration": acceleration, "init_params": "random_from_data"}
    with pytest.warns(CollapsedComponentWarning, match="component 0"):
        stopped = collapsing("stop", **fast).fit(narrow())
    assert stopped.outcome_ == "collapsed"
    with pytest.warns(CollapsedComponentWarning) as caught:
        merged = collapsing("merge", **fast).fit(narrow())
    assert "Component 0 collapsed and was merged into" in str(caught[0].message)
    assert merged.converged_
    assert len(merged.weights_) < 3
    assert np.all(np.isfinite(merged.precisions_cholesky_))
    with pytest.warns(CollapsedComponentWarning):
        reseeded = collapsing("reseed", **fast).fit(narrow())
    assert reseeded.weights_.shape == (3,)
    assert np.all(np.isfinite(reseeded.means_))
    with pytest.raises(CollapsedComponentError, match="ill-defined empirical covariance"):
        collapsing("raise", **fast).fit(narrow())


@pytest.mark.parametrize("family", ["full", "diag", "spherical"])
def test_stop_ends_with_the_last_sound_mixture(family: str) -> None:
    with pytest.warns(CollapsedComponentWarning, match="component 0"):
        gm = collapsing("stop", family).fit(narrow())
    assert gm.outcome_ == "collapsed"
    assert np.all(np.isfinite(gm.precisions_cholesky_))


@pytest.mark.parametrize("family", ["full", "diag", "spherical"])
def test_merge_goes_on_with_fewer_components(family: str) -> None:
    with pytest.warns(CollapsedComponentWarning) as caught:
        gm = collapsing("merge", family).fit(narrow())
    assert "Component 0 collapsed and was merged into" in str(caught[0].message)
    assert gm.outcome_ == "converged"
    assert len(gm.weights_) == 3 - len(caught)
    assert gm.weights_.sum() == pytest.approx(1.0)
    assert np.unique(gm.predict(narrow())).max() < len(gm.weights_)


def test_several_components_collapse_at_once() -> None:
    """An empty one, and two that have a repeated row each: all are merged in one step."""
    rng = np.random.default_rng(4)
    x = np.concatenate([np.full((40, 2), 5.0), np.full((40, 2), -5.0), rng.normal(size=(100, 2))])
    start = MixtureParameters.create(
        "full",
        [0.25, 0.25, 0.25, 0.25],
        [[5.0, 5.0], [-5.0, -5.0], [900.0, 0.0], [0.0, 0.0]],
        [np.eye(2) * 1e-3, np.eye(2) * 1e-3, np.eye(2), np.eye(2)],
    )
    (statistics,) = get_kernel("reference").statistics(Rows(x), [Candidate(start)])
    step = MStep(likelihood("full"), "merge")
    merged, notes = step(statistics)
    assert merged.n_components == 1
    assert len(notes) == 3
    np.testing.assert_allclose(merged.means[0], x.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(merged.covariances[0], np.cov(x.T, bias=True), atol=1e-9)
    with pytest.raises(CollapsedComponentError, match="component 0"):
        MStep(likelihood("full"), "stop")(statistics)


def test_reseed_puts_it_where_the_mixture_fits_worst() -> None:
    """In a sample with the left cloud, of which no component knows."""
    x = rows()
    start = MixtureParameters.create(
        "full",
        [0.2, 0.8],
        [[0.0, 0.0], [20.0, 0.0]],
        [np.eye(2) * 1e-6, np.eye(2)],
    )
    (statistics,) = get_kernel("reference").statistics(Rows(narrow()), [Candidate(start)])
    step = MStep(likelihood("full"), "reseed", Rows(x))
    mended, notes = step(statistics, mended=("Another was before.",))
    assert mended.n_components == 2
    assert abs(mended.means[0, 0] + 20.0) < 4.0
    assert notes[0] == "Another was before."
    assert "Component 0" in notes[1]
    assert step(statistics)[0] == mended
    with pytest.raises(CollapsedComponentError, match="2 components were reseeded before"):
        step(statistics, mended=("One.", "Two."))


def test_reseeding_ends_at_last() -> None:
    """Rows of which all but one cloud are alike collapse whatever is put there."""
    with pytest.warns(CollapsedComponentWarning):
        gm = collapsing("reseed").fit(narrow())
    assert np.all(np.isfinite(gm.means_))
    assert gm.weights_.shape == (3,)


def test_raise_fails_as_scikit_learn_does() -> None:
    with pytest.raises(CollapsedComponentError, match="ill-defined empirical covariance"):
        collapsing("raise").fit(narrow())


@pytest.mark.parametrize("acceleration", [None, "squarem", "variance-reduced"])
@pytest.mark.parametrize("on_collapse", ["merge", "reseed"])
def test_an_empty_component_is_mended_too(on_collapse: str, acceleration: str | None) -> None:
    x = np.random.default_rng(1).normal(size=(400, 2))
    with pytest.warns(CollapsedComponentWarning, match="Component 2"):
        gm = GaussianMixture(
            3,
            weights_init=[0.5, 0.3, 0.2],
            means_init=[[-1.0, 0.0], [1.0, 0.0], [900.0, 0.0]],
            precisions_init=VARIANCES["full"],
            on_collapse=on_collapse,
            max_iter=300,
            acceleration=acceleration,
        ).fit(x)
    assert gm.converged_
    assert len(gm.weights_) == (2 if on_collapse == "merge" else 3)
    assert gm.weights_.min() * 400 >= 1.0


def test_a_shared_covariance_cannot_be_mended() -> None:
    flat = np.column_stack([np.random.default_rng(2).normal(size=100), np.zeros(100)])
    with pytest.warns(CollapsedComponentWarning) as caught:
        gm = collapsing("merge", "tied").fit(flat)
    assert "shared covariance" in str(caught[-1].message)
    assert gm.outcome_ == "collapsed"


def test_the_worst_place_is_no_lone_outlier() -> None:
    rng = np.random.default_rng(3)
    bulk, cloud = rng.normal(size=(2000, 2)), rng.normal(size=(15, 2)) + 30.0
    x = np.concatenate([bulk, cloud, [[-500.0, 500.0]]])
    known = MixtureParameters.create("full", [1.0], [[0.0, 0.0]], [np.eye(2)])
    assert np.all(np.abs(worst_place(Rows(x), known) - 30.0) < 4.0)


def test_fewer_different_rows_than_components_is_said() -> None:
    """Of a sample; of all rows scikit-learn makes what it can, and so does a fit of them."""
    x = np.repeat(np.arange(3.0), 2000)[:, None] @ np.ones((1, 2))
    with pytest.raises(InputError, match=r"3 different one\(s\), too few for 4 components"):
        GaussianMixture(4, init_size=500, random_state=0).fit(x)
