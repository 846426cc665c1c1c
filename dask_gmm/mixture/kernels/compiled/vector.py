"""A small language of vectors and loops, compiled by LLVM at run time.

Why it exists. One EM pass is a few hundred multiply-adds per row, all of them possible on whole
vector registers with their operands in registers or the first-level cache. Nothing that starts
from Python loops or NumPy calls came near that when we measured it: Numba's automatic
vectorisation reached 20 to 40 % of the fused multiply-adds that the core can do, because it cannot
be told to keep a block of accumulators in registers; `np.dot` on tiles this small spends its time
in calls; and the exponential, a scalar call there, costs 7 ns where a vector of eight costs 4 ns.
So the kernels say which values are vectors and which loop carries which accumulators, LLVM does
what it is best at (instruction selection, register allocation, addressing), and no optimisation
pass runs that could rearrange them: it would hoist loads out of loops and spill registers, at half
the speed and several times the compile time.

What it is. A `Lanes` is a kind of vector: so many float64 or float32 side by side, for a width of
512, 256 or 128 bits. A `Code` writes one function. Its `Value`s are 64-bit integers or vectors and
obey + - * /; its `Array`s are addresses of elements, with vectors read and written anywhere (no
alignment is asked). Python's own `for` unrolls, `Code.loop` loops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from llvmlite import ir

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Array", "Code", "Lanes", "Value", "declare"]

I1: Final = ir.IntType(1)
I32: Final = ir.IntType(32)
I64: Final = ir.IntType(64)
POINTER: Final = ir.PointerType()


@dataclass(frozen=True)
class Lanes:
    """A kind of vector.

    Attributes
    ----------
    single : bool
        Whether the elements are float32 rather than float64.
    count : int
        Elements of a vector.
    fused : bool
        Whether the CPU multiplies and adds in one instruction; elsewhere LLVM would call a
        function for each element to get the same rounding.
    """

    single: bool
    count: int
    fused: bool = True

    @property
    def element(self) -> Any:
        """LLVM's type of an element."""
        return ir.FloatType() if self.single else ir.DoubleType()

    @property
    def vector(self) -> Any:
        """LLVM's type of a vector."""
        return ir.VectorType(self.element, self.count)

    @property
    def integers(self) -> Any:
        """LLVM's type of a vector of integers as wide as the elements."""
        return ir.VectorType(I32 if self.single else I64, self.count)

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return 4 if self.single else 8

    @property
    def mask_bits(self) -> int:
        """Bits that a vector of truth values takes in memory: whole bytes."""
        return max(8, self.count)

    def rounded(self, n: int) -> int:
        """The smallest multiple of `count` that is not less than `n`."""
        return -(-n // self.count) * self.count

    @property
    def doubles(self) -> Lanes:
        """Float64 in vectors of the same width."""
        return Lanes(False, self.count // 2, self.fused) if self.single else self


class Value:
    """An integer or a vector in a function that is being written."""

    __slots__ = ("code", "raw")

    def __init__(self, code: Code, raw: Any) -> None:
        self.code = code
        self.raw = raw

    def _apply(self, on_integers: str, on_floats: str, other: Value | int) -> Value:
        if isinstance(other, int):
            other = self.code.integer(other)
        kind = self.raw.type
        element = getattr(kind, "element", kind)
        name = on_integers if isinstance(element, ir.IntType) else on_floats
        return Value(self.code, getattr(self.code.builder, name)(self.raw, other.raw))

    def __add__(self, other: Value | int) -> Value:
        return self if isinstance(other, int) and other == 0 else self._apply("add", "fadd", other)

    def __sub__(self, other: Value | int) -> Value:
        return self._apply("sub", "fsub", other)

    def __mul__(self, other: Value | int) -> Value:
        return self if isinstance(other, int) and other == 1 else self._apply("mul", "fmul", other)

    def __truediv__(self, other: Value) -> Value:
        return self._apply("udiv", "fdiv", other)

    def __floordiv__(self, other: int) -> Value:
        return self._apply("udiv", "fdiv", other)

    def __and__(self, other: Value | int) -> Value:
        return self._apply("and_", "and_", other)

    def __rshift__(self, other: int) -> Value:
        return self._apply("lshr", "lshr", other)

    __radd__ = __add__
    __rmul__ = __mul__


class Array:
    """The address of elements of one type."""

    __slots__ = ("code", "element", "raw")

    def __init__(self, code: Code, raw: Any, element: Any) -> None:
        self.code = code
        self.raw = raw
        self.element = element

    def at(self, index: Value | int) -> Array:
        """The array that begins at element `index` of this one."""
        if isinstance(index, int):
            if index == 0:
                return self
            index = self.code.integer(index)
        raw = self.code.builder.gep(self.raw, [index.raw], source_etype=self.element)
        return Array(self.code, raw, self.element)

    def read(self, index: Value | int = 0) -> Value:
        """One element."""
        return Value(self.code, self.code.builder.load(self.at(index).raw, typ=self.element))

    def write(self, value: Value, index: Value | int = 0) -> None:
        """Set one element."""
        self.code.builder.store(value.raw, self.at(index).raw)

    def vector(self, lanes: Lanes, index: Value | int = 0) -> Value:
        """`lanes.count` elements from `index` on."""
        loaded = self.code.builder.load(self.at(index).raw, typ=lanes.vector, align=lanes.itemsize)
        return Value(self.code, loaded)

    def put(self, vector: Value, index: Value | int = 0) -> None:
        """Write a vector's elements from `index` on."""
        size = 4 if isinstance(self.element, ir.FloatType) else 8
        self.code.builder.store(vector.raw, self.at(index).raw, align=size)

    def spread(self, lanes: Lanes, index: Value | int = 0) -> Value:
        """Element `index` in all lanes of a vector."""
        return self.code.spread(lanes, self.read(index))


class Code:
    """One function in the writing.

    Parameters
    ----------
    function : ir.Function
        Without a body so far; its arguments are arrays (pointers) and 64-bit integers.
    """

    def __init__(self, function: Any) -> None:
        self.module = function.module
        self.builder = ir.IRBuilder(function.append_basic_block())

    def integer(self, n: int) -> Value:
        """A 64-bit integer."""
        return Value(self, I64(n))

    def array(self, raw: Any, element: Any) -> Array:
        """The elements at a pointer or an integer address."""
        if isinstance(raw, Value):
            raw = self.builder.inttoptr(raw.raw, POINTER)
        return Array(self, raw, element)

    def constant(self, lanes: Lanes, x: float) -> Value:
        """A number in all lanes."""
        return Value(self, ir.Constant(lanes.vector, [x] * lanes.count))

    def whole(self, lanes: Lanes, n: int) -> Value:
        """An integer in all lanes."""
        return Value(self, ir.Constant(lanes.integers, [n] * lanes.count))

    def spread(self, lanes: Lanes, scalar: Value) -> Value:
        """A scalar in all lanes."""
        nothing = ir.Constant(lanes.vector, ir.Undefined)
        first = self.builder.insert_element(nothing, scalar.raw, I32(0))
        return self.shuffled(lanes, Value(self, first), None, [0] * lanes.count)

    def shuffled(self, lanes: Lanes, a: Value, b: Value | None, order: Sequence[int]) -> Value:
        """The elements `order` of `a` followed by `b`."""
        other = ir.Constant(a.raw.type, ir.Undefined) if b is None else b.raw
        indices = ir.Constant(ir.VectorType(I32, len(order)), list(order))
        return Value(self, self.builder.shuffle_vector(a.raw, other, indices))

    def fma(self, lanes: Lanes, a: Value, b: Value, c: Value) -> Value:
        """a·b + c, rounded once where the CPU can."""
        if not lanes.fused:
            return a * b + c
        name = f"llvm.fma.v{lanes.count}f{lanes.itemsize * 8}"
        function = declare(self.module, name, lanes.vector, [lanes.vector] * 3)
        return Value(self, self.builder.call(function, [a.raw, b.raw, c.raw]))

    def root(self, lanes: Lanes, a: Value) -> Value:
        """√a."""
        name = f"llvm.sqrt.v{lanes.count}f{lanes.itemsize * 8}"
        function = declare(self.module, name, lanes.vector, [lanes.vector])
        return Value(self, self.builder.call(function, [a.raw]))

    def greater(self, a: Value, b: Value) -> Value:
        """Truth values a > b of vectors; false where either is NaN."""
        return Value(self, self.builder.fcmp_ordered(">", a.raw, b.raw))

    def select(self, truth: Value, a: Value, b: Value) -> Value:
        """`a` where `truth` holds, else `b`."""
        return Value(self, self.builder.select(truth.raw, a.raw, b.raw))

    def maximum(self, a: Value, b: Value) -> Value:
        """The larger, lane by lane; `b` where either is NaN."""
        return self.select(self.greater(a, b), a, b)

    def as_integers(self, lanes: Lanes, a: Value) -> Value:
        """The bits of the elements as integers."""
        return Value(self, self.builder.bitcast(a.raw, lanes.integers))

    def as_floats(self, lanes: Lanes, a: Value) -> Value:
        """Bits of integers as the elements of a vector."""
        return Value(self, self.builder.bitcast(a.raw, lanes.vector))

    def shifted(self, lanes: Lanes, a: Value, bits: int) -> Value:
        """Integers shifted up, or (with a negative number) down with their sign."""
        name = "shl" if bits > 0 else "ashr"
        raw = getattr(self.builder, name)(a.raw, self.whole(lanes, abs(bits)).raw)
        return Value(self, raw)

    def to_doubles(self, lanes: Lanes, a: Value) -> list[Value]:
        """The elements as vectors of float64: one, or two for float32."""
        if not lanes.single:
            return [a]
        half = lanes.count // 2
        parts = []
        for start in (0, half):
            part = self.shuffled(lanes, a, None, range(start, start + half))
            parts.append(Value(self, self.builder.fpext(part.raw, lanes.doubles.vector)))
        return parts

    def from_doubles(self, lanes: Lanes, parts: Sequence[Value]) -> Value:
        """Vectors of float64 as one of elements, rounded where these are float32."""
        if not lanes.single:
            return parts[0]
        half = ir.VectorType(lanes.element, lanes.doubles.count)
        lower, upper = (Value(self, self.builder.fptrunc(part.raw, half)) for part in parts)
        return self.shuffled(lanes, lower, upper, range(lanes.count))

    def call(self, function: Any, *arguments: Value | Array) -> None:
        """Call another function of the module."""
        self.builder.call(function, [a.raw for a in arguments])

    def loop(
        self,
        stop: Value | int,
        body: Callable[..., Sequence[Value] | None],
        *,
        start: Value | int = 0,
        step: int = 1,
        carry: Sequence[Value] = (),
    ) -> list[Value]:
        """``for i in range(start, stop, step): carry = body(i, *carry)``; the last carry.

        The carried values live in registers as far as there are any.
        """
        b = self.builder
        first = self.integer(start) if isinstance(start, int) else start
        last = self.integer(stop) if isinstance(stop, int) else stop
        before = b.block
        inside = b.append_basic_block()
        after = b.append_basic_block()
        surely = isinstance(start, int) and isinstance(stop, int) and start < stop
        if surely:
            b.branch(inside)
        else:
            b.cbranch(b.icmp_signed("<", first.raw, last.raw), inside, after)
        b.position_at_end(inside)
        index = b.phi(I64)
        index.add_incoming(first.raw, before)
        carried = []
        for value in carry:
            phi = b.phi(value.raw.type)
            phi.add_incoming(value.raw, before)
            carried.append(phi)
        given = body(Value(self, index), *(Value(self, phi) for phi in carried)) or ()
        following = b.add(index, I64(step))
        end = b.block
        index.add_incoming(following, end)
        for phi, value in zip(carried, given, strict=True):
            phi.add_incoming(value.raw, end)
        b.cbranch(b.icmp_signed("<", following, last.raw), inside, after)
        b.position_at_end(after)
        results = []
        for value, out in zip(carry, given, strict=True):
            phi = b.phi(value.raw.type)
            if not surely:
                phi.add_incoming(value.raw, before)
            phi.add_incoming(out.raw, end)
            results.append(Value(self, phi))
        return results

    def repeat(
        self,
        going: Callable[[Value], Value],
        body: Callable[..., Sequence[Value]],
        carry: Sequence[Value],
    ) -> list[Value]:
        """``while going(carry[0]): carry = body(*carry)``; the last carry."""
        b = self.builder
        before = b.block
        test, inside, after = (b.append_basic_block() for _ in range(3))
        b.branch(test)
        b.position_at_end(test)
        carried = []
        for value in carry:
            phi = b.phi(value.raw.type)
            phi.add_incoming(value.raw, before)
            carried.append(Value(self, phi))
        b.cbranch(going(carried[0]).raw, inside, after)
        b.position_at_end(inside)
        given = body(*carried)
        for phi, value in zip(carried, given, strict=True):
            phi.raw.add_incoming(value.raw, b.block)
        b.branch(test)
        b.position_at_end(after)
        return carried

    def when(
        self,
        truth: Value,
        then: Callable[[], list[Value] | None],
        otherwise: Callable[[], list[Value] | None] | None = None,
    ) -> list[Value]:
        """``then() if truth else otherwise()``; the values, if both return as many."""
        b = self.builder
        yes, after = b.append_basic_block(), b.append_basic_block()
        no = b.append_basic_block() if otherwise else after
        b.cbranch(truth.raw, yes, no)
        ends = []
        for begin, body in ((yes, then), (no, otherwise)):
            if body is not None:
                b.position_at_end(begin)
                ends.append((body() or [], b.block))
                b.branch(after)
        b.position_at_end(after)
        results = []
        for pair in zip(*(values for values, _ in ends), strict=True) if otherwise else ():
            phi = b.phi(pair[0].raw.type)
            for value, (_, end) in zip(pair, ends, strict=True):
                phi.add_incoming(value.raw, end)
            results.append(Value(self, phi))
        return results

    def compare(self, a: Value, how: str, b: Value | int) -> Value:
        """The truth of a comparison of integers."""
        other = self.integer(b) if isinstance(b, int) else b
        return Value(self, self.builder.icmp_signed(how, a.raw, other.raw))

    def lowest_bit(self, a: Value) -> Value:
        """The place of the lowest bit that is set; at least one is."""
        return Value(self, self.builder.cttz(a.raw, I1(1)))

    def bits_set(self, a: Value) -> Value:
        """How many bits are set."""
        return Value(self, self.builder.ctpop(a.raw))


def declare(module: Any, name: str, returned: Any, arguments: Sequence[Any]) -> Any:
    """The function of that name in the module, declared if it is not yet."""
    found = module.globals.get(name)
    if found is None:
        found = ir.Function(module, ir.FunctionType(returned, list(arguments)), name)
    return found
