"""The laws that every kernel obeys, run on all of them.

`blas-whitening` is the BLAS kernel with its fast forms forbidden, so that both of its arithmetics
pass the whole suite; `marginal` is the kernel for missing values where none is missing, and
`compiled-256` and its like are the compiled kernel with vectors of so many bits, each that this
CPU has. A new kernel joins by its name in `KERNELS`.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

from dask_gmm.errors import InputError, NonFiniteError
from dask_gmm.mixture.kernels import (
    KERNELS,
    Candidate,
    Kernel,
    MarginalKernel,
    blas,
    get_kernel,
)
from dask_gmm.mixture.kernels.compiled import CompiledKernel
from dask_gmm.mixture.kernels.compiled.compiler import this_cpu
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.rows import Rows
from tests.memory import peak_of
from tests.mixture.problems import FACTORS, FAMILIES, draw, random_mixture

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.statistics import SufficientStatistics


NARROWER = [f"compiled-{width}" for width in this_cpu().widths[1:]]


SLOW = [
    pytest.param(name, marks=pytest.mark.slow) for name in ("blas-whitening", "marginal", *NARROWER)
]


KINDS = (*FAMILIES, FACTORS)
SLOWLY = [*FAMILIES, pytest.param(FACTORS, marks=pytest.mark.slow)]


@pytest.fixture(params=[*KERNELS, *SLOW])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    name, _, variant = request.param.partition("-")
    if name == "marginal":
        family = getattr(request.node, "callspec", None) and request.node.callspec.params.get(
            "family"
        )
        if family == FACTORS:
            pytest.skip("refused: tests/mixture/test_factors.py")
        return MarginalKernel(get_kernel())
    if variant == "whitening":
        monkeypatch.setattr(blas, "LARGEST_CANCELLATION", 0.0)
    elif variant:
        return CompiledKernel(int(variant))
    return get_kernel(name)


ORACLE = get_kernel("reference")


def textbook(rows: NDArray[Any], p: MixtureParameters) -> NDArray[np.float64]:
    """log π_k N(x_n|μ_k, Σ_k), shape (n, K), by SciPy."""
    k, d = p.means.shape
    dense = p.family.form.dense(p.covariances, k, d)
    columns = [
        np.log(w) + stats.multivariate_normal(m, c).logpdf(rows.astype(np.float64)).reshape(-1)
        for w, m, c in zip(p.weights, p.means, dense, strict=True)
    ]
    return np.stack(columns, axis=1)


def assert_close(a: SufficientStatistics, b: SufficientStatistics, rtol: float = 1e-12) -> None:
    """Equal to rounding, measured against the size of what was added up."""
    assert (a.form, a.rows, a.weight) == (b.form, b.rows, b.weight)
    np.testing.assert_array_equal(a.reference, b.reference)
    assert a.log_likelihood == pytest.approx(b.log_likelihood, rel=rtol, abs=rtol * max(a.rows, 1))
    for name in ("counts", "first", "second"):
        x, y = getattr(a, name), getattr(b, name)
        assert x.shape == y.shape
        scale = rtol * (np.abs(y).max(initial=0.0) + 1.0)
        np.testing.assert_allclose(x, y, rtol=rtol, atol=scale, err_msg=name)


def one(kernel: Kernel, rows: NDArray[Any], p: MixtureParameters) -> SufficientStatistics:
    (result,) = kernel.statistics(Rows(rows), [Candidate(p)])
    return result


def directions(p: MixtureParameters) -> NDArray[np.float64]:
    """β_kᵀ = Σ_k⁻¹ Λ_k of a mixture of factor analysers, (K, D, q)."""
    dense = p.form.dense(p.covariances, *p.means.shape)
    return np.asarray(np.linalg.solve(dense, p.covariances[:, :, 1:]))


def as_dtype(rows: NDArray[np.float64], dtype: str) -> NDArray[Any]:
    if dtype == "bool":
        return np.asarray(rows > rows.mean(axis=0))
    scaled = 10.0 * rows if np.dtype(dtype).kind in "iu" else rows
    return (np.abs(scaled) if np.dtype(dtype).kind == "u" else scaled).astype(dtype)


class TestNumbers:
    @pytest.mark.parametrize("family", KINDS)
    @pytest.mark.parametrize(("k", "d"), [(1, 1), (3, 1), (1, 3), (4, 3), (3, 3), (5, 17)])
    def test_agrees_with_scipy_and_the_definition(
        self, kernel: Kernel, family: str, k: int, d: int
    ) -> None:
        p = random_mixture(1, family, k, d, offset=3.0)
        rows = draw(2, p, 301)
        joint = textbook(rows, p)
        log_density = logsumexp(joint, axis=1)
        r = np.exp(joint - log_density[:, None])
        np.testing.assert_allclose(kernel.log_densities(rows, p), log_density, rtol=1e-11)
        np.testing.assert_allclose(kernel.posteriors(rows, p), r, atol=1e-11)
        np.testing.assert_array_equal(kernel.labels(rows, p), joint.argmax(axis=1))

        s = one(kernel, rows, p)
        deviation = rows[:, None, :] - p.means
        dense = np.einsum("nk,nki,nkj->kij", r, deviation, deviation)
        diagonal = np.diagonal(dense, axis1=1, axis2=2)
        by_form: dict[str, NDArray[np.float64]] = {
            "full": dense,
            "tied": dense.sum(axis=0),
            "diag": diagonal,
            "spherical": diagonal.sum(axis=1),
        }
        if family == FACTORS:
            by_form[family] = np.concatenate([diagonal[:, :, None], dense @ directions(p)], axis=2)
        second = by_form[family]
        assert (s.rows, s.weight) == (301, 301.0)
        assert s.log_likelihood == pytest.approx(log_density.sum(), rel=1e-12)
        np.testing.assert_allclose(s.counts, r.sum(axis=0), rtol=1e-11)
        np.testing.assert_allclose(
            s.first, np.einsum("nk,nkd->kd", r, deviation), rtol=1e-11, atol=1e-10
        )
        np.testing.assert_allclose(s.second, second, rtol=1e-11, atol=1e-10)

    @pytest.mark.parametrize("family", SLOWLY)
    @pytest.mark.parametrize(
        "dtype", ["float32", "float16", "int8", "int64", "uint8", "uint64", "bool", "longdouble"]
    )
    def test_other_dtypes_are_the_same_numbers(
        self, kernel: Kernel, family: str, dtype: str
    ) -> None:
        rows = as_dtype(draw(3, random_mixture(4, family, 3, 4), 211), dtype)
        values = rows.astype(np.float64)
        p = random_mixture(4, family, 3, 4, offset=float(values.mean()))
        if kernel.name == "compiled" and dtype == "float32":  # computed as such where it may
            assert_close(one(kernel, rows, p), one(kernel, values, p), rtol=1e-5)
            np.testing.assert_allclose(
                kernel.posteriors(rows, p), kernel.posteriors(values, p), atol=1e-5
            )
            kernel = CompiledKernel(single=False)
        assert one(kernel, rows, p) == one(kernel, values, p)
        np.testing.assert_array_equal(kernel.posteriors(rows, p), kernel.posteriors(values, p))

    @pytest.mark.parametrize("family", SLOWLY)
    @pytest.mark.parametrize("d", [70, 130])
    def test_many_features(self, kernel: Kernel, family: str, d: int) -> None:
        p = random_mixture(5, family, 2, d, spread=0.3)
        rows = draw(6, p, 197)
        assert_close(one(kernel, rows, p), one(ORACLE, rows, p))

    @pytest.mark.parametrize("family", SLOWLY)
    def test_any_number_of_rows(self, kernel: Kernel, family: str) -> None:
        p = random_mixture(7, family, 3, 2)
        candidate = Candidate(p)
        tile = blas._choose(candidate).features.tile_rows
        rows = draw(8, p, 2 * tile + 1)
        for n in (0, 1, 2, 3, 997, tile - 1, tile, tile + 1, 2 * tile + 1):
            s = one(kernel, rows[:n], p)
            assert s.rows == n
            assert s.counts.sum() == pytest.approx(n, rel=1e-12)
            if n <= tile + 1:
                assert_close(s, one(ORACLE, rows[:n], p))
            assert kernel.labels(rows[:n], p).shape == (n,)
            assert kernel.log_densities(rows[:n], p).shape == (n,)
            assert kernel.posteriors(rows[:n], p).shape == (n, 3)

    @pytest.mark.parametrize("family", KINDS)
    def test_statistics_are_about_the_reference(self, kernel: Kernel, family: str) -> None:
        p = random_mixture(9, family, 3, 4)
        rows = draw(10, p, 500)
        about = p.means + np.linspace(-2.0, 2.0, 12).reshape(3, 4)
        (s,) = kernel.statistics(Rows(rows), [Candidate(p, about)])
        (oracle,) = ORACLE.statistics(Rows(rows), [Candidate(p, about)])
        np.testing.assert_array_equal(s.reference, about)
        assert_close(s, oracle)

    def test_no_rows_are_the_zero(self, kernel: Kernel) -> None:
        for family in FAMILIES if isinstance(kernel, MarginalKernel) else KINDS:
            p = random_mixture(11, family, 3, 4)
            s = one(kernel, np.empty((0, 4)), p)
            assert s == type(s).zero(p.form, p.means)

    def test_no_candidates(self, kernel: Kernel) -> None:
        assert kernel.statistics(Rows(np.ones((3, 2))), []) == ()


class TestComposition:
    def test_company_changes_no_bit(self, kernel: Kernel) -> None:
        """Different K and families in one call equal each on its own."""
        kinds = FAMILIES if isinstance(kernel, MarginalKernel) else KINDS
        mixtures = [
            random_mixture(seed, family, k, 3)
            for seed, (family, k) in enumerate((f, k) for f in kinds for k in (1, 2, 5))
        ]
        rows = draw(12, mixtures[2], 1500)
        together = kernel.statistics(Rows(rows), [Candidate(p) for p in mixtures])
        assert list(together) == [one(kernel, rows, p) for p in mixtures]

    @pytest.mark.parametrize("family", SLOWLY)
    def test_the_parts_add_up_to_the_whole(self, kernel: Kernel, family: str) -> None:
        p = random_mixture(13, family, 4, 3)
        rows = draw(14, p, 900)
        whole = one(kernel, rows, p)
        for cut in (0, 1, 450, 899, 900):
            assert_close(one(kernel, rows[:cut], p) + one(kernel, rows[cut:], p), whole)

    @pytest.mark.parametrize("family", KINDS)
    @pytest.mark.parametrize("dtype", ["float64", "float32", "int16"])
    def test_layout_changes_no_bit(self, kernel: Kernel, family: str, dtype: str) -> None:
        p = random_mixture(15, family, 3, 5, offset=10.0)
        rows = as_dtype(draw(16, p, 700), dtype)
        wide = np.zeros((1400, 10), dtype=dtype)
        wide[::2, ::2] = rows
        reverse = np.ascontiguousarray(rows[::-1, ::-1])
        image = np.ascontiguousarray(rows.reshape(70, 10, 5).transpose(2, 0, 1))
        layouts = {
            "feature-major": np.asfortranarray(rows),
            "strided": wide[::2, ::2],
            "negative strides": reverse[::-1, ::-1],
            "bands first": image.transpose(1, 2, 0).reshape(700, 5),
            "read-only": rows.view(),
        }
        layouts["read-only"].setflags(write=False)
        expected = one(kernel, rows, p), kernel.log_densities(rows, p), kernel.posteriors(rows, p)
        for name, same in layouts.items():
            assert one(kernel, same, p) == expected[0], name
            np.testing.assert_array_equal(kernel.log_densities(same, p), expected[1], name)
            np.testing.assert_array_equal(kernel.posteriors(same, p), expected[2], name)

    def test_threads_and_repetition_change_no_bit(self, kernel: Kernel) -> None:
        p, q = random_mixture(17, "full", 3, 4), random_mixture(18, "diag", 5, 4)
        rows = draw(19, p, 2000)
        candidates = [Candidate(p), Candidate(q)]
        expected = kernel.statistics(Rows(rows), candidates)
        found: list[tuple[SufficientStatistics, ...]] = []

        def work() -> None:
            found.extend(kernel.statistics(Rows(rows), candidates) for _ in range(3))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [expected] * 12

    def test_rows_are_left_alone(self, kernel: Kernel) -> None:
        p = random_mixture(20, "full", 2, 3)
        rows = draw(21, p, 50)
        before = rows.copy()
        one(kernel, rows, p)
        kernel.labels(rows, p)
        np.testing.assert_array_equal(rows, before)


class TestLogDensities:
    """What each row says comes with the statistics and changes none of their bits."""

    @pytest.mark.parametrize("family", SLOWLY)
    @pytest.mark.parametrize(("dtype", "weighted"), [("f8", False), ("f4", True), ("i2", True)])
    @pytest.mark.parametrize("d", [3, 17])
    def test_they_are_the_predictors(
        self, kernel: Kernel, family: str, dtype: str, weighted: bool, d: int
    ) -> None:
        p, other = random_mixture(1, family, 4, d), random_mixture(2, "full", 3, d)
        rows = as_dtype(draw(3, p, 1601), dtype)
        weights = np.random.default_rng(4).exponential(size=1601) if weighted else None
        for some in (Rows(rows, weights), Rows(rows[::-1], weights), Rows(rows[:0])):
            e_step = kernel.e_step([Candidate(p), Candidate(other)])
            plain = e_step.statistics(some)
            found, densities = e_step.with_log_densities(some)
            assert found == plain == e_step.statistics(some)
            expected = kernel.log_densities(some.values, p)
            tolerance = 1e-5 if dtype == "f4" else 1e-12
            np.testing.assert_allclose(densities, expected, rtol=tolerance, atol=tolerance)

    def test_rows_far_out_for_float32(self, kernel: Kernel) -> None:
        p = random_mixture(1, "full", 3, 2)
        rows = np.array([[0.0, 1.0], [1e25, 0.0], [2.0, 2.0]], dtype=np.float32)
        found, densities = kernel.e_step([Candidate(p)]).with_log_densities(Rows(rows))
        assert found == kernel.statistics(Rows(rows), [Candidate(p)])
        np.testing.assert_allclose(densities, kernel.log_densities(rows, p), rtol=1e-6)

    def test_no_number(self, kernel: Kernel) -> None:
        rows = np.zeros((9, 2))
        rows[7, 1] = np.inf
        p = random_mixture(1, "full", 3, 2)
        with pytest.raises(NonFiniteError) as caught:
            kernel.e_step([Candidate(p)]).with_log_densities(Rows(rows))
        assert (caught.value.row, caught.value.feature) == (7, 1)


class TestAnswers:
    @pytest.mark.parametrize("family", KINDS)
    def test_posteriors_sum_to_one_and_labels_are_their_largest(
        self, kernel: Kernel, family: str
    ) -> None:
        p = random_mixture(22, family, 4, 3)
        rows = draw(23, p, 3000)
        posteriors = kernel.posteriors(rows, p)
        np.testing.assert_allclose(posteriors.sum(axis=1), 1.0, rtol=4e-16 * 8)
        assert np.all(posteriors >= 0.0)
        np.testing.assert_array_equal(kernel.labels(rows, p), posteriors.argmax(axis=1))
        both = kernel.predictor(p).with_log_densities(rows)
        np.testing.assert_array_equal(both[0], posteriors)
        np.testing.assert_array_equal(both[1], kernel.log_densities(rows, p))

    def test_equal_components_share_and_the_first_is_the_label(self, kernel: Kernel) -> None:
        p = MixtureParameters.create("spherical", [0.5, 0.5], np.zeros((2, 2)), [1.0, 1.0])
        rows = np.arange(20.0).reshape(10, 2)
        np.testing.assert_allclose(kernel.posteriors(rows, p), 0.5)
        np.testing.assert_array_equal(kernel.labels(rows, p), 0)

    @pytest.mark.parametrize("family", SLOWLY)
    def test_rows_where_every_density_underflows(self, kernel: Kernel, family: str) -> None:
        p = random_mixture(24, family, 3, 2)
        rows = np.array([[1e5, -1e5], [-1e6, 0.0], [0.0, 1e7]])
        log_densities = kernel.log_densities(rows, p)
        assert np.all(np.isfinite(log_densities))
        assert np.all(np.exp(log_densities) == 0.0)
        np.testing.assert_allclose(log_densities, ORACLE.log_densities(rows, p), rtol=1e-13)
        np.testing.assert_allclose(kernel.posteriors(rows, p).sum(axis=1), 1.0)
        np.testing.assert_array_equal(kernel.labels(rows, p), ORACLE.labels(rows, p))
        assert one(kernel, rows, p).counts.sum() == pytest.approx(3.0)

    @pytest.mark.parametrize("family", SLOWLY)
    def test_a_component_without_weight_owns_nothing(self, kernel: Kernel, family: str) -> None:
        base = random_mixture(25, family, 3, 2)
        p = MixtureParameters.create(family, [0.5, 0.0, 0.5], base.means, base.covariances)
        rows = draw(26, p, 100)
        assert np.all(kernel.posteriors(rows, p)[:, 1] == 0.0)
        s = one(kernel, rows, p)
        assert s.counts[1] == 0.0
        assert not s.first[1].any()
        assert np.isfinite(s.second).all()

    @pytest.mark.parametrize("d", [3, 16])
    def test_a_rare_component_lacks_nothing_that_is_left_out(self, kernel: Kernel, d: int) -> None:
        """Responsibilities of its own 2 rows are 1; of 5,000 others 1e-35 to 1e-9."""
        rng = np.random.default_rng(27)
        means = np.zeros((2, d))
        means[1, 0] = 9.0
        weights = [1.0 - 2.0 / 5002.0, 2.0 / 5002.0]
        p = MixtureParameters.create("full", weights, means, np.broadcast_to(np.eye(d), (2, d, d)))
        rows = rng.normal(size=(5002, d))
        rows[-2:, 0] += 9.0
        found, expected = one(kernel, rows, p), one(ORACLE, rows, p)
        assert found.counts[1] == pytest.approx(expected.counts[1], rel=1e-14)
        for a, b in ((found.first[1], expected.first[1]), (found.second[1], expected.second[1])):
            np.testing.assert_allclose(a, b, rtol=0.0, atol=1e-13 * np.abs(b).max())


class TestErrors:
    @pytest.mark.parametrize("family", KINDS)
    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_a_non_finite_row_is_named(
        self, kernel: Kernel, family: str, dtype: str, value: float
    ) -> None:
        if isinstance(kernel, MarginalKernel) and np.isnan(value):
            pytest.skip("a missing value")
        p = random_mixture(27, family, 3, 4)
        good = draw(28, p, 4500).astype(dtype)
        for row, feature in ((0, 0), (4499, 3), (4000, 1)):
            rows = good.copy()
            rows[row, feature] = value
            rows[-1, -1] = value
            calls = (
                lambda x: kernel.statistics(Rows(x), [Candidate(p)]),
                lambda x: kernel.log_densities(x, p),
                lambda x: kernel.posteriors(x, p),
                lambda x: kernel.labels(x, p),
            )
            for call in calls if row == 4000 else calls[:1]:
                with pytest.raises(NonFiniteError) as caught:
                    call(np.asfortranarray(rows))
                assert (caught.value.row, caught.value.feature) == (row, feature)
                np.testing.assert_equal(caught.value.value, value)

    @pytest.mark.parametrize("family", SLOWLY)
    def test_huge_finite_rows_are_not_taken_for_infinite(self, kernel: Kernel, family: str) -> None:
        wide = {"full": np.eye(2)[None], "tied": np.eye(2), "diag": np.ones((1, 2))}
        if family == FACTORS:  # one factor along (1, 1), which the row far out is across, and none
            wide[FACTORS] = np.array([[[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]])
        covariance = wide.get(family, np.ones(1)) * 1e20
        p = MixtureParameters.create(family, [1.0], [[0.0, 0.0]], covariance)
        rows = np.array([[1.0, 2.0], [1e155, -1e155], [3.0, 4.0]])
        found = kernel.log_densities(rows, p)
        np.testing.assert_allclose(found, ORACLE.log_densities(rows, p), rtol=1e-12)
        np.testing.assert_array_equal(kernel.labels(rows, p), 0)
        with pytest.raises(NonFiniteError) as caught:  # their squares are no float64
            kernel.statistics(Rows(rows), [Candidate(p)])
        assert caught.value.row == 1
        narrow = MixtureParameters.create(family, [1.0], [[0.0, 0.0]], covariance / 1e20)
        with pytest.raises(NonFiniteError) as caught:  # not even a log-density
            kernel.log_densities(rows, narrow)
        assert (caught.value.row, caught.value.value) == (1, 1e155)

    def test_what_is_no_block_of_rows(self, kernel: Kernel) -> None:
        p = random_mixture(29, "full", 2, 3)
        for bad in (
            np.ones((4, 2)),
            np.ones(3),
            np.ones((2, 2, 3)),
            np.ones((4, 3), dtype=complex),
            np.full((4, 3), "a"),
            np.ones((4, 3), dtype=object),
        ):
            for call in (kernel.log_densities, kernel.posteriors, kernel.labels):
                with pytest.raises(InputError, match=r"features|real numbers"):
                    call(bad, p)
            with pytest.raises(InputError, match=r"features|real numbers"):
                kernel.statistics(Rows(bad), [Candidate(p)])

    def test_a_reference_of_another_shape(self) -> None:
        with pytest.raises(InputError, match="reference"):
            Candidate(random_mixture(30, "full", 2, 3), np.zeros((3, 2)))

    def test_unknown_kernel(self) -> None:
        with pytest.raises(InputError, match="choose one of auto, compiled, blas, reference"):
            get_kernel("gpu")
        assert get_kernel().name == get_kernel("auto").name == "compiled"


class TestWeights:
    """A row of weight w counts for w rows."""

    @pytest.mark.parametrize("family", SLOWLY)
    @pytest.mark.parametrize(
        ("d", "spread", "dtype"),
        [
            (1, 2.0, "float64"),
            (3, 0.1, "float64"),
            (3, 1e7, "float64"),  # moments are taken from differences
            (17, 2.0, "float64"),
            (17, 2.0, "float32"),
        ],
    )
    def test_as_many_copies_of_a_row(
        self, kernel: Kernel, family: str, d: int, spread: float, dtype: str
    ) -> None:
        p = random_mixture(11, family, 4, d, spread=spread)
        rows = draw(12, p, 1100).astype(dtype)
        times = np.random.default_rng(1).integers(0, 4, size=1100)
        (weighted,) = kernel.statistics(Rows(rows, times.astype(np.float64)), [Candidate(p)])
        (repeated,) = kernel.statistics(Rows(np.repeat(rows, times, axis=0)), [Candidate(p)])
        assert weighted.rows == 1100
        weighted = dataclasses.replace(weighted, rows=repeated.rows)
        rtol = 1e-5 if dtype == "float32" and kernel.name == "compiled" else 1e-12
        assert_close(weighted, repeated, rtol)

    @pytest.mark.parametrize("family", KINDS)
    @pytest.mark.parametrize("spread", [0.5, 50.0])
    def test_any_weights_against_the_definition(
        self, kernel: Kernel, family: str, spread: float
    ) -> None:
        p = random_mixture(13, family, 5, 6, spread=spread)
        rows, rng = draw(14, p, 700), np.random.default_rng(2)
        weighted = Rows(rows, 10.0 ** rng.uniform(-6.0, 6.0, size=700))
        (found,) = kernel.statistics(weighted, [Candidate(p)])
        (true,) = ORACLE.statistics(weighted, [Candidate(p)])
        assert found.weight == weighted.total_weight
        assert_close(found, true, 1e-11)

    @pytest.mark.parametrize("family", SLOWLY)
    @pytest.mark.parametrize(
        "exponent",
        [
            -300,
            pytest.param(-40, marks=pytest.mark.slow),
            pytest.param(40, marks=pytest.mark.slow),
            300,
        ],
    )
    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_their_unit_does_not_matter(
        self, kernel: Kernel, family: str, exponent: int, dtype: str
    ) -> None:
        """A power of two, so that every product is exact: only what counts as nothing differs."""
        p = random_mixture(15, family, 4, 3, spread=2.0)
        rows = draw(16, p, 1100).astype(dtype)
        weights = np.random.default_rng(3).uniform(0.5, 2.0, size=1100)
        (whole,) = kernel.statistics(Rows(rows, weights), [Candidate(p)])
        (other,) = kernel.statistics(Rows(rows, np.ldexp(weights, exponent)), [Candidate(p)])
        scaled = np.ldexp(other.sums, -exponent)
        np.testing.assert_allclose(scaled, whole.sums, rtol=1e-12, atol=1e-12 * 1100)

    @pytest.mark.parametrize("family", SLOWLY)
    def test_weights_of_one_change_next_to_nothing(self, kernel: Kernel, family: str) -> None:
        p = random_mixture(17, family, 4, 5)
        rows = draw(18, p, 900)
        (ones,) = kernel.statistics(Rows(rows, np.ones(900)), [Candidate(p)])
        assert_close(ones, one(kernel, rows, p), 1e-14)
        if kernel.name == "compiled" and family not in ("tied", FACTORS):  # which go through BLAS
            assert ones == one(kernel, rows, p)

    @pytest.mark.parametrize("family", SLOWLY)
    @pytest.mark.parametrize("exponent", [0, 60])
    def test_the_same_bits_in_any_company_layout_and_form(
        self, kernel: Kernel, family: str, exponent: int
    ) -> None:
        mixtures = [random_mixture(s, family, k, 4) for s, k in ((19, 3), (20, 5))]
        rows = draw(21, mixtures[0], 2500)
        weights = np.ldexp(np.random.default_rng(4).exponential(size=2500), exponent)
        weights[::7] = 0.0
        together = kernel.statistics(Rows(rows, weights), [Candidate(p) for p in mixtures])
        for values in (rows, np.asfortranarray(rows), np.repeat(rows, 2, axis=0)[::2]):
            for p, expected in zip(mixtures, together, strict=True):
                assert kernel.statistics(Rows(values, weights), [Candidate(p)]) == (expected,)
                apart = Rows(values, np.repeat(weights, 2)[::2])
                assert kernel.statistics(apart, [Candidate(p)]) == (expected,)

    def test_no_rows(self, kernel: Kernel) -> None:
        p = random_mixture(22, "full", 3, 2)
        (found,) = kernel.statistics(Rows(np.empty((0, 2)), np.empty(0)), [Candidate(p)])
        assert (found.rows, found.weight, found.log_likelihood) == (0, 0.0, 0.0)


@pytest.mark.parametrize("family", SLOWLY)
@pytest.mark.parametrize(
    ("ks", "d"),
    [
        pytest.param((1,), 1, marks=pytest.mark.slow),
        pytest.param((8,), 3, marks=pytest.mark.slow),
        ((3, 20), 16),
        pytest.param((2, 2), 80, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("scale", [None, pytest.param(1.0, marks=pytest.mark.slow), 1e30])
def test_workspace_is_not_more_than_promised(
    kernel: Kernel, family: str, ks: tuple[int, ...], d: int, scale: float | None
) -> None:
    candidates = [Candidate(random_mixture(31 + k, family, k, d)) for k in ks]
    values = draw(32, candidates[0].parameters, 700 if kernel.name == "reference" else 6000)
    rows = Rows(values, None if scale is None else np.full(len(values), scale))
    kernel.statistics(rows.take(slice(10)), candidates)
    # By default whichever of the four needs most.
    forms = [c.parameters.form for c in candidates] if family == FACTORS else None
    promised = kernel.workspace_bytes(d, ks, forms)
    allowed = promised + 20_000
    assert peak_of(lambda: kernel.statistics(rows, candidates), allowed) <= allowed
    if not isinstance(kernel, MarginalKernel):  # which keeps kernels for patterns
        assert promised < 45_000_000


def peaks_of_few_and_many_rows() -> tuple[int, int]:
    p = random_mixture(33, "full", 16, 4)
    few, many = (Rows(draw(34, p, n)) for n in (20_000, 80_000))
    statistics = get_kernel("blas").statistics
    held = [peak_of(partial(statistics, rows, [Candidate(p)])) for rows in (few, many)]
    return held[0], held[1]


def test_workspace_does_not_grow_with_the_rows() -> None:
    """In a process of its own: threads of other tests' clusters allocate in this one."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        few, many = pool.apply(peaks_of_few_and_many_rows)
    assert many < 1.05 * few
    assert many < 80_000 * 16 * 8  # not rows × components
