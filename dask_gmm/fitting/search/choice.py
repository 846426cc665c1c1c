"""Whether a fit searches, and how much: settles `search=`."""

from __future__ import annotations

from dask_gmm.errors import InputError
from dask_gmm.fitting.search.search import SearchBudget

__all__ = ["SEARCHES", "asked_search", "choose_search"]

SEARCHES = ("auto", "off", "thorough")

# Where nothing has come of so many moves, what comes of more is seldom worth their time. What comes
# of other rows that are fitted, and judge, is: bounds that rank moves are estimates from them.
_AUTO = SearchBudget(moves=1_000, patience=48, turns=2)
_THOROUGH = SearchBudget(moves=10_000, patience=96, turns=3)


def asked_search(search: str | int) -> str | int:
    """Return `search=` as settings hold it: words, or a Python integer above zero."""
    if isinstance(search, str):
        return search
    return int(search) or "off"


def choose_search(
    asked: str | int, *, acceleration: str | None, given: bool, conjugate: bool = True
) -> SearchBudget | None:
    """Settle "auto", and how many moves a search may try; None for no search.

    "auto" searches where `choose_acceleration` has found that arithmetic on the sample is the
    lesser part of a fit and "variance-reduced" fits: in data of a store or of a Dask collection
    that do not fit into the sample, and in arrays in memory of fifty times its rows. A search and
    the starts that it sets out from take about as much arithmetic as four hundred E-steps over the
    sample. Plain EM stays scikit-learn's, squarem has no sample that says much of the mixture, and
    whoever gives starting values or a warm start has chosen an optimum: there it is off. What a
    read takes by the clock has no say, as fits to the same data have to end at the same bits.

    Parameters
    ----------
    asked : {"auto", "off", "thorough"} or int
        Most moves; 0 is off.
    acceleration : str or None
        As it was chosen.
    given : bool
        Whether the fit begins at parameters that the user gave, in part or as a whole.
    conjugate : bool
        Whether the model is (`MixtureModel.conjugate`): moves are ranked in moments.

    Raises
    ------
    InputError
        A search is asked for, and the model is not conjugate.
    """
    asked = asked_search(asked)
    if not conjugate:
        if asked in ("auto", "off"):
            return None
        raise InputError(
            f"search={asked!r} does not go with this model: its moves are judged by what a mixture "
            f"fitted by maximum likelihood gains. Leave search at 'auto', which is off here, and "
            f"try more starts with n_init."
        )
    if asked == "off":
        return None
    if asked == "thorough":
        return _THOROUGH
    if not isinstance(asked, str):
        return SearchBudget(moves=asked, patience=asked)
    return _AUTO if acceleration == "variance-reduced" and not given else None
