"""Populations that no sample holds, found by the pass that reads them anyway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
import zarr
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture as ScikitLearnMixture

from dask_gmm import GaussianMixture
from dask_gmm.fitting.events import PassFinished, PassStarted, RareComponentsFound, SampleAdvanced
from dask_gmm.fitting.search.reservoir import SievingJob
from tests.marks import quick_ones

if TYPE_CHECKING:
    from pathlib import Path

    from distributed import Client
    from numpy.typing import NDArray

N, RARE, K = 80_000, 40, 5
PLACE = np.array([8.0, 9.0])
#: Four clusters; the fifth population is one row in two thousand, and the sample has no row of it.
CENTRES = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0], [16.0, 16.0]])
START = np.vstack([CENTRES[0] - 1.0, CENTRES[0] + 1.0, CENTRES[1:]])


def planted(seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Rows, and which of them are rare."""
    rng = np.random.default_rng(seed)
    values = CENTRES[rng.integers(4, size=N)] + rng.normal(size=(N, 2))
    rare = np.zeros(N, dtype=bool)
    rare[rng.choice(N, RARE, replace=False)] = True
    values[rare] = PLACE + 0.7 * rng.normal(size=(RARE, 2))
    return values, rare


@pytest.fixture(scope="module")
def drawn() -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    return planted()


def fit(X: Any, events: list[object] | None = None, **settings: Any) -> GaussianMixture:
    watch = [] if events is None else [events.append]
    weights = settings.pop("sample_weight", None)
    extra = {
        name: settings.pop(name) for name in ("where", "checkpoint", "resume") if name in settings
    }
    settings = {"random_state": 0, "init_size": 1500, "search": 4, "tol": 1e-4, **settings}
    if not settings.get("standardize"):
        settings = {"means_init": START, **settings}
    gm = GaussianMixture(K, callbacks=watch, **settings)
    gm.fit(X, sample_weight=weights, **extra)
    return gm


def lazy(values: NDArray[Any]) -> Any:
    return da.from_array(values, chunks=(10_000, *values.shape[1:]))


def quality(
    labels: NDArray[Any], means: NDArray[np.float64], rare: NDArray[np.bool_]
) -> tuple[float, float]:
    """Recall and precision of the component that holds most of the rare rows."""
    mine = labels == np.bincount(labels[rare], minlength=len(means)).argmax()
    hits = float((mine & rare).sum())
    return hits / rare.sum(), hits / mine.sum()


def reads(events: list[object]) -> int:
    return sum(isinstance(event, PassFinished) for event in events)


def test_a_rare_population_is_found_in_as_many_reads(
    drawn: tuple[NDArray[np.float64], NDArray[np.bool_]],
) -> None:
    values, rare = drawn
    found, before = list[object](), list[object]()
    gm = fit(lazy(values), found)
    told = tuple(found)
    off = fit(lazy(values), before, search="off")
    assert any(isinstance(event, RareComponentsFound) for event in found)
    recall, precision = quality(gm.predict(values), gm.means_, rare)
    assert min(recall, precision) > 0.95
    assert quality(off.predict(values), off.means_, rare)[1] < 0.5
    assert gm.score(values) > off.score(values) + 1e-3
    assert reads(found) == gm.n_passes_ <= reads(before)
    # What a rival takes part with is nobody's start, and its bound is not the fit's.
    passes = [event for event in told if isinstance(event, PassFinished)]
    assert [len(event.lower_bounds) for event in passes[1:]] == [1] * (len(passes) - 1)
    started = [event.candidates for event in told if isinstance(event, PassStarted)]
    assert started == [len(event.lower_bounds) for event in passes]
    stages = [event.work for event in told if isinstance(event, SampleAdvanced)]
    assert stages.count("looking for rare components") == 1
    assert gm.converged_
    # What the fit says of itself is of the mixture with the new component.
    assert gm.lower_bound_ == pytest.approx(gm.score(values), abs=1e-5)


