"""From the log-densities of a tile to responsibilities, log-densities of rows, or labels.

All of them begin with the largest log-density of each row. It is −inf only where every component's
is −inf or NaN, which is the whole check for rows that are no numbers: each function returns 1 if
there is one in the tile and 0 else, and leaves the peaks to be looked at.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from llvmlite import ir

from dask_gmm.mixture.kernels.compiled.elementary import exp, inverse_and_log, log, log_single
from dask_gmm.mixture.kernels.compiled.records import Member
from dask_gmm.mixture.kernels.compiled.vector import I64, Value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.mixture.kernels.compiled.design import Design
    from dask_gmm.mixture.kernels.compiled.records import Block
    from dask_gmm.mixture.kernels.compiled.vector import Array, Code, Lanes

__all__ = [
    "labels",
    "log_densities",
    "posteriors",
    "responsibilities",
]


def responsibilities(
    code: Code, design: Design, block: Block, member: Member, end: Value, *, kept: bool = False
) -> Value:
    """Turn `joint` into weighted responsibilities w_n r_nk; gather N_k and the log-likelihood.

    With `kept` the log-densities of the rows are written to the member's output, if it has one.
    """
    lanes, doubles, totals = design.lanes, design.lanes.doubles, member.log_likelihood
    bad = _peaks(code, design, block, member, end)
    _relative_densities(code, design, block, member, end)
    if kept:
        wanted = code.compare(member.word(Member.output), "!=", 0)
        code.when(wanted, lambda: _write_log_densities(code, design, block, member, end))

    def rows(t: Value, *gathered: Value) -> list[Value]:
        places = [t + c * lanes.count for c in range(design.abreast)]
        weights = [block.row_weights.vector(lanes, u) for u in places]
        sums = [block.row_sums.vector(lanes, u) for u in places]
        peaks = [block.peak.vector(lanes, u) for u in places]
        some = _Rows(block.row_sums, places, weights, sums, peaks)
        return code.when(
            _are_zero_or_one(code, lanes, weights),
            lambda: _by_product(code, lanes, some, gathered),
            lambda: _one_by_one(code, lanes, some, gathered),
        )

    places = range(0, lanes.count, doubles.count)
    start = [totals.vector(doubles, place) for place in places]
    gathered = code.loop(end, rows, step=design.step, carry=start)
    for place, vector in zip(places, gathered, strict=True):
        totals.put(vector, place)
    _share(code, design, block, member, end)
    return bad


class _Rows(NamedTuple):
    """Some vectors of rows: their weights w, the sums s of their densities, and their peaks p."""

    row_sums: Array
    places: list[Value]
    weights: list[Value]
    sums: list[Value]
    peaks: list[Value]


def _by_product(code: Code, lanes: Lanes, rows: _Rows, gathered: Sequence[Value]) -> list[Value]:
    """`gathered` plus Σ w (p + log s); w/s takes the place of s. For weights of 0 and 1.

    One logarithm does, that of the product of the sums that count.
    """
    doubles, one = lanes.doubles, code.constant(lanes, 1.0)
    product = one
    for u, w, s in zip(rows.places, rows.weights, rows.sums, strict=True):
        rows.row_sums.put(w / s, u)
        product = product * code.select(code.greater(w, code.constant(lanes, 0.5)), s, one)
    logarithms = [log(code, doubles, part) for part in code.to_doubles(lanes, product)]
    after = [g + part for g, part in zip(gathered, logarithms, strict=True)]
    for p, w in zip(rows.peaks, rows.weights, strict=True):
        parts = zip(code.to_doubles(lanes, p), code.to_doubles(lanes, w), after, strict=True)
        after = [code.fma(doubles, b, a, g) for a, b, g in parts]
    return after


def _one_by_one(code: Code, lanes: Lanes, rows: _Rows, gathered: Sequence[Value]) -> list[Value]:
    """As `_by_product`, for any weights."""
    after = list(gathered)
    for u, w, s, p in zip(rows.places, rows.weights, rows.sums, rows.peaks, strict=True):
        if lanes.single:
            scale, logarithm = w / s, log_single(code, lanes, s)
        else:
            inverse, logarithm = inverse_and_log(code, lanes, s)
            scale = w * inverse
        rows.row_sums.put(scale, u)
        parts = zip(*(code.to_doubles(lanes, v) for v in (w, p, logarithm)), after, strict=True)
        after = [code.fma(lanes.doubles, a, b + c, g) for a, b, c, g in parts]
    return after


def _are_zero_or_one(code: Code, lanes: Lanes, vectors: list[Value]) -> Value:
    """Whether all elements of some vectors are 0 or 1."""
    builder, bits = code.builder, ir.IntType(lanes.count)
    together = bits(-1)
    for v in vectors:
        same = builder.fcmp_ordered("==", v.raw, (v * v).raw)
        together = builder.and_(together, builder.bitcast(same, bits))
    return Value(code, builder.icmp_signed("==", together, bits(-1)))


def _share(code: Code, design: Design, block: Block, member: Member, end: Value) -> None:
    """Scale the densities to responsibilities; note which matter, and add up N_k.

    What counts as nothing is a part of an average row, whatever the row weighs: it is the sums over
    all rows that must not miss it.
    """
    lanes, scale = design.lanes, block.row_sums
    zero = code.constant(lanes, 0.0)
    mask_type = ir.IntType(lanes.mask_bits)
    masks = code.array(member.masks.raw, mask_type)
    mask_stride = design.mask_words * 64 // lanes.mask_bits

    def component(k: Value) -> None:
        joint = member.joint.at(k * design.pitch)
        count = member.sums.at(k * design.sums)
        mask = masks.at(k * mask_stride)
        threshold = member.thresholds.spread(lanes, k)

        def rows(t: Value, count: Value) -> list[Value]:
            share = joint.vector(lanes, t) * scale.vector(lanes, t)
            matters = code.greater(share, threshold)
            share = code.select(matters, share, zero)
            joint.put(share, t)
            if not design.short_rows:
                bits = code.builder.bitcast(matters.raw, ir.IntType(lanes.count))
                if lanes.count < lanes.mask_bits:
                    bits = code.builder.zext(bits, mask_type)
                mask.write(Value(code, bits), t // lanes.count)
            return [count + share]

        start = [count.vector(lanes)]
        count.put(code.loop(end, rows, step=lanes.count, carry=start)[0])

    code.loop(member.n_components, component)


def log_densities(code: Code, design: Design, block: Block, member: Member, end: Value) -> Value:
    """Write log Σ_k exp(joint) of each row to the output."""
    bad = _peaks(code, design, block, member, end)
    _relative_densities(code, design, block, member, end)
    _write_log_densities(code, design, block, member, end)
    return bad


def _write_log_densities(
    code: Code, design: Design, block: Block, member: Member, end: Value
) -> None:
    """Write a row's largest log-density, plus that of the sum relative to it."""
    lanes, peak_of, row_sums = design.lanes, block.peak, block.row_sums
    output = code.array(member.output.at(block.start).raw, ir.DoubleType())
    doubles = lanes.doubles

    def row(t: Value) -> None:
        peaks = code.to_doubles(lanes, peak_of.vector(lanes, t))
        totals = code.to_doubles(lanes, row_sums.vector(lanes, t))
        for i, (p, s) in enumerate(zip(peaks, totals, strict=True)):
            output.put(p + log(code, doubles, s), t + i * doubles.count)

    code.loop(end, row, step=lanes.count)


