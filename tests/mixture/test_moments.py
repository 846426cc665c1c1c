"""What a program's `finish` writes and says, against the same in NumPy from the same sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dask_gmm.mixture.form import TIED
from dask_gmm.mixture.kernels import Candidate, features
from dask_gmm.mixture.kernels.compiled import CompiledKernel
from dask_gmm.mixture.kernels.compiled.compiler import this_cpu
from dask_gmm.mixture.kernels.compiled.moments import (
    FEWEST_ROWS,
    NARROW_FOR_SHARED,
    NARROW_FOR_SINGLE,
    NOT_FINITE,
    SHARED,
    SMALLEST_SINGLE_VARIANCE,
)
from dask_gmm.mixture.kernels.compiled.packing import SMALLEST_SHARED_VARIANCE
from dask_gmm.mixture.kernels.compiled.run import Run
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.mixture.statistics import SufficientStatistics
from tests.marks import quick_ones
from tests.mixture.problems import FAMILIES, random_mixture

if TYPE_CHECKING:
    from dask_gmm.mixture.kernels.compiled.design import Design

K = 5


@dataclass
class Moments:
    """About some points: N (K,), G (K, D), and C as (K, D, D) or (K, D) of each component."""

    counts: np.ndarray
    first: np.ndarray
    second: np.ndarray

    @classmethod
    def of_rows(cls, rng: np.random.Generator, d: int, dense: bool, scale: float) -> Moments:
        """Of components that are all narrow, or not so narrow, or wide beside their distance."""
        counts = rng.uniform(rng.choice([0.0, FEWEST_ROWS]), 3.0 * FEWEST_ROWS, size=K)
        means = scale * rng.normal(size=(K, d))
        widths = scale * rng.choice([1e-5, 0.1, 10.0]) * rng.uniform(0.2, 1.0, size=(K, d))
        outer = means[:, :, None] * means[:, None]
        outer += widths[:, :, None] * np.eye(d) * widths[:, None]
        second = counts[:, None, None] * outer
        found = cls(counts, counts[:, None] * means, second)
        return found if dense else cls(counts, found.first, np.einsum("kii->ki", second).copy())

    def moved(self, shift: np.ndarray) -> Moments:
        """About points that lie `shift` below."""
        n = self.counts[:, None]
        if self.second.ndim == 3:
            cross = shift[:, :, None] * self.first[:, None]
            extra = cross + cross.transpose(0, 2, 1)
            extra += n[:, :, None] * shift[:, :, None] * shift[:, None]
        else:
            extra = shift * (2.0 * self.first + n * shift)
        return Moments(self.counts, self.first + n * shift, self.second + extra)

    def plus(self, other: Moments) -> Moments:
        """Of both; the counts of the other are part of these already."""
        return Moments(self.counts, self.first + other.first, self.second + other.second)


def packed(
    design: Design, own: Moments, products: Moments | None, rng: np.random.Generator
) -> np.ndarray:
    """(K, sums) as a program leaves them, what is kept in lanes torn at random."""
    d, n = design.n_features, design.lanes.count
    i, j = np.tril_indices(d) if design.dense else (np.arange(d),) * 2

    def lanes(values: np.ndarray) -> np.ndarray:
        shares = rng.dirichlet(np.ones(n), size=values.shape)
        return (values[..., None] * shares).reshape(len(values), -1)

    def triangle(m: Moments) -> np.ndarray:
        return m.second[:, i, j] if design.dense else m.second

    sums = np.zeros((K, design.sums))
    sums[:, : design.first_offset] = lanes(own.counts[:, None])
    first = sums[:, design.first_offset : design.second_offset]
    second = sums[:, design.second_offset : design.shared_offset]
    if design.short_rows:
        first[:], second[:] = lanes(own.first), lanes(triangle(own))
    elif design.dense:
        first[:, :d] = own.first
        square = rng.normal(size=(K, design.padded, design.padded))  # above the diagonal: anything
        square[:, i, j] = triangle(own)
        second[:] = square.reshape(K, -1)
    else:
        first[:, :d], second[:, :d] = own.first, own.second
    if products is not None:
        sums[:, design.shared_offset :][:, :n] = lanes(products.counts[:, None])
        sums[:, design.shared_offset + n :] = around_the_circle(design, products, rng)
    return sums


def around_the_circle(design: Design, m: Moments, rng: np.random.Generator) -> np.ndarray:
    """(K, products) of x_i x_{i+s} by s and i, then of x_i; anything where neither is kept."""
    d, linear = design.n_features, design.n_second_products * design.lanes.count
    found = rng.normal(size=(K, design.n_products * design.lanes.count))
    found[:, linear : linear + d] = m.first
    for s in range(d // 2 + 1 if design.dense else 1):
        for i in range(d):
            place, j = s * design.padded + i, (i + s) % d
            if place < linear:
                found[:, place] = m.second[:, i, j] if design.dense else m.second[:, i]
    return found


def in_family(m: Moments, family: str) -> np.ndarray:
    axis = {"tied": 0, "spherical": 1}.get(family)
    return m.second if axis is None else np.sum(m.second, axis=axis)


def is_narrow(m: Moments, family: str, reference: np.ndarray, limit: float) -> bool:
    """Whether a variance is below `limit` times the mean square of the distances from c."""
    safe = np.maximum(m.counts, FEWEST_ROWS)[:, None]
    many, means = m.counts >= FEWEST_ROWS, m.first / safe
    if family == "tied":
        total = max(m.counts.sum(), FEWEST_ROWS)
        square = np.diagonal(m.second.sum(axis=0)) / total
        variances = square - (m.first * means).sum(axis=0) / total
        return bool(np.any(variances < limit * ((reference**2).max(axis=0) + square)))
    square = (np.einsum("kii->ki", m.second) if m.second.ndim == 3 else m.second) / safe
    variances = square - means**2
    if family == "spherical":
        square, variances = (x.mean(axis=1, keepdims=True) for x in (square, variances))
    return bool(np.any((variances < limit * (reference**2 + square))[many]))


def prepared(family: str, d: int, width: int, *, single: bool, seed: int, scale: float) -> Run:
    p = random_mixture(seed, family, K, d)
    p = MixtureParameters.create(p.family, p.weights, scale * p.means, p.covariances)
    centre = features.common_centre(p)
    if single:
        centre = centre.astype(np.float32).astype(np.float64)
    design = CompiledKernel(width).design(family, d, K, single, single)
    return Run(design, [Candidate(p)], centre)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("d", quick_ones([3, 16], [3]))
@pytest.mark.parametrize("single", [False, True])
def test_sums_become_statistics(family: str, d: int, single: bool) -> None:
    heard = set()
    for width in this_cpu().widths if d < 8 else this_cpu().widths[:1]:
        for seed in range(24):
            rng = np.random.default_rng(seed)
            scale = 10.0 ** rng.integers(-1, 4)
            run = prepared(family, d, width, single=single, seed=seed, scale=scale)
            design, member = run.design, run._members[0]
            own = Moments.of_rows(rng, d, design.dense, scale)
            shares = design.shares_products and seed % 2 == 0
            products = Moments.of_rows(rng, d, design.dense, scale) if shares else None
            totals = member["totals" if single else "sums"]
            sums = packed(design, own, products, rng)
            totals[: sums.size] = sums.reshape(-1)
            lanes = member["log_likelihood"]
            lanes[:] = rng.normal(size=lanes.size)
            found, said = run.finish(0)

            reference = run._references(member)
            about = own if products is None else own.plus(products.moved(-reference))
            expected = about
            if single:
                shifts = member["shifts"].reshape(K, d)
                assert 0.0 < np.abs(shifts).max() <= 1e-6 * scale * 100.0
                shifts[:] = rng.normal(size=(K, d))  # large enough to be seen
                found, _ = run.finish(0)
                expected = about.moved(shifts)
            found[1] = 1.0
            kind = random_mixture(0, family, 1, 1).form
            s = SufficientStatistics.around(kind, np.zeros((K, d)), 1, found)
            size = np.abs(expected.second).max() + np.abs(reference).max() ** 2 * 3 * FEWEST_ROWS
            assert s.log_likelihood == pytest.approx(lanes.sum(), rel=1e-13, abs=1e-13)
            np.testing.assert_allclose(s.counts, expected.counts, rtol=1e-14)
            np.testing.assert_allclose(s.first, expected.first, rtol=1e-13, atol=1e-13 * size)
            second = in_family(expected, family)
            np.testing.assert_allclose(s.second, second, rtol=1e-13, atol=1e-13 * size)
            if kind is TIED or second.ndim == 3:
                np.testing.assert_array_equal(s.second, np.swapaxes(s.second, -1, -2))
            right = SHARED * (products is not None)
            for limit, bit in (
                (SMALLEST_SHARED_VARIANCE, NARROW_FOR_SHARED),
                (SMALLEST_SINGLE_VARIANCE, NARROW_FOR_SINGLE),
            ):
                right |= bit * is_narrow(about, family, reference, limit)
            assert said == right
            heard.add(said & ~SHARED)
    assert {0, NARROW_FOR_SHARED, NARROW_FOR_SHARED | NARROW_FOR_SINGLE} <= heard


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_moment_beyond_float64_is_said(family: str, value: float) -> None:
    run = prepared(family, 3, this_cpu().widths[0], single=False, seed=0, scale=1.0)
    design, sums = run.design, run._members[0]["sums"]
    sums[: K * design.sums] = packed(
        design, Moments.of_rows(np.random.default_rng(1), 3, design.dense, 1.0), None,
        np.random.default_rng(2),
    ).reshape(-1)  # fmt: skip
    assert not run.finish(0)[1] & NOT_FINITE
    sums[(K - 1) * design.sums + design.second_offset + 2] = value
    assert run.finish(0)[1] & NOT_FINITE
