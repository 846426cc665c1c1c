"""`update`: new rows beside those that were fitted, held against fits over all of them."""

from __future__ import annotations

import hashlib
import pickle
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.mixture import GaussianMixture as SklearnGaussianMixture

from dask_gmm import GaussianMixture, select_gaussian_mixture
from dask_gmm.data.stores import read_counter
from dask_gmm.errors import (
    CollapsedComponentWarning,
    DriftWarning,
    InputError,
    ModelFileWarning,
)
from dask_gmm.fitting.drift import simulated_drift
from dask_gmm.mixture.prior import Prior
from tests.marks import quick_ones
from tests.memory import peak_of
from tests.mixture.problems import FAMILIES, random_mixture

if TYPE_CHECKING:
    from pathlib import Path

    from distributed import Client

    from dask_gmm.mixture.kept import KeptStatistics

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

CENTRES = np.array([[-8.0, 0.0], [8.0, 1.0], [0.0, 9.0]])


def rows(n: int = 600, seed: int = 0, apart: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(n, 2)) * [1.0, 0.7]
    return apart * CENTRES[rng.integers(3, size=n)] + noise


def estimator(**given: Any) -> GaussianMixture:
    return GaussianMixture(3, **{"random_state": 0, "tol": 1e-9, "max_iter": 300, **given})


def everything(gm: GaussianMixture) -> str:
    """A digest of all that an estimator holds."""
    return hashlib.sha256(pickle.dumps(vars(gm))).hexdigest()


def kept_of(gm: GaussianMixture) -> KeptStatistics:
    """The statistics that it has kept."""
    kept: KeptStatistics | None = gm._kept
    assert kept is not None
    return kept


def assert_alike(one: GaussianMixture, other: GaussianMixture, tolerance: float) -> None:
    """The same mixture, whatever the order of components."""
    order = [int(np.argmin(np.abs(one.means_ - m).sum(axis=1))) for m in other.means_]
    np.testing.assert_allclose(one.means_[order], other.means_, rtol=0, atol=tolerance)
    np.testing.assert_allclose(one.weights_[order], other.weights_, rtol=0, atol=tolerance)
    if one.covariance_type != "tied":
        theirs = one.covariances_[order]
        np.testing.assert_allclose(theirs, other.covariances_, rtol=0, atol=tolerance)


@pytest.mark.parametrize("family", quick_ones(FAMILIES, ("tied",)))
def test_where_no_row_changes_hands_it_ends_where_a_fit_over_all_rows_does(family: str) -> None:
    X = rows()
    gm = estimator(covariance_type=family).fit(X[:400]).update(X[400:])
    whole = estimator(covariance_type=family).fit(X)
    assert_alike(gm, whole, 1e-6)
    assert gm.lower_bound_ == pytest.approx(whole.lower_bound_, abs=1e-7)
    assert gm.drift_.changed_labels == 0.0
    assert gm.drift_.gap < 1e-6
    assert (gm.n_rows_, gm.n_updates_, gm.converged_) == (600, 1, True)
    theirs = SklearnGaussianMixture(
        3, covariance_type=family, means_init=gm.means_, tol=1e-9, max_iter=300
    ).fit(X)
    np.testing.assert_allclose(gm.means_, theirs.means_, atol=1e-6)


def test_in_two_halves_as_in_one() -> None:
    X = rows()
    begun = estimator().fit(X[:300])
    one = pickle.loads(pickle.dumps(begun)).update(X[300:])
    two = pickle.loads(pickle.dumps(begun)).update(X[300:450]).update(X[450:])
    assert_alike(one, two, 1e-6)
    assert two.n_updates_ == 2
    assert [run.kind for run in two.record_.earlier] == ["fit", "update"]
    assert (two.record_.kind, two.record_.n_rows) == ("update", 150)
    assert kept_of(one).rows == kept_of(two).rows == 600
    np.testing.assert_allclose(
        kept_of(one).statistics.counts, kept_of(two).statistics.counts, atol=1e-6
    )


def test_rows_of_which_none_takes_part_change_nothing() -> None:
    gm = estimator(missing="drop").fit(rows())
    before = everything(gm)
    assert gm.update(np.full((50, 2), np.nan)) is gm
    assert gm.partial_fit(np.full((50, 2), np.nan)) is gm
    assert everything(gm) == before


