"""Labels back as Parquet: the input's files and row groups, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import dask.array
import dask.dataframe as dd
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from dask_gmm import GaussianMixture
from dask_gmm.data.tables import table, writer
from dask_gmm.errors import InputError, OutputExistsError, StoreError
from dask_gmm.fitting.events import OutputResumed
from tests.data.tables.files import cloud, write
from tests.marks import quick_ones

if TYPE_CHECKING:
    from pathlib import Path

    from distributed import Client

da: Any = dask.array  # most of it is untyped


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two row groups or so."""
    monkeypatch.setattr(table, "SMALLEST_BYTES", 70 * 16)
    monkeypatch.setattr(table, "FEWEST_BLOCKS", 10**9)


@pytest.fixture(scope="module")
def gm() -> GaussianMixture:
    frame = pd.DataFrame(cloud(), columns=["a", "b"])
    fitted: GaussianMixture = GaussianMixture(2, columns=["a", "b"], random_state=0).fit(frame)
    return fitted


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("y=1/a.parquet", "y=2/a.parquet", "b.parquet")):
        rows = cloud(170 + number, seed=number)
        names = [f"n{i}" for i in range(len(rows))]
        write(tmp_path / "t" / name, rows, name=names, nested=[{"x": 1}] * len(rows))
    return tmp_path / "t"


def groups(path: Path) -> list[int]:
    metadata = pq.read_metadata(path)
    return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]


def said(path: Path) -> Any:
    return json.loads(pq.read_schema(path).metadata[b"dask_gmm"])["dask_gmm"]


@pytest.mark.parametrize("where", quick_ones(["here", "two processes"], ["here"]))
def test_a_folder_of_the_same_files_and_row_groups(
    where: str, gm: GaussianMixture, folder: Path, request: pytest.FixtureRequest
) -> None:
    out = folder.parent / "labels.parquet"
    names = sorted(path.relative_to(folder) for path in folder.rglob("*.parquet"))
    with pytest.raises(InputError, match=r"b.parquet has no column 'y' to keep"):
        gm.predict_to(folder, out, keep=["name", "y"])
    with contextlib.ExitStack() as stack:
        if where == "two processes":
            client: Client = request.getfixturevalue("two_processes")
            stack.enter_context(client.as_current())
        assert gm.predict_to(folder, out, keep=["name"]) == 513
    assert sorted(path.relative_to(out) for path in out.rglob("*.parquet")) == names
    expected = gm.predict(folder).compute()
    found = []
    for name in names:
        assert groups(out / name) == groups(folder / name)
        assert said(out / name)["complete"] is True
        labels = pq.ParquetFile(out / name).read()
        assert labels.column("name").to_pylist() == [f"n{i}" for i in range(len(labels))]
        assert labels.schema.field("label").type == pa.uint8()
        found.append(labels.column("label").to_numpy())
    np.testing.assert_array_equal(np.concatenate(found), expected)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["labels.parquet", "t"]


