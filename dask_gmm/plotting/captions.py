"""What to look for in each figure, in sentences for whoever sees one for the first time."""

from __future__ import annotations

from dask_gmm.errors import InputError

__all__ = ["FIGURES", "caption"]

_CAPTIONS = {
    "convergence": (
        "Above, the mean log-likelihood at each read of the data. Below, on a logarithmic axis, "
        "how much the fit guessed was still to be gained, or for plain EM what each iteration "
        "gained; the triangle is what it says in the end, rather too much than too little. The "
        "fit is done where the lower curve passes its tolerance, the dashed line. A curve that "
        "still falls where it ends says that more iterations would help; a long flat stretch "
        "before a last rise, that the fit was slow to find something. Crosses are steps that were "
        "tried and rejected: each cost a read and changed nothing."
    ),
    "components": (
        "Pairs of features. Shading is the density of a sample of the rows, on a logarithmic "
        "scale; ellipses are one and two standard deviations (of t distributions: scales) from the "
        "components' means, the thicker the more rows a component has. On the diagonal the values "
        "of each feature, under the mixture's own curve. Dense patches outside of every ellipse "
        "are rows that no component explains; several ellipses over one patch share what may be "
        "one cluster of another shape; an ellipse far larger than any patch gathers what is left "
        "over."
    ),
    "selection": (
        "How far each mixture's criterion is from the best, by its number of components; a line "
        "for each kind of covariance, and a ring around the one chosen. The axis is logarithmic "
        "but for its lowest part, so that small differences are seen: of BIC, 10 and more are "
        "clear. Where several points lie as low as the ring they describe the data equally well, "
        "and the smallest is the easiest to read. Where the ring is at the end of the curve, try "
        "larger numbers. Hollow points were given up when they could not win any more, and are "
        "where they were then."
    ),
    "certainty": (
        "For each component, how sure the mixture is of the rows that it labels so: the parts of "
        "them by the probability of their label. A bar that is dark nearly all along is a cluster "
        "of its own. Where much is pale a label says little: use the probabilities, and look in "
        "the overlap for the component that the rows are shared with. Orange rows have no label "
        "that is more probable than all others together."
    ),
    "overlap": (
        "Of the rows that belong to the component of a line, the part that would be drawn for the "
        "component of each column, on a logarithmic scale: lines add up to one. Separate clusters "
        "leave the squares off the diagonal faint. Two components with strong squares at both "
        "crossings describe one crowd together and may be parts of one cluster; a strong square on "
        "one side only is a small component beside a large one."
    ),
    "merging": (
        "How unsure it is which cluster rows belong to, when components are merged pair by pair "
        "from the right to the left: the entropy a row, by the number of clusters that are left. "
        "While parts of one cluster are merged it falls steeply; where it hardly falls any more "
        "clusters are merged that lie apart. The dashed lines describe the two parts of the curve "
        "best, and the ring is the number that was chosen. Where the curve has no clear bend no "
        "number of clusters is better than the others."
    ),
    "residuals": (
        "The part of each component's rows that is farther from its centre than a distance which a "
        "part p of its Gaussian's, or t distribution's, own rows exceeds, against p. On the dashed "
        "line the rows lie as that has them, as far as they can tell. A curve above it on the left "
        "has heavier tails: rows lie too far out for it, outliers or a cluster that is no ellipse. "
        "A curve below has shorter tails, as values that are cut off or bounded have."
    ),
    "map": (
        "The label of each place, by the colour that the component has in all figures; where "
        "there is none nothing is drawn. Regions of one colour with clean borders are to be "
        "expected where neighbours are alike, which the mixture does not know. Colours mixed like "
        "pepper and salt are labels that hang on noise: compare with the certainty of those "
        "components. Straight edges often follow from how the data were made: swaths, tiles, "
        "months."
    ),
    "profiles": (
        "Each component by feature, along their axis or in their order: a line at the middle of "
        "its rows, and a band between two quantiles of them. Components whose bands are apart "
        "somewhere are told apart there; those that overlap everywhere differ by how features go "
        "together, or hardly. A band much wider than the others belongs to a component that "
        "gathers what is left over."
    ),
    "timeline": (
        "Each thread's work along time: dark while it computed, light while it waited for rows. "
        "Much light says that reading is what the fit waits for: more threads, or a store that is "
        "nearer, help; all dark, that computing is. Gaps at the end of a pass are threads that "
        "had nothing left to do while others finished. Numbers are those of the passes, with how "
        "many units were lost and done again."
    ),
}

FIGURES = tuple(_CAPTIONS)
"""The names that `caption` knows, each of a function ``plot_`` so."""


def caption(name: str) -> str:
    """Return what to look for in a figure, a few sentences of plain text.

    Parameters
    ----------
    name : {'convergence', 'components', 'selection', 'certainty', 'overlap', 'residuals', 'map', \
'profiles', 'timeline'}
        Of the function that draws it, without ``plot_``.

    Raises
    ------
    InputError
        There is no such figure.

    Examples
    --------
    >>> from dask_gmm.plotting import FIGURES, caption
    >>> all(caption(name) for name in FIGURES)
    True
    """
    if name not in _CAPTIONS:
        raise InputError(f"name={name!r} is no figure; choose one of {', '.join(FIGURES)}.")
    return _CAPTIONS[name]
