"""Moments of a tile where most components share most rows: one matrix product for all of them.

N_k, G_k and C_k about the centre c that the tile was loaded relative to are the products of the
responsibilities [K][t] with the features 1, x_i and x_i x_j of the rows, which are the same for
all components. That is fewer multiplications than component by component, where each has its own
differences, and where a triangle of vectors is wider than a triangle of numbers.

The price is cancellation when the moments are moved from c to a component's mean, so a candidate
asks for this only if its components lie close to c (`packing.may_share`). A tile is taken so if
most responsibilities matter; both kinds of sums are brought together at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_gmm.mixture.kernels.compiled.design import GROUP

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_gmm.mixture.kernels.compiled.design import Design
    from dask_gmm.mixture.kernels.compiled.program import Block, Member
    from dask_gmm.mixture.kernels.compiled.vector import Array, Code, Value

__all__ = ["add_products"]


def add_products(code: Code, design: Design, block: Block, member: Member, end: Value) -> None:
    """Add rows 0 … `end` of the tile with the responsibilities in `joint`, some at a time."""

    def batch(start: Value) -> None:
        left = end - start
        whole = code.compare(left, ">", design.product_rows)
        count = code.select(whole, code.integer(design.product_rows), left)
        _lay_out_shares(code, design, member, start, count)
        _multiply_features(code, design, block, start, count)
        _add_product(code, design, block, member, count)

    code.loop(end, batch, step=design.product_rows)


def _lay_out_shares(code: Code, design: Design, member: Member, start: Value, count: Value) -> None:
    """Responsibilities as [groups of components][vectors of rows][GROUP], read in that order."""
    lanes, packed, joint = design.lanes, member.array("packed_shares"), member.array("joint")

    def component(k: Value) -> None:
        own = joint.at(k * design.tile + start)
        group = packed.at((k // GROUP) * (GROUP * design.product_rows))
        place = group.at((k & (GROUP - 1)) * lanes.count)

        _copy(code, design, count, lambda t: own.vector(lanes, t), place, GROUP)

    code.loop(member.integer("n_components"), component)


def _multiply_features(
    code: Code, design: Design, block: Block, start: Value, count: Value
) -> None:
    """1, x_i and x_i x_j, j ≤ i (for variances j = i): [groups][vectors of rows][products]."""
    lanes, abreast = design.lanes, design.products_abreast
    x, products = block.array("x").at(start), block.array("products")

    def place(f: Value | int) -> Array:
        if isinstance(f, int):
            f = code.integer(f)
        group = f // abreast
        within = f - group * abreast
        return products.at(group * (abreast * design.product_rows)).at(within * lanes.count)

    def write(of: Callable[[Value], Value], f: Value | int) -> None:
        _copy(code, design, count, of, place(f), abreast)

    one = code.constant(lanes, 1.0)
    write(lambda _: one, 0)

    def row(i: Value, f: Value) -> list[Value]:
        own = x.at(i * design.tile)
        write(lambda t: own.vector(lanes, t), i + 1)

        def pair(j: Value, f: Value) -> list[Value]:
            other = x.at(j * design.tile)
            write(lambda t: own.vector(lanes, t) * other.vector(lanes, t), f)
            return [f + 1]

        return code.loop(i + 1, pair, start=0 if design.dense else i, carry=[f])

    code.loop(design.n_features, row, carry=[code.integer(design.n_features + 1)])


def _copy(
    code: Code,
    design: Design,
    count: Value,
    of: Callable[[Value], Value],
    place: Array,
    apart: int,
) -> None:
    """Write a vector for each vector of rows, `apart` vectors from one to the next."""
    width = design.lanes.count

    def rows(t: Value) -> None:
        for u in range(0, design.step, width):
            place.put(of(t + u), t * apart + u * apart)

    code.loop(count, rows, step=design.step)


def _add_product(code: Code, design: Design, block: Block, member: Member, count: Value) -> None:
    """Add shares × products, a block of registers of lanes after the other."""
    lanes, abreast = design.lanes, design.products_abreast
    shares, products = member.array("packed_shares"), block.array("products")
    sums = member.array("sums").at(design.shared_offset)
    n_groups = (member.integer("n_components") + (GROUP - 1)) // GROUP
    length = design.product_rows

    def features(f: Value) -> None:
        p = products.at(f * length)

        def components(g: Value) -> None:
            r = shares.at(g * (GROUP * length))
            corner = sums.at(g * (GROUP * design.sums) + f * lanes.count)
            places = [
                k * design.sums + c * lanes.count for k in range(GROUP) for c in range(abreast)
            ]

            def rows(t: Value, *totals: Value) -> list[Value]:
                z = [p.vector(lanes, t * abreast + c * lanes.count) for c in range(abreast)]
                after = []
                for k in range(GROUP):
                    share = r.vector(lanes, t * GROUP + k * lanes.count)
                    own = totals[k * abreast : (k + 1) * abreast]
                    after += [code.fma(lanes, share, v, s) for v, s in zip(z, own, strict=True)]
                return after

            start = [corner.vector(lanes, place) for place in places]
            ended = code.loop(count, rows, step=lanes.count, carry=start)
            for place, total in zip(places, ended, strict=True):
                corner.put(total, place)

        code.loop(n_groups, components)

    code.loop(design.n_products, features, step=abreast)
