"""The functions of a program put together: one loop over tiles serves all candidates."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from llvmlite import ir

from dask_gmm.mixture.kernels.compiled import normalise
from dask_gmm.mixture.kernels.compiled.estep import log_joint, log_joint_in_full
from dask_gmm.mixture.kernels.compiled.load import load_tile
from dask_gmm.mixture.kernels.compiled.moments import finish
from dask_gmm.mixture.kernels.compiled.mstep import add_moments, flush
from dask_gmm.mixture.kernels.compiled.records import Block, Member
from dask_gmm.mixture.kernels.compiled.tails import add_tails, scale_shares
from dask_gmm.mixture.kernels.compiled.vector import I64, POINTER, Code, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dask_gmm.mixture.kernels.compiled.design import Design
    from dask_gmm.mixture.kernels.compiled.vector import Array

__all__ = ["ENTRIES", "write_program"]

_REDUCTIONS: Final[Mapping[str, Callable[..., Value]]] = {
    "statistics": normalise.responsibilities,
    "statistics_and_log_densities": partial(normalise.responsibilities, kept=True),
    "log_densities": normalise.log_densities,
    "posteriors": normalise.posteriors,
    "labels": normalise.labels,
}
ENTRIES: Final = (*_REDUCTIONS, "finish")
"""Names of the functions of a program that are called from outside.

Each takes the address of the block's record, the address of the candidates' records and the number
of candidates, and returns the first row of the first tile with a row that is no number, or −1. But
"finish" takes one candidate whose statistics have been gathered, and returns what is to be said of
them: see `moments.finish`.
"""


def write_program(design: Design, triple: str) -> Any:
    """The LLVM module of a design, with a function for each of `ENTRIES`."""
    module = ir.Module(name="gaussian_mixture")
    module.triple = triple
    tile = _Tile(module, design)
    in_full = tile.function(
        "log_joint_in_full", lambda c, b, m, end: log_joint_in_full(c, design, b, m, end)
    )
    steps = {
        "load": tile.function(
            "load", lambda c, b, _, end: load_tile(c, design, b, b.start, b.count, end)
        ),
        "log_joint": tile.function(
            "log_joint", lambda c, b, m, end: log_joint(c, design, b, m, end, in_full)
        ),
        "add_moments": tile.function(
            "add_moments", lambda c, b, m, end: add_moments(c, design, b, m, end)
        ),
        "flush": tile.function("flush", lambda c, _b, m, _end: flush(c, design, m)),
    }
    if design.tails:
        steps["add_tails"] = tile.function(
            "add_tails", lambda c, _b, m, end: add_tails(c, design, m, end)
        )
        steps["scale_shares"] = tile.function(
            "scale_shares", lambda c, _b, m, end: scale_shares(c, design, m, end)
        )
    for name, reduction in _REDUCTIONS.items():
        steps["reduce"] = tile.function(
            f"{name}_of_tile", lambda c, b, m, end, r=reduction: r(c, design, b, m, end)
        )
        _write_entry(module, design, name, steps)
    _write_finish(module, design)
    return module


class _Tile:
    """Writes functions that do one step on one tile."""

    def __init__(self, module: Any, design: Design) -> None:
        self._module = module
        self._design = design

    def function(self, name: str, body: Callable[..., Value | None]) -> Any:
        """A function (block, candidate, start, count) → whether something is wrong."""
        kind = ir.FunctionType(I64, [POINTER, POINTER, I64, I64])
        function = ir.Function(self._module, kind, name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        code = Code(function)
        design = self._design
        block_at, member_at, start, count = function.args
        count = Value(code, count)
        block = Block(code, design, code.array(block_at, I64), Value(code, start), count)
        member = Member(code, design, code.array(member_at, I64))
        end = ((count + (design.step - 1)) // design.step) * design.step
        found = body(code, block, member, end)
        code.builder.ret(I64(0) if found is None else found.raw)
        return function


def _write_entry(module: Any, design: Design, name: str, steps: Mapping[str, Any]) -> None:
    function = ir.Function(module, ir.FunctionType(I64, [POINTER, POINTER, I64]), name)
    code = Code(function)
    block = code.array(function.args[0], I64)
    members = code.array(function.args[1], I64)
    n_members = Value(code, function.args[2])
    n_rows = block.read(Block.n_rows.place)
    gathering, single = name.startswith("statistics"), design.lanes.single

    def call(step: str, member: Array, *bounds: Value) -> Value:
        arguments = [block.raw, member.raw, *(b.raw for b in bounds)]
        return Value(code, code.builder.call(steps[step], arguments))

    def flush_all(start: Value, count: Value) -> None:
        def one(j: Value) -> None:
            call("flush", members.at(j * Member.length()), start, count)

        code.loop(n_members, one)

    def tile(start: Value, bad: Value) -> list[Value]:
        left = n_rows - start
        count = code.select(code.compare(left, "<", design.tile), left, code.integer(design.tile))
        call("load", members, start, count)

        def one(j: Value, bad: Value) -> list[Value]:
            member = members.at(j * Member.length())
            if not design.short_rows:
                _clear_masks(code, design, member, count)
            call("log_joint", member, start, count)
            if design.tails:
                call("add_tails", member, start, count)
            wrong = call("reduce", member, start, count)
            if gathering and design.tails:
                call("scale_shares", member, start, count)
            if gathering:
                call("add_moments", member, start, count)
            fresh = Value(
                code,
                code.builder.and_(code.compare(wrong, "!=", 0).raw, code.compare(bad, "<", 0).raw),
            )
            return [code.select(fresh, start, bad)]

        (bad,) = code.loop(n_members, one, carry=[bad])
        if gathering and single:
            period = design.flush_tiles
            due = code.compare((start // design.tile) & (period - 1), "==", period - 1)
            last = code.compare(left, "<=", design.tile)
            due = Value(code, code.builder.or_(due.raw, last.raw))
            code.when(due, lambda: flush_all(start, count))
        return [bad]

    (bad,) = code.loop(n_rows, tile, step=design.tile, carry=[code.integer(-1)])
    code.builder.ret(bad.raw)


def _write_finish(module: Any, design: Design) -> None:
    function = ir.Function(module, ir.FunctionType(I64, [POINTER, POINTER, I64]), "finish")
    code = Code(function)
    member = Member(code, design, code.array(function.args[1], I64))
    code.builder.ret(finish(code, design, member).raw)


def _clear_masks(code: Code, design: Design, member: Array, count: Value) -> None:
    """Clear the masks before a tile that will not write all of them."""

    def clear() -> None:
        masks = code.array(member.read(Member.masks.place), I64)
        words = member.read(Member.n_components.place) * design.mask_words
        code.loop(words, lambda w: masks.write(code.integer(0), w))

    code.when(code.compare(count, "<", design.tile), clear)
