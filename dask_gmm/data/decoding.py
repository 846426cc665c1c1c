"""How stored elements become measurements: one value, which every source of rows carries.

A store may hold counts of hundredths of a degree above 273.15, with -9999 where nothing was
measured. What its metadata say of that (`conventions`) is a `Decoding`: frozen, picklable, and all
that a reader needs to make measurements of a block as the block is read. An element that the
metadata call missing becomes NaN; all others are what xarray makes of them, bit for bit, since it
is the same arithmetic in the same type: a product and then a sum, each rounded.

A block is decoded by one loop of machine code where that can be made (`decoding_program`), else by
NumPy in tiles that stay in the cache of a core; the bits are the same. Where a reader has memory
for the decoded block, the stored one lies at the end of that and is decoded towards its front, so
that decoding needs no second block: the first n elements of the result never reach beyond the n-th
that was stored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dask_gmm.data.decoding_program import LANES, Loop, function_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from dask_gmm.data.buffers import Memory

__all__ = ["ANY", "SCRATCH_BYTES", "Decoding", "Mark", "MissingElement", "Remedies", "Valid"]

TILE = 2**15
"""Elements that are decoded at a time: the calls cost little beside them, and 256 KiB of float64
stay in a core's cache from the first step to the last."""

SCRATCH_BYTES = TILE * 16
"""Most bytes that decoding takes beside the stored elements and the decoded ones."""


