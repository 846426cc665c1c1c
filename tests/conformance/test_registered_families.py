"""What every registered family goes through, one that exists only in the tests included.

The laws of the four that scikit-learn knows are in `test_families`; here it is asked that a family
is one class and one call (`tests.equal_shape`), and that nothing else in the package knows its
name: kernels, starts, accelerated steps, collapse, merging, selection, files, the command line.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
from click.testing import CliRunner

from dask_gmm import GaussianMixture, select_gaussian_mixture
from dask_gmm.errors import CollapsedComponentError, InputError
from dask_gmm.fitting.collapse import MStep
from dask_gmm.mixture.coordinates import from_vector, to_vector
from dask_gmm.mixture.family import Diagonal, covariance_family, register_family
from dask_gmm.mixture.kernels import KERNELS, Candidate, get_kernel
from dask_gmm.mixture.merging import absorb_component, merge_down
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.mixture.parsimonious import MCLUST
from dask_gmm.rows import Rows
from tests import equal_shape
from tests.mixture.problems import FAMILIES, draw, likelihood

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

K, D = 3, 4
# The four have suites of their own: here they show that the laws are right. Of mclust's families
# the one that asks most goes through them each time.
# Four have other names beside them and the same bits (`tests.mixture.test_parsimonious`).
SAME = ("VVV", "EEE", "VVI", "VII")
OFTEN = (equal_shape.EQUAL_SHAPE.name, "VVE")
families = pytest.mark.parametrize(
    "family",
    [*OFTEN]
    + [
        pytest.param(name, marks=pytest.mark.slow)
        for name in (*FAMILIES, *MCLUST)
        if name not in (*OFTEN, *SAME)
    ],
)

# A component without variance of its own has that of all.
POOLED = ("tied", "EII", "EEI", "EEV")


def mixture(family: str, seed: int = 0, k: int = K) -> MixtureParameters:
    """A mixture of the family, from covariances that need not be."""
    rng, kind = np.random.default_rng(seed), covariance_family(family)
    axes = rng.normal(size=(k, 3 * D, D))
    second = np.zeros(kind.form.second_moment_shape(k, D))
    for j in range(k):
        kind.form.add_moment(second, j, kind.form.component_moment(axes[j], axes[j]))
    counts = np.full(k, 3.0 * D)
    covariances = kind.estimate(counts, np.zeros((k, D)), second, 0.0)
    weights = rng.uniform(0.5, 1.5, size=k)
    means = 3.0 * rng.normal(size=(k, D))
    return MixtureParameters.create(kind, weights / weights.sum(), means, covariances)


def is_of_family(p: MixtureParameters) -> bool:
    """Whether the covariances are those that the family would estimate from their own rows."""
    nearest = p.family.nearest(p.weights, p.covariances, p.n_features)
    return bool(np.allclose(nearest, p.covariances, rtol=1e-9, atol=0.0))


def rows_of(family: str, n: int = 1500) -> NDArray[np.float64]:
    return draw(1, mixture(family), n)


@families
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("weighted", [False, True])
def test_every_kernel_knows_its_form(family: str, kernel: str, weighted: bool) -> None:
    p, values = mixture(family), rows_of(family, 400)
    weights = np.random.default_rng(2).exponential(size=400) if weighted else None
    rows = Rows(values, weights)
    (found,) = get_kernel(kernel).statistics(rows, [Candidate(p)])
    (true,) = get_kernel("reference").statistics(rows, [Candidate(p)])
    np.testing.assert_allclose(found.sums, true.sums, rtol=1e-11, atol=1e-9)
    promised = get_kernel(kernel).workspace_bytes(D, [K], [p.form])
    assert promised > 0


@families
def test_the_m_step_beats_its_neighbours(family: str) -> None:
    """Among mixtures of the family, on the expected log-density; and it ends in the family."""
    p, values = mixture(family, 3), rows_of(family)
    (found,) = get_kernel("reference").statistics(Rows(values), [Candidate(p)])
    best = likelihood(family).update(found)
    assert is_of_family(best)
    r = get_kernel("reference").posteriors(values, p)

    def expected(q: MixtureParameters) -> float:
        dense = q.form.dense(q.covariances, K, D)
        difference = values[:, None] - q.means
        squares = np.einsum("nki,kij,nkj->nk", difference, np.linalg.inv(dense), difference)
        logs = np.log(q.weights) - 0.5 * np.linalg.slogdet(dense)[1]
        return float(np.sum(r * (logs - 0.5 * squares)))

    rng, at = np.random.default_rng(4), to_vector(best)
    for scale in (1e-3, 1e-1):
        aside = from_vector(at + scale * rng.normal(size=at.size), best)
        assert aside is not None
        assert is_of_family(aside)
        assert expected(aside) < expected(best)


@families
@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "k-means||"])
def test_every_start(family: str, init_params: str) -> None:
    gm = GaussianMixture(
        K, covariance_type=family, init_params=init_params, max_iter=2, tol=0.0, random_state=0
    )
    with pytest.warns(UserWarning, match="did not converge"):
        gm.fit(rows_of(family))
    assert is_of_family(gm._parameters())


@families
@pytest.mark.parametrize("acceleration", [None, "squarem", "variance-reduced"])
def test_plain_and_accelerated_fits_end_in_the_same_place(
    family: str, acceleration: str | None
) -> None:
    values, start = rows_of(family), mixture(family)
    gm = GaussianMixture(
        K,
        covariance_type=family,
        acceleration=acceleration,
        tol=1e-9,
        max_iter=2000,
        init_size=500,
        weights_init=start.weights,
        means_init=start.means,
        precisions_init=start.precisions,
        random_state=0,
    ).fit(da.from_array(values, chunks=(300, D)))
    assert gm.converged_
    p = gm._parameters()
    assert is_of_family(p)
    assert np.all(np.diff(gm.lower_bounds_) > -1e-9)
    (found,) = get_kernel().statistics(Rows(values), [Candidate(p)])
    again = likelihood(family, 1e-6).update(found)
    np.testing.assert_allclose(again.means, p.means, atol=2e-3)
    np.testing.assert_allclose(again.covariances, p.covariances, rtol=5e-3, atol=2e-3)


@families
def test_merging_and_absorbing(family: str) -> None:
    p, values = mixture(family, 5, k=5), rows_of(family)
    (found,) = get_kernel().statistics(Rows(values), [Candidate(p)])
    model = likelihood(family, 1e-6)
    fewer = model.update(merge_down(found, 2, model))
    assert fewer.n_components == 2
    assert is_of_family(fewer)
    left, into = absorb_component(found, 4, model)
    assert left.n_components == 4
    assert 0 <= into < 4


@families
@pytest.mark.parametrize("rule", ["merge", "reseed"])
def test_an_empty_component_is_mended(family: str, rule: str) -> None:
    p, values = mixture(family), rows_of(family)
    means = p.means.copy()
    means[1] = 1e4
    start = MixtureParameters.create(p.family, p.weights, means, p.covariances)
    (found,) = get_kernel().statistics(Rows(values), [Candidate(start)])
    step = MStep(likelihood(family, 1e-6), rule, Rows(values[:300]))
    mended, notes = step(found)
    assert mended.n_components == (2 if rule == "merge" else 3)
    assert is_of_family(mended)
    assert len(notes) == 1


@families
@pytest.mark.parametrize("at", [0.0, 2.0])
def test_no_variance_is_a_collapse(family: str, at: float) -> None:
    """Not an overflow, which no rule would mend."""
    apart, same = rows_of(family), np.full((60, D), at)
    with pytest.raises(CollapsedComponentError):
        GaussianMixture(1, covariance_type=family, reg_covar=0.0).fit(same)
    p = mixture(family)
    start = MixtureParameters.create(
        p.family, p.weights, np.vstack([np.full(D, 500.0 + at), p.means[1:]]), p.covariances
    )
    rows = Rows(np.vstack([np.full((60, D), 500.0 + at), apart]))
    (found,) = get_kernel().statistics(rows, [Candidate(start)])
    mended, notes = MStep(likelihood(family, 0.0), "reseed", Rows(apart[:300]))(found)
    assert len(notes) == (0 if family in POOLED else 1)
    assert is_of_family(mended)


@families
def test_a_selection_compares_it(family: str) -> None:
    found = select_gaussian_mixture(
        rows_of(family), [2, 3], list(dict.fromkeys(["full", family])), random_state=0
    )
    row = next(r for r in found.table if r.covariance_type == family and r.n_components == 3)
    kind = covariance_family(family)
    assert row.n_parameters == kind.degrees_of_freedom(3, D) + 3 * D + 2


@families
def test_a_model_file_and_a_pickle_keep_it(family: str, tmp_path: Path) -> None:
    gm = GaussianMixture(K, covariance_type=family, random_state=0).fit(rows_of(family))
    gm.save(tmp_path / "m.gmm")
    for again in (GaussianMixture.load(tmp_path / "m.gmm"), pickle.loads(pickle.dumps(gm))):
        assert again._parameters() == gm._parameters()
        assert again.score(rows_of(family)) == gm.score(rows_of(family))


@families
def test_the_command_line_takes_its_name(family: str, tmp_path: Path) -> None:
    from dask_gmm.cli.main import main

    store, model = str(tmp_path / "x.zarr"), str(tmp_path / "m.gmm")
    da.from_array(rows_of(family), chunks=(500, D)).to_zarr(store)
    arguments = ["fit", store, "-k", str(K), "--covariance", family, "--output", model, "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert GaussianMixture.load(model).covariance_type == family
    assert json.loads(result.stdout)["covariance_type"] == family


FROM_OUTSIDE = """
from dask_gmm.mixture.family import Diagonal, register_family
class Outside(Diagonal):
    name = "outside"
