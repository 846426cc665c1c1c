"""Mixtures and their inspections, for figures: made up, so that no test waits for a fit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.fitting.events import Judgement, PassFinished, StepKind
from tests.inspected import inspected

if TYPE_CHECKING:
    from dask_gmm.inspection import Inspection

__all__ = ["HARD", "ORDINARY", "Made", "made", "passes"]


@dataclass
class Made:
    """A mixture with scikit-learn's fitted attributes."""

    weights_: Any
    means_: Any
    covariances_: Any
    covariance_type: str = "full"
    tol: float = 1e-3
    outcome_: str = "converged"
    history_: Any = ()
    remaining_gain_: float | None = None
    scaling_: Any = None
    lower_bounds_: list[float] = field(default_factory=list)
    degrees_of_freedom_: Any = None


def passes(*steps: tuple[str, float, float | None]) -> tuple[PassFinished, ...]:
    """Return a history of (kind, objective, what is left), of passes of half a second."""
    return tuple(
        PassFinished(
            i, (b,), 100, 10, 800, 0.5, 10, 0, judgement=Judgement(StepKind(kind), b, left)
        )
        for i, (kind, b, left) in enumerate(steps, start=1)
    )


HISTORY = passes(
    ("start", -3.0, None),
    ("plain", -2.5, 0.4),
    ("rejected", -9.0, None),
    ("accepted", -2.2, 0.02),
    ("accepted", -2.19, 5e-4),
)


def draw(K: int, D: int, n: int, seed: int, spread: float = 4.0) -> tuple[Made, Any]:
    """A mixture of random Gaussians, and rows of it."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(K, 3.0))
    means = spread * rng.normal(size=(K, D))
    roots = rng.normal(size=(K, D, D)) / np.sqrt(D) * 0.6 + np.eye(D)
    of = rng.choice(K, size=n, p=weights)
    rows = means[of] + np.einsum("nij,nj->ni", roots[of], rng.normal(size=(n, D)))
    gm = Made(weights, means, roots @ roots.transpose(0, 2, 1))
    gm.history_, gm.remaining_gain_ = HISTORY, 5e-4
    return gm, rows


def _cases() -> dict[str, Any]:
    def one_place() -> tuple[Made, Any]:
        gm, rows = draw(4, 2, 300, 3)
        gm.means_ = np.ones((4, 2))
        gm.covariances_ = np.broadcast_to(np.eye(2) * 1e-12, (4, 2, 2))
        return gm, np.ones_like(rows)

    def gaps() -> tuple[Made, Any]:
        gm, rows = draw(3, 4, 400, 4)
        rows[np.random.default_rng(0).random(rows.shape) < 0.3] = np.nan
        rows[:, 3] = np.nan
        return gm, rows

    def no_rows() -> tuple[Made, Any]:
        gm, rows = draw(4, 3, 300, 5)
        gm.means_[1] += 1e3  # nothing is near
        gm.weights_ = np.array([0.5, 0.3, 0.2, 0.0])
        return gm, rows

    def units() -> tuple[Made, Any]:
        gm, rows = draw(3, 4, 500, 6)
        scale, offset = np.array([1e-7, 1.0, 1e6, 300.0]), np.array([0.0, 1e5, -1e8, 0.0])
        gm.means_ = gm.means_ * scale + offset
        gm.covariances_ = gm.covariances_ * np.multiply.outer(scale, scale)
        return gm, rows * scale + offset

    def old() -> tuple[Made, Any]:
        gm, rows = draw(2, 2, 200, 7)
        gm.history_, gm.lower_bounds_ = (), [-3.0, -2.0, -1.9]
        return gm, rows

    def shared(kind: str) -> tuple[Made, Any]:
        gm, rows = draw(3, 3, 300, 8)
        full = gm.covariances_
        variances = np.diagonal(full, axis1=1, axis2=2)
        forms = {"tied": full[0], "diag": variances, "spherical": variances.mean(axis=1)}
        return replace(gm, covariances_=forms[kind], covariance_type=kind), rows

    def tails() -> tuple[Made, Any]:
        gm, rows = draw(4, 3, 1500, 13)
        rng = np.random.default_rng(13)
        rows += rng.standard_t(1.0, size=rows.shape) * (rng.random((len(rows), 1)) < 0.1)
        return replace(gm, degrees_of_freedom_=np.array([0.6, 2.0, 5.0, 1e5])), rows

    return {
        "two features": lambda: draw(4, 2, 1500, 0),
        "overlapping": lambda: draw(12, 8, 3000, 1, spread=1.2),
        "many components": lambda: draw(40, 5, 4000, 2, spread=6.0),
        "one feature": lambda: draw(3, 1, 500, 9),
        "one component": lambda: draw(1, 3, 500, 10),
        "sixty": lambda: draw(60, 3, 2000, 11),
        "hundred features": lambda: draw(4, 100, 300, 12, spread=1.0),
        "one place": one_place,
        "gaps": gaps,
        "no rows": no_rows,
        "units": units,
        "old": old,
        "heavy tails": tails,
        **{kind: (lambda kind=kind: shared(kind)) for kind in ("tied", "diag", "spherical")},
    }


_CASES = _cases()
ORDINARY = ("two features", "overlapping", "many components")
HARD = tuple(name for name in _CASES if name not in ORDINARY)


@cache
def made(name: str) -> tuple[Made, Inspection]:
    """Return a mixture and what its rows say of it; not to be changed."""
    gm, rows = _CASES[name]()
    return gm, inspected(rows, gm)
