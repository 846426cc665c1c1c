"""What a fit writes down between two passes, and how another process goes on from there.

After the start and after each pass all that is known goes to a place (`data.commits`): the
strategies' states and the history. What is large and follows from the data, the sample, is drawn
again by its recipe, and must come out the same. So whoever goes on ends with the bits of a fit that
nothing has interrupted; and as data and settings must be the same for that, they are compared
first, and what differs is named.

A commit is written while the next pass runs. Should a place fail in mid-fit, its disk full or its
network down, the fit goes on and says so: it tries again after the next pass. A place that fails
before the first pass ends the fit, and so does another driver that has committed there.
"""

from __future__ import annotations

import hashlib
import os
import platform
import threading
import time
import warnings
from concurrent.futures import Future
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from dask_gmm.data.commits import Commits
from dask_gmm.data.output_begin import refuse_the_input
from dask_gmm.errors import (
    CheckpointError,
    CheckpointWarning,
    FencedError,
    PassLostError,
    ResumedElsewhereWarning,
    StateError,
)
from dask_gmm.execution.machine import machine_fingerprint
from dask_gmm.fitting.events import CheckpointWritten, FitResumed, PassFinished
from dask_gmm.fitting.record import EarlierRun, FitRecord
from dask_gmm.fitting.sampling import SampleRecipe, draw_sample
from dask_gmm.fitting.state import from_bytes, saved, to_bytes
from dask_gmm.interrupts import held, outcome
from dask_gmm.mixture.family import CovarianceFamily
from dask_gmm.mixture.frozen import FrozenParts
from dask_gmm.mixture.prior import Prior

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from dask_gmm.data.commits import Commit
    from dask_gmm.data.source import Source
    from dask_gmm.execution.backend import Backend
    from dask_gmm.fitting.events import Observer
    from dask_gmm.fitting.sampling import Sample
    from dask_gmm.fitting.settings import FitSettings, WarmStart
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.scaling import Scaling

__all__ = [
    "Checkpoint",
    "Progress",
    "Recorder",
    "Standing",
    "settings_identity",
    "state_of",
]

# Rows and blocks that are looked at again where a fit has no sample: enough to see other data.
_PROBED_ROWS, _PROBED_BLOCKS = 4096, 8
# Seconds that a fit waits for a commit when it could commit again, and when it ends.
_PATIENCE, _LAST_COMMIT = 10.0, 60.0

T = TypeVar("T")

saved(EarlierRun)
saved(FitRecord)
saved(PassFinished)
saved(SampleRecipe)


@dataclass(frozen=True)
class Checkpoint:
    """Where a fit commits, as its user asks for it.

    Attributes
    ----------
    url : str
    storage_options : mapping or None
    resume : {"auto", "must", "never"}
        Go on if there is something to go on from, refuse to begin anew, or begin anew.
    draws : int, str or None
        What tells the fit's `random_state` from others; None where it was left open.
    missing_chunks : str
        `ChunkPolicies.words`.
    """

    url: str
    storage_options: Mapping[str, Any] | None = None
    resume: str = "auto"
    draws: int | str | None = None
    missing_chunks: str = "error"


