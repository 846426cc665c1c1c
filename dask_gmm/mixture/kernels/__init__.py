"""The E-step: one block of rows and parameters in, sufficient statistics out."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from dask_gmm.errors import InputError
from dask_gmm.mixture.kernels.base import Candidate, Kernel
from dask_gmm.mixture.kernels.blas import BlasKernel
from dask_gmm.mixture.kernels.reference import ReferenceKernel

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["KERNELS", "Candidate", "Kernel", "get_kernel"]


def _compiled() -> Kernel:
    if not _llvm_is_installed():
        raise InputError(
            "kernel='compiled' needs the package llvmlite, which is not installed; install it, or "
            "choose kernel='auto' or 'blas'."
        )
    from dask_gmm.mixture.kernels.compiled import CompiledKernel

    return CompiledKernel()


def _llvm_is_installed() -> bool:
    return find_spec("llvmlite") is not None


def _fastest() -> Kernel:
    return _compiled() if _llvm_is_installed() else BlasKernel()


_KERNELS: dict[str, Callable[[], Kernel]] = {
    "compiled": _compiled,
    "blas": BlasKernel,
    "reference": ReferenceKernel,
}
KERNELS: tuple[str, ...] = tuple(_KERNELS)


def get_kernel(name: str = "auto") -> Kernel:
    """Return the kernel called `name`; "auto" is the fastest that is installed.

    That is the compiled kernel wherever llvmlite is installed, and else BLAS.

    Raises
    ------
    InputError
        There is no such kernel, or it needs a package that is not installed.
    """
    try:
        make = _fastest if name == "auto" else _KERNELS[name]
    except KeyError:
        raise InputError(
            f"kernel={name!r} is unknown; choose one of auto, {', '.join(KERNELS)}."
        ) from None
    return make()
