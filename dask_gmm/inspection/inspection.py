"""`Inspection`: all that figures and reports need of the data, from one read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

__all__ = ["Inspection"]


@dataclass(frozen=True, eq=False)
class Inspection:
    """What one read of the data says of a mixture.

    Rows and features are those that the mixture is of: scaled ones, where rows are scaled. Sums are
    over the fixed tree, so that they have the same bits wherever they were made; which rows are
    kept follows from their places in the data.

    Attributes
    ----------
    n_rows : int
        Rows that took part.
    n_incomplete : int
        Those of them that miss a value; `distances` are without these.
    weight : float
        Σ_n w_n, the number of rows where they have no weights.
    log_likelihood : float
        Σ_n w_n log p(x_n), in nats.
    counts : (K,) float64
        N_k = Σ_n w_n r_nk.
    labelled : (K,) float64
        Σ w_n of the rows whose most probable component is k.
    overlap : (K, K) float64
        Σ_n w_n r_nj r_nk; symmetric, its rows add up to N_k. Divided by N_j, the part of what
        belongs to j that would be drawn for k.
    certainty : (K, C) float64
        Σ w_n of the rows labelled k, by their largest responsibility: C equal bins of 0 ... 1.
    entropy : (K,) float64
        −Σ w_n Σ_j r_nj log r_nj of the rows labelled k, in nats.
    distances : (K, B) float64
        Σ_n w_n r_nk by the probability that a row of component k lies farther from it than row n,
        by Mahalanobis distance: its square is χ² of D degrees of freedom for a Gaussian, D times F
        of D and ν_k for a t distribution. Under the model all bins of equal width hold equal parts.
    distance_edges : (B + 1,) float64
        Falling from 1 to 0: linear at first, then three to each decade, to see tails.
    log_density_counts : (L,) float64
        Σ w_n by log p(x_n); the first and the last bin also hold what lies beyond.
    log_density_edges : (L + 1,) float64
        In nats.
    feature_counts : (K, D, F) float64
        Σ w_n of the rows labelled k, by the value of each feature; the first and the last bin also
        hold what lies beyond. Missing values are in none.
    feature_edges : (D, F + 1) float64
        In units of the rows.
    sample : (m, D) float64
        Rows drawn uniformly without replacement, in order of their places; NaN where missing.
    sample_weights : (m,) float64 or None
        Their w_n; None where rows have none.
    sample_labels : (m,) int64
        Their most probable components.
    lowest : (l, D) float64
        The rows of the lowest log-density, the lowest first.
    lowest_log_densities : (l,) float64
        Theirs, in nats.
    lowest_places : tuple of str
        Where they lie in the data, as errors name rows.
    """

    n_rows: int
    n_incomplete: int
    weight: float
    log_likelihood: float
    counts: Floats
    labelled: Floats
    overlap: Floats
    certainty: Floats
    entropy: Floats
    distances: Floats
    distance_edges: Floats
    log_density_counts: Floats
    log_density_edges: Floats
    feature_counts: Floats
    feature_edges: Floats
    sample: Floats
    sample_weights: Floats | None
    sample_labels: Integers
    lowest: Floats
    lowest_log_densities: Floats
    lowest_places: tuple[str, ...]

    @property
    def score(self) -> float:
        """Mean log-likelihood, in nats per unit of weight."""
        return self.log_likelihood / self.weight

    @property
    def n_effective(self) -> float:
        """As many rows of equal weights vary as little as these of unequal ones (Kish 1965).

        (Σ w)² / Σ w², as the sample has it; `n_rows` where rows have no weights.
        """
        if self.sample_weights is None or not len(self.sample_weights):
            return float(self.n_rows)
        w = self.sample_weights / self.sample_weights.max()
        return float(self.n_rows * w.mean() ** 2 / (w * w).mean())

    def __repr__(self) -> str:
        k, d = self.feature_counts.shape[:2]
        return (
            f"<Inspection of {k:,} components in {d:,} features: {self.n_rows:,} rows at "
            f"{self.score:.6g} nats per unit of weight; {len(self.sample):,} of them kept, and the "
            f"{len(self.lowest):,} of lowest density>"
        )
