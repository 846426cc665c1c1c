"""Moments of a tile about the references: G_k += Σ r d and C_k += Σ r d dᵀ, d = x − c_k.

Short rows: the sums of one component stay in registers while a whole tile passes, as lanes that
are added up at the very end. Longer rows: the rows that a component is responsible for are listed,
their differences packed side by side, and C_k takes them as a symmetric product in blocks of
registers, lower triangle only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_gmm.mixture.kernels.compiled.products import add_products
from dask_gmm.mixture.kernels.compiled.vector import I64, Value

if TYPE_CHECKING:
    from dask_gmm.mixture.kernels.compiled.design import Design
    from dask_gmm.mixture.kernels.compiled.records import Block, Member
    from dask_gmm.mixture.kernels.compiled.vector import Array, Code

__all__ = ["add_moments", "flush", "list_rows"]

CROWDED = 10, 6
"""A component that is responsible for more than 6/10 of a tile's rows takes all of them."""

FEATURES_ABREAST = 4
"""Vectors of features whose differences are formed together."""


SHARED = 10, 7
"""Products of features are shared where more than 7/10 of the responsibilities matter."""


def add_moments(code: Code, design: Design, block: Block, member: Member, end: Value) -> None:
    """Add a tile with the responsibilities in `joint` to the member's sums."""

    def by_component() -> None:
        _by_component(code, design, block, member, end)

    def together() -> None:
        add_products(code, design, block, member, end)

    if not design.shares_products:
        by_component()
        return
    allowed = code.compare(member.sharing, "!=", 0)

    def by_density() -> None:
        masks = code.array(member.masks.raw, I64)
        n_components = member.n_components
        matter = _bits_set(code, masks, n_components * design.mask_words)
        many, part = SHARED
        dense = code.compare(matter * many, ">", end * n_components * part)
        code.when(dense, together, by_component)

    code.when(allowed, by_density, by_component)


def _bits_set(code: Code, mask: Array, words: Value | int) -> Value:
    """How many bits are set in so many words."""
    zero = code.integer(0)
    return code.loop(words, lambda w, n: [n + code.bits_set(mask.read(w))], carry=[zero])[0]


def _by_component(code: Code, design: Design, block: Block, member: Member, end: Value) -> None:
    """Each component about its own reference, from the rows that it is responsible for."""

    def component(k: Value) -> None:
        sums = member.sums.at(k * design.sums)
        shares = member.joint.at(k * design.pitch)
        reference = member.references.at(k * design.padded)
        if design.short_rows:
            _short_rows(code, design, block, (sums, shares, reference), end)
            return
        mask = code.array(member.masks.at(k * design.mask_words).raw, I64)
        responsible = _bits_set(code, mask, design.mask_words)
        many, part = CROWDED
        crowded = code.compare(responsible * many, ">", end * part)

        def all_rows() -> None:
            _add(code, design, block, (sums, reference), shares, None, end)

        def some_rows() -> None:
            list_rows(code, design, block, mask, shares)
            active = block.active
            _add(code, design, block, (sums, reference), block.shares, active, responsible)

        code.when(crowded, all_rows, some_rows)

    code.loop(member.n_components, component)


def _short_rows(
    code: Code, design: Design, block: Block, at: tuple[Array, Array, Array], end: Value
) -> None:
    """All sums of a component in registers."""
    sums, shares, reference = at
    lanes, d, x = design.lanes, design.n_features, block.x
    centre = [reference.spread(lanes, j) for j in range(d)]
    pairs = [(i, j) for i in range(d) for j in ((range(i + 1)) if design.dense else (i,))]
    places = [design.first_offset + i * lanes.count for i in range(d)]
    places += [design.second_offset + i * lanes.count for i in range(len(pairs))]

    def rows(t: Value, *totals: Value) -> list[Value]:
        share = shares.vector(lanes, t)
        difference = [x.vector(lanes, t + j * design.pitch) - centre[j] for j in range(d)]
        weighted = [share * v for v in difference]
        first = [s + w for s, w in zip(totals[:d], weighted, strict=True)]
        second = [
            code.fma(lanes, weighted[i], difference[j], s)
            for (i, j), s in zip(pairs, totals[d:], strict=True)
        ]
        return first + second

    start = [sums.vector(lanes, place) for place in places]
    for place, total in zip(
        places, code.loop(end, rows, step=lanes.count, carry=start), strict=True
    ):
        sums.put(total, place)


