"""The page of fits in a scheduler's dashboard: what drivers post, and what browsers are told."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import pytest
import zarr
from distributed import Client, LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st

import dask_gmm
from dask_gmm.execution.backend import PassProgress
from dask_gmm.execution.cluster import posting
from dask_gmm.execution.cluster.posting import Poster
from dask_gmm.execution.local import LocalBackend
from dask_gmm.fitting.events import (
    FitStarted,
    PassAdvanced,
    PassFinished,
    PassStarted,
)
from dask_gmm.progress.dashboard import board, routes
from dask_gmm.progress.dashboard.board import MOST_ENDED, SILENT_AFTER, Board
from dask_gmm.progress.dashboard.plugin import FitsPage
from dask_gmm.progress.posting import Posted, posted
from dask_gmm.progress.run import TOPIC, Ending, Run
from tests.progress.fits import X, mixture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def posted_by(run: Run, passes: int = 3, ending: Ending | None = None) -> dict[str, Any]:
    """The message of a fit that is in a pass."""
    post = Posted(run)
    post(FitStarted("x", "here", 1000, 2, 10, 3, 1, 100, 1e-3))
    for number in range(1, passes):
        post(PassStarted(number, 1))
        post(PassFinished(number, (-1.0 / number,), 1000, 10, 16_000, 2.0, 4, 0))
    post(PassStarted(passes, 1))
    post(PassAdvanced(passes, PassProgress(4, 10, 400, 1000, 6400, 2.0)))
    if ending is not None:
        post.end(ending)
    return post.message()


# -- the board -------------------------------------------------------------------------------------


def test_what_is_posted_arrives() -> None:
    there = Board()
    run = Run("fit", "points.zarr")
    there.take(100.0, json.loads(json.dumps(posted_by(run))))
    (fit,) = there.fits(101.0)
    assert fit["id"] == run.id
    assert (fit["state"], fit["pass"], fit["what"]) == ("running", 3, "3 components of 2 features")
    assert (fit["blocks_done"], fit["blocks_total"]) == (4, 10)
    assert fit["rows_per_second"] == 200.0
    assert fit["curve"] == [(1, -1.0, False), (2, -0.5, False)]
    assert fit["left"] == 3.0
    assert set(board._FIELDS) == set(posted_by(run)), "every field that is posted is read"


def test_a_driver_that_is_not_heard_of_is_silent_and_comes_back() -> None:
    there = Board()
    message = posted_by(Run("fit"))
    there.take(100.0, message)
    assert there.fits(100.0 + SILENT_AFTER - 0.1)[0]["silent"] is None
    (fit,) = there.fits(100.0 + SILENT_AFTER)
    assert (fit["state"], fit["silent"], fit["ended"]) == ("silent", SILENT_AFTER, None)
    assert fit["left"] is None, "nobody knows"
    there.take(200.0, message)
    assert there.fits(200.5)[0]["state"] == "running"
    assert there.fits(200.0 + board.LOST_AFTER)[0]["ended"] == board.LOST_AFTER


def test_those_that_run_keep_their_places() -> None:
    there, runs = Board(), [Run("fit") for _ in range(3)]
    for when, run in enumerate([*runs, runs[0], runs[2], runs[1]]):
        there.take(float(when), posted_by(run))
    assert [fit["id"] for fit in there.fits(6.0)] == [run.id for run in reversed(runs)]
    there.take(7.0, posted_by(runs[2], ending=Ending("done", None, 7.0)))
    assert [fit["id"] for fit in there.fits(7.0)] == [runs[1].id, runs[0].id, runs[2].id]


def test_only_so_many_are_kept() -> None:
    there, ending = Board(), Ending("done", None, 1.0)
    running = Run("fit")
    there.take(0.0, posted_by(running))
    ids = [Run("fit") for _ in range(MOST_ENDED + 5)]
    for when, run in enumerate(ids):
        there.take(float(when), posted_by(run, ending=ending))
    found = [fit["id"] for fit in there.fits(60.0)]
    assert found == [running.id, *(run.id for run in reversed(ids[5:]))]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(sorted(board._FIELDS)), anything) | anything)
def test_anybody_may_post_anything(message: Any) -> None:
    """What is no state of a fit is left out; the answer is JSON of finite numbers all the same."""
    there = Board()
    there.take(1.0, message)
    if isinstance(message, dict):
        there.take(1.0, {**message, "id": "x", "state": "running"})
    json.dumps(there.fits(2.0), allow_nan=False)
    for fit in there.fits(2.0):
        assert all(len(value) <= 200 for value in fit.values() if isinstance(value, str))


@pytest.mark.parametrize("value", [None, "many", -1, float("nan"), 10**400])
def test_what_the_page_reckons_with_is_a_number(value: Any) -> None:
    """A message that leaves something out must not take the page from all others."""
    there = Board()
    names = "pass", "blocks_done", "rows_per_second", "bytes_per_second", "points_done"
    there.take(1.0, {**posted_by(Run("fit")), **dict.fromkeys(names, value)})
    (fit,) = there.fits(2.0)
    assert [fit[name] for name in names] == [0] * len(names)


# -- on a cluster ----------------------------------------------------------------------------------


class Dashboard:
    """A cluster of one worker process, and what its scheduler answers over HTTP."""

    def __init__(self, cluster: Any, client: Client) -> None:
        self.client = client
        self.address: str = cluster.scheduler.address
        self.url = f"http://127.0.0.1:{cluster.scheduler.http_server.port}"

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"{self.url}/{path}", timeout=10) as answer:
            return str(answer.read().decode())

    def fits(self) -> list[dict[str, Any]]:
        try:
            text = self.get("dask-gmm/fits.json")
        except urllib.error.HTTPError as error:
            if error.code != 404:  # else nothing has been fitted yet
                raise
            return []
        found: list[dict[str, Any]] = json.loads(text)["fits"]
        return found

    def until(self, wanted: Callable[[list[dict[str, Any]]], Any], seconds: float = 30.0) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := wanted(self.fits()):
                return found
            time.sleep(0.05)
        raise AssertionError(self.fits())


@pytest.fixture(scope="module")
def dashboard() -> Iterator[Dashboard]:
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=True, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield Dashboard(cluster, client)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("data") / "points.zarr")
    zarr.create_array(path, shape=X.shape, chunks=(200, 2), dtype=X.dtype)[:] = X
    return path


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting, "POST_EVERY", 0.05)


@pytest.mark.slow
def test_the_page_shows_what_runs_and_what_has_ended(dashboard: Dashboard, store: str) -> None:
    """Two fits at once, held in their passes until both were seen there."""
    go_on = threading.Event()

    def hold(event: Any) -> None:
        if isinstance(event, PassStarted) and event.number == 3:
            go_on.wait(60)

    def fit(k: int) -> None:
        with dashboard.client.as_current():
            mixture(n_components=k, callbacks=[hold]).fit(store)

    threads = [threading.Thread(target=fit, args=(k,)) for k in (2, 4)]
    for thread in threads:
        thread.start()
    try:

        def both(fits: list[dict[str, Any]]) -> Any:
            held = [f for f in fits if f["state"] == "running" and len(f["curve"]) == 2]
            return held if len(held) == 2 else None

        running = dashboard.until(both)
    finally:
        go_on.set()
    assert {fit["what"][0] for fit in running} == {"2", "4"}
    assert all(fit["source"].endswith("points.zarr") for fit in running)
    for thread in threads:
        thread.join(60)
    ids = {fit["id"] for fit in running}
    ended = [fit for fit in dashboard.fits() if fit["id"] in ids]
    assert [(fit["state"], fit["outcome"]) for fit in ended] == [("done", "max_iter")] * 2
    assert all(len(fit["curve"]) == fit["pass"] == 4 for fit in ended)
    cluster = json.loads(dashboard.get("dask-gmm/fits.json"))["cluster"]
    assert cluster == {"workers": 1, "threads": 2}


@pytest.mark.slow
def test_an_error_is_told_by_its_type_alone(dashboard: Dashboard, store: str) -> None:
    def fail(event: Any) -> None:
        if isinstance(event, PassFinished):
            raise ZeroDivisionError("a secret")

    with dashboard.client.as_current(), pytest.raises(ZeroDivisionError):
        mixture(n_components=7, callbacks=[fail]).fit(store)

    def failed(fits: list[dict[str, Any]]) -> Any:
        return [f for f in fits if f["state"] == "failed"]

    (fit,) = dashboard.until(failed)
    assert fit["error"] == "ZeroDivisionError"
    assert "secret" not in dashboard.get("dask-gmm/fits.json")


def test_it_can_be_turned_off(dashboard: Dashboard, store: str) -> None:
    before = len(dashboard.client.get_events(TOPIC))
    with dashboard.client.as_current(), dask.config.set({"dask-gmm.dashboard": False}):
        mixture().fit(store)
    assert len(dashboard.client.get_events(TOPIC)) == before
    with posted(Run("fit"), LocalBackend(1)) as told:
        assert told == ()  # nobody looks at this process


def test_short_reads_are_not_told(dashboard: Dashboard, store: str) -> None:
    gm = mixture().fit(X)
    before = len(dashboard.client.get_events(TOPIC))
    with dashboard.client.as_current():
        gm.score(store)
    assert len(dashboard.client.get_events(TOPIC)) == before


DRIVER = """
import sys, time
from distributed import Client
from dask_gmm.fitting.events import PassFinished
from tests.progress.fits import mixture
def slowly(event):
    if isinstance(event, PassFinished):
        time.sleep(0.2)
