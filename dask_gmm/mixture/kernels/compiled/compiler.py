"""From a design to functions that can be called: the CPU, LLVM, and programs in memory.

A program is compiled once per process at most, and normally never: its machine code is kept on
disk (`store`). Loaded code stays for the life of the process.
"""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import llvmlite
from llvmlite import binding

from dask_gmm.mixture.kernels.compiled import store
from dask_gmm.mixture.kernels.compiled.program import ENTRIES, write_program
from dask_gmm.mixture.kernels.compiled.vector import Lanes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dask_gmm.mixture.kernels.compiled.design import Design

__all__ = ["Assembled", "Cpu", "Program", "assembled", "program", "this_cpu"]


@dataclass(frozen=True)
class Cpu:
    """What this machine's processor is, as LLVM sees it.

    Attributes
    ----------
    name, features, triple : str
        For LLVM's code generator.
    widths : tuple of int
        Bits of its vectors, the preferred first.
    fused : bool
        Whether it multiplies and adds in one instruction.
    many_registers : bool
        Whether it has 32 vector registers rather than 16.
    """

    name: str
    features: str
    triple: str
    widths: tuple[int, ...]
    fused: bool
    many_registers: bool

    def lanes(self, width: int, *, single: bool) -> Lanes:
        """Vectors of that many bits."""
        return Lanes(single, width // (32 if single else 64), self.fused)

    @property
    def registers(self) -> int:
        """Vector registers."""
        return 32 if self.many_registers else 16

    @property
    def identity(self) -> str:
        """Everything that machine code depends on besides its source."""
        llvm = ".".join(map(str, binding.llvm_version_info))
        parts = (self.triple, self.name, self.features, f"LLVM {llvm}", llvmlite.__version__)
        return "\n".join(parts)


@cache
def this_cpu() -> Cpu:
    """The processor of this machine."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    features = binding.get_host_cpu_features()
    triple = binding.get_process_triple()
    arm = triple.startswith(("aarch64", "arm64"))
    wide = bool(features.get("avx512f")) and bool(features.get("avx512vl"))
    widths = (512, 256, 128) if wide else (256, 128) if features.get("avx2") else (128,)
    return Cpu(
        binding.get_host_cpu_name(),
        features.flatten(),
        triple,
        widths,
        arm or bool(features.get("fma")),
        arm or wide,
    )


_CALL: Final = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class Program:
    """Machine code of one design; its functions release the GIL while they run."""

    def __init__(self, machine_code: bytes) -> None:
        # The engine owns the code; functions are valid as long as it lives.
        self._engine = _engine()
        self._engine.add_object_file(binding.ObjectFileRef.from_data(machine_code))
        self._engine.finalize_object()
        self._functions: Mapping[str, Callable[..., int]] = {
            name: _CALL(self._engine.get_function_address(name)) for name in ENTRIES
        }

    def run(self, entry: str, block: int, candidates: int, n_candidates: int) -> int:
        """Call one of `ENTRIES` with the addresses of its records."""
        return self._functions[entry](block, candidates, n_candidates)


def _target_machine() -> Any:
    cpu = this_cpu()
    target = binding.Target.from_triple(cpu.triple)
    return target.create_target_machine(
        cpu=cpu.name, features=cpu.features, opt=3, reloc="pic", codemodel="jitdefault", jit=True
    )


def _engine() -> Any:
    empty = binding.parse_assembly("")
    empty.triple = this_cpu().triple
    return binding.create_mcjit_compiler(empty, _target_machine())


def compile_design(design: Design) -> bytes:
    """Machine code of a design, as an object file."""
    return _machine_code(str(write_program(design, this_cpu().triple)))


def _machine_code(assembly: str) -> bytes:
    module = binding.parse_assembly(assembly)
    module.triple = this_cpu().triple
    module.verify()
    machine_code: bytes = _target_machine().emit_object(module)
    return machine_code


class Assembled:
    """A function that somebody else has written in LLVM's assembly. Use `assembled`.

    Attributes
    ----------
    address : int
        Where its machine code is; valid as long as this object lives.
    """

    def __init__(self, machine_code: bytes, entry: str) -> None:
        self._engine = _engine()
        self._engine.add_object_file(binding.ObjectFileRef.from_data(machine_code))
        self._engine.finalize_object()
        self.address: int = self._engine.get_function_address(entry)


_programs: dict[Design, Program] = {}
_assembled: dict[tuple[str, str], Assembled] = {}
_lock = threading.Lock()


def program(design: Design) -> Program:
    """The program of a design: from memory, from the disk, or compiled now."""
    found = _programs.get(design)
    if found is not None:
        return found
    with _lock:  # LLVM and the dictionary; one thread compiles while others wait for it
        if design not in _programs:
            key = f"{this_cpu().identity}\n{design!r}"
            _programs[design] = Program(store.recall(key, lambda: compile_design(design)))
        return _programs[design]


def assembled(text: str, entry: str) -> Assembled:
    """A function of a module in LLVM's assembly: from memory, from the disk, or compiled now.

    Parameters
    ----------
    text : str
        The module, for any machine; nothing in it is optimised but the choice of instructions.
    entry : str
        The function's name.
    """
    found = _assembled.get((text, entry))
    if found is not None:
        return found
    with _lock:
        if (text, entry) not in _assembled:
            key = f"{this_cpu().identity}\n{text}"
            code = store.recall(key, lambda: _machine_code(text))
            _assembled[text, entry] = Assembled(code, entry)
        return _assembled[text, entry]
