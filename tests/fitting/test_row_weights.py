"""Weights on every step of a fit that looks at rows: a row of weight w is w rows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_gmm.data.grid import BlockRef
from dask_gmm.fitting.collapse import MStep, worst_place
from dask_gmm.fitting.contest import Judged
from dask_gmm.fitting.holdout import HoldOut, HoldOutJob
from dask_gmm.fitting.kmeans_parallel import _DrawJob, _MomentsJob
from dask_gmm.fitting.passes import LogLikelihoodJob, StatisticsJob
from dask_gmm.fitting.sampling import SampleJob, _drawn_by_weight
from dask_gmm.fitting.starts import responsibilities, responsibility_statistics, start_from
from dask_gmm.mixture.criteria import information_criteria
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.kernels import Candidate, get_kernel
from dask_gmm.rows import Rows
from tests.mixture.problems import FAMILIES, draw, likelihood, maximize, random_mixture

if TYPE_CHECKING:
    from dask_gmm.mixture.statistics import SufficientStatistics

BLOCK = BlockRef(0, (0,), (600,), 600)
MIXTURE = random_mixture(1, "full", 3, 2, spread=4.0)
VALUES = draw(2, MIXTURE, 600)
TIMES = np.random.default_rng(3).integers(1, 5, size=600)
WEIGHTED = Rows(VALUES, TIMES.astype(np.float64))
REPEATED = Rows(np.repeat(VALUES, TIMES, axis=0))


def assert_close(a: SufficientStatistics, b: SufficientStatistics) -> None:
    assert a.weight == pytest.approx(b.weight, rel=1e-13)
    np.testing.assert_allclose(a.reference, b.reference, rtol=1e-12, atol=1e-12)
    for name in ("counts", "first", "second"):
        x, y = getattr(a, name), getattr(b, name)
        np.testing.assert_allclose(x, y, rtol=1e-11, atol=1e-11 * (1.0 + np.abs(y).max()))


class TestSample:
    @given(st.data())
    @settings(max_examples=60, deadline=None)
    def test_a_draw_keeps_the_weight_of_its_block(self, data: st.DataObject) -> None:
        exponents = st.floats(-30.0, 30.0)
        weights = 10.0 ** np.array(data.draw(st.lists(exponents, min_size=2, max_size=200)))
        wanted = data.draw(st.integers(1, len(weights) - 1))
        chosen, standing = _drawn_by_weight(weights, wanted, np.random.default_rng(0))
        assert len(chosen) == len(standing) == wanted
        assert np.all(np.diff(chosen) > 0)
        assert standing.sum() == pytest.approx(weights.sum(), rel=1e-9)
        assert np.all(standing >= weights[chosen] * (1.0 - 1e-12))
        light = standing > weights[chosen] * (1.0 + 1e-12)
        if light.any():  # all that were drawn by chance stand for as much
            assert np.ptp(standing[light]) <= 1e-12 * standing[light][0]

    def test_rows_are_drawn_as_often_as_they_weigh(self) -> None:
        rng, drawn = np.random.default_rng(5), np.zeros(40)
        weights = np.concatenate([[30.0], rng.uniform(0.1, 2.0, size=39)])
        for _ in range(4000):
            chosen, standing = _drawn_by_weight(weights, 10, rng)
            np.add.at(drawn, chosen, standing)
        # Horvitz and Thompson's estimator is unbiased for every row.
        share = weights[1:].sum() / 9
        chance = weights[1:] / share
        error = share * np.sqrt(chance * (1.0 - chance) / 4000)
        assert drawn[0] / 4000 == pytest.approx(30.0)
        assert np.all(np.abs(drawn[1:] / 4000 - weights[1:]) < 4.5 * error)

    def test_rows_that_come_in_turns_are_not_missed(self) -> None:
        """Every tenth row is of another kind: a draw by equal steps would take one kind alone."""
        kinds = np.arange(5000) % 10
        chosen, _ = _drawn_by_weight(np.full(5000, 2.0), 500, np.random.default_rng(6))
        assert np.bincount(kinds[chosen], minlength=10).min() > 25

    def test_all_rows_keep_their_weights(self) -> None:
        drawn = SampleJob(1.0, 1000, 0, 2)(WEIGHTED, BLOCK)
        assert drawn.parts[0].weights is not None
        np.testing.assert_array_equal(drawn.parts[0].weights, TIMES)


@pytest.mark.parametrize("family", FAMILIES)
def test_moments_of_the_rows_nearest_to_places(family: str) -> None:
    job = _MomentsJob((VALUES[:7],), (covariance_family(family).form,))
    (weighted,), (repeated,) = (job(rows, BLOCK).parts for rows in (WEIGHTED, REPEATED))
    assert_close(weighted.parts[0], repeated.parts[0])


def test_a_round_draws_rows_as_often_as_they_weigh() -> None:
    """Two rows at the same distance, one of which weighs three times as much."""
    rows = Rows(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([3.0, 1.0]))
    heavy = 0
    for seed in range(2000):
        (drawn,) = _DrawJob((np.zeros((1, 2)),), 1, seed, 1, 2)(rows, BLOCK).parts
        heavy += int(drawn.index[0] == 0)
    assert heavy / 2000 == pytest.approx(0.75, abs=0.04)


class TestStarts:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_k_means(self, family: str) -> None:
        """Clusters so far apart that every start of k-means finds them."""
        p = random_mixture(7, family, 3, 2, spread=60.0)
        values = draw(8, p, 600)
        starts = []
        for rows in (Rows(values, WEIGHTED.weights), Rows(np.repeat(values, TIMES, axis=0))):
            pieces = responsibilities(rows, 3, "kmeans", np.random.RandomState(0))
            start = start_from(rows, pieces, 3, likelihood(family, 1e-6), "kmeans")
            order = np.argsort(start.means[:, 0])
            starts.append((start.weights[order], start.means[order]))
        for a, b in zip(*starts, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_random_responsibilities(self, family: str) -> None:
        kind = covariance_family(family).form
        pieces = list(responsibilities(WEIGHTED, 3, "random", np.random.RandomState(0)))
        copies = [
            (index, np.repeat(r / TIMES, TIMES)) for index, r in pieces
        ]  # as each of the copies had drawn the same
        assert_close(
            responsibility_statistics(WEIGHTED, pieces, 3, kind),
            responsibility_statistics(REPEATED, copies, 3, kind),
        )

    @pytest.mark.parametrize("method", ["k-means++", "random_from_data"])
    def test_a_chosen_row_stands_for_one(self, method: str) -> None:
        rows = Rows(VALUES, np.where(np.arange(600) < 5, 1e12, 1e-12))
        chosen = list(responsibilities(rows, 3, method, np.random.RandomState(0)))
        assert all(int(index[0]) < 5 for index, _ in chosen)  # type: ignore[index]
        assert all(r.tolist() == [1.0] for _, r in chosen)

    def test_the_wide_start_of_tied_mixtures(self) -> None:
        """Of copies, but as wide as so many rows make it; no unit of weights widens it."""
        model, places = likelihood("tied", 1e-6), np.array([3, 50, 400])
        means, scatters = VALUES[places], []
        copies = (np.cumsum(TIMES) - 1)[places]
        for rows, chosen in ((WEIGHTED, places), (REPEATED, copies)):
            pieces = [(np.array([i]), np.ones(1)) for i in chosen]
            start = start_from(rows, pieces, 3, model, "k-means++")
            wide = 3.0 * (start.covariances - 1e-6 * np.eye(2)) + means.T @ means
            scatters.append(wide / len(rows))
        np.testing.assert_allclose(scatters[0], scatters[1], rtol=1e-11)


def test_reseeding_goes_where_the_weight_is() -> None:
    values = np.concatenate([VALUES, [[90.0, 90.0]] * 3, [[-90.0, 90.0]] * 2])
    weights = np.concatenate([np.ones(600), np.ones(3), np.full(2, 5.0)])
    assert worst_place(Rows(values), MIXTURE).tolist() == [90.0, 90.0]
    assert worst_place(Rows(values, weights), MIXTURE).tolist() == [-90.0, 90.0]


class TestUnits:
    """What counts as a row when weights are in a unit of their own."""

    def test_weights_that_add_up_to_one_leave_components_their_rows(self) -> None:
        rows = Rows(VALUES, np.full(600, 1.0 / 600.0))
        (found,) = get_kernel().statistics(rows, [Candidate(MIXTURE)])
        assert found.row_weight == pytest.approx(1.0 / 600.0)
        step = MStep(likelihood("full", 1e-6), "merge")
        after, notes = step(found)
        assert after.n_components == 3
        assert notes == ()

    def test_copies_leave_a_row_a_row(self) -> None:
        (found,) = get_kernel().statistics(WEIGHTED, [Candidate(MIXTURE)])
        assert found.row_weight == 1.0

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("unit", [1e-90, 1e-15, 1e15, 1e90])
    def test_the_m_step_knows_no_unit(self, family: str, unit: float) -> None:
        p = random_mixture(9, family, 3, 2)
        found = []
        for scale in (1.0, unit):
            rows = Rows(draw(10, p, 600), (scale * TIMES).astype(np.float64))
            (statistics,) = get_kernel().statistics(rows, [Candidate(p)])
            found.append(maximize(statistics, 1e-6))
        for name in ("weights", "means", "covariances"):
            a, b = (getattr(q, name) for q in found)
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


class TestScores:
    def test_the_likelihood_of_copies(self) -> None:
        job = LogLikelihoodJob(MIXTURE).open()
        weighted, repeated = job(WEIGHTED, BLOCK), job(REPEATED, BLOCK)
        assert (weighted.rows, weighted.weight) == (600, TIMES.sum())
        assert weighted.total == pytest.approx(repeated.total, rel=1e-13)
        assert weighted.mean == pytest.approx(repeated.mean, rel=1e-13)

    def test_rows_held_out_are_scored_by_their_weights(self) -> None:
        split = HoldOut(0.3, 1)
        held = split.mask(BLOCK, 600)
        found = HoldOutJob(StatisticsJob((Candidate(MIXTURE),)), split, 0).open()(WEIGHTED, BLOCK)
        (scored,) = found.held_out
        densities = get_kernel().log_densities(VALUES[held], MIXTURE)
        assert scored.weight == TIMES[held].sum()
        assert scored.total == pytest.approx(TIMES[held] @ densities, rel=1e-12)
        assert found.training.statistics[0].weight == TIMES[~held].sum()

    def test_criteria_of_copies_and_of_observations_that_are_told(self) -> None:
        (weighted,) = get_kernel().statistics(WEIGHTED, [Candidate(MIXTURE)])
        (repeated,) = get_kernel().statistics(REPEATED, [Candidate(MIXTURE)])
        (scaled,) = get_kernel().statistics(
            Rows(VALUES, np.ldexp(TIMES.astype(np.float64), -40)), [Candidate(MIXTURE)]
        )
        truth = information_criteria(repeated, MIXTURE)
        for found in (
            information_criteria(weighted, MIXTURE),
            information_criteria(scaled, MIXTURE, float(TIMES.sum())),
        ):
            for name in ("n_effective", "log_likelihood", "bic", "aic", "icl"):
                assert getattr(found, name) == pytest.approx(getattr(truth, name), rel=1e-11)

    def test_observations_are_shared_with_the_rows_held_out(self) -> None:
        split, job = HoldOut(0.3, 1), StatisticsJob((Candidate(MIXTURE),))
        (statistics,) = HoldOutJob(job, split, 0).open()(WEIGHTED, BLOCK).statistics
        total = float(TIMES.sum())
        by_weight, told = (Judged.of(MIXTURE, statistics, n) for n in (None, total))
        assert told.criteria.bic == pytest.approx(by_weight.criteria.bic, rel=1e-12)
        assert replace(told, criteria=by_weight.criteria) == by_weight