@saved
@dataclass(frozen=True, eq=False)
class Progress:
    """All that a fit or a selection knows between two passes.

    Attributes
    ----------
    states : tuple of State
        Of each restart; of a selection that of the contest alone.
    history : tuple of PassFinished
    n_rows : int or None
        Rows of the source, None while no pass has found out.
    start_bytes : int
        Decoded for the sample and the start.
    seconds : float
        That the fit has taken so far.
    sample : SampleRecipe or None
        How the sample is drawn.
    digest : str
        Of the sample's rows, or of those that were looked at instead.
    accelerations : tuple of str or None
        What was chosen: for the fit, or for each point of the grid.
    entered : tuple of int
        Of each contestant the index of its point; of a fit empty.
    shares : tuple of float
        Of each contestant the seconds of passes that it was charged with.
    held_out_seed : int or None
    scaling : Scaling or None
        What rows are scaled by.
    record : FitRecord or None
        Where the fit came from and what it took; None of versions that kept none.
    """

    states: tuple[Any, ...]
    history: tuple[PassFinished, ...]
    n_rows: int | None
    start_bytes: int
    seconds: float
    sample: SampleRecipe | None
    digest: str
    accelerations: tuple[str | None, ...]
    entered: tuple[int, ...] = ()
    shares: tuple[float, ...] = ()
    held_out_seed: int | None = None
    scaling: Scaling | None = None
    record: FitRecord | None = None

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to do."""
        return all(state.outcome is not None for state in self.states)


@dataclass(frozen=True)
class Standing:
    """What a commit says in words about where a fit stands, for whoever looks at it.

    Attributes
    ----------
    parameters : MixtureParameters
        The mixture that stands best.
    objective : float or None
        Its mean log-likelihood in nats per row; None before the first pass.
    remaining_gain : float or None
    """

    parameters: MixtureParameters
    objective: float | None
    remaining_gain: float | None


def state_of(commits: Commits, commit: Commit) -> tuple[Progress, MixtureParameters]:
    """Return what a commit holds: the progress, and the mixture that stands best.

    Raises
    ------
    CheckpointError
        It holds what no module that was imported has registered, or what cannot be read.
    """
    try:
        progress, parameters = from_bytes(commit.payload)
    except StateError as error:
        raise CheckpointError(f"{commits.name}: {error}") from error
    return progress, parameters


class Recorder:
    """Takes a fit up where a checkpoint stands, and commits its progress; or does neither.

    Parameters
    ----------
    checkpoint : Checkpoint or None
        None for a fit that writes nothing down.
    kind : {"fit", "selection"}
    source : Source
        The data, which must be the same for a commit to be of this fit.
    asked : mapping
        And what the fit was asked to do, as JSON; see `settings_identity`.
    notify : Observer

    Raises
    ------
    CheckpointError
        The place cannot be used, holds another fit, or nothing where there must be something.
    InputError
        It lies in the data, or around them.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | None,
        kind: str,
        source: Source,
        asked: Mapping[str, Any],
        notify: Observer,
    ) -> None:
        self._notify = notify
        self._under_way: Future[CheckpointWritten] | None = None
        self._latest: Callable[[], CheckpointWritten] | None = None  # to be written next
        self._safe = False  # something is written
        self._held = 0  # passes that it tells of
        self._slow = False  # it was said that commits take long
        self._cluttered = False  # and that old ones cannot be deleted
        self._identity: dict[str, Any] = {}
        self._where: dict[str, str] = {}
        self.progress: Progress | None = None
        self._commits: Commits | None = None
        if checkpoint is not None:
            settings = {name: value for name, value in asked.items() if name != "kernel"}
            settings |= {
                "random_state": checkpoint.draws,
                "missing_chunks": checkpoint.missing_chunks,
            }
            self._commits = Commits(checkpoint.url, checkpoint.storage_options)
            refuse_the_input(source, self._commits.name, in_place=True)
            self._identity = {"kind": kind, "data": _data_identity(source), "settings": settings}
            self._where = {"kernel": asked["kernel"], "machine": machine_fingerprint()}
            self._take_up(self._commits, checkpoint.resume)

    @property
    def active(self) -> bool:
        """Whether anything is written down."""
        return self._commits is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._end_with(error)
        if isinstance(error, PassLostError) and self._commits is not None and self._safe:
            said = error.saying(
                f"The checkpoint {self._commits.name} holds what was known after pass "
                f"{self._held}: the same call goes on from there."
            )
            raise said from said.__cause__

    def _end_with(self, on_its_way: BaseException | None) -> None:
        try:
            self.end()
        except CheckpointError as error:
            if on_its_way is None:
                raise
            warnings.warn(  # what ends the fit is on its way
                f"The checkpoint was not written, the one before still holds: {error}",
                CheckpointWarning,
                stacklevel=2,
            )

    def end(self) -> None:
        """Wait for the last commit, which takes a minute at most."""
        deadline = time.monotonic() + _LAST_COMMIT
        while self.settle(max(0.0, deadline - time.monotonic())) and self._latest is not None:
            self._begin()

    def digest(self, sample: Sample | None, source: Source, backend: Backend) -> str:
        """Return the digest of the sample's rows, or of a few others where there is none.

        "" if nothing is written down.

        Raises
        ------
        CheckpointError
            They are other rows than those that the fit began with.
        """
        if not self.active:
            return ""
        digest = _probe(source, backend) if sample is None else sample.digest()
        if self._commits is not None and self.progress and digest != self.progress.digest:
            raise CheckpointError(
                f"{self._commits.name} holds a fit to other rows: those drawn again from the data "
                f"differ from those that it began with. Give it the same data in the same chunks, "
                f'another checkpoint, or resume="never" (--no-resume) to begin anew.'
            )
        return digest

    def save(self, progress: Progress, standing: Standing) -> None:
        """Commit; what was committed before is through, or has failed and is said, by then.

        A commit that takes too long is left to itself, and the fit goes on; once it is through, the
        newest that there is by then comes next.

        Raises
        ------
        CheckpointError
            The first commit has failed; a later one only warns.
        FencedError
            Another driver goes on from this checkpoint.
        """
        if self._commits is None or self._known(progress):
            return
        self._latest = partial(self._commit, self._commits, progress, standing)
        if self.settle(0.0 if self._slow else _PATIENCE):
            self._begin()
        if not self._safe:
            self.settle()
            self._safe = True

    def _begin(self) -> None:
        assert self._latest is not None
        with held():  # or nobody would wait for a commit that has just begun
            latest, self._latest = self._latest, None
            self._under_way = _elsewhere(latest)

    def _known(self, progress: Progress) -> bool:
        """Whether this is where the fit was taken up."""
        known = self.progress
        return known is not None and len(known.history) == len(progress.history)

    def _commit(
        self, commits: Commits, progress: Progress, standing: Standing
    ) -> CheckpointWritten:
        begun = time.perf_counter()
        payload = to_bytes((progress, standing.parameters))
        about = {
            **self._identity,
            **self._where,
            "passes": len(progress.history),
            "objective": _finite(standing.objective),
            "remaining_gain": _finite(standing.remaining_gain),
            "ended": progress.ended,
            "seconds": progress.seconds,
            "written": time.time(),
            "host": platform.node(),
            "pid": os.getpid(),
        }
        number = commits.commit(payload, about)
        took = time.perf_counter() - begun
        return CheckpointWritten(commits.name, number, len(progress.history), len(payload), took)

    def settle(self, timeout: float | None = None) -> bool:
        """Wait for the commit under way and say what came of it; False if it still is under way.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait.
        """
        if self._under_way is None:
            return True
        try:
            written = outcome(self._under_way, timeout)
        except TimeoutError:
            if not self._slow:
                self._slow = True
                self._warn(f"it takes more than {timeout:.0f} s, and may yet come to an end.")
            return False
        except CheckpointError as error:
            self._under_way = None
            if isinstance(error, FencedError) or not self._safe:
                raise
            self._warn(str(error))
            return True
        self._under_way = None
        self._held = written.passes
        self._notify(written)
        if self._commits and self._commits.undeleted and not self._cluttered:
            self._cluttered = True
            warnings.warn(
                f"Commits that are too old stay in the checkpoint: {self._commits.undeleted}",
                CheckpointWarning,
                stacklevel=2,
            )
        return True

    def _warn(self, why: str) -> None:
        warnings.warn(
            f"The checkpoint was not written, the one before still holds and the fit goes on "
            f"without: {why}",
            CheckpointWarning,
            stacklevel=2,
        )

    def _take_up(self, commits: Commits, resume: str) -> None:
        """Find where to go on, and compare whose it is.

        Raises
        ------
        CheckpointError
        """
        if resume == "never":
            outcome(_elsewhere(commits.begin_again))
            return
        commit = outcome(_elsewhere(commits.newest))
        for sentence in commits.skipped:
            warnings.warn(sentence, CheckpointWarning, stacklevel=2)
        if commit is None:
            if resume == "must":
                raise CheckpointError(
                    f"{commits.name} holds nothing to go on from, and the fit is not to begin "
                    f'anew. Give the place where it committed, or resume="auto" (no --resume).'
                )
            return
        self._compare(commits, commit.about)
        self.progress, _ = state_of(commits, commit)
        self._safe, self._held = True, len(self.progress.history)
        self._notify(
            FitResumed(commits.name, commit.number, len(self.progress.history), self.progress.ended)
        )

    def _compare(self, commits: Commits, about: Mapping[str, Any]) -> None:
        differences = list(_differences(about, self._identity))
        if differences:
            raise CheckpointError(
                f"{commits.name} holds another fit: {'; '.join(differences)}. Give the same data "
                f'and settings, another checkpoint, or resume="never" (--no-resume) to begin anew '
                f"in its place."
            )
        for name, here in self._where.items():
            if about.get(name) != here:
                warnings.warn(
                    f"The fit in {commits.name} goes on with another {name} than it began with "
                    f"({about.get(name)} then, {here} now): its last bits may differ from those of "
                    f"a fit that nothing has interrupted.",
                    ResumedElsewhereWarning,
                    stacklevel=2,
                )


