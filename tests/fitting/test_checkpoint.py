"""A fit that stops between two passes goes on from its checkpoint, and ends with the same bits."""

from __future__ import annotations

import shutil
import threading
import time
import warnings
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
import zarr
from sklearn.exceptions import ConvergenceWarning

from dask_gmm import GaussianMixture, select_gaussian_mixture
from dask_gmm.data.commits import Commits
from dask_gmm.errors import (
    CheckpointError,
    CheckpointWarning,
    FencedError,
    InputError,
    NoWorkersError,
    PassLostError,
    ResumedElsewhereWarning,
    SchedulerLostError,
    UnitFailedError,
)
from dask_gmm.fitting import checkpoint as checkpoint_module
from dask_gmm.fitting.events import CheckpointWritten, FitResumed, PassFinished, SampleDrawn
from dask_gmm.fitting.found import read_checkpoint
from tests.marks import quick_ones

if TYPE_CHECKING:
    from pathlib import Path

    from dask_gmm.fitting.events import Event

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N, D, K = 4000, 2, 3
RNG = np.random.default_rng(0)
X = np.concatenate([RNG.normal(m, 1.0, (N // 4, D)) for m in (-3.0, -0.5, 1.0, 3.0)])
RNG.shuffle(X)
W = RNG.integers(1, 4, N).astype(np.float64)
BLOCKS = da.from_array(X, chunks=(500, D))

FITS: dict[str, dict[str, Any]] = {
    "plain": {"acceleration": None, "n_init": 2},
    "squarem": {"acceleration": "squarem", "n_init": 2},
    "variance-reduced": {"acceleration": "variance-reduced", "tol": 1e-9},
    "drawn from all": {"init_params": "k-means||", "acceleration": None},
    "weighted": {"weights": True},
    "given": {"given": True, "acceleration": None},
    "reseeding": {"acceleration": None, "on_collapse": "reseed", "covariance_type": "diag"},
    "accelerated selection": {"select": range(2, 5)},
    "selection": {
        "select": range(2, 5),
        "criterion": "heldout",
        "acceleration": None,
    },
}


class StoppedError(Exception):
    """The process dies, as it were."""


@dataclass
class Watch:
    """Notes what happens, and stops the fit when so many passes are over."""

    after: int | None = None
    events: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, PassFinished) and event.number == self.after:
            raise StoppedError

    @property
    def passes(self) -> list[int]:
        return [e.number for e in self.events if isinstance(e, PassFinished)]


def fitted(
    name: str,
    place: Path | None = None,
    watch: Watch | None = None,
    data: Any = BLOCKS,
    *,
    resume: str = "auto",
    **changes: Any,
) -> Any:
    settings: dict[str, Any] = {"tol": 1e-6, "max_iter": 6, "random_state": 0, "init_size": 400}
    settings |= {**FITS[name], **changes}
    weights = da.from_array(W, chunks=500) if settings.pop("weights", False) else None
    where: dict[str, Any] = {"checkpoint": place, "resume": resume, "sample_weight": weights}
    callbacks = settings.pop("callbacks", []) if watch is None else [watch]
    if (among := settings.pop("select", None)) is not None:
        return select_gaussian_mixture(
            data, among, "full", **settings, callbacks=callbacks, **where
        )
    if settings.pop("given", False):
        settings |= {
            "weights_init": np.full(K, 1.0 / K),
            "means_init": X[:K],
            "precisions_init": np.array([np.eye(D)] * K),
        }
    settings.setdefault("n_components", K)
    return GaussianMixture(**settings, callbacks=callbacks).fit(data, **where)


def bits(found: Any) -> tuple[Any, ...]:
    """All that a fit says, but for its seconds."""
    model = getattr(found, "best_model", found)
    parts: list[Any] = [
        model.means_.tobytes(),
        model.covariances_.tobytes(),
        model.weights_.tobytes(),
        np.array(model.lower_bounds_).tobytes(),
        model.remaining_gain_,
        model.outcome_,
        model.n_rows_,
        [(r.number, r.lower_bounds, r.rows, r.bytes_read, r.judgement) for r in model.history_],
    ]
    if model is not found:
        parts += [[(row.n_components, row.bic, row.passes, row.outcome) for row in found.table]]
    return tuple(parts)


@cache
def whole(name: str) -> tuple[tuple[Any, ...], int]:
    found = fitted(name)
    return bits(found), len(getattr(found, "best_model", found).history_)


def stopped(name: str, place: Path, after: int, **changes: Any) -> None:
    with pytest.raises(StoppedError):
        fitted(name, place, Watch(after), **changes)


# -- going on ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", quick_ones(FITS, ["plain", "squarem", "selection"]))
def test_a_fit_that_stops_goes_on_to_the_same_bits(name: str, tmp_path: Path) -> None:
    same, n = whole(name)
    assert n >= 3
    for after in {2, n - 1}:
        place = tmp_path / f"after {after}"
        stopped(name, place, after)
        watch = Watch()
        assert bits(fitted(name, place, watch, resume="must")) == same
        assert watch.passes == list(range(after, n + 1))  # one pass is made again
        (resumed,) = (e for e in watch.events if isinstance(e, FitResumed))
        assert (resumed.passes, resumed.ended) == (after - 1, False)


@pytest.mark.slow
@pytest.mark.parametrize("name", FITS)
def test_a_fit_that_stops_in_every_pass_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    same, n = whole(name)
    for after in range(1, n + 1):
        stopped(name, tmp_path, after)
    watch = Watch()
    assert bits(fitted(name, tmp_path, watch)) == same
    assert watch.passes == [n]


@pytest.mark.parametrize("name", quick_ones(FITS, ["plain", "selection"]))
def test_a_fit_that_has_ended_is_returned_as_it_was(name: str, tmp_path: Path) -> None:
    same, _ = whole(name)
    assert bits(fitted(name, tmp_path)) == same
    watch = Watch()
    assert bits(fitted(name, tmp_path, watch)) == same
    assert watch.passes == []
    assert len(list(tmp_path.glob("*.state"))) == 3


def test_a_fit_that_stops_before_its_first_pass_needs_no_other_start(tmp_path: Path) -> None:
    same, n = whole("drawn from all")
    stopped("drawn from all", tmp_path, 1)
    watch = Watch()
    assert bits(fitted("drawn from all", tmp_path, watch)) == same
    assert watch.passes == list(range(1, n + 1))
    assert not [e for e in watch.events if type(e).__name__ == "StartRead"]


@pytest.mark.parametrize("name", quick_ones(["plain", "selection"], ["plain"]))
def test_a_larger_budget_goes_on(name: str, tmp_path: Path) -> None:
    same, n = whole(name)
    found = fitted(name, tmp_path, max_passes=3)
    assert getattr(found, "best_model", found).outcome_ == "max_passes"
    again = fitted(name, tmp_path, watch := Watch(), max_passes=3)
    assert bits(again) == bits(found)
    assert watch.passes == []
    assert bits(fitted(name, tmp_path, max_passes=n)) == same


@pytest.mark.parametrize("kind", ["zarr", "memory", "unknown chunks"])
def test_every_kind_of_data(kind: str, tmp_path: Path) -> None:
    data: Any = X
    if kind == "zarr":
        data = str(tmp_path / "x.zarr")
        zarr.create_array(data, data=X, chunks=(500, D))
    elif kind == "unknown chunks":
        data = BLOCKS[BLOCKS[:, 0] > -1e9]
    same = bits(fitted("plain", data=data))
    stopped("plain", tmp_path / "c", 3, data=data)
    assert bits(fitted("plain", tmp_path / "c", data=data, resume="must")) == same


@pytest.mark.parametrize("draws", [None, "instance"])
def test_random_states_that_are_no_number(draws: str | None, tmp_path: Path) -> None:
    """None goes on with what was drawn, an instance in the same state is the same."""

    def state() -> Any:
        return None if draws is None else np.random.RandomState(5)

    stopped("plain", tmp_path, 3, random_state=state())
    first = Commits(tmp_path).newest()
    assert first is not None
    found = fitted("plain", tmp_path, resume="must", random_state=state())
    assert found.lower_bounds_[0] == pytest.approx(found.history_[0].lower_bounds[0], abs=0.2)
    if draws is not None:
        assert bits(found) == bits(fitted("plain", random_state=state()))
        with pytest.raises(CheckpointError, match="random_state"):
            fitted("plain", tmp_path, random_state=np.random.RandomState(6))


def test_seconds_add_up(tmp_path: Path) -> None:
    stopped("plain", tmp_path, 3)
    time.sleep(0.05)
    before = read_checkpoint(str(tmp_path))
    assert before is not None
    fitted("plain", tmp_path)
    after = read_checkpoint(str(tmp_path))
    assert after is not None
    assert before.about["seconds"] < after.about["seconds"]
    assert [before.about["ended"], after.about["ended"]] == [False, True]


# -- whose checkpoint it is ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_components": 4}, "n_components was 3 and is 4"),
        ({"covariance_type": "diag"}, "family was 'full' and is 'diag'"),
        ({"tol": 1e-5}, "tol was 1e-06 and is 1e-05"),
        ({"random_state": 1}, "random_state was 0 and is 1"),
        ({"random_state": None}, "random_state was 0 and is None"),
        ({"reg_covar": 1e-5}, "reg_covar was 1e-06 and is 1e-05"),
        ({"means_init": X[:K]}, "given means was None and is"),
        ({"select": range(2, 4)}, "kind was 'fit' and is 'selection'"),
        ({"data": BLOCKS[:-500]}, "rows was 4000 and is 3500"),
        ({"data": BLOCKS.rechunk((1000, D))}, "the chunks of the data have changed"),
        ({"data": BLOCKS.astype("f4")}, "dtype was '<f8' and is '<f4'"),
        ({"weights": True}, "weighted was False and is True"),
        ({"search": "off"}, "search was 'auto' and is 'off'"),
        ({"missing": "drop"}, "missing was 'error' and is 'drop'"),
        ({"missing_chunks": "fill"}, "missing_chunks was 'error' and is 'fill'"),
        ({"missing_chunks": {"where": "fill"}}, "missing_chunks was 'error' and is 'where: fill'"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value[:24],
)
def test_another_fit_is_refused(changes: dict[str, Any], said: str, stopped_fit: Path) -> None:
    before = sorted(stopped_fit.iterdir())
    with pytest.raises(CheckpointError, match=r'resume="never" \(--no-resume\)') as error:
        fitted("plain", stopped_fit, **changes)
    assert said in str(error.value)
    assert sorted(stopped_fit.iterdir()) == before


def test_settings_that_older_versions_do_not_know_are_not_named(stopped_fit: Path) -> None:
    """So what they have begun is gone on with."""
    commit = read_checkpoint(str(stopped_fit))
    assert commit is not None
    assert not {"missing", "search", "scaling"} & set(commit.about["settings"])


@pytest.fixture(scope="module")
def stopped_fit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("checkpoint") / "c"
    stopped("plain", place, 3)
    return place


@pytest.mark.parametrize("name", ["plain", "given", "selection"])
def test_other_rows_are_refused(name: str, tmp_path: Path) -> None:
    stopped(name, tmp_path, 2)
    with pytest.raises(CheckpointError, match="other rows"):
        fitted(name, tmp_path, data=BLOCKS + 1e-9)


@pytest.mark.parametrize("kind", ["rows on disk", "rows in memory", "weights on disk", "weights"])
def test_one_value_that_was_written_to_is_seen(kind: str, tmp_path: Path) -> None:
    """Of files by their times, of memory by a checksum; a copy elsewhere goes on."""
    rows, weights, place = X.copy(), W.copy(), tmp_path / "c"
    here, there, beside = (str(tmp_path / name) for name in ("x.zarr", "y.zarr", "w.zarr"))
    zarr.create_array(here, data=rows, chunks=(500, D))
    zarr.create_array(beside, data=weights, chunks=(500,))
    shutil.copytree(here, there)
    data: Any = rows if kind == "rows in memory" else here
    given = {"weights on disk": beside, "weights": weights}.get(kind)

    def fit(data: Any, place: Path, *watch: Watch) -> None:
        settings: dict[str, Any] = {"tol": 0.0, "max_iter": 4, "random_state": 0, "init_size": 50}
        gm = GaussianMixture(K, **settings, acceleration=None, callbacks=list(watch))
        gm.fit(data, sample_weight=given, checkpoint=place)

    with pytest.raises(StoppedError):
        fit(data, place, Watch(2))
    if data is here:
        shutil.copytree(place, tmp_path / "d")
        fit(there, tmp_path / "d", watch := Watch())
        assert watch.passes[0] == 2
    time.sleep(0.02)  # the clock of a file system is coarse
    array: Any = {
        "rows on disk": zarr.open_array(here, mode="r+"),
        "rows in memory": rows,
        "weights on disk": zarr.open_array(beside, mode="r+"),
        "weights": weights,
    }[kind]
    array[1234] = array[1235]
    with pytest.raises(CheckpointError, match="the data have been written to since it began"):
        fit(data, place)


def test_metadata_of_a_store_that_have_changed_are_refused(tmp_path: Path) -> None:
    data = str(tmp_path / "x.zarr")
    array = zarr.create_array(data, data=X, chunks=(500, D))
    stopped("plain", tmp_path / "c", 3, data=data)
    array.attrs["valid_max"] = 1e9
    with pytest.raises(CheckpointError, match="the metadata of the data have changed"):
        fitted("plain", tmp_path / "c", data=data)


def test_what_may_be_spent_is_no_setting(tmp_path: Path) -> None:
    stopped("plain", tmp_path, 3)
    fitted("plain", tmp_path, resume="must", cache=0, max_bytes=10**9, verbose=0)


def test_resume_must_and_never(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing to go on from"):
        fitted("plain", tmp_path / "c", resume="must")
    assert not (tmp_path / "c").exists()
    stopped("plain", tmp_path / "c", 3)
    watch = Watch()
    found = fitted("plain", tmp_path / "c", watch, resume="never", tol=1e-4)
    assert watch.passes[0] == 1
    assert bits(found) == bits(fitted("plain", tol=1e-4))
    assert bits(fitted("plain", tmp_path / "c", tol=1e-4, resume="must")) == bits(found)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"checkpoint": "c", "resume": "maybe"}, "resume='maybe' is unknown"),
        ({"resume": "must"}, "needs a checkpoint"),
        ({"checkpoint": 5}, "is no place"),
        ({"checkpoint": ""}, "empty"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        GaussianMixture(K).fit(X, **arguments)
    with pytest.raises(InputError, match=said):
        select_gaussian_mixture(X, 2, **arguments)


def test_another_kernel_is_said(tmp_path: Path) -> None:
    stopped("plain", tmp_path, 3)
    with pytest.warns(ResumedElsewhereWarning, match="another kernel .* reference now"):
        fitted("plain", tmp_path, kernel="reference")


def test_old_commits_that_cannot_be_deleted_are_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Commits, "_delete", lambda *_: "a could not be deleted: forbidden.")
    with pytest.warns(CheckpointWarning, match="stay in the checkpoint: a could not be") as told:
        fitted("plain", tmp_path)
    assert len([w for w in told if w.category is CheckpointWarning]) == 1


def test_an_interrupt_is_not_replaced_by_what_the_place_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "Commits", Failing)
    monkeypatch.setattr(Failing, "first", 1)

    def interrupt(event: Event) -> None:
        if isinstance(event, PassFinished) and event.number == 2:
            raise KeyboardInterrupt

    with pytest.warns(CheckpointWarning), pytest.raises(KeyboardInterrupt):
        fitted("plain", tmp_path, callbacks=[interrupt])


@pytest.mark.parametrize("kind", [NoWorkersError, SchedulerLostError, UnitFailedError])
def test_a_pass_that_is_lost_says_that_the_checkpoint_holds(
    kind: type[PassLostError], tmp_path: Path
) -> None:
    """With its cause, and of the pass that is really written; without a checkpoint nothing."""

    def lose(event: Event) -> None:
        if isinstance(event, PassFinished) and event.number == 3:
            raise kind("3 of 8 units are missing.") from OSError("the link is down")

    with pytest.raises(kind) as caught:
        fitted("plain", tmp_path, callbacks=[lose])
    assert str(caught.value) == (
        f"3 of 8 units are missing. The checkpoint {tmp_path} holds what was known after pass 2: "
        f"the same call goes on from there."
    )
    assert isinstance(caught.value.__cause__, OSError)
    assert bits(fitted("plain", tmp_path, resume="must")) == whole("plain")[0]
    with pytest.raises(kind, match=r"missing\.$"):
        fitted("plain", callbacks=[lose])


def test_another_machine_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped("plain", tmp_path, 3)
    monkeypatch.setattr(checkpoint_module, "machine_fingerprint", lambda: "another CPU")
    with pytest.warns(ResumedElsewhereWarning, match="another CPU now"):
        fitted("plain", tmp_path)


# -- places that fail ------------------------------------------------------------------------------


class Failing(Commits):
    """A place that fails from some commit on, as a disk that is full."""

    first = 1

    def commit(self, payload: bytes, about: Any) -> int:
        if about["passes"] >= self.first:
            raise CheckpointError("The disk is full.")
        return super().commit(payload, about)


def test_a_place_that_fails_on_the_way_is_said_and_the_fit_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "Commits", Failing)
    monkeypatch.setattr(Failing, "first", 2)
    with pytest.warns(CheckpointWarning, match="the fit goes on without: The disk is full"):
        found = fitted("plain", tmp_path, watch := Watch())
    assert bits(found) == whole("plain")[0]
    assert [e.passes for e in watch.events if isinstance(e, CheckpointWritten)] == [0, 1]
    monkeypatch.undo()
    assert bits(fitted("plain", tmp_path, resume="must")) == bits(found)


