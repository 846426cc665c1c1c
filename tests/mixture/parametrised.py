"""mclust's families by their definition: covariances as a function of free parameters.

Σ_k = λ_k D_k A_k D_kᵀ, with log λ_k, all but one of log A_k, and the angles of D_k free, each once
or for every component, as a family's letters say. What is here knows nothing of the package: it is
for oracles, the maximum by brute force and the number of parameters by the rank of a Jacobian.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def n_free(name: str, k: int, d: int) -> int:
    """How many numbers `covariances_at` takes."""
    many = {"E": 1, "V": k, "I": 0}
    volume, shape, orientation = (many[letter] for letter in name)
    return volume + shape * (d - 1) + orientation * (d * (d - 1) // 2)


def covariances_at(name: str, free: Array, k: int, d: int) -> Array:
    """Dense covariances, (K, D, D)."""
    many = {"E": 1, "V": k, "I": 0}
    volumes, shapes, orientations = (many[letter] for letter in name)
    sizes = np.exp(free[:volumes])
    rest = free[volumes:]
    logs = rest[: shapes * (d - 1)].reshape(shapes, d - 1)
    angles = rest[shapes * (d - 1) :].reshape(orientations, d * (d - 1) // 2)
    found = np.empty((k, d, d))
    for j in range(k):
        shape = np.ones(d)
        axes: Array = np.eye(d)
        if shapes:
            mine = logs[j % shapes]
            shape = np.exp(np.append(mine, -mine.sum()))
        if orientations:
            upper = np.zeros((d, d))
            upper[np.triu_indices(d, 1)] = angles[j % orientations]
            skew = upper - upper.T
            turned = np.linalg.solve(np.eye(d) - skew, np.eye(d) + skew)
            axes = np.asarray(turned, dtype=np.float64)  # Cayley's
        found[j] = sizes[j % volumes] * (axes * shape) @ axes.T
    return found


def expected(counts: Array, scatter: Array, covariances: Array) -> float:
    """−½ Σ_k N_k log|Σ_k| + tr(Σ_k⁻¹ W_k), in nats per unit of weight: the M-step's objective."""
    logs = np.linalg.slogdet(covariances)[1]
    squares = np.einsum("kij,kji->k", np.linalg.inv(covariances), scatter)
    return float(-0.5 * (counts @ logs + squares.sum()) / counts.sum())
