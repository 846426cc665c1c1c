"""From the log-densities of a tile to responsibilities, log-densities of rows, or labels.

All of them begin with the largest log-density of each row. It is −inf only where every component's
is −inf or NaN, which is the whole check for rows that are no numbers: each function returns 1 if
there is one in the tile and 0 else, and leaves the peaks to be looked at.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llvmlite import ir

from dask_gmm.mixture.kernels.compiled.elementary import exp, log
from dask_gmm.mixture.kernels.compiled.vector import I64, Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_gmm.mixture.kernels.compiled.design import Design
    from dask_gmm.mixture.kernels.compiled.program import Block, Member
    from dask_gmm.mixture.kernels.compiled.vector import Array, Code

__all__ = [
    "NEGLIGIBLE",
    "NEGLIGIBLE_SINGLE",
    "labels",
    "log_densities",
    "posteriors",
    "responsibilities",
]

NEGLIGIBLE = 1e-30
"""Responsibilities below this count as zero. A row's own rounding, 1e-16, is so much larger that
they could not be seen in any sum that is."""

NEGLIGIBLE_SINGLE = 1e-14
"""The same for float32 arithmetic, whose rounding is 6e-8."""


def responsibilities(code: Code, design: Design, block: Block, member: Member, end: Value) -> Value:
    """Turn `joint` into weighted responsibilities w_n r_nk; gather N_k and the log-likelihood."""
    lanes, tile, n_components = design.lanes, design.tile, member.integer("n_components")
    joint, sums, masks = member.array("joint"), member.array("sums"), member.array("masks")
    weights, totals = block.array("row_weights"), member.array("log_likelihood")
    doubles = lanes.doubles
    zero = code.constant(lanes, 0.0)
    threshold = code.constant(lanes, NEGLIGIBLE_SINGLE if lanes.single else NEGLIGIBLE)
    mask_type = ir.IntType(lanes.mask_bits)
    mask_stride = design.mask_words * 64 // lanes.mask_bits

    def rows(t: Value, peaks: list[Value], gathered: list[Value]) -> list[Value]:
        total = _relative_densities(code, design, joint.at(t), n_components, peaks)
        given = [weights.vector(lanes, t + c * lanes.count) for c in range(len(peaks))]
        scale = [w / s for w, s in zip(given, total, strict=True)]

        def component(k: Value) -> None:
            count = sums.vector(lanes, k * design.sums)
            for c, factor in enumerate(scale):
                where = k * tile + t + c * lanes.count
                share = joint.vector(lanes, where) * factor
                matters = code.greater(share, threshold)
                share = code.select(matters, share, zero)
                joint.put(share, where)
                count = count + share
                if not design.short_rows:
                    bits = code.builder.bitcast(matters.raw, ir.IntType(lanes.count))
                    if lanes.count < lanes.mask_bits:
                        bits = code.builder.zext(bits, mask_type)
                    place = k * mask_stride + t // lanes.count + c
                    code.array(masks.raw, mask_type).write(Value(code, bits), place)
            sums.put(count, k * design.sums)

        code.loop(n_components, component)
        for peak, weight, s in zip(peaks, given, total, strict=True):
            parts = (code.to_doubles(lanes, v) for v in (peak, weight, s))
            for i, (p, w, sum_) in enumerate(zip(*parts, strict=True)):
                found = p + log(code, doubles, sum_)
                gathered[i] = gathered[i] + w * found
        return gathered

    start = [totals.vector(doubles, i * doubles.count) for i in range(lanes.count // doubles.count)]
    bad, gathered = _over_rows(code, design, block, member, end, rows, start)
    for i, vector in enumerate(gathered):
        totals.put(vector, i * doubles.count)
    return bad


def log_densities(code: Code, design: Design, block: Block, member: Member, end: Value) -> Value:
    """Write log Σ_k exp(joint) of each row to the output."""
    lanes, joint = design.lanes, member.array("joint")
    output = code.array(member.array("output").at(block.start).raw, ir.DoubleType())
    doubles = lanes.doubles

    def rows(t: Value, peaks: list[Value], gathered: list[Value]) -> list[Value]:
        total = _relative_densities(
            code, design, joint.at(t), member.integer("n_components"), peaks
        )
        for c, (peak, s) in enumerate(zip(peaks, total, strict=True)):
            pairs = zip(code.to_doubles(lanes, peak), code.to_doubles(lanes, s), strict=True)
            for i, (p, sum_) in enumerate(pairs):
                found = p + log(code, doubles, sum_)
                output.put(found, t + c * lanes.count + i * doubles.count)
        return gathered

    return _over_rows(code, design, block, member, end, rows, [])[0]


def posteriors(code: Code, design: Design, block: Block, member: Member, end: Value) -> Value:
    """Write the responsibilities of each row to the output, (n, K)."""
    lanes, joint = design.lanes, member.array("joint")
    n_components = member.integer("n_components")

    def rows(t: Value, peaks: list[Value], gathered: list[Value]) -> list[Value]:
        total = _relative_densities(code, design, joint.at(t), n_components, peaks)
        one = code.constant(lanes, 1.0)
        scale = [one / s for s in total]

        def component(k: Value) -> None:
            for c, factor in enumerate(scale):
                where = k * design.tile + t + c * lanes.count
                joint.put(joint.vector(lanes, where) * factor, where)

        code.loop(n_components, component)
        return gathered

    bad, _ = _over_rows(code, design, block, member, end, rows, [])
    output = member.array("output").at(block.start * n_components)

    def row(t: Value) -> None:
        line = output.at(t * n_components)

        def component(k: Value) -> None:
            share = joint.read(k * design.tile + t).raw
            if lanes.single:
                share = code.builder.fpext(share, ir.DoubleType())
            line.write(Value(code, share), k)

        code.loop(n_components, component)

    code.loop(block.count, row)
    return bad


def labels(code: Code, design: Design, block: Block, member: Member, end: Value) -> Value:
    """Write the most probable component of each row to the output; the lowest of equals."""
    lanes, joint, columns = design.lanes, member.array("joint"), range(design.abreast)
    output = code.array(member.array("output").at(block.start).raw, I64)
    element = lanes.integers.element

    def rows(t: Value, _: list[Value], gathered: list[Value]) -> list[Value]:
        def component(k: Value, *best: Value) -> list[Value]:
            number = code.builder.trunc(k.raw, element) if lanes.single else k.raw
            nothing = ir.Constant(lanes.integers, ir.Undefined)
            first = code.builder.insert_element(nothing, number, ir.IntType(32)(0))
            index = code.shuffled(lanes, Value(code, first), None, [0] * lanes.count)
            after = []
            for c in columns:
                value = joint.vector(lanes, k * design.tile + t + c * lanes.count)
                better = code.greater(value, best[2 * c])
                after.append(code.select(better, value, best[2 * c]))
                after.append(code.select(better, index, best[2 * c + 1]))
            return after

        start = [code.constant(lanes, -math.inf), code.whole(lanes, 0)] * len(columns)
        best = code.loop(member.integer("n_components"), component, carry=start)
        for c in columns:
            index = best[2 * c + 1].raw
            if lanes.single:
                index = code.builder.zext(index, ir.VectorType(I64, lanes.count))
            output.put(Value(code, index), t + c * lanes.count)
        return gathered

    return _over_rows(code, design, block, member, end, rows, [])[0]


def _over_rows(
    code: Code,
    design: Design,
    block: Block,
    member: Member,
    end: Value,
    body: Callable[[Value, list[Value], list[Value]], list[Value]],
    gathered: list[Value],
) -> tuple[Value, list[Value]]:
    """Run `body` with the peaks of each stretch of rows; whether a peak is no number."""
    lanes, joint, peak_of = design.lanes, member.array("joint"), block.array("peak")
    columns = range(design.abreast)
    lowest = code.constant(lanes, -math.inf)

    def rows(t: Value, worst: Value, *gathered: Value) -> list[Value]:
        def component(k: Value, *peaks: Value) -> list[Value]:
            values = (joint.vector(lanes, k * design.tile + t + c * lanes.count) for c in columns)
            return [code.maximum(v, p) for v, p in zip(values, peaks, strict=True)]

        n_components = member.integer("n_components")
        peaks = code.loop(n_components, component, carry=[lowest] * len(columns))
        for c, peak in enumerate(peaks):
            peak_of.put(peak, t + c * lanes.count)
            worst = code.select(code.greater(worst, peak), peak, worst)
        return [worst, *body(t, peaks, list(gathered))]

    top = code.constant(lanes, 0.0)
    worst, *results = code.loop(end, rows, step=design.step, carry=[top, *gathered])
    builder = code.builder
    truths = builder.fcmp_ordered("==", worst.raw, lowest.raw)
    bits = builder.bitcast(truths, ir.IntType(lanes.count))
    return Value(code, builder.zext(bits, I64) if lanes.count < 64 else bits), results


def _relative_densities(
    code: Code, design: Design, joint: Array, n_components: Value, peaks: list[Value]
) -> list[Value]:
    """Replace log-densities by densities relative to the row's largest; their sums."""
    lanes = design.lanes

    def component(k: Value, *totals: Value) -> list[Value]:
        after = []
        for c, (peak, total) in enumerate(zip(peaks, totals, strict=True)):
            where = k * design.tile + c * lanes.count
            density = exp(code, lanes, joint.vector(lanes, where) - peak)
            joint.put(density, where)
            after.append(total + density)
        return after

    zeros = [code.constant(lanes, 0.0)] * len(peaks)
    return code.loop(n_components, component, carry=zeros)
