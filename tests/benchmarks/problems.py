"""The problems that `bench_fit` sets: rows around random means, and a start that all are given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

KINDS = {"separated": 12.0, "overlapping": 1.5}
"""Typical distance of two components' means, in their σ."""


@dataclass(frozen=True)
class Case:
    """A shape of problem; `kind` says how far the components lie apart."""

    family: str
    rows: int
    features: int
    components: int
    dtype: str
    kind: str

    @property
    def label(self) -> str:
        """The words by which `--case` chooses it, but for its rows."""
        shape = f"D={self.features} K={self.components}"
        return f"{self.family} {shape} {self.dtype} {self.kind}"

    def scaled(self, part: int) -> Case:
        """The same with a part of the rows."""
        return replace(self, rows=self.rows // part)


CASES = tuple(
    Case(family, rows, d, k, dtype, kind)
    for family, rows, d, k in (
        ("full", 1_000_000, 4, 8),
        ("full", 1_000_000, 16, 16),
        ("full", 500_000, 32, 32),
        ("full", 200_000, 128, 8),
        ("diag", 1_000_000, 16, 16),
        ("diag", 500_000, 32, 64),
    )
    for dtype in ("float64", "float32")
    for kind in KINDS
)


@dataclass(frozen=True)
class Start:
    """Parameters of a mixture; covariances are (K, D, D), or (K, D) for diagonal ones."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray


def simulate(case: Case) -> tuple[np.ndarray, Start]:
    """Rows (N, D) around means of the case's kind, and a start somewhat beside the truth."""
    rng = np.random.default_rng(0)
    k, d = case.components, case.features
    means = KINDS[case.kind] / np.sqrt(2.0 * d) * rng.normal(size=(k, d))
    rows = np.empty((case.rows, d), case.dtype)
    for block in np.array_split(rows, max(1, case.rows // 50_000)):  # float64 of a block only
        block[...] = means[rng.integers(k, size=len(block))] + rng.normal(size=block.shape)
    covariance = 1.5 * (np.eye(d) if case.family == "full" else np.ones(d))
    start = Start(
        np.full(k, 1.0 / k), means + 0.1 * rng.normal(size=(k, d)), np.stack([covariance] * k)
    )
    return rows, start


def write(case: Case, folder: Path) -> np.ndarray:
    """Put rows.npy and start.npz into a folder; returns the rows."""
    rows, start = simulate(case)
    np.save(folder / "rows.npy", rows)
    np.savez(
        folder / "start.npz",
        weights=start.weights,
        means=start.means,
        covariances=start.covariances,
    )
    return rows


def log_likelihood(case: Case, rows: np.ndarray, found: Path) -> float:
    """Mean log-likelihood of the first rows at parameters in a file, in nats a row.

    One judge for all contestants, none of them: logarithms of Gaussian densities by Cholesky
    factors, in float64.
    """
    some = rows[:20_000].astype(np.float64)
    with np.load(found) as p:
        weights, means, covariances = (
            p[name].astype(np.float64) for name in ("weights", "means", "covariances")
        )
    terms = np.empty((len(weights), len(some)))
    for term, weight, mean, covariance in zip(terms, weights, means, covariances, strict=True):
        square = covariance if case.family == "full" else np.diag(covariance)
        factor = np.linalg.cholesky(square)
        whitened = np.linalg.solve(factor, (some - mean).T)
        log_det = 2.0 * np.log(np.diag(factor)).sum()
        constant = log_det + case.features * np.log(2.0 * np.pi)
        term[...] = np.log(weight) - 0.5 * (constant + (whitened**2).sum(axis=0))
    return float(np.logaddexp.reduce(terms, axis=0).mean())
