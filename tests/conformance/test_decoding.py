"""Packed stores are read as xarray decodes them, bit for bit, by every road and whoever reads.

The oracle is ``xarray.open_zarr(...).values``. Which elements of which type become what is in
``tests/data/test_decoding.py``; here it is stores, layouts, blocks, passes and what is written.
"""

from __future__ import annotations

import functools
import http.server
import pickle
import threading
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dask
import dask.array
import numcodecs
import numpy as np
import pytest
import xarray
import zarr
import zarr.codecs as codecs
from click.testing import CliRunner

from dask_gmm import GaussianMixture
from dask_gmm.cli.main import main
from dask_gmm.data.buffers import ReadBuffers
from dask_gmm.data.source import ZarrSource, open_source
from dask_gmm.data.stores import read_counter
from dask_gmm.errors import CheckpointError, DataChangedError, MissingValueError, NonFiniteError
from dask_gmm.execution import LocalBackend, plan_pass
from dask_gmm.fitting.events import PassFinished
from tests.execution.fakes import SumJob
from tests.marks import covering, quick_ones

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from dask_gmm.data.source import Source

da: Any = dask.array  # most of it is untyped
Attributes = dict[str, Any]

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:Consolidated metadata"),
    pytest.mark.filterwarnings("ignore::xarray.coding.common.SerializationWarning"),
]

# -- what is stored --------------------------------------------------------------------------------

ENCODINGS: dict[str, tuple[str, Attributes, Any]] = {
    # name: type, attributes, and what stands for a missing element
    "int8, scale": ("i1", {"scale_factor": 0.5}, None),
    "int8, mark": ("i1", {"_FillValue": -127}, -127),
    "int8, unsigned": ("i1", {"_Unsigned": "true"}, None),
    "int8, unsigned, packed": (
        "i1",
        {"_Unsigned": "true", "_FillValue": -1, "scale_factor": 0.5, "add_offset": -10.0},
        -1,
    ),
    "int16, both": ("i2", {"scale_factor": 0.01, "add_offset": 273.15, "_FillValue": -327}, -327),
    "int16, marks": ("i2", {"missing_value": [-32767, -32766], "_FillValue": -32767}, -32766),
    "int16, integers": ("i2", {"scale_factor": 2}, None),
    "int16, big endian": (">i2", {"scale_factor": 0.01, "_FillValue": -32767}, -32767),
    "int32, offset": ("i4", {"add_offset": 1e6, "missing_value": -9999}, -9999),
    "int64, mark": ("i8", {"_FillValue": -(2**63)}, -(2**63)),
    "uint8, nodata 0": ("u1", {"_FillValue": 0}, 0),
    "uint8, signed": ("u1", {"_Unsigned": "false", "scale_factor": 0.1}, None),
    "uint16, both": ("u2", {"scale_factor": 1e-4, "add_offset": -0.1, "_FillValue": 0}, 0),
    "uint16, neutral": ("u2", {"scale_factor": 1.0, "add_offset": 0.0, "_FillValue": 0}, 0),
    "float32, packed": ("f4", {"scale_factor": 0.1, "missing_value": -1.0}, -1.0),
    "float32, mark": ("f4", {"missing_value": float(np.float32(1e20))}, np.float32(1e20)),
    "float32, NaN": ("f4", {"missing_value": float("nan"), "scale_factor": 0.1}, np.nan),
    "float64, packed": ("f8", {"scale_factor": 0.1, "add_offset": 1.0}, None),
    "float64, big endian": (">f8", {"missing_value": -999.0}, -999.0),
    "float32, big endian, packed": (">f4", {"scale_factor": 0.5}, None),
}  # fmt: skip

LAYOUTS: dict[str, dict[str, Any]] = {
    "v3": {},
    "v3 uncompressed": {"compressors": None},
    "v3 blosc crc32c": {
        "compressors": [codecs.BloscCodec(cname="lz4"), codecs.Crc32cCodec()],
    },
    "v3 gzip": {"compressors": [codecs.GzipCodec(level=1)]},
    "sharded": {"shards": 2},
    "sharded uncompressed": {"shards": 2, "compressors": None},
    "v2": {"zarr_format": 2},
    "v2 blosc": {"zarr_format": 2, "compressors": numcodecs.Blosc("lz4")},
    "v2 order F": {"zarr_format": 2, "order": "F"},
    "v2 filter": {"zarr_format": 2, "filters": [numcodecs.Shuffle(2)]},
}


