"""Stepwise EM: one M-step for each batch of rows, which is read once and forgotten.

Running statistics s of all rows so far take in those of a batch, s̄, gathered at the mixture that
the batch meets (Cappé & Moulines 2009, "On-line expectation-maximization algorithm for latent data
models", eq. 13; Liang & Klein 2009, "Online EM for unsupervised models", section 2.3),

    s ← (1 − η) s + η s̄,   θ ← M-step of s,

with s and s̄ per row. With step sizes η_t = (t + t₀)^−α, ½ < α ≤ 1, θ goes to a stationary point of
the likelihood that rows of this kind have, whatever the batches. Here t is the number of batches as
large as this one that have been seen, W/m + 1 with the weights W of what was seen and m of the
batch: of batches of one size the published rule, and of others, with α = 1 and t₀ = 0, the mean
over all rows to the last row. That is incremental EM in one pass (Neal & Hinton 1998). Smaller α
forget sooner where θ was poor.

With a half-life h instead each row counts half as much once h more have come: old statistics count
2^(−m/h) of what they did beside those of m new rows. Then η goes to 1 − 2^(−m/h) and no further,
and θ follows data that drift, at the price of the noise of about 1.4·h rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.errors import CollapsedComponentError
from dask_gmm.fitting.events import (
    FitFinished,
    FitStarted,
    Judgement,
    Outcome,
    PassJudged,
    StepKind,
)
from dask_gmm.fitting.loop import FitResult
from dask_gmm.fitting.passes import Evaluator
from dask_gmm.mixture.form import FULL
from dask_gmm.mixture.kept import KeptStatistics
from dask_gmm.mixture.kernels import Candidate
from dask_gmm.mixture.merging import take_components
from dask_gmm.mixture.parameters import MixtureParameters, frozen_array
from dask_gmm.mixture.statistics import SufficientStatistics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.data.source import Source
    from dask_gmm.execution.backend import Backend
    from dask_gmm.fitting.events import Event, Observer, PassFinished
    from dask_gmm.fitting.record import RecordKeeper
    from dask_gmm.mixture.kernels import Kernel
    from dask_gmm.mixture.model import MixtureModel

__all__ = ["StepSizes", "Stepped", "careful_update", "step"]

# What a component without any row counts for: a weight of zero would never come back.
_LEAST_ROWS = 1e-3
_ARRAYS = ("means", "covariances", "precisions_cholesky")


@dataclass(frozen=True)
class StepSizes:
    """How much a batch counts beside what was seen; see the module.

    Attributes
    ----------
    exponent : float
        α.
    offset : float
        t₀.
    half_life : float or None
        h, in rows; instead of the other two.
    """

    exponent: float = 0.6
    offset: float = 0.0
    half_life: float | None = None

    def factors(self, seen: float, batch: float) -> tuple[float, float]:
        """What statistics that were kept, and those of a batch, are multiplied by.

        Parameters
        ----------
        seen, batch : float
            Their weights, positive.
        """
        if self.half_life is not None:
            return float(np.exp2(-batch / self.half_life)), 1.0
        size = (1.0 + seen / batch + self.offset) ** -self.exponent
        both = seen + batch
        return (1.0 - size) * both / seen, size * both / batch


@dataclass(frozen=True)
class Stepped:
    """What came of a batch.

    Attributes
    ----------
    result : FitResult
        Its mixture, and as `lower_bound` the mean log-likelihood of the batch at the mixture
        before, in nats per row.
    kept : KeptStatistics
        Those that run.
    history : tuple of PassFinished
        The one pass.
    n_rows : int
        Of the batch, that took part.
    free_energy : float
        Of `kept` at the mixture, per unit of weight: a lower bound of the mean log-likelihood of
        all rows as they count.
    """

    result: FitResult
    kept: KeptStatistics
    history: tuple[PassFinished, ...]
    n_rows: int
    free_energy: float


def step(
    source: Source,
    backend: Backend,
    kernel: Kernel,
    model: MixtureModel,
    at: MixtureParameters,
    kept: KeptStatistics,
    sizes: StepSizes,
    *,
    keeper: RecordKeeper,
    observers: Sequence[Observer] = (),
) -> Stepped:
    """Read a batch once and take it in.

    Parameters
    ----------
    source : Source
        Of rows as the mixture sees them.
    backend : Backend
    kernel : Kernel
    model : MixtureModel
    at : MixtureParameters
        The mixture so far.
    kept : KeptStatistics
        That it was made of.
    sizes : StepSizes
    keeper : RecordKeeper
    observers : sequence of Observer
    """

    def notify(event: Event) -> None:
        keeper(event)
        for observer in observers:
            observer(event)

    notify(
        FitStarted(
            source=source.name,
            backend=backend.name,
            n_rows=source.n_rows,
            n_features=source.n_features,
            n_blocks=source.n_blocks,
            n_components=at.n_components,
            n_init=1,
            max_iter=1,
            tol=0.0,
        )
    )
    with backend.open(source, cache=0) as passes:
        evaluator = Evaluator(passes, kernel, observers, [keeper])
        (found,) = evaluator.evaluate([Candidate(at)])
        after, now, notes = at, kept, tuple[str, ...]()
        if found.weight > 0.0:  # else nothing has come
            old, new = sizes.factors(kept.weight, found.weight)
            now = kept.times(old) + KeptStatistics.of(found, at).times(new)
            after, notes = careful_update(model, now.statistics, at)
        height = now.free_energy(after) / now.weight
    score = found.mean_log_likelihood if found.weight > 0.0 else float("nan")
    judgement = Judgement(StepKind.PLAIN, score, None)
    notify(PassJudged(1, judgement))
    (record,) = evaluator.history
    result = FitResult(
        parameters=after,
        lower_bounds=(score,),
        lower_bound=score,
        n_iter=1,
        outcome=Outcome.STREAM,
        mended=notes,
        judgements=(judgement,),
    )
    notify(FitFinished(Outcome.STREAM, 1, score, 1, keeper.seconds, None))
    return Stepped(result, now, (record,), found.rows, height)


def careful_update(
    model: MixtureModel, statistics: SufficientStatistics, at: MixtureParameters
) -> tuple[MixtureParameters, tuple[str, ...]]:
    """The M-step, in which components that hold too little keep their means and covariances.

    Too little is less than what determines a covariance: D + 1 rows of the full form, 2 of others.
    Such a component comes back when rows come that it explains. Its weight goes on with the
    statistics. Where all components share one covariance all means move.

    Returns
    -------
    MixtureParameters
    tuple of str
        A sentence for each component that kept its place.

    Raises
    ------
    CollapsedComponentError
        A covariance that all share is not positive definite.
    """
    if statistics.form.shared:
        return model.update(statistics, at), ()
    enough = statistics.n_features + 1.0 if statistics.form is FULL else 2.0
    thin = np.flatnonzero(statistics.counts < enough * statistics.row_weight).tolist()
    try:
        return _keeping(model, statistics, at, thin), _notes(statistics, thin)
    except CollapsedComponentError:
        thin = sorted({*thin, *_collapsed(model, statistics)})
    return _keeping(model, statistics, at, thin), _notes(statistics, thin)


def _notes(statistics: SufficientStatistics, thin: Sequence[int]) -> tuple[str, ...]:
    return tuple(
        f"Component {k} holds {statistics.counts[k] / statistics.row_weight:.3g} of the rows that "
        f"count, too few for a covariance: it keeps its mean and its covariance until more come."
        for k in thin
    )


def _collapsed(model: MixtureModel, statistics: SufficientStatistics) -> list[int]:
    """Components without a covariance of their own."""
    found = []
    for k in range(statistics.n_components):
        try:
            model.update(take_components(statistics, [k]))
        except CollapsedComponentError:
            found.append(k)
    return found


def _keeping(
    model: MixtureModel,
    statistics: SufficientStatistics,
    at: MixtureParameters,
    components: Sequence[int],
) -> MixtureParameters:
    """The M-step of all but some components, which stay where they are.

    Their moments are replaced by those that they would have there, and where each covariance is
    estimated by itself the old ones take their place, to the bit.
    """
    if not components:
        return model.update(statistics, at)
    form, reference, d = statistics.form, statistics.reference, statistics.n_features
    counts, first = statistics.counts.copy(), statistics.first.copy()
    second, identity = statistics.second.copy(), np.eye(d)
    alone = model.family.independent and not model.family.constrained
    widths = np.sqrt(form.diagonals(at.covariances, *at.means.shape))
    for k in components:
        counts[k] = max(counts[k], _LEAST_ROWS * statistics.row_weight)
        shift = at.means[k] - reference[k]
        root = widths[k] * identity if alone else form.colour(at.precisions_cholesky, k, identity)
        rows, noise = np.vstack([root, shift[None]]), np.sqrt(model.reg_covar) * identity
        first[k] = counts[k] * shift
        second[k] = form.component_moment(counts[k] * rows, rows)
        if not alone:
            second[k] -= form.component_moment(counts[k] * noise, noise)
    found = model.update(
        SufficientStatistics.create(
            form,
            reference,
            rows=statistics.rows,
            weight=statistics.weight,
            log_likelihood=statistics.log_likelihood,
            counts=counts,
            first=first,
            second=second,
        ),
        at,
    )
    if not alone:
        return found
    # Only that they have some covariance mattered: a narrow one might not survive the arithmetic.
    arrays = {name: np.array(getattr(found, name)) for name in _ARRAYS}
    for name, array in arrays.items():
        array[list(components)] = getattr(at, name)[list(components)]
    return MixtureParameters(model.family, found.weights, *map(frozen_array, arrays.values()))
