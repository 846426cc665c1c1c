"""Several arrays as the features of one source, held against xarray's stacking in memory."""

from __future__ import annotations

import math
import pickle
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask.array
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import dask_gmm.data.joined_source
from dask_gmm.data.joined_source import JoinedSource, common_chunks
from dask_gmm.data.provenance import recipe_of
from dask_gmm.data.source import DaskSource, Source, open_source
from dask_gmm.data.stores import read_counter
from dask_gmm.errors import (
    ArrayNotFoundError,
    DataChangedError,
    FillValueWarning,
    InputError,
    MissingChunkError,
    MissingValueError,
    NonFiniteError,
)
from dask_gmm.execution import LocalBackend, plan_pass
from dask_gmm.execution.watch import Watch
from dask_gmm.fitting.passes import first_pass
from tests.execution.fakes import BareJob, SumJob
from tests.memory import peak_of
from tests.object_store import CREDENTIALS, object_store  # noqa: F401
from tests.remedies import advised, run_remedy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from dask_gmm.data.grid import BlockRef
    from dask_gmm.rows import Rows
    from tests.object_store import ObjectStoreServer

da: Any = dask.array  # most of it is untyped


def rows_of(source: Source) -> NDArray[Any]:
    return np.concatenate([source.read(source.block(i)).values for i in range(source.n_blocks)])


def stored(
    folder: Path, arrays: Mapping[str, tuple[tuple[str, ...], NDArray[Any]]], **chunks: Any
) -> str:
    """Write named arrays into a group; the chunk lengths of an array by its name."""
    path = str(folder / "group.zarr")
    group = zarr.create_group(path)
    for name, (dims, values) in arrays.items():
        own = chunks.get(name, values.shape)
        group.create_array(name, data=values, chunks=own, dimension_names=dims or None)
    return path


def profiles(n: int = 24, depths: int = 3) -> dict[str, tuple[tuple[str, ...], NDArray[Any]]]:
    """Temperature and salinity at each depth, one of them depth first, and one number a profile."""
    rng = np.random.default_rng(0)
    return {
        "TEMP": (("time", "depth"), rng.normal(1.0, 0.1, size=(n, depths))),
        "PSAL": (("depth", "time"), rng.normal(35.0, 0.1, size=(depths, n))),
        "SST": (("time",), rng.normal(20.0, 0.1, size=n)),
    }


NAMES = ["TEMP", "PSAL", "SST"]


def stacked(arrays: Mapping[str, tuple[tuple[str, ...], NDArray[Any]]]) -> NDArray[Any]:
    columns = [
        values.T if dims[0] == "depth" else values.reshape(len(values), -1)
        for dims, values in arrays.values()
    ]
    return np.concatenate(columns, axis=1)


@st.composite
def datasets(draw: st.DrawFn) -> tuple[xr.Dataset, dict[str, dict[str, int]]]:
    """Variables of some types over samples of one to three dimensions, and chunks for each."""
    samples = {name: draw(st.integers(1, 5)) for name in "tyx"[: draw(st.integers(1, 3))]}
    depths = draw(st.integers(1, 4))
    variables, chunks = {}, {}
    for i in range(draw(st.integers(1, 4))):
        sizes = samples | ({"z": depths} if draw(st.booleans()) or i == 0 else {})
        dims = draw(st.permutations(sorted(sizes)))
        shape = tuple(sizes[dim] for dim in dims)
        dtype = draw(st.sampled_from(["f4", "f8", "i2", "u1"]))
        values = (np.arange(math.prod(shape)).reshape(shape) % 100 + i).astype(dtype)
        variables[f"v{i}"] = (dims, values)
        chunks[f"v{i}"] = {dim: draw(st.integers(1, 6)) for dim in dims}
    return xr.Dataset(variables, coords={"z": np.linspace(0.1, 5.3, depths, dtype="f4")}), chunks


