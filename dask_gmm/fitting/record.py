"""`FitRecord`: where a fit came from and what it took, which no result depends on."""

from __future__ import annotations

from dataclasses import dataclass

from dask_gmm.quantities import show_bytes, show_seconds

__all__ = ["FitRecord"]


@dataclass(frozen=True)
class FitRecord:
    """Where a fit came from and what it took.

    Attributes
    ----------
    source : str
        What messages call the data; no credentials.
    data : str
        What the data were known by: a digest of their content where there is one, else of their
        metadata.
    backend : str
    n_rows : int or None
    n_features, n_blocks : int
    begun : float
        Seconds since 1970, of the driver's clock.
    seconds : float
        From the first read to the end; of a fit that went on from a checkpoint those of the
        processes before too.
    sample_rows, sample_blocks : int
        What the start was made from; 0 where nothing was drawn.
    sample_seconds : float
        Taken to draw it.
    start : str
        How starts were made.
    start_seconds : float
    start_reads : int
        Reads of everything before the first pass.
    moves_tried, moves_accepted : int
        Of the search on the sample.
    search_gain : float
        In nats per row of the sample that the search does not fit.
    search_seconds : float
    rare_components : int
        That were found in the first read.
    passes : int
    pass_ends : tuple of float
        Seconds from `begun` to the end of each pass.
    bytes_read : int
        Decoded.
    blocks_from_cache, resubmitted : int
    rejected : int
        Steps that did not raise the objective.
    resumed_after : int or None
        Passes that were made before this process took the fit up.
    weighted : bool or None
        Whether rows had weights; None where nobody has noted it.
    """

    source: str
    data: str
    backend: str
    n_rows: int | None
    n_features: int
    n_blocks: int
    begun: float
    seconds: float
    sample_rows: int
    sample_blocks: int
    sample_seconds: float
    start: str
    start_seconds: float
    start_reads: int
    moves_tried: int
    moves_accepted: int
    search_gain: float
    search_seconds: float
    rare_components: int
    passes: int
    pass_ends: tuple[float, ...]
    bytes_read: int
    blocks_from_cache: int
    resubmitted: int
    rejected: int
    resumed_after: int | None
    weighted: bool | None = None

    @property
    def reads(self) -> float:
        """How many times the whole data were read, the sample included."""
        sampled = self.sample_blocks / self.n_blocks if self.n_blocks else 0.0
        return self.passes + self.start_reads + sampled

    def __repr__(self) -> str:
        rows = "rows of unknown number" if self.n_rows is None else f"{self.n_rows:,} rows"
        return (
            f"<FitRecord: {self.passes:,} passes over {rows} × {self.n_features:,} features of "
            f"{self.source} in {show_seconds(self.seconds)} on {self.backend}; "
            f"{show_bytes(self.bytes_read)} read>"
        )
