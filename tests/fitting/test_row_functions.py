"""What is said of a block's rows stays within the memory that a plan counts for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from dask_gmm.data.grid import BlockRef
from dask_gmm.fitting.anomalies import QuantilesJob
from dask_gmm.fitting.ranking import Distances, TopComponents
from dask_gmm.fitting.regression import Regressed
from dask_gmm.mixture.kernels import get_kernel
from dask_gmm.rows import Rows
from dask_gmm.scaling.elementwise import Elementwise
from dask_gmm.scaling.scaling import Scaling
from tests.marks import quick_ones
from tests.memory import peak_of
from tests.mixture.problems import draw, random_mixture

if TYPE_CHECKING:
    from dask_gmm.fitting.fields import FieldsFunction

N, D, K = 30_000, 6, 60
P, KERNEL = random_mixture(0, "full", K, D), get_kernel("blas")
ROWS = draw(1, P, N)
BENT = Scaling(D, Elementwise(("arcsinh",) * D, np.ones(D)))
FUNCTIONS: dict[str, FieldsFunction] = {
    "ranks": TopComponents(P, KERNEL, k=3),
    "distances": Distances(P, KERNEL),
    "regression": Regressed(P, KERNEL, targets=("a", "b"), columns=(0, 1, 2, 3), spread="std"),
    "covariances": Regressed(
        P, KERNEL, targets=("a", "b"), columns=(0, 1, 2, 3), spread="cov", scaling=BENT
    ),
}


@pytest.mark.parametrize("name", quick_ones(FUNCTIONS, ["ranks"]))
def test_the_plan_of_a_write_is_a_bound(name: str) -> None:
    function = FUNCTIONS[name]
    opened = function.open()
    bound = function.workspace_bytes(N) + KERNEL.workspace_bytes(D, [K], [P.form])
    bound += 2 * 8 * N * function.n_outputs
    assert peak_of(lambda: opened(ROWS), bound) <= bound
    assert bound < 8 * N * K * D, "not all rows × components at a time"


def test_the_plan_of_a_threshold_is_a_bound() -> None:
    job = QuantilesJob(P, KERNEL, 1000, N)
    opened, block = job.open(), BlockRef(0, (0,), (N,), N)
    bound = job.workspace_bytes + job.value_bytes
    assert peak_of(lambda: opened(Rows(ROWS), block), bound) <= bound
