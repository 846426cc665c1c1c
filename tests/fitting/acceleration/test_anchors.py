"""On a plateau: secants of the sample's error, several steps in a read, and never a step down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dask_gmm.fitting.acceleration import variance_reduced
from dask_gmm.fitting.acceleration.anchors import Anchor, AnchoredSample, Secants
from dask_gmm.fitting.acceleration.climbing import CorrectedSample
from dask_gmm.fitting.acceleration.sample import SampleRows
from dask_gmm.fitting.acceleration.sample_fit import fit_sample
from dask_gmm.fitting.acceleration.variance_reduced import VarianceReducedEM
from dask_gmm.fitting.acceleration.verified import Choice, Seen, Trial, VerifiedEM
from dask_gmm.fitting.collapse import MStep
from dask_gmm.fitting.events import StepKind
from dask_gmm.fitting.loop import run
from dask_gmm.mixture.coordinates import from_vector, to_vector
from dask_gmm.mixture.kernels import Candidate
from dask_gmm.mixture.moments import (
    complete_moments,
    expected_log_density,
    natural_parameters,
    per_row,
)
from dask_gmm.rows import Rows
from tests.fitting.acceleration.problems import KERNEL, Passes, overlapping, sample_of
from tests.fitting.acceleration.test_mending import emptied
from tests.fitting.acceleration.test_one_sided import crowded
from tests.fitting.runs import fit
from tests.marks import quick_ones
from tests.mixture.problems import FAMILIES, likelihood, random_mixture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.fitting.acceleration.climbing import Point
    from dask_gmm.mixture.parameters import MixtureParameters

families = pytest.mark.parametrize("family", FAMILIES)


def around(mixture: MixtureParameters, count: int, step: float) -> list[MixtureParameters]:
    """Mixtures a step away from one, in directions of their own."""
    rng, found = np.random.default_rng(3), []
    for _ in range(count):
        vector = to_vector(mixture)
        other = from_vector(vector + step * rng.normal(size=vector.size), mixture)
        assert other is not None
        found.append(other)
    return found


# -- moments -------------------------------------------------------------------------------------


@families
def test_moments_about_another_reference_are_those_gathered_there(family: str) -> None:
    rows, at = overlapping(1, family, n=500)
    other = at.means + 0.7
    here, there = (
        per_row(s) for s in KERNEL.statistics(Rows(rows), [Candidate(at), Candidate(at, other)])
    )
    moved = here.about(other)
    assert np.array_equal(moved.reference, other)
    np.testing.assert_allclose(moved.vector(), there.vector(), rtol=1e-10, atol=1e-12)


@families
def test_natural_parameters_are_dual_to_moments(family: str) -> None:
    rows, at = overlapping(2, family, n=500)
    moments = per_row(KERNEL.statistics(Rows(rows), [Candidate(at)])[0])
    elsewhere = random_mixture(5, family, 3, 3)
    natural = natural_parameters(elsewhere, moments.reference)
    expected = expected_log_density(moments, elsewhere)
    assert moments.vector() @ natural == pytest.approx(expected, rel=1e-12)
    back = moments.of_vector(moments.vector())
    np.testing.assert_array_equal(back.second, moments.second)


# -- secants -------------------------------------------------------------------------------------


def linear(family: str, step: float) -> tuple[Secants, list[np.ndarray], np.ndarray, np.ndarray]:
    """Secants of an error that is linear in T; the steps to the anchors, T and E."""
    at = random_mixture(4, family, 3, 2)
    reference = at.means + 0.1
    like = complete_moments(at, reference)
    origin = natural_parameters(at, reference)
    root = np.random.default_rng(0).normal(size=(origin.size, origin.size))
    error = root + root.T
    others = around(at, 4, step)
    steps = [natural_parameters(p, reference) - origin for p in others]
    constant = like.of_vector(np.arange(origin.size, dtype=float))
    anchors = [
        Anchor(p, like.of_vector(constant.vector() + error @ u))
        for p, u in zip(others, steps, strict=True)
    ]
    secants = Secants.around(Anchor(at, constant), anchors)
    assert secants is not None
    return secants, steps, origin, error


@families
def test_secants_are_exact_for_a_linear_error(family: str) -> None:
    """At each anchor and on their span, and beyond in what steps along them do across."""
    secants, steps, origin, error = linear(family, 0.1)
    assert len(secants.errors) == 4
    weights = (1.0, -0.5, 2.0, 0.3)
    mixed = np.sum([w * u for w, u in zip(weights, steps, strict=True)], axis=0)
    for u in (*steps, mixed):
        value, gradient = secants.quadratic(origin + u, 0.0)
        np.testing.assert_allclose(gradient, error @ u, rtol=1e-8, atol=1e-8)
        assert value == pytest.approx(0.5 * u @ error @ u, rel=1e-8)


@families
@pytest.mark.parametrize("freed", [0.0, 0.3])
def test_the_gradient_of_secants_is_that_of_their_value(family: str, freed: float) -> None:
    secants, _, origin, _ = linear(family, 0.1)
    rng = np.random.default_rng(1)
    natural, direction = origin + rng.normal(size=origin.size), rng.normal(size=origin.size)
    ahead, behind = (secants.quadratic(natural + h * direction, freed)[0] for h in (1e-4, -1e-4))
    _, gradient = secants.quadratic(natural, freed)
    assert gradient @ direction == pytest.approx((ahead - behind) / 2e-4, rel=1e-6)


def test_what_leads_nowhere_new_is_no_secant() -> None:
    at = random_mixture(4, "full", 3, 2)
    constant = complete_moments(at, at.means)
    here = Anchor(at, constant)
    (other,) = around(at, 1, 0.1)
    there = Anchor(other, complete_moments(other, other.means))
    assert Secants.around(here, []) is None
    assert Secants.around(here, [here]) is None
    secants = Secants.around(here, [there, there, here])
    assert secants is not None
    assert len(secants.errors) == 1


@families
def test_anchors_bend_the_sample_as_all_rows_bend(family: str) -> None:
    """The gradient of all rows at an anchor, where the sample's own correction misses it."""
    rows, at = overlapping(5, family)
    sample = sample_of(rows, 200)

    def anchor(parameters: MixtureParameters) -> Anchor:
        found = per_row(KERNEL.statistics(Rows(rows), [Candidate(parameters)])[0])
        return Anchor(parameters, found - sample.evaluate(parameters, found.reference)[1])

    def wrong(objective: AnchoredSample, parameters: MixtureParameters) -> float:
        about = objective.corrected.moments.reference
        truth = per_row(KERNEL.statistics(Rows(rows), [Candidate(parameters, about)])[0])
        found = objective(parameters).moments
        assert found is not None
        return float(np.linalg.norm((found - truth).vector()))

    moments = per_row(KERNEL.statistics(Rows(rows), [Candidate(at)])[0])
    corrected = CorrectedSample.create(sample, at, moments)
    others = around(at, 3, 0.01)
    secants = Secants.around(anchor(at), [anchor(p) for p in others])
    for other in others:
        without = wrong(AnchoredSample(corrected, None, 0.0), other)
        assert wrong(AnchoredSample(corrected, secants, 0.0), other) < 0.05 * without
    assert AnchoredSample(corrected, secants, 0.0).start().value == corrected.start().value


