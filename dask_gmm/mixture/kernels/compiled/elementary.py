"""Exponential and logarithm of vectors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dask_gmm.mixture.kernels.compiled.vector import Code, Lanes, Value

__all__ = ["exp", "log"]

_ATANH = (  # minimax for (log(1+f) − f + f²/2 − …)/s as in FreeBSD's msun e_log.c
    6.666666666666735130e-01,
    3.999999999940941908e-01,
    2.857142874366239149e-01,
    2.222219843214978396e-01,
    1.818357216161805012e-01,
    1.531383769920937332e-01,
    1.479819860511658591e-01,
)
_LN2_HIGH = 6.93147180369123816490e-01
_LN2_LOW = 1.90821492927058770002e-10


def exp(code: Code, lanes: Lanes, a: Value) -> Value:
    """eᵃ for a ≤ 0, to about one unit in the last place; 0 where it would be subnormal.

    a = n log 2 + r with n the nearest integer (Cody and Waite: log 2 in two parts, so that
    r is exact), eʳ by its Taylor series, and n is added to the exponent's bits.
    """
    if lanes.single:
        lowest, shift, degree, bits = -87.0, 1.5 * 2.0**23, 7, 23
        high, low = 0.693359375, -2.12194440e-4
    else:
        lowest, shift, degree, bits = -708.0, 1.5 * 2.0**52, 12, 52
        high, low = _LN2_HIGH, _LN2_LOW

    def number(x: float) -> Value:
        return code.constant(lanes, x)

    inside = code.greater(a, number(lowest))
    a = code.select(inside, a, number(lowest))
    # Adding 1.5·2^m rounds to an integer and leaves it in the lowest bits.
    shifted = code.fma(lanes, a, number(1.0 / math.log(2.0)), number(shift))
    n = shifted - number(shift)
    r = code.fma(lanes, n, number(-high), a)
    r = code.fma(lanes, n, number(-low), r)
    series = number(1.0 / math.factorial(degree))
    for i in range(degree - 1, -1, -1):
        series = code.fma(lanes, series, r, number(1.0 / math.factorial(i)))
    exponent = code.shifted(lanes, code.as_integers(lanes, shifted), bits)
    result = code.as_floats(lanes, code.as_integers(lanes, series) + exponent)
    return code.select(inside, result, number(0.0))


def log(code: Code, lanes: Lanes, a: Value) -> Value:
    """Logarithm of float64 for normal a > 0, to less than one unit in the last place.

    a = 2ᵉ m with m between √½ and √2; with f = m − 1 and s = f/(2 + f), log m = 2 artanh s.
    """

    def number(x: float) -> Value:
        return code.constant(lanes, x)

    root_half = 0x3FE6A09E667F3BCD
    bits = code.as_integers(lanes, a) - code.whole(lanes, root_half)
    exponent = code.shifted(lanes, bits, -52)
    mantissa = code.as_integers(lanes, a) - code.shifted(lanes, exponent, 52)
    # An integer below 2^51 as a float: put it in the lowest bits of 1.5·2^52.
    magic = 1.5 * 2.0**52
    biased = code.as_integers(lanes, number(magic)) + exponent
    e = code.as_floats(lanes, biased) - number(magic)
    f = code.as_floats(lanes, mantissa) - number(1.0)
    s = f / (f + number(2.0))
    z = s * s
    series = number(_ATANH[-1])
    for coefficient in _ATANH[-2::-1]:
        series = code.fma(lanes, series, z, number(coefficient))
    half = number(0.5) * f * f
    remainder = code.fma(lanes, s, half + z * series, e * number(_LN2_LOW))
    return code.fma(lanes, e, number(_LN2_HIGH), f - (half - remainder))