def test_a_file_and_posteriors(gm: GaussianMixture, tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet")
    out = tmp_path / "new" / "p.parquet"
    assert gm.predict_to(path, out, probabilities=True, dtype="f4", keep=["id"]) == 600
    found = pq.read_table(out)
    assert found.column_names == ["id", "label", "posterior_0", "posterior_1"]
    expected = np.asarray(gm.predict_proba(path))
    posteriors = np.stack([found[f"posterior_{k}"].to_numpy() for k in range(2)], axis=1)
    np.testing.assert_array_equal(posteriors, expected.astype("f4"))
    np.testing.assert_array_equal(found["label"], expected.argmax(axis=1))
    assert groups(out) == [50] * 12
    assert pd.read_parquet(out)["id"].tolist() == list(range(600))


def test_other_data_make_one_file(gm: GaussianMixture, tmp_path: Path) -> None:
    rows = cloud()
    frame = pd.DataFrame({"b": rows[:, 1], "a": rows[:, 0], "name": "x"})
    csv = tmp_path / "rows.csv"
    frame.to_csv(csv, index=False)
    lazy = dd.read_csv(csv, blocksize=5_000)
    assert lazy.npartitions > 2
    expected = gm.predict(rows)
    inputs: dict[str, tuple[Any, Any]] = {
        "pandas": (frame, ["name"]),
        "polars": (pl.from_pandas(frame), ["name", "a"]),
        "csv": (lazy, None),  # partitions of unknown lengths
        "array": (da.from_array(rows, chunks=(170, 2)), None),
    }
    for name, (X, keep) in inputs.items():
        out = tmp_path / f"{name}.parquet"
        assert gm.predict_to(X, out, keep=keep) == 600
        found = pq.read_table(out)
        assert found.column_names == [*(keep or []), "label"]
        np.testing.assert_array_equal(found["label"], expected)
    assert groups(tmp_path / "array.parquet") == [170, 170, 170, 90]
    assert len(groups(tmp_path / "csv.parquet")) == lazy.npartitions
    with pytest.raises(InputError, match="Dask DataFrame is none: leave it out"):
        gm.predict_to(lazy, tmp_path / "o.parquet", keep=["name"])


def test_what_paths_spell_is_kept_by_the_paths(gm: GaussianMixture, tmp_path: Path) -> None:
    """A second column of that name would be one of another type to whoever reads the folder."""
    for year in ("2001", "__HIVE_DEFAULT_PARTITION__"):
        write(tmp_path / "t" / f"y={year}" / "a.parquet", cloud(30))
    gm.predict_to(tmp_path / "t", tmp_path / "o.parquet", keep=["y", "id"])
    found = pyarrow.dataset.dataset(tmp_path / "o.parquet", partitioning="hive").to_table()
    assert sorted(found.column_names) == ["id", "label", "y"]
    assert set(found["y"].to_pylist()) == {2001, None}
    for pattern, expected in (("y=2*/*.parquet", "2001"), ("y=_*/*.parquet", None)):
        out = tmp_path / f"{expected}.parquet"  # one file, whose path spells nothing
        gm.predict_to(tmp_path / "t" / pattern, out, keep=["y"])
        assert set(pq.ParquetFile(out).read()["y"].to_pylist()) == {expected}


def test_columns_that_cannot_be_kept(gm: GaussianMixture, tmp_path: Path) -> None:
    frame = pd.DataFrame(cloud(4), columns=["a", "b"]).assign(mixed=[1, "a", 2, "b"])
    with pytest.raises(InputError, match="Parquet has no type for one of the columns 'mixed'"):
        gm.predict_to(frame, tmp_path / "o.parquet", keep=["mixed"])
    with pytest.raises(InputError, match="keep= names 'a' twice"):
        gm.predict_to(frame, tmp_path / "o.parquet", keep=["a", "a"])


def test_rows_of_uneven_groups_are_not_imputed_as_an_array(
    gm: GaussianMixture, folder: Path
) -> None:
    place = folder.parent / "out.zarr"
    with pytest.raises(InputError, match=r"uneven sizes.*write a table"):
        gm.predict_to(folder, place)
    with pytest.raises(InputError, match=r"uneven sizes.*row groups of one size"):
        gm.impute_to(folder, place)
    with pytest.raises(InputError, match=r"does not end with \.parquet"):
        gm.impute_to(folder, folder.parent / "out.parquet")


def test_no_rows(gm: GaussianMixture, tmp_path: Path) -> None:
    write(tmp_path / "t" / "a.parquet", np.empty((0, 2)))
    write(tmp_path / "t" / "b.parquet", cloud(3))
    (tmp_path / "e").mkdir()
    pq.ParquetWriter(tmp_path / "t" / "0.parquet", pq.read_schema(tmp_path / "t/a.parquet")).close()
    assert gm.predict_to(tmp_path / "t", tmp_path / "o.parquet", keep=["id"]) == 3
    assert len(pq.read_table(tmp_path / "o.parquet" / "0.parquet")) == 0
    assert gm.predict_to(tmp_path / "t" / "a.parquet", tmp_path / "z.parquet") == 0


# Ends that were not planned.


def stop_after(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    """Let the disk be full after n parts."""
    begun: list[int] = []
    original = writer.OpenTableWriter._write

    def limited(self: Any, block: Any, values: Any) -> None:
        begun.append(block.index)
        if len(begun) > n:
            raise OSError(28, "No space left on device")
        original(self, block, values)

    monkeypatch.setattr(writer.OpenTableWriter, "_write", limited)


def test_what_is_finished_is_gone_on_with(
    gm: GaussianMixture, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = folder.parent / "labels.parquet"
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(StoreError, match=r"No space left on device. What was at .*kept"):
            gm.predict_to(folder, out)
    assert not out.exists()
    (work,) = (path for path in folder.parent.iterdir() if path.name.startswith("."))
    done = sorted(work.glob("block-*.parquet"))  # which they are is the threads' luck
    assert len(done) == 4
    done[1].write_bytes(b"PAR1")  # as of a machine that went down
    seen: list[Any] = []
    gm.set_params(callbacks=[seen.append])
    try:
        assert gm.predict_to(folder, out, resume="must") == 513
        assert [e.blocks for e in seen if isinstance(e, OutputResumed)] == [3]
        seen.clear()
        assert gm.predict_to(folder, out, resume="must") == 513  # there is nothing left to do
        assert [e.blocks for e in seen if isinstance(e, OutputResumed)] == [6]
    finally:
        gm.set_params(callbacks=None)
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*.parquet"))]
    found = [pq.ParquetFile(out / name).read()["label"].to_numpy() for name in names]
    np.testing.assert_array_equal(np.concatenate(found), gm.predict(folder).compute())
    assert not work.exists()


def test_many_tables_are_known_again(
    gm: GaussianMixture, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many, out = sorted(folder.rglob("*.parquet")), folder.parent / "labels.parquet"
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(StoreError, match="No space left on device"):
            gm.predict_to(many, out)
    seen: list[Any] = []
    gm.set_params(callbacks=[seen.append])
    try:
        assert gm.predict_to(many, out, resume="must") == 513
        assert [e.blocks for e in seen if isinstance(e, OutputResumed)] == [4]
    finally:
        gm.set_params(callbacks=None)
    assert gm.predict_to(many, out, resume="must") == 513  # there is nothing left to do
    write(many[1], cloud(171, seed=9))
    with pytest.raises(OutputExistsError, match="already exists"):
        gm.predict_to(many, out, resume="must")
    with pytest.raises(InputError, match="is the input"):
        gm.predict_to(many, many[1], overwrite=True)
    with pytest.raises(InputError, match="is the input"):
        gm.predict_to(many, folder, overwrite=True)


KILLED = """
import os, sys, pickle
import dask
from dask_gmm.data.tables import parts, table

dask.config.set(num_workers=1)  # of two, one may not have written its block when the other dies

table.SMALLEST_BYTES, table.FEWEST_BLOCKS = 70 * 16, 10**9
gm, folder, out, dies = pickle.load(open(sys.argv[1], "rb"))
where, name = (parts.LocalParts, "write") if dies == "writing" else (os, "fsync")
original, calls = getattr(where, name), []


def deadly(*arguments):
    calls.append(arguments)
    if len(calls) > 3:
        os._exit(9)
    return original(*arguments)


setattr(where, name, deadly)
gm.predict_to(folder, out)
"""


@pytest.mark.slow
@pytest.mark.parametrize("dies", ["writing", "settling"])
def test_a_process_that_dies_leaves_what_it_has_finished(
    dies: str, gm: GaussianMixture, folder: Path
) -> None:
    out, given = folder.parent / "labels.parquet", folder.parent / "given"
    given.write_bytes(pickle.dumps((gm, folder, out, dies)))
    done = subprocess.run([sys.executable, "-c", KILLED, given], check=False)
    assert done.returncode == 9
    assert not out.exists()
    (work,) = (path for path in folder.parent.iterdir() if path.name.startswith("."))
    assert len(list(work.glob("block-*.parquet"))) == (3 if dies == "writing" else 6)
    assert gm.predict_to(folder, out, resume="must") == 513
    assert sorted(path.name for path in folder.parent.iterdir()) == ["given", "labels.parquet", "t"]


def test_another_model_or_other_rows_are_not_gone_on_with(
    gm: GaussianMixture, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = folder.parent / "labels.parquet"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(StoreError):
            gm.predict_to(folder, out)
    with pytest.raises(InputError, match="the columns that are kept was"):
        gm.predict_to(folder, out, keep=["id"])
    write(folder / "b.parquet", cloud(172, seed=9), name=["x"] * 172)
    with pytest.raises(InputError, match="the data have been written to since"):
        gm.predict_to(folder, out)
    assert gm.predict_to(folder, out, resume="never") == 513


def test_a_damaged_part_is_written_anew(
    gm: GaussianMixture, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = folder.parent / "labels.parquet"
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(StoreError):
            gm.predict_to(folder, out)
    part = min(folder.parent.glob(".labels*/block-*.parquet"))
    content = bytearray(part.read_bytes())
    chunk = pq.read_metadata(part).row_group(0).column(0)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start + chunk.total_compressed_size - 2] ^= 1
    part.write_bytes(bytes(content))
    with pytest.raises(StoreError, match=r"is damaged .*: run the same call again"):
        gm.predict_to(folder, out)
    assert not out.exists()
    assert gm.predict_to(folder, out) == 513


def test_what_is_there_is_never_deleted_but_its_like(gm: GaussianMixture, tmp_path: Path) -> None:
    path, out = write(tmp_path / "t.parquet"), tmp_path / "o.parquet"
    gm.predict_to(path, out)
    with pytest.raises(OutputExistsError, match="already exists"):
        gm.predict_to(path, out)
    gm.predict_to(path, out, overwrite=True, keep=["id"])
    assert pq.read_schema(out).names == ["id", "label"]
    other = write(tmp_path / "other.parquet")
    (tmp_path / "f.parquet").mkdir()
    (tmp_path / "f.parquet" / "notes.txt").write_text("mine")
    for place in (other, tmp_path / "f.parquet"):
        with pytest.raises(OutputExistsError, match="never deleted"):
            gm.predict_to(path, place, overwrite=True)


def test_the_input_is_no_output(gm: GaussianMixture, folder: Path) -> None:
    link = folder.parent / "link.parquet"
    link.symlink_to(folder / "b.parquet")
    for X, out in (
        (folder, folder / "labels.parquet"),
        (folder / "b.parquet", folder / "b.parquet"),
        (folder / "b.parquet", link),
        (f"{folder}/*.parquet", folder / "b.parquet"),
    ):
        with pytest.raises((InputError, OutputExistsError), match=r"is the input|never deleted"):
            gm.predict_to(X, out)
    assert gm.predict_to(folder / "b.parquet", folder / "labels.parquet") == 172


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "of a Zarr array": ({"output": "x.zarr", "keep": ["id"]}, "keep= is for tables"),
    "unknown": ({"keep": ["z"]}, "no column 'z' to keep"),
    "nested": ({"keep": ["nested.x"]}, "no column 'nested.x' to keep"),
    "taken": ({"keep": ["label"]}, "'label' cannot be kept"),
    "the web": ({"output": "https://x.example/x.parquet"}, "cannot be used here"),
    "options of a path": ({"storage_options": {"region": "x"}}, "has no meaning"),
    "uneven chunks": ({"output": "x.zarr"}, "to a name that ends with .parquet"),
    "labels of half a byte": ({"dtype": "f4"}, "cannot hold the labels"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake: str, gm: GaussianMixture, folder: Path) -> None:
    how, message = MISTAKES[mistake]
    how = {"output": "o.parquet", **how}
    output = how.pop("output")
    with pytest.raises(InputError, match=message):
        gm.predict_to(folder, output if "://" in output else folder.parent / output, **how)


def test_the_writer_travels(gm: GaussianMixture, tmp_path: Path) -> None:
    kept = writer.KeptColumns(table.Table(None, "t", ()), ("id",))  # type: ignore[arg-type]
    one = writer.TableWriter("u", "p", (), "m", "uint8", kept, (1,), "advice")
    assert pickle.loads(pickle.dumps(one)) == one
