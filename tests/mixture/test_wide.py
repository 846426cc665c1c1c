"""Many features: only full covariances may cost K·D², and only matrices D²."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest

from dask_gmm.errors import NonFiniteError
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.form import FORMS as KINDS
from dask_gmm.mixture.kernels import Candidate, Kernel, blas, get_kernel
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.mixture.sampling import sample_mixture
from dask_gmm.rows import Rows
from tests.marks import quick_ones
from tests.memory import peak_of
from tests.mixture.problems import FAMILIES, likelihood, maximize, random_mixture

K, D, N = 8, 2000, 12
MATRIX = 8 * D * D

MEASURED = ("blas", "reference")


def wide_mixture(family: str) -> MixtureParameters:
    rng = np.random.default_rng(0)
    variances = rng.uniform(0.5, 2.0, size=(K, D))
    covariances = {
        "tied": np.diag(variances[0]) + 0.1,
        "diag": variances,
        "spherical": variances[:, 0],
    }[family]
    return MixtureParameters.create(
        family, np.full(K, 1.0 / K), rng.normal(size=(K, D)), covariances
    )


def rows_near(p: MixtureParameters, n: int = N) -> np.ndarray:
    rng = np.random.default_rng(1)
    return p.means[rng.integers(p.n_components, size=n)] + rng.normal(size=(n, p.n_features))


@pytest.fixture(params=["as chosen", pytest.param("whitening", marks=pytest.mark.slow)])
def _either_form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "whitening":
        monkeypatch.setattr(blas, "LARGEST_CANCELLATION", 0.0)


@pytest.fixture(params=[*MEASURED, pytest.param("blas-whitening", marks=pytest.mark.slow)])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    name: str = request.param
    if name == "blas-whitening":
        monkeypatch.setattr(blas, "LARGEST_CANCELLATION", 0.0)
    return get_kernel(name.partition("-")[0])


@pytest.mark.parametrize("family", quick_ones(["diag", "spherical"], ["diag"]))
def test_variances_need_not_even_one_matrix(kernel: Kernel, family: str) -> None:
    p = wide_mixture(family)
    rows = rows_near(p)
    promised = kernel.workspace_bytes(D, [K], [p.form])
    assert promised < 6 * MATRIX  # of which the most is tiles of many rows: see below
    for call in (
        lambda: kernel.statistics(Rows(rows), [Candidate(p)]),
        lambda: kernel.log_densities(rows, p),
        lambda: kernel.posteriors(rows, p),
        lambda: kernel.labels(rows, p),
    ):
        allowed = min(promised, MATRIX - 1)
        assert peak_of(call, allowed) <= allowed


@pytest.mark.parametrize("family", quick_ones(["diag", "spherical"], ["spherical"]))
def test_nor_does_what_stands_around_the_kernel(family: str) -> None:
    p = wide_mixture(family)
    (s,) = get_kernel("blas").statistics(Rows(rows_near(p)), [Candidate(p)])
    for call in (
        lambda: maximize(s, 1e-6),
        lambda: likelihood(family, 1e-6).centring_error(s),
        lambda: MixtureParameters.create(family, p.weights, p.means, p.covariances),
        lambda: MixtureParameters.from_precisions(family, p.weights, p.means, p.precisions),
        lambda: sample_mixture(p, 50, np.random.RandomState(0)),
        lambda: p.fingerprint,
    ):
        assert peak_of(call, MATRIX / 4) <= MATRIX / 4


@pytest.mark.slow
def test_a_tied_mixture_holds_matrices_whatever_its_components(kernel: Kernel) -> None:
    many = wide_mixture("tied")
    few = dataclasses.replace(many, weights=np.full(2, 0.5), means=many.means[:2])
    rows = rows_near(few, 1)
    peaks, promises = [], []
    for p in (few, many):
        promises.append(kernel.workspace_bytes(D, [p.n_components], [p.form]))
        peaks.append(peak_of(partial(kernel.statistics, Rows(rows), [Candidate(p)]), promises[-1]))
        assert peaks[-1] <= promises[-1]
    assert peaks[1] - peaks[0] < MATRIX / 4
    assert promises[1] - promises[0] < MATRIX / 2
    assert peaks[1] < 8 * MATRIX


@pytest.mark.slow
def test_a_tied_tile_of_differences_holds_one_matrix() -> None:
    """All rows in one place far from the means: every moment is taken from differences."""
    d, peaks = 600, []
    for k in (2, 12):
        means = np.random.default_rng(2).normal(size=(k, d))
        p = MixtureParameters.create("tied", np.full(k, 1.0 / k), means, 1e4 * np.eye(d))
        rows = 37.0 + 1e-6 * np.random.default_rng(3).normal(size=(40, d))
        kernel, candidates = get_kernel("blas"), [Candidate(p)]
        peaks.append(
            peak_of(partial(kernel.statistics, Rows(rows), candidates), enough=16 * 8 * d * d)
        )
        (found,), (true,) = (get_kernel(n).statistics(Rows(rows), candidates) for n in MEASURED)
        np.testing.assert_allclose(found.second, true.second, rtol=1e-12)
    assert peaks[1] - peaks[0] < 8 * d * d


@pytest.mark.parametrize("d", [12_000, 100_000])
def test_variances_of_very_many_features_are_promised_little(d: int) -> None:
    """A tile of 192 rows, a few times over, is what remains."""
    for family in ("diag", "spherical"):
        promised = get_kernel("blas").workspace_bytes(d, [16], [covariance_family(family).form])
        assert promised < 8 * d * (192 * 8 + 16 * 40)


def moved_to(kind: str, p: MixtureParameters, rows: np.ndarray) -> tuple[np.ndarray, object]:
    """Rows (and a mixture) that take the kernel's other paths."""
    if kind == "collapse":
        wide = MixtureParameters.create(p.family, p.weights, p.means, 1e4 * p.covariances)
        return 37.0 + 1e-6 * rows, wide
    if kind == "overflow":
        vast = MixtureParameters.create(p.family, p.weights, p.means, 1e304 * p.covariances)
        return 1.2e152 * rows, vast
    return rows, p


