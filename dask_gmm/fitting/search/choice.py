"""Whether a fit searches, and how much: settles `search=`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_gmm.fitting.search.search import SearchBudget

if TYPE_CHECKING:
    from dask_gmm.data.source import Source

__all__ = ["SEARCHES", "choose_search"]

SEARCHES = ("auto", "off", "thorough")

# Where nothing has come of so many moves, what comes of more is seldom worth their time. What comes
# of another end is: where no move leads out of the best one, one leads past it from the next.
_AUTO = SearchBudget(moves=1_000, patience=48, starts=2)
_THOROUGH = SearchBudget(moves=10_000, patience=96, starts=3)
# A search and the starts that it sets out from take about as much arithmetic as four hundred
# E-steps over the sample, plain EM up to a hundred over all rows: from so many samples on it is the
# lesser part of a fit.
_SAMPLES_IN_MEMORY = 10


def choose_search(
    asked: str | int,
    source: Source,
    size: int,
    *,
    acceleration_asked: str | None,
    acceleration: str | None,
    given: bool,
) -> SearchBudget | None:
    """Settle "auto", and how many moves a search may try; None for no search.

    "auto" searches where a read costs more than arithmetic on the sample: in data of a store or of
    a Dask collection that do not fit into the sample. A search for K components takes a few dozen
    to a few hundred E-steps over it; restarts that come as far would take as many over all rows. Of
    arrays in memory, where both are arithmetic, it searches those of ten times the sample's rows.
    Whoever gives starting values or a warm start has chosen an optimum, and whoever asks for
    `acceleration=None` has asked for scikit-learn's EM: there it is off, and so it is for squarem,
    where no sample says much of the mixture.

    Parameters
    ----------
    asked : {"auto", "off", "thorough"} or int
        Most moves; 0 is off.
    source : Source
    size : int
        Rows of the sample.
    acceleration_asked, acceleration : str or None
        As the user has it, and as it was chosen.
    given : bool
        Whether the fit begins at parameters that the user gave, in part or as a whole.
    """
    if asked in ("off", 0):
        return None
    if asked == "thorough":
        return _THOROUGH
    if not isinstance(asked, str):
        return SearchBudget(moves=asked, patience=asked)
    if given or acceleration_asked is None:
        return None
    n_rows = source.n_rows
    if source.in_memory:
        return _AUTO if n_rows is not None and n_rows >= _SAMPLES_IN_MEMORY * size else None
    return _AUTO if acceleration == "variance-reduced" else None
