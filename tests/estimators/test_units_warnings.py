"""What users are told of units that `reg_covar` or float64 does not suit."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dask_gmm import GaussianMixture, select_gaussian_mixture
from dask_gmm.errors import InputError, UnitsWarning

if TYPE_CHECKING:
    from numpy.typing import NDArray

N = 600
RNG = np.random.default_rng(3)
STANDARD = RNG.standard_normal((N, 2)) + np.where(np.arange(N) < N // 3, 8.0, 0.0)[:, None]


def fitted(rows: NDArray[Any], reg_covar: float) -> GaussianMixture:
    gm: GaussianMixture = GaussianMixture(2, reg_covar=reg_covar, random_state=0).fit(rows)
    return gm


def test_a_feature_that_reg_covar_hides_is_named() -> None:
    hidden = np.column_stack([STANDARD, 1e-20 * STANDARD[:, 0], np.full(N, 3.0)])
    with pytest.warns(UnitsWarning, match=r"reg_covar=1e-06 .* feature 2: .* Lower reg_covar"):
        GaussianMixture(2, random_state=0).fit(hidden)
    with pytest.warns(UnitsWarning, match="feature 2"):
        select_gaussian_mixture(hidden, 2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GaussianMixture(2, random_state=0).fit(STANDARD)
        constant = np.column_stack([STANDARD, np.full(N, 3.0)])
        GaussianMixture(2, random_state=0).fit(constant)
        GaussianMixture(2, random_state=0, reg_covar=0.0).fit(1e-20 * STANDARD)


def test_integers_that_float64_rounds_are_spoken_of() -> None:
    far = np.int64(2**60)
    narrow, wide = np.rint(200.0 * STANDARD), np.rint(1e6 * STANDARD)
    with pytest.warns(UnitsWarning, match=r"beyond 2\^53, .* multiples of 256; .* Subtract a"):
        fitted(narrow.astype(np.int64) + far, 1e-6)
    with pytest.warns(UnitsWarning, match="Subtract"):
        select_gaussian_mixture(narrow.astype(np.int64) + far, 2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnitsWarning)
        fitted(wide.astype(np.int64) + far, 1e-6)
        fitted(narrow.astype(np.int64), 1e-6)


def test_a_score_beyond_float64_is_refused() -> None:
    gm = fitted(STANDARD, 1e-6)
    rows = np.full((5000, 2), 2e153)
    assert np.all(np.isfinite(gm.score_samples(rows)))
    with pytest.raises(InputError, match="too large for float64"):
        gm.score(rows)
