"""The machine code of a few designs: what the innermost loops do, and that nothing is spilled.

The kernels are written so that LLVM need only select instructions and allocate registers: how many
multiply-adds a loop has, and how many loads feed them, is known beforehand. A version of LLVM that
spilled, or loaded an operand twice, would halve the speed and change no result. So the code is
emitted here for two CPUs by name, whatever this machine is, and its loops are counted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import pytest
from llvmlite import binding

from dask_gmm.mixture.kernels.compiled import compiler
from dask_gmm.mixture.kernels.compiled.compiler import Cpu
from dask_gmm.mixture.kernels.compiled.design import GROUP, Design, tile_rows
from dask_gmm.mixture.kernels.compiled.program import write_program
from tests.marks import quick_ones

TRIPLE = "x86_64-unknown-linux-gnu"
AVX512 = Cpu("skylake-avx512", "", TRIPLE, (512, 256, 128), fused=True, many_registers=True)
AVX2 = Cpu("haswell", "", TRIPLE, (256, 128), fused=True, many_registers=False)
CPUS = {"AVX-512": AVX512, "AVX2": AVX2}

MULTIPLY_ADD = re.compile(r"vfn?m(add|sub)\d+[ps][sd]\b")
VECTOR = re.compile(r"%[xyz]mm\d")


@dataclass(frozen=True)
class Loop:
    """What is executed in one turn of a loop that has no other loop inside.

    Attributes
    ----------
    multiply_adds : int
    loads, stores : int
        Vector instructions with an operand in memory, the stack included.
    spills : int
        Those of them whose operand lies on the stack.
    """

    multiply_adds: int
    loads: int
    stores: int
    spills: int


@dataclass(frozen=True)
class Function:
    """Its innermost loops that multiply and add, and in all of it: instructions and spills."""

    loops: tuple[Loop, ...]
    instructions: int
    spills: int


def emitted(design: Design, cpu: Cpu, monkeypatch: pytest.MonkeyPatch) -> dict[str, Function]:
    """The functions of a program as the compiler would make them if `cpu` were this machine's."""
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    try:
        binding.Target.from_triple(TRIPLE)
    except RuntimeError:
        pytest.skip("this LLVM cannot emit code for x86")
    monkeypatch.setattr(compiler, "this_cpu", lambda: cpu)
    module = binding.parse_assembly(str(write_program(design, TRIPLE)))
    text = compiler._target_machine().emit_assembly(module)
    bodies = re.split(r"^([A-Za-z_]\w*):\s*$", text, flags=re.MULTILINE)
    return {
        name: function_of(body)
        for name, body in zip(bodies[1::2], bodies[2::2], strict=True)
        if "\tret" in body
    }


def function_of(body: str) -> Function:
    lines = [line.strip() for line in body.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("#", ".cfi", ".p2align"))]
    # A frame that is aligned for vectors is addressed by %rbp too.
    stack = r"\(%r[sb]p\b" if "movq\t%rsp, %rbp" in lines else r"\(%rsp\b"
    loops, label, begin = [], "", 0
    for i, line in enumerate(lines):
        if line.startswith(".LBB"):
            label, begin = line.partition(":")[0], i + 1
        elif line.startswith("j") and line.split()[-1] == label:
            found = loop_of(lines[begin:i], stack)
            loops += [found] if found.multiply_adds else []
            label = ""
    spills = loop_of(lines, stack).spills
    return Function(tuple(loops), len([line for line in lines if "\t" in line]), spills)


def loop_of(lines: list[str], stack: str) -> Loop:
    memory = [line for line in lines if "(" in line and VECTOR.search(line)]
    stores = [line for line in memory if line.endswith(")")]
    return Loop(
        sum(MULTIPLY_ADD.match(line) is not None for line in lines),
        len(memory) - len(stores),
        len(stores),
        sum(re.search(stack, line) is not None for line in memory),
    )


