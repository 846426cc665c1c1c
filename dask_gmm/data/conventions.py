"""What metadata say of values, by the CF conventions: decided here, for every road in.

Stores, files and labelled arrays name in attributes which of their elements stand for no
measurement, and how the measurements are packed into what is stored. Read as plain numbers they
would be rows of -9999, or counts of tenths of a degree above 300, which a mixture fits as happily
as any other. So what attributes say becomes a `Decoding` (`decoding_of`), and whoever reads rows
gets measurements, NaN where there is none:

- **packed values** (``scale_factor``, ``add_offset``, ``_Unsigned``) and **marks** (``_FillValue``,
  ``missing_value``; of Zarr v2 the fill value, where xarray wrote the array) are decoded as xarray
  does, into the type that it chooses;
- what lies outside of ``valid_min``, ``valid_max`` and ``valid_range`` is NaN too, as CF has it and
  netCDF4 does; xarray leaves it as it is. An end of the packed type speaks of packed elements, one
  of the wider type of ``scale_factor`` of measurements (NUG, "Attribute Conventions");
- **dates and durations** are refused: as numbers they are none that a mixture should see;
- a **fill value** of Zarr's own that nobody has called missing is suspicious, no more: passes count
  the rows that hold it, and the caller is warned.

Where xarray leaves an element that the metadata call missing as it is, it is NaN here nevertheless:
a mark that is no element of the type is rounded to one (-999.9 of float32), an element is what it
was before float32 rounded it, ``missing_value`` of reinterpreted integers may name the stored ones,
a mark may be a string that spells it ("-9999"), and a missing duration is no -2⁶³. What xarray
cannot decode, integers scaled by an integer with a mark among them, becomes float64.

CF conventions 1.12, sections 2.5.1 (missing data), 4.4 (time) and 8.1 (packed data); which of them
xarray decodes, and how, is taken from what its `decode_cf` does.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.data.decoding import ANY, Decoding, Mark, Remedies, Valid
from dask_gmm.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "TELLING_ATTRIBUTES",
    "FillValue",
    "attributes_of",
    "decoding_of",
    "fill_by_columns",
    "joined",
    "stored_decoding",
    "suspicious_fill",
]

_FILL_ATTRIBUTES = ("_FillValue", "missing_value")
_RANGE_ATTRIBUTES = ("valid_min", "valid_max", "valid_range")
_PACKING = ("scale_factor", "add_offset")
TELLING_ATTRIBUTES = (
    "_ARRAY_DIMENSIONS",
    *_FILL_ATTRIBUTES,
    *_RANGE_ATTRIBUTES,
    *_PACKING,
    "_Unsigned",
    "units",
    "dtype",
)
"""All attributes that are asked what elements mean."""

_NOT_A_TIME = np.iinfo(np.int64).min
_TIME_UNITS = (
    "days",
    "hours",
    "minutes",
    "seconds",
    "milliseconds",
    "microseconds",
    "nanoseconds",
)
_DATES = re.compile(r"\s*[a-z]+\s+since\s+\S", re.IGNORECASE)


@dataclass(frozen=True)
class FillValue:
    """A fill value that somebody chose and no attribute explains.

    Attributes
    ----------
    value : float or int
        The measurement that it would be.
    origin : str
        What messages call it.
    code : str
        Code that makes NaN of it.
    """

    value: float | int
    origin: str
    code: str

    def __str__(self) -> str:
        return str(self.value)

    def held_by(self, rows: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which rows, of shape (n, D), hold the value; shape (n,)."""
        hits: NDArray[np.bool_] = (rows == self.value).any(axis=1)
        return hits

    def row(self, n_features: int) -> NDArray[np.float64]:
        """Return a row of such values; NaN where there is none, (D,)."""
        return np.full(n_features, float(self.value))

    def mapped(self, row: NDArray[Any]) -> FillValue:
        """Return the same fill value of rows in which it has become these numbers, (D,)."""
        return _MappedFill(self.value, self.origin, self.code, row)