@settings(max_examples=15, deadline=None)
@given(made=datasets(), data=st.data())
def test_rows_and_names_are_those_of_xarrays_stacking(
    made: tuple[xr.Dataset, dict[str, dict[str, int]]],
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    dataset, chunks = made
    names = [str(name) for name in dataset.data_vars]
    path = str(tmp_path_factory.mktemp("any") / "g.zarr")
    group = zarr.create_group(path)
    for name, variable in dataset.variables.items():
        if name in chunks:
            sizes = tuple(chunks[str(name)][str(dim)] for dim in variable.dims)
        else:
            sizes = variable.shape
        dims = [str(dim) for dim in variable.dims]
        array: Any = group.create_array(
            str(name),
            shape=variable.shape,
            chunks=sizes,
            dtype=variable.dtype,
            dimension_names=dims,
            config={"write_empty_chunks": True},
        )
        array[...] = variable.values
    samples = [dim for dim in dataset[names[0]].dims if dim != "z"]
    oracle = dataset.to_stacked_array("f", samples).transpose(*samples, "f")
    lazy = xr.Dataset(
        {
            name: (
                array.dims,
                da.from_array(array.values, chunks=tuple(chunks[str(name)].values())),
            )
            for name, array in dataset.data_vars.items()
        },
        coords=dataset.coords,
    )
    for source in (
        open_source(path, features=names, feature_axis="z"),
        open_source(dataset, feature_axis="z", block_rows=data.draw(st.integers(1, 9))),
        open_source(lazy, feature_axis="z"),
    ):
        assert source.dtype == oracle.dtype == np.result_type(*dataset.data_vars.values())
        assert source.sample_shape == oracle.shape[:-1]
        for i in range(source.n_blocks):
            block = source.block(i)
            box = tuple(slice(a, b) for a, b in zip(block.start, block.stop, strict=True))
            expected = oracle.values[box].reshape(-1, oracle.sizes["f"])
            np.testing.assert_array_equal(source.read(block).values, expected)
        assert source.feature_names == tuple(
            name if np.isnan(z) else f"{name}[z={np.float32(z)!s}]" for name, z in oracle.f.values
        )


# -- blocks ----------------------------------------------------------------------------------------


@given(
    shape=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    data=st.data(),
)
def test_common_chunks_are_the_smallest_of_whole_chunks(
    shape: list[int], data: st.DataObject
) -> None:
    chunks = [
        [data.draw(st.integers(1, 14)) for _ in shape] for _ in range(data.draw(st.integers(1, 3)))
    ]

    def fits(length: int, axis: int) -> bool:
        size = shape[axis]
        return all(length % own[axis] == 0 or length >= size for own in chunks)

    for axis, length in enumerate(common_chunks(shape, chunks)):
        assert length == min(n for n in range(1, shape[axis] + 1) if fits(n, axis))


@pytest.mark.parametrize(
    ("chunks", "blocks"),
    [
        ({"TEMP": (4, 3), "PSAL": (3, 4), "SST": (4,)}, 6),
        ({"TEMP": (4, 3), "PSAL": (3, 6), "SST": (2,)}, 2),
        ({"TEMP": (4, 1), "PSAL": (2, 4), "SST": (4,)}, 6),
        ({"TEMP": (5, 3), "PSAL": (3, 7), "SST": (24,)}, 1),
    ],
)
def test_each_chunk_is_read_once_in_a_pass(
    chunks: dict[str, Any], blocks: int, tmp_path: Path
) -> None:
    arrays = profiles()
    path = stored(tmp_path, arrays, **chunks)
    source = open_source(path, features=NAMES, feature_axis="depth")
    before = read_counter()
    result = LocalBackend(1).run(plan_pass(source, n_threads=1), SumJob())
    there = sum(
        math.prod(-(-n // c) for n, c in zip(arrays[name][1].shape, chunks[name], strict=True))
        for name in NAMES
    )
    assert (read_counter() - before).gets == there
    assert source.n_blocks == result.blocks == blocks
    assert result.value == pytest.approx(stacked(arrays).sum(), rel=1e-12)


def test_chunks_that_do_not_fit_are_refused_with_what_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_gmm.data.joined_source, "JOINED_BLOCK_BYTES", 600)
    arrays = profiles()
    path = stored(tmp_path, arrays, TEMP=(5, 3), PSAL=(3, 7), SST=(24,))
    with pytest.raises(InputError, match=r"TEMP 5, PSAL 7, SST 24 samples.*blocks.*are 24") as said:
        open_source(path, features=NAMES, feature_axis="depth")
    (code,) = advised(str(said.value))
    source = open_source(run_remedy(code, path), features=NAMES, feature_axis="depth")
    assert isinstance(source, DaskSource)
    np.testing.assert_array_equal(rows_of(source), stacked(arrays))


def test_large_chunks_that_fit_are_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_gmm.data.joined_source, "JOINED_BLOCK_BYTES", 1)
    path = stored(tmp_path, profiles(), TEMP=(6, 3), PSAL=(3, 6), SST=(6,))
    assert open_source(path, features=NAMES, feature_axis="depth").n_blocks == 4


def test_dask_chunks_that_have_no_small_multiple_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask_gmm.data.open_features.JOINED_BLOCK_BYTES", 100)
    a, b = np.arange(20.0), np.arange(20.0) + 1
    X = xr.Dataset({"a": ("t", da.from_array(a, chunks=6)), "b": ("t", da.from_array(b, chunks=4))})
    source = open_source(X)
    assert source.sample_chunks == ((4, 2, 2, 4, 4, 2, 2),)
    np.testing.assert_array_equal(rows_of(source), np.stack([a, b], axis=1))


@pytest.mark.parametrize(
    ("chunk", "settings"),
    [
        (20_000, {}),
        pytest.param(20_000, {"compressors": None}, marks=pytest.mark.slow),
        (5_000, {"shards": 20_000}),
    ],
)
def test_memory_is_bounded_as_planned(chunk: int, settings: dict[str, Any], tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "g.zarr")
    values = np.random.default_rng(0).normal(size=(60_000, 8))
    for name, array, own in (("a", values, (chunk, 8)), ("b", values.T.copy(), (8, chunk))):
        more = dict(settings)
        if "shards" in more:
            more["shards"] = tuple(20_000 if c == chunk else c for c in own)
        dims = ("t", "z") if name == "a" else ("z", "t")
        group.create_array(name, data=array, chunks=own, dimension_names=dims, **more)
    source = open_source(tmp_path / "g.zarr", features=["a", "b"], feature_axis="z")
    assert source.block_bytes == 20_000 * 16 * 8
    source.read(source.block(0))
    bound = source.block_bytes + source.read_bytes
    assert bound / 2.5 <= peak_of(lambda: source.read(source.block(1)), bound) <= bound + 2**20


# -- elements --------------------------------------------------------------------------------------


def test_types_promote(tmp_path: Path) -> None:
    arrays = {
        name: (("t",), np.array(values, dtype))
        for name, values, dtype in (
            ("a", [0.1, 0.2], "f4"),
            ("b", [0.1, 0.2], "f8"),
            ("c", [255, 0], "u1"),
        )
    }
    path = stored(tmp_path, arrays)
    source = open_source(path, features=["a", "b", "c"])
    assert source.dtype == np.float64
    np.testing.assert_array_equal(
        rows_of(source), np.stack([values.astype("f8") for _, values in arrays.values()], axis=1)
    )
    assert open_source(path, features=["a", "c"]).dtype == np.float32


def test_each_array_is_decoded_by_its_own_metadata(tmp_path: Path) -> None:
    arrays = profiles(8)
    arrays["TEMP"][1][5, 1] = -1.0  # a measurement there
    arrays["SST"] = (("time",), np.arange(-3, 5, dtype="i2"))
    path = stored(tmp_path, arrays, TEMP=(4, 3), PSAL=(3, 2), SST=(4,))
    zarr.open_array(f"{path}/PSAL").attrs["missing_value"] = -1.0
    zarr.open_array(f"{path}/PSAL")[2, 6] = -1.0
    packing = {"scale_factor": 0.01, "add_offset": 20.0, "missing_value": -2}
    zarr.open_array(f"{path}/SST").attrs.update(packing)
    oracle = xr.open_zarr(path, consolidated=False)[NAMES].load()
    expected = stacked({name: (oracle[name].dims, oracle[name].values) for name in NAMES})
    assert np.isnan(expected).sum() == 2
    raw = xr.open_zarr(path, consolidated=False, decode_cf=False)
    for X in (path, raw, raw.load(), oracle):
        source = open_source(X, features=NAMES, feature_axis="depth")
        assert source.dtype == np.float64
        np.testing.assert_array_equal(rows_of(source), expected)
    for X in (path, raw.load()):
        source = open_source(X, features=NAMES, feature_axis="depth")
        with pytest.raises(MissingValueError, match=r"Feature 6 of .*row 1 .*missing_value"):
            LocalBackend(1).run(plan_pass(source, n_threads=1), NonFiniteJob(6))
        with pytest.raises(
            MissingValueError, match=r"Feature 5 of .*row 6 .*missing_value"
        ) as said:
            LocalBackend(1).run(plan_pass(source, n_threads=1), NonFiniteJob(5))
        assert "PSAL" in str(said.value)
        for code in advised(str(said.value)):
            run_remedy(code, X)


@dataclass(frozen=True)
class NonFiniteJob(BareJob):
    """Finds NaN in a column."""

    column: int
    value_bytes: int = 8
    workspace_bytes: int = 0

    def __call__(self, rows: Rows, block: BlockRef) -> float:
        found = np.flatnonzero(np.isnan(rows.values[:, self.column]))
        if found.size:
            raise NonFiniteError(int(found[0]), self.column, math.nan)
        return 0.0


def test_a_chosen_fill_value_counts_in_its_own_columns(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "g.zarr")
    a, b = np.arange(8.0), np.arange(8.0)
    group.create_array("a", data=a, chunks=(4,), dimension_names=["t"], fill_value=3.0)
    group.create_array("b", data=b, chunks=(4,), dimension_names=["t"], fill_value=5.0)
    source = open_source(tmp_path / "g.zarr", features=["a", "b"])
    passes = LocalBackend(1).open(source)
    with (
        passes,
        pytest.warns(FillValueWarning, match=r"2 of 8 rows .* hold 3.0 \(a\) or 5.0 \(b\)"),
    ):
        first_pass(passes, SumJob())
    assert open_source(tmp_path / "g.zarr", features=["b"]).fill is not None


def test_a_missing_chunk_names_its_array(tmp_path: Path) -> None:
    path = stored(tmp_path, profiles(8), TEMP=(4, 3), PSAL=(3, 4), SST=(4,))
    (tmp_path / "group.zarr" / "PSAL" / "c" / "0" / "1").unlink()
    source = open_source(path, features=NAMES, feature_axis="depth")
    source.read(source.block(0))
    with pytest.raises(MissingChunkError, match=r"'PSAL/c/0/1' of"):
        source.read(source.block(1))


# -- names and dimensions --------------------------------------------------------------------------


def test_arrays_in_subgroups(tmp_path: Path) -> None:
    root = zarr.create_group(tmp_path / "g.zarr")
    physics = root.create_group("physics")
    physics.create_array("T", data=np.ones((4, 2)), dimension_names=["t", "z"])
    physics.create_array("z", data=np.array([0.5, 1.5], "f4"), dimension_names=["z"])
    physics.create_array("w", data=np.full(4, 2.0))
    root.create_array("v", data=np.full(4, 3.0))
    root.create_array("chl", data=np.full(4, 2.0), dimension_names=["t"])
    for X in (tmp_path / "g.zarr", root, root.store):
        source = open_source(X, features=["physics/T", "chl"], feature_axis="z")
        assert source.feature_names == ("physics/T[z=0.5]", "physics/T[z=1.5]", "chl")
        np.testing.assert_array_equal(rows_of(source), [[1, 1, 2]] * 4)
        for name in ("w", "physics/w", "v"):
            weighted = open_source(
                X, features=["physics/T", "chl"], feature_axis="z", sample_weight=name
            )
            weights = weighted.read(weighted.block(0)).weights
            np.testing.assert_array_equal(weights, [3.0 if name == "v" else 2.0] * 4)


def test_levels_are_spelled_as_xarray_decodes_them(tmp_path: Path) -> None:
    days = np.array(["2000-01-01", "2000-01-31"], "M8[ns]")
    X = xr.Dataset({"T": (("t", "day"), np.ones((4, 2)))}, coords={"day": days})
    X.to_zarr(tmp_path / "g.zarr", zarr_format=3)
    by_path = open_source(tmp_path / "g.zarr", features=["T"], feature_axis="day")
    labelled = open_source(xr.open_zarr(tmp_path / "g.zarr"), feature_axis="day")
    assert by_path.feature_names == labelled.feature_names
    assert by_path.feature_names is not None
    assert by_path.feature_names[1].startswith("T[day=2000-01-31T00")


def test_levels_without_coordinates_have_their_numbers(tmp_path: Path) -> None:
    source = open_source(stored(tmp_path, profiles()), features=NAMES[:1], feature_axis="depth")
    assert source.feature_names == ("TEMP[0]", "TEMP[1]", "TEMP[2]")


def test_what_is_opened_lazily_without_dask_is_read_in_its_chunks(tmp_path: Path) -> None:
    path = stored(tmp_path, profiles(), TEMP=(4, 3), PSAL=(3, 6), SST=(24,))
    lazy = xr.open_zarr(path, chunks=None, consolidated=False)
    source = open_source(lazy, features=NAMES[:2], feature_axis="depth")
    assert source.sample_chunks == ((12, 12),)
    assert not lazy["TEMP"]._in_memory
    np.testing.assert_array_equal(rows_of(source), stacked(profiles())[:, :6])


def test_nameless_arrays_of_one_shape_go_by_place(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(2, 4, 3))
    path = stored(tmp_path, {"a": ((), values[0]), "b": ((), values[1]), "c": ((), values[0, :2])})
    source = open_source(path, features=["a", "b"])
    assert source.axis_names is None
    np.testing.assert_array_equal(rows_of(source), values.reshape(2, -1).T)
    with pytest.raises(
        InputError, match=r"'a' of .* does not name its dimensions.*dimension_names"
    ):
        open_source(path, features=["a", "c"])


ODD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "other dimensions": (
        None,
        {"features": NAMES},
        r"TEMP \(time 24, depth 3\), PSAL .*if 'depth' is one of features.*feature_axis='depth'",
    ),
    "no such dimension": (None, {"features": NAMES, "feature_axis": "z"}, "no.*'z'|dimension 'z'"),
    "a number": (None, {"features": NAMES, "feature_axis": 1}, "names of their dimensions"),
    "both": (None, {"features": NAMES, "array": "SST"}, "both say what to read"),
    "a string": (None, {"features": "TEMP"}, r"features=\['TEMP'\]"),
    "none": (None, {"features": []}, "features is empty"),
    "twice": (None, {"features": ["SST", "SST"]}, "more than once"),
    "no sample": (
        None,
        {"features": ["depth"], "feature_axis": "depth"},
        "no dimension of samples",
    ),
    "lengths": (None, {"features": ["SST", "short"]}, r"different lengths.*short \(time 2\)"),
    "no name": (None, {"features": ["SST", 3]}, "3, which is no name"),
    "an array": (np.ones((3, 2)), {"features": ["a"]}, "names arrays of a Zarr group"),
    "no variable": (xr.Dataset({"a": ("t", [1.0])}), {"features": ["b"]}, "no variable 'b'.*'a'"),
    "dimensions": (
        xr.Dataset({"a": ("t", [1.0]), "b": ("x", [1.0]), "c": ("t", [1.0])}),
        {},
        r"a \(t 1\), b \(x 1\), c \(t 1\).*for example features=\['a', 'c'\]",
    ),
    "strings": (xr.Dataset({"a": ("t", ["x"])}), {}, r"a holds <U1 values.*X\['a'\]"),
    "dates": (xr.Dataset({"a": ("t", np.array(["2000"], "M8[ns]"))}), {}, r"X\['a'\] - numpy.dat"),
}


