"""What a fit that ended says to the user."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from sklearn.exceptions import ConvergenceWarning

from dask_gmm.errors import CollapsedComponentWarning
from dask_gmm.fitting.events import Outcome

if TYPE_CHECKING:
    from dask_gmm.fitting.fit import FitReport, FitSettings

__all__ = ["warn_of_ending"]


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
        said = (
            f"The {what} stopped after {best.n_iter} iterations and keeps the parameters "
            f"before the last one. {best.error}"
        )
    elif best.outcome in (Outcome.MAX_PASSES, Outcome.MAX_BYTES):
        budget = best.outcome.value
        said = (
            f"The {what} stopped after {len(report.history)} passes because of "
            f"{budget}={getattr(settings, budget):,}, before it converged. Raise it, or raise tol; "
            f"remaining_gain_ says how far the optimum may be."
        )
    elif best.outcome is not Outcome.CONVERGED and settings.max_iter > 0:
        said = (
            "Best performing initialization did not converge. Try different init parameters, "
            "or increase max_iter, tol, or check for degenerate data."
        )
    else:
        return
    warnings.warn(said, kind, stacklevel=stacklevel)
