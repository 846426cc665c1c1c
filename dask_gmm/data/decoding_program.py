"""A block's decoding as one loop of machine code: each element is read and written once.

NumPy takes a step at a time, tile by tile, and three times as long. Here a vector of elements is
compared, converted, multiplied, added to and written before the next is read: the same operations
in the same order, each rounded, so that the bits are those of NumPy. Numbers are handed over and
not written into the code, so that a few programs serve all stores.

Nanoseconds of CPU time for an element, the best of some turns on one machine (Intel Xeon, busy),
1 Mi elements in place; copying them as float32 took .3:

===============================  ====  =====
stored, and what is made of it   here  NumPy
===============================  ====  =====
int16, mark -> float32           .27   .6
int16, scale, offset -> float64  .49   1.5
the same with a mark             .63   1.8
float32, mark                    .24   .4
===============================  ====  =====

The loop goes forward and reads a vector before it writes one, as whoever decodes in place needs it.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LANES", "Loop", "function_of"]

LANES = 16
"""Elements of a step; the function takes multiples of it."""

_TYPES = {
    "i1": "i8",
    "i2": "i16",
    "i4": "i32",
    "u1": "i8",
    "u2": "i16",
    "u4": "i32",
    "f4": "float",
    "f8": "double",
}
_CALL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)


@dataclass(frozen=True)
class Loop:
    """What is done to each element, in this order.

    Attributes
    ----------
    stored : str
        Type of the elements, as NumPy spells it: i1, i2, i4, u1, u2, u4, f4 or f8.
    measured : str
        Type of the result, which holds each of them as it is: f4 or f8.
    keys : int
        Number of elements that become NaN.
    low, high : bool
        Whether elements below one, and above another, become NaN.
    scale, offset : bool
        Whether the number is multiplied, and one is added.
    least, most : bool
        Whether results below one, and above another, become NaN.
    """

    STORED: ClassVar = frozenset(_TYPES)

    stored: str
    measured: str
    keys: int
    low: bool
    high: bool
    scale: bool
    offset: bool
    least: bool
    most: bool

    @property
    def numbers(self) -> tuple[str, ...]:
        """The type of each number that is handed over, in order."""
        of_elements = self.keys + self.low + self.high
        of_results = self.scale + self.offset + self.least + self.most
        return (self.stored,) * of_elements + (self.measured,) * of_results

    def packed(self, numbers: list[Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return numbers as the function reads them, eight bytes for each."""
        packed = np.zeros((len(numbers) + 1, 8), np.uint8)
        for place, number, kind in zip(packed, numbers, self.numbers, strict=False):
            element = np.asarray(number).astype(kind).tobytes()
            place[: len(element)] = np.frombuffer(element, np.uint8)
        return packed

    def assembly(self) -> str:
        """Return the function `decode` (source, target, elements, numbers) as LLVM's assembly."""
        writer = _Writer(self)
        writer.write()
        return "\n".join(
            [
                "define void @decode(ptr %source, ptr %target, i64 %n, ptr %numbers) {",
                "entry:",
                *writer.before,
                "  br label %loop",
                "loop:",
                "  %i = phi i64 [ 0, %entry ], [ %next, %loop ]",
                *writer.inside,
                f"  %next = add i64 %i, {LANES}",
                "  %more = icmp ult i64 %next, %n",
                "  br i1 %more, label %loop, label %end",
                "end:",
                "  ret void",
                "}",
            ]
        )


class _Writer:
    """Writes the lines before the loop and inside of it."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._element, self._result = _TYPES[loop.stored], _TYPES[loop.measured]
        self._names = 0
        self._numbers = 0
        self.before: list[str] = []
        self.inside: list[str] = []

    def write(self) -> None:
        loop, itself = self._loop, self._result == self._element
        x = self._load()
        floating = loop.stored[0] == "f"
        sign = "s" if loop.stored[0] == "i" else "u"
        equal, below, above = (
            ("fcmp oeq", "fcmp olt", "fcmp ogt")
            if floating
            else ("icmp eq", f"icmp {sign}lt", f"icmp {sign}gt")
        )
        comparisons = [equal] * loop.keys + [below] * loop.low + [above] * loop.high
        missing = [self._value(f"{c} {self._of(x, loop.stored)}") for c in comparisons]
        y = x
        if not itself:
            convert = "fpext" if floating else f"{sign}itofp"
            kind = f"<{LANES} x {self._element}>"
            y = self._value(f"{convert} {kind} {x} to <{LANES} x {self._result}>")
        for operation in ["fmul"] * loop.scale + ["fadd"] * loop.offset:
            y = self._value(f"{operation} {self._of(y, loop.measured)}")
        comparisons = ["fcmp olt"] * loop.least + ["fcmp ogt"] * loop.most
        missing += [self._value(f"{c} {self._of(y, loop.measured)}") for c in comparisons]
        self._store(self._without(y, missing))

    def _load(self) -> str:
        place = self._value(f"getelementptr {self._element}, ptr %source, i64 %i")
        align = np.dtype(self._loop.stored).itemsize
        return self._value(f"load <{LANES} x {self._element}>, ptr {place}, align {align}")

    def _without(self, y: str, missing: list[str]) -> str:
        """NaN where one of some comparisons holds."""
        flags = f"<{LANES} x i1>"
        if not missing:
            return y
        held = missing[0]
        for more in missing[1:]:
            held = self._value(f"or {flags} {held}, {more}")
        kind = f"<{LANES} x {self._result}>"
        nan = ", ".join([f"{self._result} 0x7FF8000000000000"] * LANES)
        return self._value(f"select {flags} {held}, {kind} <{nan}>, {kind} {y}")

    def _store(self, y: str) -> None:
        place = self._value(f"getelementptr {self._result}, ptr %target, i64 %i")
        align = np.dtype(self._loop.measured).itemsize
        kind = f"<{LANES} x {self._result}>"
        self.inside.append(f"  store {kind} {y}, ptr {place}, align {align}")

    def _of(self, x: str, kind: str) -> str:
        """The operands: a vector and the next number, in each of its lanes."""
        scalar = _TYPES[kind]
        vector = f"<{LANES} x {scalar}>"
        k, self._numbers = self._numbers, self._numbers + 1
        lanes = f"{vector} poison, <{LANES} x i32> zeroinitializer"
        self.before += [
            f"  %at{k} = getelementptr i64, ptr %numbers, i64 {k}",
            f"  %number{k} = load {scalar}, ptr %at{k}, align 8",
            f"  %first{k} = insertelement {vector} poison, {scalar} %number{k}, i32 0",
            f"  %all{k} = shufflevector {vector} %first{k}, {lanes}",
        ]
        return f"{vector} {x}, %all{k}"

    def _value(self, code: str) -> str:
        name, self._names = f"%v{self._names}", self._names + 1
        self.inside.append(f"  {name} = {code}")
        return name


@cache
def function_of(loop: Loop) -> Callable[[int, int, int, int], None] | None:
    """Return the loop in machine code; None where nothing here can make it.

    Its arguments are addresses of the elements, of the results and of the numbers, the third the
    number of elements, a multiple of `LANES`, at least one. It releases the GIL.
    """
    if sys.byteorder != "little" or find_spec("llvmlite") is None:
        return None
    from dask_gmm.mixture.kernels.compiled.compiler import assembled

    function = assembled(loop.assembly(), "decode")
    call: Any = _CALL(function.address)
    call.code = function  # which goes when nobody can call it any more
    compiled: Callable[[int, int, int, int], None] = call
    return compiled