@settings(max_examples=5, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    apart=st.floats(0.1, 0.5),
    family=st.sampled_from(FAMILIES),
    acceleration=st.sampled_from([None, "squarem"]),
    new=st.integers(1, 80),
)
def test_the_free_energy_never_falls(
    seed: int, apart: float, family: str, acceleration: str | None, new: int
) -> None:
    X, later = rows(120, seed, apart), rows(new, seed + 1, apart) + 0.5
    how = {"covariance_type": family, "acceleration": acceleration, "reg_covar": 0.0, "tol": 0.0}
    gm = estimator(**{**how, "max_iter": 6})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapsedComponentWarning)
        gm.fit(X)
        kept, before = gm._kept, gm._parameters()
        if kept is None:
            return
        warnings.simplefilter("ignore", DriftWarning)
        gm.update(later)
    begun = kept.free_energy(before) + gm._kernel().log_densities(later, before).sum()
    bounds = np.array([begun / (120 + new), *gm.lower_bounds_])
    assert np.all(np.diff(bounds) >= -1e-9 * (1.0 + np.abs(bounds[1:])))
    if gm._kept is not None:
        both = gm._kept.free_energy(gm._parameters()) / (120 + new)
        assert both >= gm.lower_bound_ - 1e-9
        likelihood = gm._kernel().log_densities(np.concatenate([X, later]), gm._parameters())
        assert likelihood.mean() >= both - 1e-9


def test_drift_is_foretold_and_measured() -> None:
    X, later = rows(4000, 1, 0.25), np.array([1.0, 0.0]) + rows(2000, 2, 0.25)
    gm = estimator(tol=1e-6).fit(X)
    kept, before = kept_of(gm), gm._parameters()
    told = pickle.loads(pickle.dumps(gm))
    with pytest.warns(DriftWarning, match="have another label.*warm_start=True"):
        told.update(later)
    with pytest.warns(DriftWarning, match="4,000 rows that the update has not read"):
        gm.update(later, check=X)
    was = gm.drift_
    assert was.exact
    assert (was.rows, told.drift_.exact) == (4000, False)
    assert told.drift_.divergence == pytest.approx(was.divergence, rel=0.25)
    assert told.drift_.changed_labels == pytest.approx(was.changed_labels, rel=0.25)
    old, new = (gm._kernel().posteriors(X, p) for p in (before, gm._parameters()))
    assert was.divergence == pytest.approx((old * np.log(old / new)).sum(axis=1).mean())
    assert was.changed_labels == (old.argmax(axis=1) != new.argmax(axis=1)).mean()
    whole = gm._kernel().log_densities(X, gm._parameters()).sum()
    after = kept.free_energy(gm._parameters())
    assert was.accumulated == pytest.approx((whole - after) / 4000, rel=1e-6)
    assert was.gap == pytest.approx(was.accumulated * 2 / 3)
    refit = pickle.loads(pickle.dumps(gm)).set_params(warm_start=True)
    both = np.concatenate([X, later])
    gained = refit.fit(both).score(both) - gm.score(both)
    assert 0.1 * was.gap < gained < 3.0 * was.gap


@pytest.mark.slow
def test_rows_that_drift_is_foretold_by_are_drawn_in_parts() -> None:
    """Their memory is bounded, however many features they have."""
    before, after = (random_mixture(seed, "diag", 3, 1500) for seed in (0, 1))
    found: list[tuple[int, float, float]] = []
    peak = peak_of(lambda: found.append(simulated_drift(before, after)), 120e6)
    assert peak < 120e6  # all 20,000 would take twice as much by themselves
    assert found[0][0] == 20_000


@pytest.mark.slow
def test_drift_adds_up_over_updates_and_a_check_says_what_it_has_come_to() -> None:
    gm = estimator(tol=1e-6).fit(rows(1000, 1, 0.25))
    seen = [rows(1000, 1, 0.25)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DriftWarning)
        for n in range(3):
            seen.append(np.array([0.3 * n, 0.0]) + rows(300, 10 + n, 0.25))
            gm.update(seen[-1], check=None if n < 2 else seen[:-1])
            if n == 1:
                told = gm.drift_.accumulated
                assert told > gm.drift_.divergence
    assert gm.drift_.exact
    assert gm.drift_.rows == 1600
    assert told < 1.5 * gm.drift_.accumulated