# -- several steps in a read ---------------------------------------------------------------------


@dataclass(frozen=True)
class Several(VerifiedEM[tuple[float, ...]]):
    """Tries one that empties a component, and a part, all and more of the way of the plain step."""

    parts: tuple[float, ...] = ()
    hedged: bool = False

    def set_out(self, start: MixtureParameters) -> tuple[float, ...]:
        return ()

    def choose(
        self, at: Point, gained: float, memory: tuple[float, ...]
    ) -> Choice[tuple[float, ...]]:
        assert at.update is not None
        here = to_vector(at.parameters)
        step, beside = to_vector(at.update) - here, []
        for part in self.parts:
            there = from_vector(here + part * step, at.parameters)
            assert there is not None
            beside.append(Trial(there, bold=True, held=part))
        first = Trial(emptied(at.parameters), bold=True, hedged=self.hedged, beside=tuple(beside))
        return Choice(first, memory)

    def observe(
        self, memory: tuple[float, ...], trial: Trial, seen: Sequence[Seen]
    ) -> tuple[float, ...]:
        assert seen[0].gain == -np.inf, "no sound M-step"
        return tuple(each.gain for each in seen)

    def confirm(self, memory: tuple[float, ...], trial: Trial, gain: float) -> tuple[float, ...]:
        assert gain == max(memory)
        return (*memory, trial.held)


