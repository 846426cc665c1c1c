"""``--start-from`` and ``--freeze``: a fit that goes on from a model, parts of which stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from dask_gmm import GaussianMixture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run


def test_parts_stay_as_they_are(points: Path, model: Path, tmp_path: Path, run: Run) -> None:
    output = tmp_path / "new.zarr"
    words = ("--freeze", "means", "--freeze", "covariances=0,2", "-o", output)
    done = run("fit", points, "-k", 3, "--start-from", model, *words)
    assert done.exit_code == 0, done.stderr
    before, after = GaussianMixture.load(model), GaussianMixture.load(output)
    assert np.array_equal(before.means_, after.means_)
    assert np.array_equal(before.covariances_[[0, 2]], after.covariances_[[0, 2]])
    assert after.weights_ is not before.weights_
    assert after.frozen == {"means": True, "covariances": [0, 2]}
    assert after.n_frozen_ == 9 + 2 * 6
    assert after.warm_start is False
    assert "8 free parameters" in run("show", output).stdout


def test_a_fit_goes_on_from_a_model(points: Path, model: Path, tmp_path: Path, run: Run) -> None:
    output = tmp_path / "new.zarr"
    done = run("fit", points, "-k", 3, "--start-from", model, "-o", output, "--max-iter", 1)
    assert done.exit_code in (0, 3), done.stderr
    theirs = GaussianMixture.load(model).set_params(warm_start=True, max_iter=1).fit(points)
    np.testing.assert_array_equal(GaussianMixture.load(output).means_, theirs.means_)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-k", 3, "--freeze", "means"), "name it, --start-from"),
        (("-k", 3, "--start-from", "{model}", "--freeze", "mean"), "is no part of a mixture"),
        (("-k", 3, "--start-from", "{model}", "--freeze", "means=x"), "is no part of a mixture"),
        (("-k", 3, "--start-from", "{model}", "--freeze", "5"), "numbered from 0 to 2"),
        (("-k", 2, "--start-from", "{model}"), "has 3 components of covariance full"),
        (("-k", 3, "--start-from", "{model}", "--covariance", "diag"), "give -k 3 --covariance"),
    ],
    ids=str,
)
def test_mistakes_are_said(
    words: tuple[object, ...], message: str, points: Path, model: Path, run: Run
) -> None:
    done = run("fit", points, *(str(word).format(model=model) for word in words))
    assert done.exit_code not in (0, 3)
    assert message in done.stderr


def test_noise_is_not_left_to_the_components(points: Path, tmp_path: Path, run: Run) -> None:
    noisy = tmp_path / "noisy.zarr"
    assert run("fit", points, "-k", 3, "--noise", "-o", noisy).exit_code in (0, 3)
    done = run("fit", points, "-k", 3, "--start-from", noisy)
    assert done.exit_code not in (0, 3)
    assert "give --noise" in done.stderr
    on = run("fit", points, "-k", 3, "--start-from", noisy, "--noise", "-o", tmp_path / "on.zarr")
    assert on.exit_code in (0, 3), on.stderr
