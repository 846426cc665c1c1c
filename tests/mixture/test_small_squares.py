"""Squares too small for their type: float32 makes way for float64, float64 says: collapsed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from dask_gmm.errors import CollapsedComponentError, InputError
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.form import FULL
from dask_gmm.mixture.kernels import Candidate, get_kernel
from dask_gmm.mixture.kernels.compiled import CompiledKernel
from dask_gmm.mixture.kernels.compiled.kernel import CompiledEStep
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.rows import Rows
from tests.mixture.problems import FAMILIES, draw, maximize, random_mixture

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.statistics import SufficientStatistics


def scaled(p: MixtureParameters, scale: float) -> MixtureParameters:
    return MixtureParameters.create(p.family, p.weights, p.means * scale, p.covariances * scale**2)


def rows_of(p: MixtureParameters, scale: float) -> NDArray[np.float32]:
    return (draw(1, p, 500) * scale).astype(np.float32)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("d", [3, pytest.param(16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("scale", [1e-17, 1e-37])
def test_float32_rows_of_small_units(family: str, d: int, scale: float) -> None:
    p = random_mixture(0, family, 3, d)
    rows, small = rows_of(p, scale), scaled(p, scale)
    assert not CompiledKernel().plan(small, single_rows=True)[0].lanes.single
    found, right = (
        k.statistics(Rows(rows), [Candidate(small)])[0]
        for k in (CompiledKernel(), get_kernel("reference"))
    )
    np.testing.assert_allclose(found.counts, right.counts, rtol=1e-12)
    np.testing.assert_allclose(found.second, right.second, rtol=1e-9, atol=1e-9 * scale**2)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("d", [3, pytest.param(16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("scale", [1e-20, 1e-22, 1e-24])
def test_a_step_from_wide_to_tiny_keeps_the_digits(family: str, d: int, scale: float) -> None:
    """Float32 suits the parameters, and not the covariances that are found."""
    wide = random_mixture(0, family, 1, d, spread=0.0)
    rows = rows_of(random_mixture(2, family, 1, d, spread=0.0), scale)
    assert CompiledKernel().plan(wide, single_rows=True)[0].lanes.single
    exact = rows.astype(np.float64)
    found = maximize(CompiledKernel().statistics(Rows(rows), [Candidate(wide)])[0], 0.0)
    np.testing.assert_allclose(found.means[0], exact.mean(axis=0), rtol=1e-6)
    right = np.cov(exact.T, bias=True)
    dense = found.family.form.dense(found.covariances, 1, d)[0]
    if family == "spherical":
        right = np.trace(right) / d * np.eye(d)
    elif family == "diag":
        right = np.diag(np.diag(right))
    np.testing.assert_allclose(dense, right, atol=1e-6 * np.abs(right).max())


@pytest.mark.parametrize("d", [3, pytest.param(16, marks=pytest.mark.slow)])
def test_features_without_scatter_stay_in_float32(d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding is no small square: it must not make every block twice as dear."""
    p = random_mixture(0, "full", 2, d)
    rows = rows_of(p, 1.0)
    rows[:, 0] = 0.0
    means, covariances = np.array(p.means), np.array(p.covariances)
    means[:, 0], covariances[:, 0], covariances[:, :, 0] = 0.0, 0.0, 0.0
    covariances[:, 0, 0] = 1e-6
    padded = MixtureParameters.create(p.family, p.weights, means, covariances)
    asked: list[int] = []

    gather = CompiledEStep._gather_in_doubles

    def counting(self: CompiledEStep, rows: Rows, place: int) -> SufficientStatistics:
        asked.append(len(rows))
        return gather(self, rows, place)

    monkeypatch.setattr(CompiledEStep, "_gather_in_doubles", counting)
    CompiledKernel().statistics(Rows(rows), [Candidate(padded)])
    assert asked == []


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variance", [1e-309, 1e-320, 5e-324])
def test_a_variance_whose_inverse_is_no_number_has_collapsed(family: str, variance: float) -> None:
    kind, unit = covariance_family(family), _unit(family)
    with pytest.raises(CollapsedComponentError, match="scale the input data"):
        kind.form.factor(unit * variance)
    for sound in (1e-300, 1e300):
        factors = kind.form.factor(unit * sound)
        assert np.all(np.isfinite(kind.form.precisions(factors)))


def _unit(family: str) -> NDArray[np.float64]:
    return random_mixture(0, family, 1, 3).covariances


@pytest.mark.parametrize("family", FAMILIES)
def test_a_variance_that_is_no_number_is_said(family: str) -> None:
    covariances = np.array(_unit(family))
    covariances.reshape(-1)[0] = np.inf
    with pytest.raises(InputError, match="Scale the data"):
        covariance_family(family).form.factor(covariances)


def test_a_matrix_that_lapack_lets_pass_has_collapsed() -> None:
    singular = np.array([[[1e300, 1e160], [1e160, 1e10]]])
    with pytest.raises(CollapsedComponentError):
        FULL.factor(singular)
