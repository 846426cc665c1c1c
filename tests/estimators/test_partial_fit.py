"""`partial_fit`: one step a batch, against the formula by hand and the optimum of all rows."""

from __future__ import annotations

import os
import pickle
import signal
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from dask.base import tokenize
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dask_gmm import GaussianMixture
from dask_gmm.data.stores import read_counter
from dask_gmm.errors import CollapsedComponentError, CollapsedComponentWarning, InputError
from tests.estimators.test_updates import bits, everything, kept_of, rows
from tests.mixture.problems import FAMILIES

if TYPE_CHECKING:
    from pathlib import Path

    from distributed import Client


def estimator(**given: Any) -> GaussianMixture:
    return GaussianMixture(3, **{"random_state": 0, **given})


def moments(gm: GaussianMixture, X: np.ndarray) -> list[np.ndarray]:
    """Per row: N_k, Σ r x, Σ r x xᵀ by the posteriors at the mixture, about the origin."""
    r = gm.predict_proba(X) / len(X)
    return [r.sum(axis=0), r.T @ X, np.einsum("nk,ni,nj->kij", r, X, X)]


def by_hand(running: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n, first, second = running
    means = first / n[:, None]
    return n, means, second / n[:, None, None] - np.einsum("ki,kj->kij", means, means)


@pytest.mark.parametrize("rule", [{}, {"exponent": 0.8, "offset": 2.0}, {"half_life": 150.0}])
def test_steps_are_those_of_the_formula(rule: dict[str, Any]) -> None:
    batches = [rows(n, seed, 0.3) for seed, n in enumerate((200, 100, 150))]
    gm = estimator(reg_covar=0.0).partial_fit(batches[0])
    start = pickle.loads(pickle.dumps(gm))
    running = None
    seen = 200.0
    for X in batches[1:]:
        fresh = moments(gm, X)
        if running is None:  # the first batch's, from the mixture that they made
            n, m, c = start.weights_, start.means_, start.covariances_
            outer = np.einsum("ki,kj->kij", m, m)
            running = [n, n[:, None] * m, n[:, None, None] * (c + outer)]
        if "half_life" in rule:
            left = seen * 2.0 ** (-len(X) / rule["half_life"])
            eta, seen = len(X) / (left + len(X)), left + len(X)
        else:
            t = seen / len(X) + 1.0 + rule.get("offset", 0.0)
            eta, seen = t ** -rule.get("exponent", 0.6), seen + len(X)
        running = [(1 - eta) * a + eta * b for a, b in zip(running, fresh, strict=True)]
        expected, score = by_hand(running), gm.score(X)
        gm.partial_fit(X, **rule)
        for ours, theirs in zip((gm.weights_, gm.means_, gm.covariances_), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-10)
        assert gm.lower_bounds_[-1] == pytest.approx(score)
    assert (gm.n_rows_, gm.n_updates_, gm.n_iter_, gm.outcome_) == (450, 3, 3, "stream")
    assert gm.record_.kind == "partial_fit"
    assert [(run.kind, run.n_rows) for run in gm.record_.earlier] == [("partial_fit", 300)]


def test_with_exponent_one_rows_count_alike_however_they_are_cut() -> None:
    """Where responsibilities do not change the running statistics are those of all rows."""
    X = rows(900)
    whole = estimator(tol=1e-9).fit(X)
    gm = estimator(tol=1e-9).fit(X[:300])
    for part in (slice(300, 310), slice(310, 800), slice(800, 900)):
        gm.partial_fit(X[part], exponent=1.0)
    order = [int(np.argmin(np.abs(gm.means_ - m).sum(axis=1))) for m in whole.means_]
    np.testing.assert_allclose(gm.means_[order], whole.means_, atol=1e-6)
    np.testing.assert_allclose(gm.covariances_[order], whole.covariances_, atol=1e-6)
    assert kept_of(gm).rows == gm.n_rows_ == 900


@pytest.mark.slow
def test_a_stream_comes_near_the_optimum_of_its_rows_and_follows_drift() -> None:
    X = rows(12_000, 3, 0.35)
    gm = estimator()
    short = {}
    for t in range(60):
        gm.partial_fit(X[200 * t : 200 * (t + 1)])
        short[t] = gm.score(X)
    best = estimator(tol=1e-8, max_iter=500, means_init=gm.means_).fit(X).score(X)
    assert best - short[59] < 2e-3 < 4e-3 < best - short[4]
    follows, stays = (pickle.loads(pickle.dumps(gm)) for _ in range(2))
    for t in range(20):
        moved = np.array([0.2 * t, 0.0]) + rows(200, 100 + t, 0.35)
        follows.partial_fit(moved, half_life=500.0)
        stays.partial_fit(moved, exponent=1.0)
    assert follows.score(moved) > stays.score(moved) + 0.1


@settings(max_examples=5, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    family=st.sampled_from(FAMILIES),
    reg=st.sampled_from([0.0, 1e-6]),
    half_life=st.sampled_from([None, 1.0, 1e-3, 1e6]),
    ones=st.booleans(),
)
def test_whatever_comes_the_mixture_stays_one(
    seed: int, family: str, reg: float, half_life: float | None, ones: bool
) -> None:
    """Single rows, the same row again and again, rows far away; components that starve."""
    rng = np.random.default_rng(seed)
    gm = GaussianMixture(3, covariance_type=family, reg_covar=reg, random_state=0)
    try:
        gm.partial_fit(rows(60, seed, 0.3))
    except CollapsedComponentError:  # of the start, as in a fit
        assume(reg > 0.0)
        raise
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapsedComponentWarning)
        for t in range(6):
            X = rng.normal(size=(1 if ones else 20, 2)) * 10.0 ** rng.integers(-3, 4)
            if t % 2 and not (family == "tied" and reg == 0.0):
                X = np.repeat(X[:1], 30, axis=0)
            gm.partial_fit(X, half_life=half_life)
            p = gm._parameters()
            assert np.isfinite(p.means).all()
            assert np.isfinite(p.precisions_cholesky).all()
            assert (p.form.diagonals(p.covariances, 3, 2) > 0).all()
            assert p.weights.sum() == pytest.approx(1.0)
            assert np.isfinite(gm.score_samples(rows(10, 1, 0.3))).all()
            assert np.isfinite(kept_of(gm).entropy)