@pytest.mark.slow
def test_plain_em_over_all_rows_misses_it(
    drawn: tuple[NDArray[np.float64], NDArray[np.bool_]],
) -> None:
    values, rare = drawn
    theirs = ScikitLearnMixture(K, random_state=0).fit(values)
    assert quality(theirs.predict(values), theirs.means_, rare)[1] < 0.5
    assert fit(lazy(values)).score(values) > theirs.score(values) + 1e-3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_fit_that_ends_with_its_first_pass_goes_on_for_it(
    drawn: tuple[NDArray[np.float64], NDArray[np.bool_]],
) -> None:
    values, rare = drawn
    gm = fit(lazy(values), tol=3e-2)
    assert gm.n_passes_ == 2
    assert min(quality(gm.predict(values), gm.means_, rare)) > 0.95
    assert fit(lazy(values), tol=3e-2, search="off").n_passes_ == 1
    assert fit(lazy(values), tol=1.0).n_passes_ == 1  # it promises too little for that
    assert fit(lazy(values), max_passes=1).n_passes_ == 1


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "settings", [{"search": "off"}, {"acceleration": None}, {"acceleration": "squarem"}], ids=str
)
def test_nothing_is_kept_where_nothing_is_searched(
    drawn: tuple[NDArray[np.float64], NDArray[np.bool_]],
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a pass keeps rows")

    monkeypatch.setattr(SievingJob, "open", refuse)
    fit(lazy(drawn[0]), max_iter=2, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_where_there_is_nothing_to_find_a_fit_ends_as_ever(seed: int) -> None:
    """No higher cost in reads, and the same optimum."""
    values, rare = planted(seed)
    found, before = list[object](), list[object]()
    gm = fit(lazy(values[~rare]), found)
    off = fit(lazy(values[~rare]), before, search="off")
    assert not any(isinstance(event, RareComponentsFound) for event in found)
    assert reads(found) <= reads(before)
    assert gm.score(values[~rare]) > off.score(values[~rare]) - 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("far", [3e4, 1e5])
def test_a_wild_row_is_worth_no_lower_end(
    drawn: tuple[NDArray[np.float64], NDArray[np.bool_]], far: float
) -> None:
    """An optimum that gives it a component of its own is reached all the same."""
    values, rare = drawn[0].copy(), drawn[1]
    values[np.flatnonzero(~rare)[777]] = far, -far
    off = fit(lazy(values), search="off")
    assert fit(lazy(values)).lower_bound_ > off.lower_bound_ - 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("at", "spread"), [(100.0, 2.0), (1000.0, 2.0), (1000.0, 50.0)])
def test_clusters_stay_where_there_is_garbage(at: float, spread: float) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=N)
    values = CENTRES[labels] + rng.normal(size=(N, 2))
    garbage = rng.choice(N // 80, 30, replace=False) * 80 + 7
    values[garbage] = at + spread * rng.normal(size=(30, 2))
    sound = np.ones(N, dtype=bool)
    sound[garbage] = False
    agreed = []
    for search in (4, "off"):
        settings: dict[str, Any] = {"random_state": 0, "init_size": 1000, "tol": 1e-4}
        gm = GaussianMixture(4, means_init=CENTRES, search=search, **settings).fit(lazy(values))
        agreed.append(adjusted_rand_score(labels[sound], gm.predict(values[sound])))
    assert agreed[0] > agreed[1] - 0.01


def bits(gm: GaussianMixture) -> tuple[bytes, ...]:
    return tuple(a.tobytes() for a in (gm.weights_, gm.means_, gm.covariances_))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_same_bits_when_a_fit_goes_on(
    drawn: tuple[NDArray[np.float64], NDArray[np.bool_]], tmp_path: Path
) -> None:
    """Taken up after each pass: when rows have been kept, when a rival runs, when it has won."""
    values, _ = drawn
    whole = fit(lazy(values), tol=1e-7)
    assert whole.n_passes_ >= 3
    for passes in range(1, whole.n_passes_ + 1):
        part = fit(lazy(values), tol=1e-7, max_passes=passes, checkpoint=tmp_path / "place")
        assert part.n_passes_ == passes
    assert bits(part) == bits(whole)


KINDS = ["float32", "weights", "gaps", "mask", "scaled", "many arrays", "in memory"]


@pytest.mark.parametrize("kind", quick_ones(KINDS, ("gaps",)))
def test_rows_of_any_kind(drawn: tuple[NDArray[np.float64], NDArray[np.bool_]], kind: str) -> None:
    values, rare = drawn
    X, settings = lazy(values), dict[str, Any]()
    if kind == "float32":
        X = lazy(values.astype(np.float32))
    elif kind == "weights":
        weights = np.random.default_rng(0).uniform(0.5, 1.5, size=N)
        weights[::7] = 0.0
        settings["sample_weight"] = da.from_array(weights, chunks=10_000)
    elif kind == "gaps":
        gappy = values.copy()
        gappy[::3, 1] = np.nan
        X, settings["missing"], settings["init_size"] = lazy(gappy), "marginalize", 3000
    elif kind == "mask":
        settings["where"] = da.from_array(np.arange(N) % 5 > 0, chunks=10_000)
    elif kind == "scaled":
        X, settings["standardize"] = lazy(1e3 * values + 1e5), True
    elif kind == "many arrays":
        X, settings["random_state"] = [lazy(values[:35_000]), lazy(values[35_000:])], 1
    elif kind == "in memory":
        X = values
    events: list[object] = []
    gm = fit(X, events, **settings)
    assert any(isinstance(event, RareComponentsFound) for event in events)
    seen = 1e3 * values + 1e5 if kind == "scaled" else values
    assert min(quality(gm.predict(seen), gm.means_, rare)) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("covariance_type", ["tied", "diag", "spherical"])
def test_families(
    drawn: tuple[NDArray[np.float64], NDArray[np.bool_]], covariance_type: str
) -> None:
    values, rare = drawn
    gm = fit(lazy(values), covariance_type=covariance_type)
    assert min(quality(gm.predict(values), gm.means_, rare)) > 0.9


@pytest.mark.slow
def test_the_same_bits_on_a_cluster(
    drawn: tuple[NDArray[np.float64], NDArray[np.bool_]], two_processes: Client, tmp_path: Path
) -> None:
    values, rare = drawn
    path = str(tmp_path / "rows.zarr")
    zarr.create_array(path, data=values, chunks=(1500, 2))
    here = fit(path)
    with two_processes.as_current():
        there = fit(path)
    assert bits(here) == bits(there)
    assert min(quality(here.predict(values), here.means_, rare)) > 0.95
