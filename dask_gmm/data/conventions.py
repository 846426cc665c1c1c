"""What metadata say of values, by the CF conventions: decided here, for every road in.

Stores, files and labelled arrays name in attributes which of their elements stand for no
measurement, and how the measurements are packed into what is stored. Read as plain numbers they
would be rows of -9999, or counts of tenths of a degree above 300, which a mixture fits as happily
as any other. So

- **encoded values** (scaled, shifted, signs reinterpreted, dates and durations as counts) are
  refused at once: no element of them is what it means;
- **marks** (``_FillValue``, ``missing_value``, what lies outside of ``valid_range``) are looked for
  as rows are read, since most arrays that have them hold none: `Marks.check`;
- a **fill value** of Zarr's own that nobody has called missing is suspicious, no more: passes count
  the rows that hold it, and the caller is warned.

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
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dask_gmm.errors import InputError, MissingValueError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "NO_MARKS",
    "TELLING_ATTRIBUTES",
    "Mark",
    "Marks",
    "Remedies",
    "attributes_of",
    "by_columns",
    "chosen_fill",
    "fill_by_columns",
    "joined",
    "marks_of",
    "stored_marks",
]


@dataclass(frozen=True)
class Mark:
    """A value that stands for none.

    Attributes
    ----------
    value : float or int
    origin : str
        The metadata that say so.
    decoded : bool
        Whether xarray's decoding makes NaN of it.
    """

    value: float | int
    origin: str
    decoded: bool = True

    def __str__(self) -> str:
        return str(self.value)

    def held_by(self, rows: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which rows, of shape (n, D), hold the value; shape (n,)."""
        hits: NDArray[np.bool_] = (rows == self.value).any(axis=1)
        return hits


