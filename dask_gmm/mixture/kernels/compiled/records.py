"""The records that a program works on: one line for each field is all there is to say of it.

At run time a program is given addresses: one record of them for the block of rows and the tile that
is being worked on, and one for each candidate. A record is an array of int64. A field's line says
where it stands, as what the emitted code reads it, and what a run allocates for it; emitted code
names fields as attributes, so that a field that is not there fails when the program is written.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Self, overload

import numpy as np
from llvmlite import ir

from dask_gmm.mixture.kernels.compiled.design import GROUP
from dask_gmm.mixture.kernels.compiled.elementary import exp_numbers
from dask_gmm.mixture.kernels.compiled.vector import I64, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dask_gmm.mixture.kernels.compiled.design import Design
    from dask_gmm.mixture.kernels.compiled.vector import Array, Code

    Size = Callable[[Design, int], int | None]

__all__ = ["Block", "Field", "Integer", "Member", "Numbers", "Record"]


class Field:
    """A place in a record."""

    name: str
    place: int

    def __set_name__(self, owner: type[Record], name: str) -> None:
        self.name = name
        before = vars(owner).get("fields", ())  # its own, not those of a base
        self.place = len(before)
        owner.fields = (*before, self)


class Integer(Field):
    """A number."""

    @overload
    def __get__(self, record: None, owner: type[Record]) -> Self: ...
    @overload
    def __get__(self, record: Record, owner: type[Record]) -> Value: ...
    def __get__(self, record: Record | None, owner: type[Record]) -> Self | Value:
        return self if record is None else record.word(self)


class Numbers(Field):
    """The address of an array.

    Parameters
    ----------
    size : callable, optional
        From the design and a candidate's K (0 for a block) to the elements that a run allocates,
        None for none; without it the array is the caller's, and comes with a call.
    kind : {"element", "double", "long"}
        Element type: the program's float, float64 or int64.
    gathered : bool
        Whether it holds what rows leave behind, which is forgotten when a run begins anew.
    """

    def __init__(
        self, size: Size | None = None, *, kind: str = "element", gathered: bool = False
    ) -> None:
        self.size = size
        self.kind = kind
        self.gathered = gathered

    @overload
    def __get__(self, record: None, owner: type[Record]) -> Self: ...
    @overload
    def __get__(self, record: Record, owner: type[Record]) -> Array: ...
    def __get__(self, record: Record | None, owner: type[Record]) -> Self | Array:
        return self if record is None else record.array(self)

    def dtype(self, design: Design) -> Any:
        """NumPy's type of the elements."""
        element = np.float32 if design.lanes.single else np.float64
        return {"element": element, "double": np.float64, "long": np.int64}[self.kind]


class Record:
    """A record as the emitted code has it, read when the function begins."""

    fields: ClassVar[tuple[Field, ...]] = ()

    def __init__(self, code: Code, design: Design, record: Array) -> None:
        types = {"element": design.lanes.element, "double": ir.DoubleType(), "long": I64}
        self.record = record
        self._words = [record.read(field.place) for field in self.fields]
        self._arrays = {
            field.name: code.array(self._words[field.place], types[field.kind])
            for field in self.fields
            if isinstance(field, Numbers)
        }

    def word(self, field: Field) -> Value:
        """What stands in the record: a number, or an address, which is 0 where there is none."""
        return self._words[field.place]

    def array(self, field: Field) -> Array:
        """The array that a field holds the address of."""
        return self._arrays[field.name]

    @classmethod
    def length(cls) -> int:
        """Words of a record."""
        return len(cls.fields)

    @classmethod
    @lru_cache(maxsize=256)  # every pass asks, for each thread
    def allocated(
        cls, design: Design, n_components: int, *, gathered: bool = False
    ) -> Mapping[str, tuple[Any, int]]:
        """Element type and number of elements of each array that a run allocates, by name."""
        sizes: dict[str, tuple[Any, int]] = {}
        for field in cls.fields:
            if isinstance(field, Numbers) and field.size and field.gathered == gathered:
                size = field.size(design, n_components)
                if size is not None:
                    sizes[field.name] = field.dtype(design), size
        return sizes


def _long_rows(design: Design, n_rows: int, per_row: int) -> int:
    return 0 if design.short_rows else n_rows * per_row


