"""Moments of a tile where most components share most rows: one matrix product for all of them.

N_k, G_k and C_k about the centre c that the tile was loaded relative to are the products of the
responsibilities [K][t] with 1, x_i and x_i x_j of the rows, which are the same for all components.
That is fewer multiplications than component by component, where each has its own differences, and
where a triangle of vectors is wider than a triangle of numbers.

To fill vectors with products, features are taken as a circle: a row is followed by its own
beginning, so that the products of features at distance s, x_i x_{i+s}, are the product of two
stretches of it, D of them for each s up to D/2, and every pair is among them once (twice at D/2).
The row ends with ones, which makes x_i the product of two stretches as well. All are formed where
they are needed, in registers, and serve eight components.

The price is cancellation when the moments are moved from c to a component's mean, so a candidate
asks for this only if its components lie close to c (`packing.may_share`). A tile is taken so if
most responsibilities matter; both kinds of sums are brought together at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_gmm.mixture.kernels.compiled.design import GROUP

if TYPE_CHECKING:
    from dask_gmm.mixture.kernels.compiled.design import Design
    from dask_gmm.mixture.kernels.compiled.records import Block, Member
    from dask_gmm.mixture.kernels.compiled.vector import Code, Value

__all__ = ["add_products"]

WIDE = 3
"""Vectors of products that are summed together; two where they do not come out even."""


def add_products(code: Code, design: Design, block: Block, member: Member, end: Value) -> None:
    """Add rows 0 … `end` of the tile with the responsibilities in `joint`."""
    _add_counts(code, design, member, end)
    narrow = -design.n_products % WIDE  # blocks of two
    wide = design.n_products - 2 * narrow

    def batch(start: Value) -> None:
        left = end - start
        whole = code.compare(left, ">", design.product_rows)
        count = code.select(whole, code.integer(design.product_rows), left)

        def some(q: Value, abreast: int) -> None:
            _for_components(code, design, block, member, (start, count), (q, abreast))

        if wide > 0:
            code.loop(wide, lambda q: some(q, WIDE), step=WIDE)
        if wide < design.n_products:
            code.loop(design.n_products, lambda q: some(q, 2), start=max(wide, 0), step=2)

    code.loop(end, batch, step=design.product_rows)


def _add_counts(code: Code, design: Design, member: Member, end: Value) -> None:
    """N_k of the rows that are taken so."""
    lanes = design.lanes

    def component(k: Value) -> None:
        shares = member.joint.at(k * design.pitch)
        sums = member.sums.at(k * design.sums).at(design.shared_offset)
        total = code.loop(
            end,
            lambda t, sofar: [sofar + shares.vector(lanes, t)],
            step=lanes.count,
            carry=[sums.vector(lanes)],
        )
        sums.put(total[0])

    code.loop(member.n_components, component)


def _for_components(
    code: Code,
    design: Design,
    block: Block,
    member: Member,
    rows: tuple[Value, Value],
    products: tuple[Value, int],
) -> None:
    """Add some products of some rows to the sums of all components, as many at a time as fit."""
    n_components = member.n_components

    def add(k: Value, together: int) -> None:
        _add(code, design, block, member, rows, products, (k, together))

    if design.registers < 32:
        code.loop(n_components, lambda k: add(k, GROUP), step=GROUP)
        return
    pairs = ((n_components + (GROUP - 1)) // (2 * GROUP)) * (2 * GROUP)
    code.loop(pairs, lambda k: add(k, 2 * GROUP), step=2 * GROUP)
    code.when(code.compare(pairs, "<", n_components), lambda: add(pairs, GROUP))


def _add(
    code: Code,
    design: Design,
    block: Block,
    member: Member,
    rows: tuple[Value, Value],
    products: tuple[Value, int],
    components: tuple[Value, int],
) -> None:
    """Add vectors q … q + abreast of products to the sums of components k … k + together."""
    lanes, pitch = design.lanes, design.row_pitch
    (start, count), (q, abreast), (k, together) = rows, products, components
    x = block.x_rows.at(start * pitch)
    shares = member.joint.at(k * design.pitch + start)
    factors = [tuple(x.at(at) for at in _factors(code, design, q + c)) for c in range(abreast)]

    def row(u: Value, *totals: Value) -> list[Value]:
        line = u * pitch
        z = [a.vector(lanes, line) * b.vector(lanes, line) for a, b in factors]
        after = []
        for g in range(together):
            share = shares.spread(lanes, u + g * design.pitch)
            own = totals[g * abreast : (g + 1) * abreast]
            after += [code.fma(lanes, share, v, s) for v, s in zip(z, own, strict=True)]
        return after

    # From zero: what the sums were before is not waited for.
    zeros = [code.constant(lanes, 0.0)] * (together * abreast)
    found = code.loop(count, row, carry=zeros)
    first = design.shared_offset + lanes.count
    sums = member.sums.at(k * design.sums + q * lanes.count).at(first)
    for g in range(together):
        for c in range(abreast):
            place = g * design.sums + c * lanes.count
            sums.put(sums.vector(lanes, place) + found[g * abreast + c], place)


def _factors(code: Code, design: Design, q: Value) -> tuple[Value, Value]:
    """Where in a row the stretches begin whose product is vector `q`."""
    width = design.lanes.count
    across = design.padded // width
    distance = q // across
    i = (q - distance * across) * width
    linear = q - design.n_second_products
    ones = code.integer(design.ones_offset)
    is_linear = code.compare(linear, ">=", 0)
    first = code.select(is_linear, linear * width, i)
    return first, code.select(is_linear, ones, i + distance)
