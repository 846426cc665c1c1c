"""A fit's record: what its events said, over all processes that made it, in files and out again."""

from __future__ import annotations

import json
import pickle
import warnings
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from dask.base import tokenize
from hypothesis import given
from hypothesis import strategies as st

from dask_gmm import GaussianMixture, select_gaussian_mixture
from dask_gmm.data.provenance import data_known_by
from dask_gmm.data.source import ParquetSource, open_source
from dask_gmm.data.taking_part import with_missing
from dask_gmm.errors import ModelFileWarning
from dask_gmm.fitting import stored_record
from dask_gmm.fitting.checkpoint import Progress
from dask_gmm.fitting.events import (
    Judgement,
    PassFinished,
    SampleDrawn,
    SearchFinished,
    StartRead,
    StepKind,
)
from dask_gmm.fitting.record import EarlierRun, FitRecord, RecordKeeper
from dask_gmm.fitting.state import from_bytes, to_bytes
from dask_gmm.fitting.stored_record import described, history_from, record_from

if TYPE_CHECKING:
    from pathlib import Path

    from dask_gmm.fitting.events import Event

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = np.concatenate([RNG.normal(m, 1.0, (1000, 2)) for m in (-3.0, -0.5, 1.0, 3.0)])
RNG.shuffle(X)
BLOCKS = da.from_array(X, chunks=(500, 2))


class StoppedError(Exception):
    """The process dies, as it were."""


class Events(list[Any]):
    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.stop_after = stop_after

    def __call__(self, event: Event) -> None:
        self.append(event)
        if isinstance(event, PassFinished) and event.number == self.stop_after:
            raise StoppedError

    def of(self, kind: type) -> list[Any]:
        return [event for event in self if isinstance(event, kind)]


def fitted(events: Events, data: Any = BLOCKS, **how: Any) -> GaussianMixture:
    where = {"checkpoint": how.pop("checkpoint", None)}
    settings = {"tol": 1e-7, "max_iter": 8, "random_state": 0, "init_size": 400, **how}
    gm: GaussianMixture = GaussianMixture(4, callbacks=[events], **settings).fit(data, **where)
    return gm


@pytest.mark.parametrize(
    "how",
    [
        {"acceleration": "variance-reduced", "search": 3},
        {"acceleration": "squarem"},
        {"acceleration": None, "init_params": "k-means||", "n_init": 2},
    ],
)
def test_the_record_is_what_the_events_said(how: dict[str, Any]) -> None:
    events = Events()
    gm = fitted(events, **how)
    record, passes = gm.record_, events.of(PassFinished)
    assert record is not None
    assert record.passes == len(passes) == len(record.pass_ends) == gm.n_passes_
    assert list(record.pass_ends) == sorted(record.pass_ends)
    assert record.pass_ends[-1] <= record.seconds
    decoded = [*passes, *events.of(SampleDrawn), *events.of(StartRead)]
    assert record.bytes_read == sum(event.bytes_read for event in decoded)
    assert record.start_reads == len(events.of(StartRead))
    assert record.moves_tried == sum(event.tried for event in events.of(SearchFinished))
    rejected = [
        one for one in gm.history_ if one.judgement and one.judgement.kind is StepKind.REJECTED
    ]
    assert record.rejected == len(rejected)
    assert (record.n_rows, record.n_features, record.n_blocks) == (4000, 2, 8)
    assert record.reads == len(passes) + record.start_reads + record.sample_blocks / 8
    assert record.resumed_after is None
    assert (record.source, record.backend) == (events[0].source, "this process")


