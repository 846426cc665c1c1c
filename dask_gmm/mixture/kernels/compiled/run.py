"""Calls of a program: their memory, their records, and the rows brought before it.

All memory of a run is one stretch, cut into arrays that begin on cache lines: a vector of 512
bits that straddles two lines takes twice as long to load.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dask_gmm.mixture.kernels.base import beyond_range, check_finite
from dask_gmm.mixture.kernels.compiled import packing
from dask_gmm.mixture.kernels.compiled.compiler import program
from dask_gmm.mixture.kernels.compiled.elementary import exp_numbers, least_exponent
from dask_gmm.mixture.kernels.compiled.records import Block, Member
from dask_gmm.mixture.statistics import number_of_sums

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dask_gmm.mixture.kernels.base import Candidate
    from dask_gmm.mixture.kernels.compiled.design import Design
    from dask_gmm.rows import Rows

    Array = NDArray[np.float64]

__all__ = ["RowsOutOfRangeError", "Run", "bytes_needed", "room", "weight_exponent"]

CHUNK_TILES: Final = 8
"""Tiles that are converted at a time when rows come in a form that no program reads."""

_USUAL_WEIGHT: Final = 8
"""Exponents of two up to which row weights are taken as they come."""
_LINE: Final = 64
_OF_ROWS: Final = (Block.rows, Block.n_rows, Block.stride, Block.feature_major, Block.weights)
assert Block.fields[: len(_OF_ROWS)] == _OF_ROWS


def weight_exponent(rows: Rows) -> int:
    """The e by which a program reads row weights times 2^-e; 0 where they are near 1.

    Scaling by a power of two is exact. Else float32 could not hold the weights, and what a program
    makes of a component depends on how many rows it has.
    """
    if rows.weights is None or not len(rows):
        return 0
    exponent = math.frexp(rows.total_weight / len(rows))[1]
    return 0 if abs(exponent) <= _USUAL_WEIGHT else exponent


class RowsOutOfRangeError(ArithmeticError):
    """Float32 arithmetic met a row that it cannot represent; float64 may."""


class Run:
    """Candidates of one design on their way through a block of rows.

    Parameters
    ----------
    design : Design
    candidates : sequence of Candidate
        Of the design's form.
    centre : (D,) float64
        c; in float32 arithmetic it must be a float32 number.
    """

    def __init__(self, design: Design, candidates: Sequence[Candidate], centre: Array) -> None:
        self.design = design
        self._program = program(design)
        self._components = [c.parameters.n_components for c in candidates]
        self._numbers_of_sums = [
            number_of_sums(c.parameters.form, *c.reference.shape) for c in candidates
        ]
        tile = Block.allocated(design, 0)
        sizes = [Member.allocated(design, k) for k in self._components]
        of_rows = [Member.allocated(design, k, gathered=True) for k in self._components]
        memory = _Memory(sum(map(_bytes_of, [tile, *sizes, *of_rows])))
        self.nbytes = memory.nbytes
        self._tile = memory.cut(tile)
        self._members = [memory.cut(s) for s in sizes]
        begin = memory.used
        for member, own in zip(self._members, of_rows, strict=True):
            member.update(memory.cut(own))
        self._of_rows = memory.between(begin, memory.used)
        self._tile["centre"][: len(centre)] = centre
        self._tile["numbers"][:] = np.repeat(exp_numbers(design.lanes.single), design.lanes.count)
        for member, candidate in zip(self._members, candidates, strict=True):
            for name, numbers in packing.pack(design, candidate, centre).items():
                member[name][: numbers.size] = numbers.reshape(-1)  # in the program's precision
            if design.lanes.single:
                shifts = self._references(member) - (candidate.reference - centre)
                member["shifts"][:] = shifts.reshape(-1)
        given = {name: array.ctypes.data for name, array in self._tile.items()}
        self._block = np.array([given.get(field.name, 0) for field in Block.fields], dtype=np.int64)
        sharing = [packing.may_share(design, c, centre) for c in candidates]
        records = [self._candidate_record(j, shares) for j, shares in enumerate(sharing)]
        self._records = np.array(records, dtype=np.int64)
        self._block_at, self._records_at = self._block.ctypes.data, self._records.ctypes.data

    def output(self, n_rows: int) -> Array:
        """Memory for a number for each of some rows."""
        return np.empty(room(n_rows, self.design))

    def clear(self) -> None:
        """Forget all rows."""
        self._of_rows.fill(0)

    def go(
        self,
        entry: str,
        rows: NDArray[Any],
        *,
        weights: Array | None = None,
        exponent: int = 0,
        output: NDArray[Any] | None = None,
        apart: int | None = None,
    ) -> None:
        """Forget all rows, and send these through one of the program's entries.

        Parameters
        ----------
        entry : str
        rows : (n, D) real
        weights : (n,) float64, optional
        exponent : int
            The program reads the weights times 2^-exponent, so that its sums are to be multiplied
            by 2^exponent.
        output : 8-byte numbers, optional
            With `room` rows, for a prediction, or the log-densities of the first candidate.
        apart : int, optional
            A candidate to send alone, whose moments must not be gathered about c.

        Raises
        ------
        NonFiniteError
            A row is no number, or too far out for float64.
        RowsOutOfRangeError
            A row is too far out for float32 arithmetic.
        """
        self.clear()
        single, lanes = self.design.lanes.single, self.design.lanes.count
        weighed = entry.startswith("statistics")
        self._tile["numbers"][:lanes] = least_exponent(single, to_be_weighed=weighed)
        members, at = self._records, self._records_at
        if apart is not None:
            members = members[apart : apart + 1].copy()
            members[0, Member.sharing.place] = 0
            at = members.ctypes.data
        if entry == "statistics_and_log_densities":  # of others the last sums may lie there
            members[:, Member.output.place] = 0
        as_they_are = weights is None or (exponent == 0 and weights.flags.c_contiguous)
        for start, part in _readable(rows, self.design, whole=as_they_are):
            own = None if weights is None else weights[start : start + len(part)]
            if own is not None and not as_they_are:
                own = np.ldexp(own, -exponent)  # a copy, one after the other
            self._turn_to(part, own)
            if output is not None:
                members[0, Member.output.place] = output[start:].ctypes.data
            bad = self._program.run(entry, self._block_at, at, len(members))
            if bad >= 0:
                self._refuse(entry, rows, start + bad)

    def finish(self, j: int) -> tuple[Array, int]:
        """What was gathered for candidate `j`, and what is to be said of it.

        Returns
        -------
        sums : float64
            As in `SufficientStatistics`, but for the weight.
        said : int
            See `moments.finish`.
        """
        sums = np.empty(self._numbers_of_sums[j])
        self._records[j, Member.output.place] = sums.ctypes.data
        member = self._records_at + j * self._records.strides[0]
        return sums, self._program.run("finish", self._block_at, member, 1)

    def tails(self, j: int) -> tuple[Array, Array]:
        """Σ w r u and Σ w r (log u − u) of candidate `j`, (K,) each; of designs with tails."""
        member, lanes = self._members[j], self.design.lanes.count
        by_lane = (member[name].reshape(-1, lanes) for name in ("scaled_counts", "log_scales"))
        counts, logs = (lanes_of.sum(axis=1, dtype=np.float64) for lanes_of in by_lane)
        return counts, logs

    def _references(self, member: dict[str, NDArray[Any]]) -> Array:
        """c_k − c as the program has it, (K, D) float64."""
        stored = member["references"].reshape(-1, self.design.padded)
        return np.asarray(stored[:, : self.design.n_features], dtype=np.float64)

    def _refuse(self, entry: str, rows: NDArray[Any], start: int) -> None:
        tile = rows[start : start + self.design.tile]
        check_finite(tile, start)
        if self.design.lanes.single:
            raise RowsOutOfRangeError
        # One more time for this tile alone and each candidate: the peaks say which row it is.
        copy = np.ascontiguousarray(tile, dtype=self._row_type())
        self._turn_to(copy, None)
        for j, k in enumerate(self._components):
            alone = self._records[j : j + 1].copy()
            spare = np.empty((room(len(tile), self.design), k))
            alone[0, Member.output.place] = spare.ctypes.data
            self._program.run(entry, self._block_at, alone.ctypes.data, 1)
            bad = self._tile["peak"][: len(tile)] == -np.inf
            if bad.any():
                raise beyond_range(tile, start, bad)
        raise beyond_range(tile, start, np.zeros(len(tile), dtype=bool))

    def _row_type(self) -> Any:
        return np.float32 if self.design.single_rows else np.float64

    def _turn_to(self, rows: NDArray[Any], weights: Array | None) -> None:
        """Write into the block's record where the rows are."""
        feature_major = rows.shape[1] > 1 and not rows.flags.c_contiguous
        stride = rows.strides[1 if feature_major else 0] // rows.itemsize
        at = 0 if weights is None else weights.ctypes.data
        fields = (rows.ctypes.data, len(rows), stride, int(feature_major), at)
        self._block[: len(_OF_ROWS)] = fields

    def _candidate_record(self, j: int, sharing: bool) -> list[int]:
        given = {name: array.ctypes.data for name, array in self._members[j].items()}
        fields = {"n_components": self._components[j], "output": 0, "sharing": int(sharing)}
        if not self.design.lanes.single:
            fields |= {"totals": given["sums"], "shifts": 0}
        return [{**given, **fields}[field.name] for field in Member.fields]