def list_rows(code: Code, design: Design, block: Block, mask: Array, shares: Array) -> Value:
    """Write the rows whose bits are set to `active`, and their `shares` likewise; how many."""
    lanes, active, listed = design.lanes, block.active, block.shares
    per_word = 64 // lanes.mask_bits

    def word(w: Value, n: Value) -> list[Value]:
        def bit(bits: Value, n: Value) -> list[Value]:
            place = code.lowest_bit(bits)
            row = place
            if lanes.count < lanes.mask_bits:
                row = (place // lanes.mask_bits) * lanes.count + (place & (lanes.mask_bits - 1))
            t = w * (per_word * lanes.count) + row
            active.write(t, n)
            listed.write(shares.read(t), n)
            return [bits & (bits - 1), n + 1]

        def going(bits: Value) -> Value:
            return code.compare(bits, "!=", 0)

        return [code.repeat(going, bit, [mask.read(w), n])[1]]

    return code.loop(design.mask_words, word, carry=[code.integer(0)])[0]


def _add(
    code: Code,
    design: Design,
    block: Block,
    at: tuple[Array, Array],
    shares: Array,
    active: Array | None,
    n: Value,
) -> None:
    """Add `n` rows, listed or consecutive, some at a time: as many as stay in the first cache."""
    x = block.x_rows

    def batch(start: Value) -> None:
        left = n - start
        whole = code.compare(left, ">", design.batch)
        count = code.select(whole, code.integer(design.batch), left)
        rows = x.at(start * design.row_pitch) if active is None else x
        listed = None if active is None else active.at(start)
        _add_batch(code, design, block, at, (rows, shares.at(start), listed), count)

    code.loop(n, batch, step=design.batch)


def _add_batch(
    code: Code,
    design: Design,
    block: Block,
    at: tuple[Array, Array],
    source: tuple[Array, Array, Array | None],
    n: Value,
) -> None:
    sums, reference = at
    first, second = sums.at(design.first_offset), sums.at(design.second_offset)
    n_vectors = design.padded // design.lanes.count
    whole = n_vectors // FEATURES_ABREAST * FEATURES_ABREAST

    if design.dense:
        _take_roots(code, design, block, source[1], n)

    def some(start: Value | int, abreast: int) -> None:
        at = start * design.lanes.count
        arrays = (reference.at(at), first.at(at), second.at(at))
        if design.dense:
            _pack(code, design, block, arrays, source, n, start, abreast)
        else:
            _squares(code, design, arrays, source, n, start, abreast)

    if whole:
        code.loop(whole, lambda v: some(v, FEATURES_ABREAST), step=FEATURES_ABREAST)
    if whole < n_vectors:
        some(whole, n_vectors - whole)
    if design.dense:
        _symmetric_product(code, design, block, second, n)


def _take_roots(code: Code, design: Design, block: Block, shares: Array, n: Value) -> None:
    """√r of the batch: C_k is then the product of one array with itself."""
    lanes, roots = design.lanes, block.roots
    code.loop(
        n, lambda u: roots.put(code.root(lanes, shares.vector(lanes, u)), u), step=lanes.count
    )


def _squares(
    code: Code,
    design: Design,
    arrays: tuple[Array, Array, Array],
    source: tuple[Array, Array, Array | None],
    n: Value,
    start: Value | int,
    abreast: int,
) -> None:
    """G_k and C_k of some vectors of features of a diagonal form."""
    lanes = design.lanes
    reference, first, second = arrays
    x, shares, active = source
    vectors = [v * lanes.count for v in range(abreast)]
    centre = [reference.vector(lanes, v) for v in vectors]
    x = x.at(start * lanes.count)

    def row(u: Value, *totals: Value) -> list[Value]:
        line = x.at((u if active is None else active.read(u)) * design.row_pitch)
        share = shares.spread(lanes, u)
        g, c = [], []
        for i, v in enumerate(vectors):
            d = line.vector(lanes, v) - centre[i]
            w = share * d
            g.append(totals[i] + w)
            c.append(code.fma(lanes, w, d, totals[abreast + i]))
        return g + c

    begin = [array.vector(lanes, v) for array in (first, second) for v in vectors]
    ended = code.loop(n, row, carry=begin)
    for i, v in enumerate(vectors):
        first.put(ended[i], v)
        second.put(ended[abreast + i], v)


def _pack(
    code: Code,
    design: Design,
    block: Block,
    arrays: tuple[Array, Array, Array],
    source: tuple[Array, Array, Array | None],
    n: Value,
    start: Value | int,
    abreast: int,
) -> None:
    """G_k of some vectors of features, and their √r (x − c_k) into `packed`.

    There each vector of features has its rows side by side: the rows of a wide matrix would fall
    on the same few lines of the first-level cache.
    """
    lanes, apart = design.lanes, design.batch * design.lanes.count
    reference, first, _ = arrays
    x, _, active = source
    roots, packed = block.roots, block.packed.at(start * apart)
    vectors = [v * lanes.count for v in range(abreast)]
    centre = [reference.vector(lanes, v) for v in vectors]
    x = x.at(start * lanes.count)

    def row(u: Value, *totals: Value) -> list[Value]:
        line = x.at((u if active is None else active.read(u)) * design.row_pitch)
        root = roots.spread(lanes, u)
        after = []
        for i, v in enumerate(vectors):
            e = root * (line.vector(lanes, v) - centre[i])
            packed.put(e, u * lanes.count + i * apart)
            after.append(code.fma(lanes, root, e, totals[i]))
        return after

    ended = code.loop(n, row, carry=[first.vector(lanes, v) for v in vectors])
    for v, total in zip(vectors, ended, strict=True):
        first.put(total, v)


def _symmetric_product(code: Code, design: Design, block: Block, second: Array, n: Value) -> None:
    """C_k += Σ_u e_u e_uᵀ, lower triangle, in blocks that fit the registers."""
    width, n_vectors, d = design.lanes.count, design.padded // design.lanes.count, design.n_features
    across = 3 if n_vectors % 3 == 0 or n_vectors > 4 else min(2, n_vectors)
    budget = 24 if design.registers >= 32 else 12

    for left in range(0, n_vectors, across):
        columns = min(across, n_vectors - left)
        # Above the last of these columns' diagonals the blocks are narrower.
        for narrow in range(1, columns):
            top = (left + narrow - 1) * width
            for i in range(top, min(d, top + width), 8):
                height = min(8, top + width - i, d - i)
                _block(code, design, block, second, n, i, height, left, narrow)
        top = (left + columns - 1) * width
        height = 1 << (budget // columns).bit_length() - 1
        whole = (d - top) // height * height
        if whole:
            code.loop(
                top + whole,
                lambda i, h=height, a=left, c=columns: _block(
                    code, design, block, second, n, i, h, a, c
                ),
                start=top,
                step=height,
            )
        if top + whole < d:
            _block(code, design, block, second, n, top + whole, d - top - whole, left, columns)


def _block(
    code: Code,
    design: Design,
    block: Block,
    second: Array,
    n: Value,
    i: Value | int,
    height: int,
    left: int,
    columns: int,
) -> None:
    """Rows i … i + height and vectors left … left + columns of C_k.

    The rows are of one vector of features, or i is the first of a vector.
    """
    lanes, padded, apart = design.lanes, design.padded, design.batch * design.lanes.count
    corner = second.at(i * padded).at(left * lanes.count)
    packed = block.packed
    # i is element i − v·lanes of vector v.
    down = packed.at(i).at((i // lanes.count) * (apart - lanes.count))
    right = packed.at(left * apart)
    places = [r * padded + c * lanes.count for r in range(height) for c in range(columns)]

    def row(u: Value, *totals: Value) -> list[Value]:
        line = u * lanes.count
        w = [right.vector(lanes, line + c * apart) for c in range(columns)]
        after = []
        for r in range(height):
            place = r // lanes.count * apart + r % lanes.count
            e = down.spread(lanes, line + place)
            after += [code.fma(lanes, e, w[c], totals[r * columns + c]) for c in range(columns)]
        return after

    start = [corner.vector(lanes, place) for place in places]
    for place, total in zip(places, code.loop(n, row, carry=start), strict=True):
        corner.put(total, place)


def flush(code: Code, design: Design, member: Member) -> None:
    """Add float32 sums to the float64 totals, and begin them anew."""
    lanes = design.lanes
    sums, totals = member.sums, member.totals
    zero = code.constant(lanes, 0.0)

    def some(i: Value) -> None:
        for part, vector in enumerate(code.to_doubles(lanes, sums.vector(lanes, i))):
            where = i + part * lanes.doubles.count
            totals.put(totals.vector(lanes.doubles, where) + vector, where)
        sums.put(zero, i)

    code.loop(member.n_components * design.sums, some, step=lanes.count)
