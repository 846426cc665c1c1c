"""Outputs that were begun: told from complete ones, gone on with, or refused with the reason."""

from __future__ import annotations

import json
import os
import shutil
import uuid
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array
import numpy as np
import psutil
import pytest
import xarray as xr
import zarr
from zarr.core.sync import sync

from dask_gmm.data import atomic_replace
from dask_gmm.data.output_begin import begin_output, output_chunks
from dask_gmm.data.provenance import recipe_of
from dask_gmm.data.source import open_source
from dask_gmm.data.stores import writable_store
from dask_gmm.errors import InputError, OutputExistsError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dask_gmm.data.sink import Output
    from dask_gmm.data.source import Source
    from tests.object_store import ObjectStoreServer

da: Any = dask.array  # most of it is untyped
ROWS = np.arange(40.0).reshape(20, 2) % 7
BLOCKS = 5


class Place:
    """A new path or URL, and what is there."""

    def __init__(self, url: str, options: dict[str, str]) -> None:
        self.url, self.options = url, options

    @property
    def store(self) -> Any:
        return writable_store(self.url, self.options)

    def objects(self) -> dict[str, bytes]:
        """All objects there."""

        async def keys() -> list[str]:
            return [key async for key in self.store.list()]

        prototype = zarr.core.buffer.default_buffer_prototype()
        return {key: sync(self.store.get(key, prototype)).to_bytes() for key in sync(keys())}

    @property
    def complete(self) -> bool:
        """What somebody says who opens it with Zarr alone."""
        try:
            array = zarr.open_array(self.store, mode="r")
        except FileNotFoundError:
            return False
        own: Any = array.attrs["dask_gmm"]
        return bool(own["complete"])


