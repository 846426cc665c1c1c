"""Exponential and logarithm of vectors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.mixture.kernels.compiled.vector import Array, Code, Lanes, Value

__all__ = ["exp", "exp_numbers", "inverse_and_log", "least_exponent", "log", "log_single"]

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
_LOG_SINGLE = (  # of (log(1+f) − f + f²/2)/f³, highest power first, as in Cephes' logf
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)
_LN2_HIGH_SINGLE = 0.693359375
_LN2_LOW_SINGLE = -2.12194440e-4


_EXP = {  # c_2, c_3, … of eʳ ≈ 1 + r + c_2 r² + …, minimax in relative error for |r| ≤ ½ log 2
    False: (  # to 3.6e-18
        0.5000000000000011,
        0.16666666666666413,
        0.041666666666530267,
        0.008333333333494283,
        0.0013888888943597297,
        0.0001984126950687133,
        2.4801493137691488e-05,
        2.7557586222592425e-06,
        2.7630233050325207e-07,
        2.5000072620125244e-08,
    ),
    True: (  # to 3.1e-9
        0.4999999403953552,
        0.1666652113199234,
        0.04166838899254799,
        0.008368710055947304,
        0.0013814610429108143,
    ),
}


def least_exponent(single: bool, *, to_be_weighed: bool = False) -> float:
    """The least a for which `exp` is eᵃ; for any below it is the same as there.

    That is nearly the smallest normal number. What is to be multiplied by a row's weight ends well
    above: a number that is not normal takes a processor some hundred cycles. It is nothing all the
    same, far below any responsibility that counts.
    """
    if to_be_weighed:
        return -60.0 if single else -650.0
    return -87.0 if single else -708.0


def exp_numbers(single: bool) -> tuple[float, ...]:
    """The numbers that `exp` reads, in its order; the first is `least_exponent`."""
    shift = 1.5 * 2.0**23 if single else 1.5 * 2.0**52
    rest = (1.0 / math.log(2.0), shift, -math.log(2.0), 1.0, *_EXP[single])
    return (least_exponent(single), *rest)


def exp(code: Code, lanes: Lanes, vectors: Sequence[Value], numbers: Array) -> list[Value]:
    """eᵃ for a ≤ 0, to the rounding of a; as at `least_exponent` where a is less.

    a = n log 2 + r with n the nearest integer, eʳ is a polynomial, and n is added to the
    exponent's bits. A multiplication and addition rounded once leave in r an error of |a|·3e-17
    (float32: |a|·3e-9), less than half of what a itself was rounded by.

    Parameters
    ----------
    vectors : sequence of Value
        Several a, for which each number is read once.
    numbers : Array
        Each of `exp_numbers` in all lanes of a vector. They are read where they are needed: as
        constants of the program they would be loaded before the loop, and pushed out of registers.
    """

    def number(i: int) -> Value:
        return numbers.vector(lanes, i * lanes.count)

    lowest, per_log, shift, log_2 = (number(i) for i in range(4))
    vectors = [code.maximum(a, lowest) for a in vectors]
    # Adding 1.5·2^m rounds to an integer and leaves it in the lowest bits.
    shifted = [code.fma(lanes, a, per_log, shift) for a in vectors]
    rests = [code.fma(lanes, s - shift, log_2, a) for a, s in zip(vectors, shifted, strict=True)]
    last = 4 + len(_EXP[lanes.single])
    series = [number(last)] * len(vectors)
    for i in (*range(last - 1, 3, -1), 4):
        following = number(i)
        series = [code.fma(lanes, s, r, following) for s, r in zip(series, rests, strict=True)]
    bits = 23 if lanes.single else 52
    results = []
    for s, n in zip(series, shifted, strict=True):
        exponent = code.shifted(lanes, code.as_integers(lanes, n), bits)
        results.append(code.as_floats(lanes, code.as_integers(lanes, s) + exponent))
    return results


def log(code: Code, lanes: Lanes, a: Value) -> Value:
    """Logarithm of float64 for normal a > 0, to less than one unit in the last place.

    a = 2ᵉ m with m between √½ and √2; with f = m − 1 and s = f/(2 + f), log m = 2 artanh s.
    """

    def number(x: float) -> Value:
        return code.constant(lanes, x)

    e, mantissa = _split(code, lanes, a)
    f = mantissa - number(1.0)
    return _log_of_parts(code, lanes, e, f, f / (f + number(2.0)))


def inverse_and_log(code: Code, lanes: Lanes, a: Value) -> tuple[Value, Value]:
    """1/a and log a of float64 for normal a ≥ 1, to a few units in the last place.

    One division serves both, 1/(a (m + 1)) with m as in `log`: it takes as long as all the rest.
    """
    one = code.constant(lanes, 1.0)
    e, mantissa = _split(code, lanes, a)
    f, above = mantissa - one, mantissa + one
    both = one / (a * above)
    return both * above, _log_of_parts(code, lanes, e, f, f * (both * a))


def log_single(code: Code, lanes: Lanes, a: Value) -> Value:
    """Logarithm of float32 for normal a > 0, to about one unit in the last place.

    With m as in `log` and f = m − 1: log m = f − f²/2 + f³ P(f), as in Cephes' `logf`.
    """

    def number(x: float) -> Value:
        return code.constant(lanes, x)

    e, mantissa = _split(code, lanes, a)
    f = mantissa - number(1.0)
    z = f * f
    series = number(_LOG_SINGLE[0])
    for coefficient in _LOG_SINGLE[1:]:
        series = code.fma(lanes, series, f, number(coefficient))
    rest = code.fma(lanes, z * f, series, e * number(_LN2_LOW_SINGLE))
    rest = code.fma(lanes, z, number(-0.5), rest)
    return code.fma(lanes, e, number(_LN2_HIGH_SINGLE), f + rest)


def _split(code: Code, lanes: Lanes, a: Value) -> tuple[Value, Value]:
    """The e and m of a = 2ᵉ m with m between √½ and √2, as floats."""
    root_half, bits = (0x3F3504F3, 23) if lanes.single else (0x3FE6A09E667F3BCD, 52)
    above = code.as_integers(lanes, a) - code.whole(lanes, root_half)
    exponent = code.shifted(lanes, above, -bits)
    mantissa = code.as_integers(lanes, a) - code.shifted(lanes, exponent, bits)
    # A small integer as a float: put it in the lowest bits of 1.5·2^bits.
    magic = code.constant(lanes, 1.5 * 2.0**bits)
    biased = code.as_integers(lanes, magic) + exponent
    return code.as_floats(lanes, biased) - magic, code.as_floats(lanes, mantissa)


def _log_of_parts(code: Code, lanes: Lanes, e: Value, f: Value, s: Value) -> Value:
    """E·log 2 + log(1 + f) with s = f/(2 + f)."""

    def number(x: float) -> Value:
        return code.constant(lanes, x)

    z = s * s
    series = number(_ATANH[-1])
    for coefficient in _ATANH[-2::-1]:
        series = code.fma(lanes, series, z, number(coefficient))
    half = number(0.5) * f * f
    remainder = code.fma(lanes, s, half + z * series, e * number(_LN2_LOW))
    return code.fma(lanes, e, number(_LN2_HIGH), f - (half - remainder))
