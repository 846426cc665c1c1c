"""What metadata say of values means the same by every road in, and what messages advise works.

Each kind of mark or encoding is written once and opened by all roads that carry metadata. The
oracle is xarray: what it decodes to, without the rows that then hold NaN.
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
    """Stored values, what their metadata say, and what becomes of a fit."""

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
    "scale_factor": Kind(counts(), {"scale_factor": 0.5}, error=InputError, message="packed"),
    "add_offset": Kind(counts(), {"add_offset": 273.0}, error=InputError, message="packed"),
    "packed with holes": Kind(
        holed(-9999),
        {"scale_factor": 0.5, "add_offset": 3.0, "_FillValue": -9999},
        error=InputError,
        message="packed",
    ),
    "packing that says nothing": Kind(
        counts(), {"scale_factor": None, "add_offset": None}, error=None
    ),
    "packed by 1 and 0": Kind(counts(), {"scale_factor": 1.0, "add_offset": 0.0}, error=None),
    "_Unsigned": Kind(counts("i1"), {"_Unsigned": "true"}, error=InputError, message="_Unsigned"),
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
UNDECODED = {"an unknown word", "packing that says nothing"}


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
}


def decoded(path: str, kind: Kind) -> NDArray[np.float64]:
    """What xarray makes of the store, in hours where it is time; rows with NaN left out."""
    x = xarray.open_zarr(path)["v"]
    if x.dtype.kind == "M":
        x = x - np.datetime64("2000-01-01")
    if x.dtype.kind == "m":
        x = x / np.timedelta64(1, "s")
    low, high = kind.attributes.get("valid_range", [None, None])
    low, high = kind.attributes.get("valid_min", low), kind.attributes.get("valid_max", high)
    x = x if low is None else x.where(x >= low)
    x = x if high is None else x.where(x <= high)
    if "NaT" in kind.message:
        x = x.where(x != NAT)
    values = np.asarray(x.values, np.float64)
    return values[~np.isnan(values).any(axis=1)]


def fitted(X: Any, **options: Any) -> GaussianMixture:
    gm = GaussianMixture(2, random_state=0, **options)
    gm.fit(X)
    return gm


def options_for(road: str) -> dict[str, Any]:
    return {"feature_axis": 2} if road == "three axes" else {}


@pytest.mark.parametrize(
    ("zarr_format", "name"),
    quick_ones(
        [(f, name) for f in (2, 3) for name in KINDS],
        [(2 + i % 2, name) for i, name in enumerate(KINDS)] + [(2, "_FillValue of 0")],
    ),
)
def test_all_roads_give_one_answer(name: str, zarr_format: int, tmp_path: Path) -> None:
    kind = KINDS[name]
    path = write(kind, tmp_path, zarr_format)
    for road, make in ROADS.items():
        X, options = make(path), options_for(road)
        if kind.error is None:
            np.testing.assert_array_equal(rows_of(X, **options), kind.rows, err_msg=road)
            continue
        with pytest.raises(kind.error, match=kind.message) as caught:
            rows_of(X, **options)
        assert (type(caught.value) is MissingValueError) == (kind.error is MissingValueError), road
        assert len(advised(str(caught.value))) == 2, road


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


def test_marks_cost_one_look_at_each_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dask_gmm.data.conventions import Marks

    looks = []
    check = Marks.check

    def counted(self: Marks, rows: NDArray[Any]) -> None:
        looks.append(len(rows))
        check(self, rows)

    monkeypatch.setattr(Marks, "check", counted)
    path = write(KINDS["marks of nothing"], tmp_path, 3)
    gm = fitted(f"{path}/v", tol=0.0, max_iter=5, cache=0, acceleration=None)
    assert gm.n_passes_ == 5
    assert len(looks) == 4, "one for each of four blocks, not one for each pass"


def test_messages_name_no_code_that_is_none() -> None:
    assert advised("Pass `a` or `b`, not c.") == ["a", "b"]
    assert re.fullmatch(r"\d+", str(run_remedy("x = 2; x + len(X)", [1])))


def test_coordinates_of_any_name_are_no_hindrance(tmp_path: Path) -> None:
    path = write(KINDS["packed with holes"], tmp_path, 3)
    named = raw(path).rename(row="x", feature="decode").assign_coords(x=np.arange(N))
    with pytest.raises(InputError, match="packed") as caught:
        fitted(named.load())
    assert np.isnan(run_remedy(advised(str(caught.value))[0], named).values).any()


def test_results_of_marked_and_unmarked_values_have_names_of_their_own(tmp_path: Path) -> None:
    marked = raw(write(KINDS["missing_value"], tmp_path, 3))
    gm = fitted(counts())
    assert gm.predict(marked).data.name == gm.predict(marked).data.name
    assert gm.predict(marked).data.name != gm.predict(marked.drop_attrs()).data.name