def test_weights_count_copies_and_gaps_are_taken_as_they_are() -> None:
    X, rng = rows(), np.random.default_rng(0)
    w = rng.integers(0, 3, size=600)
    weighted = estimator().fit(X[:400], sample_weight=w[:400])
    weighted.update(X[400:], sample_weight=w[400:])
    copies = estimator().fit(np.repeat(X, w, axis=0))
    assert_alike(weighted, copies, 1e-6)
    gappy = X.copy()
    gappy[rng.random(X.shape) < 0.1] = np.nan
    dropped = estimator(missing="drop").fit(gappy[:400]).update(gappy[400:], check=gappy[:400])
    assert_alike(dropped, estimator(missing="drop").fit(gappy), 1e-6)
    assert dropped.drift_.accumulated < 1e-6
    # What was expected in gaps stays as it was, too; a check counts that.
    gm = estimator(missing="marginalize").fit(gappy[:400])
    kept = kept_of(gm)
    gm.update(gappy[400:], check=gappy[:400])
    assert_alike(gm, estimator(missing="marginalize").fit(gappy), 0.02)
    whole = gm.criteria(gappy[:400]).log_likelihood
    lacks = (whole - kept.free_energy(gm._parameters())) / kept.weight
    assert gm.drift_.accumulated == pytest.approx(lacks, rel=1e-6)
    assert gm.drift_.accumulated > 2 * gm.drift_.divergence


def test_rows_are_scaled_as_they_were() -> None:
    X = rows() * [1.0, 100.0] + 5.0
    gm = estimator(standardize=True).fit(X[:400])
    scale = gm.scaling_
    gm.update(X[400:])
    assert gm.scaling_ is scale or gm.scaling_ == scale
    whole = estimator().fit(X)
    ours, theirs = gm.original_units().means, whole.means_
    order = [int(np.argmin(np.abs(ours - m).sum(axis=1))) for m in theirs]
    np.testing.assert_allclose(ours[order], theirs, atol=1e-4)
    with pytest.raises(InputError, match="scales rows as that fit did"):
        gm.set_params(standardize=False).update(X)


def test_models_go_on_from_files(tmp_path: Path) -> None:
    X = rows()
    gm = estimator().fit(X[:400]).update(X[400:500])
    gm.save(tmp_path / "m.zarr")
    loaded = GaussianMixture.load(tmp_path / "m.zarr")
    assert (loaded.drift_, loaded.n_updates_, loaded.record_) == (gm.drift_, 1, gm.record_)
    assert loaded.update(X[500:]).means_.tolist() == gm.update(X[500:]).means_.tolist()
    assert kept_of(loaded).fingerprint == kept_of(gm).fingerprint
    assert "update" in repr(loaded.model_card()["fit"]["updates"]["runs"])
    assert loaded.summary()
    found = zarr.open_group(tmp_path / "m.zarr", mode="r+")
    counts = found[f"{found.attrs['arrays']}/kept_counts"]
    assert isinstance(counts, zarr.Array)
    counts[0] = 7.0
    with pytest.warns(ModelFileWarning, match="kept for rows which come later.*not as they were"):
        damaged = GaussianMixture.load(tmp_path / "m.zarr")
    with pytest.raises(InputError, match="no statistics for update"):
        damaged.update(X)


def refused(gm: GaussianMixture, said: str, *args: Any, **given: Any) -> None:
    before = everything(gm)
    with pytest.raises(InputError, match=said):
        gm.update(*args, **given)
    assert everything(gm) == before


