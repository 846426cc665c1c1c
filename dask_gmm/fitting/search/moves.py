"""Moves: a removal and a split together, which leave the number of components as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dask_gmm.fitting.search.parts import Draft

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.fitting.search.removals import Removal
    from dask_gmm.fitting.search.splits import Split
    from dask_gmm.mixture.parameters import MixtureParameters

__all__ = ["Move", "disjoint", "moved", "ranked"]

# The best of each that are combined with each other.
_SPLITS, _REMOVALS = 16, 24


@dataclass(frozen=True)
class Move:
    """A component is split, and the one that goes leaves its place to the second half."""

    split: Split
    removal: Removal

    @property
    def promise(self) -> float:
        """By how much it raises the log-likelihood at least, in nats per row of the sample."""
        return self.split.gain - self.removal.cost

    @property
    def touched(self) -> frozenset[int]:
        """Components that change."""
        return self.removal.touched | {self.split.component}


def ranked(splits: Sequence[Split], removals: Sequence[Removal]) -> list[Move]:
    """Return the moves that promise most, the best first.

    Of the removals of one component only the cheapest that goes with the split is one.
    """
    best_splits = sorted(splits, key=lambda split: -split.gain)[:_SPLITS]
    moves = []
    for split in best_splits:
        gone = set[int]()
        for removal in removals:
            if split.component in removal.touched or removal.gone in gone:
                continue
            gone.add(removal.gone)
            moves.append(Move(split, removal))
            if len(gone) == _REMOVALS:
                break
    return sorted(moves, key=lambda move: -move.promise)


def disjoint(moves: Sequence[Move], least: float) -> list[Move]:
    """Return moves that promise more than `least` and touch different components: bounds add up."""
    chosen: list[Move] = []
    touched = frozenset[int]()
    for move in moves:
        if move.promise > least and not move.touched & touched:
            chosen.append(move)
            touched |= move.touched
    return chosen


def moved(parameters: MixtureParameters, moves: Sequence[Move]) -> MixtureParameters | None:
    """Return the mixture after disjoint moves; None where the family has none there."""
    draft = Draft(parameters)
    for move in moves:
        removal, split = move.removal, move.split
        if removal.into is not None and removal.union is not None:
            weight = draft.weights[removal.into] + draft.weights[removal.gone]
            draft.put(removal.into, weight, removal.union)
        share = draft.weights[split.component]
        for half, place in enumerate((split.component, removal.gone)):
            draft.put(place, share * split.halves.weights[half], split.halves, half)
    return draft.mixture()
