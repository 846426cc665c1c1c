"""The course of a fit, as its history has it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture as SklearnGaussianMixture

from dask_gmm import GaussianMixture
from dask_gmm.errors import InputError
from dask_gmm.plotting import plot_convergence
from tests.plotting.legible import faults
from tests.plotting.mixtures import made, passes


def points(ax: object, label: str) -> np.ndarray:
    (found,) = (line for line in ax.lines if line.get_label() == label)  # type: ignore[attr-defined]
    return np.asarray(found.get_xydata())


def test_passes_are_drawn_as_they_were_judged() -> None:
    gm = made("two features")[0]
    upper, lower = plot_convergence(gm)
    assert points(upper, "accepted").tolist() == [[1, -3.0], [2, -2.5], [4, -2.2], [5, -2.19]]
    assert points(upper, "rejected")[:, 0].tolist() == [3]
    low, high = upper.get_ylim()
    assert low < points(upper, "rejected")[0, 1] < -3.0  # far below, and still to be seen
    assert high > -2.19
    assert points(lower, "left, as guessed").tolist() == [[2, 0.4], [4, 0.02]]
    assert points(lower, "left in the end, at most").tolist() == [[5, 5e-4]]
    assert points(lower, "tol = 0.001")[0, 1] == 1e-3
    assert lower.get_yscale() == "log"
    assert upper.get_title(loc="left") == "converged after 5 passes, 1 rejected"


def test_plain_em_gains_until_it_changes_little() -> None:
    gm = replace(made("two features")[0], history_=passes(("start", -3, None), ("plain", -2, None)))
    lower = plot_convergence(gm)[1]
    assert points(lower, "gain of an iteration").tolist() == [[2, 1.0]]


@dataclass
class Record:
    pass_ends: tuple[float, ...]


def test_seconds_are_the_records_or_those_of_passes() -> None:
    gm = replace(made("two features")[0])
    upper = plot_convergence(gm, by="second")[0]
    assert points(upper, "accepted")[:, 0] == pytest.approx([0.5, 1.0, 2.0, 2.5])
    assert upper.figure.axes[1].get_xlabel() == "seconds of passes"
    gm.record_ = Record((4.0, 5.0, 7.0, 9.0, 10.0))  # type: ignore[attr-defined]
    upper = plot_convergence(gm, by="second")[0]
    assert points(upper, "accepted")[:, 0].tolist() == [4.0, 5.0, 9.0, 10.0]
    assert upper.figure.axes[1].get_xlabel() == "seconds from the first read"


def test_a_record_of_fewer_passes_is_not_believed() -> None:
    gm = replace(made("two features")[0])
    gm.record_ = Record((4.0,))  # type: ignore[attr-defined]
    upper = plot_convergence(gm, by="second")[0]
    assert points(upper, "accepted")[:, 0] == pytest.approx([0.5, 1.0, 2.0, 2.5])


@pytest.mark.parametrize("acceleration", [None, "squarem"])
def test_a_fit_of_the_packages_own(acceleration: str | None) -> None:
    X = np.random.default_rng(0).normal(size=(500, 2)) + np.repeat([[0], [2]], 250, axis=0)
    gm = GaussianMixture(3, acceleration=acceleration, random_state=0, tol=1e-5).fit(X)
    upper, lower = plot_convergence(gm)
    accepted = points(upper, "accepted")
    assert accepted[:, 1].max() == pytest.approx(gm.lower_bound_, abs=1e-3)
    assert len(lower.lines) >= 2
    assert faults(upper.figure) == []


def test_without_a_history_iterations_are_drawn() -> None:
    sklearn = SklearnGaussianMixture(1).fit(np.random.default_rng(0).normal(size=(50, 2)))
    gm = GaussianMixture.from_sklearn(sklearn)
    upper, lower = plot_convergence(gm)
    assert points(upper, "accepted")[:, 1].tolist() == list(gm.lower_bounds_)
    assert lower.get_xlabel() == "iteration"
    assert plot_convergence(made("old")[0])[1].get_xlabel() == "iteration"


@pytest.mark.parametrize("at", [-5.637582954854, 0.0, 1234.5678901234, -3e7])
@pytest.mark.parametrize("tol", [1e-3, 0.0])
def test_rounding_is_not_what_the_axis_shows(at: float, tol: float) -> None:
    """Of a fit that arrives at once the last digits differ, and are nothing to look at."""
    steps = passes(("start", at, None), ("plain", at * (1 + 2e-16), None), ("plain", at, None))
    gm = replace(made("two features")[0], history_=steps, tol=tol)
    upper, _ = plot_convergence(gm)
    low, high = upper.get_ylim()
    assert low < at < high
    assert high - low >= max(tol, 0.99e-5 * max(abs(at), 1.0))
    upper.figure.canvas.draw()
    ticks = [tick.get_text() for tick in upper.get_yticklabels()]
    assert max(map(len, ticks)) <= 11, ticks
    assert faults(upper.figure) == []


def test_errors() -> None:
    with pytest.raises(InputError, match="by='hour' is unknown"):
        plot_convergence(made("old")[0], by="hour")
    with pytest.raises(InputError, match=r"how long they took.*by='pass'"):
        plot_convergence(made("old")[0], by="second")
    with pytest.raises(InputError, match="does not know how the fit went"):
        plot_convergence(replace(made("old")[0], lower_bounds_=[]))
    with pytest.raises(NotFittedError):
        plot_convergence(GaussianMixture())


def test_passes_of_no_number_are_left_out() -> None:
    steps = passes(("start", float("nan"), None), ("plain", -2, None), ("rejected", -np.inf, None))
    upper, _ = plot_convergence(replace(made("old")[0], history_=steps))
    assert points(upper, "accepted").tolist() == [[2, -2]]
    assert np.isfinite(points(upper, "rejected")).all()
    assert faults(upper.figure) == []
