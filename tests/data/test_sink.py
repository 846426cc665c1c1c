"""Outputs: aligned, complete or marked as not, never over something else."""

from __future__ import annotations

import pickle
import shutil
from typing import TYPE_CHECKING, Any

import dask.array
import numpy as np
import obstore.store
import pytest
import xarray as xr
import zarr
from zarr.storage import StorePath

from dask_gmm.data.atomic_replace import put_in_place
from dask_gmm.data.output_begin import begin_output, output_chunks
from dask_gmm.data.provenance import Recipe
from dask_gmm.data.source import open_source
from dask_gmm.data.stores import writable_store
from dask_gmm.errors import InputError, OutputExistsError, StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from dask_gmm.data.sink import Output
    from dask_gmm.data.source import Source

da: Any = dask.array  # most of it is untyped


RECIPE = Recipe({"values": "labels", "model": "abc"})


def begin(
    path: object, shape: tuple[int, ...], chunks: tuple[int, ...], *more: Any, **how: Any
) -> Output:
    return begin_output(str(path), shape, chunks, *more, **{"recipe": RECIPE, **how})


def write_all(output: Output, source: Source, value: float | None = None) -> None:
    """Write to each block of the output its source's first feature, or a value."""
    writer = output.writer.open()
    for i in output.blocks if output.blocks is not None else range(source.n_blocks):
        rows = source.read(source.block(i)).values[:, 0]
        writer.write(source.block(i), rows if value is None else np.full(len(rows), value))


def says(path: object) -> Any:
    return dict(zarr.open_array(str(path), mode="r").attrs)["dask_gmm"]


@pytest.mark.parametrize("n_outputs", [None, 3])
def test_blocks_in_any_order_twice(
    n_outputs: int | None, tmp_path: Path, cube: NDArray[np.float64]
) -> None:
    source = open_source(cube, feature_axis=0, block_rows=6)
    out = tmp_path / "out.zarr"
    tail = () if n_outputs is None else (n_outputs,)
    with begin(out, (5, 9, *tail), output_chunks(source) + tail, "f4") as output:
        writer = pickle.loads(pickle.dumps(output.writer))
        assert not out.exists()
        array: Any = zarr.open_array(writer.place)
        assert np.isnan(array[...]).all()
        assert says(writer.place) == {"complete": False, "recipe": RECIPE.parts}
        opened = writer.open()
        for i in [*reversed(range(source.n_blocks)), 0]:
            rows = source.read(source.block(i)).values
            values = rows[:, 0] if n_outputs is None else rows[:, :n_outputs]
            opened.write(source.block(i), values)
        output.finish()
    array = zarr.open_array(out)
    expected = cube[0] if n_outputs is None else np.moveaxis(cube[:n_outputs], 0, -1)
    np.testing.assert_array_equal(array[...], expected)
    assert says(out) == {"complete": True, "recipe": RECIPE.parts}
    assert array.chunks == output_chunks(source) + tail
    assert [p.name for p in tmp_path.iterdir()] == ["out.zarr"]


@pytest.mark.parametrize(("dtype", "hole"), [("int32", -1), ("uint8", 255)])
def test_zeros_are_written_and_holes_are_not_zeros(dtype: str, hole: int, tmp_path: Path) -> None:
    source = open_source(np.ones((10, 2)), block_rows=4)
    with begin(tmp_path / "o.zarr", (10,), output_chunks(source), dtype) as output:
        for i in range(2):
            output.writer.open().write(source.block(i), np.zeros(4, dtype))
    array: Any = zarr.open_array(output.writer.place)
    assert array.nchunks_initialized == 2
    np.testing.assert_array_equal(array[...], [0] * 8 + [hole] * 2)


def test_wrong_number_of_values(tmp_path: Path) -> None:
    source = open_source(np.ones((10, 2)), block_rows=4)
    writer = begin(tmp_path / "o.zarr", (10,), (4,)).writer.open()
    with pytest.raises(InputError, match=r"Block 2 of .* takes values of shape \(2,\), got \(4,\)"):
        writer.write(source.block(2), np.zeros(4))


def test_chunks_of_another_source(tmp_path: Path) -> None:
    source = open_source(np.ones((10, 2)), block_rows=4)
    writer = begin(tmp_path / "o.zarr", (10,), (5,)).writer.open()
    with pytest.raises(InputError, match="only part of a chunk"):
        writer.write(source.block(1), np.zeros(4))


def finished(path: object, n: int = 4, **how: Any) -> None:
    """Write an output of zeros, all of it."""
    source = open_source(np.zeros((n, 2)), block_rows=2)
    with begin(path, (n,), (2,), **how) as output:
        write_all(output, source)
        output.finish()


def test_nothing_but_an_array_is_ever_overwritten(tmp_path: Path) -> None:
    array = tmp_path / "array.zarr"
    zarr.create_array(array, data=np.ones(3))
    with pytest.raises(OutputExistsError, match="overwrite=True, --overwrite"):
        begin(array, (4,), (2,))
    finished(array, overwrite=True)
    assert zarr.open_array(array).shape == (4,)

    precious = tmp_path / "home"
    precious.mkdir()
    (precious / "thesis.tex").write_text("…")
    with pytest.raises(OutputExistsError, match="never deleted"):
        begin(precious, (4,), (2,), overwrite=True)
    group = tmp_path / "group.zarr"
    zarr.open_group(group, mode="w").create_array("a", data=np.ones(3))
    with pytest.raises(OutputExistsError, match="a Zarr group"):
        begin(group, (4,), (2,), overwrite=True)
    finished(group / "labels")
    assert (precious / "thesis.tex").exists()
    assert sorted(zarr.open_group(group).array_keys()) == ["a", "labels"]