def room(n_rows: int, design: Design) -> int:
    """Rows of the output that predictions of `n_rows` rows write to: whole vectors."""
    return -(-n_rows // design.step) * design.step


def bytes_needed(design: Design, n_components: int) -> int:
    """Bytes that a run with one candidate allocates."""
    sizes = [
        Member.allocated(design, n_components, gathered=gathered) for gathered in (False, True)
    ]
    sizes.append(Block.allocated(design, 0))
    return sum(map(_bytes_of, sizes)) + 8 * CHUNK_TILES * design.tile * (design.n_features + 1)


def _readable(
    rows: NDArray[Any], design: Design, *, whole: bool = True
) -> Iterator[tuple[int, NDArray[Any]]]:
    """The rows in forms that a program reads, and where each part begins.

    That is the block itself if its rows lie one after the other, or its features do; else copies
    of some tiles at a time. Unless it may be the `whole` block: then it is some tiles at a time.
    """
    native = np.dtype(np.float32 if design.single_rows else np.float64)
    plain = rows.dtype == native and rows.flags.aligned
    by_feature = rows.strides[0] == rows.itemsize and rows.strides[1] > 0
    length = CHUNK_TILES * design.tile  # a multiple of what is flushed: the same bits
    if plain and (rows.flags.c_contiguous or by_feature):
        if whole:
            yield 0, rows
            return
        for start in range(0, len(rows), length):
            yield start, rows[start : start + length]
        return
    chunk = np.empty((min(length, len(rows)), rows.shape[1]), dtype=native)
    for start in range(0, len(rows), length):
        part = rows[start : start + length]
        copy = chunk[: len(part)]
        np.copyto(copy, part, casting="same_kind")
        yield start, copy


_Sizes = Mapping[str, tuple[Any, int]]
"""Element type and number of elements of each array."""


def _bytes_of(sizes: _Sizes) -> int:
    return sum(_lines(kind, n) for kind, n in sizes.values()) + _LINE


def _lines(kind: Any, n: int) -> int:
    size: int = np.dtype(kind).itemsize
    return -(-n * size // _LINE) * _LINE


class _Memory:
    """Zeros, cut into arrays that begin on cache lines."""

    def __init__(self, n_bytes: int) -> None:
        raw = np.zeros(n_bytes + _LINE, dtype=np.uint8)
        self._bytes = raw[-raw.ctypes.data % _LINE :]
        self.used = 0

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return int(self._bytes.nbytes)

    def cut(self, sizes: _Sizes) -> dict[str, NDArray[Any]]:
        """The arrays of these sizes."""
        arrays = {}
        for name, (kind, n) in sizes.items():
            end = self.used + n * np.dtype(kind).itemsize
            arrays[name] = self._bytes[self.used : end].view(kind)
            self.used += _lines(kind, n)
        return arrays

    def between(self, begin: int, end: int) -> NDArray[np.uint8]:
        """What was cut while `used` went from one of these to the other."""
        return self._bytes[begin:end]
