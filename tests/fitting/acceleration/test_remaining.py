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


@given(bend=bends, sample=bends, parts=parts)
def test_a_sample_that_bends_more_is_found_out(
    bend: float, sample: float, parts: list[float]
) -> None:
    """From the second pass on, whatever the steps were; one that bends less only exaggerates."""
    estimate, gradients = RemainingGain(), way(parts)
    left, said = left_of(gradients, bend), left_of(gradients, sample)
    assert estimate.by_sample(said[0], float("nan")) == said[0]
    for i in range(1, len(left)):
        found = estimate.by_sample(said[i], left[i - 1] - left[i])
        assert found == pytest.approx(max(left[i], said[i]), rel=1e-6)


@given(parts=parts, rhos=st.lists(st.floats(0.05, 8.0), min_size=6, max_size=6))
def test_a_refuted_sample_is_not_asked(parts: list[float], rhos: list[float]) -> None:
    """On a plateau, where ρ holds and not the bend, however ρ changes from turn to turn."""
    bend, estimate, gradients = 1e-4, RemainingGain(), way(parts)
    left = left_of(gradients, bend)
    for i, (gradient, rho) in enumerate(zip(gradients, rhos, strict=False)):
        gained = float("nan") if i == 0 else left[i - 1] - left[i]
        found = estimate.by_decline(gradient**2 / (2.0 * (bend + rho)), rho, gained)
        assert found == float("inf") if i == 0 else 0.8 < found / left[i] < 1.25 or i > 1


def test_what_does_not_decline_is_unknown() -> None:
    estimate = RemainingGain()
    estimate.by_sample(1e-3, float("nan"))
    assert estimate.by_sample(2e-3, 1e-3) == float("inf")
    estimate.forget()
    assert estimate.by_sample(2e-3, 1e-3) == 2e-3
    assert estimate.by_decline(1e-3, 0.5, 1e-4) == float("inf"), "of another kind than before"
    assert estimate.by_decline(1e-15, 0.5, 1e-4) < 1e-12, "rounding"


def test_the_larger_of_two_turns_holds() -> None:
    """A turn that has done with another direction makes what is left look small."""
    estimate = RemainingGain()
    estimate.by_decline(1e-2, 1.0, float("nan"))
    first = estimate.by_decline(5e-3, 1.0, 0.1)
    assert first == pytest.approx(0.1)
    assert estimate.by_decline(1e-3, 1.0, 4e-3) == pytest.approx(first - 4e-3)