@dataclass(frozen=True)
class _ColumnFill(FillValue):
    """Chosen fill values, each in columns of its own; the first is `value`."""

    columns: tuple[tuple[int, int, str, FillValue], ...] = ()

    def __str__(self) -> str:
        return " or ".join(f"{fill.value} ({name})" for _, _, name, fill in self.columns)

    def held_by(self, rows: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which rows hold one of the values in its own columns."""
        held = [fill.held_by(rows[:, start:stop]) for start, stop, _, fill in self.columns]
        hits: NDArray[np.bool_] = np.logical_or.reduce(held)
        return hits

    def row(self, n_features: int) -> NDArray[np.float64]:
        """Return a row of the values in their columns; NaN where there is none, (D,)."""
        found = np.full(n_features, np.nan)
        for start, stop, _, fill in self.columns:
            found[start:stop] = fill.row(stop - start)
        return found


@dataclass(frozen=True, eq=False)
class _MappedFill(FillValue):
    """A fill value that scaling has made something else of in each column."""

    found: NDArray[Any] = field(default_factory=lambda: np.empty(0))

    def held_by(self, rows: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which rows hold what the value has become."""
        hits: NDArray[np.bool_] = (rows == self.found).any(axis=1)
        return hits


def fill_by_columns(parts: Sequence[tuple[int, int, str, FillValue | None]]) -> FillValue | None:
    """Return the chosen fill values of rows whose columns come from arrays with these names."""
    chosen = tuple(
        (start, stop, name, fill) for start, stop, name, fill in parts if fill is not None
    )
    if not chosen:
        return None
    first = chosen[0][3]
    return _ColumnFill(first.value, first.origin, first.code, chosen)


def attributes_of(X: object) -> Mapping[str, Any]:
    """Return the attributes of an array that has some (Zarr, xarray, HDF5), else none."""
    attributes = getattr(X, "attrs", None)
    # Zarr's own attributes are a mapping too, read from the metadata that are here already.
    return attributes if isinstance(attributes, Mapping) else {}


def decoding_of(
    attributes: Mapping[str, Any],
    dtype: np.dtype[Any],
    name: str,
    remedies: Remedies,
    *,
    fill: Any = None,
    decoded: Mapping[str, Any] | None = None,
) -> Decoding | None:
    """Return how the elements of an array become measurements; None where they are them already.

    Parameters
    ----------
    attributes : mapping
        The array's attributes.
    dtype : dtype
        Of its elements: boolean, integer or real floating; of others nothing is said.
    name : str
        What messages call it.
    remedies : Remedies
    fill : number, optional
        A fill value outside of the attributes that counts as missing.
    decoded : mapping, optional
        Of a labelled array, how it was encoded where it was stored (xarray's ``encoding``).
        Attributes that decoding leaves alone speak of the encoded values.

    Raises
    ------
    InputError
        The elements are dates or durations, or their packing is none, or nothing says whether
        somebody has unpacked them.
    """
    if dtype.kind not in "biuf":
        return None
    _refuse_times(attributes, name, remedies)
    meant, plain = _meant(attributes, dtype), dtype.newbyteorder("=")
    packed = any(key in attributes for key in _PACKING)
    scale, offset = (_factor(attributes.get(key), key, name, remedies) for key in _PACKING)
    if decoded is not None and dtype.kind == "f" and not (scale in (None, 1) and not offset):
        _refuse_computed(decoded, dtype, name, remedies)
    marks, masked = _marks(attributes, dtype, meant, fill)
    kind = _promoted(meant) if masked else meant.newbyteorder("=")
    # Of floating numbers xarray takes any fill value, NaN too, for one that it has looked for.
    if packed and (masked or not (dtype.kind == "f" and _states_fill(attributes, fill))):
        kind = _unpacked(meant, attributes)
    marks += _no_times(attributes, dtype)
    packed_valid, valid = _valid(attributes, dtype, meant, kind, decoded or {}, packed=packed)
    missing = bool(marks or packed_valid or valid)
    if missing and kind.kind != "f":
        kind = np.dtype(np.float64) if packed else _promoted(meant)
    same = meant == dtype and kind == plain and offset is None and scale in (None, 1)
    if same and not missing:
        return None
    return Decoding(dtype, meant, kind, marks, packed_valid, scale, offset, valid, remedies)


def joined(
    decodings: Sequence[Decoding | None], dtype: np.dtype[Any], name: str, remedies: Remedies
) -> Decoding | None:
    """Return how the elements of several arrays, which lie in one, become measurements.

    Any of their marks counts.

    Parameters
    ----------
    decodings : sequence of Decoding or None
    dtype : dtype
        Of the elements that are joined.
    name : str
        What messages call them.
    remedies : Remedies

    Raises
    ------
    InputError
        They are packed in different ways.
    """
    some = [decoding for decoding in decodings if decoding is not None]
    if not some or all(decoding == decodings[0] for decoding in decodings):
        return some[0] if some else None
    if any(decoding.spelled("x") != "x" for decoding in some):
        raise InputError(
            f"{name} is put together of arrays that are packed in different ways (scale_factor, "
            f"add_offset, _Unsigned), so that its elements have no one meaning. Make measurements "
            f"of each before they are joined, as xarray.open_zarr does; if they are that already, "
            f"pass `{remedies.unmarked}`."
        )
    marks = {mark.value: mark for decoding in some for mark in reversed(decoding.marks)}
    ranges = [ANY if decoding is None else decoding.packed_valid for decoding in decodings]
    low, high = min(valid.low for valid in ranges), max(valid.high for valid in ranges)
    origin = next((valid.origin for valid in ranges if valid), "")
    kind = _promoted(dtype)
    return Decoding(dtype, dtype, kind, tuple(marks.values()), Valid(low, high, origin))


def stored_decoding(
    array: Any, name: str, remedies: Remedies
) -> tuple[Decoding | None, FillValue | None]:
    """Return how a stored array's elements are decoded, and a fill value that may be missing too.

    In Zarr v2 xarray stores ``_FillValue`` as the array's fill value and takes every fill value
    for one, 0 included; that it named the dimensions tells its arrays from others.

    Parameters
    ----------
    array : zarr.Array, or another with ``attrs`` and ``dtype``
    name : str
        What messages call it.
    remedies : Remedies

    Raises
    ------
    InputError
        The elements cannot be decoded.
    """
    attributes, dtype = attributes_of(array), np.dtype(array.dtype)
    metadata = getattr(array, "metadata", None)
    fill = getattr(metadata, "fill_value", None)
    xarrays = getattr(metadata, "zarr_format", 3) == 2 and "_ARRAY_DIMENSIONS" in attributes
    decoding = decoding_of(attributes, dtype, name, remedies, fill=fill if xarrays else None)
    return decoding, suspicious_fill(fill, dtype, decoding, remedies)


def suspicious_fill(
    fill: Any, dtype: np.dtype[Any], decoding: Decoding | None, remedies: Remedies
) -> FillValue | None:
    """Return a fill value that somebody chose; None for Zarr's default, 0, for NaN and none at all.

    Where no attribute explains it, it may be a measurement or the lack of one.
    """
    number = None if dtype.kind == "b" else _number(fill)
    value = None if number is None else _element(number, dtype, dtype)
    if not value or not math.isfinite(value) or (decoding is not None and decoding.marks):
        return None
    if decoding is None:
        return FillValue(value, "fill value", remedies.without(f"x == {value}"))
    measured = decoding.measured(value)
    if math.isnan(measured):
        return None
    origin = "fill value" if measured == value else f"fill value (stored as {value})"
    return FillValue(measured, origin, remedies.without(f"x == {value}", decoding.spelled("x")))


# -- what cannot be decoded ------------------------------------------------------------------------


def _refuse_times(attributes: Mapping[str, Any], name: str, remedies: Remedies) -> None:
    """Refuse dates and durations."""
    units, stored = attributes.get("units"), attributes.get("dtype")
    if isinstance(units, str) and _DATES.match(units):
        kind, unit = f"dates (attribute 'units': {units!r})", units
    elif isinstance(stored, str) and stored.startswith("timedelta64"):
        kind, unit = f"durations (attribute 'dtype': {stored!r})", stored
    else:
        return
    raise InputError(
        f"{name} holds encoded {kind}, in which a missing one is a number like any other. Decode "
        f"them and pass numbers, for example `{remedies.since(unit)}`; if they are plain numbers, "
        f"pass `{remedies.unmarked}`."
    )


def _refuse_computed(
    encoding: Mapping[str, Any], dtype: np.dtype[Any], name: str, remedies: Remedies
) -> None:
    """Refuse floating numbers with attributes of packed ones, if they are not as they were stored.

    xarray keeps attributes through arithmetic, and what it has read knows the type in the store.
    """
    stored = encoding.get("dtype")
    plain = dtype.newbyteorder("=")
    if stored is not None and np.dtype(stored).newbyteorder("=") == plain:
        return
    raise InputError(
        f"{name} holds {dtype} values and attributes (scale_factor, add_offset) that say how they "
        f"are packed, but they are not as they were stored, and nothing says whether somebody has "
        f"unpacked them. If they are unpacked, pass `{remedies.unmarked}`; if they are not, "
        f"`{remedies.decoded or remedies.stored}`."
    )


def _factor(stated: Any, key: str, name: str, remedies: Remedies) -> Any:
    """Return a number by which elements are packed, with the type that it has; None if none is."""
    if stated is None:
        return None
    items = list(_each(stated))
    if len(items) == 1 and not isinstance(items[0], str) and _number(items[0]) is not None:
        return items[0]
    raise InputError(
        f"{name} cannot be decoded: its attribute {key!r} is {stated!r}, where one number is "
        f"needed. Correct the attribute; if its values are unpacked already, pass "
        f"`{remedies.unmarked}`."
    )


# -- types -----------------------------------------------------------------------------------------


def _meant(attributes: Mapping[str, Any], dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of the elements with the sign that ``_Unsigned`` says."""
    unsigned = str(attributes.get("_Unsigned", "")).lower()
    sign = {("true", "i"): "u", ("false", "u"): "i"}.get((unsigned, dtype.kind))
    return dtype if sign is None else np.dtype(f"{dtype.byteorder}{sign}{dtype.itemsize}")


def _promoted(meant: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type that xarray chooses for elements of which some are missing."""
    if meant.kind == "f":
        return meant.newbyteorder("=")
    return np.dtype(np.float32 if meant.kind in "iu" and meant.itemsize <= 2 else np.float64)


def _unpacked(meant: np.dtype[Any], attributes: Mapping[str, Any]) -> np.dtype[Any]:
    """Return the type that xarray chooses for packed elements.

    That of the factors, if they agree and it is wide enough; float64 where something is added,
    which might be large.
    """
    scale, offset = (_type_of_factor(attributes.get(key)) for key in _PACKING)
    if scale is None and offset is None:
        narrow = meant.itemsize <= (4 if meant.kind == "f" else 2) and meant.kind != "b"
        return np.dtype(np.float32 if narrow else np.float64)
    if scale is not None and offset is None:
        return scale
    loses = meant.kind in "iu" and meant.itemsize == 4  # float32 has 24 bits
    agreed = scale == offset and scale == np.float32 and not loses
    return np.dtype(np.float32 if agreed else np.float64)


def _type_of_factor(stated: Any) -> np.dtype[Any] | None:
    if stated is None:
        return None
    if isinstance(stated, np.generic):
        return stated.dtype
    return np.dtype(np.int64 if isinstance(stated, int) else np.float64)


# -- what is missing -------------------------------------------------------------------------------


def _states_fill(attributes: Mapping[str, Any], fill: Any) -> bool:
    return fill is not None or any(key in attributes for key in _FILL_ATTRIBUTES)


def _marks(
    attributes: Mapping[str, Any], dtype: np.dtype[Any], meant: np.dtype[Any], fill: Any
) -> tuple[tuple[Mark, ...], bool]:
    """Return the elements that stand for none, and whether xarray looks for any such number."""
    if dtype.kind == "b":
        return (), False
    named = [(f"the attribute {key!r}", attributes.get(key)) for key in _FILL_ATTRIBUTES]
    found: dict[float | int, Mark] = {}
    masked = False
    for origin, stated in [*named, ("the fill value", fill)]:
        for item in _each(stated):
            number = _number(item)
            spelled = number is None and isinstance(item, str)
            if spelled:
                number = _number_spelled(item)
            if number is None:
                continue
            masked = True
            value = _element(number, dtype, meant)
            if value is not None:
                literal = value == number or (meant != dtype and "'_FillValue'" in origin)
                literal = literal and not spelled
                found.setdefault(value, Mark(value, origin, literal))
    return tuple(found.values()), masked


def _no_times(attributes: Mapping[str, Any], dtype: np.dtype[Any]) -> tuple[Mark, ...]:
    """Return what stands for no duration among counts of a unit of time."""
    units = attributes.get("units")
    known = isinstance(units, str) and units in _TIME_UNITS
    if not known or dtype.kind != "i" or dtype.itemsize != 8:
        return ()
    return (Mark(_NOT_A_TIME, f"the unit of time {units!r} (NaT)", decoded=False),)


def _valid(
    attributes: Mapping[str, Any],
    dtype: np.dtype[Any],
    meant: np.dtype[Any],
    kind: np.dtype[Any],
    decoded: Mapping[str, Any],
    *,
    packed: bool,
) -> tuple[Valid, Valid]:
    """Return between which elements and between which measurements of type `kind` one is valid."""
    if dtype.kind == "b":
        return ANY, ANY
    found: dict[bool, list[tuple[int, float | int, str]]] = {False: [], True: []}
    for side, key, item in _ends(attributes):
        of_measurements = packed and _wider(item, meant)
        number = _number(item)
        if number is None:
            continue
        if of_measurements:
            value = _rounded(number, kind)
        else:
            element = _element(number, dtype, meant) if meant != dtype else None
            repacked = number if packed else _repacked(number, decoded, side)
            value = _rounded(repacked, meant) if element is None else element
        found[of_measurements].append((side, value, key))
    return _between(found[False], meant), _between(found[True], kind)


def _ends(attributes: Mapping[str, Any]) -> Iterable[tuple[int, str, Any]]:
    """Yield what attributes state as ends of a range: -1 for the lower, and 1 for the upper."""
    for key, side in (("valid_min", -1), ("valid_max", 1)):
        for item in _each(attributes.get(key)):
            yield side, key, item
    both = list(_each(attributes.get("valid_range")))
    if len(both) == 2:
        yield -1, "valid_range", both[0]
        yield 1, "valid_range", both[1]


def _wider(item: Any, meant: np.dtype[Any]) -> bool:
    """Whether an end of the valid range is of a type that packed elements are not, and wider."""
    if isinstance(item, int | np.integer):
        return False
    width = item.itemsize if isinstance(item, np.floating) else 8
    return meant.kind in "iu" or width > meant.itemsize


def _between(ends: Iterable[tuple[int, float | int, str]], dtype: np.dtype[Any]) -> Valid:
    """Return the range that all ends allow; one that no element is beyond is none."""
    low: float | int = -math.inf
    high: float | int = math.inf
    keys: list[str] = []
    limits = np.iinfo(dtype) if dtype.kind in "iu" else None
    for side, value, key in ends:
        beyond = limits and (value <= limits.min if side < 0 else value >= limits.max)
        if beyond or math.isinf(value):
            continue
        low, high = (max(low, value), high) if side < 0 else (low, min(high, value))
        keys += [repr(key)] if repr(key) not in keys else []
    return Valid(low, high, f"the attribute {' and '.join(keys)}") if keys else ANY


def _repacked(number: float, decoded: Mapping[str, Any], side: int) -> float | int:
    """Return an end of the valid range, for values that somebody has unpacked."""
    scale, offset = (_number(decoded.get(key)) for key in _PACKING)
    if not isinstance(number, int) or (scale is None and offset is None):
        return number
    # An end of the packed type speaks of packed values (CF 8.1); half a step for rounding.
    scale = 1.0 if scale is None else scale
    return number * scale + (offset or 0.0) + side * abs(scale) / 2.0


def _rounded(number: float, dtype: np.dtype[Any]) -> float | int:
    """Return a number as elements of a floating type can tell it."""
    if dtype.kind != "f":
        return number
    with np.errstate(over="ignore"):
        return float(dtype.type(number))


def _each(stated: Any) -> Iterable[Any]:
    """Return what an attribute states, one item at a time: it may be one or an array of them."""
    if stated is None:
        return ()
    if isinstance(stated, np.ndarray):
        return stated.ravel().tolist()
    return stated if isinstance(stated, list | tuple) else (stated,)


def _number(item: Any) -> float | int | None:
    """Return a number as Python's own; xarray's base64 of a little-endian double is one too."""
    if isinstance(item, str):
        try:
            item = struct.unpack("<d", base64.b64decode(item, validate=True))[0]
        except (binascii.Error, struct.error, ValueError):
            return None
    if isinstance(item, np.ndarray) and item.size == 1:
        item = item.item()
    if isinstance(item, bool | np.bool_) or not isinstance(item, int | float | np.number):
        return None
    plain: float | int = item.item() if isinstance(item, np.generic) else item
    return None if isinstance(plain, complex) or math.isnan(plain) else plain


def _number_spelled(text: str) -> float | int | None:
    """Return the number that a string spells, None if it spells none."""
    for kind in (int, float):
        try:
            return _number(kind(text))
        except ValueError:
            continue
    return None


def _element(number: float, dtype: np.dtype[Any], meant: np.dtype[Any]) -> float | int | None:
    """Return a number as an element of type `meant` would hold it, None if none can.

    Where the sign of stored integers is another, it may be the number that is stored.
    """
    if meant.kind == "f":
        with np.errstate(over="ignore"):
            element = float(meant.type(number))
        return element if math.isfinite(element) or math.isinf(number) else None
    if not math.isfinite(number) or number != int(number):
        return None
    whole, limits = int(number), np.iinfo(meant)
    stored = np.iinfo(dtype)
    if meant != dtype and stored.min <= whole <= stored.max:
        return int(np.asarray(whole, dtype).view(meant))
    return whole if limits.min <= whole <= limits.max else None
