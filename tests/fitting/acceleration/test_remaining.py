"""The estimate of what is left, against a quadratic whose optimum is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_gmm.fitting.acceleration.remaining import RemainingGain

bends = st.floats(1e-4, 1.0)
parts = st.lists(st.floats(0.01, 0.9), min_size=2, max_size=6)


def left_of(gradients: np.ndarray, bend: float) -> np.ndarray:
    return gradients**2 / (2.0 * bend)


def way(parts: list[float]) -> np.ndarray:
    """Gradients along a way whose every step goes a part of what is left of it."""
    return np.cumprod([1.0, *(1.0 - part for part in parts)])


class Estimate:
    """What is said from turn to turn."""

    def __init__(self) -> None:
        self.state = RemainingGain()

    def by_sample(self, rise: float, gained: float = float("nan")) -> float:
        left, self.state = self.state.take(gained).by_sample(rise)
        return left

    def by_decline(self, rise: float, rho: float, gained: float = float("nan")) -> float:
        left, self.state = self.state.take(gained).by_decline(rise, rho)
        return left


@given(bend=bends, sample=bends, parts=parts)
def test_a_sample_that_bends_more_is_found_out(
    bend: float, sample: float, parts: list[float]
) -> None:
    """From the second pass on, whatever the steps were; one that bends less only exaggerates."""
    estimate, gradients = Estimate(), way(parts)
    left, rise = left_of(gradients, bend), left_of(gradients, sample)
    assert estimate.by_sample(rise[0]) == rise[0]
    for i in range(1, len(left)):
        gained = left[i - 1] - left[i]
        found, exact = estimate.by_sample(rise[i], gained), max(left[i], rise[i])
        assert exact * (1 - 1e-6) <= found <= max(exact * (1 + 1e-6), 19.01 * gained)


@given(parts=parts, rhos=st.lists(st.floats(0.05, 8.0), min_size=6, max_size=6))
def test_a_refuted_sample_is_not_asked(parts: list[float], rhos: list[float]) -> None:
    """On a plateau, where ρ holds and not the bend, however ρ changes from turn to turn."""
    bend, estimate, gradients = 1e-4, Estimate(), way(parts)
    left = left_of(gradients, bend)
    for i, (gradient, rho) in enumerate(zip(gradients, rhos, strict=False)):
        gained = float("nan") if i == 0 else left[i - 1] - left[i]
        found = estimate.by_decline(gradient**2 / (2.0 * (bend + rho)), rho, gained)
        assert found == float("inf") if i == 0 else found > 0.8 * left[i]
        if i == 1:
            assert found < 1.25 * left[1]


def test_what_does_not_decline_is_unknown() -> None:
    estimate = Estimate()
    estimate.by_sample(1e-3)
    assert estimate.by_sample(2e-3, 1e-3) == float("inf")
    estimate.state = estimate.state.forget()
    assert estimate.by_sample(2e-3, 1e-4) == 2e-3
    assert estimate.by_decline(1e-3, 0.5, 1e-5) == float("inf"), "of another kind than before"
    assert estimate.by_decline(1e-15, 0.5, 1e-15) < 1e-12, "rounding"


def test_the_larger_of_two_turns_holds() -> None:
    """A turn that has done with another direction makes what is left look small."""
    estimate = Estimate()
    estimate.by_decline(1e-2, 1.0)
    first = estimate.by_decline(5e-3, 1.0, 0.1)
    assert first == pytest.approx(0.1)
    assert estimate.by_decline(1e-3, 1.0, 4e-3) == pytest.approx(first - 4e-3)


def test_gains_that_hardly_decline_leave_more_than_is_said() -> None:
    """What declines by a tenth from pass to pass brings nine more; fast gains change nothing."""
    for ratio, more in ((0.9, 9.0), (0.999, 19.0), (0.3, 0.0)):
        estimate = Estimate()
        estimate.by_sample(1e-3)
        for turn in range(6):
            gained = 1e-5 * ratio**turn
            left = estimate.by_sample(1e-9 * 0.1**turn, gained)
        if more > 0.0:
            assert left == pytest.approx(more * gained)
        else:
            assert left < gained


def test_by_gains_alone_one_small_gain_is_no_end() -> None:
    """The larger of two holds; fewer than two tell nothing; a slow series has a rest."""
    state = RemainingGain()
    assert state.by_gains_alone()[0] == float("inf")
    state = state.take(float("nan")).take(1e-8)
    assert state.by_gains_alone()[0] == float("inf")
    state = state.take(1e-3).take(1e-8)
    assert state.by_gains_alone()[0] == pytest.approx(1e-3)
    slow = RemainingGain((gains := (1e-5, 0.9e-5, 0.81e-5, 0.729e-5))[-1], gains)
    assert slow.by_gains_alone()[0] == pytest.approx(9.0 * gains[-1])


def test_who_creeps() -> None:
    """Small gains that do not decline: no fast end, no burst, no rounding, and not too few."""
    for gains, creeps in (
        ((1e-5, 1e-5, 1e-5, 1e-5), True),
        ((5e-5, 1e-6, 5e-5, 1e-6), True),
        ((1e-5, 1e-6, 1e-7, 1e-8), False),
        ((1e-8, 1e-6, 1e-1, 1e-2), False),
        ((1e-15, 1e-15, 1e-15, 1e-15), False),
        ((1e-5, 1e-5, 1e-5), False),
        ((), False),
    ):
        assert RemainingGain(float("nan"), gains).creeps is creeps