def test_of_several_steps_in_a_read_the_highest_is_taken() -> None:
    rows, start = overlapping(3)
    m_step = MStep(likelihood("full", 1e-6), "merge", Rows(rows))
    passes = Passes(rows)
    way = Several(0.0, 3, m_step, parts=(0.5, 1.5))
    (end,) = run([way], [way.begin((start,))], passes)
    assert passes.reads == 3
    assert end.memory[-1] == 1.5
    assert [j.kind for j in end.judgements] == [StepKind.START, *[StepKind.ACCEPTED] * 2]


def test_the_plain_step_is_taken_where_it_is_the_highest() -> None:
    rows, start = overlapping(3)
    m_step = MStep(likelihood("full", 1e-6), "merge", Rows(rows))
    passes = Passes(rows)
    way = Several(0.0, 3, m_step, parts=(0.5,), hedged=True)
    plain = fit(Several(0.0, 1, m_step, parts=(0.5,), hedged=True), Passes(rows), start)
    (end,) = run([way], [way.begin((start,))], passes)
    assert [j.kind for j in end.judgements] == [StepKind.START, *[StepKind.PLAIN] * 2]
    assert passes.reads == 3
    assert end.bounds[1] > plain.lower_bound


# -- a whole fit ---------------------------------------------------------------------------------


@pytest.mark.parametrize("family", quick_ones(FAMILIES, ["full", "tied"]))
@pytest.mark.parametrize("m", quick_ones([60, 400], [60]))
def test_no_read_of_several_steps_is_a_step_down(
    family: str, m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first read on, whatever the sample; the reads and what is kept are bounded."""
    monkeypatch.setattr(variance_reduced, "_PLATEAU", 0)
    rows, start = overlapping(7, family, n=1000)
    widths = []

    def passes(candidates: tuple[Candidate, ...]) -> object:
        widths.append(len(candidates))
        return KERNEL.statistics(Rows(rows), candidates)

    way = VarianceReducedEM(0.0, 5, MStep(likelihood(family)), sample=sample_of(rows, m))
    (end,) = run([way], [way.begin((start,))], passes)  # type: ignore[arg-type]
    assert np.all(np.diff(end.bounds) >= -1e-12)
    assert 2 < max(widths) <= 7
    assert len(end.judgements) == len(widths)
    assert 0 < len(end.memory.anchors) <= 12


@pytest.mark.slow
def test_a_plateau_is_crossed_in_fewer_reads() -> None:
    """Of six components on three clusters, with a sample of 1600 rows."""
    rows, start = crowded(0, 3.0)

    def height(*, alone: bool) -> float:
        sample = SampleRows(Rows(rows[:1600].copy()))
        model = likelihood("full", 1e-6)
        way = VarianceReducedEM(0.0, 20, MStep(model), sample=sample)
        with pytest.MonkeyPatch.context() as patch:
            if alone:
                patch.setattr(variance_reduced, "_PLATEAU", 1000)
            result = fit(way, Passes(rows), *fit_sample(sample, [start], model))
        assert np.all(np.diff(result.lower_bounds) >= -1e-9)
        return max(result.lower_bounds)

    assert height(alone=False) > height(alone=True)