def posteriors(code: Code, design: Design, block: Block, member: Member, end: Value) -> Value:
    """Write the responsibilities of each row to the output, (n, K)."""
    lanes, joint, row_sums = design.lanes, member.joint, block.row_sums
    n_components = member.n_components
    bad = _peaks(code, design, block, member, end)
    _relative_densities(code, design, block, member, end)
    output = member.output.at(block.start * n_components)
    # What `exp` gives for −∞ is not 0, but no more than this.
    nothing = 1e-37 if lanes.single else 1e-300
    zero, one = (Value(code, ir.Constant(lanes.element, x)) for x in (0.0, 1.0))

    def row(t: Value) -> None:
        line, scale = output.at(t * n_components), one / row_sums.read(t)

        def component(k: Value) -> None:
            share = joint.read(k * design.pitch + t) * scale
            some = code.greater(share, Value(code, ir.Constant(lanes.element, nothing)))
            share = code.select(some, share, zero)
            if lanes.single:
                share = Value(code, code.builder.fpext(share.raw, ir.DoubleType()))
            line.write(share, k)

        code.loop(n_components, component)

    code.loop(block.count, row)
    return bad


def labels(code: Code, design: Design, block: Block, member: Member, end: Value) -> Value:
    """Write the most probable component of each row to the output; the lowest of equals."""
    lanes, joint, columns = design.lanes, member.joint, range(design.abreast)
    output = code.array(member.output.at(block.start).raw, I64)
    element = lanes.integers.element

    def rows(t: Value) -> None:
        def component(k: Value, *best: Value) -> list[Value]:
            number = code.builder.trunc(k.raw, element) if lanes.single else k.raw
            nothing = ir.Constant(lanes.integers, ir.Undefined)
            first = code.builder.insert_element(nothing, number, ir.IntType(32)(0))
            index = code.shuffled(lanes, Value(code, first), None, [0] * lanes.count)
            after = []
            for c in columns:
                value = joint.vector(lanes, k * design.pitch + t + c * lanes.count)
                better = code.greater(value, best[2 * c])
                after.append(code.select(better, value, best[2 * c]))
                after.append(code.select(better, index, best[2 * c + 1]))
            return after

        start = [code.constant(lanes, -math.inf), code.whole(lanes, 0)] * len(columns)
        best = code.loop(member.n_components, component, carry=start)
        for c in columns:
            index = best[2 * c + 1].raw
            if lanes.single:
                index = code.builder.zext(index, ir.VectorType(I64, lanes.count))
            output.put(Value(code, index), t + c * lanes.count)

    code.loop(end, rows, step=design.step)
    return _peaks(code, design, block, member, end)