@pytest.mark.parametrize(
    "spelling",
    ["x.zarr", "x.zarr/", "sub/../x.zarr", "link", "linked/x.zarr", "relative", "file", "inside"],
)
def test_the_input_is_not_an_output(
    spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.zarr"
    zarr.create_array(path, data=np.ones((4, 2)))
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "linked").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    special = {"relative": "x.zarr", "file": f"file://{path}", "inside": f"{path}/labels"}
    output = special.get(spelling, f"{tmp_path}/{spelling}")

    class OtherStore(zarr.storage.LocalStore):
        """No URL stands for it, but it has a place."""

    for X in (path, output, zarr.open_array(path), zarr.open_array(OtherStore(path))):
        if spelling == "inside" and X is output:
            continue
        source = open_source(X)
        with pytest.raises(InputError, match="is the input"):
            begin(output, (4,), (2,), overwrite=True, source=source)
        # Opened by another spelling of its path, written to by the plain one.
        with pytest.raises(InputError, match="is the input"):
            begin(path, (4,), (2,), overwrite=True, source=source)
    assert zarr.open_array(path).shape == (4, 2)


def test_a_collection_on_the_output_is_read_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    zarr.create_array(path, data=np.arange(1.0, 9.0).reshape(4, 2), chunks=(2, 2))
    source = open_source(da.from_zarr(str(path)) + 1)
    with begin(path, (4,), (2,), "f8", overwrite=True, source=source) as output:
        write_all(output, source)
        np.testing.assert_array_equal(source.read(source.block(0)).values, [[2, 3], [4, 5]])
        output.finish()
    np.testing.assert_array_equal(zarr.open_array(path)[...], [2, 4, 6, 8])
    assert [p.name for p in tmp_path.iterdir()] == ["x.zarr"]


def test_an_object_store_output_is_not_the_array_of_a_collection() -> None:
    x = zarr.create_array(writable_store("memory://sink"), data=np.ones((4, 2)), chunks=(2, 2))
    with pytest.raises(InputError, match="memory://sink is the input"):
        begin("memory://sink", (4,), (2,), overwrite=True, source=open_source("memory://sink"))
    assert x.shape == (4, 2)
    remote = zarr.storage.ObjectStore(obstore.store.from_url("s3://b/x", skip_signature=True))
    metadata: Any = x.metadata
    elsewhere = zarr.Array(zarr.AsyncArray(metadata, StorePath(remote, "")))
    for inline in (True, False):
        array = da.from_array(elsewhere, chunks=(2, 2), inline_array=inline, name=str(inline))
        with pytest.raises(InputError, match=r"s3://b/x/ is the input|s3://b/x is the input"):
            begin("s3://b/x", (4,), (2,), overwrite=True, source=open_source(array + 1))


def test_what_came_to_be_at_the_output_meanwhile_is_not_deleted(tmp_path: Path) -> None:
    path = tmp_path / "o.zarr"
    source = open_source(np.ones((4, 2)), block_rows=2)
    with begin(path, (4,), (2,)) as output:
        write_all(output, source)
        zarr.create_array(path, data=np.ones(3))
        with pytest.raises(OutputExistsError):
            output.finish()
    with begin(path, (4,), (2,), overwrite=True) as output:
        assert output.blocks == ()
        shutil.rmtree(path)
        path.mkdir()
        (path / "thesis.tex").write_text("…")
        with pytest.raises(OutputExistsError, match="never deleted"):
            output.finish()
    assert (path / "thesis.tex").exists()


def test_a_failed_swap_is_undone(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "a").write_text("")
    with pytest.raises(FileNotFoundError):
        put_in_place(str(tmp_path / "gone"), str(tmp_path / "old"))
    assert [p.name for p in tmp_path.iterdir()] == ["old"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "labels").symlink_to(tmp_path / "disk" / "labels")
    for n in (4, 6):
        finished(tmp_path / "labels", n, overwrite=True, recipe=Recipe({"n": n}))
        assert (tmp_path / "labels").is_symlink()
        assert zarr.open_array(tmp_path / "disk" / "labels").shape == (n,)
    assert [p.name for p in (tmp_path / "disk").iterdir()] == ["labels"]


def test_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/o\.zarr could not be written: Not a directory"):
        begin(tmp_path / "file" / "o.zarr", (4,), (2,))


def test_chunks_of_dask_outputs() -> None:
    even = open_source(da.zeros((10, 2), chunks=(4, 1)))
    assert output_chunks(even) == (4,)
    uneven = open_source(da.zeros((2, 10), chunks=(1, (4, 3, 3))), feature_axis=0)
    with pytest.raises(InputError, match=r"uneven sizes along axis 1.*rechunk\(\{1: 4\}\)"):
        output_chunks(uneven)
    x = da.zeros((10, 2), chunks=(4, 2))
    with pytest.raises(InputError, match="compute_chunk_sizes"):
        output_chunks(open_source(x[x[:, 0] == 0]))


def test_labels_beside_their_data_open_in_xarray(tmp_path: Path) -> None:
    """In a group without consolidated metadata xarray sees them, with the data's dimensions."""
    path = str(tmp_path / "cruise.zarr")
    values = np.arange(24.0).reshape(6, 4)
    data = xr.Dataset({"temperature": (("time", "depth"), values)})
    data.chunk(time=3).to_zarr(path, zarr_format=3, consolidated=False)
    source = open_source(path, array="temperature")
    with begin(f"{path}/label", (6,), output_chunks(source), source=source) as output:
        for i in range(source.n_blocks):
            block = source.block(i)
            output.writer.open().write(block, np.full(block.rows or 0, i))
        output.finish()
    again = xr.open_zarr(path, consolidated=False)
    assert again.label.dims == ("time",)
    np.testing.assert_array_equal(again.label, [0, 0, 0, 1, 1, 1])