def _elsewhere(act: Callable[[], T]) -> Future[T]:
    """Have a thread do what waits for the place; nobody waits for it when this process ends."""
    answer: Future[T] = Future()

    def do() -> None:
        try:
            answer.set_result(act())
        except BaseException as error:  # noqa: BLE001 - whoever waits for the answer raises it
            answer.set_exception(error)

    threading.Thread(target=do, name="dask-gmm-checkpoint", daemon=True).start()
    return answer


def _finite(value: float | None) -> float | None:
    """JSON knows no infinity."""
    return None if value is None or not np.isfinite(value) else float(value)


def _data_identity(source: Source) -> dict[str, Any]:
    """What tells a source's data from others without reading them, as JSON.

    They may have moved: their content is compared where they lie in the same place only. It is
    None, and so are their metadata, where nothing tells of them.
    """
    return {
        "rows": source.n_rows,
        "features": source.n_features,
        "dtype": source.dtype.str,
        "weighted": source.weights is not None,
        "chunks": hashlib.sha256(repr(source.grid).encode()).hexdigest(),
        "metadata": source.metadata_digest(),
        "name": source.name,
        "content": source.content_digest(),
    }


# Settings that commits name only where they are not these: those of older versions know them not.
# A fit that began before there was a search goes on from its starts without one.
_UNSAID = {"missing": "error", "search": "auto"}


