"""What a benchmark ran on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from threadpoolctl import threadpool_info

from dask_gmm.mixture.kernels.compiled.compiler import this_cpu

PACKAGES = ("dask-gmm", "numpy", "scipy", "llvmlite", "dask", "zarr", "scikit-learn")


def describe_machine() -> dict[str, Any]:
    """Processor, its cores and vectors, memory, load and versions; for records."""
    cpu = this_cpu()
    blas = {
        f"{i['internal_api']} {i['version']} {i.get('architecture', '')}".strip() for i in blases()
    }
    return {
        "cpu": _cpu_model() or platform.processor(),
        "llvm_name": cpu.name,
        "cores": len(os.sched_getaffinity(0)),
        "vector_bits": cpu.widths[0],
        "memory": psutil.virtual_memory().total,
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "blas": sorted(blas),
    }


def machine_line(machine: dict[str, Any]) -> str:
    """The same in a line of text."""
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['vector_bits']}-bit vectors, "
        f"{machine['memory'] / 2**30:.0f} GiB, load {machine['load']}; "
        f"Python {machine['python']}, "
        + ", ".join(f"{name} {v}" for name, v in machine["packages"].items())
        + ", "
        + ", ".join(machine["blas"])
    )


def blases() -> list[dict[str, Any]]:
    """The BLAS libraries of this process."""
    return [i for i in threadpool_info() if i["user_api"] == "blas"]


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, None)
