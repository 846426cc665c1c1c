"""Features minus a location, times a factor, as one loop of machine code.

NumPy takes two steps, each over a tile; here a vector of elements is read, converted, subtracted
from, multiplied and written before the next is read: the same operations in the same order, each
rounded, so that the bits are NumPy's. Rows lie one behind the other, and the numbers of the
features repeat: they are handed over as often as it takes to fill whole vectors.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LANES", "affine_loop"]

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
_CALL = ctypes.CFUNCTYPE(
    None,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_int64,
)


@cache
def affine_loop(stored: str, scaled: str) -> Callable[[int, int, int, int, int, int], None] | None:
    """Return the loop in machine code; None where nothing here can make it.

    Parameters
    ----------
    stored, scaled : str
        Types of the elements and of the results, as NumPy spells them; the second holds all
        numbers of the first, and is f4 or f8.

    Returns
    -------
    callable
        Of the addresses of elements and results, their number, a positive multiple of `LANES`,
        the addresses of what is subtracted and of the factors, and how many those are, a positive
        multiple of `LANES` too. It releases the GIL.
    """
    known = stored in _TYPES and scaled in ("f4", "f8")
    if not known or sys.byteorder != "little" or find_spec("llvmlite") is None:
        return None
    from dask_gmm.mixture.kernels.compiled.compiler import assembled

    function = assembled(_assembly(stored, scaled), "scale")
    call: Any = _CALL(function.address)
    call.code = function  # which goes when nobody can call it any more
    compiled: Callable[[int, int, int, int, int, int], None] = call
    return compiled


def _assembly(stored: str, scaled: str) -> str:
    element, result = _TYPES[stored], _TYPES[scaled]
    loaded, vector = f"<{LANES} x {element}>", f"<{LANES} x {result}>"
    if stored != scaled:
        how = "fpext" if stored[0] == "f" else "sitofp" if stored[0] == "i" else "uitofp"
        convert = f"  %y = {how} {loaded} %x to {vector}"
    else:
        convert = f"  %y = bitcast {loaded} %x to {vector}"
    size, wide = int(stored[1]), int(scaled[1])
    return f"""
define void @scale(ptr %source, ptr %target, i64 %n, ptr %center, ptr %factor, i64 %period) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %j = phi i64 [ 0, %entry ], [ %k, %loop ]
  %at = getelementptr {element}, ptr %source, i64 %i
  %x = load {loaded}, ptr %at, align {size}
{convert}
  %atc = getelementptr {result}, ptr %center, i64 %j
  %c = load {vector}, ptr %atc, align {wide}
  %d = fsub {vector} %y, %c
  %atf = getelementptr {result}, ptr %factor, i64 %j
  %f = load {vector}, ptr %atf, align {wide}
  %z = fmul {vector} %d, %f
  %to = getelementptr {result}, ptr %target, i64 %i
  store {vector} %z, ptr %to, align {wide}
  %next = add i64 %i, {LANES}
  %j1 = add i64 %j, {LANES}
  %over = icmp uge i64 %j1, %period
  %k = select i1 %over, i64 0, i64 %j1
  %more = icmp ult i64 %next, %n
  br i1 %more, label %loop, label %end
end:
  ret void
}}
"""