def settings_identity(settings: FitSettings, warm: WarmStart | None) -> dict[str, Any]:
    """What a fit was asked to do, as JSON; but what it may spend, which may be raised.

    The kernel is named and need not be the same: with another one only last bits differ.
    """
    free = {"kernel", "cache", "max_passes", "max_bytes", "model", "given"}
    asked = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name not in free}
    for name, unsaid in _UNSAID.items():
        if asked[name] == unsaid:
            del asked[name]
    del asked["scaling"]
    if settings.scaling is not None:
        asked["scaling"] = repr(settings.scaling)
    model = settings.model
    asked |= {"model": type(model).__name__, "kernel": settings.kernel.name}
    asked |= {name: _plain(value) for name, value in vars(model).items()}
    given = {f.name: getattr(settings.given, f.name) for f in fields(settings.given)}
    asked |= {f"given {name}": _plain(value) for name, value in given.items()}
    if warm is not None:
        asked["warm start"] = hashlib.sha256(to_bytes(warm.parameters)).hexdigest()[:16]
        if warm.scaling is not None:  # the same mixture in other units is another
            asked["warm start's scaling"] = warm.scaling.fingerprint[:16]
        if warm.kept is not None:
            asked["kept statistics"] = warm.kept.fingerprint[:16]
    return asked


def _plain(value: object) -> Any:
    """A value as JSON has it; of arrays and all else a digest."""
    if isinstance(value, CovarianceFamily):
        return value.name
    if isinstance(value, Prior | FrozenParts):
        return repr(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    content = np.asarray(value).tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def _probe(source: Source, backend: Backend) -> str:
    """Return a digest of a few rows from a few blocks, for fits that draw no sample.

    Raises
    ------
    NonFiniteError
        One of them holds NaN or infinity.
    """
    n = source.n_blocks
    count = min(n, _PROBED_BLOCKS)
    blocks = tuple(int((i + 0.5) * n / count) for i in range(count))
    with backend.open(source, blocks=blocks) as passes:
        sample, _ = draw_sample(passes, _PROBED_ROWS, 0)
    return sample.digest()


def _differences(then: Mapping[str, Any], now: Mapping[str, Any], of: str = "") -> Iterator[str]:
    """Say of each thing that differs what it was and what it is."""
    moved = then.get("name") != now.get("name")
    for name in [*now, *(name for name in then if of and name not in now)]:
        before, value = then.get(name, _UNSAID.get(name)), now.get(name, _UNSAID.get(name))
        if name == "name" or (name == "content" and moved):
            continue
        if isinstance(value, dict):
            yield from _differences(before if isinstance(before, dict) else {}, value, name)
        elif before == value or (name in ("metadata", "content") and None in (before, value)):
            continue  # who does not know them cannot say that they differ
        elif name in ("metadata", "chunks"):
            yield f"the {name} of the data have changed"
        elif name == "content":
            yield "the data have been written to since it began"
        else:
            yield f"{name} was {before!r} and is {value!r}"