@pytest.mark.parametrize("case", ODD)
def test_what_does_not_fit_is_refused_with_what_would(case: str, tmp_path: Path) -> None:
    X, options, message = ODD[case]
    if X is None:
        more = {"depth": (("depth",), np.ones(3)), "short": (("time",), np.ones(2))}
        X = stored(tmp_path, profiles() | more)
    with pytest.raises(InputError, match=message):
        open_source(X, **options)


def test_nothing_there(tmp_path: Path) -> None:
    path = stored(tmp_path, profiles())
    with pytest.raises(ArrayNotFoundError, match=r"no array 'X'.*'TEMP'.*features="):
        open_source(path, features=["SST", "X"])
    with pytest.raises(ArrayNotFoundError, match=r"itself an array.*features="):
        open_source(f"{path}/SST", features=["SST"])


# -- what is known of the stores -------------------------------------------------------------------


def test_it_travels_and_knows_its_stores(tmp_path: Path) -> None:
    path = stored(tmp_path, profiles(), TEMP=(4, 3), PSAL=(3, 4), SST=(4,))
    source = open_source(path, features=NAMES, feature_axis="depth")
    assert isinstance(source, JoinedSource)
    assert source.shippable
    np.testing.assert_array_equal(rows_of(pickle.loads(pickle.dumps(source))), stacked(profiles()))
    assert [found.name for found in source.stored_metadata()] == [f"{path}/{n}" for n in NAMES]
    swapped = open_source(path, features=NAMES[::-1], feature_axis="depth")
    told = (source.content_digest(), source.content_token(), source.content_name())
    again = open_source(path, features=NAMES, feature_axis="depth")
    assert isinstance(again, JoinedSource)
    assert told == (again.content_digest(), again.content_token(), again.content_name())
    assert swapped.content_digest() != source.content_digest()
    recipe = recipe_of(source, values="labels", model="m", kernel="k", output={})
    assert recipe.exact
    assert recipe.comparable
    zarr.open_array(f"{path}/PSAL")[0, 0] = 0.0
    assert source.content_digest() != told[0]
    assert source.content_token() != told[1]
    changed = recipe_of(source, values="labels", model="m", kernel="k", output={})
    assert "written to since" in recipe.differences(changed.parts)


