"""The kernel as machine code for this CPU, by LLVM."""

from __future__ import annotations

from dask_gmm.mixture.kernels.compiled.kernel import CompiledKernel

__all__ = ["CompiledKernel"]
