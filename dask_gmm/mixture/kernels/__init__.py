"""The E-step: one block of rows and parameters in, sufficient statistics out."""

from __future__ import annotations

from dask_gmm.errors import InputError
from dask_gmm.mixture.kernels.base import Candidate, EStep, Kernel, Predictor
from dask_gmm.mixture.kernels.blas import BlasKernel
from dask_gmm.mixture.kernels.installed import COMPILED, FASTEST, STUDENT
from dask_gmm.mixture.kernels.marginal import MarginalKernel
from dask_gmm.mixture.kernels.reference import ReferenceKernel

__all__ = [
    "FASTEST",
    "KERNELS",
    "STUDENT",
    "Candidate",
    "EStep",
    "Kernel",
    "MarginalKernel",
    "Predictor",
    "get_kernel",
]

_KERNELS: dict[str, Kernel] = {
    "compiled": COMPILED,
    "blas": BlasKernel(),
    "reference": ReferenceKernel(),
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
    if name == "auto":
        return FASTEST
    if name not in _KERNELS:
        raise InputError(f"kernel={name!r} is unknown; choose one of auto, {', '.join(KERNELS)}.")
    if _KERNELS[name] is COMPILED:
        COMPILED.here()  # say so now if it is not
    return _KERNELS[name]
