"""Components that empty in an accelerated fit: no bold step may, and a plain step begins anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dask_gmm.fitting.acceleration.squarem import Squarem
from dask_gmm.fitting.acceleration.variance_reduced import VarianceReducedEM
from dask_gmm.fitting.acceleration.verified import Choice, Trial, VerifiedEM
from dask_gmm.fitting.collapse import MStep
from dask_gmm.fitting.events import Outcome, StepKind
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.rows import Rows
from tests.fitting.acceleration.problems import Passes, overlapping, sample_of
from tests.fitting.runs import fit
from tests.mixture.problems import likelihood

if TYPE_CHECKING:
    from dask_gmm.fitting.acceleration.climbing import Point

MODEL = likelihood("full", 1e-6)


def emptied(start: MixtureParameters) -> MixtureParameters:
    """The same mixture with its last component far away from all rows."""
    means = np.array(start.means)
    means[-1] = 1e4
    return MixtureParameters.create(start.family, start.weights, means, start.covariances)


@dataclass(frozen=True)
class Emptying(VerifiedEM[None]):
    """Tries, whenever it may, what leaves a component without rows and yet is taken for a gain."""

    def set_out(self, start: MixtureParameters) -> None:
        pass

    def choose(self, at: Point, gained: float, memory: None) -> Choice[None]:
        return Choice(Trial(emptied(at.parameters), bold=True, needed=-np.inf), None)


@pytest.mark.parametrize("rule", ["merge", "reseed"])
def test_a_bold_step_that_empties_a_component_is_rejected(rule: str) -> None:
    rows, start = overlapping(3)
    step = MStep(MODEL, rule, Rows(rows))
    result = fit(Emptying(0.0, 3, step), Passes(rows), start)
    assert [j.kind for j in result.judgements] == [
        StepKind.START,
        *[StepKind.REJECTED, StepKind.PLAIN] * 2,
    ]
    assert result.mended == ()
    kept = fit(Emptying(0.0, 3, MStep(MODEL)), Passes(rows), start)
    assert StepKind.ACCEPTED in [j.kind for j in kept.judgements]


@pytest.mark.parametrize("kind", ["variance-reduced", "squarem"])
@pytest.mark.parametrize("rule", ["merge", "reseed"])
def test_a_mended_mixture_begins_anew(kind: str, rule: str) -> None:
    """From its own M-step on, the way is that of a fit that starts there."""
    rows, start = overlapping(3)

    step, broken = MStep(MODEL, rule, Rows(rows)), emptied(start)
    fitting: VerifiedEM[Any] = Squarem(1e-7, 300, step)
    if kind == "variance-reduced":
        fitting = VarianceReducedEM(1e-7, 300, step, sample=sample_of(rows))
    whole = fit(fitting, Passes(rows), broken)
    assert len(whole.mended) == 1
    assert whole.parameters.n_components == (2 if rule == "merge" else 3)
    assert whole.outcome is Outcome.CONVERGED
    found = Passes(rows)(fitting.propose(fitting.begin((broken,))))[0]
    rest = fit(fitting, Passes(rows), step(found)[0])
    assert whole.lower_bounds[1:] == rest.lower_bounds
    assert whole.parameters == rest.parameters