@dataclass(frozen=True)
class Mark:
    """A stored value that stands for none.

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


@dataclass(frozen=True)
class Valid:
    """Between which numbers, ends included, a measurement lies.

    Attributes
    ----------
    low, high : float or int
        Infinite where there is no end.
    origin : str
        The metadata that say so.
    """

    low: float | int = -math.inf
    high: float | int = math.inf
    origin: str = ""

    def __bool__(self) -> bool:
        return self.low > -math.inf or self.high < math.inf


ANY = Valid()


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

    def without(self, missing: str, measured: str = "x") -> str:
        """Code that makes measurements of stored elements x, and NaN of those that are none.

        Parameters
        ----------
        missing, measured : str
            Code for which elements are none, and for the measurements.
        """
        if self.decoded:
            return f"x = {self.unmarked}; ({measured}).where(~({missing}))"
        return f"x = {self.stored}; numpy.where({missing}, numpy.nan, {measured})"

    def since(self, unit: str) -> str:
        """Code that makes numbers of encoded dates, or of durations where `unit` is one."""
        if self.decoded:
            numbers = "numpy.timedelta64(1, 's')"
            reference = " - numpy.datetime64('2000-01-01')" if "since" in unit else ""
            return f"({self.decoded}{reference}) / {numbers}"
        return self.unmarked


class MissingElement(NamedTuple):
    """A stored element that is no measurement.

    Attributes
    ----------
    value : float or int
        What is stored, with the sign that is meant.
    why : str
        Which metadata say so, as a clause.
    as_nan, as_number : str
        Code that makes NaN of it and its like, and code that makes numbers of them too.
    """

    value: float | int
    why: str
    as_nan: str
    as_number: str


@dataclass(frozen=True)
class Decoding:
    """What stored elements mean. Use `conventions.decoding_of`.

    Attributes
    ----------
    stored : dtype
        Type of the elements as they are stored: boolean, integer or real floating.
    meant : dtype
        The same, with the sign that the metadata say.
    dtype : dtype
        Type of the measurements, in this machine's byte order; floating if elements may be missing.
    marks : tuple of Mark
        Elements, as meant, that stand for none.
    packed_valid : Valid
        Between which elements, as meant, a measurement lies.
    scale, offset : number, optional
        What an element is multiplied by, and what is added to the product. Numbers of Python take
        the type of what they meet, those of NumPy have their own.
    valid : Valid
        Between which measurements one lies.
    remedies : Remedies
    """

    stored: np.dtype[Any]
    meant: np.dtype[Any]
    dtype: np.dtype[Any]
    marks: tuple[Mark, ...] = ()
    packed_valid: Valid = ANY
    scale: Any = None
    offset: Any = None
    valid: Valid = ANY
    remedies: Remedies = field(default=Remedies("X", "X"), compare=False)

    @property
    def identity(self) -> str:
        """What tells a decoding from others, as text that is the same in every process."""
        missing = f"{self.marks} {self.packed_valid} {self.valid}"
        return f"{self.stored} {self.meant} {self.dtype} {missing} {self.scale!r} {self.offset!r}"

    @property
    def moves(self) -> bool:
        """Whether elements of the result need memory of their own; else they are the stored ones.

        True but for a sign that the metadata change.
        """
        return (
            self.dtype != self.meant
            or bool(self.marks or self.packed_valid or self.valid)
            or self.scale is not None
            or self.offset is not None
        )

    # -- decoding --------------------------------------------------------------------------------

    def decode(self, values: NDArray[Any], memory: Memory | None = None) -> NDArray[Any]:
        """Return the measurements of stored elements, laid out as those are.

        Parameters
        ----------
        values : ndarray
            Elements of type `stored`, of any shape and strides; not written to.
        memory : Memory, optional
            Where the result may lie.

        Returns
        -------
        ndarray
            Of type `dtype`; a view of the elements where only the sign changes.
        """
        if not self.moves:
            return values.view(self.meant)
        # As they lie in memory, and so the result: sums may round differently for other strides.
        order = _as_it_lies(values)
        laid = values.transpose(order)
        if memory is None:
            measured = np.empty(laid.shape, self.dtype)
        else:
            raw = memory.take(laid.size * self.dtype.itemsize)
            measured = raw.view(self.dtype).reshape(laid.shape)
        self._fill(laid, measured)
        return measured.transpose(np.argsort(order))

    def decode_into(self, values: NDArray[Any], target: NDArray[Any]) -> None:
        """Write the measurements of stored elements to where they are wanted: among others' rows.

        Parameters
        ----------
        values : ndarray
            Elements of type `stored`, of any shape and strides; not written to.
        target : ndarray of the same shape
            In other memory. Of `dtype`, or of a type that holds all numbers of that: measurements
            are rounded to `dtype` first.
        """
        order = _as_it_lies(values)
        laid, place = values.transpose(order), target.transpose(order)
        if not self.moves:
            np.copyto(place, laid.view(self.meant))
        elif target.dtype == self.dtype:
            self._fill(laid, place)
        else:
            for part, there in _tiles(laid, place):
                np.copyto(there, self.decode(part))

    def place(
        self, memory: Memory, n: int, capacity: int
    ) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        """Return where a reader puts stored elements, and where `decode_in_place` puts the result.

        Parameters
        ----------
        memory : Memory
            Both lie there; of n elements no more than n times the larger of the two types, beside
            what a reader needs behind them.
        n : int
            Elements.
        capacity : int
            Bytes that the reader needs for them, at least n times the size of one.

        Returns
        -------
        (capacity,) uint8, (n,) of type `dtype`
        """
        lead = n * max(0, self.dtype.itemsize - self.stored.itemsize)
        raw = memory.take(lead + capacity)
        return raw[lead:], raw[: n * self.dtype.itemsize].view(self.dtype)

    def decode_in_place(self, stored: NDArray[Any], measured: NDArray[Any]) -> NDArray[Any]:
        """Return the measurements of the stored elements, which are overwritten.

        Parameters
        ----------
        stored, measured : (n,) arrays
            In the places that `place` gave.
        """
        if not self.moves:
            return stored.view(self.meant)
        self._fill(stored, measured)
        return measured

    def _fill(self, stored: NDArray[Any], measured: NDArray[Any]) -> None:
        meant = stored.view(self.meant)
        if self._loop is not None and _in_one_piece(meant) and _in_one_piece(measured):
            meant, measured = meant.reshape(-1), measured.reshape(-1)
            function, numbers = self._loop
            whole = meant.size // LANES * LANES
            if whole:
                function(meant.ctypes.data, measured.ctypes.data, whole, numbers.ctypes.data)
            meant, measured = meant[whole:], measured[whole:]
        there = _same_memory(meant, measured)
        with np.errstate(all="ignore"):  # what is missing may be anything
            for part, target in _tiles(meant, measured):
                self._decode_tile(part, target, there=there)

    @cached_property
    def _loop(self) -> tuple[Callable[[int, int, int, int], None], NDArray[np.uint8]] | None:
        """The loop that decodes elements, and its numbers; None where NumPy has to."""
        kind, packed, valid = self.meant, self.packed_valid, self.valid
        ends = [end for end in (packed.low, packed.high) if math.isfinite(end)]
        if kind.kind in "iu":
            limits = np.iinfo(kind)
            within = all(isinstance(e, int) and limits.min <= e <= limits.max for e in ends)
        else:
            within = True
        own = all(np.result_type(self.dtype, number) == self.dtype for _, number in self._steps)
        known = kind.isnative and kind.str[1:] in Loop.STORED and self.dtype.str[1:] in ("f4", "f8")
        if not (known and within and own and self._exact):
            return None
        results = [end for end in (valid.low, valid.high) if math.isfinite(end)]
        loop = Loop(
            kind.str[1:],
            self.dtype.str[1:],
            len(self.marks),
            packed.low > -math.inf,
            packed.high < math.inf,
            self.scale is not None,
            self.offset is not None,
            valid.low > -math.inf,
            valid.high < math.inf,
        )
        function = function_of(loop)
        numbers = [*self._keys, *ends, *(number for _, number in self._steps), *results]
        return None if function is None else (function, loop.packed(numbers))

    def __getstate__(self) -> dict[str, Any]:
        # Machine code stays here, and all else is made again.
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def _decode_tile(self, part: NDArray[Any], target: NDArray[Any], *, there: bool) -> None:
        """Decode some elements, which may lie in the memory of the result: `there`, as they are."""
        # All that the stored elements can tell before they are overwritten.
        missing = _any_of(part, self._keys, _outside(part, self.packed_valid, None))
        if not there:
            np.copyto(target, part, casting="unsafe")
        missing = _any_of(target, self._rounded_keys, missing)
        for function, number in self._steps:
            function(target, number, out=target, casting="same_kind")
        missing = _outside(target, self.valid, missing)
        if missing is not None and missing.any():
            np.putmask(target, missing, np.nan)

    @cached_property
    def _exact(self) -> bool:
        """Whether `dtype` holds each element as it is, not rounded."""
        if self.dtype.kind != "f":
            return True
        wide = self.meant.kind in "iu" and self.meant.itemsize == 8  # NumPy calls that cast safe
        return not wide and np.can_cast(self.meant, self.dtype, "safe")

    @cached_property
    def _keys(self) -> tuple[float | int, ...]:
        """The values of marks."""
        return tuple(self.meant.type(mark.value).item() for mark in self.marks)

    @cached_property
    def _rounded_keys(self) -> tuple[np.float64, ...]:
        """The same for elements that are rounded: xarray compares those, in float64."""
        return () if self._exact else tuple(np.float64(mark.value) for mark in self.marks)

    @cached_property
    def _steps(self) -> tuple[tuple[np.ufunc, Any], ...]:
        steps = ((np.multiply, self.scale), (np.add, self.offset))
        return tuple((function, number) for function, number in steps if number is not None)

    # -- what is missing -------------------------------------------------------------------------

    def missing(self, element: Any) -> MissingElement | None:
        """Say why a stored element is no measurement; None if it is one, or is NaN as it is stored.

        Parameters
        ----------
        element : scalar of type `stored`
        """
        one = np.asarray(element, self.stored).reshape(1)
        meant, measured = one.view(self.meant), self.decode(one)
        value = meant[0].item()
        if self.dtype.kind != "f" or not math.isnan(measured[0]) or value != value:  # noqa: PLR0124
            return None
        same = [value == key for key in self._keys]
        rounded = np.float64(meant.astype(self.dtype)[0])
        same = [a or rounded == b for a, b in zip(same, self._rounded_keys or same, strict=True)]
        marks = zip(self.marks, same, strict=True)
        origin = next((mark.origin for mark, held in marks if held), None)
        why = f"which {origin} marks as missing"
        if origin is None:
            why = f"outside of what {(self.packed_valid or self.valid).origin} calls valid"
        as_number = self.remedies.unmarked
        if self.spelled("x") != "x":
            as_number = f"x = {as_number}; {self.spelled('x')}"
        return MissingElement(value, why, self._nan_where_missing(), as_number)

    def measured(self, element: float) -> float | int:
        """Return the measurement that a stored number stands for."""
        one = np.asarray(element).astype(self.stored).reshape(1)
        number: float | int = self.decode(one)[0].item()
        return number

    def _nan_where_missing(self) -> str:
        """Code that makes measurements of the elements, and NaN of those that are none."""
        by_xarray = all(mark.decoded for mark in self.marks)
        if self.remedies.decoded and by_xarray and not (self.packed_valid or self.valid):
            return self.remedies.decoded
        held = [f"({self._signed('x')} == {mark.value})" for mark in self.marks]
        held += _beyond(self._signed("x"), self.packed_valid)
        held += _beyond(self.spelled("x"), self.valid)
        return self.remedies.without(" | ".join(held), self.spelled("x"))

    def _signed(self, name: str) -> str:
        if self.meant == self.stored:
            return name
        return f"{name}.astype('{self.meant.kind}{self.meant.itemsize}')"

    def spelled(self, name: str) -> str:
        """Code for the measurements of elements."""
        code = self._signed(name)
        for function, number in self._steps:
            code = f"{code} {'*' if function is np.multiply else '+'} {float(number)!r}"
        return code


def _beyond(name: str, valid: Valid) -> list[str]:
    """Code for what is outside of a range."""
    below = [f"({name} < {valid.low!r})"] if valid.low > -math.inf else []
    return below + ([f"({name} > {valid.high!r})"] if valid.high < math.inf else [])


def _as_it_lies(values: NDArray[Any]) -> list[int]:
    """Return an array's axes in the order of their strides, the longest first."""
    return sorted(range(values.ndim), key=lambda axis: -abs(values.strides[axis]))