if __name__ == "__main__":
    with Client(sys.argv[1]):
        mixture(n_components=5, max_iter=1000, tol=0.0, callbacks=[slowly]).fit(sys.argv[2])
"""


@pytest.mark.slow
def test_the_fit_of_a_driver_that_was_killed_is_silent(
    dashboard: Dashboard, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "SILENT_AFTER", 2.0)
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    driver = subprocess.Popen(
        [sys.executable, str(script), dashboard.address, store],
        cwd=Path(dask_gmm.__file__).parents[1],
        env={**os.environ, "PYTHONPATH": str(Path(dask_gmm.__file__).parents[1])},
    )
    try:

        def mine(state: str) -> Callable[[list[dict[str, Any]]], Any]:
            return lambda fits: [
                f for f in fits if f["state"] == state and f["what"].startswith("5 ") and f["curve"]
            ]

        dashboard.until(mine("running"), 60)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait(10)
    (fit,) = dashboard.until(mine("silent"), 20)
    assert fit["silent"] >= 2.0


def test_the_page_is_served_and_lets_nothing_else_in(dashboard: Dashboard, store: str) -> None:
    with dashboard.client.as_current():
        mixture().fit(store)
    with urllib.request.urlopen(f"{dashboard.url}/dask-gmm", timeout=10) as answer:
        text, policy = answer.read().decode(), answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "<title>Mixture fits on this cluster</title>" in text
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text
    assert "innerHTML" not in text


def test_it_may_be_among_the_configured_routes() -> None:
    """Then it is there from the start, and a driver that brings it adds nothing."""
    configured = [*dask.config.get("distributed.scheduler.http.routes"), routes_module()]
    with (
        dask.config.set({"distributed.scheduler.http.routes": configured}),
        LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        page = Dashboard(cluster, client)
        client.log_event(TOPIC, posted_by(Run("fit", "early.zarr")))
        (fit,) = page.fits()
        assert fit["source"] == "early.zarr", "what was posted before anybody looked"
        client.register_plugin(FitsPage(), name=FitsPage.name)
        client.log_event(TOPIC, posted_by(Run("fit", "late.zarr")))
        assert [fit["source"] for fit in page.fits()] == ["late.zarr", "early.zarr"]
        paths = json.loads(page.get("sitemap.json"))["paths"]
        assert "/dask-gmm" in paths
        assert paths.count("/dask-gmm/fits.json") == 1


def routes_module() -> str:
    assert [path for path, *_ in routes] == ["dask-gmm", "dask-gmm/fits.json"]
    return "dask_gmm.progress.dashboard"


def test_a_scheduler_of_another_release_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(posting, "package_versions", lambda: {"dask-gmm": "0.0.other"})
    with (
        caplog.at_level(logging.DEBUG),
        LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
        caplog.at_level(logging.DEBUG, "dask_gmm"),
    ):
        with Poster(lambda: client, TOPIC, dict, 0.0, FitsPage):
            time.sleep(0.3)
        assert FitsPage.name not in cluster.scheduler.plugins
        assert len(client.get_events(TOPIC)) >= 2
    said = [r for r in caplog.records if r.name == posting.__name__]
    assert [(r.levelno, "no page of fits" in r.getMessage()) for r in said] == [
        (logging.DEBUG, True)
    ]


def test_releases_are_compared_by_the_packages_version() -> None:
    assert dask_gmm.__version__ == version("dask-gmm")


# -- at no risk and no cost ------------------------------------------------------------------------


class _Away:
    """A client whose loop takes a message and never sends it, or that is closed."""

    def __init__(self, status: str) -> None:
        self.status = status

    @property
    def loop(self) -> Any:
        raise RuntimeError("The event loop is closed.")


@pytest.mark.parametrize("status", ["running", "closing", "closed", "connecting"])
def test_a_client_that_is_gone_does_a_fit_no_harm(status: str) -> None:
    begun = time.perf_counter()
    with Poster(lambda: _Away(status), TOPIC, dict, 0.0, FitsPage):
        time.sleep(0.12)
    assert time.perf_counter() - begun < 0.12 + posting.LAST_SECONDS + 0.3


def test_a_scheduler_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = threading.Event()
    monkeypatch.setattr(Poster, "_post", lambda self: hanging.wait(20))
    begun = time.perf_counter()
    with Poster(lambda: None, TOPIC, dict, 0.0, None):
        pass
    assert time.perf_counter() - begun < posting.LAST_SECONDS + 0.5
    hanging.set()


def test_a_pass_costs_its_driver_next_to_nothing() -> None:
    """All that the driver does is take in three events; building a message is another thread's."""
    post = Posted(Run("fit"))
    begun = time.perf_counter()
    for number in range(1, 1001):
        post(PassStarted(number, 1))
        post(PassAdvanced(number, PassProgress(4, 10, 400, 1000, 6400, 2.0)))
        post(PassFinished(number, (-1.0,), 1000, 10, 16_000, 2.0, 4, 0))
    assert (time.perf_counter() - begun) / 1000 < 1e-3
    assert len(json.dumps(post.message())) < 10_000
