"""Components that a row cannot belong to, ruled out before they cost much.

‖y‖² only grows as the panels of a whitening matrix are worked through, so constant_k minus what the
first panels gave is an upper bound of the log-density. Each row first gets the whole value of the
component with the highest bound; a component whose bound lies so far below that value that its
responsibility would count as zero (`differences.negligible`), and its density would vanish in the
rounding of the row's sum, keeps its bound. For the others the rows that it might own are brought
together and go through the remaining panels.

The sums that result have the same bits as without all this: what is kept is added up in the same
order, and what is left out adds nothing. Where components overlap so much that little is saved,
the next tiles go without.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from llvmlite import ir

from dask_gmm.mixture.kernels.compiled.load import transpose_listed
from dask_gmm.mixture.kernels.compiled.mstep import list_rows
from dask_gmm.mixture.kernels.compiled.vector import Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_gmm.mixture.kernels.compiled.design import Design
    from dask_gmm.mixture.kernels.compiled.records import Block, Member
    from dask_gmm.mixture.kernels.compiled.vector import Array, Code

    # (x, first panel's feature, end, squares so far of each vector) -> squares
    Squares = Callable[[Array, Value, int, int, list[Value]], list[Value]]

__all__ = ["log_joint_by_elimination"]

CUT = 60.0
"""Distance of log-densities from which one cannot be seen beside the other: e⁻⁶⁰ < 1e-24 / 100."""

CUT_SINGLE = 36.0
"""The same in float32 arithmetic: e⁻³⁶ < 1e-14."""

PAYS = 10, 4
"""It pays while at most 4/10 of the densities have to be completed."""

PAUSE = 24
"""Tiles that go without after one where it did not pay."""


def log_joint_by_elimination(
    code: Code,
    design: Design,
    block: Block,
    member: Member,
    end: Value,
    squares: Squares,
    in_full: Callable[[], None],
) -> None:
    """Fill `joint`, by elimination or `in_full`, whichever served the last tiles better."""
    step = _Elimination(code, design, block, member, end, squares)
    pause = member.pause
    many, part = PAYS

    def give_up() -> None:
        pause.write(code.integer(PAUSE))
        in_full()

    def attempt() -> None:
        step.bound_all()
        step.mark_most_likely()
        step.complete_marked()
        step.mark_possible()
        all_of_them = end * member.n_components
        too_many = code.compare(step.count_marked() * many, ">", all_of_them * part)
        code.when(too_many, give_up, finish)

    def finish() -> None:
        step.complete_marked()
        step.turn_into_densities()

    def wait() -> None:
        pause.write(pause.read() - 1)
        in_full()

    code.when(code.compare(pause.read(), ">", 0), wait, attempt)


class _Elimination:
    """The steps, each over all components. `joint` holds ‖y‖², of few panels or of all."""

    def __init__(
        self,
        code: Code,
        design: Design,
        block: Block,
        member: Member,
        end: Value,
        squares: Squares,
    ) -> None:
        self._code, self._design, self._block, self._end = code, design, block, end
        self._squares = squares
        self._n_components = member.n_components
        self._joint, self._constants = member.joint, member.constants
        self._masks, self._floor = member.masks, block.floor

    def bound_all(self) -> None:
        """Put every row of the tile through the first panels of every component."""
        code, design = self._code, self._design
        x, zero = self._block.x, code.constant(design.lanes, 0.0)

        def component(k: Value) -> None:
            def rows(t: Value) -> None:
                zeros = [zero] * design.abreast
                found = self._squares(x.at(t), k, 0, design.leading, zeros)
                for c, square in enumerate(found):
                    self._joint.put(square, k * design.pitch + t + c * design.lanes.count)

            code.loop(self._end, rows, step=design.step)

        code.loop(self._n_components, component)

    def mark_most_likely(self) -> None:
        """Mark, for each row, the component (or the equal ones) with the highest bound."""
        code, lanes, peak = self._code, self._design.lanes, self._block.peak
        lowest = code.constant(lanes, -math.inf)

        def highest_bound(t: Value) -> None:
            def component(k: Value, best: Value) -> list[Value]:
                return [code.maximum(self._bound(k, t), best)]

            peak.put(code.loop(self._n_components, component, carry=[lowest])[0], t)
            self._floor.put(lowest, t)

        def mark(k: Value, t: Value) -> None:
            bound, best = self._bound(k, t), peak.vector(lanes, t)
            array, place = self._mask(k, t)
            array.write(self._bits(code.builder.fcmp_ordered("==", bound.raw, best.raw)), place)

        code.loop(self._end, highest_bound, step=lanes.count)
        self._each(mark)

    def mark_possible(self) -> None:
        """Mark what is not ruled out by a row's floor, and not complete yet."""
        code, lanes = self._code, self._design.lanes
        cut = code.constant(lanes, CUT_SINGLE if lanes.single else CUT)

        def mark(k: Value, t: Value) -> None:
            bound, lowest = self._bound(k, t), self._floor.vector(lanes, t) - cut
            # Unordered: where a value is NaN, all are wanted, so that the row is found out.
            possible = self._bits(code.builder.fcmp_unordered(">=", bound.raw, lowest.raw))
            array, place = self._mask(k, t)
            array.write(possible - (possible & array.read(place)), place)

        self._each(mark)

    def count_marked(self) -> Value:
        """How many pairs of rows and components are marked."""
        code, words = self._code, self._n_components * self._design.mask_words
        masks = self._masks

        def word(w: Value, n: Value) -> list[Value]:
            return [n + code.bits_set(masks.read(w))]

        return code.loop(words, word, carry=[code.integer(0)])[0]

    def complete_marked(self) -> None:
        """Send what is marked through the remaining panels."""
        design = self._design

        def component(k: Value) -> None:
            own = self._joint.at(k * design.pitch)
            mask = self._masks.at(k * design.mask_words)
            of = own, mask, self._constants
            _complete(self._code, design, self._block, of, k, self._squares)

        self._code.loop(self._n_components, component)

    def turn_into_densities(self) -> None:
        """Make log-densities, or bounds that are as good, of the squares."""
        pitch = self._design.pitch
        self._each(lambda k, t: self._joint.put(self._bound(k, t), k * pitch + t))

    def _bound(self, k: Value, t: Value) -> Value:
        lanes = self._design.lanes
        squares = self._joint.vector(lanes, k * self._design.pitch + t)
        return self._constants.spread(lanes, k) - squares

    def _each(self, body: Callable[[Value, Value], None]) -> None:
        """`body` for every component and every vector of rows."""
        code, width = self._code, self._design.lanes.count

        def component(k: Value) -> None:
            code.loop(self._end, lambda t: body(k, t), step=width)

        code.loop(self._n_components, component)

    def _mask(self, k: Value, t: Value) -> tuple[Array, Value]:
        """Where the bits of a vector of rows are."""
        bits = self._design.lanes.mask_bits
        stride = self._design.mask_words * 64 // bits
        array = self._code.array(self._masks.raw, ir.IntType(bits))
        return array, k * stride + t // self._design.lanes.count

    def _bits(self, truths: Any) -> Value:
        lanes = self._design.lanes
        bits = self._code.builder.bitcast(truths, ir.IntType(lanes.count))
        if lanes.count < lanes.mask_bits:
            bits = self._code.builder.zext(bits, ir.IntType(lanes.mask_bits))
        return Value(self._code, bits)


def _complete(
    code: Code,
    design: Design,
    block: Block,
    of: tuple[Array, Array, Array],
    k: Value,
    squares: Squares,
) -> None:
    """Send the marked rows of component `k` through the remaining panels."""
    own, mask, constants = of
    lanes, active, partial = design.lanes, block.active, block.shares
    gathered, floor = block.gathered, block.floor
    n = list_rows(code, design, block, mask, own)
    end = ((n + (design.step - 1)) // design.step) * design.step
    last = code.integer(0)
    code.loop(end, lambda u: active.write(last, u), start=n)  # any row: what it gives is dropped
    transpose_listed(code, design, block.x_rows, gathered, active, end)

    def rows(u: Value) -> None:
        start = [partial.vector(lanes, u + c * lanes.count) for c in range(design.abreast)]
        whole = squares(gathered.at(u), k, design.leading, design.n_features, start)
        for c, s in enumerate(whole):
            partial.put(s, u + c * lanes.count)

    code.loop(end, rows, step=design.step)
    constant = constants.read(k)

    def row(u: Value) -> None:
        t, s = active.read(u), partial.read(u)
        own.write(s, t)
        floor.write(constant - s, t)

    code.loop(n, row)
