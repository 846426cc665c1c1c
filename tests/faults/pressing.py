"""Ctrl-C at any moment, and what must not be left of what it has interrupted."""

from __future__ import annotations

import concurrent.futures
import dis
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threadpoolctl import threadpool_info

import dask_gmm
from dask_gmm.execution.pinned import pinned_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, FrameType

    from distributed import Client

__all__ = [
    "PressAfter",
    "Steps",
    "default_handler",
    "descriptors",
    "left_behind",
    "wait_until_clean",
]

OURS = str(Path(dask_gmm.__file__).parent)
LIBRARIES = ("contextlib.py", str(Path(concurrent.futures.__file__).parent))
# What is raised in these Python prints and forgets, whoever's they are.
FINALIZERS = ("weakref_cb", "__del__")
# Behind these the interpreter looks for signals.
LOOKS = {"CALL", "CALL_FUNCTION_EX", "CALL_KW", "RESUME", "JUMP_BACKWARD"}


@contextmanager
def default_handler() -> Iterator[None]:
    """Have Ctrl-C raise, though a shell may have it ignored; afterwards it is to raise still."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@cache
def _names(code: CodeType) -> dict[int, str]:
    return {i.offset: i.opname for i in dis.get_instructions(code)}


class Steps:
    """Counts the steps of this thread at which Python looks for signals, and presses at one.

    Those of the package, and of what it uses of the standard library for threads and `with`.

    Parameters
    ----------
    at : int or None
        Where to press; None to count only.
    """

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.count = 0
        self.pressed = False
        self.where = ""

    def __repr__(self) -> str:
        return f"step {self.at} ({self.where})"

    def __enter__(self) -> Steps:
        sys.settrace(self._enter)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _enter(self, frame: FrameType, _event: str, _argument: object) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith(OURS) and not any(name in file for name in LIBRARIES):
            return None
        if frame.f_code.co_name in FINALIZERS:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        names, last = _names(frame.f_code), ""

        def step(frame: FrameType, event: str, _argument: object) -> Any:
            nonlocal last
            if event == "opcode":
                before, last = last, names.get(frame.f_lasti, "")
                if before in LOOKS:
                    self._step(frame)
            return step

        return step

    def _step(self, frame: FrameType) -> None:
        self.count += 1
        if self.count == self.at:
            self.where = f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"
            self.pressed = True
            sys.settrace(None)
            signal.raise_signal(signal.SIGINT)


class PressAfter:
    """Presses Ctrl-C for real after some time, unless the block is over by then.

    Parameters
    ----------
    seconds : float
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.pressed = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._press)

    def __repr__(self) -> str:
        return f"after {self.seconds:.3f} s"

    def __enter__(self) -> PressAfter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _press(self) -> None:
        if not self._over.wait(self.seconds):
            self.pressed = True
            os.kill(os.getpid(), signal.SIGINT)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _blas() -> list[int]:
    return sorted(library["num_threads"] for library in threadpool_info())


def left_behind(folder: Path, client: Client | None = None) -> Callable[[], list[str]]:
    """Return what says what this process, its cluster and a folder have more than they have now."""

    def things() -> set[str]:
        found = {f"thread {t.name}" for t in threading.enumerate() if "dask-gmm" in t.name}
        found |= {f"file {path.name}" for path in folder.iterdir()}
        if client is not None:
            there: Any = client
            tasks = there.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks))
            found |= {f"task {key}" for key in tasks}
            found |= {f"future {key}" for key in client.futures}
            held = {"here": pinned_bytes(), **there.run(pinned_bytes)}
        else:
            held = {"here": pinned_bytes()}
            found |= {f"descriptor {n}" for n in range(descriptors())}
        return found | {f"{n} bytes pinned {where}" for where, n in held.items() if n}

    before, blas = things(), _blas()

    def difference() -> list[str]:
        more = things() - before
        return sorted(more if _blas() == blas else {*more, f"threads of BLAS {_blas()}"})

    return difference


def wait_until_clean(dirt: Callable[[], list[str]], what: str, seconds: float = 5.0) -> None:
    """Wait until nothing is left, some seconds at most."""
    deadline = time.monotonic() + seconds
    while left := dirt():
        assert time.monotonic() < deadline, f"{what}: {left}"
        time.sleep(0.02)