def values_of(encoding: str, shape: tuple[int, ...], holes: float = 0.1) -> NDArray[Any]:
    """Random elements of the type, some of them missing."""
    dtype, _, mark = ENCODINGS[encoding]
    kind, rng = np.dtype(dtype), np.random.default_rng(0)
    if kind.kind == "f":
        x = (50 + 10 * rng.standard_normal(shape)).astype(kind)
    else:
        x = rng.integers(-100, 100, size=shape).astype(kind)
    if mark is not None:
        x[rng.random(shape) < holes] = mark
    return x


def write(folder: Path, x: NDArray[Any], attributes: Attributes, chunks: tuple[int, ...],
          **options: Any) -> str:  # fmt: skip
    """Write a group with the array ``v`` in Zarr's own words, its dimensions named."""
    path, names = str(folder / "g.zarr"), [f"d{i}" for i in range(x.ndim)]
    zarr_format = options.get("zarr_format", 3)
    group = zarr.create_group(path, zarr_format=zarr_format, overwrite=True)
    options.pop("zarr_format", None)
    if "shards" in options:
        options["shards"] = tuple(options["shards"] * c for c in chunks)
    if zarr_format == 3:
        options["dimension_names"] = names
    else:
        options["fill_value"] = attributes.get("_FillValue")
    array = group.create_array("v", shape=x.shape, dtype=x.dtype, chunks=chunks, **options)
    array[...] = x
    array.attrs.update(attributes)
    if zarr_format == 2:
        array.attrs["_ARRAY_DIMENSIONS"] = names
    zarr.consolidate_metadata(path)
    return path