@dataclass(frozen=True)
class _ColumnMark(Mark):
    """Values that stand for none, each in columns of its own; the first is `value`."""

    columns: tuple[tuple[int, int, str, Mark], ...] = ()

    def __str__(self) -> str:
        return " or ".join(f"{mark.value} ({name})" for _, _, name, mark in self.columns)

    def held_by(self, rows: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which rows hold one of the values in its own columns."""
        held = [mark.held_by(rows[:, start:stop]) for start, stop, _, mark in self.columns]
        hits: NDArray[np.bool_] = np.logical_or.reduce(held)
        return hits


@dataclass(frozen=True)
class Remedies:
    """What messages advise for an input: code between backticks, which does what they say.

    Attributes
    ----------
    stored : str
        Code for the values as they are stored.
    unmarked : str
        Code for the same values without attributes.
    decoded : str
        Code by which xarray decodes them: packed numbers become measurements, marks NaN, dates
        dates; "" where xarray cannot.
    """

    stored: str
    unmarked: str
    decoded: str = ""

    def without(self, mark: Mark) -> str:
        """Code that makes a mark NaN."""
        if self.decoded and mark.decoded:
            return self.decoded
        if self.decoded:
            return f"x = {self.decoded}; x.where(x != {mark.value})"
        return f"x = {self.stored}; numpy.where(x == {mark.value}, numpy.nan, x)"

    def within(self, low: float, high: float) -> str:
        """Code that makes NaN of what is outside of a range, which xarray does not."""
        bounds = f"(x >= {low!r}) & (x <= {high!r})".replace("inf", "numpy.inf")
        if self.decoded:
            return f"x = {self.decoded}; x.where({bounds})"
        return f"x = {self.stored}; numpy.where({bounds}, x, numpy.nan)"

    def unpacked(
        self, attributes: Mapping[str, Any], dtype: np.dtype[Any], marks: Iterable[Mark]
    ) -> str:
        """Code that makes measurements of packed values, and NaN of marks."""
        if self.decoded:
            return self.decoded
        values = "x"
        if _packing(attributes, dtype) == "_Unsigned":
            values = f"x.view('{_OTHER_SIGN[dtype.kind]}{dtype.itemsize}')"
        held = " | ".join(f"(x == {mark.value})" for mark in marks)
        values = f"numpy.where({held}, numpy.nan, {values})" if held else values
        scale = next(iter(_each(attributes.get("scale_factor"))), 1)
        offset = next(iter(_each(attributes.get("add_offset"))), 0)
        return f"x = {self.stored}; {values} * {scale} + {offset}"

    def since(self, unit: str) -> str:
        """Code that makes numbers of encoded dates, or of durations where `unit` is one."""
        if self.decoded:
            numbers = "numpy.timedelta64(1, 's')"
            reference = " - numpy.datetime64('2000-01-01')" if "since" in unit else ""
            return f"({self.decoded}{reference}) / {numbers}"
        return self.unmarked


class MarkedElement(NamedTuple):
    """Where an element is that is none, which metadata say so, and code that makes it NaN."""

    row: int
    feature: int
    why: str
    code: str

    @classmethod
    def of(cls, hits: NDArray[np.bool_], why: str, code: str) -> MarkedElement:
        """Describe the first of some hits in rows, shape (n, D)."""
        row = int(hits.any(axis=1).argmax())
        return cls(row, int(hits[row].argmax()), why, code)


@dataclass(frozen=True)
class Marks:
    """Which elements of an array are no measurements.

    Attributes
    ----------
    values : tuple of Mark
        Elements that stand for none.
    low, high : float or int
        The elements that are measurements lie between these, ends included.
    range_origin : str
        The metadata that say so; "" where none do.
    remedies : Remedies
    """

    values: tuple[Mark, ...] = ()
    low: float | int = -math.inf
    high: float | int = math.inf
    range_origin: str = ""
    remedies: Remedies = field(default=Remedies("X", "X"), compare=False)

    def __bool__(self) -> bool:
        return bool(self.values or self.range_origin)

    def check(self, rows: NDArray[Any]) -> None:
        """Refuse rows that hold an element which is no measurement.

        Parameters
        ----------
        rows : ndarray of shape (n, D)

        Raises
        ------
        MissingValueError
            It knows the row and the feature; whoever reads knows where the row is.
        """
        found = self.first(rows)
        if found is not None:
            raise self._refusal(rows, found, self.remedies)

    def _refusal(
        self, rows: NDArray[Any], found: MarkedElement, remedies: Remedies
    ) -> MissingValueError:
        remedy = (
            f"To leave such rows out, make their values NaN by `{found.code}` and drop what holds "
            f"NaN; if they are measurements after all, pass `{remedies.unmarked}`."
        )
        value = rows[found.row, found.feature].item()
        return MissingValueError(found.row, found.feature, value, found.why, remedy)

    def first(self, rows: NDArray[Any]) -> MarkedElement | None:
        """Return the first element that is no measurement, None where all are.

        Parameters
        ----------
        rows : ndarray of shape (n, D)
        """
        for mark in self.values:
            hits = rows == mark.value
            if hits.any():
                why = f"which {mark.origin} marks as missing"
                return MarkedElement.of(hits, why, self.remedies.without(mark))
        # Extremes of a clean block cost a fraction of two comparisons; NaN makes both false.
        if self.range_origin and rows.size and not self._within(rows):
            hits = (rows < self.low) | (rows > self.high)
            if hits.any():
                why = f"outside of what {self.range_origin} calls valid"
                return MarkedElement.of(hits, why, self.remedies.within(self.low, self.high))
        return None

    def _within(self, rows: NDArray[Any]) -> bool:
        return bool(self.low <= rows.min() and rows.max() <= self.high)


@dataclass(frozen=True)
class _ColumnMarks(Marks):
    """Marks of rows whose columns come from several arrays: each looks at its own."""

    columns: tuple[tuple[int, int, Marks], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.columns)

    def check(self, rows: NDArray[Any]) -> None:
        """Refuse rows that hold an element which is no measurement; as `Marks.check`."""
        for start, stop, marks in self.columns:
            found = marks.first(rows[:, start:stop])
            if found is not None:
                found = found._replace(feature=start + found.feature)
                raise self._refusal(rows, found, marks.remedies)

    def first(self, rows: NDArray[Any]) -> MarkedElement | None:
        """Return the first element that is no measurement, None where all are."""
        for start, stop, marks in self.columns:
            found = marks.first(rows[:, start:stop])
            if found is not None:
                return found._replace(feature=start + found.feature)
        return None


def by_columns(parts: Sequence[tuple[int, int, Marks]]) -> Marks:
    """Return the marks of rows whose columns ``start`` to ``stop`` have the marks of one array."""
    marked = tuple((start, stop, marks) for start, stop, marks in parts if marks)
    first = parts[0][2].remedies
    if not marked:
        return Marks(remedies=first)
    values = tuple(mark for _, _, marks in marked for mark in marks.values)
    return _ColumnMarks(values, remedies=first, columns=marked)


def fill_by_columns(parts: Sequence[tuple[int, int, str, Mark | None]]) -> Mark | None:
    """Return the chosen fill values of rows whose columns come from arrays with these names."""
    chosen = tuple(
        (start, stop, name, fill) for start, stop, name, fill in parts if fill is not None
    )
    if not chosen:
        return None
    first = chosen[0][3]
    return _ColumnMark(first.value, first.origin, first.decoded, chosen)


NO_MARKS = Marks()

_OTHER_SIGN = {"i": "u", "u": "i"}

_FILL_ATTRIBUTES = ("_FillValue", "missing_value")
_RANGE_ATTRIBUTES = ("valid_min", "valid_max", "valid_range")
TELLING_ATTRIBUTES = (
    "_ARRAY_DIMENSIONS",
    *_FILL_ATTRIBUTES,
    *_RANGE_ATTRIBUTES,
    "scale_factor",
    "add_offset",
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


def attributes_of(X: object) -> Mapping[str, Any]:
    """Return the attributes of an array that has some (Zarr, xarray, HDF5), else none."""
    attributes = getattr(X, "attrs", None)
    # Zarr's own attributes are a mapping too, read from the metadata that are here already.
    return attributes if isinstance(attributes, Mapping) else {}


def marks_of(
    attributes: Mapping[str, Any],
    dtype: np.dtype[Any],
    name: str,
    remedies: Remedies,
    *,
    fill: Any = None,
    decoded: Mapping[str, Any] | None = None,
) -> Marks:
    """Return which elements of an array its metadata call missing.

    Parameters
    ----------
    attributes : mapping
        The array's attributes.
    dtype : dtype
        Of its elements: boolean, integer or real floating.
    name : str
        What messages call it.
    remedies : Remedies
    fill : number, optional
        A fill value outside of the attributes that counts as missing.
    decoded : mapping, optional
        How the array was encoded before somebody decoded it (xarray's ``encoding``): attributes
        that decoding leaves alone speak of the encoded values.

    Raises
    ------
    InputError
        The elements are encoded: packed numbers, dates or durations.
    """
    named = [(f"the attribute {key!r}", attributes.get(key)) for key in _FILL_ATTRIBUTES]
    found: dict[float | int, Mark] = {}
    for origin, stated in [*named, ("the fill value", fill)]:
        for item in _each(stated):
            value = _as_element(item, dtype)
            if value is not None:
                found.setdefault(value, Mark(value, origin))
    if dtype == np.int64 and attributes.get("units") in _TIME_UNITS:
        origin = f"the unit of time {attributes['units']!r} (NaT)"
        found[_NOT_A_TIME] = Mark(_NOT_A_TIME, origin, decoded=False)
    _refuse_encoded(attributes, dtype, name, remedies, found.values())
    low, high, origin = _valid_range(attributes, dtype, decoded or {})
    return Marks(tuple(found.values()), low, high, origin, remedies)


def joined(marks: Sequence[Marks]) -> Marks:
    """Return the marks of several arrays whose elements lie in one: any of their marks counts."""
    if not marks:
        return NO_MARKS
    values = {mark.value: mark for some in marks for mark in reversed(some.values)}
    low, high = min(some.low for some in marks), max(some.high for some in marks)
    unbounded = low == -math.inf and high == math.inf
    origin = "" if unbounded else next(some.range_origin for some in marks if some.range_origin)
    return Marks(tuple(values.values()), low, high, origin, marks[0].remedies)


def stored_marks(array: Any, name: str, remedies: Remedies) -> tuple[Marks, Mark | None]:
    """Return which elements of a stored array are missing, and a fill value that may be another.

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
        The elements are encoded.
    """
    attributes, dtype = attributes_of(array), np.dtype(array.dtype)
    metadata = getattr(array, "metadata", None)
    fill = getattr(metadata, "fill_value", None)
    xarrays = getattr(metadata, "zarr_format", 3) == 2 and "_ARRAY_DIMENSIONS" in attributes
    marks = marks_of(attributes, dtype, name, remedies, fill=fill if xarrays else None)
    return marks, None if marks.values else chosen_fill(fill, dtype)


def chosen_fill(fill: Any, dtype: np.dtype[Any]) -> Mark | None:
    """Return a fill value that somebody chose; None for Zarr's default, 0, for NaN and none at all.

    Where no attribute explains it, it may be a measurement or the lack of one.
    """
    value = _as_element(fill, dtype)
    return Mark(value, "fill value", decoded=False) if value else None


def _refuse_encoded(
    attributes: Mapping[str, Any],
    dtype: np.dtype[Any],
    name: str,
    remedies: Remedies,
    marks: Iterable[Mark],
) -> None:
    """Refuse elements that are not what they mean."""
    packed = _packing(attributes, dtype)
    if packed is not None:
        raise InputError(
            f"{name} holds packed values (attribute {packed!r}), which are not the measurements. "
            f"Pass `{remedies.unpacked(attributes, dtype, marks)}`, which unpacks them; if they "
            f"are unpacked already, pass `{remedies.unmarked}`."
        )
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


def _packing(attributes: Mapping[str, Any], dtype: np.dtype[Any]) -> str | None:
    """Return the attribute that makes stored values differ from what they mean, if one does."""
    for key, neutral in (("scale_factor", 1.0), ("add_offset", 0.0)):
        if attributes.get(key) is not None and [
            _number(item) for item in _each(attributes[key])
        ] != [neutral]:
            return key
    unsigned = str(attributes.get("_Unsigned", "")).lower()
    changes = {"true": "i", "false": "u"}
    return "_Unsigned" if unsigned and changes.get(unsigned, dtype.kind) == dtype.kind else None


def _valid_range(
    attributes: Mapping[str, Any], dtype: np.dtype[Any], decoded: Mapping[str, Any]
) -> tuple[float | int, float | int, str]:
    """Return the least and the largest valid element, and which attributes say so."""
    stated = {key: list(_each(attributes.get(key))) for key in _RANGE_ATTRIBUTES}
    both = stated["valid_range"] if len(stated["valid_range"]) == 2 else [None, None]
    lower = [*stated["valid_min"], both[0]]
    upper = [*stated["valid_max"], both[1]]
    if dtype.kind == "b":
        return -math.inf, math.inf, ""
    low = max((_bound(item, dtype, decoded, -1) for item in lower), default=-math.inf)
    high = min((_bound(item, dtype, decoded, +1) for item in upper), default=math.inf)
    if low == -math.inf and high == math.inf:
        return low, high, ""
    names = " and ".join(repr(key) for key in _RANGE_ATTRIBUTES if stated[key])
    return low, high, f"the attribute {names}"


def _bound(item: Any, dtype: np.dtype[Any], decoded: Mapping[str, Any], side: int) -> float | int:
    """Return one end of the valid range, as far as elements can tell; infinite if there is none."""
    value = _number(item)
    if value is None:
        return side * math.inf
    packing = {key: _number(decoded.get(key)) for key in ("scale_factor", "add_offset")}
    scale, offset = packing["scale_factor"], packing["add_offset"]
    if isinstance(value, int) and (scale is not None or offset is not None):
        # An end of the packed type speaks of packed values (CF 8.1); half a step for rounding.
        scale = 1.0 if scale is None else scale
        value = value * scale + (offset or 0.0) + side * abs(scale) / 2.0
    if dtype.kind != "f":
        return value
    with np.errstate(over="ignore"):
        return float(dtype.type(value))


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


def _as_element(stated: Any, dtype: np.dtype[Any]) -> float | int | None:
    """Return a finite number as an element of `dtype` would hold it, None if none can."""
    value = _number(stated)
    if value is None or not math.isfinite(value) or dtype.kind == "b":
        return None
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            element = float(dtype.type(value))
        return element if math.isfinite(element) else None
    if value != int(value):
        return None
    limits = np.iinfo(dtype)
    return int(value) if limits.min <= value <= limits.max else None