def _peaks(code: Code, design: Design, block: Block, member: Member, end: Value) -> Value:
    """Find each row's largest log-density; whether one is no number."""
    lanes, joint, peak_of = design.lanes, member.joint, block.peak
    columns = range(design.abreast)
    lowest = code.constant(lanes, -math.inf)

    def rows(t: Value, worst: Value) -> list[Value]:
        def component(k: Value, *peaks: Value) -> list[Value]:
            values = (joint.vector(lanes, k * design.pitch + t + c * lanes.count) for c in columns)
            return [code.maximum(v, p) for v, p in zip(values, peaks, strict=True)]

        n_components = member.n_components
        peaks = code.loop(n_components, component, carry=[lowest] * len(columns))
        for c, peak in enumerate(peaks):
            peak_of.put(peak, t + c * lanes.count)
            worst = code.select(code.greater(worst, peak), peak, worst)
        return [worst]

    top = code.constant(lanes, 0.0)
    (worst,) = code.loop(end, rows, step=design.step, carry=[top])
    builder = code.builder
    truths = builder.fcmp_ordered("==", worst.raw, lowest.raw)
    bits = builder.bitcast(truths, ir.IntType(lanes.count))
    return Value(code, builder.zext(bits, I64) if lanes.count < 64 else bits)


def _relative_densities(
    code: Code, design: Design, block: Block, member: Member, end: Value
) -> None:
    """Replace log-densities by densities relative to the row's largest; add them up by row."""
    lanes, numbers = design.lanes, block.numbers
    peak_of, row_sums = block.peak, block.row_sums
    zero = code.constant(lanes, 0.0)
    code.loop(end, lambda t: row_sums.put(zero, t), step=lanes.count)

    def component(k: Value) -> None:
        joint = member.joint.at(k * design.pitch)

        def rows(t: Value) -> None:
            places = [t + c * lanes.count for c in range(design.abreast)]
            below = [joint.vector(lanes, u) - peak_of.vector(lanes, u) for u in places]
            for u, density in zip(places, exp(code, lanes, below, numbers), strict=True):
                joint.put(density, u)
                row_sums.put(row_sums.vector(lanes, u) + density, u)

        code.loop(end, rows, step=design.step)

    code.loop(member.n_components, component)
