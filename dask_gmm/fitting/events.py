"""What happens during a fit, as frozen values for whoever watches.

Observers are called on the driver, in order, between and during passes. They own progress bars,
logs, timing and history; the loop knows none of them. An observer that raises ends the fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from dask_gmm.execution.backend import PassProgress
    from dask_gmm.execution.span import Span

__all__ = [
    "CheckpointWritten",
    "Event",
    "FitFinished",
    "FitResumed",
    "FitStarted",
    "Judgement",
    "Observer",
    "Outcome",
    "OutputResumed",
    "PassAdvanced",
    "PassFinished",
    "PassJudged",
    "PassSplit",
    "PassStarted",
    "PassTraced",
    "PointFinished",
    "RareComponentsFound",
    "SampleAdvanced",
    "SampleDrawn",
    "SearchAdvanced",
    "SearchFinished",
    "SelectionFinished",
    "SelectionStarted",
    "StartRead",
    "StartsFound",
    "StepKind",
]


class Outcome(Enum):
    """How a fit ended."""

    CONVERGED = "converged"
    MAX_ITER = "max_iter"
    COLLAPSED = "collapsed"
    DROPPED = "dropped"
    MAX_PASSES = "max_passes"
    MAX_BYTES = "max_bytes"
    STREAM = "stream"
    """It has taken in a batch, and goes on with the next."""


class StepKind(Enum):
    """What a pass was to one restart: whose parameters it evaluated, and what came of them."""

    START = "start"
    PLAIN = "plain"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    REPEATED = "repeated"


@dataclass(frozen=True)
class Judgement:
    """What a restart made of a pass.

    Attributes
    ----------
    kind : StepKind
        The start; a plain EM step; an accelerated step that was accepted, or rejected because it
        did not raise the objective; or the same parameters again, about better centres.
    objective : float
        Mean log-likelihood at the parameters the pass had, in nats per row.
    remaining_gain : float or None
        How far the optimum lies above the last accepted point, in nats per row. On the way the best
        guess, None where there is none, as in plain EM; of a restart's last pass what it says in
        the end, rather too much than too little.
    """

    kind: StepKind
    objective: float
    remaining_gain: float | None


@dataclass(frozen=True)
class FitStarted:
    """A fit begins; nothing has been read yet.

    `n_rows` is None while a Dask collection does not know its chunk sizes.
    """

    source: str
    backend: str
    n_rows: int | None
    n_features: int
    n_blocks: int
    n_components: int
    n_init: int
    max_iter: int
    tol: float


@dataclass(frozen=True)
class FitResumed:
    """A fit or a selection goes on from a checkpoint.

    Attributes
    ----------
    checkpoint : str
    commit : int
        Which of its commits.
    passes : int
        That were made before.
    ended : bool
        Nothing is left to do.
    """

    checkpoint: str
    commit: int
    passes: int
    ended: bool


@dataclass(frozen=True)
class CheckpointWritten:
    """What is known after so many passes is safe; said when the next pass is over, or the fit.

    `size` are bytes, `seconds` were spent beside the pass.
    """

    checkpoint: str
    commit: int
    passes: int
    size: int
    seconds: float


@dataclass(frozen=True)
class SampleDrawn:
    """The rows from which the starting parameters will be computed are in memory."""

    rows: int
    complete: bool
    blocks: int
    bytes_read: int
    seconds: float


@dataclass(frozen=True)
class StartsFound:
    """The starting parameters are computed; k-means on a large sample may have taken a while."""

    starts: int
    method: str
    seconds: float


@dataclass(frozen=True)
class SampleAdvanced:
    """Work on the sample in memory goes on: `work` has been done for some of the mixtures."""

    work: str
    done: int
    total: int


@dataclass(frozen=True)
class SearchAdvanced:
    """The search for a better optimum of the sample goes on.

    Attributes
    ----------
    tried, accepted : int
        Moves.
    gain : float
        Of those that were accepted, in nats per row of the sample that the search does not fit.
    """

    tried: int
    accepted: int
    gain: float


@dataclass(frozen=True)
class SearchFinished:
    """The search for a better optimum of the sample is over; as `SearchAdvanced`."""

    tried: int
    accepted: int
    gain: float
    seconds: float


@dataclass(frozen=True)
class StartRead:
    """A read of all blocks for the start is over; `places` rows have been drawn before it."""

    number: int
    reads: int
    places: int
    rows: int
    blocks: int
    bytes_read: int
    seconds: float


@dataclass(frozen=True)
class OutputResumed:
    """An output that an earlier run has begun goes on.

    Attributes
    ----------
    output : str
    blocks : int
        Those that are finished, and not computed again.
    blocks_total : int
    """

    output: str
    blocks: int
    blocks_total: int


@dataclass(frozen=True)
class PassStarted:
    """A pass over all blocks begins; `candidates` sets of parameters share its read.

    Beside these there may be those of a rival (`RareComponentsFound`): the fit stands at none.
    """

    number: int
    candidates: int


@dataclass(frozen=True)
class PassAdvanced:
    """Some more blocks of the running pass are done."""

    number: int
    progress: PassProgress


@dataclass(frozen=True)
class PassFinished:
    """A pass is over.

    Attributes
    ----------
    number : int
        1 for the first.
    lower_bounds : tuple of float
        Mean log-likelihood per row, in nats, of each candidate at the parameters the pass had; none
        of a rival.
    rows, blocks : int
        What was read, or came from the cache.
    bytes_read : int
        Bytes of the decoded blocks.
    seconds : float
        Wall time of the pass.
    tasks, resubmitted : int
        Tasks submitted to the backend, and how many of them were submitted again after a loss.
    blocks_from_cache : int
        Blocks that an earlier pass had pinned; the store was asked for the other ones only.
    judgement : Judgement or None
        What the best restart made of it; in the history of a finished fit, while a running one
        says so with `PassJudged`.
    incomplete_rows : int
        Rows that miss a value, where `missing` is not 'error': left out, or taken with what they
        have.
    """

    number: int
    lower_bounds: tuple[float, ...]
    rows: int
    blocks: int
    bytes_read: int
    seconds: float
    tasks: int
    resubmitted: int
    blocks_from_cache: int = 0
    judgement: Judgement | None = None
    incomplete_rows: int = 0


@dataclass(frozen=True)
class PassTraced:
    """When the threads worked in a pass that is over, and what they waited for.

    Attributes
    ----------
    number : int
        That of the pass.
    spans : tuple of Span
        One for each unit, in order of position: of attempts that came to an end, the one that
        counted.
    resubmitted : int
        Units, or groups of units, that were begun again after they were lost.
    """

    number: int
    spans: tuple[Span, ...]
    resubmitted: int


@dataclass(frozen=True)
class PassJudged:
    """The restart that stands best has made up its mind about a pass."""

    number: int
    judgement: Judgement


@dataclass(frozen=True)
class RareComponentsFound:
    """A pass has confirmed components that begin where a mixture explained few rows, and badly.

    Attributes
    ----------
    components : int
        Each has taken the place of another one.
    gain : float
        In nats per row, beside what the pass has gained without them.
    """

    components: int
    gain: float


@dataclass(frozen=True)
class FitFinished:
    """The fit is over; `lower_bound` belongs to the best restart."""

    outcome: Outcome
    n_iter: int
    lower_bound: float
    passes: int
    seconds: float
    remaining_gain: float | None = None


@dataclass(frozen=True)
class SelectionStarted:
    """A selection begins: `points` numbers of components and families, `n_init` starts of each."""

    source: str
    backend: str
    n_rows: int | None
    n_features: int
    n_blocks: int
    points: int
    n_init: int
    criterion: str
    max_iter: int
    tol: float


@dataclass(frozen=True)
class PassSplit:
    """So many candidates do not fit in memory together: each half has a read of its own."""

    candidates: int


@dataclass(frozen=True)
class PointFinished:
    """All starts of a point of the grid have ended; `value` is the criterion, None without one."""

    n_components: int
    covariance_type: str
    criterion: str
    value: float | None
    passes: int
    outcome: Outcome


@dataclass(frozen=True)
class SelectionFinished:
    """The selection is over, and this is the winner."""

    n_components: int
    covariance_type: str
    criterion: str
    value: float
    passes: int
    seconds: float


Event: TypeAlias = (
    FitStarted
    | FitResumed
    | CheckpointWritten
    | SampleDrawn
    | SampleAdvanced
    | SearchAdvanced
    | SearchFinished
    | StartRead
    | StartsFound
    | OutputResumed
    | PassStarted
    | PassAdvanced
    | PassFinished
    | PassTraced
    | PassJudged
    | RareComponentsFound
    | FitFinished
    | SelectionStarted
    | PassSplit
    | PointFinished
    | SelectionFinished
)
Observer: TypeAlias = Callable[[Event], None]
