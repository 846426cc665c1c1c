"""What stands in a checkpoint, for whoever looks at one without going on from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

# Commits hold the states of any strategy, and each module registers its own.
import dask_gmm.fitting.contest
import dask_gmm.fitting.scaled_sample
import dask_gmm.fitting.search.rivals
import dask_gmm.fitting.strategies  # noqa: F401
from dask_gmm.data.commits import Commits
from dask_gmm.fitting.checkpoint import state_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from dask_gmm.fitting.checkpoint import Progress
    from dask_gmm.fitting.contest import Standing
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.scaling import Scaling

__all__ = ["Found", "FoundPoint", "read_checkpoint"]


@dataclass(frozen=True)
class FoundPoint:
    """Where a mixture of a selection's grid stands.

    Attributes
    ----------
    n_components : int
    covariance_type : str
    value : float or None
        Its criterion; None before its first pass.
    passes : int
        That it has taken part in.
    outcome : str or None
        How it ended; None while it goes on, or where no start had positive covariances.
    """

    n_components: int
    covariance_type: str
    value: float | None
    passes: int
    outcome: str | None


@dataclass(frozen=True)
class Found:
    """What stands in a checkpoint.

    Attributes
    ----------
    name : str
    commit : int
        The newest one that is whole.
    size : int
        Its bytes.
    skipped : tuple of str
        A sentence for each newer one that is not.
    about : mapping
        What it says of itself; see `Recorder`.
    parameters : MixtureParameters
        The mixture that stands best.
    scaling : Scaling or None
        What rows are scaled by.
    grid : tuple of FoundPoint
        Of a selection, in the order of its grid; the best start of each.
    """

    name: str
    commit: int
    size: int
    skipped: tuple[str, ...]
    about: Mapping[str, Any]
    parameters: MixtureParameters
    scaling: Scaling | None = None
    grid: tuple[FoundPoint, ...] = ()


def read_checkpoint(url: str, storage_options: Mapping[str, Any] | None = None) -> Found | None:
    """Return what stands in a checkpoint, None where there is none.

    Raises
    ------
    CheckpointError
        There is one that cannot be read.
    """
    commits = Commits(url, storage_options)
    if not commits.present():
        return None
    commit = commits.newest()
    if commit is None:
        return None
    progress, parameters = state_of(commits, commit)
    return Found(
        commits.name,
        commit.number,
        len(commit.payload),
        commits.skipped,
        commit.about,
        parameters,
        progress.scaling,
        _grid(commit.about, progress) if commit.about["kind"] == "selection" else (),
    )


def _grid(about: Mapping[str, Any], progress: Progress) -> tuple[FoundPoint, ...]:
    settings = about["settings"]
    criterion = settings["criterion"]
    best: dict[int, Standing] = {}
    for point, standing in zip(progress.entered, progress.states[0].standings, strict=True):
        if point not in best or standing.height > best[point].height:
            best[point] = standing
    found = []
    for point, (k, family) in enumerate(settings["points"]):
        there = best.get(point)
        value = None
        if there is not None and there.judged is not None:
            value = there.judged.value(criterion)
            value = -value if criterion == "heldout" else value
        outcome = None if there is None or there.outcome is None else there.outcome.value
        passes = 0 if there is None else there.passes
        found.append(FoundPoint(int(k), str(family), value, passes, outcome))
    return tuple(found)
