"""`ComponentMerging`: components of a mixture combined into clusters, and rows labelled so."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from dask_gmm.data.small_file import content_at, put_file
from dask_gmm.data.urls import normalize_url
from dask_gmm.errors import InputError, ModelFileError, OutputExistsError, StoreNotFoundError
from dask_gmm.glance.merging import MergingGlance, merging_html, merging_text
from dask_gmm.inspection.combining import Combined
from dask_gmm.mixture.combining import cluster_labels, two_pieces

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import DTypeLike, NDArray

    from dask_gmm.mixture.combining import Elbow

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

__all__ = ["ELBOW", "ComponentMerging", "check_clusters_place", "check_count", "chosen_count"]

FORMAT, FORMAT_VERSION = "dask-gmm-clusters", 1
ELBOW, ELBOW_OF_ROWS = "elbow", "elbow-rows"
_CERTAIN = 1e-3
"""Nats a row: less entropy than that is no overlap, and its curve has no elbow but noise."""


@dataclass(frozen=True, eq=False, repr=False)
class ComponentMerging:
    """Components of a mixture, combined one pair after another into clusters; from `merge`.

    A mixture may need several Gaussians for one population that is none. Baudry, Raftery, Celeux,
    Lo & Gottardo (2010) keep the mixture and merge its components, those first whose union leaves
    the least doubt about what rows belong to. The entropy of that, against the number of clusters,
    says where merging begins to join what is apart: where the curve bends.

    Attributes
    ----------
    n_clusters : int
        The number that was chosen.
    chosen_by : str
        "elbow", "elbow-rows" or "given".
    merges : (K − 1, 2) int64
        The two that each step joins: a component by its number, and K + m for what step m has made.
    entropies : (K,) float64
        Of 1 ... K clusters, −Σ_n w_n Σ_c t_nc log t_nc, in nats.
    gains : (K − 1,) float64
        By how much each step lowers it, in nats.
    merged : (K − 1,) float64
        Rows (Σ w_n) labelled as one of the two clusters that each step joins, before it.
    n_greedy : int
        As many of the first steps are certain to be the best ones over all rows; K − 1 unless
        `max_passes` was too small. Entropies and gains are of all rows in any case.
    n_rows : int
    weight : float
        Σ_n w_n.
    n_passes : int
        Reads of the data that it took.
    model : fitted mixture
        A copy of the one that was merged.

    Examples
    --------
    >>> from dask_gmm import GaussianMixture
    >>> means = [[0.0], [1.0], [10.0], [11.0], [20.0], [21.0]]
    >>> gm = GaussianMixture.from_parameters([1 / 6] * 6, means, [1.0] * 6, random_state=0)
    >>> X, _ = gm.sample(600)
    >>> merging = gm.merge(X)
    >>> merging.n_clusters, merging.labels, merging.n_passes
    (3, array([0, 0, 1, 1, 2, 2]), 2)
    >>> merging.predict([[0.4], [10.3], [20.8]])
    array([0, 1, 2])
    """

    n_clusters: int
    chosen_by: str
    merges: Integers
    gains: Floats
    merged: Floats
    n_greedy: int
    n_rows: int
    weight: float
    n_passes: int
    model: Any = field(compare=False)

    @property
    def n_components(self) -> int:
        """K."""
        return len(self.merges) + 1

    @property
    def entropies(self) -> Floats:
        """The entropy of 1 ... K clusters, (K,), in nats."""
        return self._combined.entropies

    @property
    def labels(self) -> Integers:
        """The cluster of each component where there are `n_clusters`; as `labels_of`."""
        return self.labels_of()

    @property
    def weights(self) -> Floats:
        """The weight of each of the `n_clusters` clusters, (C,): the sum of its components'."""
        weights: Floats = self.model._parameters().weights
        found: Floats = np.bincount(self.labels, weights, self.n_clusters)  # type: ignore[assignment]
        return found

    def labels_of(self, n_clusters: int | None = None) -> Integers:
        """Return the cluster of each component, (K,) int64; numbered by their first components.

        Parameters
        ----------
        n_clusters : int, optional
            How many clusters there are to be, 1 to K; `n_clusters` of this object by default.

        Raises
        ------
        InputError (a ValueError)

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.random.default_rng(0).uniform(0, 4, (500, 2))
        >>> merging = GaussianMixture(n_components=3, random_state=0).fit(X).merge(X)
        >>> merging.labels_of(1), merging.labels_of(3)
        (array([0, 0, 0]), array([0, 1, 2]))
        """
        count = self.n_clusters if n_clusters is None else n_clusters
        return cluster_labels(self.merges, self.n_components, _checked(count, self.n_components))

    def with_clusters(self, n_clusters: int) -> ComponentMerging:
        """Return the same merging with another number of clusters chosen; nothing is read.

        Raises
        ------
        InputError (a ValueError)

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.random.default_rng(0).uniform(0, 4, (500, 2))
        >>> merging = GaussianMixture(n_components=3, random_state=0).fit(X).merge(X)
        >>> merging.with_clusters(1).weights
        array([1.])
        """
        count = _checked(n_clusters, self.n_components)
        return replace(self, n_clusters=count, chosen_by="given")

    def elbow(self, by: str = ELBOW) -> int:
        """Return the number of clusters at which the curve of entropies bends.

        Two lines are fitted to it by least squares, which part where they leave the least (section
        4 there; as mclust's ``clustCombiOptim``). K where there are fewer than three components, or
        where rows are certain already: less than 1e-3 nats a row.

        Parameters
        ----------
        by : {'elbow', 'elbow-rows'}
            Against the number of clusters, or against that of the rows merged so far, which keeps
            small clusters from looking as if little were lost with them.

        Examples
        --------
        >>> from dask_gmm import GaussianMixture
        >>> means = [[0.0], [1.0], [10.0], [11.0], [20.0], [21.0]]
        >>> gm = GaussianMixture.from_parameters([1 / 6] * 6, means, [1.0] * 6, random_state=0)
        >>> X, _ = gm.sample(600)
        >>> merging = gm.merge(X, n_clusters=5)
        >>> merging.elbow(), merging.elbow("elbow-rows")
        (3, 3)
        """
        return chosen_count(self._combined, by)

    def predict(self, X: Any, *, where: Any = None) -> Any:
        """Label each sample with its most probable cluster; as the mixture's `predict`.

        The probability of a cluster is the sum of its components'; so the label is not always the
        cluster of the most probable component.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.random.default_rng(0).uniform(0, 4, (500, 2))
        >>> merging = GaussianMixture(n_components=3, random_state=0).fit(X).merge(X, 1)
        >>> merging.predict(X[:4])
        array([0, 0, 0, 0])
        """
        return self.model._predict_clusters(X, self._clusters, where=where, probabilities=False)

    def predict_proba(self, X: Any, *, where: Any = None) -> Any:
        """Return the probability of each cluster; as the mixture's `predict_proba`.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.random.default_rng(0).uniform(0, 4, (500, 2))
        >>> merging = GaussianMixture(n_components=3, random_state=0).fit(X).merge(X, 2)
        >>> merging.predict_proba(X).shape
        (500, 2)
        """
        return self.model._predict_clusters(X, self._clusters, where=where, probabilities=True)

    def predict_to(
        self,
        X: Any,
        output: str | os.PathLike[str],
        *,
        where: Any = None,
        probabilities: bool = False,
        dtype: DTypeLike | None = None,
        keep: Sequence[str] | None = None,
        overwrite: bool = False,
        resume: str = "auto",
        storage_options: Mapping[str, Any] | None = None,
    ) -> int:
        """Write labels of clusters, or their probabilities, to a new Zarr array or table.

        As the mixture's `predict_to`, of one array.

        Examples
        --------
        >>> import numpy as np, zarr
        >>> from dask_gmm import GaussianMixture
        >>> X = np.random.default_rng(0).uniform(0, 4, (500, 2))
        >>> merging = GaussianMixture(n_components=3, random_state=0).fit(X).merge(X, 1)
        >>> stored = zarr.create_array("square.zarr", data=X, chunks=(100, 2), overwrite=True)
        >>> merging.predict_to("square.zarr", "square-labels.zarr", overwrite=True)
        500
        """
        found: int = self.model._write_clusters(
            X,
            output,
            self._clusters,
            where=where,
            probabilities=probabilities,
            dtype=dtype,
            keep=keep,
            how={"overwrite": overwrite, "resume": resume, "storage_options": storage_options},
        )
        return found

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the clusters, not the mixture, to a small JSON file at a path or URL.

        Raises
        ------
        OutputExistsError
            Something is there that is not to be replaced.
        StoreError
            The place cannot be written.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import ComponentMerging, GaussianMixture
        >>> X = np.random.default_rng(0).uniform(0, 4, (500, 2))
        >>> gm = GaussianMixture(n_components=3, random_state=0).fit(X)
        >>> gm.merge(X, n_clusters=2).save("clusters.json", overwrite=True)
        >>> ComponentMerging.load("clusters.json", gm).n_clusters
        2
        """
        place = check_clusters_place(path, overwrite=overwrite, storage_options=storage_options)
        text = json.dumps(self.described(), indent=1, ensure_ascii=False) + "\n"
        put_file(place, text.encode(), "file of clusters", "application/json", storage_options)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        model: Any,
        *,
        storage_options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Read clusters that `save` or ``dask-gmm merge --output`` has written.

        Parameters
        ----------
        path : path or URL
        model : fitted mixture
            Whose components they are of.
        storage_options : mapping, optional

        Raises
        ------
        StoreNotFoundError
            Nothing is there.
        ModelFileError
            What is there is something else, is damaged, or is of another mixture.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import ComponentMerging, GaussianMixture
        >>> X = np.random.default_rng(0).uniform(0, 4, (500, 2))
        >>> gm = GaussianMixture(n_components=3, random_state=0).fit(X)
        >>> gm.merge(X).save("clusters.json", overwrite=True)
        >>> ComponentMerging.load("clusters.json", gm).n_components
        3
        """
        check_is_fitted(model)
        place = normalize_url(path)
        content = content_at(place, "file of clusters", storage_options)
        if content is None:
            raise StoreNotFoundError(
                f"There is no file of clusters at {place}: ComponentMerging.save or "
                f"dask-gmm merge --output puts one there."
            )
        return cls(**_read(content, place, model._parameters()), model=model)

    def described(self) -> dict[str, Any]:
        """Return all of it as JSON values.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.random.default_rng(0).uniform(0, 4, (500, 2))
        >>> merging = GaussianMixture(n_components=3, random_state=0).fit(X).merge(X, 2)
        >>> merging.described()["n_clusters"]
        2
        """
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "model": self.model._parameters().fingerprint,
            "n_components": self.n_components,
            "n_clusters": self.n_clusters,
            "chosen_by": self.chosen_by,
            "labels": self.labels.tolist(),
            "merges": self.merges.tolist(),
            "gains": self.gains.tolist(),
            "merged": self.merged.tolist(),
            "entropies": self.entropies.tolist(),
            "n_greedy": self.n_greedy,
            "n_rows": self.n_rows,
            "weight": self.weight,
            "n_passes": self.n_passes,
        }

    def pieces(self, by: str = ELBOW) -> Elbow | None:
        """Return the two lines of `elbow`; None where there are fewer than three components.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.random.default_rng(0).uniform(0, 4, (500, 2))
        >>> merging = GaussianMixture(n_components=4, random_state=0).fit(X).merge(X)
        >>> merging.pieces().place + 1 == merging.elbow()
        True
        """
        return two_pieces(*curve_of(self._combined, by))

    @property
    def _clusters(self) -> tuple[int, ...]:
        return tuple(self.labels.tolist())

    @property
    def _combined(self) -> Combined:
        return Combined(
            self.merges,
            self.gains,
            self.merged,
            self.n_greedy,
            self.n_rows,
            self.weight,
            self.n_passes,
        )

    def __repr__(self) -> str:
        return merging_text(self._glance())

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return merging_html(self._glance())

    def levels(self) -> list[tuple[list[str], bool]]:
        """Return a row of cells for each number of clusters, and whether it is the chosen one.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.random.default_rng(0).uniform(0, 4, (500, 2))
        >>> merging = GaussianMixture(n_components=3, random_state=0).fit(X).merge(X, 2)
        >>> [chosen for cells, chosen in merging.levels()]
        [False, True, False]
        """
        return self._glance().rows

    def _glance(self) -> MergingGlance:
        return MergingGlance(
            n_clusters=self.n_clusters,
            chosen_by=self.chosen_by,
            labels=[self.labels_of(count).tolist() for count in range(1, self.n_components + 1)],
            entropies=self.entropies.tolist(),
            merged=self.merged.tolist(),
            n_greedy=self.n_greedy,
            n_rows=self.n_rows,
            weight=self.weight,
            n_passes=self.n_passes,
        )


