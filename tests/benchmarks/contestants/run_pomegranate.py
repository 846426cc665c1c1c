"""pomegranate, on PyTorch's CPU back end, for `bench_fit`.

Its fit never stops early here (the tolerance is minus infinity), and its checks of the input's
values, which cost time, are switched off.
"""

from __future__ import annotations

import sys
from importlib.metadata import version

import torch
from pomegranate.distributions import Normal
from pomegranate.gmm import GeneralMixtureModel
from serving import Fit, Fitted, Problem, serve

torch.set_num_threads(int(sys.argv[1]))


def prepare(problem: Problem) -> Fit:
    rows = torch.from_numpy(problem.rows)
    weights, means, covariances = (
        torch.tensor(a, dtype=rows.dtype)
        for a in (problem.weights, problem.means, problem.covariances)
    )

    def fit(iterations: int) -> Fitted:
        normals = [
            Normal(
                mean.clone(), covariance.clone(), covariance_type=problem.family, check_data=False
            )
            for mean, covariance in zip(means, covariances, strict=True)
        ]
        model = GeneralMixtureModel(
            normals,
            priors=weights.clone(),
            max_iter=iterations,
            tol=-float("inf"),
            check_data=False,
        )
        with torch.no_grad():
            model.fit(rows)
        return lambda: {
            "weights": model.priors.numpy(),
            "means": torch.stack([n.means for n in normals]).numpy(),
            "covariances": torch.stack([n.covs for n in normals]).numpy(),
            "iterations": iterations,
        }

    return fit


serve({name: version(name) for name in ("pomegranate", "torch")}, prepare, cpu=True)