register_family(Outside())
"""
COMMAND = "from dask_gmm.cli.main import main; main()"
POINT = "[dask_gmm.families]\noutside = families_of_another_package\n"


@pytest.mark.slow
def test_one_of_another_package_is_found_by_its_entry_point(tmp_path: Path) -> None:
    """By a command line and a process that have not been told."""
    package, store, model = tmp_path / "site", str(tmp_path / "x.zarr"), str(tmp_path / "m.gmm")
    (package / "another-1.0.dist-info").mkdir(parents=True)
    (package / "another-1.0.dist-info" / "entry_points.txt").write_text(POINT)
    (package / "another-1.0.dist-info" / "METADATA").write_text("Name: another\nVersion: 1.0\n")
    (package / "families_of_another_package.py").write_text(FROM_OUTSIDE)
    da.from_array(rows_of("diag"), chunks=(500, D)).to_zarr(store)
    paths = [str(package), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    fit = ["fit", store, "-k", str(K), "--covariance", "outside", "--output", model, "-q"]
    script = (
        "from dask_gmm import GaussianMixture; import sys;"
        "GaussianMixture(1, covariance_type='outside').fit([[0.0], [1.0], [3.0]]);"
        "print(GaussianMixture.load(sys.argv[1]).covariance_type)"
    )
    for words in (["-c", COMMAND, *fit], ["-c", script, model]):
        run = subprocess.run(
            [sys.executable, *words], env=environment, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr
    assert run.stdout == "outside\n"


def test_it_travels_to_a_process_that_has_imported_it() -> None:
    p = mixture(equal_shape.EQUAL_SHAPE.name)
    script = (
        "import pickle, sys; from tests import equal_shape;"
        "p = pickle.load(sys.stdin.buffer); assert p.family is equal_shape.EQUAL_SHAPE;"
        "sys.stdout.write(p.fingerprint)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], input=pickle.dumps(p), capture_output=True, check=True
    )
    assert run.stdout.decode() == p.fingerprint


def test_names_are_taken_once() -> None:
    class Another(Diagonal):
        name = "diag"

    with pytest.raises(InputError, match="'diag' already"):
        register_family(Another())
    register_family(equal_shape.EQUAL_SHAPE)  # the same one twice is none too many
    unknown: Any = "equal"
    with pytest.raises(
        InputError, match=r"choose one of full, tied, diag, spherical, .*equal-shape"
    ):
        covariance_family(unknown)
