"""The search as users meet it: when it is made, that it is the same everywhere, and how it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
import zarr
from sklearn.mixture import GaussianMixture as ScikitLearnMixture
from sklearn.utils._param_validation import InvalidParameterError

from dask_gmm import GaussianMixture, select_gaussian_mixture
from dask_gmm.errors import CheckpointError
from dask_gmm.fitting.events import PassFinished, SearchAdvanced, SearchFinished
from tests.fitting.search.problems import CENTRES, POOR, clusters
from tests.marks import quick_ones

if TYPE_CHECKING:
    from pathlib import Path

    from distributed import Client
    from numpy.typing import NDArray

K = len(CENTRES)


@pytest.fixture(scope="module")
def values() -> NDArray[np.float64]:
    return clusters(n=6000)


@pytest.fixture(scope="module")
def best(values: NDArray[np.float64]) -> float:
    """The mean log-likelihood of the optimum from the truth."""
    return float(fit(values, acceleration=None, tol=1e-8, means_init=CENTRES).score(values))


def fit(X: Any, events: list[object] | None = None, **settings: Any) -> GaussianMixture:
    watch = [] if events is None else [events.append]
    settings = {"random_state": 0, "init_size": 2000, **settings}
    gm = GaussianMixture(K, callbacks=watch, **settings)
    gm.fit(X)
    return gm


def lazy(values: NDArray[Any]) -> Any:
    return da.from_array(values, chunks=(1000, -1))


def searched(events: list[object]) -> bool:
    return any(isinstance(event, SearchFinished) for event in events)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, True),
        ({"search": "off"}, False),
        ({"search": 0}, False),
        ({"acceleration": None}, False),
        ({"acceleration": None, "search": "thorough"}, True),
        ({"acceleration": "squarem"}, False),
        ({"acceleration": "squarem", "search": 20}, True),
        ({"means_init": POOR}, False),
        ({"means_init": POOR, "search": 40}, True),
        ({"init_size": 10_000}, False),  # all rows are in the sample
        ({"init_params": "k-means||"}, True),
    ],
    ids=str,
)
def test_when_data_that_are_read_are_searched(
    values: NDArray[np.float64], best: float, settings: dict[str, Any], expected: bool
) -> None:
    events: list[object] = []
    gm = fit(lazy(values), events, **settings)
    assert searched(events) is expected
    if expected:
        assert gm.score(values) > best - 5e-3


@pytest.mark.parametrize(("size", "expected"), [(1000, True), (1001, False)])
def test_which_arrays_in_memory_are_searched(size: int, expected: bool) -> None:
    events: list[object] = []
    fit(clusters(n=50_000), events, init_size=size)
    assert searched(events) is expected


def test_a_poor_optimum_is_left_before_the_first_read(
    values: NDArray[np.float64], best: float
) -> None:
    """From the same given start, in as few reads."""
    poor = fit(lazy(values), means_init=POOR, search="off")
    found = fit(lazy(values), means_init=POOR, search=40)
    assert poor.score(values) < best - 0.01
    assert found.score(values) > best - 2e-3
    assert found.n_passes_ <= poor.n_passes_ + 2


def test_small_arrays_are_fitted_as_scikit_learn_does(values: NDArray[np.float64]) -> None:
    mine = fit(values, init_size="auto")
    theirs = ScikitLearnMixture(K, random_state=0).fit(values)
    assert np.allclose(mine.means_, theirs.means_)
    assert mine.n_iter_ == theirs.n_iter_


def bits(gm: GaussianMixture) -> tuple[bytes, ...]:
    return tuple(a.tobytes() for a in (gm.weights_, gm.means_, gm.covariances_))


@pytest.mark.slow
def test_the_same_bits_on_a_cluster(
    values: NDArray[np.float64], two_processes: Client, tmp_path: Path
) -> None:
    path = str(tmp_path / "rows.zarr")
    zarr.create_array(path, data=values, chunks=(1000, 2))
    here = fit(path, means_init=POOR, search=40)
    with two_processes.as_current():
        there = fit(path, means_init=POOR, search=40)
    assert bits(here) == bits(there)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_same_bits_when_a_fit_goes_on(values: NDArray[np.float64], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"random_state": 0, "init_size": 2000, "tol": 1e-7}
    settings |= {"means_init": POOR, "search": 40}
    place, events = tmp_path / "checkpoint", list[object]()
    GaussianMixture(K, max_passes=1, **settings).fit(lazy(values), checkpoint=place)
    rest = GaussianMixture(K, callbacks=[events.append], **settings)
    rest.fit(lazy(values), checkpoint=place, resume="must")
    assert not searched(events)  # what it has found is in the checkpoint
    assert rest.n_passes_ > 1
    assert bits(rest) == bits(GaussianMixture(K, **settings).fit(lazy(values)))
    with pytest.raises(CheckpointError, match="search"):
        GaussianMixture(K, **settings).set_params(search="off").fit(lazy(values), checkpoint=place)


KINDS = ["float32", "weights", "gaps", "few complete rows"]


@pytest.mark.parametrize(
    "covariance_type", quick_ones(["full", "tied", "diag", "spherical"], ["full"])
)
@pytest.mark.parametrize("kind", quick_ones(KINDS, KINDS[:3]))
def test_families_and_rows_of_any_kind(
    values: NDArray[np.float64], covariance_type: str, kind: str
) -> None:
    rows, settings, weights = values.copy(), dict[str, Any](), None
    if kind == "float32":
        rows = rows.astype(np.float32)
    elif kind == "weights":
        weights = np.random.default_rng(0).uniform(0.5, 1.5, size=len(rows))
    else:
        settings["missing"] = "marginalize"
        every = np.arange(len(rows)) % 2 if kind == "gaps" else np.arange(len(rows)) % 20 > 0
        rows[every == 1, 1] = np.nan
    events: list[object] = []
    settings |= {"covariance_type": covariance_type, "means_init": POOR, "search": 40}
    watch = [events.append]
    gm = GaussianMixture(K, random_state=0, init_size=3000, callbacks=watch, **settings)
    chunked = None if weights is None else da.from_array(weights, chunks=1000)
    gm.fit(lazy(rows), sample_weight=chunked)
    assert searched(events) is (kind != "few complete rows")
    if searched(events):
        near = np.linalg.norm(gm.means_[:, None] - CENTRES[None], axis=-1).min(axis=0)
        assert near.max() < 0.6


@pytest.mark.parametrize("acceleration", [None, "squarem"])
def test_where_a_fit_sets_out_takes_part(
    values: NDArray[np.float64], best: float, acceleration: str | None
) -> None:
    """Also where no sample leads the fit: as the only restart, or beside what was given."""
    settings: dict[str, Any] = {"acceleration": acceleration, "init_size": 2000, "random_state": 0}
    events: list[object] = []
    gm = GaussianMixture(K, means_init=CENTRES, tol=1e-6, warm_start=True, **settings)
    before = gm.fit(lazy(values)).score(values)
    gm.set_params(search=20, tol=1e-3, callbacks=[events.append]).fit(lazy(values))
    assert searched(events)
    assert gm.score(values) > before - 1e-6
    events.clear()
    GaussianMixture(K, search=20, callbacks=[events.append], **settings).fit(lazy(values))
    passes = [event for event in events if isinstance(event, PassFinished)]
    most = 1 if acceleration is None else 2
    assert all(len(event.lower_bounds) <= most for event in passes)


@pytest.mark.parametrize("search", [0, np.int64(0), np.int32(3)])
def test_integers_of_any_kind(values: NDArray[np.float64], search: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"random_state": np.int64(0), "init_size": np.int64(2000)}
    settings |= {"n_init": np.int64(1), "max_iter": np.int64(50), "max_passes": np.int64(1)}
    k: Any = np.int64(K)
    GaussianMixture(k, search=search, **settings).fit(lazy(values), checkpoint=tmp_path)
    plain: Any = "off" if search == 0 else 3
    gm = GaussianMixture(K, search=plain, **settings).set_params(max_passes=3)
    assert gm.fit(lazy(values), checkpoint=tmp_path, resume="must").n_passes_ >= 1


@pytest.mark.slow
def test_an_interrupt_ends_the_search(values: NDArray[np.float64]) -> None:
    def interrupt(event: object) -> None:
        if isinstance(event, SearchAdvanced):
            raise KeyboardInterrupt

    settings: dict[str, Any] = {"means_init": POOR, "search": 40, "random_state": 0}
    with pytest.raises(KeyboardInterrupt):
        GaussianMixture(K, init_size=2000, callbacks=[interrupt], **settings).fit(lazy(values))
    again = GaussianMixture(K, init_size=2000, **settings).fit(lazy(values))
    assert np.array_equal(again.means_, fit(lazy(values), means_init=POOR, search=40).means_)


@pytest.mark.slow
def test_a_selection_searches_and_grows(values: NDArray[np.float64], best: float) -> None:
    events: list[object] = []
    settings: dict[str, Any] = {"random_state": 0, "init_size": 2000, "init_params": "random"}
    found = select_gaussian_mixture(
        lazy(values), range(3, 8), "full", callbacks=[events.append], **settings
    )
    assert searched(events)
    assert found.best_n_components == K
    assert found.best_model.score(values) > best - 5e-3
    events.clear()
    select_gaussian_mixture(
        lazy(values), [2, 3], "full", callbacks=[events.append], search="off", **settings
    )
    assert not searched(events)


@pytest.mark.parametrize("search", ["often", -1, 1.5, None])
def test_what_is_no_search(search: Any) -> None:
    with pytest.raises(InvalidParameterError, match="search"):
        GaussianMixture(2, search=search).fit(np.zeros((4, 1)))
