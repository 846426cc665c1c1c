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

    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.scaling import Scaling

__all__ = ["Found", "read_checkpoint"]


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
    """

    name: str
    commit: int
    size: int
    skipped: tuple[str, ...]
    about: Mapping[str, Any]
    parameters: MixtureParameters
    scaling: Scaling | None = None


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
    )