@pytest.fixture(params=["path", "memory", pytest.param("s3", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "path":
        return Place(str(tmp_path / "out.zarr"), {})
    if request.param == "memory":
        return Place(f"memory://{uuid.uuid4().hex}", {})
    server: ObjectStoreServer = request.getfixturevalue("object_store")
    return Place(server.url("out.zarr"), server.options)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    zarr.create_array(tmp_path / "x.zarr", data=ROWS, chunks=(4, 2))
    return open_source(tmp_path / "x.zarr")


def begin(place: Place, source: Source, model: str = "m", **how: Any) -> Output:
    shape, chunks = [int(n or 0) for n in source.sample_shape], output_chunks(source)
    output = {"shape": shape, "chunks": list(chunks), "dtype": "uint8"}
    recipe = recipe_of(source, values="labels", model=model, kernel="k", output=output)
    return begin_output(
        place.url, shape, chunks, "u1", place.options, recipe=recipe, source=source, **how
    )


def write(output: Output, source: Source, n: int | None = None) -> list[int]:
    """Write the first n of the blocks that are left; return which."""
    blocks = range(source.n_blocks) if output.blocks is None else output.blocks
    writer = output.writer.open()
    for i in blocks[:n]:
        writer.write(source.block(i), source.read(source.block(i)).values[:, 0])
    return list(blocks[:n])


def whole(place: Place, source: Source, **how: Any) -> list[int]:
    with begin(place, source, **how) as output:
        written = write(output, source)
        output.finish()
    return written


class Stopped(BaseException):
    """As a Ctrl-C."""


def stop_after(n: int, place: Place, source: Source, **how: Any) -> None:
    """Begin an output, and break off after n blocks."""
    with suppress(Stopped), begin(place, source, **how) as output:
        write(output, source, n)
        raise Stopped


def beside(place: Place) -> list[str]:
    """Hidden files beside a local place."""
    return sorted(p.name for p in Path(place.url).parent.iterdir() if p.name.startswith("."))


def test_an_output_goes_on_and_ends_with_the_same_bytes(place: Place, source: Source) -> None:
    assert whole(place, source) == list(range(BLOCKS))
    expected = place.objects()
    assert place.complete
    with pytest.raises(OutputExistsError, match="already exists"):
        begin(place, source)
    stop_after(2, place, source, overwrite=True)
    on_disk = place.url.startswith("/")
    assert place.complete == on_disk
    if on_disk:
        assert place.objects() == expected
    with begin(place, source, overwrite=True) as output:
        assert output.n_finished == 2
        assert write(output, source) == [2, 3, 4]
        output.finish()
    assert place.objects() == expected
    if on_disk:
        assert beside(place) == []


def test_an_output_of_another_recipe_is_refused_and_the_difference_named(
    place: Place, source: Source, tmp_path: Path
) -> None:
    stop_after(2, place, source)
    with pytest.raises(InputError, match=r"another one: the model is another\. Choose.*no-resume"):
        begin(place, source, model="n")
    zarr.create_array(tmp_path / "y.zarr", data=ROWS[:12], chunks=(4, 2))
    with pytest.raises(InputError, match=r"data was .*x.zarr and is .*y.zarr; .*the shape was"):
        begin(place, open_source(tmp_path / "y.zarr"))
    with pytest.raises(InputError, match="missing_chunks was error and is fill"):
        begin(place, open_source(tmp_path / "x.zarr", missing_chunks="fill"))
    zarr.open_array(tmp_path / "x.zarr")[0, 0] = 5.0
    with pytest.raises(InputError, match="one: the data have been written to since"):
        begin(place, open_source(tmp_path / "x.zarr"))
    assert whole(place, source, model="n", resume="never") == list(range(BLOCKS))
    assert place.complete


def test_what_must_go_on_does_not_begin(place: Place, source: Source) -> None:
    with pytest.raises(InputError, match=r"no output at .* to go on with, and none"):
        begin(place, source, resume="must")
    assert place.objects() == {}
    stop_after(3, place, source)
    assert whole(place, source, resume="must") == [3, 4]
    done = begin(place, source, resume="must")
    assert done.complete, "and so it may be said again and again until it is true"
    with pytest.raises(OutputExistsError, match="already exists"):
        begin(place, source, resume="must", model="n")
    with pytest.raises(InputError, match="resume must be"):
        begin(place, source, resume="perhaps")


def test_rows_in_memory_begin_anew(place: Place) -> None:
    """Nothing tells them from others; what is finished of them is no loss."""
    source = open_source(ROWS, block_rows=4)
    stop_after(2, place, source)
    with pytest.raises(InputError, match="lie in this process's memory"):
        begin(place, source, resume="must")
    assert whole(place, source) == list(range(BLOCKS))


def test_rows_in_memory_do_not_drive_out_others(place: Place, source: Source) -> None:
    stop_after(2, place, source)
    with pytest.raises(InputError, match="another one"):
        begin(place, open_source(ROWS, block_rows=4))


def test_where_only_metadata_are_known_two_blocks_speak_for_the_others(place: Place) -> None:
    source = open_source(da.from_array(ROWS, chunks=(4, 2), name="x"))
    stop_after(3, place, source)
    with begin(place, source) as output:
        assert output.n_finished == 1
        assert output.writer.witnesses == (0, 2)
    changed = open_source(da.from_array(ROWS + 1, chunks=(4, 2), name="x"))
    other = pytest.raises(InputError, match=r"Block 0 of .* holds other values .*--no-resume")
    with begin(place, changed) as output, other:
        write(output, changed)
    between = ROWS + [[k in range(4, 8)] for k in range(20)]  # in block 1, which is finished
    unseen = open_source(da.from_array(between, chunks=(4, 2), name="x"))
    with begin(place, unseen) as output:
        assert write(output, unseen, 3) == [0, 2, 3]
    assert whole(place, source) == [0, 3, 4]
    assert place.complete


def test_nothing_is_left_where_nothing_is_finished(place: Place, source: Source) -> None:
    stop_after(0, place, source)
    assert place.objects() == {}
    if place.url.startswith("/"):
        assert beside(place) == []


def test_a_block_that_is_lost_on_the_way_is_noticed(place: Place, source: Source) -> None:
    with begin(place, source) as output:
        write(output, source)
        sync(writable_store(output.writer.place, place.options).delete("c/3"))
        with pytest.raises(StoreError, match=r"1 blocks of .* are not there"):
            output.finish()
    assert not place.complete
    assert whole(place, source) == [3]


# -- a process that dies at any step ------------------------------------------------------------


class Breaking:
    """Operations on a store, of which the n-th and all later ones raise instead."""

    only: Any

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.left, self.only = -1, {}
        for name in ("set", "set_if_not_exists", "delete"):
            patch.setattr(zarr.storage.MemoryStore, name, self._wrap(name))

    def _wrap(self, name: str) -> Callable[..., Any]:
        original = getattr(zarr.storage.MemoryStore, name)

        async def broken(store: Any, *args: Any) -> Any:
            if store._store_dict is self.only:
                if self.left == 0:
                    raise OSError(5, "Broken")
                self.left -= 1
            return await original(store, *args)

        return broken


@pytest.mark.parametrize("before", ["nothing", "v3", "v2"])
def test_no_step_of_one_in_place_looks_complete(
    before: str, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor can chunks of an old output pass for the new one's."""
    breaking = Breaking(monkeypatch)

    def old(place: Place) -> None:
        if before != "nothing":
            other = np.full(20, 9, "u1")
            form: Any = int(before[1])
            zarr.create_array(place.store, data=other, chunks=(4,), zarr_format=form)

    expected = Place(f"memory://{uuid.uuid4().hex}", {})
    whole(expected, source)
    for step in range(100):
        place = Place(f"memory://{uuid.uuid4().hex}", {})
        breaking.only = place.store._store_dict
        old(place)
        intact = place.objects()
        breaking.left = step
        try:
            whole(place, source, overwrite=True)
        except StoreError:
            assert place.objects() == intact or not place.complete
        else:
            break
        breaking.left = -1
        blocks = whole(place, source, overwrite=True)
        assert len(blocks) >= BLOCKS - step
        assert place.objects() == expected.objects()
    assert step >= BLOCKS + 2, "the mark, the blocks, the mark again"


def test_a_process_that_dies_while_it_replaces_the_old_output(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where names cannot be exchanged; where they can the place is never empty."""
    place = Place(str(tmp_path / "out.zarr"), {})
    whole(place, source, model="n")
    old = place.objects()
    monkeypatch.setattr(atomic_replace, "_exchange", lambda *names: False)
    original = Path.rename

    def die(path: Path, target: Path) -> Path:
        if path.name.endswith(".partial"):
            raise Stopped
        return original(path, target)

    def undone(path: Path, target: Path) -> Path:
        return target if path.name.endswith(".old") else die(path, target)

    monkeypatch.setattr(Path, "rename", undone)
    with pytest.raises(Stopped):
        whole(place, source, overwrite=True)
    assert not Path(place.url).exists()
    monkeypatch.setattr(Path, "rename", original)
    (copy,) = (str(p) for p in tmp_path.iterdir() if p.name.endswith(".partial"))
    claim = atomic_replace.Claim(copy)  # as while the process is alive, between the two steps
    with pytest.raises(OutputExistsError, match="is being written by another process"):
        begin(place, source, resume="never")
    claim.release()
    assert not Path(place.url).exists()
    with pytest.raises(OutputExistsError, match="already exists"):
        begin(place, source)
    assert place.objects() == old
    assert whole(place, source, overwrite=True) == [], "nothing was left but to put it in place"
    assert place.objects() != old
    assert beside(place) == []


def test_the_place_is_never_empty_while_it_is_replaced(tmp_path: Path) -> None:
    """On a file system that can exchange names; as most local ones under Linux."""
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("")
    if not atomic_replace._exchange(str(tmp_path / "new"), str(tmp_path / "old")):
        pytest.skip("this file system cannot exchange two names")
    assert (tmp_path / "old" / "new").exists()
    with pytest.raises(FileNotFoundError):
        atomic_replace._exchange(str(tmp_path / "gone"), str(tmp_path / "old"))


def test_rests_are_cleaned_up(tmp_path: Path, source: Source) -> None:
    place = Place(str(tmp_path / "out.zarr"), {})
    rest = tmp_path / ".out.zarr.0123456789ab.partial"
    (rest / "c").mkdir(parents=True)
    (rest / "c" / "0").write_text("a chunk of something that was being deleted")
    mine = tmp_path / ".out.zarr.notes.partial"
    mine.write_text("somebody's own")
    stop_after(2, place, source)
    assert beside(place) != []
    (copy,) = (p for p in tmp_path.iterdir() if p.name.endswith(".partial") and p != mine)
    (copy / "c" / f"3.{uuid.uuid4().hex}.partial").write_text("half a chunk")
    whole(place, source)
    assert beside(place) == [mine.name]
    assert sorted(p.name for p in (tmp_path / "out.zarr").rglob("*")) == [
        *"01234",
        "c",
        "zarr.json",
    ]


@pytest.mark.parametrize("went_down", [False, True])
def test_chunks_that_a_machine_may_have_lost_are_looked_at(
    went_down: bool, tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(str(tmp_path / "out.zarr"), {})
    stop_after(4, place, source)
    (copy,) = (p for p in tmp_path.iterdir() if p.name.endswith(".partial"))
    chunk = copy / "c" / "1"
    content = chunk.read_bytes()
    for torn in (b"", content[:-1], bytes(len(content)), content[:-4] + b"\0\0\0\0"):
        chunk.write_bytes(torn)
        monkeypatch.setattr(psutil, "boot_time", lambda: 2e9 if went_down else 0.0)
        with begin(place, source) as output:
            assert output.n_finished == (3 if went_down else 4)
            assert (1 in (output.blocks or ())) == went_down
    os.utime(chunk, (1e9, 1e9))  # long before the others: on the disk when the machine went down
    with begin(place, source) as output:
        assert output.n_finished == 4


def test_what_is_removed_while_it_is_written_is_not_written_into(
    place: Place, source: Source
) -> None:
    with begin(place, source) as output:
        writer = output.writer.open()
        if place.url.startswith("/"):
            shutil.rmtree(output.writer.place)
        else:
            sync(place.store.delete("zarr.json"))
        with pytest.raises(StoreError, match=r"is not at .*somebody has removed it"):
            writer.write(source.block(0), np.zeros(4))
        assert place.objects() == {}


@pytest.fixture
def just_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has looked whether the output is still there does so no more."""
    monkeypatch.setattr("dask_gmm.data.sink.LOOK_EVERY", 1e9)


@pytest.mark.usefixtures("just_looked")
def test_a_late_attempt_leaves_nothing(tmp_path: Path) -> None:
    """Of a worker that was given up as late: it looks at the output once a second only."""
    zarr.create_array(tmp_path / "x.zarr", data=np.ones((6, 4, 2)), chunks=(2, 2, 2))
    source = open_source(tmp_path / "x.zarr")
    for columns in ([], [3]):  # labels and posteriors
        place = Place(str(tmp_path / f"out{len(columns)}.zarr"), {})
        recipe = recipe_of(source, values="labels", model="m", kernel="k", output={})
        shape, chunks = [6, 4, *columns], [2, 2, *columns]
        with begin_output(place.url, shape, chunks, "u1", recipe=recipe) as output:
            writers = [output.writer.open() for _ in range(2)]
            values = np.zeros([4, *columns])
            for i in range(6):
                writers[0].write(source.block(i), values)
            writers[1].write(source.block(0), values)
            output.finish()
            expected = place.objects()
            for i in (5, 0):
                with pytest.raises(StoreError, match="complete by now and this is a late attempt"):
                    writers[1].write(source.block(i), values)
                assert beside(place) == []
        assert place.objects() == expected
        assert place.complete


@pytest.mark.usefixtures("just_looked")
def test_a_late_attempt_leaves_alone_what_others_do(tmp_path: Path, source: Source) -> None:
    """Another late one at the same time, which withdraws its own."""
    place = Place(str(tmp_path / "out.zarr"), {})
    with begin(place, source) as output:
        late = output.writer.open()
        write(output, source)
        late.write(source.block(0), np.zeros(4))
        output.finish()
    other = Path(output.writer.place) / "c" / "3"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"x")
    with pytest.raises(StoreError, match="late attempt"):
        late.write(source.block(4), np.zeros(4))
    assert [p.name for p in other.parent.iterdir()] == ["3"]


# -- two at a time ---------------------------------------------------------------------------------


def test_two_on_a_disk_the_second_is_refused(tmp_path: Path, source: Source) -> None:
    place = Place(str(tmp_path / "out.zarr"), {})
    with begin(place, source) as first:
        write(first, source, 2)
        for resume in ("auto", "must", "never"):
            with pytest.raises(OutputExistsError, match="is being written by another process"):
                begin(place, source, resume=resume)
        write(first, source)
        first.finish()
    assert place.complete


def test_two_of_the_same_in_an_object_store_do_no_harm(source: Source) -> None:
    place = Place(f"memory://{uuid.uuid4().hex}", {})
    with begin(place, source) as first, begin(place, source) as second:
        write(first, source, 3)
        write(second, source)
        second.finish()
        assert place.complete
        write(first, source)
        first.finish()
    expected = Place(f"memory://{uuid.uuid4().hex}", {})
    whole(expected, source)
    assert place.objects() == expected.objects()


def test_one_that_another_has_begun_anew_ends_at_once(source: Source) -> None:
    place = Place(f"memory://{uuid.uuid4().hex}", {})
    with begin(place, source) as first:
        write(first, source, 3)
        with pytest.raises(InputError, match="another one"):
            begin(place, source, model="n")
        with begin(place, source, model="n", resume="never") as second:
            for late in (write, lambda output, _: output.finish()):
                with pytest.raises(StoreError, match="no longer written by this run"):
                    late(first, source)
            write(second, source)
            second.finish()
    assert place.complete


# -- read by others --------------------------------------------------------------------------------


def readings(folder: Path) -> Iterator[Callable[[], Any]]:
    path = str(folder / "g" / "out")
    yield lambda: open_source(path)
    yield lambda: open_source(str(folder / "g"))
    yield lambda: open_source(zarr.open_array(path, mode="r"))
    yield lambda: open_source(zarr.open_group(folder / "g", mode="r"), array="out")
    yield lambda: open_source(zarr.storage.LocalStore(path, read_only=True))
    yield lambda: open_source(xr.open_zarr(folder / "g", consolidated=False)["out"])
    yield lambda: open_source(ROWS, sample_weight=path)


def test_nobody_fits_to_an_output_that_is_not_complete(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "x.zarr", data=ROWS, chunks=(4, 2), dimension_names=["t", "f"])
    source = open_source(tmp_path / "x.zarr")
    zarr.create_group(tmp_path / "g")
    stop_after(2, Place(str(tmp_path / "g" / "out"), {}), source)
    (copy,) = (p for p in (tmp_path / "g").iterdir() if p.is_dir())
    with pytest.raises(InputError, match=r"labels of .*x\.zarr are being written"):
        open_source(copy)
    copy.rename(tmp_path / "g" / "out")  # as whoever copies a bucket to a disk may have it
    for read in readings(tmp_path):
        with pytest.raises(InputError, match=r"out.* is an output of dask-gmm .* not complete"):
            read()
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as file:
        for found in (tmp_path / "g" / "out").rglob("*"):
            file.write(found, found.relative_to(tmp_path / "g" / "out"))
    with pytest.raises(InputError, match="not complete"):
        open_source(tmp_path / "out.zip")


def test_a_group_is_not_taken_for_two_arrays_while_its_second_is_written(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "g").create_array("x", data=ROWS, chunks=(4, 2))
    source = open_source(tmp_path / "g")
    stop_after(2, Place(str(tmp_path / "g" / "label"), {}), source)
    assert open_source(tmp_path / "g").name == source.name


def test_consolidated_metadata_are_not_believed(tmp_path: Path) -> None:
    """They are a copy, made when the output was another."""
    group = zarr.create_group(tmp_path / "g")
    group.create_array("out", data=ROWS, chunks=(4, 2))
    zarr.consolidate_metadata(str(tmp_path / "g"))
    open_source(tmp_path / "g")
    document = json.loads((tmp_path / "g" / "out" / "zarr.json").read_text())
    document["attributes"] = {"dask_gmm": {"complete": False}}
    (tmp_path / "g" / "out" / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="not complete"):
        open_source(tmp_path / "g")


@pytest.mark.slow
def test_what_a_group_calls_complete_is_not_overwritten_in_place(
    object_store: ObjectStoreServer, source: Source
) -> None:
    group = Place(object_store.url("g"), object_store.options)
    zarr.create_group(group.store)
    place = Place(f"{group.url}/out", object_store.options)
    whole(place, source)
    whole(place, source, overwrite=True, model="n")
    zarr.consolidate_metadata(group.store)
    before = place.objects()
    with pytest.raises(OutputExistsError, match="consolidated metadata of the group"):
        begin(place, source, overwrite=True)
    assert place.objects() == before


def test_an_incomplete_array_in_a_place_of_its_own_is_not_gone_on_with(
    tmp_path: Path, source: Source
) -> None:
    """On a disk an output under way lies beside its place, so that one is somebody's copy."""
    place = Place(str(tmp_path / "out.zarr"), {})
    stop_after(2, place, source)
    (copy,) = (p for p in tmp_path.iterdir() if p.name.endswith(".partial"))
    shutil.copytree(copy, place.url)
    with pytest.raises(OutputExistsError, match="already exists"):
        begin(place, source)
    assert whole(place, source, overwrite=True) == [2, 3, 4]
