"""Fits have the bits they had: digests of fits, stored for the machines they were made on.

``python -m tests.conformance.test_digests`` writes those of this machine into ``digests.json``;
a machine of another kind (CPU, packages) has none to compare with. Refactoring must not change
them; where a change of the order of sums is worth it, they are written anew with it, and the
commit says why.
"""

from __future__ import annotations

import hashlib
import json
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from dask_gmm import GaussianMixture, select_gaussian_mixture
from dask_gmm.execution.machine import machine_fingerprint
from dask_gmm.mixture.kernels import KERNELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

STORED = Path(__file__).with_name("digests.json")
FAMILIES = ("full", "tied", "diag", "spherical")


def rows(dtype: str = "f8") -> NDArray[Any]:
    """Five overlapping tilted clouds of 6-D rows."""
    rng = np.random.default_rng(0)
    means = 2.0 * rng.standard_normal((5, 6))
    roots = rng.standard_normal((5, 6, 6)) / 2.0 + np.eye(6)
    z = rng.integers(5, size=6000)
    x = means[z] + np.einsum("nij,nj->ni", roots[z], rng.standard_normal((6000, 6)))
    scaled: NDArray[Any] = (x if dtype.startswith("f") else 20.0 * x).astype(dtype)
    return scaled


def digest(gm: GaussianMixture, dtype: str = "f8") -> str:
    """Hexadecimal digest of what was fitted and how the fit went.

    Of float32 rows the attributes were float32, whatever that made of them; now they are float64
    where it would lose something.
    """
    found = hashlib.sha256()
    for attribute in (gm.weights_, gm.means_, gm.covariances_, gm.precisions_cholesky_):
        values = attribute.astype(dtype)
        found.update(f"{values.dtype}{values.shape}".encode())
        found.update(np.ascontiguousarray(values).tobytes())
    found.update(np.asarray([*gm.lower_bounds_, gm.lower_bound_]).tobytes())
    return found.hexdigest()[:32]


def fit(X: Any, covariance_type: str, **options: Any) -> str:
    settings = {"n_components": 5, "random_state": 0, "tol": 1e-6, "max_iter": 12, **options}
    gm = GaussianMixture(covariance_type=covariance_type, **settings)
    gm.fit(X)
    single = isinstance(X, np.ndarray) and X.dtype == np.float32
    return digest(gm, "f4" if single else "f8")


def cases(folder: Path) -> dict[str, Any]:
    """What to fit, by name; each returns a digest."""
    given = {"means_init": rows()[:5], "weights_init": np.full(5, 0.2)}
    path = str(folder / "rows.zarr")
    zarr.create_array(path, data=rows(), chunks=(500, 6))
    found: dict[str, Any] = {}
    for family, kernel, dtype in product(FAMILIES, KERNELS, ("f8", "f4", "i4")):
        name = f"{family} {kernel} {dtype}"
        found[name] = lambda f=family, k=kernel, d=dtype: fit(
            rows(d), f, kernel=k, acceleration=None, **given
        )
    for family, way in product(FAMILIES, ("variance-reduced", "squarem")):
        found[f"{family} {way}"] = lambda f=family, w=way: fit(
            path,
            f,
            acceleration=w,
            init_size=2000,
            init_params="random_from_data",
            n_init=2,
            search="off",  # there was none when these were stored
        )
    for start in ("kmeans", "k-means++", "random", "random_from_data", "k-means||"):
        found[f"full {start}"] = lambda s=start: fit(
            path, "full", init_params=s, init_size=1500, search="off"
        )
    for rule in ("reseed", "merge"):
        found[f"full {rule}"] = lambda r=rule: fit(
            rows(), "full", on_collapse=r, reg_covar=0.0, n_components=30, max_iter=20
        )
    found["selection"] = lambda: digest(
        select_gaussian_mixture(
            path, range(3, 7), covariance_types=["full", "diag"], random_state=0
        ).best_model
    )
    return found


def machine() -> str:
    return machine_fingerprint()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_fits_have_the_bits_they_had(tmp_path: Path) -> None:
    stored = json.loads(STORED.read_text()).get(machine())
    if stored is None:
        pytest.skip("no digests are stored for a machine of this kind")
    found = {name: make() for name, make in cases(tmp_path).items()}
    assert set(found) == set(stored)
    changed = [name for name, value in found.items() if stored[name] != value]
    assert not changed


def main() -> None:
    import tempfile
    import warnings

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        found = {name: make() for name, make in cases(Path(folder)).items()}
    stored = json.loads(STORED.read_text()) if STORED.exists() else {}
    STORED.write_text(json.dumps({**stored, machine(): found}, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
