"""The estimate of what is left, against a quadratic whose optimum is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import zeta

from dask_gmm.fitting.acceleration.remaining import RemainingGain, series_rest, whole_rise

bends = st.floats(1e-4, 1.0)
parts = st.lists(st.floats(0.01, 0.9), min_size=2, max_size=6)
NAN = float("nan")
MOST = 19.0


def left_of(gradients: np.ndarray, bend: float) -> np.ndarray:
    return gradients**2 / (2.0 * bend)


def way(parts: list[float]) -> np.ndarray:
    """Gradients along a way whose every step goes a part of what is left of it."""
    return np.cumprod([1.0, *(1.0 - part for part in parts)])


def by_sample(estimate: RemainingGain, said: float, gained: float = NAN) -> float:
    estimate.take(gained, said)
    return estimate.by_sample(said)


def by_decline(estimate: RemainingGain, rise: float, rho: float, gained: float = NAN) -> float:
    estimate.take(gained, rho * rise)
    return estimate.by_decline(rise, rho)


@given(bend=bends, sample=bends, parts=parts)
def test_a_sample_that_bends_more_is_found_out(
    bend: float, sample: float, parts: list[float]
) -> None:
    """From the second pass on, whatever the steps were; one that bends less only exaggerates."""
    estimate, gradients = RemainingGain(), way(parts)
    left, said = left_of(gradients, bend), left_of(gradients, sample)
    assert by_sample(estimate, said[0]) == said[0]
    for i in range(1, len(left)):
        gained = left[i - 1] - left[i]
        found, exact = by_sample(estimate, said[i], gained), max(left[i], said[i])
        assert exact * (1 - 1e-6) <= found <= max(exact * (1 + 1e-6), (MOST + 0.01) * gained)


@given(parts=parts, rhos=st.lists(st.floats(0.05, 8.0), min_size=6, max_size=6))
def test_a_refuted_sample_is_not_asked(parts: list[float], rhos: list[float]) -> None:
    """On a plateau, where ρ holds and not the bend, however ρ changes from turn to turn."""
    bend, estimate, gradients = 1e-4, RemainingGain(), way(parts)
    left = left_of(gradients, bend)
    most = 0.0
    for i, (gradient, rho) in enumerate(zip(gradients, rhos, strict=False)):
        gained = NAN if i == 0 else left[i - 1] - left[i]
        found = by_decline(estimate, gradient**2 / (2.0 * (bend + rho)), rho, gained)
        if i == 0:
            assert found == float("inf")
        else:
            most = max(most, (MOST + 0.01) * gained)
            assert min(0.8 * left[i], MOST * gained) <= found <= most


def test_what_does_not_decline_is_unknown() -> None:
    """As much may be left as a series brings that hardly declines."""
    estimate = RemainingGain()
    by_sample(estimate, 1e-3)
    assert by_sample(estimate, 2e-3, 1e-3) == pytest.approx(MOST * 1e-3)
    estimate = RemainingGain()
    by_decline(estimate, 1e-3, 1.0)
    assert by_decline(estimate, 2e-3, 1.0, 1e-4) == pytest.approx(2e-3), "nor less than the rise"
    assert by_decline(estimate, 1e-15, 0.5, 1e-15) < 1e-2 * MOST, "rounding"


def test_the_larger_of_two_turns_holds() -> None:
    """A turn that has done with another direction makes what is left look small."""
    estimate = RemainingGain()
    estimate.take(NAN, 1.0)
    assert estimate.larger_of_two(5e-3) == 5e-3
    estimate.take(4e-3, 1.0)
    assert estimate.larger_of_two(1e-4) == pytest.approx(1e-3)
    estimate.take(1e-5, 1.0)
    assert estimate.larger_of_two(1e-5) == pytest.approx(9e-5), "but not of three"
    assert estimate.larger_of_two(float("inf")) == float("inf")
    assert estimate.larger_of_two(1e-5) == 1e-5, "what was unknown was no estimate"


def test_gains_that_hardly_decline_leave_more_than_is_said() -> None:
    """Fast gains change nothing."""
    for ratio in (0.9, 0.999, 0.3):
        estimate = RemainingGain()
        by_sample(estimate, 1e-3)
        for turn in range(6):
            gained = 1e-5 * ratio**turn
            left = by_sample(estimate, 1e-9 * 0.1**turn, gained)
        if ratio > 0.5:
            assert left == pytest.approx(series_rest(gained, ratio, 6))
            assert left >= gained * min(MOST, ratio / (1.0 - ratio)) * (1 - 1e-9)
        else:
            assert left < gained


@given(power=st.floats(1.5, 4.0), turns=st.integers(3, 200))
def test_a_decline_by_a_power_is_followed(power: float, turns: int) -> None:
    """What has no smallest rate: Σ t^−q to the end, by the last two of its terms."""
    last, before, tail = turns**-power, (turns - 1) ** -power, zeta(power, turns + 1)
    found = series_rest(last, last / before, turns)
    assert 0.5 * tail < found < 2.0 * tail or found == pytest.approx(MOST * last)


@given(ratio=st.floats(0.01, 0.9))
def test_a_geometric_series_is_summed_when_it_is_long(ratio: float) -> None:
    assert series_rest(1.0, ratio, 1000) == pytest.approx(ratio / (1.0 - ratio), rel=0.02)


@given(bend=st.floats(1e-3, 1.0), rho=st.floats(1e-2, 1.0), others=st.lists(bends, max_size=3))
def test_two_held_climbs_tell_the_free_one(bend: float, rho: float, others: list[float]) -> None:
    """Exactly for one direction; of several at least what the higher climb has found."""

    def rise(rho: float) -> float:
        return sum(1.0 / (h + rho) for h in (bend, *others))

    found = whole_rise(rise(rho), rise(3.0 * rho))
    assert rise(rho) <= found <= rise(0.0) * (1 + 1e-9)
    if not others:
        assert found == pytest.approx(rise(0.0), rel=1e-6)
    assert whole_rise(3.1, 1.0) == float("inf"), "it bends the other way"