def _tiles(
    stored: NDArray[Any], measured: NDArray[Any]
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield pieces of two arrays of one shape, in order, that hold no more than a tile."""
    n = len(stored)
    if not stored.size:
        return
    if stored.ndim > 1 and stored.size // n > TILE:
        for i in range(n):
            yield from _tiles(stored[i], measured[i])
        return
    step = max(1, TILE // (stored.size // n))
    for start in range(0, n, step):
        yield stored[start : start + step], measured[start : start + step]


def _any_of(
    values: NDArray[Any], keys: tuple[float | int, ...], found: NDArray[np.bool_] | None
) -> NDArray[np.bool_] | None:
    """Add to what was found the elements that equal one of some keys."""
    for key in keys:
        found = _either(found, np.equal(values, key))
    return found


def _outside(
    values: NDArray[Any], valid: Valid, found: NDArray[np.bool_] | None
) -> NDArray[np.bool_] | None:
    """Add to what was found the elements that are outside of a range."""
    if valid.low > -math.inf:
        found = _either(found, np.less(values, valid.low))
    if valid.high < math.inf:
        found = _either(found, np.greater(values, valid.high))
    return found


def _either(found: NDArray[np.bool_] | None, more: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return more if found is None else np.logical_or(found, more, out=found)


def _in_one_piece(values: NDArray[Any]) -> bool:
    return bool(values.flags.c_contiguous and values.flags.aligned)


def _same_memory(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return (
        one.dtype == other.dtype
        and one.strides == other.strides
        and one.__array_interface__["data"] == other.__array_interface__["data"]
    )