def design_for(cpu: Cpu, family: str, n_features: int, *, single: bool = False) -> Design:
    lanes = cpu.lanes(cpu.widths[0], single=single)
    return Design(family, n_features, single, lanes, tile_rows(n_features, 16), cpu.registers)


def has(function: Function, multiply_adds: int, loads: int, stores: int = 0) -> bool:
    """Whether there is a loop of so many multiply-adds, with no more loads and stores."""
    return any(
        loop.multiply_adds == multiply_adds and loop.loads <= loads and loop.stores <= stores
        for loop in function.loops
    )


def check(functions: dict[str, Function], design: Design) -> None:
    """Assert what must hold of the loops in which a program spends its time."""
    # Tied components side by side are one vector too many for 16 registers: 12 sums, three of rows,
    # one of biases and what is squared.
    allowed = 2 if design.form == "tied" and design.registers == 16 else 0
    for name, function in functions.items():
        if name.endswith("_of_tile"):
            # Exponentials and logarithms have more constants than AVX2 has registers.
            assert all(p.loads + p.stores <= 4 * p.multiply_adds for p in function.loops), function
            assert function.spills <= function.instructions // 5, function
        else:
            spilled = [loop for loop in function.loops if loop.spills > allowed]
            assert not spilled, f"{name} spills in its innermost loops: {spilled}"
    d, abreast, panel = design.n_features, design.abreast, design.panel
    e_step, m_step = functions["log_joint_in_full"], functions["add_moments"]
    triangle = d * (d + 1) // 2
    if not design.dense:
        # A factor and a bias of each of a group of components, and the rows.
        assert has(e_step, 2 * GROUP * abreast, 2 * GROUP + abreast), e_step
    elif d <= panel:
        # All in one: the rows, the triangle and the biases; yᵀy on top of Uᵀz.
        loads = abreast * d + triangle + d
        assert has(e_step, abreast * (triangle + d), loads, abreast), e_step
    else:
        assert has(e_step, panel * abreast, panel + abreast), e_step
    if design.short_rows:
        # The responsibilities and each feature once; what else there is stays in registers.
        assert has(m_step, triangle if design.dense else d, 1 + d), m_step
    elif design.dense:
        # A block of sums in three quarters of the registers, and one row and one column of it.
        columns = 3 if design.padded // design.lanes.count > 4 else 2
        height = {(32, 3): 8, (32, 2): 8, (16, 3): 4, (16, 2): 4}[design.registers, columns]
        assert has(m_step, height * columns, height + columns), m_step
    else:
        vectors = min(4, design.padded // design.lanes.count)
        assert has(m_step, vectors, 1 + vectors), m_step


DESIGNS = [
    ("full", 3, False),
    ("full", 32, True),
    ("full", 40, False),
    ("tied", 40, False),
    ("diag", 3, True),
    ("diag", 16, False),
]


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize(
    ("family", "n_features", "single"),
    quick_ones(DESIGNS, [("full", 32, True), ("diag", 3, True)]),
)
def test_innermost_loops_are_as_they_were_written(
    cpu: str, family: str, n_features: int, single: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    design = design_for(CPUS[cpu], family, n_features, single=single)
    check(emitted(design, CPUS[cpu], monkeypatch), design)


def test_more_accumulators_than_registers_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A design for 32 registers on a CPU that has 16."""
    design = replace(design_for(AVX2, "full", 40), registers=32)
    with pytest.raises(AssertionError, match="log_joint_in_full spills in its innermost loops"):
        check(emitted(design, AVX2, monkeypatch), design)


@pytest.mark.parametrize(("cpu", "cut"), [(AVX512, "-avx512f"), (AVX2, "-fma")])
def test_features_that_are_not_used_are_noticed(
    cpu: Cpu, cut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    design = design_for(cpu, "diag", 16)
    with pytest.raises(AssertionError):
        check(emitted(design, replace(cpu, features=cut), monkeypatch), design)
