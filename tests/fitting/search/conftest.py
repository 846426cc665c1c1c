"""What the tests of the search share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dask_gmm.execution.machine import single_threaded_blas

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="package", autouse=True)
def _one_blas_thread() -> Iterator[None]:
    """As in a fit: small matrices on many threads cost more than they save."""
    with single_threaded_blas():
        yield