def curve_of(combined: Combined, by: str) -> tuple[Floats, Floats]:
    """What entropies are held against, and the entropies of 1 ... K clusters; (K,) both."""
    if by not in (ELBOW, ELBOW_OF_ROWS):
        raise InputError(f"by={by!r} is no curve: give {ELBOW!r} or {ELBOW_OF_ROWS!r}.")
    entropies = combined.entropies
    if by == ELBOW_OF_ROWS:
        return np.concatenate([[0.0], np.cumsum(combined.merged[::-1])]), entropies
    return np.arange(1.0, len(entropies) + 1.0), entropies


def check_count(asked: Any, n_components: int) -> None:
    """Refuse a number of clusters that cannot be had, before data are read.

    Raises
    ------
    InputError
    """
    if asked not in (ELBOW, ELBOW_OF_ROWS) if isinstance(asked, str) else True:
        _checked(asked, n_components)


def chosen_count(combined: Combined, asked: Any) -> int:
    """The number of clusters that is asked for: itself, or where the curve bends.

    Raises
    ------
    InputError
    """
    k = len(combined.merges) + 1
    if not isinstance(asked, str):
        return _checked(asked, k)
    x, y = curve_of(combined, asked)
    if y[-1] <= _CERTAIN * combined.weight:
        return k
    found = two_pieces(x, y)
    return k if found is None else found.place + 1