@pytest.mark.usefixtures("_either_form")
@pytest.mark.parametrize("kind", ["usual", "collapse", "overflow"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("k", "d"),
    quick_ones([(1, 1), (64, 2), (3, 20), (16, 16), (1, 90), (4, 200)], [(64, 2), (1, 90)]),
)
def test_the_promise_is_kept_per_family(kind: str, family: str, k: int, d: int) -> None:
    p = random_mixture(4, family, k, d)
    rows, moved = moved_to(kind, p, rows_near(p, 5000 if d < 100 else 600))
    assert isinstance(moved, MixtureParameters)
    kernel, candidate = get_kernel("blas"), Candidate(moved)

    def call() -> None:
        try:
            kernel.statistics(Rows(rows), [candidate])
        except NonFiniteError:
            assert kind == "overflow"

    call()
    allowed = kernel.workspace_bytes(d, [k], [p.form]) + 20_000
    assert peak_of(call, allowed) <= allowed


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("k", "d"), quick_ones([(1, 1), (64, 2), (16, 16), (1, 90), (2, 200)], [(64, 2), (1, 90)])
)
def test_the_reference_keeps_its_promise(family: str, k: int, d: int) -> None:
    p = random_mixture(5, family, k, d)
    rows, kernel = rows_near(p, 1100 if d < 100 else 30), get_kernel("reference")
    candidates = [Candidate(p), Candidate(p)]
    allowed = kernel.workspace_bytes(d, [k, k], [p.form] * 2) + 20_000
    assert peak_of(lambda: kernel.statistics(Rows(rows), candidates), allowed) <= allowed


@pytest.mark.parametrize("name", MEASURED)
@pytest.mark.parametrize("d", [3, 70, 500])
def test_without_families_the_dearest_is_charged(name: str, d: int) -> None:
    kernel = get_kernel(name)
    for k in (1, 8):
        each = [kernel.workspace_bytes(d, [k], [f]) for f in KINDS]
        assert kernel.workspace_bytes(d, [k]) >= max(each)
    assert kernel.workspace_bytes(d, []) == kernel.workspace_bytes(d, [], []) == 0
    with pytest.raises(ValueError, match="zip"):
        kernel.workspace_bytes(d, [1, 2], [KINDS[0]])
