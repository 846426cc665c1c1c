"""What metadata say of values means the same by every road in, and what messages advise works.

Each kind of mark or encoding is written once and opened by all roads that carry metadata. The
oracle is xarray: what it decodes to, and NaN where it leaves what metadata call missing. Whoever
computes with rows that hold NaN refuses them; where metadata made it NaN, the error says so.
"""

from __future__ import annotations

import base64
import itertools
import re
import struct
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dask
import dask.array
import numpy as np
import pytest
import xarray
import zarr

from dask_gmm import GaussianMixture
from dask_gmm.data.source import open_source
from dask_gmm.errors import FillValueWarning, InputError, MissingValueError
from tests.marks import quick_ones
from tests.remedies import advised, run_remedy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

N = 120
DIMS = ("row", "feature")


def counts(dtype: str = "i2") -> NDArray[Any]:
    """Two clouds of counts, the second away from the first; nothing of them is a mark."""
    rng = np.random.default_rng(0)
    rows = 40 + 5 * rng.standard_normal((N, 2))
    rows[N // 2 :] += 40
    return rows.astype(dtype)


def holed(value: float, dtype: str = "i2") -> NDArray[Any]:
    """The same, a value in one feature of every sixth row."""
    rows = counts(dtype)
    rows[::6, 1] = value
    return rows


@dataclass(frozen=True)
class Kind:
    """Stored values, what their metadata say, and what becomes of a fit to them."""

    rows: NDArray[Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    fill: Any = None
    error: type[Exception] | None = MissingValueError
    message: str = ""
    dates: bool = False


NAT = np.iinfo(np.int64).min
HOURS = "hours since 2024-01-01 00:00:00"
KINDS = {
    "_FillValue": Kind(holed(-9999), {"_FillValue": -9999}, message="'_FillValue' marks"),
    "_FillValue of 0": Kind(holed(0, "u2"), {"_FillValue": 0}, message="'_FillValue' marks"),
    "_FillValue, float": Kind(
        holed(-999.9, "f4"), {"_FillValue": float(np.float32(-999.9))}, message="is -999.9"
    ),
    "missing_value": Kind(holed(-9999), {"missing_value": -9999}, message="'missing_value' marks"),
    "both": Kind(holed(-1), {"_FillValue": -9999, "missing_value": -1}, message="'missing_value'"),
    "an array of them": Kind(holed(-1), {"missing_value": [-2, -1]}, message="'missing_value'"),
    "marks of nothing": Kind(counts(), {"_FillValue": -9999, "valid_min": 0}, error=None),
    "valid_min": Kind(holed(-5), {"valid_min": 0}, message="'valid_min' calls valid"),
    "valid_max": Kind(holed(999), {"valid_max": 500}, message="'valid_max' calls valid"),
    "valid_range": Kind(holed(999, "f4"), {"valid_range": [0, 500]}, message="'valid_range'"),
    "scale_factor": Kind(counts(), {"scale_factor": 0.5}, error=None),
    "add_offset": Kind(counts(), {"add_offset": 273.0}, error=None),
    "packed with holes": Kind(
        holed(-9999),
        {"scale_factor": 0.5, "add_offset": 3.0, "_FillValue": -9999},
        message="is -9999, which the attribute '_FillValue' marks",
    ),
    "packed, valid_range": Kind(
        holed(999),
        {"scale_factor": 0.5, "add_offset": 3.0, "valid_range": [0, 500], "_FillValue": -9},
        message="is 999, outside of what the attribute 'valid_range'",
    ),
    "packed by two": Kind(
        counts(), {"scale_factor": [0.5, 2.0]}, error=InputError, message="where one number"
    ),
    "packing that says nothing": Kind(
        counts(), {"scale_factor": None, "add_offset": None}, error=None
    ),
    "packed by 1 and 0": Kind(counts(), {"scale_factor": 1.0, "add_offset": 0.0}, error=None),
    "_Unsigned": Kind(counts("u1").view("i1"), {"_Unsigned": "true"}, error=None),
    "_Unsigned with holes": Kind(
        holed(255, "u1").view("i1"),
        {"_Unsigned": "true", "_FillValue": -1, "scale_factor": 0.25},
        message="is 255, which the attribute '_FillValue'",
    ),
    "_Unsigned of unsigned": Kind(counts("u1"), {"_Unsigned": "true"}, error=None),
    "dates": Kind(
        holed(NAT, "i8"),
        {"units": HOURS, "calendar": "proleptic_gregorian"},
        error=InputError,
        message="encoded dates",
        dates=True,
    ),
    "durations": Kind(
        holed(NAT, "i8"),
        {"units": "hours", "dtype": "timedelta64[ns]"},
        error=InputError,
        message="encoded durations",
        dates=True,
    ),
    "NaT among hours": Kind(holed(NAT, "i8"), {"units": "hours"}, message="NaT"),
    "a unit of time": Kind(counts(), {"units": "hours"}, error=None),
    "an unknown word": Kind(counts(), {"units": "since", "missing_value": "none"}, error=None),
}
# xarray would decode another number, or none: the raw values are what is meant.
UNDECODED = {"an unknown word", "packed by two"}


def write(kind: Kind, folder: Path, zarr_format: Any) -> str:
    """Write a group with the array ``v``, as xarray names its dimensions."""
    path = str(folder / f"v{zarr_format}.zarr")
    group = zarr.create_group(path, zarr_format=zarr_format)
    named: dict[str, Any] = {"dimension_names": DIMS} if zarr_format == 3 else {}
    array = group.create_array("v", data=kind.rows, chunks=(30, 2), fill_value=kind.fill, **named)
    array.attrs.update(kind.attributes)
    if zarr_format == 3 and kind.rows.dtype.kind == "f" and "_FillValue" in kind.attributes:
        # In JSON xarray keeps a float as the base64 of its double.
        double = struct.pack("<d", kind.attributes["_FillValue"])
        array.attrs["_FillValue"] = base64.b64encode(double).decode()
    if zarr_format == 2:
        array.attrs["_ARRAY_DIMENSIONS"] = list(DIMS)
    zarr.consolidate_metadata(path)
    return path


def raw(path: str, **options: Any) -> Any:
    return xarray.open_zarr(path, decode_cf=False, **options)["v"]


class Attributed(np.ndarray[Any, Any]):
    """An array with attributes, as of HDF5: indexing gives a plain one."""

    attrs: Any

    def __getitem__(self, key: Any) -> Any:
        return np.asarray(self)[key]


def attributed(path: str) -> Any:
    stored: Any = zarr.open_array(path + "/v", mode="r")
    array = np.asarray(stored[...]).view(Attributed)
    array.attrs = dict(stored.attrs)
    return array


class Dataset:
    """An array of a file, as h5py has it: no array of NumPy, with a type and attributes."""

    def __init__(self, values: NDArray[Any], attributes: dict[str, Any]) -> None:
        self.values, self.attrs = values, attributes
        self.shape, self.dtype, self.ndim = values.shape, values.dtype, values.ndim

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        found: NDArray[Any] = self.values[key]
        return found

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        return self.values.astype(dtype or self.dtype)


def of_a_file(path: str) -> Dataset:
    stored: Any = zarr.open_array(path + "/v", mode="r")
    return Dataset(stored[...], dict(stored.attrs))


def in_memory(path: str) -> Any:
    stored: Any = zarr.open_array(path + "/v", mode="r")
    return zarr.create_array(
        zarr.storage.MemoryStore(), data=stored[...], attributes=dict(stored.attrs)
    )


ROADS: dict[str, Callable[[str], Any]] = {
    "path": lambda path: f"{path}/v",
    "array of a group": lambda path: zarr.open_group(path, mode="r"),
    "zarr.Array": lambda path: zarr.open_array(f"{path}/v", mode="r"),
    "zarr.Array in memory": in_memory,
    "DataArray": lambda path: raw(path).load(),
    "DataArray, lazy": lambda path: raw(path, chunks=None),
    "DataArray, Dask": raw,
    "variable of a Dataset": lambda path: raw(path).to_dataset()["v"].transpose(*DIMS),
    "Dask": lambda path: dask.array.from_zarr(f"{path}/v"),
    "Dask, cut and turned": lambda path: dask.array.from_zarr(f"{path}/v").T.rechunk(50).T[:, :],
    "Dask, inlined": lambda path: dask.array.from_zarr(f"{path}/v", inline_array=True),
    "Dask, joined": lambda path: dask.array.concatenate(
        [dask.array.from_zarr(f"{path}/v")[i : i + 60] for i in (0, 60)]
    ),
    "three axes": lambda path: raw(path).expand_dims("z", axis=1),
    "in memory, with attributes": attributed,
    "of a file": of_a_file,
}


ONE_OF_EACH = {"path", "DataArray", "Dask", "in memory, with attributes", "of a file"}
"""Roads that lead to sources of other kinds, or other code in them."""


def measured(path: str, kind: Kind) -> NDArray[Any]:
    """What xarray makes of the store, in seconds where it is time, and NaN of what is missing."""
    x = xarray.open_zarr(path)["v"]
    if x.dtype.kind == "M":
        x = x - np.datetime64("2000-01-01")
    if x.dtype.kind == "m":
        x = x / np.timedelta64(1, "s")
    low, high = kind.attributes.get("valid_range", [None, None])
    low, high = kind.attributes.get("valid_min", low), kind.attributes.get("valid_max", high)
    x = x if low is None else x.where(kind.rows >= low)
    x = x if high is None else x.where(kind.rows <= high)
    if "NaT" in kind.message:
        x = x.where(x != NAT)
    values: NDArray[Any] = x.values
    return values


def decoded(path: str, kind: Kind) -> NDArray[np.float64]:
    """The same in float64; rows with NaN left out."""
    values = np.asarray(measured(path, kind), np.float64)
    return values[~np.isnan(values).any(axis=1)]


def fitted(X: Any, **options: Any) -> GaussianMixture:
    gm = GaussianMixture(2, random_state=0, **options)
    gm.fit(X)
    return gm


def options_for(road: str) -> dict[str, Any]:
    return {"feature_axis": 2} if road == "three axes" else {}


# What these say of elements others say too, or tests/conformance/test_decoding.py by every road.
LATER = {
    "both",
    "an array of them",
    "valid_max",
    "add_offset",
    "packed by 1 and 0",
    "_Unsigned of unsigned",
    "durations",
    "a unit of time",
}


@pytest.mark.parametrize(
    ("zarr_format", "name"),
    quick_ones(
        [(f, name) for f in (2, 3) for name in KINDS],
        [(2 + i % 2, name) for i, name in enumerate(KINDS) if name not in LATER]
        + [(2, "_FillValue of 0")],
    ),
)
def test_all_roads_give_one_answer(
    name: str, zarr_format: int, tmp_path: Path, some_model: GaussianMixture
) -> None:
    kind = KINDS[name]
    path = write(kind, tmp_path, zarr_format)
    for road, make in ROADS.items():
        X, options = make(path), options_for(road)
        if kind.error is InputError:
            with pytest.raises(InputError, match=kind.message) as refused:
                rows_of(X, **options)
            assert len(advised(str(refused.value))) == (2 if kind.dates else 1), road
            continue
        rows = rows_of(X, **options)
        expected = kind.rows if name in UNDECODED else measured(path, kind)
        assert rows.dtype == expected.dtype, road
        assert rows.tobytes() == expected.tobytes(), road
        if kind.error is None:
            assert not np.isnan(rows).any()
            continue
        if road not in ONE_OF_EACH:
            continue  # the slow test fits them
        some_model.set_params(feature_axis=options.get("feature_axis", -1))
        with pytest.raises(MissingValueError, match=kind.message) as caught:
            np.asarray(some_model.score_samples(X))
        assert len(advised(str(caught.value))) == 2, road


@pytest.fixture(scope="module")
def some_model() -> GaussianMixture:
    return fitted(counts())


def rows_of(X: Any, **options: Any) -> NDArray[Any]:
    source = open_source(X, **options)
    return np.concatenate([source.read(source.block(i)).values for i in range(source.n_blocks)])


@pytest.mark.slow
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("name", KINDS)
def test_fits_refuse_and_remedies_work(name: str, zarr_format: int, tmp_path: Path) -> None:
    kind = KINDS[name]
    path = write(kind, tmp_path, zarr_format)
    truth = kind.rows if name in UNDECODED else decoded(path, kind)
    expected = fitted(truth.astype(np.float64))
    for road, make in ROADS.items():
        X, options = make(path), options_for(road)
        if kind.error is None:
            found = fitted(X, **options)
            np.testing.assert_allclose(found.means_, expected.means_, rtol=1e-6, err_msg=road)
            continue
        if name in UNDECODED:
            continue
        with pytest.raises(kind.error, match=kind.message) as caught:
            fitted(X, **options)
        remedies = advised(str(caught.value))
        if kind.dates and not remedies[0].startswith(("(xarray", "xarray")):
            continue  # nothing but xarray decodes dates: the numbers as they are remain
        usable = without_holes(run_remedy(remedies[0], X), options)
        again = fitted(usable)
        np.testing.assert_allclose(again.means_, expected.means_, rtol=1e-6, err_msg=road)
        fitted(run_remedy(remedies[1], X), **options)  # the same values as plain numbers


def without_holes(X: Any, options: dict[str, Any]) -> NDArray[np.float64]:
    values = np.asarray(X, np.float64)
    values = np.moveaxis(values, options.get("feature_axis", -1), -1).reshape(-1, 2)
    return values[~np.isnan(values).any(axis=1)]


def test_the_place_of_a_missing_value_is_named(tmp_path: Path) -> None:
    path = write(KINDS["_FillValue"], tmp_path, 3)
    with pytest.raises(MissingValueError, match=r"row 0 of block (\d) \(row \d+ of .*v3\.zarr/v\)"):
        fitted(f"{path}/v")
    with pytest.raises(MissingValueError, match=r"row 0 of block \d .*of Dask array"):
        fitted(dask.array.from_zarr(f"{path}/v"))
    gm = fitted(counts())
    for X in (f"{path}/v", dask.array.from_zarr(f"{path}/v"), raw(path).load()):
        for apply in (gm.predict, gm.predict_proba, gm.score_samples):
            with pytest.raises(MissingValueError, match="row 0 of"):
                np.asarray(apply(X))
        with pytest.raises(MissingValueError):
            gm.score(X)


def test_valid_ends_of_packed_values_hold_for_unpacked_ones(tmp_path: Path) -> None:
    """xarray leaves ``valid_range`` in the packed type (CF 8.1) when it unpacks the values."""
    attributes = {"scale_factor": 0.1, "add_offset": 300.0, "valid_range": [0, 90]}
    path = write(Kind(counts().clip(0, 90), attributes), tmp_path, 3)
    x = xarray.open_zarr(path)["v"]
    assert float(x.max()) == pytest.approx(309.0)
    fitted(x)
    path = write(Kind(holed(91), attributes), tmp_path / "beyond", 3)
    with pytest.raises(MissingValueError, match=r"is 309\.1.*'valid_range' calls valid"):
        fitted(xarray.open_zarr(path)["v"])


@pytest.mark.parametrize(
    ("road", "zarr_format"),
    # Of Zarr v2 xarray opens no array without the names of its dimensions.
    [
        *itertools.product(("path", "zarr.Array", "Dask", "Dask, cut and turned"), (2, 3)),
        ("DataArray", 3),
    ],
)
def test_a_fill_value_that_nobody_explains(road: str, zarr_format: Any, tmp_path: Path) -> None:
    """A warning that names the value, its share and the remedy; of v2 xarray's word is a mark."""
    named: dict[str, Any] = {"dimension_names": DIMS} if zarr_format == 3 else {}
    group = zarr.create_group(str(tmp_path / "g.zarr"), zarr_format=zarr_format)
    group.create_array("v", data=holed(-9999), chunks=(30, 2), fill_value=-9999, **named)
    X = ROADS[road](str(tmp_path / "g.zarr"))
    with pytest.warns(
        FillValueWarning, match=r"20 of 120 rows \(16\.67%\) of .* hold -9999"
    ) as warned:
        gm = fitted(X, max_iter=3, tol=0.0)
    assert len(warned.list) == 1 or sum(w.category is FillValueWarning for w in warned) == 1
    (code,) = advised(str(next(w.message for w in warned if w.category is FillValueWarning)))
    clean = np.asarray(run_remedy(code, X), np.float64)
    assert np.isnan(clean).sum() == 20
    with pytest.warns(FillValueWarning, match="16.67%"):
        gm.score(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FillValueWarning)
        fitted(clean[~np.isnan(clean).any(axis=1)])


def test_a_fill_value_that_no_row_holds_or_nobody_chose(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FillValueWarning)
        for i, fill in enumerate((-9999, 0, None)):
            array = zarr.create_array(
                tmp_path / f"{i}.zarr", data=counts(), chunks=(30, 2), fill_value=fill
            )
            fitted(array)
        data = holed(0)
        fitted(zarr.create_array(tmp_path / "0s.zarr", data=data, chunks=(30, 2), fill_value=0))


def test_fill_values_of_v2_are_marks_where_xarray_names_the_dimensions(tmp_path: Path) -> None:
    for fill in (0, -9999):
        path = write(Kind(holed(fill), fill=fill), tmp_path / str(fill), 2)
        n_missing = int(np.isnan(xarray.open_zarr(path)["v"].values).sum())
        assert n_missing == 20
        for road in ("path", "zarr.Array", "DataArray", "Dask"):
            with pytest.raises(MissingValueError, match=f"is {fill}, which the"):
                fitted(ROADS[road](path))


def test_what_was_done_to_the_values_ends_what_the_store_says(tmp_path: Path) -> None:
    """Whoever computes with a Dask array of a store's values knows what they mean."""
    path = write(KINDS["packed with holes"], tmp_path, 3)
    x: Any = dask.array.from_zarr(f"{path}/v")
    masked = dask.array.where(x == -9999, np.nan, x * 0.5 + 3)
    by_hand = masked[~dask.array.isnan(masked).any(axis=1)]
    expected = fitted(decoded(path, KINDS["packed with holes"]))
    np.testing.assert_allclose(fitted(by_hand).means_, expected.means_, rtol=1e-6)


@pytest.mark.parametrize("load", [True, False])
def test_who_unpacks_by_hand_is_asked(load: bool, tmp_path: Path) -> None:
    """Attributes live through xarray's arithmetic; decoded twice, numbers would be others."""
    path = write(KINDS["packed with holes"], tmp_path, 3)
    stored = raw(path).load() if load else raw(path)
    with xarray.set_options(keep_attrs=True):
        by_hand = stored.where(stored != -9999) * 0.5 + 3.0
    assert "scale_factor" in by_hand.attrs
    with pytest.raises(InputError, match="nothing says whether somebody has unpacked") as caught:
        rows_of(by_hand)
    unpacked, decoded = (run_remedy(code, by_hand) for code in advised(str(caught.value)))
    np.testing.assert_array_equal(rows_of(unpacked), measured(path, KINDS["packed with holes"]))
    rows_of(decoded)
    for same in (stored[::2], stored.transpose(), stored.copy(), stored.isel(row=slice(3, 9))):
        options = {"feature_axis": "feature"}
        assert np.nanmax(rows_of(same, **options)) < 100


def test_messages_name_no_code_that_is_none() -> None:
    assert advised("Pass `a` or `b`, not c.") == ["a", "b"]
    assert re.fullmatch(r"\d+", str(run_remedy("x = 2; x + len(X)", [1])))


def test_coordinates_of_any_name_are_no_hindrance(tmp_path: Path) -> None:
    path = write(KINDS["packed with holes"], tmp_path, 3)
    named = raw(path).rename(row="x", feature="decode").assign_coords(x=np.arange(N))
    with pytest.raises(MissingValueError, match="_FillValue") as caught:
        fitted(named.load())
    assert np.isnan(run_remedy(advised(str(caught.value))[0], named).values).any()


def test_results_of_marked_and_unmarked_values_have_names_of_their_own(tmp_path: Path) -> None:
    marked = raw(write(KINDS["missing_value"], tmp_path, 3))
    gm = fitted(counts())
    assert gm.predict(marked).data.name == gm.predict(marked).data.name
    assert gm.predict(marked).data.name != gm.predict(marked.drop_attrs()).data.name
