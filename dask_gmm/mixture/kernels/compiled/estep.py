"""log π_k N(x_n|μ_k, Σ_k) of a tile, [K][pitch].

With z = x − c, m = μ_k − c and Uᵀ the whitening matrix, all scaled by √½ so that no factor ½ is
left: log-density = constant_k − ‖y‖², y = Uᵀz − Uᵀm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dask_gmm.mixture.kernels.compiled.design import GROUP
from dask_gmm.mixture.kernels.compiled.eliminate import log_joint_by_elimination

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_gmm.mixture.kernels.compiled.design import Design
    from dask_gmm.mixture.kernels.compiled.records import Block, Member
    from dask_gmm.mixture.kernels.compiled.vector import Array, Code, Value

__all__ = ["log_joint", "log_joint_in_full"]

UNROLLED = 16
"""Features up to which the panels of a whitening matrix are written out one by one."""


def log_joint(
    code: Code, design: Design, block: Block, member: Member, end: Value, in_full: Any
) -> None:
    """Write the log-densities of rows 0 … `end` of the tile into the member's `joint`.

    `in_full` is the function of the module that does so without ruling out components.
    """

    def all_of_them() -> None:
        code.call(in_full, block.record, member.record, block.start, block.count)

    if not design.eliminates:
        all_of_them()
        return

    def squares(x: Array, k: Value, begin: int, stop: int, totals: list[Value]) -> list[Value]:
        return _squares(code, design, member, x, k, totals, begin, stop)

    log_joint_by_elimination(code, design, block, member, end, squares, all_of_them)


def log_joint_in_full(code: Code, design: Design, block: Block, member: Member, end: Value) -> None:
    """Write all log-densities, computed to the end."""
    if design.form == "full":
        _by_component(code, design, block, member, end)
    elif design.form == "tied":
        _whiten_tile(code, design, block, member, end)
        _by_groups(code, design, block.white, member, end)
    else:
        _by_groups(code, design, block.x, member, end)


def _by_component(code: Code, design: Design, block: Block, member: Member, end: Value) -> None:
    """Full covariances: one triangular product per component."""
    lanes, x = design.lanes, block.x

    def component(k: Value) -> None:
        joint = member.joint.at(k * design.pitch)
        constant = member.constants.spread(lanes, k)

        def rows(t: Value) -> None:
            zeros = [code.constant(lanes, 0.0)] * design.abreast
            found = _squares(code, design, member, x.at(t), k, zeros, 0, design.n_features)
            for c, square in enumerate(found):
                joint.put(constant - square, t + c * lanes.count)

        code.loop(end, rows, step=design.step)

    code.loop(member.n_components, component)


def _squares(
    code: Code,
    design: Design,
    member: Member,
    x: Array,
    k: Value,
    totals: list[Value],
    begin: int,
    stop: int,
) -> list[Value]:
    """Add the squares of the features `begin` … `stop` of y of some rows to `totals`."""
    lanes = design.lanes
    factor = member.factors.at(k * design.component_factors)
    bias = member.biases.at(k * design.n_features)

    def add(_: Value | int, y: list[list[Value]], totals: list[Value]) -> list[Value]:
        for line in y:
            totals = [code.fma(lanes, v, v, s) for v, s in zip(line, totals, strict=True)]
        return totals

    return _whitened(code, design, x, (factor, bias), add, totals, begin, stop)


def _whiten_tile(code: Code, design: Design, block: Block, member: Member, end: Value) -> None:
    """Tied covariances: √½ Uᵀz of the whole tile, once for all components."""
    lanes, x, white = design.lanes, block.x, block.white

    def rows(t: Value) -> None:
        def keep(i: Value | int, y: list[list[Value]], totals: list[Value]) -> list[Value]:
            for r, line in enumerate(y):
                for c, v in enumerate(line):
                    white.put(v, (t + r * design.pitch + c * lanes.count) + i * design.pitch)
            return totals

        packed = (member.factors, None)
        _whitened(code, design, x.at(t), packed, keep, [], 0, design.n_features)

    code.loop(end, rows, step=design.step)


def _whitened(
    code: Code,
    design: Design,
    x: Array,
    packed: tuple[Array, Array | None],
    consume: Callable[[Value | int, list[list[Value]], list[Value]], list[Value]],
    totals: list[Value],
    begin: int,
    stop: int,
) -> list[Value]:
    """Compute y = Uᵀz + bias panel by panel and let `consume` carry totals over the panels.

    `begin` is the first feature of a panel; the panels go up to feature `stop`.
    """
    factor, bias = packed
    n = design.panel

    def panel(
        first: Value | int, rows: int, place: Value | int, totals: list[Value]
    ) -> list[Value]:
        own = None if bias is None else bias.at(first)
        y = _panel(code, design, x, factor.at(place), own, first, rows)
        return consume(first, y, totals)

    place = sum((i + n) * n for i in range(0, begin, n))
    if stop <= UNROLLED:
        for first in range(begin, stop, n):
            rows = min(n, stop - first)
            totals = panel(first, rows, place, totals)
            place += (first + rows) * rows
        return totals

    def one(first: Value, place: Value, *totals: Value) -> list[Value]:
        after = panel(first, n, place, list(totals))
        return [place + (first + n) * n, *after]

    whole = stop // n * n
    start = [code.integer(place), *totals]
    place_after, *totals = code.loop(whole, one, start=begin, step=n, carry=start)
    return panel(whole, stop - whole, place_after, totals) if whole < stop else totals


def _panel(
    code: Code,
    design: Design,
    x: Array,
    factor: Array,
    bias: Array | None,
    first: Value | int,
    n: int,
) -> list[list[Value]]:
    """`n` rows of a lower-triangular product from row `first` on: [n][abreast] vectors.

    The packed factor holds the panel column by column, n numbers each, up to its diagonal.
    """
    lanes, columns = design.lanes, range(design.abreast)
    zero = code.constant(lanes, 0.0)
    start = [zero if bias is None else bias.spread(lanes, r) for r in range(n)]

    def column(j: Value | int, *sums: Value) -> list[Value]:
        z = [x.vector(lanes, j * design.pitch + c * lanes.count) for c in columns]
        after = []
        for r in range(n):
            u = factor.spread(lanes, j * n + r)
            after += [code.fma(lanes, u, z[c], sums[r * len(z) + c]) for c in columns]
        return after

    sums = [s for s in start for _ in columns]
    if not isinstance(first, int) or first > 0:
        sums = code.loop(first, column, carry=sums)
    corner, below = x.at(first * design.pitch), factor.at(first * n)
    for j in range(n):
        z = [corner.vector(lanes, j * design.pitch + c * lanes.count) for c in columns]
        for r in range(j, n):
            u = below.spread(lanes, j * n + r)
            for c in columns:
                sums[r * len(z) + c] = code.fma(lanes, u, z[c], sums[r * len(z) + c])
    return [sums[r * len(columns) : (r + 1) * len(columns)] for r in range(n)]


def _by_groups(code: Code, design: Design, x: Array, member: Member, end: Value) -> None:
    """Diagonal factors (or none, when the rows are white already), some components at a time.

    The packed parameters hold, for each group and each feature, the factors of the group and
    then its biases; only the biases if the rows are white.
    """
    lanes, columns, group = design.lanes, range(design.abreast), range(GROUP)
    white = design.form == "tied"
    packed, size = member.biases, GROUP if white else 2 * GROUP
    joint, constants = member.joint, member.constants

    def components(k: Value) -> None:
        numbers = packed.at((k // GROUP) * (design.n_features * size))

        def rows(t: Value) -> None:
            def feature(j: Value, *squares: Value) -> list[Value]:
                z = [x.vector(lanes, j * design.pitch + t + c * lanes.count) for c in columns]
                after = []
                for g in group:
                    bias = numbers.spread(lanes, j * size + (size - GROUP + g))
                    factor = None if white else numbers.spread(lanes, j * size + g)
                    for c in columns:
                        y = z[c] + bias if factor is None else code.fma(lanes, factor, z[c], bias)
                        after.append(code.fma(lanes, y, y, squares[g * len(z) + c]))
                return after

            zeros = [code.constant(lanes, 0.0)] * (GROUP * design.abreast)
            squares = code.loop(design.n_features, feature, carry=zeros)
            for g in group:
                constant = constants.spread(lanes, k + g)
                for c in columns:
                    value = constant - squares[g * len(columns) + c]
                    joint.put(value, (k + g) * design.pitch + t + c * lanes.count)

        code.loop(end, rows, step=design.step)

    code.loop(member.n_components, components, step=GROUP)
