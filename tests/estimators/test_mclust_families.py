"""mclust's families from a store: fits, and selections in shared reads.

That they run anywhere with the same bits is `tests.conformance.test_models`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner

from dask_gmm import GaussianMixture, StudentTMixture, select_gaussian_mixture
from dask_gmm.data.stores import read_counter
from dask_gmm.errors import CheckpointError, InputError
from dask_gmm.mixture.parsimonious import MCLUST, MCLUST_IN_ONE_DIMENSION
from dask_gmm.plotting import plot_selection
from tests.estimators.clouds import N_BLOCKS, tilted_clouds, write_clouds
from tests.marks import quick_ones
from tests.plotting.legible import faults

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SAME = {"VVV": "full", "EEE": "tied", "VVI": "diag", "VII": "spherical"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_clouds(tilted_clouds(), tmp_path_factory.mktemp("mclust"))


def bits(gm: GaussianMixture) -> list[bytes]:
    names = ("weights_", "means_", "covariances_", "precisions_cholesky_", "lower_bounds_")
    return [np.asarray(getattr(gm, name)).tobytes() for name in names]


@pytest.mark.parametrize("name", quick_ones(list(SAME), ["VVV"]))
def test_scikit_learns_four_by_the_other_name(store: str, name: str) -> None:
    """The same bits, accelerated from a store; only the name is what was asked for."""
    ours, theirs = (
        GaussianMixture(4, covariance_type=kind, init_size=1000, random_state=0).fit(store)
        for kind in (name, SAME[name])
    )
    assert bits(ours) == bits(theirs)
    assert ours.covariance_type == name
    assert ours.model_card()["model"]["covariance_type"] == name
    assert ours.bic(store) == theirs.bic(store)


@pytest.mark.parametrize("name", ["VEI", "EVE", "EII"])
def test_scikit_learn_gets_the_same_densities(name: str) -> None:
    rows = tilted_clouds()[:500]
    gm = GaussianMixture(3, covariance_type=name, random_state=0, max_iter=3).fit(rows)
    other = gm.to_sklearn()
    assert other.covariance_type == {"VEI": "diag", "EVE": "full", "EII": "spherical"}[name]
    np.testing.assert_allclose(other.score_samples(rows), gm.score_samples(rows), rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["VEI", "EVE", "EEV"])
def test_t_components_have_them_too(store: str, name: str) -> None:
    """Of scale matrices; what is equal is equal, and no pass is a step down."""
    gm = StudentTMixture(4, covariance_type=name, init_size=1000, random_state=0).fit(store)
    assert gm.converged_
    assert np.all(np.diff(gm.lower_bounds_) > -1e-9)
    p = gm._parameters()
    nearest = p.family.nearest(p.weights, p.covariances, p.n_features)
    np.testing.assert_allclose(nearest, p.covariances, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["VEI", "EEV"])
def test_noise_goes_with_them(name: str) -> None:
    rows = tilted_clouds()[:1500]
    gm = GaussianMixture(4, covariance_type=name, noise=True, max_iter=20, random_state=0).fit(rows)
    assert np.all(np.diff(gm.lower_bounds_) > -1e-9)


@pytest.mark.slow
def test_all_of_them_in_shared_reads(store: str) -> None:
    """One read a pass whatever takes part, and no more passes than the slowest takes."""
    before = read_counter()
    found = select_gaussian_mixture(
        store, [3, 4], "mclust", init_size=1500, cache=0, search="off", random_state=0
    )
    gets = (read_counter() - before).gets
    assert gets == N_BLOCKS * (1 + found.n_passes)
    assert max(row.passes for row in found.table) == found.n_passes
    assert [row.covariance_type for row in found.table] == [n for n in MCLUST for _ in range(2)]
    assert (found.best_n_components, found.best_covariance_type) == (4, "EVV")  # as drawn
    assert list(found.curve) == list(MCLUST)
    ax: Any = plot_selection(found)
    assert faults(ax.figure) == []
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[:14] == list(MCLUST)


def test_names_may_be_mixed_and_come_once() -> None:
    rows = tilted_clouds()[:300]
    found = select_gaussian_mixture(rows, [1], ["full", "mclust", "EEV"], random_state=0)
    assert [row.covariance_type for row in found.table] == ["full", *MCLUST]
    for row in found.table[1:]:  # of one component all that have axes are full
        if row.covariance_type[2] != "I":
            assert row.bic == pytest.approx(found.table[0].bic, rel=1e-9)


def test_one_feature_has_two_families() -> None:
    """Also where scaling leaves one."""
    rows = tilted_clouds()[:300]
    for X, more in ((rows[:, :1], {}), (rows, {"n_pca": 1})):
        settings: dict[str, Any] = {"random_state": 0, **more}
        found = select_gaussian_mixture(X, [2], "mclust", **settings)
        assert [r.covariance_type for r in found.table] == list(MCLUST_IN_ONE_DIMENSION)


def test_mistakes() -> None:
    rows = tilted_clouds()[:50]
    with pytest.raises(InputError, match=r"covariance_type='VEX' is unknown; choose .*VEV"):
        select_gaussian_mixture(rows, [2], "VEX")
    with pytest.raises(ValueError, match="'covariance_type' parameter"):
        GaussianMixture(2, covariance_type="mclust").fit(rows)


def test_the_command_line_knows_them_all(store: str) -> None:
    from dask_gmm.cli.main import main
    from dask_gmm.cli.model_options import covariance_choice

    assert set(MCLUST) <= set(covariance_choice.choices)
    words = ["select", store, "-k", "2", "--covariance", "mclust", "--seed", "0", "--json", "-q"]
    result = CliRunner().invoke(main, [*words, "--max-iter", "1"])
    table = json.loads(result.stdout)["table"]
    assert [row["covariance_type"] for row in table] == list(MCLUST)
    refused = CliRunner().invoke(main, ["fit", store, "-k", "2", "--covariance", "mclust"])
    assert refused.exit_code == 2


@pytest.mark.parametrize("name", ["VVE"])
def test_a_checkpoint_goes_on_with_the_same_bits(store: str, name: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"covariance_type": name, "random_state": 0, "init_size": 1500}
    settings |= {"acceleration": "squarem", "tol": 1e-7}
    whole = GaussianMixture(4, **settings).fit(store)
    place = str(tmp_path / "c")
    GaussianMixture(4, **settings, max_passes=3).fit(store, checkpoint=place)
    gm = GaussianMixture(4, **settings).fit(store, checkpoint=place, resume="must")
    assert whole.n_passes_ > 3
    assert bits(gm) == bits(whole)
    other = GaussianMixture(4, **{**settings, "covariance_type": "EVE"})
    with pytest.raises(CheckpointError, match="family was 'VVE' and is 'EVE'"):
        other.fit(store, checkpoint=place, resume="must")
