"""Components that empty in an accelerated fit: no bold step may, and a plain step begins anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dask_gmm.fitting.acceleration.squarem import Squarem
from dask_gmm.fitting.acceleration.variance_reduced import VarianceReducedEM
from dask_gmm.fitting.acceleration.verified import Trial, VerifiedEM
from dask_gmm.fitting.collapse import MStep
from dask_gmm.fitting.events import Outcome, StepKind
from dask_gmm.fitting.loop import run
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.rows import Rows
from tests.fitting.acceleration.problems import Passes, overlapping, sample_of
from tests.mixture.problems import likelihood

if TYPE_CHECKING:
    from dask_gmm.fitting.acceleration.climbing import Point

MODEL = likelihood("full", 1e-6)


def emptied(start: MixtureParameters) -> MixtureParameters:
    """The same mixture with its last component far away from all rows."""
    means = np.array(start.means)
    means[-1] = 1e4
    return MixtureParameters.create(start.family, start.weights, means, start.covariances)


@dataclass
class Emptying(VerifiedEM):
    """Tries, whenever it may, what leaves a component without rows and yet is taken for a gain."""

    def choose(self, at: Point) -> Trial:
        return Trial(emptied(at.parameters), bold=True, needed=-np.inf)


@pytest.mark.parametrize("rule", ["merge", "reseed"])
def test_a_bold_step_that_empties_a_component_is_rejected(rule: str) -> None:
    rows, start = overlapping(3)
    step = MStep(MODEL, rule, Rows(rows))
    (result,) = run([Emptying((start,), 0.0, 3, MODEL, m_step=step)], Passes(rows))
    assert [j.kind for j in result.judgements] == [
        StepKind.START,
        *[StepKind.REJECTED, StepKind.PLAIN] * 2,
    ]
    assert result.mended == ()
    (kept,) = run([Emptying((start,), 0.0, 3, MODEL, m_step=MStep(MODEL))], Passes(rows))
    assert StepKind.ACCEPTED in [j.kind for j in kept.judgements]


@pytest.mark.parametrize("kind", ["variance-reduced", "squarem"])
@pytest.mark.parametrize("rule", ["merge", "reseed"])
def test_a_mended_mixture_begins_anew(kind: str, rule: str) -> None:
    """From its own M-step on, the way is that of a fit that starts there."""
    rows, start = overlapping(3)

    def strategy(start: MixtureParameters) -> VerifiedEM:
        step = MStep(MODEL, rule, Rows(rows))
        if kind == "squarem":
            return Squarem((start,), 1e-7, 300, MODEL, m_step=step)
        return VarianceReducedEM((start,), 1e-7, 300, MODEL, m_step=step, sample=sample_of(rows))

    broken = emptied(start)
    (whole,) = run([strategy(broken)], Passes(rows))
    assert len(whole.mended) == 1
    assert whole.parameters.n_components == (2 if rule == "merge" else 3)
    assert whole.outcome is Outcome.CONVERGED
    found = Passes(rows)(strategy(broken).propose())[0]
    (rest,) = run([strategy(MStep(MODEL, rule, Rows(rows))(found))], Passes(rows))
    assert whole.lower_bounds[1:] == rest.lower_bounds
    assert whole.parameters == rest.parameters
