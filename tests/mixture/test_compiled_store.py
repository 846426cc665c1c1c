"""Machine code on disk: found again, made once, safe in company, and read from nobody else."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

import pytest

from dask_gmm.mixture.kernels.compiled import CompiledKernel, compiler, store

if TYPE_CHECKING:
    from pathlib import Path

    from dask_gmm.mixture.kernels.compiled.design import Design

needs_posix = pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners and modes of POSIX")

WORK = """
import numpy as np
from dask_gmm.mixture.kernels import Candidate, get_kernel
from dask_gmm.mixture.kernels.compiled import compiler
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.rows import Rows
made = []
original = compiler.compile_design
compiler.compile_design = lambda design: made.append(design) or original(design)
p = MixtureParameters.create("full", [0.5, 0.5], np.eye(2, 64), np.stack([np.eye(64)] * 2))
rows = np.random.default_rng(0).normal(size=(500, 64))
(s,) = get_kernel("compiled").statistics(Rows(rows), [Candidate(p)])
print(len(made), repr(s.log_likelihood))
"""


def start(folder: Path, temporary: Path | None = None) -> subprocess.Popen[str]:
    environment = {**os.environ, store.VARIABLE: str(folder)}
    environment["TMPDIR"] = str(temporary or folder.parent)
    return subprocess.Popen(
        [sys.executable, "-c", WORK], env=environment, stdout=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    made, value = out.split()
    return int(made), value


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(store.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / "cache"


def test_a_second_process_does_not_compile(tmp_path: Path) -> None:
    made, first = finish(start(tmp_path / "cache"))
    assert made == 1
    made, second = finish(start(tmp_path / "cache"))
    assert made == 0
    assert first == second


@pytest.mark.slow
def test_many_processes_at_once(tmp_path: Path) -> None:
    results = [finish(p) for p in [start(tmp_path / "cache") for _ in range(3)]]
    assert len({value for _, value in results}) == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1  # one program, nothing left over
    assert finish(start(tmp_path / "cache"))[0] == 0


def test_in_memory_a_program_is_made_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Design] = []
    original = compiler.compile_design

    def compile_design(design: Design) -> bytes:
        made.append(design)
        return original(design)

    monkeypatch.setattr(compiler, "_programs", {})
    monkeypatch.setattr(compiler, "compile_design", compile_design)
    design = CompiledKernel().design("diag", 2, 2, False, False)
    assert compiler.program(design) is compiler.program(design)
    monkeypatch.setattr(compiler, "_programs", {})
    compiler.program(design)  # as in a new process
    assert made == [design]


@needs_posix
def test_the_folder_and_its_files_are_the_users_alone(folder: Path) -> None:
    assert store.recall("a", lambda: b"code") == b"code"
    (file,) = folder.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@needs_posix
@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_others_may_write_to_is_not_read(folder: Path, what: str) -> None:
    store.recall("a", lambda: b"code")
    (file,) = folder.iterdir()
    (folder if what == "folder" else file).chmod(0o777)
    assert store.recall("a", lambda: b"made again") == b"made again"


@needs_posix
def test_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    real = tmp_path / "elsewhere"
    real.mkdir(mode=0o700)
    folder.symlink_to(real)
    store.recall("a", lambda: b"code")
    assert not list(real.iterdir())


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_file_is_made_again(folder: Path, damage: str) -> None:
    store.recall("a", lambda: b"code" * 100)
    (file,) = folder.iterdir()
    content = file.read_bytes()
    file.write_bytes({"cut": content[:-7], "changed": content[:-1] + b"?", "empty": b""}[damage])
    assert store.recall("a", lambda: b"code" * 100) == b"code" * 100
    assert file.read_bytes() == content


def test_a_folder_that_cannot_be_made(folder: Path, tmp_path: Path) -> None:
    folder.write_text("a file is in the way")
    made: list[int] = []

    def make() -> bytes:
        made.append(1)
        return b"code"

    assert [store.recall("a", make) for _ in range(2)] == [b"code"] * 2
    assert len(made) == 1, "the folder for temporary files stands in"


def test_no_folder_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_write", lambda *a: False)
    monkeypatch.setattr(store, "_read", lambda *a: None)
    assert store.recall("a", lambda: b"code") == b"code"


def test_other_keys_and_other_sources_are_other_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.recall("a", lambda: b"1")
    assert store.recall("b", lambda: b"2") == b"2"
    monkeypatch.setattr(store, "_source", lambda: "edited")
    assert store.recall("a", lambda: b"3") == b"3"
    assert len(list(folder.iterdir())) == 3


def test_the_key_names_the_cpu_and_the_compiler() -> None:
    identity = compiler.this_cpu().identity
    assert compiler.this_cpu().name in identity
    assert compiler.this_cpu().features in identity
    assert "LLVM" in identity


@pytest.mark.slow
def test_compiling_is_quick() -> None:
    """CPU seconds, which others on the machine hardly touch: about 0.5 on a machine of 2024."""
    design = CompiledKernel().design("full", 64, 16, False, False)
    before = time.process_time()
    compiler.compile_design(design)
    assert time.process_time() - before < 3.0