def _checked(n_clusters: Any, n_components: int) -> int:
    whole = isinstance(n_clusters, int | np.integer) and not isinstance(n_clusters, bool)
    if not whole or not 1 <= n_clusters <= n_components:
        raise InputError(
            f"n_clusters={n_clusters!r} cannot be had of {n_components:,} components: give a whole "
            f"number from 1 to {n_components:,}, or 'elbow' or 'elbow-rows' to merge."
        )
    return int(n_clusters)


# -- files -----------------------------------------------------------------------------------------


def check_clusters_place(
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> str:
    """Return where a file of clusters goes, once it is known that it may be written there.

    Raises
    ------
    InputError, OutputExistsError, StoreError
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"Clusters are written to a file: {path!r} is no path and no URL.")
    place = normalize_url(path)
    if not place.lower().endswith(".json"):
        raise InputError(
            f"Clusters are written as JSON, and {place} has not the name of such a file: let it "
            f"end with .json."
        )
    there = content_at(place, "file of clusters", storage_options, writing=True)
    if there is None:
        return place
    if f'"format": "{FORMAT}"'.encode() not in there:
        raise OutputExistsError(
            f"{place} exists and is no file of clusters; it will not be overwritten. Choose "
            f"another place for it."
        )
    if not overwrite:
        raise OutputExistsError(
            f"{place} holds clusters already; pass overwrite=True (--overwrite) or choose another "
            f"place."
        )
    return place


def _read(content: bytes, place: str, parameters: Any) -> dict[str, Any]:
    """What a file of clusters holds, for the mixture of these parameters.

    Raises
    ------
    ModelFileError
    """
    try:
        found = json.loads(content)
        assert isinstance(found, dict)
    except (ValueError, AssertionError, RecursionError):
        found = {}
    if found.get("format") != FORMAT:
        raise ModelFileError(f"{place} is no file of clusters: it does not say format={FORMAT!r}.")
    if found.get("format_version") != FORMAT_VERSION:
        raise ModelFileError(
            f"{place} has format {found.get('format_version')!r}; this version of dask-gmm reads "
            f"{FORMAT_VERSION}. Upgrade dask-gmm."
        )
    if found.get("model") != parameters.fingerprint:
        raise ModelFileError(
            f"The clusters at {place} are of another mixture than this one: merge its components, "
            f"or load the model that they were made with."
        )
    try:
        return _values(found, parameters.n_components)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ModelFileError(
            f"The file of clusters at {place} is damaged ({error}): restore it, or merge again."
        ) from error


def _values(found: Mapping[str, Any], k: int) -> dict[str, Any]:
    merges = np.array(found["merges"], dtype=np.int64).reshape(-1, 2)
    numbers = {name: np.array(found[name], dtype=np.float64) for name in ("gains", "merged")}
    # Each node but the last is joined once, and none before it is made.
    made = np.arange(k, 2 * k - 1)[:, None]
    once = np.array_equal(np.sort(merges.ravel()), np.arange(2 * k - 2))
    if merges.shape != (k - 1, 2) or not once or np.any(merges >= made):
        raise ValueError("its merges are no hierarchy")
    for name, values in numbers.items():
        if values.shape != (k - 1,) or not np.all(values >= 0.0) or not np.isfinite(values).all():
            raise ValueError(f"its {name} are not {k - 1} numbers")
    chosen_by = str(found["chosen_by"])
    if chosen_by not in (ELBOW, ELBOW_OF_ROWS, "given"):
        raise ValueError(f"chosen_by={chosen_by!r}")
    return {
        "n_clusters": _checked(found["n_clusters"], k),
        "chosen_by": chosen_by,
        "merges": merges,
        **numbers,
        "n_greedy": int(found["n_greedy"]),
        "n_rows": int(found["n_rows"]),
        "weight": float(found["weight"]),
        "n_passes": int(found["n_passes"]),
    }