def test_what_stays_says_why(tmp_path: Path) -> None:
    group = zarr.create_group(zarr.storage.MemoryStore())
    group.create_array("a", data=np.ones(3), dimension_names=["t"])
    source = open_source(group, features=["a"])
    assert not source.shippable
    assert "memory of the process" in (source.stays_because or "")
    assert source.content_digest() is None


def test_a_part_that_is_rewritten_is_found_out(tmp_path: Path) -> None:
    path = stored(tmp_path, profiles())
    source = open_source(path, features=NAMES, feature_axis="depth")
    watch = Watch.of(source)
    zarr.open_array(f"{path}/SST").attrs["scale_factor"] = 2.0
    watch._cost = 0.0  # a look costs too much to be had at once otherwise
    with pytest.raises(DataChangedError, match=re.escape(f"{path}/SST was rewritten")):
        watch.look()


@pytest.mark.slow
def test_objects_of_all_parts_are_requested_ahead(
    object_store: ObjectStoreServer,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    arrays = profiles()
    local = stored(tmp_path, arrays, TEMP=(4, 3), PSAL=(3, 6), SST=(4,))
    url = object_store.url("g.zarr")
    client = object_store.client()
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    for file in (tmp_path / "group.zarr").rglob("*"):
        if file.is_file():
            key = f"{prefix}/{file.relative_to(local)}"
            client.put_object(Bucket=bucket, Key=key, Body=file.read_bytes())
    source = open_source(
        url, features=NAMES, feature_axis="depth", storage_options=object_store.options
    )
    ahead = source.read_ahead
    assert ahead.requests >= 2
    assert source.read_bytes >= ahead.request_bytes > 0
    block = source.block(1)
    requested = source.request(block)
    assert requested is not None
    assert len(requested) == 3 + 2 + 3  # chunks of each that a block of 12 profiles needs
    for answer in requested.values():
        answer.result()
    before = read_counter()
    result = LocalBackend(2).run(plan_pass(source, n_threads=2), SumJob())
    assert result.value == pytest.approx(stacked(arrays).sum(), rel=1e-12)
    assert (read_counter() - before).gets == 6 + 4 + 6
