"""What to look for in each figure, in sentences for whoever sees one for the first time."""

from __future__ import annotations

from dask_gmm.errors import InputError

__all__ = ["FIGURES", "caption"]

_CAPTIONS = {
    "convergence": (
        "The mean log-likelihood after each read of the data, above; below, on a logarithmic axis, "
        "how much was still to be gained. The fit is done where the lower curve has passed the "
        "line of its tolerance. A curve that still falls steadily where it ends says that more "
        "iterations would help; a long flat stretch before a last rise, that the fit was slow to "
        "find something. Crosses are steps that were tried and rejected: each cost a read and "
        "changed nothing."
    ),
    "components": (
        "Pairs of features. Grey is the density of a sample of the rows, on a logarithmic scale; "
        "ellipses hold the components' one and two standard deviations, the thicker the more rows "
        "a component has. On the diagonal the values of each feature and, in black, the mixture's "
        "own curve. Dark patches outside of every ellipse are rows that no component explains; "
        "several ellipses over one patch share what may be one cluster of another shape; an "
        "ellipse far larger than any patch gathers what is left over."
    ),
    "selection": (
        "The criterion by number of components, a line for each kind of covariance; the chosen "
        "mixture has a ring. A clear minimum (maximum for held-out rows) is a clear answer. Where "
        "the curve is flat several numbers describe the data equally well, and the smallest is the "
        "easiest to read; where the ring is at the end of the curve, try larger numbers. Hollow "
        "points were given up when they could not win any more, and their values are those that "
        "they had then."
    ),
    "certainty": (
        "For each component, how sure the mixture is of the rows that it labels so: the part of "
        "them by their largest probability, and how many are above 0.9. Components whose rows pile "
        "up at 1 are clusters of their own. Where rows lie to the left, a label says little: use "
        "the probabilities, and look at the overlap for the component they are shared with."
    ),
    "overlap": (
        "Of the rows that belong to the component of a line, the part that would be drawn for the "
        "component of each column, on a logarithmic scale: lines add up to one. Separate clusters "
        "leave the squares off the diagonal pale. Two components with dark squares at both "
        "crossings describe one crowd together and may be two parts of one cluster; a dark square "
        "on one side only is a small component inside a large one."
    ),
    "residuals": (
        "Of each component's rows, the part farther from its centre than a distance that a part p "
        "of a Gaussian's rows exceeds, against p. On the diagonal the component is Gaussian as "
        "far as these rows can tell. A curve that leaves it upwards on the left has heavier tails: "
        "rows there are too far for it, outliers or a cluster that is no ellipse. A curve below "
        "has shorter tails than a Gaussian, as values that are cut off or lie on a grid have."
    ),
    "map": (
        "The label of each place, by the colour that the component has in all figures; white has "
        "none. Large regions of one colour with clean borders are what is to be expected where "
        "neighbours resemble each other, which the mixture does not know. Colours mixed like "
        "pepper and salt are labels that hang on noise: compare with the certainty of those components. "
        "Straight edges often follow from how the data were made: swaths, tiles, months."
    ),
    "profiles": (
        "Each component by feature, in their order or along their axis: the median of its rows and "
        "the band between the quantiles named. Components whose bands do not meet somewhere are "
        "told apart there; those that overlap everywhere differ by how features go together, or "
        "hardly. A band much wider than the others' belongs to a component that gathers what is "
        "left over."
    ),
    "timeline": (
        "Each thread's work along time: dark while it computed, light while it waited for rows. "
        "Much light says that reading is what the fit waits for: more threads, or a store that is "
        "nearer, help; all dark, that computing is. White at the end of a pass is a thread that "
        "had nothing left to do while others finished. Crosses mark passes in which work was lost "
        "and done again."
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
    """
    if name not in _CAPTIONS:
        raise InputError(f"name={name!r} is no figure; choose one of {', '.join(FIGURES)}.")
    return _CAPTIONS[name]
