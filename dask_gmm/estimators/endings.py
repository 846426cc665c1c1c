"""What a fit that ended says to the user."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from dask_gmm.errors import CollapsedComponentWarning, HeywoodWarning, UnitsWarning
from dask_gmm.fitting.events import Outcome
from dask_gmm.mixture.factors import FactorFamily, heywood_cases

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from dask_gmm.fitting.fit import FitReport
    from dask_gmm.fitting.settings import FitSettings

__all__ = ["warn_of_ending", "warn_of_heywood_cases", "warn_of_rounded_integers"]

# Rounding to multiples of s adds s²/12 to a variance: at this part of σ, 3e-5 of it.
_COARSE = 0.02


def warn_of_ending(
    report: FitReport, settings: FitSettings, what: str = "fit", stacklevel: int = 5
) -> None:
    """Say what was mended on the way, and how the fit ended if it did not converge.

    Parameters
    ----------
    report : FitReport
    settings : FitSettings
    what : str
        What has ended.
    stacklevel : int
        Makes the warnings point at the user's line: `fit`, validated, calls `_fit`, which calls
        this.
    """
    best = report.best
    for note in best.mended:
        warnings.warn(note, CollapsedComponentWarning, stacklevel=stacklevel)
    kind: type[Warning] = ConvergenceWarning
    if best.outcome is Outcome.COLLAPSED:
        kind = CollapsedComponentWarning
        message = (
            f"The {what} stopped after {best.n_iter} iterations and keeps the parameters "
            f"before the last one. {best.error}"
        )
    elif best.outcome in (Outcome.MAX_PASSES, Outcome.MAX_BYTES):
        budget = best.outcome.value
        message = (
            f"The {what} stopped after {len(report.history)} passes because of "
            f"{budget}={getattr(settings, budget):,}, before it converged. Raise it, or raise tol; "
            f"remaining_gain_ says how far the optimum may be."
        )
    elif best.outcome is not Outcome.CONVERGED and settings.max_iter > 0:
        message = (
            "Best performing initialization did not converge. Try different init parameters, "
            "or increase max_iter, tol, or check for degenerate data."
        )
    else:
        return
    warnings.warn(message, kind, stacklevel=stacklevel)


def warn_of_heywood_cases(report: FitReport, settings: FitSettings, stacklevel: int = 5) -> None:
    """Say so where the factors of a component leave a feature no noise of its own.

    Parameters
    ----------
    report : FitReport
    settings : FitSettings
    stacklevel : int
        As in `warn_of_ending`.
    """
    parameters = report.best.parameters
    if not isinstance(parameters.family, FactorFamily):
        return
    found = heywood_cases(parameters.covariances, settings.model.reg_covar)
    if not len(found):
        return
    component, feature = (int(i) for i in found[0])
    others = f", and {len(found) - 1} more such" if len(found) > 1 else ""
    warnings.warn(
        f"The factors of component {component} explain all of feature {feature}{others} (Heywood's "
        f"case): the likelihood grows as its noise vanishes, and reg_covar bounds that. Use fewer "
        f"factors, a larger reg_covar, or covariance_type='ppca', in which features share it.",
        HeywoodWarning,
        stacklevel=stacklevel,
    )


def warn_of_rounded_integers(report: FitReport, dtype: DTypeLike, stacklevel: int = 5) -> None:
    """Say so where integers beyond 2⁵³ became float64, and a component is about as narrow as that.

    Parameters
    ----------
    report : FitReport
    dtype : numpy dtype
        Of the data.
    stacklevel : int
        As in `warn_of_ending`.
    """
    if np.dtype(dtype).kind not in "iu" or np.dtype(dtype).itemsize < 8:
        return
    parameters, means = report.best.parameters, report.best.parameters.means
    variances = parameters.form.diagonals(parameters.covariances, *means.shape)
    if report.scaling is not None:
        standard = report.scaling.standard
        if standard is None or report.scaling.principal is not None or not report.scaling.linear:
            return
        means, variances = report.scaling.inverse(means), variances * standard.scale**2
    steps = np.spacing(np.abs(means))
    coarse = (steps > 1.0) & (steps > _COARSE * np.sqrt(variances))
    if not coarse.any():
        return
    k, i = (int(index) for index in np.argwhere(coarse)[0])
    step, width = steps[k, i], np.sqrt(variances[k, i])
    warnings.warn(
        f"The integers of feature {i} are beyond 2^53, where float64 rounds them to multiples of "
        f"{step:,.0f}; component {k} has a standard deviation of {width:,.3g} there. Subtract a "
        f"whole number near their mean before the fit.",
        UnitsWarning,
        stacklevel=stacklevel,
    )
