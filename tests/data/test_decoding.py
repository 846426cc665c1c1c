"""Stored elements become what xarray makes of them, bit for bit, and NaN where there is nothing.

Here is the arithmetic, by itself; that all roads in take it is in
``tests/conformance/test_decoding.py``.
"""

from __future__ import annotations

import itertools
import pickle
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_gmm.data.buffers import Memory
from dask_gmm.data.conventions import decoding_of
from dask_gmm.data.decoding import SCRATCH_BYTES, TILE, Decoding, Remedies
from dask_gmm.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

X = Remedies("X", "X")


@pytest.fixture(autouse=True, params=["compiled", "NumPy"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What decodes: a loop of machine code, or NumPy where none can be made."""
    if request.param == "NumPy":
        monkeypatch.setattr("dask_gmm.data.decoding.function_of", lambda loop: None)
    found: str = request.param
    return found


INTEGERS = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i2", ">u4", ">i4")
FLOATS = ("f2", "f4", "f8", ">f4", ">f8")


def elements(dtype: str, n: int = 200, seed: int = 0) -> NDArray[Any]:
    """Elements from all over the type; the first are those that the marks below name."""
    kind = np.dtype(dtype)
    rng = np.random.default_rng(seed)
    if kind.kind == "f":
        x = (100 * rng.standard_normal(n)).astype(kind)
        x[:6] = [-99.0, 7.0, 0.0, np.nan, np.inf, -1.0]
    else:
        raw = rng.integers(0, 256, size=(n, kind.itemsize), dtype="u1")
        x = raw.reshape(-1).view(kind)
        x[:6] = np.asarray([-99, 7, 0, 100, 1, -1]).astype(kind)
    return x


def by_xarray(x: NDArray[Any], attributes: dict[str, Any]) -> NDArray[Any]:
    variable = xarray.Variable(("n",), x, attributes)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        decoded = xarray.conventions.decode_cf_variable("v", variable)
        values: NDArray[Any] = np.asarray(decoded.values)
    return values


def here(x: NDArray[Any], attributes: dict[str, Any]) -> NDArray[Any]:
    decoding = decoding_of(attributes, x.dtype, "v", X)
    return x if decoding is None else decoding.decode(x)


def check_bits(found: NDArray[Any], expected: NDArray[Any]) -> None:
    """The same type and bits, in whatever byte order."""
    assert found.dtype.newbyteorder("=") == expected.dtype.newbyteorder("=")
    np.testing.assert_array_equal(
        found.astype(found.dtype.newbyteorder("=")).view(f"u{found.itemsize}"),
        expected.astype(expected.dtype.newbyteorder("=")).view(f"u{expected.itemsize}"),
    )


MARKS: dict[str, dict[str, Any]] = {
    "no mark": {},
    "_FillValue": {"_FillValue": 7},
    "missing_value": {"missing_value": 7},
    "missing_values": {"missing_value": [7, 100, 5000]},
    "both": {"_FillValue": 7, "missing_value": [7, 0]},
    "of NumPy": {"_FillValue": np.int16(7), "missing_value": np.asarray([0, 100], "i2")},
    "none that an element is": {"_FillValue": 1e6 + 0.5},
}
PACKINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scale": {"scale_factor": 0.01},
    "offset": {"add_offset": 273.15},
    "scale and offset": {"scale_factor": 0.01, "add_offset": 273.15},
    "neutral": {"scale_factor": 1.0, "add_offset": 0.0},
    "nothing": {"scale_factor": None, "add_offset": None},
    "float32": {"scale_factor": np.float32(0.01), "add_offset": np.float32(273.15)},
    "float32 scale": {"scale_factor": np.float32(0.01)},
    "float64": {"scale_factor": np.float64(0.01), "add_offset": np.float64(273.15)},
    "one of each": {"scale_factor": np.float32(0.01), "add_offset": 273.15},
    "integer offset": {"scale_factor": 0.5, "add_offset": 10},
}


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("marks", MARKS)
def test_the_bits_of_xarray(marks: str, packing: str) -> None:
    attributes = {**MARKS[marks], **PACKINGS[packing]}
    for dtype in INTEGERS + FLOATS:
        x = elements(dtype)
        check_bits(here(x, dict(attributes)), by_xarray(x, dict(attributes)))


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("unsigned", ["true", "false"])
def test_the_sign_that_metadata_say(unsigned: str, packing: str) -> None:
    for dtype, marks in itertools.product(("i1", "i2", "u1", "u4", ">i2", "f4"), range(3)):
        x = elements(dtype)
        fill = [{}, {"_FillValue": x[5]}, {"_FillValue": 7, "missing_value": 100}][marks]
        attributes = {"_Unsigned": unsigned, **fill, **PACKINGS[packing]}
        if dtype == "u4" and marks == 1 and packing == "float32 scale":
            continue  # see test_what_xarray_leaves_and_the_metadata_call_missing_is_nan
        # Of other byte orders xarray turns the bytes of the fill value around.
        native = x.astype(x.dtype.newbyteorder("="))
        check_bits(here(x, dict(attributes)), by_xarray(native, dict(attributes)))


def test_a_sign_alone_costs_nothing() -> None:
    x = elements("i2")
    found = here(x, {"_Unsigned": "true"})
    assert found.dtype == np.uint16
    assert np.shares_memory(found, x)


@pytest.mark.parametrize("packing", ["plain", "scale", "scale and offset"])
def test_fill_values_of_floats_that_are_none(packing: str) -> None:
    """NaN is no number to look for; but xarray chooses the type as if it had looked for it."""
    for dtype, fill in itertools.product(FLOATS, (np.nan, np.float32(np.nan), np.inf)):
        x = elements(dtype)
        attributes = {"_FillValue": fill, **PACKINGS[packing]}
        check_bits(here(x, dict(attributes)), by_xarray(x, dict(attributes)))


def test_values_that_mean_what_they_are_need_no_decoding() -> None:
    neutral: tuple[dict[str, Any], ...] = (
        {},
        {"_FillValue": np.nan},
        {"units": "m", "valid_min": None},
    )
    for dtype, attributes in itertools.product(("f4", "f8"), neutral):
        assert decoding_of(attributes, np.dtype(dtype), "v", X) is None
    assert decoding_of({"scale_factor": 1.0}, np.dtype("f8"), "v", X) is None
    assert decoding_of({"valid_range": [-128, 127]}, np.dtype("i1"), "v", X) is None


def test_what_xarray_leaves_and_the_metadata_call_missing_is_nan() -> None:
    x = np.asarray([-999.9, 1.0], "f4")
    attributes: dict[str, Any] = {"missing_value": -999.9}
    assert not np.isnan(by_xarray(x, dict(attributes))).any()  # no float32 is that double
    np.testing.assert_array_equal(np.isnan(here(x, attributes)), [True, False])
    # An integer scale would make the result one of integers, in which nothing is missing.
    y = np.asarray([-9, 5], "i2")
    np.testing.assert_array_equal(here(y, {"_FillValue": -9, "scale_factor": 2}), [np.nan, 10.0])
    np.testing.assert_array_equal(here(y, {"scale_factor": 2}), [-18, 10])
    # Stored, it is -1; as it is meant, 255.
    z = np.asarray([-1, 5], "i1")
    for value in (-1, 255):
        found = here(z, {"_Unsigned": "true", "missing_value": value})
        np.testing.assert_array_equal(found, [np.nan, 5.0])
    # Attributes that went through text; xarray ignores such, or ends with an error.
    for key, text in itertools.product(("_FillValue", "missing_value"), ("-9", " -9.0")):
        for dtype in ("i2", "f4"):
            found = here(y.astype(dtype), {key: text})
            np.testing.assert_array_equal(found, np.asarray([np.nan, 5.0], "f4"))
            assert found.dtype == np.float32
        assert decoding_of({key: "none"}, np.dtype("i2"), "v", X) is None
    # Of float32 this element is another number, that of its neighbour.
    u = np.asarray([2**32 - 1, 2**32 - 2], "u4")
    attributes = {"scale_factor": np.float32(2.0), "_FillValue": u[0]}
    assert not np.isnan(by_xarray(u, dict(attributes))).any()
    np.testing.assert_array_equal(np.isnan(here(u, attributes)), [True, False])
    t = np.asarray([np.iinfo("i8").min, 5])
    np.testing.assert_array_equal(here(t, {"units": "hours"}), [np.nan, 5.0])


TENTHS = {"scale_factor": 0.1, "add_offset": 100.0}
SINGLE = {"scale_factor": np.float32(0.1), "add_offset": np.float32(100)}
MIDDLE = [False, True, True, True, False]
RANGES: list[tuple[str, dict[str, Any], list[bool]]] = [
    # stored elements 0, 10, 20, 30, 40: which of them are valid
    ("i2", {"valid_min": 10}, [False, True, True, True, True]),
    ("i2", {"valid_max": 30}, [True, True, True, True, False]),
    ("i2", {"valid_range": [10, 30]}, MIDDLE),
    ("i2", {"valid_min": 5, "valid_range": [15, 35]}, [False, False, True, True, False]),
    ("f4", {"valid_range": [10.0, 30.0]}, MIDDLE),
    # Of the packed type: packed. Of that of the scale: measurements, here 100 to 104.
    ("i2", {"valid_range": [10, 30], **TENTHS}, MIDDLE),
    ("i2", {"valid_range": [101.0, 103.0], **TENTHS}, MIDDLE),
    ("f4", {"valid_range": [101.0, 103.0], **TENTHS}, MIDDLE),
    ("f8", {"valid_range": [10.0, 30.0], **TENTHS}, MIDDLE),
    ("i2", {"valid_max": np.int16(30), "valid_min": np.float32(101), **SINGLE}, MIDDLE),
    # -16 is 240 of uint8, and so is the end of the range
    ("i1", {"_Unsigned": "true", "valid_range": [10, -16]}, [False, True, True, True, True]),
    ("i1", {"_Unsigned": "true", "valid_range": [10, 30], "scale_factor": 2.0}, MIDDLE),
]


@pytest.mark.parametrize(("dtype", "attributes", "valid"), RANGES)
def test_what_is_outside_of_the_valid_range_is_missing(
    dtype: str, attributes: dict[str, Any], valid: list[bool]
) -> None:
    x = np.asarray([0, 10, 20, 30, 40], dtype)
    found = here(x, dict(attributes))
    np.testing.assert_array_equal(~np.isnan(found), valid)
    expected = by_xarray(x, {k: v for k, v in attributes.items() if "valid" not in k})
    inside = np.asarray(valid, bool)
    np.testing.assert_array_equal(found[inside], expected[inside])
    if expected.dtype.kind == "f":
        assert found.dtype == expected.dtype


@pytest.mark.parametrize("value", ["0.1", [0.1, 0.2], [], float("nan"), True, 1j])
@pytest.mark.parametrize("key", ["scale_factor", "add_offset"])
def test_packing_that_is_none_is_refused(key: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"v cannot be decoded: its attribute '{key}' is .*one"):
        decoding_of({key: value}, np.dtype("i2"), "v", X)


def test_one_number_in_a_list_is_one() -> None:
    x = elements("i2")
    attributes = {"scale_factor": [0.01], "add_offset": np.asarray([2.0])}
    check_bits(here(x, attributes), by_xarray(x, {"scale_factor": 0.01, "add_offset": 2.0}))


kinds = st.sampled_from(["i1", "i2", "i4", "i8", "u1", "u2", "f4", "f8", ">i2", ">f4"])
packings = st.sampled_from(list(PACKINGS.values()))
marks = st.sampled_from(list(MARKS.values()))


@settings(max_examples=60, deadline=None)
@given(
    dtype=kinds,
    packing=packings,
    mark=marks,
    n=st.sampled_from([0, 1, 7, TILE - 1, TILE + 1, 2 * TILE + 5]),
    spare=st.integers(0, 3),
)
def test_in_place_as_elsewhere(
    dtype: str, packing: dict[str, Any], mark: dict[str, Any], n: int, spare: int
) -> None:
    """Decoded into the memory that they lie in, no element is overwritten before its turn."""
    x = elements(dtype, max(n, 6))[:n]
    decoding = decoding_of({**packing, **mark}, x.dtype, "v", X)
    if decoding is None:
        return
    memory = Memory()
    capacity = (n + spare) * x.itemsize
    raw, measured = decoding.place(memory, n, capacity)
    assert raw.size == capacity
    whole = memory.take(0).base
    assert whole is not None
    assert whole.nbytes <= n * max(x.itemsize, decoding.dtype.itemsize) + spare * 8
    stored = raw.view(x.dtype)[:n]
    stored[...] = x
    found = decoding.decode_in_place(stored, measured)
    assert found.tobytes() == decoding.decode(x).tobytes()


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_any_layout(shape: list[int], seed: int, data: st.DataObject) -> None:
    """Shape, order and strides stay, so that sums over the result are rounded alike."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-5, 50, size=[n * 2 for n in shape]).astype("i2")
    order = data.draw(st.permutations(range(len(shape))))
    x = x[tuple(slice(None, n) for n in shape)].transpose(order)
    decoding = decoding_of({"_FillValue": 7, "scale_factor": 0.5}, x.dtype, "v", X)
    assert decoding is not None
    before = x.copy()
    for memory in (None, Memory()):
        found = decoding.decode(x, memory)
        np.testing.assert_array_equal(found, np.where(x == 7, np.nan, x * 0.5))
        if x.size:
            kept = before.copy(order="K") if 1 not in x.shape else None
            if kept is not None and x.flags.f_contiguous:
                assert found.flags.f_contiguous
    np.testing.assert_array_equal(x, before)


def test_among_the_columns_of_others() -> None:
    """One of several variables is decoded to its own columns of a block, in its own arithmetic."""
    x = elements("i2", 3 * TILE).reshape(3, -1).T
    attributes = {"_FillValue": 7, "scale_factor": np.float32(0.01), "add_offset": np.float32(3)}
    for more in ({}, {"valid_max": 90}, {"_Unsigned": "true"}):
        decoding = decoding_of({**attributes, **more}, x.dtype, "v", X)
        assert decoding is not None
        assert decoding.dtype == np.float32
        for kind in ("f4", "f8"):
            block = np.full((len(x), 8), -5.0, kind)
            decoding.decode_into(x, block[:, 2:7:2])
            expected = decoding.decode(x).astype(kind)
            assert np.ascontiguousarray(block[:, 2:7:2]).tobytes() == (
                np.ascontiguousarray(expected).tobytes()
            )
            assert (block[:, [0, 1, 3, 5, 7]] == -5.0).all()
    sign = decoding_of({"_Unsigned": "true"}, x.dtype, "v", X)
    assert sign is not None
    counts = np.empty(x.shape)
    sign.decode_into(x, counts)
    np.testing.assert_array_equal(counts, x.astype("u2"))


def test_large_boxes_go_by_tiles(monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    if by == "compiled":
        pytest.skip("there are no tiles")
    sizes = []
    tile = Decoding._decode_tile

    def seen(self: Decoding, part: NDArray[Any], target: NDArray[Any], *, there: bool) -> None:
        sizes.append(part.size)
        tile(self, part, target, there=there)

    monkeypatch.setattr(Decoding, "_decode_tile", seen)
    decoding = decoding_of({"scale_factor": 0.5}, np.dtype("i2"), "v", X)
    assert decoding is not None
    for shape in ((4, 300, 500), (3, TILE + 1), (2 * TILE, 2), (5, 1, TILE)):
        x = np.ones(shape, "i2")
        sizes.clear()
        assert (decoding.decode(x) == 0.5).all()
        assert sum(sizes) == x.size
        assert max(sizes) <= TILE
    assert SCRATCH_BYTES >= 16 * TILE


def test_what_is_common_is_compiled(by: str) -> None:
    expected = by == "compiled"
    for kind in ("i1", "i2", "i4", "u1", "u2", "u4", "f4", "f8"):
        for attributes in (*MARKS.values(), {"valid_range": [-5, 90]}):
            for packing in ("plain", "scale", "offset", "scale and offset", "neutral"):
                decoding = decoding_of({**attributes, **PACKINGS[packing]}, np.dtype(kind), "v", X)
                if decoding is None or not decoding.moves:
                    continue
                assert (decoding._loop is not None) == expected, (kind, attributes, packing)


factors = st.one_of(
    st.floats(allow_nan=False, width=32),
    st.floats(allow_nan=False),
    st.sampled_from([0.01, 1.0, 1e-300, 1e300, -0.0]),
)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["i1", "i2", "i4", "u1", "u2", "u4", "f4", "f8"]),
    scale=st.none() | factors,
    offset=st.none() | factors,
    single=st.booleans(),
    ends=st.tuples(st.integers(-130, 260), st.integers(-130, 260)),
    seed=st.integers(0, 999),
)
def test_machine_code_rounds_as_numpy(
    kind: str,
    scale: float | None,
    offset: float | None,
    single: bool,
    ends: tuple[int, int],
    seed: int,
) -> None:
    """Any bits, NaN, infinities and subnormal numbers among them; any factors, any range."""
    raw = np.random.default_rng(seed).integers(0, 256, size=64 * 8, dtype="u1")
    x = raw.view(kind)[:61]
    attributes: dict[str, Any] = {"_FillValue": x[3], "missing_value": 7, "valid_range": ends}
    for key, factor in (("scale_factor", scale), ("add_offset", offset)):
        if factor is not None:
            with np.errstate(over="ignore"):
                attributes[key] = np.float32(factor) if single else factor
    decoding = decoding_of(attributes, x.dtype, "v", X)
    if decoding is None:
        return
    again = pickle.loads(pickle.dumps(decoding))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dask_gmm.data.decoding.function_of", lambda loop: None)
        expected = again.decode(x)
    assert again._loop is None
    assert decoding.decode(x).tobytes() == expected.tobytes()


def test_it_travels_and_tells_itself_from_others() -> None:
    attributes = {"_FillValue": 7, "scale_factor": 0.5, "valid_max": 90}
    one, again, other = (
        decoding_of({**attributes, "add_offset": offset}, np.dtype("i2"), "v", X)
        for offset in (1.0, 1.0, 2.0)
    )
    assert one is not None
    assert other is not None
    assert pickle.loads(pickle.dumps(one)) == one == again
    assert hash(one) == hash(again)
    assert one != other
    assert one.identity != other.identity
    x = elements("i2")
    copy = pickle.loads(pickle.dumps(one))
    check_bits(copy.decode(x), one.decode(x))


def test_why_an_element_is_missing() -> None:
    attributes = {"_FillValue": -1, "missing_value": [5], "valid_max": 90, "scale_factor": 0.5}
    decoding = decoding_of(attributes, np.dtype("i2"), "v", X)
    assert decoding is not None
    assert decoding.missing(3) is None
    for value, why in (
        (-1, "'_FillValue' marks"),
        (5, "'missing_value' marks"),
        (99, "'valid_max"),
    ):
        found = decoding.missing(value)
        assert found is not None
        assert found.value == value
        assert why in found.why
    floats = decoding_of({"_FillValue": -1.0}, np.dtype("f4"), "v", X)
    assert floats is not None
    assert floats.missing(np.nan) is None, "nobody has marked it"