def by_xarray(path: str) -> NDArray[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values: NDArray[Any] = xarray.open_zarr(path)["v"].values
    return values


def rows_of(source: Source) -> list[NDArray[Any]]:
    return [source.read(source.block(i)).values for i in range(source.n_blocks)]


def check(source: Source, expected: NDArray[Any]) -> None:
    """Every block, in memory of its own and in buffers, is what xarray has there."""
    assert source.dtype == expected.dtype.newbyteorder("=")
    moved = np.moveaxis(expected, source.feature_axis, -1)
    buffers = ReadBuffers()
    for i in range(source.n_blocks):
        block = source.block(i)
        box = tuple(slice(a, b) for a, b in zip(block.start, block.stop, strict=True))
        part = moved[box].reshape(-1, source.n_features)
        for rows in (source.read(block).values, source.read_into(block, buffers).values):
            assert rows.dtype == source.dtype
            assert rows.tobytes() == part.astype(source.dtype).tobytes()
    largest = source.max_block_rows or 0
    assert source.block_bytes == largest * source.n_features * source.dtype.itemsize


def raw(path: str, **options: Any) -> Any:
    return xarray.open_zarr(path, mask_and_scale=False, **options)["v"]


ROADS: dict[str, Callable[[str], Any]] = {
    "path": lambda path: f"{path}/v",
    "group": lambda path: zarr.open_group(path, mode="r"),
    "zarr.Array": lambda path: zarr.open_array(f"{path}/v", mode="r"),
    "DataArray": lambda path: raw(path).load(),
    "DataArray, lazy": lambda path: raw(path, chunks=None),
    "DataArray, Dask": raw,
    "Dask": lambda path: da.from_zarr(f"{path}/v"),
}


@pytest.mark.parametrize(
    ("zarr_format", "encoding"),
    quick_ones(
        [(f, name) for f in (2, 3) for name in ENCODINGS],
        [(2 + i % 2, name) for i, name in enumerate(ENCODINGS)],
    ),
)
def test_the_values_of_xarray_by_every_road(
    zarr_format: int, encoding: str, tmp_path: Path
) -> None:
    _, attributes, _ = ENCODINGS[encoding]
    x = values_of(encoding, (23, 4))
    path = write(tmp_path, x, attributes, (6, 4), zarr_format=zarr_format)
    expected = by_xarray(path)
    for road, make in ROADS.items():
        source = open_source(make(path))
        check(source, expected)
        if source.shippable:
            check(pickle.loads(pickle.dumps(source)), expected)
        assert source.read_bytes > 0, road


@pytest.mark.parametrize(
    ("layout", "encoding"),
    quick_ones(
        [(layout, name) for layout in LAYOUTS for name in ENCODINGS],
        covering(list(LAYOUTS), ["int16, both", "int8, unsigned", "float32, mark"]),
    ),
)
def test_the_same_bits_of_every_layout(layout: str, encoding: str, tmp_path: Path) -> None:
    """By the direct reader, in place, and through zarr-python; features along any axis."""
    _, attributes, _ = ENCODINGS[encoding]
    options = dict(LAYOUTS[layout])
    for shape, chunks in (((23, 4), (5, 4)), ((7, 6, 5), (4, 3, 2))):
        path = write(tmp_path, values_of(encoding, shape), attributes, chunks, **options)
        expected = by_xarray(path)
        for axis in range(len(shape)):
            source = open_source(f"{path}/v", feature_axis=axis)
            assert isinstance(source, ZarrSource)
            check(source, expected)
            if source.reader == "direct":
                through = replace(source, layout=None)
                for one, other in zip(rows_of(source), rows_of(through), strict=True):
                    # Sums may be rounded differently along other strides.
                    assert one.flags.c_contiguous == other.flags.c_contiguous
                    assert one.flags.f_contiguous == other.flags.f_contiguous


def test_objects_behind_a_url(tmp_path: Path) -> None:
    """They are requested ahead, several at a time."""
    x, attributes = values_of("int16, both", (23, 4)), ENCODINGS["int16, both"][1]
    expected = by_xarray(write(tmp_path, x, attributes, (6, 4)))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        source = open_source(f"http://127.0.0.1:{server.server_port}/g.zarr/v")
        assert source.reader == "direct"
        assert source.read_ahead.requests > 0
        check(source, expected)
        found = LocalBackend().run(plan_pass(source, n_threads=2), SumJob())
        server.shutdown()
    assert found.bytes_read == 23 * 4 * 8, "what is decoded is counted"


def test_chunks_that_are_not_stored_are_missing(tmp_path: Path) -> None:
    """The fill value of Zarr stands for them, which may be a mark."""
    path = write(tmp_path, values_of("int16, both", (20, 3)), {}, (5, 3), fill_value=-327)
    zarr.open_array(f"{path}/v", mode="r+").attrs.update(ENCODINGS["int16, both"][1])
    (tmp_path / "g.zarr" / "v" / "c" / "1" / "0").unlink()
    zarr.consolidate_metadata(path)
    source = open_source(f"{path}/v", missing_chunks="fill")
    check(source, by_xarray(path))
    assert np.isnan(rows_of(source)[1]).all()


def test_shards_are_cut_by_what_they_decode_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dask_gmm.data import zarr_source

    monkeypatch.setattr(zarr_source, "SHARD_BLOCK_BYTES", 512)
    x = values_of("int16, both", (64, 4))
    attributes = ENCODINGS["int16, both"][1]
    path = write(tmp_path, x, attributes, (4, 4), shards=16)
    source = open_source(f"{path}/v")
    assert source.block_bytes == 512, "16 rows of 4 float64"
    check(source, by_xarray(path))


def test_one_read_for_each_chunk(tmp_path: Path) -> None:
    path = write(tmp_path, values_of("int16, both", (24, 3)), ENCODINGS["int16, both"][1], (4, 3))
    source = open_source(f"{path}/v")
    before = read_counter()
    rows_of(source)
    assert (read_counter() - before).gets == source.n_blocks == 6


# -- passes ----------------------------------------------------------------------------------------

N = 1_900
PACKED: Attributes = {"scale_factor": 0.01, "add_offset": 20.0, "_FillValue": -32767}


def counts() -> NDArray[Any]:
    rng = np.random.default_rng(3)
    centres = np.asarray([[0, 0, 0], [400, 300, -200]])
    noise = 60 * rng.standard_normal((N, 3))
    return np.round(centres[rng.integers(2, size=N)] + noise).astype("i2")


@pytest.fixture
def packed(tmp_path: Path) -> str:
    return write(tmp_path, counts(), PACKED, (100, 3)) + "/v"


@pytest.fixture
def plain(tmp_path: Path) -> str:
    """The same measurements, stored as such in the same chunks."""
    path = str(tmp_path / "plain.zarr")
    zarr.create_array(path, data=counts() * 0.01 + 20.0, chunks=(100, 3))
    return path


def fit(X: Any, sample_weight: Any = None, **options: Any) -> GaussianMixture:
    given = {"max_iter": 6, "tol": 1e-9, "random_state": 0}
    gm = GaussianMixture(2, **{**given, **options})
    gm.fit(X, sample_weight=sample_weight)
    return gm


def bits(gm: GaussianMixture) -> list[bytes]:
    return [np.asarray(v).tobytes() for v in (gm.means_, gm.covariances_, gm.lower_bound_)]


def test_a_fit_to_packed_values_is_one_to_measurements(packed: str, plain: str) -> None:
    expected = fit(plain)
    assert expected.means_.min() > 10.0
    found = fit(packed)
    assert bits(found) == bits(expected)
    assert found.n_passes_ == expected.n_passes_
    for name in ("predict", "score_samples", "predict_proba"):
        lazy, other = getattr(found, name)(packed), getattr(found, name)(plain)
        assert np.asarray(lazy).tobytes() == np.asarray(other).tobytes()
        assert lazy.dtype == other.dtype
    assert found.score(packed) == found.score(plain)


def test_the_bits_of_a_cluster(packed: str, two_processes: Any) -> None:
    from dask_gmm.execution.cluster.backend import ClusterBackend

    group = packed.removesuffix("/v")
    sources = [open_source(packed), open_source(raw(group)), open_source(da.from_zarr(packed))]
    expected = LocalBackend().run(plan_pass(sources[0], n_threads=1), SumJob()).value
    for source in sources:
        result = ClusterBackend(two_processes).run(plan_pass(source, n_threads=2), SumJob())
        assert result.value.hex() == expected.hex()


@pytest.mark.slow
def test_the_bits_of_a_fit_on_a_cluster(packed: str, two_processes: Any, tmp_path: Path) -> None:
    """With weights that are packed too, and labels that workers write."""
    weights = zarr.create_array(
        str(tmp_path / "w.zarr"), data=(np.arange(N) % 5).astype("u1"), chunks=(333,)
    )
    weights.attrs.update(scale_factor=0.25, _FillValue=255)
    here = fit(packed, sample_weight=str(tmp_path / "w.zarr"))
    by_hand = fit(packed, sample_weight=(np.arange(N) % 5) * 0.25)
    with two_processes.as_current():
        there = fit(packed, sample_weight=str(tmp_path / "w.zarr"))
        assert there.history_[0].tasks > 2
        assert there.predict_to(packed, tmp_path / "labels.zarr") == N
        lazy = np.asarray(there.predict(raw(packed.removesuffix("/v"))))
    assert bits(there) == bits(here) == bits(by_hand)
    labels = zarr.open_array(str(tmp_path / "labels.zarr"), mode="r")[...]
    np.testing.assert_array_equal(labels, np.asarray(here.predict(packed)))
    np.testing.assert_array_equal(labels, lazy)


def test_an_error_says_which_metadata_made_it_nan(packed: str, two_processes: Any) -> None:
    array = zarr.open_array(packed, mode="r+")
    array[1234, 1] = -32767
    message = r"Feature 1 of .* is -32767, which the attribute '_FillValue' marks as missing"
    group = packed.removesuffix("/v")
    for X in (packed, raw(group), raw(group).load(), da.from_zarr(packed)):
        with pytest.raises(MissingValueError, match=message) as caught:
            fit(X)
        assert isinstance(caught.value, NonFiniteError)
        in_memory = isinstance(X, xarray.DataArray) and X.chunks is None
        place = "row 1234 of block 0" if in_memory else "row 34 of block 12"
        assert place in str(caught.value)
        assert (caught.value.feature, caught.value.value) == (1, -32767)
        if not in_memory:
            with (
                two_processes.as_current(),
                pytest.raises(MissingValueError, match=r"is -32767, which"),
            ):
                fit(X)
    w = np.ones(N)
    w[1234] = 0.0
    assert GaussianMixture(2, random_state=0).fit(packed, sample_weight=w).n_rows_ == N - 1


def test_numbers_that_were_nan_before_are_as_ever(tmp_path: Path) -> None:
    x = counts().astype("f4")
    x[7, 2] = np.nan
    path = write(tmp_path, x, {"scale_factor": 0.1, "missing_value": -9e9}, (100, 3))
    with pytest.raises(NonFiniteError, match=r"contains NaN.\nFeature 2 of row 7 of") as caught:
        fit(f"{path}/v")
    assert type(caught.value) is NonFiniteError


def test_outputs_are_of_the_measurements(packed: str, plain: str, tmp_path: Path) -> None:
    gm = fit(packed)
    found: list[Any] = []
    for X, name in ((packed, "a.zarr"), (plain, "b.zarr")):
        assert gm.predict_to(X, tmp_path / name) == N
        found.append(zarr.open_array(str(tmp_path / name), mode="r")[...])
    np.testing.assert_array_equal(found[0], found[1])
    # Begun anew, not gone on with: the same chunks mean something else.
    zarr.open_array(packed, mode="r+").attrs["add_offset"] = 30.0
    from dask_gmm.data.provenance import recipe_of

    made = {"values": "labels", "model": "", "kernel": "", "output": {}}
    other = recipe_of(open_source(packed), **made)  # type: ignore[arg-type]
    zarr.open_array(packed, mode="r+").attrs["add_offset"] = 20.0
    assert "metadata" in recipe_of(open_source(packed), **made).differences(other.parts)  # type: ignore[arg-type]


def test_a_checkpoint_knows_what_the_elements_meant(packed: str, tmp_path: Path) -> None:
    place = str(tmp_path / "fit.gmm")
    gm = GaussianMixture(2, random_state=0, max_iter=3, tol=1e-12)
    gm.fit(packed, checkpoint=place)
    array = zarr.open_array(packed, mode="r+")
    array.attrs["scale_factor"] = 0.02
    with pytest.raises(CheckpointError, match="metadata of the data have changed"):
        gm.set_params(max_iter=6).fit(packed, checkpoint=place, resume="must")
    labelled = raw(packed.removesuffix("/v")).load()
    digests = {
        open_source(labelled.assign_attrs(scale_factor=scale)).content_digest()
        for scale in (0.01, 0.02)
    }
    assert len(digests) == 2


def test_packing_that_changes_during_a_fit_ends_it(packed: str) -> None:
    def meddle(event: Any) -> None:
        if isinstance(event, PassFinished):
            zarr.open_array(packed, mode="r+").attrs["add_offset"] = 21.0

    with pytest.raises(DataChangedError, match=r"attributes was .*20\.0.* and is .*21\.0"):
        fit(packed, callbacks=[meddle], acceleration=None, max_iter=50, tol=0.0)


def test_lazy_results_are_named_by_what_elements_mean(packed: str) -> None:
    gm = fit(packed)
    array = raw(packed.removesuffix("/v"))
    names = {
        gm.predict(array.assign_attrs(attributes)).data.name
        for attributes in ({}, {"scale_factor": 0.02}, {"valid_max": 300})
    }
    assert len(names) == 3
    assert gm.predict(array).data.name == gm.predict(array.copy()).data.name


def run(*words: str) -> str:
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    return done.output


def test_commands_see_measurements(packed: str, plain: str, tmp_path: Path) -> None:
    assert "float64, decoded from int16" in run("plan", packed, "-k", "2")
    labels: list[Any] = []
    for X, name in ((packed, "a"), (plain, "b")):
        model, output = str(tmp_path / f"{name}.gmm"), str(tmp_path / f"{name}.zarr")
        run("fit", X, "-k", "2", "--seed", "0", "-o", model)
        assert "scale_factor" not in run("show", model)
        run("predict", X, "-m", model, "-o", output)
        labels.append(zarr.open_array(output, mode="r")[...])
    assert GaussianMixture.load(tmp_path / "a.gmm").means_.min() > 10.0
    np.testing.assert_array_equal(labels[0], labels[1])


# -- what cannot be --------------------------------------------------------------------------------


def test_arrays_that_are_packed_differently_have_no_one_meaning(tmp_path: Path) -> None:
    from dask_gmm.errors import InputError

    paths = [
        write(tmp_path / str(i), counts(), {**PACKED, "add_offset": i}, (100, 3)) for i in (1, 2)
    ]
    x = da.concatenate([da.from_zarr(f"{path}/v") for path in paths])
    with pytest.raises(InputError, match="packed in different ways"):
        open_source(x)
    alike = da.concatenate([da.from_zarr(f"{paths[0]}/v")] * 2)
    check(open_source(alike), np.concatenate([by_xarray(paths[0])] * 2))


def test_marks_of_arrays_that_are_joined_all_count(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / str(i), np.arange(12.0).reshape(6, 2) + i, attributes, (3, 2))
        for i, attributes in enumerate(({"missing_value": 3.0}, {"missing_value": 7.0}, {}))
    ]
    x = da.concatenate([da.from_zarr(f"{path}/v") for path in paths])
    rows = np.concatenate(rows_of(open_source(x)))
    np.testing.assert_array_equal(np.isnan(rows), np.isin(x.compute(), [3.0, 7.0]))
