"""A tile of rows into the first-level cache: converted, centred, in the layouts the steps read.

The E-step runs along rows: it reads [D][pitch], one feature of many rows side by side. The M-step
of all but the shortest rows runs along features: it reads [tile][row pitch]. Each is made from the
other by transposing squares of registers, whichever the block is nearer to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llvmlite import ir

from dask_gmm.mixture.kernels.compiled.records import Block
from dask_gmm.mixture.kernels.compiled.vector import I1, I32, POINTER, Value, declare

if TYPE_CHECKING:
    from dask_gmm.mixture.kernels.compiled.design import Design
    from dask_gmm.mixture.kernels.compiled.vector import Array, Code

__all__ = ["load_tile", "transpose_listed"]


def load_tile(
    code: Code, design: Design, block: Block, start: Value, count: Value, end: Value
) -> None:
    """Load rows `start` … `start + count` of the block, and zeros up to row `end` of the tile."""
    _weights(code, design, block, start, count, end)
    code.when(
        code.compare(block.feature_major, "==", 0),
        lambda: _from_rows(code, design, block, start, count, end),
        lambda: _from_features(code, design, block, start, count, end),
    )


def _close_circle(code: Code, design: Design, rows: Array, t: Value) -> None:
    """Let row `t` be followed by its own beginning and by ones, where `products` wants it so."""
    if not design.shares_products:
        return
    lanes, line = design.lanes, rows.at(t * design.row_pitch)
    again = range(0, design.ones_offset - design.n_features, lanes.count)
    beginning = [line.vector(lanes, at) for at in again]
    for at, vector in zip(again, beginning, strict=True):
        line.put(vector, at + design.n_features)
    line.put(code.constant(lanes, 1.0), design.ones_offset)


def _weights(
    code: Code, design: Design, block: Block, start: Value, count: Value, end: Value
) -> None:
    lanes, weights = design.lanes, block.row_weights

    def given() -> None:
        source = code.array(block.word(Block.weights), ir.DoubleType())

        def several(t: Value) -> None:
            places = range(0, lanes.count, lanes.doubles.count)
            parts = [source.vector(lanes.doubles, start + t + place) for place in places]
            weights.put(code.from_doubles(lanes, parts), t)

        def one(t: Value) -> None:
            weights.write(_narrowed(code, design, source.read(start + t)), t)

        whole = count // lanes.count * lanes.count
        code.loop(whole, several, step=lanes.count)
        code.loop(count, one, start=whole)

    def equal() -> None:
        one = code.constant(lanes, 1.0)
        code.loop(end, lambda t: weights.put(one, t), step=lanes.count)

    code.when(code.compare(block.word(Block.weights), "==", 0), equal, given)
    zero = Value(code, ir.Constant(lanes.element, 0.0))
    code.loop(end, lambda t: weights.write(zero, t), start=count)


def _narrowed(code: Code, design: Design, scalar: Value) -> Value:
    """A float64 scalar as an element."""
    if not design.lanes.single:
        return scalar
    return Value(code, code.builder.fptrunc(scalar.raw, design.lanes.element))


def _widened(code: Code, design: Design, loaded: Value, kind: object) -> Value:
    """Elements of the block as elements of the arithmetic."""
    if design.single_rows == design.lanes.single:
        return loaded
    return Value(code, code.builder.fpext(loaded.raw, kind))


def _source_type(design: Design) -> object:
    return ir.FloatType() if design.single_rows else ir.DoubleType()


def _vector_of_block(code: Code, design: Design, source: Array, index: Value, count: int) -> Value:
    """The first `count` of a vector of consecutive elements of the block; zeros in the others."""
    lanes = design.lanes
    kind = ir.VectorType(_source_type(design), lanes.count)
    pointer = source.at(index).raw
    size = 4 if design.single_rows else 8
    if count == lanes.count:
        loaded = code.builder.load(pointer, typ=kind, align=size)
    else:
        mask = ir.VectorType(I1, lanes.count)
        name = f"llvm.masked.load.v{lanes.count}f{size * 8}.p0"
        arguments = [POINTER, I32, mask, kind]
        function = declare(code.module, name, kind, arguments)
        chosen = ir.Constant(mask, [int(i < count) for i in range(lanes.count)])
        nothing = ir.Constant(kind, [0.0] * lanes.count)
        loaded = code.builder.call(function, [pointer, I32(size), chosen, nothing])
    return _widened(code, design, Value(code, loaded), lanes.vector)


def _from_rows(
    code: Code, design: Design, block: Block, start: Value, count: Value, end: Value
) -> None:
    if design.short_rows:
        _short_rows(code, design, block, start, count, end)
        return
    lanes, width = design.lanes, design.lanes.count
    source = code.array(block.word(Block.rows), _source_type(design))
    centre, rows = block.centre, block.x_rows
    stride = block.stride

    whole = design.n_features // width * width
    zero = code.constant(lanes, 0.0)

    def features(t: Value, at: Value, available: int) -> None:
        x = _vector_of_block(code, design, source, (start + t) * stride + at, available)
        rows.put(x - centre.vector(lanes, at), t * design.row_pitch + at)

    # Row after row, as they lie in memory: the processor fetches ahead along lines.
    def copy(t: Value) -> None:
        code.loop(whole, lambda at: features(t, at, width), step=width)
        if whole < design.n_features:
            features(t, code.integer(whole), design.n_features - whole)
        _close_circle(code, design, rows, t)

    def clear(t: Value) -> None:
        code.loop(design.padded, lambda at: rows.put(zero, t * design.row_pitch + at), step=width)
        _close_circle(code, design, rows, t)

    code.loop(count, copy)
    code.loop(end, clear, start=count)
    _transpose(code, design, rows, block.x, end, to_rows=False)


def _from_features(
    code: Code, design: Design, block: Block, start: Value, count: Value, end: Value
) -> None:
    lanes, width = design.lanes, design.lanes.count
    source = code.array(block.word(Block.rows), _source_type(design))
    centre, x = block.centre, block.x
    stride = block.stride
    whole = count - _remainder(count, width)

    def feature(j: Value) -> None:
        middle = centre.spread(lanes, j)

        def vectors(t: Value) -> None:
            loaded = _vector_of_block(code, design, source, j * stride + start + t, width)
            x.put(loaded - middle, j * design.pitch + t)

        code.loop(whole, vectors, step=width)
        _one_by_one(code, design, block, j, (whole, count, end), source, j * stride + start, 1)

    code.loop(design.n_features, feature)
    if not design.short_rows:
        rows = block.x_rows
        _transpose(code, design, rows, x, end, to_rows=True)
        code.loop(end, lambda t: _close_circle(code, design, rows, t))


def _short_rows(
    code: Code, design: Design, block: Block, start: Value, count: Value, end: Value
) -> None:
    """Rows of a few features: as many vectors as features hold as many rows as lanes."""
    lanes, width, d = design.lanes, design.lanes.count, design.n_features
    source = code.array(block.word(Block.rows), _source_type(design))
    centre, x = block.centre, block.x
    whole = count - _remainder(count, width)

    def square(t: Value) -> None:
        first = (start + t) * d
        parts = [_vector_of_block(code, design, source, first + j * width, width) for j in range(d)]
        while len(parts) & (len(parts) - 1):
            parts.append(parts[0])
        length = width
        while len(parts) > 1:
            length *= 2
            pairs = zip(parts[::2], parts[1::2], strict=True)
            parts = [code.shuffled(lanes, a, b, range(length)) for a, b in pairs]
        for j in range(d):
            feature = code.shuffled(lanes, parts[0], None, range(j, j + d * width, d))
            x.put(feature - centre.spread(lanes, j), t + j * design.pitch)

    code.loop(whole, square, step=width)

    def feature(j: Value) -> None:
        _one_by_one(code, design, block, j, (whole, count, end), source, start * d + j, d)

    code.loop(d, feature)


def _one_by_one(
    code: Code,
    design: Design,
    block: Block,
    j: Value,
    bounds: tuple[Value, Value, Value],
    source: Array,
    first: Value,
    stride: int,
) -> None:
    """Feature `j` of the last rows, which do not fill a vector, and zeros after them."""
    whole, count, end = bounds
    centre, x = block.centre, block.x
    middle = centre.read(j)

    def row(t: Value) -> None:
        loaded = source.read(first + t * stride)
        x.write(_widened(code, design, loaded, design.lanes.element) - middle, j * design.pitch + t)

    code.loop(count, row, start=whole)
    zero = Value(code, ir.Constant(design.lanes.element, 0.0))
    code.loop(end, lambda t: x.write(zero, j * design.pitch + t), start=count)


def _remainder(n: Value, width: int) -> Value:
    return n & (width - 1)  # widths are powers of two


def transpose_listed(
    code: Code, design: Design, rows: Array, x: Array, listed: Array, end: Value
) -> None:
    """Make [D][pitch] of the rows of [tile][row pitch] that are `listed`."""
    _transpose(code, design, rows, x, end, to_rows=False, listed=listed)


def _transpose(
    code: Code,
    design: Design,
    rows: Array,
    x: Array,
    end: Value,
    *,
    to_rows: bool,
    listed: Array | None = None,
) -> None:
    """Make [D][pitch] of [tile][row pitch] or the reverse, square by square."""
    width, whole = design.lanes.count, design.n_features // design.lanes.count

    def squares(at: Value, available: int) -> None:
        def square(t: Value) -> None:
            places = [t + r if listed is None else listed.read(t + r) for r in range(width)]
            in_rows = [(rows, place * design.row_pitch + at) for place in places]
            in_features = [(x, (at + j) * design.pitch + t) for j in range(available)]
            read, written = (in_features, in_rows) if to_rows else (in_rows, in_features)
            vectors = [array.vector(design.lanes, index) for array, index in read]
            vectors += [code.constant(design.lanes, 0.0)] * (width - len(vectors))
            turned = _turned(code, design, vectors)
            for (array, index), vector in zip(written, turned, strict=False):
                array.put(vector, index)

        code.loop(end, square, step=width)

    code.loop(whole * width, lambda at: squares(at, width), step=width)
    if design.n_features % width:
        squares(code.integer(whole * width), design.n_features % width)


def _turned(code: Code, design: Design, vectors: list[Value]) -> list[Value]:
    """The transpose of a square of vectors, by log₂ rounds of interleaving."""
    width = design.lanes.count
    half = width // 2
    low = [i // 2 + width * (i % 2) for i in range(width)]
    high = [i + half for i in low]
    rounds = width
    while rounds > 1:
        vectors = [
            code.shuffled(
                design.lanes,
                vectors[i // 2],
                vectors[i // 2 + half],
                high if i % 2 else low,
            )
            for i in range(width)
        ]
        rounds //= 2
    return vectors