@pytest.mark.parametrize("old", [False, True])
def test_who_goes_on_goes_on_with_the_record(
    old: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if old:  # as checkpoints were that kept none
        real = Progress.__init__
        monkeypatch.setattr(
            Progress, "__init__", lambda *args, **how: real(*args, **{**how, "record": None})
        )
    how: dict[str, Any] = {"acceleration": "squarem", "checkpoint": tmp_path}
    whole = fitted(Events(), acceleration="squarem").record_
    before = Events(stop_after=4)
    with pytest.raises(StoppedError):
        fitted(before, **how)
    monkeypatch.undo()
    after = Events()
    gm = fitted(after, **how)
    record = gm.record_
    assert record is not None
    assert whole is not None
    assert record.resumed_after == 3
    same = ("passes", "rejected", "n_rows", "source", "data", "n_blocks")
    assert {n: getattr(record, n) for n in same} == {n: getattr(whole, n) for n in same}
    assert len(record.pass_ends) == record.passes
    assert list(record.pass_ends) == sorted(record.pass_ends)
    # The sample was drawn again; the pass that broke off is nobody's.
    again = sum(event.bytes_read for event in after.of(SampleDrawn))
    assert record.bytes_read == whole.bytes_read + again
    spent = sum(event.seconds for event in [*before.of(PassFinished)[:3], *after.of(PassFinished)])
    assert record.seconds > spent


def test_a_selection_has_the_record_of_all_its_mixtures(tmp_path: Path) -> None:
    found = select_gaussian_mixture(BLOCKS, range(2, 4), "full", random_state=0)
    assert found.record is not None
    assert found.record == found.best_model.record_
    assert found.record.passes == found.n_passes == len(found.record.pass_ends)
    assert found.record.seconds == found.seconds


def test_names_do_not_depend_on_it() -> None:
    one, other = (fitted(Events(), acceleration=None) for _ in range(2))
    assert one.record_ != other.record_
    assert tokenize(one) == tokenize(other)


# -- what data are known by ----------------------------------------------------------------------


def test_stored_data_are_known_by_their_content(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "x.zarr", shape=(40, 2), chunks=(10, 2), dtype="f8")
    array[:] = X[:40]
    first = data_known_by(open_source(tmp_path / "x.zarr"))
    assert first == data_known_by(open_source(tmp_path / "x.zarr"))
    array[0] = 1.0
    second = data_known_by(open_source(tmp_path / "x.zarr"))
    assert first.startswith("content ")
    assert first != second


def test_other_data_are_known_by_what_there_is() -> None:
    assert data_known_by(open_source(X)) == "memory float64 4000 × 2"
    lazy = data_known_by(open_source(BLOCKS))
    assert lazy.startswith("metadata ")
    assert lazy != data_known_by(open_source(BLOCKS + 1))
    weights = da.ones(len(X), chunks=500)
    assert lazy == data_known_by(open_source(BLOCKS, sample_weight=weights))
    assert lazy == data_known_by(open_source(BLOCKS, where=weights > 0))
    assert lazy == data_known_by(with_missing(open_source(BLOCKS), "drop"))
    store = zarr.create_array(zarr.storage.MemoryStore(), shape=(40, 2), chunks=(10, 2), dtype="f8")
    assert data_known_by(open_source(store)).startswith("metadata ")


def test_no_store_is_asked_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": X[:, 0], "b": X[:, 1]}), path)
    source = open_source(path)
    assert data_known_by(source).startswith("content ")
    assert isinstance(source, ParquetSource)
    elsewhere = replace(source.table.spec, url="s3://bucket/t.parquet")
    far = replace(source, table=replace(source.table, spec=elsewhere))
    monkeypatch.setattr("dask_gmm.data.tables.table.place_of", forbidden)
    assert data_known_by(far).startswith("metadata ")


def forbidden(*_: object) -> None:
    raise AssertionError("a store was asked")


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_weights_and_masks_are_noted(weighted: bool, masked: bool, tmp_path: Path) -> None:
    given = {"sample_weight": np.full(len(X), 2.0)} if weighted else {}
    given |= {"where": X[:, 0] > 0} if masked else {}
    gm = GaussianMixture(2, random_state=0).fit(X, **given)
    record = gm.record_
    assert record is not None
    assert (record.weighted, record.masked) == (weighted, masked)
    gm.save(tmp_path / "m.zarr")
    assert GaussianMixture.load(tmp_path / "m.zarr").record_ == record


def test_pickles_of_fits_without_a_record(tmp_path: Path) -> None:
    gm = GaussianMixture(2, random_state=0).fit(X)
    state = gm.__getstate__()
    del state["record_"]
    old = GaussianMixture.__new__(GaussianMixture)
    old.__setstate__(state)
    assert old.record_ is None
    assert old.model_card()["fit"]["record"] is None
    old.save(tmp_path / "m.zarr")
    assert GaussianMixture.load(tmp_path / "m.zarr").history_ == gm.history_
    assert not hasattr(pickle.loads(pickle.dumps(GaussianMixture(2))), "record_")


# -- in files ------------------------------------------------------------------------------------

floats = st.floats(allow_nan=False)
counts = st.integers(0, 2**60)
judgements = st.builds(Judgement, st.sampled_from(StepKind), floats, st.one_of(st.none(), floats))
passes = st.builds(
    PassFinished,
    number=counts,
    lower_bounds=st.lists(floats, max_size=3).map(tuple),
    rows=counts,
    blocks=counts,
    bytes_read=counts,
    seconds=floats,
    tasks=counts,
    resubmitted=counts,
    blocks_from_cache=counts,
    judgement=st.one_of(st.none(), judgements),
    incomplete_rows=counts,
)
kinds = {
    "str": st.text(),
    "bool | None": st.none() | st.booleans(),
    "int": counts,
    "float": floats,
    "int | None": st.one_of(st.none(), counts),
    "tuple[float, ...]": st.lists(floats, max_size=3).map(tuple),
}
runs = st.builds(EarlierRun, **{f.name: kinds[str(f.type)] for f in fields(EarlierRun)})
records = st.builds(
    FitRecord,
    earlier=st.lists(runs, max_size=2).map(tuple),
    **{f.name: kinds[str(f.type)] for f in fields(FitRecord) if f.name != "earlier"},
)


@given(st.one_of(st.none(), records), st.lists(passes, max_size=3).map(tuple))
def test_nothing_is_lost_in_json(
    record: FitRecord | None, history: tuple[PassFinished, ...]
) -> None:
    stored = json.loads(json.dumps(described(record, history), allow_nan=False))
    assert record_from(stored) == record
    assert history_from(stored) == history
    assert from_bytes(to_bytes(record)) == record


def signed(stored: dict[str, Any]) -> dict[str, Any]:
    """What somebody may have made of a record who knows its digest."""
    stored.pop("sha256", None)
    return {**stored, "sha256": stored_record._digest(stored)}


def test_what_an_older_version_did_not_note_is_none() -> None:
    record = replace(RecordKeeper("memory", weighted=True, masked=True).finished(()), source="x")
    known = {f.name: getattr(record, f.name) for f in fields(record) if f.name != "masked"}
    stored = described(replace(record, masked=None), ())
    del stored["record"]["masked"]
    assert record_from(signed(stored)) == FitRecord(**known)
    del stored["record"]["source"]
    with pytest.raises(ValueError, match="does not say source"):
        record_from(signed(stored))


def test_an_update_notes_what_it_came_to_and_a_stream_is_one_run() -> None:
    def run(kind: str, n: int, begun: float, before: FitRecord | None) -> FitRecord:
        own = replace(RecordKeeper("memory").finished(()), source="x", n_rows=n, begun=begun)
        return own.after(kind, before)

    record = run("fit", 10, 1.0, None)
    for n in range(3):
        record = run("partial_fit", 5, 2.0 + n, record)
    record = run("update", 7, 9.0, record)
    assert record.earlier == (
        EarlierRun("fit", "x", 10, 1.0),
        EarlierRun("partial_fit", "x", 15, 2.0),
    )
    for damage in (7, [7], [{"kind": "fit"}], [{**vars(record.earlier[0]), "n_rows": "many"}]):
        stored = described(record, ())
        stored["record"]["earlier"] = damage
        with pytest.raises(ValueError, match=r"runs|does not say|whole number"):
            record_from(signed(stored))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    fitted(Events(), acceleration="squarem").save(tmp_path / "m.zarr")
    return tmp_path / "m.zarr"


def test_a_loaded_model_has_record_and_history(model: Path) -> None:
    gm = fitted(Events(), acceleration="squarem")
    loaded = GaussianMixture.load(model)
    assert loaded.record_ is not None
    judged = [(one.number, one.judgement, one.lower_bounds) for one in gm.history_]
    assert [(one.number, one.judgement, one.lower_bounds) for one in loaded.history_] == judged
    assert loaded.record_.passes == gm.n_passes_
    loaded.save(model, overwrite=True)
    again = GaussianMixture.load(model)
    assert (again.record_, again.history_) == (loaded.record_, loaded.history_)


def test_equal_fits_have_equal_digests(model: Path, tmp_path: Path) -> None:
    fitted(Events(), acceleration="squarem").save(tmp_path / "other.zarr")
    one, other = (attributes(path) for path in (model, tmp_path / "other.zarr"))
    assert one["digest"] == other["digest"]
    assert one["record"] != other["record"]


def attributes(model: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((model / "zarr.json").read_text())["attributes"]
    return found


def rewrite(model: Path, record: Any) -> None:
    document = json.loads((model / "zarr.json").read_text())
    if record is None:
        del document["attributes"]["record"]
    else:
        document["attributes"]["record"] = record
    (model / "zarr.json").write_text(json.dumps(document))


def test_models_of_older_versions_have_none(model: Path) -> None:
    rewrite(model, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gm = GaussianMixture.load(model)
    assert (gm.record_, gm.history_) == (None, ())
    gm.save(model, overwrite=True)
    assert "record" not in attributes(model)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r | {"sha256": "0"},
        lambda r: {"record": r["record"], "sha256": r["sha256"]},
        lambda _: ["no", "record"],
        lambda _: 7,
        lambda r: r["record"].update(passes=99) or r,
        lambda r: r["history"]["seconds"].pop() and r,
        lambda r: signed({**r, "record": {**r["record"], "passes": "8"}}),
        lambda r: signed({**r, "record": {**r["record"], "pass_ends": [True]}}),
        lambda r: signed({**r, "record": {**r["record"], "source": {"a": 1}}}),
        lambda r: signed({**r, "record": {"source": "a"}}),
        lambda r: signed({**r, "record": [1]}),
        lambda r: signed({**r, "history": [1]}),
        lambda r: signed({**r, "history": {**r["history"], "kind": ["odd"] * 8}}),
        lambda r: signed({**r, "history": {**r["history"], "lower_bounds": [1.0]}}),
        lambda r: signed({**r, "history": {**r["history"], "rows": ["x"] * 8}}),
    ],
)
def test_a_damaged_record_is_left_out_and_said(model: Path, change: Any) -> None:
    rewrite(model, change(attributes(model)["record"]))
    with pytest.warns(ModelFileWarning, match="is whole, but not what it says of how it was"):
        gm = GaussianMixture.load(model)
    assert (gm.record_, gm.history_) == (None, ())
    assert gm.predict(X[:3]).shape == (3,)


def test_a_keeper_without_events_has_nothing_to_say() -> None:
    record = RecordKeeper("memory").finished(())
    assert (record.reads, record.passes, record.data) == (0.0, 0, "memory")
    assert record.seconds >= 0.0
    assert set(asdict(record)) == {f.name for f in fields(FitRecord)}
