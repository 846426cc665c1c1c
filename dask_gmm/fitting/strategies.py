"""From a start and settings to the strategy that the loop advances: the one place that chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.fitting.loop import PlainEM

if TYPE_CHECKING:
    from dask_gmm.fitting.collapse import MStep
    from dask_gmm.fitting.fit import FitSettings
    from dask_gmm.fitting.loop import Strategy
    from dask_gmm.mixture.parameters import MixtureParameters

__all__ = ["make_strategy"]


def make_strategy(
    start: MixtureParameters,
    settings: FitSettings,
    m_step: MStep,
    previous_bound: float = -np.inf,
) -> Strategy:
    """Return the strategy that goes from `start` as `settings` say.

    Parameters
    ----------
    start : MixtureParameters
    settings : FitSettings
    m_step : MStep
        Of this restart alone: it keeps notes.
    previous_bound : float
        The lower bound that a warm start continues from.
    """
    return PlainEM(
        start, settings.tol, settings.max_iter, settings.reg_covar, previous_bound, m_step
    )