def test_a_component_that_starves_keeps_its_place_and_comes_back() -> None:
    gm = estimator().fit(rows(600))
    far = int(np.argmax(gm.means_[:, 1]))
    place, width = gm.means_[far].copy(), gm.covariances_[far].copy()
    others = rows(600)[rows(600)[:, 1] < 5.0]
    gm.partial_fit(others, half_life=100.0)
    with pytest.warns(CollapsedComponentWarning, match=f"Component {far} holds .* keeps its mean"):
        gm.partial_fit(others, half_life=20.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapsedComponentWarning)
        for _ in range(5):
            gm.partial_fit(others, half_life=20.0)
    np.testing.assert_allclose(gm.means_[far], place, atol=1e-3)
    np.testing.assert_allclose(gm.covariances_[far], width, atol=0.02)
    assert 0.0 < gm.weights_[far] < 1e-3
    gm.partial_fit(rows(600, 9), half_life=600.0)
    assert gm.weights_[far] > 0.2


def test_weights_masks_gaps_and_scaling_go_with_it() -> None:
    X, w = rows(600, 0, 0.3), np.random.default_rng(0).integers(0, 3, 600)
    one, other = estimator().fit(X), estimator().fit(X)
    one.partial_fit(X[:300], sample_weight=w[:300])
    other.partial_fit(np.repeat(X[:300], w[:300], axis=0))
    np.testing.assert_allclose(one.means_, other.means_, rtol=1e-9)
    masked = estimator().fit(X).partial_fit(X, where=np.arange(600) < 300)
    half = estimator().fit(X).partial_fit(X[:300])
    np.testing.assert_allclose(masked.means_, half.means_, rtol=1e-12)
    gappy = X.copy()
    gappy[::7, 1] = np.nan
    gm = estimator(missing="marginalize", standardize=True).partial_fit(gappy[:300])
    scaling = gm.scaling_
    gm.partial_fit(gappy[300:])
    assert gm.scaling_ is scaling
    assert gm.n_incomplete_rows_ == np.isnan(gappy).any(axis=1).sum()


