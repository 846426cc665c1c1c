"""What one program is specialised on, and the sizes that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dask_gmm.mixture.kernels.compiled.vector import Lanes

__all__ = ["GROUP", "Design", "tile_rows"]

GROUP: Final = 4
"""Components that the diagonal E-step takes together."""

BATCH_BYTES: Final = 16 << 10
"""Bytes of packed differences; a first-level cache holds 32 KB or more."""


LINE_BYTES: Final = 64
"""Bytes of a cache line."""

WIDEST_SHARED: Final = {"full": 40, "diag": 128, "spherical": 128}
"""Features up to which products of features are shared; beyond, they save too little."""

SHARED_BYTES: Final = 24 << 10
"""Bytes of the rows whose products are multiplied at a time: a part of the first-level cache, which
holds 32 KB or more."""


def tile_rows(n_features: int, n_components: int) -> int:
    """Rows of a tile: short enough for the second-level cache, long enough to be worth a loop."""
    tile = 768 if n_features <= 16 else 384 if n_features <= 64 else 192
    while tile > 192 and tile * n_components > 1 << 16:
        tile //= 2
    return tile


@dataclass(frozen=True)
class Design:
    """What a program is compiled for.

    Attributes
    ----------
    form : str
        Name of the covariance form.
    n_features : int
        D.
    single_rows : bool
        Whether the rows are float32; float64 else.
    lanes : Lanes
        The arithmetic.
    tile : int
        Rows of a tile, a multiple of `step`.
    registers : int
        Vector registers of the CPU.
    tails : bool
        Whether components are t distributions; see `tails`.
    """

    form: str
    n_features: int
    single_rows: bool
    lanes: Lanes
    tile: int
    registers: int
    tails: bool = False

    @property
    def dense(self) -> bool:
        """Whether second moments are matrices."""
        return self.form in ("full", "tied")

    @property
    def panel(self) -> int:
        """Rows of a whitening matrix that the E-step takes together."""
        return 8 if self.registers >= 32 and self.n_features > 8 else 4

    @property
    def abreast(self) -> int:
        """Vectors of rows that go abreast through the E-step."""
        if self.registers < 32:
            return 3 if self.dense else 2  # a diagonal component needs a factor and a bias
        return 3 if self.dense and self.panel > GROUP else 4

    @property
    def step(self) -> int:
        """Rows that the E-step takes together."""
        return self.abreast * self.lanes.count

    @property
    def pitch(self) -> int:
        """Elements from a feature, or a component, to the next where rows lie side by side.

        An odd number of cache lines: an even one would bring the same rows of many features to the
        same few lines of the first-level cache.
        """
        line = LINE_BYTES // self.lanes.itemsize
        return (-(-self.tile // line) | 1) * line

    @property
    def short_rows(self) -> bool:
        """Whether the moments of a component stay in registers over a whole tile."""
        limit = (6 if self.registers >= 32 else 4) if self.dense else 8
        return self.n_features <= limit

    @property
    def padded(self) -> int:
        """Features of a row in the feature-by-feature layout."""
        return self.n_features if self.short_rows else self.lanes.rounded(self.n_features)

    @property
    def ones_offset(self) -> int:
        """Where a row of `x_rows` ends with ones, if it does: after itself and its beginning."""
        again = self.n_features // 2 if self.dense else 0
        return self.lanes.rounded(self.padded + again)

    @property
    def row_pitch(self) -> int:
        """Elements from one row of `x_rows` to the next."""
        return self.ones_offset + self.lanes.count if self.shares_products else self.padded

    @property
    def batch(self) -> int:
        """Rows whose differences are packed at a time: an even part of a tile.

        They fill most of the first-level cache, but are no fewer than pay for the loading and
        storing of the sums.
        """
        bytes_of_row = self.padded * self.lanes.itemsize
        most = max(128, min(256, BATCH_BYTES // bytes_of_row // 16 * 16))
        parts = -(-self.tile // most)
        return -(-self.tile // (16 * parts)) * 16

    @property
    def mask_words(self) -> int:
        """64-bit words that hold the mask of a component."""
        return -(-(self.tile // self.lanes.count) * self.lanes.mask_bits // 64)

    @property
    def first_offset(self) -> int:
        """Where the first moments begin in the sums of a component: after the lanes of N_k."""
        return self.lanes.count

    @property
    def second_offset(self) -> int:
        """Where the second moments begin in the sums of a component."""
        return self.lanes.count + self.first_size

    @property
    def first_size(self) -> int:
        """Numbers kept for G_k: lanes for each feature if rows are short, else the features."""
        return self.n_features * self.lanes.count if self.short_rows else self.padded

    @property
    def second_size(self) -> int:
        """Numbers kept for C_k."""
        d = self.n_features
        if self.short_rows:
            return (d * (d + 1) // 2 if self.dense else d) * self.lanes.count
        return self.padded**2 if self.dense else self.padded

    @property
    def sums(self) -> int:
        """Numbers of the sums of a component: N_k in lanes, G_k, C_k; the same of products."""
        shared = 1 + self.n_products if self.shares_products else 0
        return self.shared_offset + shared * self.lanes.count

    @property
    def shares_products(self) -> bool:
        """Whether a program can gather the moments of all components at once; see `products`."""
        if self.tails:  # what their moments count for is not what was added up as N_k
            return False
        return not self.short_rows and self.n_features <= WIDEST_SHARED.get(self.form, 0)

    @property
    def shared_offset(self) -> int:
        """Where the sums of products begin in the sums of a component."""
        return self.lanes.count + self.first_size + self.second_size

    @property
    def n_second_products(self) -> int:
        """Vectors of x_i x_{i+s}, s ≤ D/2 around the circle; for variances of x_i²."""
        across = self.padded // self.lanes.count
        if not self.dense:
            return across
        half, odd = divmod(self.n_features, 2)
        return half * across + (across if odd else -(-half // self.lanes.count))

    @property
    def n_products(self) -> int:
        """Vectors of products of features, x_i at the end; 0 if the program has no use for them."""
        if not self.shares_products:
            return 0
        return self.n_second_products + self.padded // self.lanes.count

    @property
    def product_rows(self) -> int:
        """Rows that are multiplied at a time: they stay in the first-level cache."""
        fitting = SHARED_BYTES // (self.row_pitch * self.lanes.itemsize)
        return max(64, fitting // self.step * self.step)

    @property
    def component_factors(self) -> int:
        """Numbers of a component's (tied: the shared) packed factor; see `packing`."""
        if self.dense:
            return sum((i + n) * n for i, n in self.panels())
        return 0

    def panels(self) -> list[tuple[int, int]]:
        """First row and number of rows of each panel of a whitening matrix."""
        d, n = self.n_features, self.panel
        return [(i, min(n, d - i)) for i in range(0, d, n)]

    @property
    def eliminates(self) -> bool:
        """Whether components may be ruled out before all panels are worked through."""
        return self.form == "full" and self.n_features >= 16 and not self.tails

    @property
    def leading(self) -> int:
        """Features of the panels by which components are ruled out."""
        return 8 if self.n_features < 24 else 16 if self.n_features < 64 else 32

    @property
    def flush_tiles(self) -> int:
        """Tiles after which float32 sums are added to the float64 totals."""
        return 4 if self.n_features <= 16 else 8