def test_a_place_that_fails_at_once_ends_the_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "Commits", Failing)
    monkeypatch.setattr(Failing, "first", 0)
    with pytest.raises(CheckpointError, match="The disk is full"):
        fitted("plain", tmp_path, watch := Watch())
    assert watch.passes == []


def test_a_place_that_hangs_does_not_stop_the_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that takes too long is left to itself; there is one at a time."""
    waiting, at_once = threading.Event(), []

    class Hanging(Commits):
        def commit(self, payload: bytes, about: Any) -> int:
            if about["passes"] == 1:
                assert waiting.wait(30)
            at_once.append(about["passes"])
            return super().commit(payload, about)

    def watch(event: Event) -> None:
        if isinstance(event, PassFinished) and event.number == 4:
            waiting.set()

    monkeypatch.setattr(checkpoint_module, "Commits", Hanging)
    monkeypatch.setattr(checkpoint_module, "_PATIENCE", 0.05)
    with pytest.warns(CheckpointWarning, match="takes more than") as told:
        found = fitted("plain", tmp_path, callbacks=[watch])
    assert len([w for w in told if w.category is CheckpointWarning]) == 1
    assert bits(found) == whole("plain")[0]
    assert at_once[:2] == [0, 1]
    assert at_once[2:] == list(range(at_once[2], found.n_passes_ + 1))
    newest = read_checkpoint(str(tmp_path))
    assert newest is not None
    assert newest.about["ended"]


def test_a_second_driver_is_fenced_off(tmp_path: Path) -> None:
    """The one whose pass is over later, whoever began first."""

    @dataclass
    class Overtaken(Watch):
        def __call__(self, event: Event) -> None:
            super().__call__(event)
            if isinstance(event, PassFinished) and event.number == 3:
                stopped("plain", tmp_path, 5)  # another driver goes on from pass 2, to pass 4

    with pytest.raises(FencedError, match=r"process \d+ on"):
        fitted("plain", tmp_path, Overtaken())
    assert bits(fitted("plain", tmp_path, resume="must")) == whole("plain")[0]


@pytest.mark.parametrize("damage", ["torn", "flipped", "gone"])
def test_a_damaged_commit_is_passed_over(damage: str, tmp_path: Path) -> None:
    stopped("plain", tmp_path, 4)
    newest = max(tmp_path.glob("*.state"))
    content = bytearray(newest.read_bytes())
    if damage == "torn":
        newest.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        newest.write_bytes(content)
    else:
        newest.unlink()
    watch = Watch()
    with pytest.warns(CheckpointWarning, match="is damaged"):
        found = fitted("plain", tmp_path, watch)
    assert bits(found) == whole("plain")[0]
    assert watch.passes[0] == 3


def test_a_state_of_a_later_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dask_gmm.fitting import state

    monkeypatch.setattr(state, "VERSION", state.VERSION + 1)
    stopped("plain", tmp_path, 3)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"version"):
        fitted("plain", tmp_path)


@pytest.mark.parametrize("place", ["x.zarr", "x.zarr/c", "."])
def test_nothing_is_written_into_the_data_or_around_them(place: str, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "x.zarr", data=X, chunks=(500, D))
    for data in (str(tmp_path / "x.zarr"), da.from_zarr(str(tmp_path / "x.zarr"))):
        with pytest.raises(InputError, match="is the input"):
            fitted("plain", tmp_path / place, data=data)
    assert [p.name for p in tmp_path.iterdir()] == ["x.zarr"]
    assert not (tmp_path / "x.zarr" / "c" / "000000000001.commit").exists()


def test_nothing_is_written_where_there_are_other_things(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "x.zarr", data=X, chunks=(500, D))
    with pytest.raises(CheckpointError, match="other things"):
        fitted("plain", tmp_path / "x.zarr")


# -- what is told ----------------------------------------------------------------------------------


def test_every_commit_is_told(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = fitted("plain", tmp_path, watch := Watch())
    written = [e for e in watch.events if isinstance(e, CheckpointWritten)]
    assert [e.passes for e in written] == list(range(found.n_passes_ + 1))
    assert [e.commit for e in written] == list(range(1, found.n_passes_ + 2))
    assert all(e.size > 0 and e.seconds > 0.0 for e in written)


@pytest.mark.slow
def test_the_sample_is_drawn_again_and_counts_once(tmp_path: Path) -> None:
    same, n = whole("variance-reduced")
    stopped("variance-reduced", tmp_path, 2)
    first = Watch()
    budget = fitted("variance-reduced", watch=first).history_[0].bytes_read * n
    (sample,) = (e for e in first.events if isinstance(e, SampleDrawn))
    watch = Watch()
    found = fitted("variance-reduced", tmp_path, watch, max_bytes=budget + sample.bytes_read)
    assert bits(found) == same
    assert [e for e in watch.events if isinstance(e, SampleDrawn)]


@pytest.mark.parametrize("name", ["plain", "variance-reduced", "selection"])
def test_what_a_checkpoint_says(name: str, tmp_path: Path) -> None:
    assert read_checkpoint(str(tmp_path / "c")) is None
    stopped(name, tmp_path / "c", 3)
    found = read_checkpoint(str(tmp_path / "c"))
    assert found is not None
    assert found.about["passes"] == 2
    assert found.about["data"]["rows"] == N
    assert not found.about["ended"]
    assert found.parameters.n_features == D
    assert np.isfinite(found.about["objective"])