def test_state_goes_through_files_pickles_and_tokens(tmp_path: Path) -> None:
    gm = estimator().partial_fit(rows(300)).partial_fit(rows(200, 1))
    gm.save(tmp_path / "m.zarr")
    loaded = GaussianMixture.load(tmp_path / "m.zarr")
    copied = pickle.loads(pickle.dumps(gm))
    assert tokenize(gm) == tokenize(copied) == tokenize(loaded)
    for other in (loaded, copied):
        assert bits(other.partial_fit(rows(100, 2))) != bits(gm)
    assert bits(loaded) == bits(copied)
    assert "update" in copied.update(rows(100, 3)).record_.kind
    card = loaded.model_card()
    assert card["fit"]["updates"]["count"] == 3
    assert any("came in batches" in line for line in card["limitations"])
    assert "took in a batch" in loaded.summary()


@pytest.mark.parametrize(
    ("said", "given"),
    [
        ("above 0.5 and at most 1", {"exponent": 0.5}),
        ("above 0.5 and at most 1", {"exponent": "fast"}),
        ("0 or more", {"offset": -1.0}),
        ("positive number of rows", {"half_life": 0}),
        ("positive number of rows", {"half_life": float("nan")}),
    ],
)
def test_step_sizes_that_are_none(said: str, given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=said):
        estimator().partial_fit(rows(60), **given)


def test_mistakes_are_told() -> None:
    with pytest.raises(InputError, match=r"first batch .* has 5 rows, .* needs 9"):
        estimator().partial_fit(rows(5))
    with pytest.raises(InputError, match="has 8 rows"):
        estimator(missing="drop").partial_fit(np.concatenate([rows(8), np.full((5, 2), np.nan)]))
    gm = estimator().partial_fit(rows(60))
    before = everything(gm)
    for X, said in ((np.ones((5, 3)), "expecting 2 features"), (np.full((5, 2), np.inf), "inf")):
        with pytest.raises(ValueError, match=said):
            gm.partial_fit(X)
    assert everything(gm) == before
    with pytest.raises(InputError, match="no statistics for partial_fit"):
        GaussianMixture.from_sklearn(gm.to_sklearn()).partial_fit(rows(60))
    with pytest.raises(ValueError, match="tol"):
        estimator(tol=-1.0).partial_fit(rows(60))


def test_two_processes_take_in_a_batch_to_the_same_bits_in_one_read(
    tmp_path: Path, two_processes: Client
) -> None:
    path = tmp_path / "x.zarr"
    zarr.create_array(path, data=rows(3000, 0, 0.4), chunks=(250, 2))
    here = estimator().partial_fit(rows(500, 5, 0.4))
    there = pickle.loads(pickle.dumps(here))
    before = read_counter()
    here.partial_fit(path)
    assert (read_counter() - before).gets == 12
    with two_processes.as_current():
        there.partial_fit(path)
    assert bits(here) == bits(there)
    (record,) = there.history_
    assert (record.rows, record.blocks) == (3000, 12)


@pytest.mark.slow
def test_a_worker_that_dies_costs_no_bit(tmp_path: Path, mortal_processes: Client) -> None:
    path = tmp_path / "x.zarr"
    zarr.create_array(path, data=rows(40_000, 0, 0.4), chunks=(500, 2))
    here = estimator().partial_fit(rows(500, 5, 0.4))
    there = pickle.loads(pickle.dumps(here))
    here.partial_fit(path).update(path)
    victim = next(iter(mortal_processes.scheduler_info()["workers"]))
    pid = mortal_processes.run(_pid, workers=[victim])[victim]
    killed: list[int] = []

    def kill(event: Any) -> None:
        if type(event).__name__ == "PassAdvanced" and not killed:
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    with mortal_processes.as_current():
        there.set_params(callbacks=[kill]).partial_fit(path).update(path)
    assert killed
    assert bits(here) == bits(there)


def _pid() -> int:
    return os.getpid()