def test_mistakes_are_told() -> None:
    X = rows(60)
    gm = estimator(max_iter=3).fit(X)
    with pytest.raises(ValueError, match="expecting 2 features"):
        gm.update(np.ones((5, 3)))
    refused(gm, "NaN", np.full((5, 2), np.nan))
    refused(gm, "belong to check=", X, check_weight=np.ones(60))
    refused(gm, "check has 50 rows, and the statistics that are kept are of 60", X, check=X[:50])
    refused(gm, "add up to 120", X, check=X, check_weight=np.full(60, 2.0))
    mended = estimator(max_iter=0).fit(X)
    refused(mended, "no statistics for update", X)
    refused(clone(gm).from_sklearn(SklearnGaussianMixture(3).fit(X)), "no statistics", X)
    gm.means_ = gm.means_ + 1.0
    refused(gm, "set by hand", X)
    gm.means_ = gm.means_ - 1.0
    refused(estimator(max_iter=3).fit(X).set_params(n_components=2), "3 components", X)
    with pytest.raises(ValueError, match="not fitted"):
        estimator().update(X)
    noisy = estimator(noise=True, max_iter=3)
    with pytest.raises(InputError, match="partial_fit goes on from sums"):
        noisy.partial_fit(X)
    refused(noisy.fit(X), "no statistics for update.*with noise", X)


# -- from stores, on clusters --------------------------------------------------------------------


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("updates")
    for name, seed in (("old", 0), ("new", 1)):
        data = rows(3000, seed, 0.4)
        zarr.create_array(folder / f"{name}.zarr", data=data, chunks=(250, 2))
    return str(folder / "old.zarr"), str(folder / "new.zarr")


def bits(gm: GaussianMixture) -> tuple[bytes, str, Any]:
    return gm._parameters().means.tobytes(), kept_of(gm).fingerprint, gm.drift_


def updated(stores: tuple[str, str], **given: Any) -> GaussianMixture:
    gm: GaussianMixture = estimator(max_iter=8, cache=0).fit(stores[0])
    gm.update(stores[1], **given)
    return gm


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::dask_gmm.errors.DriftWarning")
def test_two_processes_find_the_same_bits_and_read_only_what_is_new(
    stores: tuple[str, str], two_processes: Client
) -> None:
    here = updated(stores, check=stores[0])
    assert here.acceleration_ == "squarem"
    assert here.history_[0].bytes_read == 3000 * 16
    assert all(one.blocks == 12 for one in here.history_)
    with two_processes.as_current():
        there = updated(stores, check=stores[0])
    assert bits(here) == bits(there)
    gm = estimator(max_iter=8, cache=0).fit(stores[0])
    before = read_counter()
    gm.update(stores[1])
    assert (read_counter() - before).gets == 12 * gm.n_passes_


@pytest.mark.filterwarnings("ignore::dask_gmm.errors.DriftWarning")
def test_an_update_goes_on_from_its_checkpoint(stores: tuple[str, str], tmp_path: Path) -> None:
    whole = updated(stores)
    begun = estimator(max_iter=8, cache=0).fit(stores[0])
    short = pickle.loads(pickle.dumps(begun)).set_params(max_passes=2)
    short.update(stores[1], checkpoint=tmp_path / "c")
    assert short.outcome_ == "max_passes"
    resumed = pickle.loads(pickle.dumps(begun)).update(stores[1], checkpoint=tmp_path / "c")
    assert resumed.record_.resumed_after == 2
    assert bits(resumed) == bits(whole)
    other = estimator(max_iter=1, cache=0).fit(stores[0]).set_params(max_iter=8)
    with pytest.raises(OSError, match=r"kept statistics|warm start"):
        other.update(stores[1], checkpoint=tmp_path / "c")


@pytest.mark.slow
def test_what_a_selection_has_found_can_be_updated() -> None:
    X = rows()
    found = select_gaussian_mixture(X[:400], [2, 3], random_state=0)
    gm = found.best_model
    assert gm.n_components == 3
    gm.update(X[400:])
    assert gm.n_rows_ == 600


def test_a_prior_goes_with_it_and_counts_once() -> None:
    X = rows()
    prior = Prior(concentration=2.0, mean=[0.0, 0.0], shrinkage=5.0, scale=np.eye(2))
    gm = estimator(prior=prior).fit(X[:400]).update(X[400:])
    assert_alike(gm, estimator(prior=prior).fit(X), 1e-5)
    taken = estimator(prior="fraley-raftery", max_iter=3).fit(X)
    refused(taken, "priors that are taken from the data", X)
    frozen = estimator(frozen="means", means_init=CENTRES, max_iter=3).fit(X)
    refused(frozen, "no statistics for update.*with frozen parts", X)
