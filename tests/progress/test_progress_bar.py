"""`ProgressBar` on a terminal and in logs: who is shown, how it ends, and that it does no harm."""

from __future__ import annotations

import copy
import io
import json
import pickle
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone

import dask_gmm
from dask_gmm import ProgressBar, select_gaussian_mixture
from dask_gmm.errors import InputError, ProgressWarning
from dask_gmm.fitting.events import FitFinished, PassFinished, PassStarted
from dask_gmm.progress import observers
from dask_gmm.progress.run import Run, shortened
from tests.progress.fits import PASSES, X, mixture

# Fits of a few passes do not converge, which is no news here.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_callback_shows_its_fit_in_lines() -> None:
    log = io.StringIO()
    mixture(callbacks=[ProgressBar(file=log)]).fit(X)
    said = log.getvalue().splitlines()
    assert said[0].startswith("sample: all rows from 1 block(s)")
    assert sum("log-likelihood" in line for line in said) == PASSES


def test_registered_it_shows_all_that_is_done(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with ProgressBar("json", file=log) as bar:
        gm = mixture(callbacks=[bar]).fit(X)  # who asks twice is shown once
        gm.score(X)
        gm.inspect(X)
        gm.predict_to(X, tmp_path / "labels.zarr")
        gm.impute_to(X, tmp_path / "imputed.zarr")
        select_gaussian_mixture(X, (1, 2), ("diag",), random_state=0)
    gm.set_params(callbacks=None).fit(X)
    lines = lines_of(log)
    runs = list(dict.fromkeys(line["run"] for line in lines))
    assert len(runs) == 6
    ends = [next(x for x in reversed(lines) if x["run"] == run) for run in runs]
    assert [e["event"] for e in ends] == ["FitFinished", *["RunEnded"] * 4, "SelectionFinished"]
    doing = ["scoring", "inspecting", "labelling", "imputing"]
    assert [e["doing"] for e in ends[1:5]] == doing
    assert {e["how"] for e in ends[1:5]} == {"done"}
    passes = [x for x in lines if x["run"] == runs[0] and x["event"] == "PassFinished"]
    assert [line["number"] for line in passes] == list(range(1, PASSES + 1))


def test_register_and_unregister() -> None:
    log = io.StringIO()
    bar = ProgressBar(file=log).register()
    assert bar.register() is bar
    try:
        mixture().fit(X)
    finally:
        bar.unregister()
    said = log.getvalue()
    assert said.count("pass 1:") == 1
    mixture().fit(X)
    assert log.getvalue() == said
    bar.unregister()
    assert observers._registered == ()


def test_a_bar_on_a_terminal_leaves_a_sentence() -> None:
    screen = Terminal()
    mixture(callbacks=[ProgressBar(file=screen)]).fit(X, sample_weight=np.full(len(X), 0.5))
    said = screen.getvalue()
    assert "\x1b[?25l" in said, "drawn by rich"
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l"), "the cursor is back"
    last = said.splitlines()[-1]
    assert last.startswith(f"fit: not converged after {PASSES} passes, ")
    assert "log-likelihood -" in last


@pytest.mark.parametrize("kind", ["bar", "lines", "json"])
def test_an_interrupted_fit_is_told_and_ends_as_ever(kind: str) -> None:
    screen = Terminal()

    def stop(event: Any) -> None:
        if isinstance(event, PassFinished) and event.number == 2:
            raise KeyboardInterrupt

    bar = ProgressBar(kind, file=screen)
    with pytest.raises(KeyboardInterrupt):
        mixture(callbacks=[bar, stop]).fit(X)
    assert bar._shown == ()
    last = screen.getvalue().splitlines()[-1]
    if kind == "bar":
        assert last.startswith("fit: interrupted after 2 passes, ")
        assert "\x1b[?25h" in screen.getvalue()
    if kind == "json":
        assert json.loads(last)["how"] == "interrupted"


def test_an_error_is_told_by_its_name_alone() -> None:
    log = io.StringIO()
    with pytest.raises(InputError), ProgressBar("json", file=log):
        mixture().fit(np.full((5, 2), np.nan))
    last = json.loads(log.getvalue().splitlines()[-1])
    assert (last["how"], last["error"]) == ("failed", "NonFiniteError")


class BrokenError(Exception):
    pass


class Broken(io.StringIO):
    """A stream that somebody closes in the middle."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def write(self, text: str) -> int:
        self.left -= 1
        if self.left < 0:
            raise BrokenError("no space left")
        return super().write(text)


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("kind", ["lines", "json", "bar"])
def test_a_display_that_fails_ends_alone(kind: str, after: int) -> None:
    """Whatever it raises: the fit is the same, and one warning says what has happened."""
    plain = mixture().fit(X)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        shown = mixture(callbacks=[ProgressBar(kind, file=Broken(after))]).fit(X)
    found = [w for w in caught if w.category is ProgressWarning]
    if kind != "bar":  # rich draws in a thread of its own, which nobody hears
        assert len(found) == 1
        assert "BrokenError: no space left" in str(found[0].message)
    np.testing.assert_array_equal(shown.means_, plain.means_)


@pytest.mark.filterwarnings("error::dask_gmm.errors.ProgressWarning")
def test_not_even_where_warnings_are_errors() -> None:
    gm = mixture(callbacks=[ProgressBar(file=Broken(1))]).fit(X)
    assert gm.n_passes_ == PASSES


def test_fits_in_threads_do_not_mix(tmp_path: Path) -> None:
    """Each line belongs to one run, whose passes come in order; on a terminal each is named."""
    log, screen = tmp_path / "log.jsonl", io.StringIO()
    both = threading.Barrier(2)

    def meet(event: Any) -> None:
        if isinstance(event, PassStarted | PassFinished):
            both.wait(30)

    def fit(k: int) -> None:
        bars = [ProgressBar("json", file=log), shared]
        mixture(n_components=k, callbacks=[*bars, meet]).fit(X)

    shared = ProgressBar("lines", file=screen)
    threads = [threading.Thread(target=fit, args=(k,)) for k in (2, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    lines = lines_of(log)
    runs = {line["run"]: line["n_components"] for line in lines if line["event"] == "FitStarted"}
    assert sorted(runs.values()) == [2, 5]
    for run in runs:
        mine = [x for x in lines if x["run"] == run]
        numbers = [x["number"] for x in mine if x["event"] == "PassFinished"]
        assert numbers == list(range(1, PASSES + 1))
        assert mine[-1]["event"] == "FitFinished"
    named = [line for line in screen.getvalue().splitlines() if "pass 2:" in line]
    assert len(named) == 2
    assert len({line.split("]")[0] for line in named}) == 2
    assert all(line.startswith("[") for line in named)


def test_a_fit_inside_of_a_fit_has_a_view_of_its_own(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    bar = ProgressBar("json", file=log)

    def score(event: Any) -> None:
        if isinstance(event, PassFinished) and event.number == 1:
            mixture(n_components=1, callbacks=[bar]).fit(X)

    mixture(callbacks=[bar, score]).fit(X)
    lines = lines_of(log)
    outer, inner = dict.fromkeys(line["run"] for line in lines)
    ends = {x["run"]: x["n_iter"] for x in lines if x["event"] == "FitFinished"}
    assert ends[outer] == PASSES
    assert inner in ends


def test_a_terminal_has_one_screen_whoever_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bars that know nothing of each other, one of which begins while the other is shown."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)

    def another(event: Any) -> None:
        if isinstance(event, PassFinished) and event.number == 1:
            mixture(n_components=1, callbacks=[ProgressBar()]).fit(X)

    mixture(callbacks=[ProgressBar(), another]).fit(X)
    assert sys.stderr is screen
    said = screen.getvalue()
    assert said.count("\x1b[?25l") == said.count("\x1b[?25h") == 1, "the cursor, hidden once"
    assert said.count("fit: ") == 2


def test_it_can_be_called_where_nobody_tells_it_of_runs() -> None:
    """As an observer that somebody wraps: then the events have to tell where a fit begins."""
    log = io.StringIO()
    bar = ProgressBar("json", file=log)
    gm = mixture(callbacks=[lambda event: bar(event)])
    gm.fit(X).fit(X)
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert len({line["run"] for line in lines}) == 2
    assert lines[-1]["event"] == FitFinished.__name__
    assert bar._loose == {}


def test_it_travels_with_an_estimator() -> None:
    bar = ProgressBar("json")
    gm = mixture(callbacks=[bar])
    assert clone(gm).callbacks == [bar]
    assert copy.deepcopy(bar) is bar
    again = pickle.loads(pickle.dumps(ProgressBar("json", file="log.jsonl")))
    assert (again.kind, again.file) == ("json", "log.jsonl")
    assert repr(ProgressBar()) == "ProgressBar()"
    assert repr(bar) == "ProgressBar('json')"


@pytest.mark.parametrize(
    ("kind", "file", "message"),
    [
        ("bars", None, "choose one of auto, widget, bar, lines, json"),
        ("widget", "log", "into the notebook"),
        ("bar", "log", "no path"),
    ],
)
def test_mistakes(kind: str, file: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ProgressBar(kind, file=file)


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (ProgressBar, r"the class ProgressBar: make one, callbacks=\[ProgressBar\(\)\]"),
        ("bar", "'bar', which cannot be called"),
    ],
)
def test_what_is_no_observer_is_refused_before_anything_is_read(
    callback: Any, message: str
) -> None:
    rows = np.random.default_rng(0).normal(size=(50, 2))
    with pytest.raises(InputError, match=message):
        dask_gmm.GaussianMixture(2, random_state=0, callbacks=[callback]).fit(rows)


SCRIPT = """
import sys
from dask_gmm import ProgressBar
from tests.progress.fits import X, mixture
with ProgressBar():
    mixture().fit(X)
print(sorted({"IPython", "tornado", "distributed", "matplotlib"} & set(sys.modules)))
"""


@pytest.mark.slow
def test_a_script_has_plain_lines_on_standard_error() -> None:
    """And imports nothing for it."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        cwd=Path(dask_gmm.__file__).parents[1],
    )
    assert done.stdout.strip() == "[]"
    said = done.stderr.splitlines()
    assert said[0].startswith("sample: all rows")
    assert sum("log-likelihood" in line for line in said) == PASSES
    assert "\x1b" not in done.stderr


def test_without_an_observer_a_fit_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mixture().fit(X)
    assert capfd.readouterr() == ("", "")


def test_names_of_data_give_nothing_away() -> None:
    assert shortened("https://me:secret@host/x.zarr?sig=abc") == "https://…@host/x.zarr?…"
    long = shortened("s3://bucket/" + 30 * "folder/" + "end.zarr")
    assert len(long) == 60
    assert long.endswith("end.zarr")
    assert long.startswith("…")
    assert len({Run("fit").id for _ in range(100)}) == 100