def _grouped(k: int) -> int:
    return -(-k // GROUP) * GROUP


def _biases(design: Design, k: int) -> int:
    return design.n_features * {"full": k, "tied": _grouped(k)}.get(design.form, 2 * _grouped(k))


def _sums(design: Design, k: int) -> int:
    return (_grouped(k) if design.shares_products else k) * design.sums


def _tails(design: Design, n: int) -> int:
    return n if design.tails else 0


class Block(Record):
    """The block of rows, and the tile of it that is in work.

    Attributes
    ----------
    start, count : Value
        First row and number of rows of the tile.
    """

    # What a call sets, in this order.
    rows = Numbers()  # the block, row after row or (feature_major) feature after feature
    n_rows = Integer()
    stride = Integer()  # elements from one row, or one feature, to the next
    feature_major = Integer()  # 0 or 1
    weights = Numbers(kind="double")  # (n,) float64, or 0
    # The tile.
    centre = Numbers(lambda d, _: d.lanes.rounded(d.n_features))  # c, which it is relative to
    x = Numbers(lambda d, _: d.n_features * d.pitch)  # [D][pitch]: rows side by side
    # [tile][row pitch]: features side by side; not for short rows
    x_rows = Numbers(lambda d, _: _long_rows(d, d.tile, d.row_pitch))
    row_weights = Numbers(lambda d, _: d.tile)  # [tile]: weights, 0 beyond the last row
    # Constants of the exponential; see `elementary.exp_numbers`.
    numbers = Numbers(lambda d, _: len(exp_numbers(d.lanes.single)) * d.lanes.count)
    peak = Numbers(lambda d, _: d.tile)  # [tile]: largest log-density of each row
    # [tile]: sum of its densities relative to that, then what they are multiplied by
    row_sums = Numbers(lambda d, _: d.tile)
    # [D][pitch]: Uᵀ(x − c); tied only
    white = Numbers(lambda d, _: d.n_features * d.pitch if d.form == "tied" else 0)
    # [D][pitch]: rows brought together; see `eliminate`
    gathered = Numbers(lambda d, _: d.n_features * d.pitch if d.eliminates else 0)
    # [tile]: a log-density of each row that its largest is not below
    floor = Numbers(lambda d, _: d.tile if d.eliminates else 0)
    # [tile]: rows that a component is responsible for, and to what extent
    active = Numbers(lambda d, _: _long_rows(d, d.tile, 1), kind="long")
    shares = Numbers(lambda d, _: d.tile)
    roots = Numbers(lambda d, _: d.batch)  # [batch]: √r_nk of those rows
    # [vectors of features][batch][lanes]: √r_nk (x − c_k)
    packed = Numbers(lambda d, _: _long_rows(d, d.batch, d.padded) if d.dense else 0)

    def __init__(
        self, code: Code, design: Design, record: Array, start: Value, count: Value
    ) -> None:
        super().__init__(code, design, record)
        self.start = start
        self.count = count


class Member(Record):
    """A candidate."""

    n_components = Integer()
    # √½ Uᵀ and −√½ Uᵀ(μ_k − c), packed; see `packing`
    factors = Numbers(lambda d, k: d.component_factors * (k if d.form == "full" else 1))
    biases = Numbers(_biases)
    # (K,) log π_k − ½ D log 2π + log|Σ_k|^(-1/2)
    constants = Numbers(lambda _, k: _grouped(k))
    thresholds = Numbers(lambda _, k: k)  # (K,) responsibilities up to which they count as zero
    references = Numbers(lambda d, k: k * d.padded)  # (K, D padded) c_k − c
    # [K padded][pitch]: log-densities, then responsibilities
    joint = Numbers(lambda d, k: _grouped(k) * d.pitch)
    # [K][mask words]: which rows have a responsibility worth mentioning
    masks = Numbers(lambda d, k: _long_rows(d, k, d.mask_words), kind="long")
    # Tiles before the next elimination.
    pause = Numbers(lambda _d, _k: 1, kind="long", gathered=True)
    sharing = Integer()  # 0 or 1: whether moments may be gathered about c; see `products`
    sums = Numbers(_sums, gathered=True)  # [K][sums of a component]; see `Design.sums`
    # The same in float64; `sums` itself unless they are float32.
    totals = Numbers(
        lambda d, k: _sums(d, k) if d.lanes.single else None, kind="double", gathered=True
    )
    log_likelihood = Numbers(lambda d, _: d.lanes.count, kind="double", gathered=True)  # [lanes]
    # Predictions, (n,) or (n, K) with room for whole vectors; or the statistics' sums.
    output = Numbers(kind="double")
    # (K, D): how far below the references the candidate wants its moments; for float32
    shifts = Numbers(lambda d, k: k * d.n_features if d.lanes.single else None, kind="double")
    # Of t distributions, (K,) each: see `tails`.
    stretches = Numbers(_tails)
    powers = Numbers(_tails)
    heights = Numbers(_tails)
    ratios = Numbers(_tails)
    tops = Numbers(_tails)
    # [K][pitch]: 1/(1 + δ²/ν) and log(1 + δ²/ν)
    inverses = Numbers(lambda d, k: _tails(d, k * d.pitch))
    logarithms = Numbers(lambda d, k: _tails(d, k * d.pitch))
    # [K][lanes]: Σ w r u and Σ w r (log u − u)
    scaled_counts = Numbers(lambda d, k: _tails(d, k * d.lanes.count), gathered=True)
    log_scales = Numbers(lambda d, k: _tails(d, k * d.lanes.count), gathered=True)
