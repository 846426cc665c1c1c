"""The sums of a program as sufficient statistics, once all rows have passed.

A program gathers in whatever form is quick: in lanes, in lower triangles, as products of features
about the centre c, in float32 arithmetic about references that float32 can express. `finish` writes
what that amounts to where `SufficientStatistics` keeps it, and judges by the result whether the
form has lost anything. Blocks may be small: in NumPy's calls this took several times as long as
2,048 rows of four features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from llvmlite import ir

from dask_gmm.mixture.kernels.compiled.packing import SMALLEST_SHARED_VARIANCE
from dask_gmm.mixture.kernels.compiled.vector import I32, I64, Lanes, Value
from dask_gmm.mixture.statistics import COUNTS_AT

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_gmm.mixture.kernels.compiled.design import Design
    from dask_gmm.mixture.kernels.compiled.records import Member
    from dask_gmm.mixture.kernels.compiled.vector import Array, Code

    Narrow = Callable[[Value, Value, Value, Value, Value], Value]

__all__ = [
    "LARGEST_SINGLE_ERROR",
    "LEAST_SINGLE_VARIANCE",
    "NARROW_FOR_SHARED",
    "NARROW_FOR_SINGLE",
    "NOT_FINITE",
    "SHARED",
    "finish",
]

LARGEST_SINGLE_ERROR: Final = 1e-4
"""Predicted error above which float32 rows are computed in float64."""

SMALLEST_SINGLE_VARIANCE: Final = (float(np.finfo(np.float32).eps) / LARGEST_SINGLE_ERROR) ** 2
"""Variance, beside the mean square of the distances from the centre, that float32 can lose."""

LEAST_SINGLE_VARIANCE: Final = 2.0**-110
"""Variance from which on float32 holds the squares that add up to it; its numbers end at 2⁻¹²⁶,
and below that they have fewer and fewer digits."""

FEWEST_ROWS: Final = 8.0
"""Rows of a component in a block from which its scatter there is taken for its width."""

SHARED: Final = 1
"""Said by `finish`: something was gathered about the centre, as products of features."""

NARROW_FOR_SHARED: Final = 2
"""A component is so narrow, far from the centre, that products of features may have lost it."""

NARROW_FOR_SINGLE: Final = 4
"""A component is so narrow, far from the centre or in its units, that float32 may have lost it."""

NOT_FINITE: Final = 8
"""A second moment is too large for its arithmetic."""


def finish(code: Code, design: Design, member: Member) -> Value:
    """Write the member's sums to its output, as in `SufficientStatistics`; what to say of them.

    The weight of the rows is left to the caller. The references must be those that the sums were
    gathered about; the moments that are written are about points that lie `shifts` below them.

    Returns
    -------
    Value
        Any of `SHARED`, `NARROW_FOR_SHARED`, `NARROW_FOR_SINGLE` and `NOT_FINITE`, added up.
    """
    sums = _Sums(code, design, member)
    found = _Found(code, design, member)
    found.log_likelihood.write(_lanes(code, member.log_likelihood, design.lanes.count))
    shared = sums.shared()
    if design.shares_products:
        truth = code.compare(shared, "!=", 0)
        code.when(
            truth,
            lambda: _gather(code, sums, found, products=True),
            lambda: _gather(code, sums, found, products=False),
        )
    else:
        _gather(code, sums, found, products=False)
    said = shared + _judge(code, design, sums, found)
    if design.lanes.single:
        _move(code, found, member.shifts)
    return said


class _Sums:
    """What a program has gathered for a candidate, number by number in float64."""

    def __init__(self, code: Code, design: Design, member: Member) -> None:
        self._code = code
        self._design = design
        self._totals = member.totals
        self._references = member.references
        self.n_components = member.n_components

    def _fold(self, k: Value, place: Value | int) -> Value:
        array = self._totals.at(k * self._design.sums).at(place)
        return _lanes(self._code, array, self._design.lanes.count)

    def count(self, k: Value) -> Value:
        """N_k."""
        return self._fold(k, 0)

    def first(self, k: Value, i: Value) -> Value:
        """G_k that was gathered about the reference."""
        design = self._design
        if design.short_rows:
            return self._fold(k, i * design.lanes.count + design.first_offset)
        return self._totals.at(k * design.sums).read(i + design.first_offset)

    def second(self, k: Value, i: Value, j: Value) -> Value:
        """C_k that was gathered about the reference; j ≤ i, or j = i if it has a diagonal only."""
        design = self._design
        if design.short_rows:
            return self._fold(k, self._pair(i, j) * design.lanes.count + design.second_offset)
        place = i * design.padded + j if design.dense else i
        return self._totals.at(k * design.sums).read(place + design.second_offset)

    def shared_count(self, k: Value) -> Value:
        """Σ r of the rows that were gathered about c."""
        return self._fold(k, self._design.shared_offset)

    def shared_first(self, k: Value, i: Value) -> Value:
        """Σ r x_i of those rows."""
        design = self._design
        return self._product(k, i + design.n_second_products * design.lanes.count)

    def shared_second(self, k: Value, i: Value, j: Value) -> Value:
        """Σ r x_i x_j of those rows; j ≤ i."""
        design, d = self._design, self._design.n_features
        if not design.dense:
            return self._product(k, i)
        # The shorter way around the circle of features; see `products`.
        apart = i - j
        near, far = apart * design.padded + j, (self._code.integer(d) - apart) * design.padded + i
        short = self._code.compare(apart, "<=", d // 2)
        return self._product(k, self._code.select(short, near, far))

    def _product(self, k: Value, place: Value) -> Value:
        design = self._design
        start = design.shared_offset + design.lanes.count
        return self._totals.at(k * design.sums).read(place + start)

    def reference(self, k: Value, i: Value) -> Value:
        """c_k − c."""
        stored = self._references.read(k * self._design.padded + i)
        if not self._design.lanes.single:
            return stored
        return Value(self._code, self._code.builder.fpext(stored.raw, ir.DoubleType()))

    def shared(self) -> Value:
        """`SHARED` if any component has products, else 0."""
        code = self._code
        if not self._design.shares_products:
            return code.integer(0)

        def component(k: Value, found: Value) -> list[Value]:
            some = code.greater(self.shared_count(k), _number(code, 0.0))
            return [code.select(some, code.integer(SHARED), found)]

        return code.loop(self.n_components, component, carry=[code.integer(0)])[0]

    def _pair(self, i: Value, j: Value) -> Value:
        """Place in a triangle, row after row, or on a diagonal."""
        return ((i * (i + 1)) >> 1) + j if self._design.dense else i


class _Found:
    """The arrays of `SufficientStatistics.sums`."""

    def __init__(self, code: Code, design: Design, member: Member) -> None:
        k, d = member.n_components, design.n_features
        self._code = code
        self.form = design.form
        self.n_components = k
        self.n_features = d
        self.log_likelihood = member.output
        self.counts = self.log_likelihood.at(COUNTS_AT)
        self.first = self.counts.at(k)
        self.second = self.first.at(k * d)
        per_component = {"full": d * d, "diag": d, "spherical": 1}
        self.second_size = k * per_component[design.form] if design.form != "tied" else d * d

    def add_second(self, term: Callable[[Value, Value, Value], Value], *, fresh: bool) -> None:
        """Add to the form's C_k the terms (k, i, j) of its parts; to nothing if it is `fresh`.

        Only terms with j ≤ i are asked for, of forms with a diagonal only those with j = i.
        """
        code, n, d = self._code, self.n_components, self.n_features

        def before(place: Value) -> Value:
            return _number(code, 0.0) if fresh else self.second.read(place)

        def add_at(place: Value, value: Value) -> None:
            self.second.write(value if fresh else self.second.read(place) + value, place)

        def over_pairs(write: Callable[[Value, Value], None]) -> None:
            code.loop(d, lambda i: code.loop(i + 1, lambda j: write(i, j)))

        def dense(k: Value) -> None:
            def write(i: Value, j: Value) -> None:
                row, column = (k * d + i) * d + j, (k * d + j) * d + i
                add_at(row, term(k, i, j))
                self.second.write(self.second.read(row), column)

            over_pairs(write)

        def sum_of_components(i: Value, j: Value) -> None:
            row, column = i * d + j, j * d + i
            (total,) = code.loop(n, lambda k, t: [t + term(k, i, j)], carry=[before(row)])
            self.second.write(total, row)
            self.second.write(total, column)

        def diagonal(k: Value) -> None:
            code.loop(d, lambda i: add_at(k * d + i, term(k, i, i)))

        def trace(k: Value) -> None:
            (total,) = code.loop(d, lambda i, t: [t + term(k, i, i)], carry=[before(k)])
            self.second.write(total, k)

        if self.form == "tied":
            over_pairs(sum_of_components)
        else:
            code.loop(n, {"full": dense, "diag": diagonal, "spherical": trace}[self.form])


def _gather(code: Code, sums: _Sums, found: _Found, *, products: bool) -> None:
    """The moments about the references.

    Σ r x = f and Σ r x xᵀ = P about c are f + n s and P + s fᵀ + f sᵀ + n s sᵀ about c_k, with
    n = Σ r and s = c − c_k.
    """
    d = found.n_features
    zero = _number(code, 0.0)

    def component(k: Value) -> None:
        found.counts.write(sums.count(k), k)
        n = sums.shared_count(k) if products else None

        def feature(i: Value) -> None:
            total = sums.first(k, i)
            if n is not None:
                total = total + (sums.shared_first(k, i) - n * sums.reference(k, i))
            found.first.write(total, k * d + i)

        code.loop(d, feature)

    def second(k: Value, i: Value, j: Value) -> Value:
        total = sums.second(k, i, j)
        if not products:
            return total
        n, s, t = sums.shared_count(k), zero - sums.reference(k, i), zero - sums.reference(k, j)
        f, g = sums.shared_first(k, i), sums.shared_first(k, j)
        return total + (sums.shared_second(k, i, j) + (s * g + t * f + n * s * t))

    code.loop(found.n_components, component)
    found.add_second(second, fresh=True)


def _move(code: Code, found: _Found, shifts: Array) -> None:
    """The moments about points that lie `shifts` below."""
    d = found.n_features

    def second(k: Value, i: Value, j: Value) -> Value:
        n, s, t = found.counts.read(k), shifts.read(k * d + i), shifts.read(k * d + j)
        f, g = found.first.read(k * d + i), found.first.read(k * d + j)
        return s * g + t * f + n * s * t

    def component(k: Value) -> None:
        n = found.counts.read(k)

        def feature(i: Value) -> None:
            place = k * d + i
            found.first.write(found.first.read(place) + n * shifts.read(place), place)

        code.loop(d, feature)

    found.add_second(second, fresh=False)
    code.loop(found.n_components, component)


def _judge(code: Code, design: Design, sums: _Sums, found: _Found) -> Value:
    """Whether rounding may show in a component's width, or a second moment is not finite.

    It may where a variance is below some part of the mean square of the distances from the centre,
    or where the squares themselves were too small. (Then the sum of the distances is still there,
    but for a feature that is constant, of which nothing can be lost.) The covariances known before
    the step need not tell: a component can collapse in one step.
    """

    def narrow(count: Value, variance: Value, square: Value, of_mean: Value, said: Value) -> Value:
        """`said`, and what is to be said of a variance beside that mean square."""
        told = said
        for limit, bit in (
            (SMALLEST_SHARED_VARIANCE, NARROW_FOR_SHARED),
            (SMALLEST_SINGLE_VARIANCE, NARROW_FOR_SINGLE),
        ):
            below = code.greater(_number(code, limit) * square, variance)
            told = code.select(below, _with(code, told, bit), told)
        if design.lanes.single:
            moved = code.greater(of_mean, _number(code, 0.0))
            least = code.select(moved, _number(code, LEAST_SINGLE_VARIANCE), variance)
            below = code.greater(least, variance)
            told = code.select(below, _with(code, told, NARROW_FOR_SINGLE), told)
        return code.select(code.greater(_number(code, FEWEST_ROWS), count), said, told)

    judge = _judge_tied if design.form == "tied" else _judge_components
    said = judge(code, sums, found, narrow)

    def finite(place: Value, difference: Value) -> list[Value]:
        value = found.second.read(place)
        return [difference + (value - value)]  # NaN from an infinity on

    zero = _number(code, 0.0)
    (difference,) = code.loop(found.second_size, finite, carry=[zero])
    equal = Value(code, code.builder.fcmp_ordered("==", difference.raw, zero.raw))
    return code.select(equal, said, _with(code, said, NOT_FINITE))


def _judge_components(code: Code, sums: _Sums, found: _Found, narrow: Narrow) -> Value:
    d, form = found.n_features, found.form
    zero, features = _number(code, 0.0), _number(code, float(d))

    def component(k: Value, said: Value) -> list[Value]:
        count = found.counts.read(k)
        safe = code.maximum(count, _number(code, FEWEST_ROWS))

        def of_mean(i: Value) -> Value:
            shift = found.first.read(k * d + i) / safe
            return shift * shift

        if form == "spherical":
            (squares,) = code.loop(d, lambda i, total: [total + of_mean(i)], carry=[zero])
            scatter = found.second.read(k) / (features * safe)
            width = scatter - squares / features

        def feature(i: Value, said: Value) -> list[Value]:
            reference, mean = sums.reference(k, i), of_mean(i)
            if form == "spherical":
                square, variance = scatter, width
            else:
                place = (k * d + i) * d + i if form == "full" else k * d + i
                square = found.second.read(place) / safe
                variance = square - mean
            return [narrow(count, variance, reference * reference + square, mean, said)]

        return code.loop(d, feature, carry=[said])

    return code.loop(found.n_components, component, carry=[code.integer(0)])[0]


def _judge_tied(code: Code, sums: _Sums, found: _Found, narrow: Narrow) -> Value:
    n, d = found.n_components, found.n_features
    zero, fewest = _number(code, 0.0), _number(code, FEWEST_ROWS)
    (count,) = code.loop(n, lambda k, total: [total + found.counts.read(k)], carry=[zero])
    safe = code.maximum(count, fewest)

    def feature(i: Value, said: Value) -> list[Value]:
        def component(k: Value, of_means: Value, furthest: Value) -> list[Value]:
            first, reference = found.first.read(k * d + i), sums.reference(k, i)
            of_mean = first * first / code.maximum(found.counts.read(k), fewest)
            return [of_means + of_mean, code.maximum(reference * reference, furthest)]

        of_means, furthest = code.loop(n, component, carry=[zero, zero])
        square = found.second.read(i * d + i) / safe
        variance = square - of_means / safe
        return [narrow(count, variance, furthest + square, of_means, said)]

    return code.loop(d, feature, carry=[code.integer(0)])[0]


def _number(code: Code, x: float) -> Value:
    return Value(code, ir.Constant(ir.DoubleType(), x))


def _with(code: Code, said: Value, bit: int) -> Value:
    return Value(code, code.builder.or_(said.raw, I64(bit)))


def _lanes(code: Code, array: Array, count: int) -> Value:
    """The sum of `count` float64 numbers, by halves; a power of two."""
    total = array.vector(Lanes(False, count))
    while count > 1:
        count //= 2
        lanes = Lanes(False, count)
        lower = code.shuffled(lanes, total, None, range(count))
        total = lower + code.shuffled(lanes, total, None, range(count, 2 * count))
    return Value(code, code.builder.extract_element(total.raw, I32(0)))
