"""A kernel around another one that takes rows with missing values, marked by NaN.

For the rows that are complete it is the other kernel, to the last bit where all of a block's are.
The others are taken by their patterns (`mixture.gaps`): for a pattern of many rows the other kernel
is prepared for the marginal mixture, and what it gathers there is completed by what that says of
the missing features (`mixture.conditional`); the rows of all others are taken together
(`scattered`). Which way a pattern goes depends on its rows in the block alone, and so do the bits.
A row without any value has log-density 0 and the components' weights for posteriors.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from dask_gmm.errors import InputError, NonFiniteError
from dask_gmm.mixture.conditional import Conditional, Sums
from dask_gmm.mixture.gaps import Pattern, has_gaps, split
from dask_gmm.mixture.kernels.base import (
    Candidate,
    EStep,
    Kernel,
    Predictor,
    checked_values,
    possible_forms,
)
from dask_gmm.mixture.kernels.scattered import ScatteredRows, scattered_bytes
from dask_gmm.mixture.low_rank import LowRank
from dask_gmm.mixture.statistics import SufficientStatistics, number_of_sums
from dask_gmm.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from dask_gmm.mixture.form import CovarianceForm
    from dask_gmm.mixture.parameters import MixtureParameters

    Array = NDArray[np.float64]

__all__ = ["MarginalKernel"]

_PIECE_BYTES = 32 * 2**20
"""Rows are taken apart in pieces of this size as float64, of which indices and flags are held."""
_COMPLETE_BYTES = 2**20
"""Complete rows among others are brought together in parts of this size, which caches hold."""
_PATTERN_BYTES = 4 * 2**20
"""Rows of a pattern are brought together in parts of this size: each is completed by itself."""
PREPARED_BYTES = 64 * 2**20
"""Kernels that stay prepared for patterns hold so much, beside that of the pattern at hand."""
_FEW, _MANY = 32, 256
"""Rows from which a kernel of its own is faster than taking a pattern with others (measured)."""
_LARGE, _LARGE_SHARED, _LARGE_VARIANCES = 2**11, 2**12, 2**7
"""Numbers K D² (of variances K D) from which few rows are enough."""
_FEWEST_PATTERNS, _MOST_PATTERNS = 16, 256


def refuse_factors(parameters: MixtureParameters) -> None:
    """Say that gaps in rows of factor analysers have no arithmetic here.

    Raises
    ------
    InputError
    """
    if isinstance(parameters.form, LowRank):
        raise InputError(
            f"Rows that miss values cannot be taken with what they have, or filled, by a mixture "
            f"with covariance_type={parameters.family.name!r}: set missing='drop', or fit one with "
            f"covariance_type='diag' or 'full'."
        )


@dataclass(frozen=True)
class MarginalKernel(Kernel):
    """Another kernel, for rows that may hold NaN.

    Parameters
    ----------
    inner : Kernel
        What computes complete rows, and those of a marginal mixture.
    """

    inner: Kernel

    @property
    def name(self) -> str:
        """The name of the kernel inside."""
        return self.inner.name

    def e_step(self, candidates: Sequence[Candidate]) -> EStep:
        """Prepare for statistics; see `Kernel.e_step`.

        Raises
        ------
        InputError
            A candidate is a mixture of factor analysers.
        """
        for candidate in candidates:
            refuse_factors(candidate.parameters)
        return _MarginalEStep(self.inner, candidates)

    def predictor(self, parameters: MixtureParameters) -> Predictor:
        """Prepare for predictions; see `Kernel.predictor`.

        Raises
        ------
        InputError
            It is a mixture of factor analysers.
        """
        refuse_factors(parameters)
        return _MarginalPredictor(self.inner, parameters)

    def workspace_bytes(
        self,
        n_features: int,
        n_components: Sequence[int],
        forms: Sequence[CovarianceForm] | None = None,
    ) -> int:
        """Most bytes that an `e_step` holds; see `Kernel.workspace_bytes`."""
        inner = self.inner.workspace_bytes(n_features, n_components, forms)
        working = results = 0
        for k, kinds in possible_forms(n_components, forms):
            dense = any(form.dense_factors for form in kinds)
            numbers = max(number_of_sums(form, k, n_features) for form in kinds)
            results += 8 * numbers + 8 * k * n_features
            working = max(working, scattered_bytes(n_features, k, dense=dense) + 64 * numbers)
        # A pattern's rows as they are, and the features of them that are there.
        gathered = 2 * max(_PATTERN_BYTES, 8 * n_features)
        piece = gathered + (48 + 2 * n_features) * _rows_in(_PIECE_BYTES, n_features)
        rules = {
            Rule.of(self.inner, form, k, n_features)
            for k, kinds in possible_forms(n_components, forms)
            for form in kinds
        }
        # That of complete rows, and that of the pattern at hand.
        return 2 * inner + len(rules) * PREPARED_BYTES + working + results + piece


def _rows_in(n_bytes: int, n_features: int) -> int:
    """How many rows of float64 that are; one at least."""
    return max(1, n_bytes // (8 * n_features))


def _parts(index: NDArray[np.intp], n_bytes: int, n_features: int) -> Iterator[NDArray[np.intp]]:
    """The index of some rows, in parts of a size."""
    step = _rows_in(n_bytes, n_features)
    for start in range(0, index.size, step):
        yield index[start : start + step]


@dataclass(frozen=True)
class _Piece:
    """Some consecutive rows of a block, by the values they have.

    Attributes
    ----------
    start : int
        Index in the block of the first.
    values : (n, D) floating
    weights : (n,) float64 or None
    complete : (c,) integer
        Which rows miss nothing.
    patterns : list of Pattern
        All others.
    """

    start: int
    values: NDArray[Any]
    weights: Array | None
    complete: NDArray[np.intp]
    patterns: list[Pattern]

    def take(self, index: NDArray[np.intp], features: NDArray[np.intp] | None = None) -> Rows:
        """Some of the rows, or some of their features."""
        values = self.values.take(index, axis=0)
        if features is not None:
            values = values.take(features, axis=1)
        weights = None if self.weights is None else self.weights.take(index)
        return Rows(values, weights, complete=True)

    def apart(self, rule: Rule) -> tuple[list[Pattern], list[Pattern]]:
        """Patterns that get a kernel of their own, and all others."""
        many = [p for p in self.patterns if p.rows.size >= rule.rows and p.present.any()]
        if len(many) > rule.patterns:
            # Those of the most rows; of equals the first.
            order = np.argsort([-p.rows.size for p in many], kind="stable")
            many = [many[i] for i in sorted(order[: rule.patterns].tolist())]
        chosen = {id(p) for p in many}
        return many, [p for p in self.patterns if id(p) not in chosen]


def _pieces(values: NDArray[Any], weights: Array | None = None) -> Iterator[_Piece]:
    """Take rows apart, a piece at a time."""
    step = _rows_in(_PIECE_BYTES, values.shape[1])
    for start in range(0, len(values), step):
        part = values[start : start + step]
        own = None if weights is None else weights[start : start + step]
        yield _Piece(start, part, own, *split(part))


class Rule(NamedTuple):
    """Which patterns of a block are worth a kernel of their own.

    Attributes
    ----------
    rows : int
        So many rows have it at least.
    patterns : int
        And it is among so many that the most rows have.
    """

    rows: int
    patterns: int

    @classmethod
    def of(cls, inner: Kernel, form: CovarianceForm, n_components: int, n_features: int) -> Rule:
        """The rule for a mixture; it must not depend on the company that this is in."""
        k, d = n_components, n_features
        if not form.dense_factors:
            rows = _FEW if k * d >= _LARGE_VARIANCES else _MANY
        elif form.shared:
            rows = 2 * _FEW if k * d * d >= _LARGE_SHARED else _MANY
        else:
            rows = _FEW if k * d * d >= _LARGE else _MANY
        # What a kernel holds between its calls is about a quarter of what it may need in one.
        fitting = 4 * PREPARED_BYTES // max(1, inner.workspace_bytes(d, [k], [form]))
        most = max(_FEWEST_PATTERNS, min(_MOST_PATTERNS, fitting))
        return cls(rows, 1 << (most.bit_length() - 1))


def _placed(
    error: NonFiniteError,
    start: int,
    rows: NDArray[np.intp],
    features: NDArray[np.intp] | None = None,
) -> NonFiniteError:
    """The error with the place in the block, not among some rows and features of it."""
    feature = error.feature if features is None else int(features[error.feature])
    return NonFiniteError(start + int(rows[error.row]), feature, error.value, error.where)


def _moved(error: NonFiniteError, start: int) -> NonFiniteError:
    """The error with the place in the block, not in a piece of it."""
    return NonFiniteError(start + error.row, error.feature, error.value, error.where)


class _Prepared(Protocol):
    """What is prepared for a pattern."""

    @property
    def nbytes(self) -> int:
        """Bytes that it holds now."""


P = TypeVar("P", bound=_Prepared)


class _Recent(Generic[P]):
    """What was prepared for the patterns met last, within bounds.

    Parameters
    ----------
    prepare : callable
        Takes the features that are present.
    """

    def __init__(self, prepare: Callable[[NDArray[np.bool_]], P]) -> None:
        self._prepare = prepare
        self._held: OrderedDict[bytes, P] = OrderedDict()

    def get(self, pattern: Pattern) -> P:
        """Return what is prepared for a pattern."""
        key = pattern.key
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        # What a kernel holds it may take when it is first called: they are counted anew.
        sizes = [held.nbytes for held in self._held.values()]
        total = sum(sizes)
        for size in sizes:
            if total <= PREPARED_BYTES:
                break
            self._held.popitem(last=False)
            total -= size
        made = self._held[key] = self._prepare(pattern.present)
        return made


@dataclass(frozen=True)
class _MarginalSteps:
    """The other kernel prepared for a pattern."""

    conditionals: tuple[Conditional, ...]
    e_step: EStep
    most_bytes: int

    @property
    def nbytes(self) -> int:
        """Bytes that it holds now."""
        held = self.e_step.held_bytes
        own = self.most_bytes if held is None else held
        return own + sum(conditional.nbytes for conditional in self.conditionals)


@dataclass(frozen=True)
class _MarginalPrediction:
    """The other kernel prepared to predict for a pattern."""

    predictor: Predictor
    seen: NDArray[np.intp]
    most_bytes: int

    @property
    def nbytes(self) -> int:
        """Bytes that it holds now."""
        held = self.predictor.held_bytes
        return self.most_bytes if held is None else held


class _Company:
    """Candidates whose patterns go the same way, and what is prepared for these.

    A candidate's way must not depend on the forms of others.

    Parameters
    ----------
    inner : Kernel
    rule : Rule
        Theirs.
    places : sequence of int
        Which of the E-step's candidates they are.
    candidates : sequence of Candidate
        They themselves.
    """

    def __init__(
        self, inner: Kernel, rule: Rule, places: Sequence[int], candidates: Sequence[Candidate]
    ) -> None:
        self.rule = rule
        self.places, self.candidates = tuple(places), tuple(candidates)
        self.scattered = [ScatteredRows(c.parameters) for c in self.candidates]
        self._inner = inner
        self._components = [c.parameters.n_components for c in self.candidates]
        self._forms = [c.parameters.form for c in self.candidates]
        self.prepared = _Recent(self._prepare)

    def _prepare(self, present: NDArray[np.bool_]) -> _MarginalSteps:
        conditionals = tuple(Conditional(c.parameters, present) for c in self.candidates)
        pairs = zip(conditionals, self.candidates, strict=True)
        marginals = [Candidate(c.marginal, own.reference[:, c.seen]) for c, own in pairs]
        most = self._inner.workspace_bytes(int(present.sum()), self._components, self._forms)
        return _MarginalSteps(conditionals, self._inner.e_step(marginals), most)


class _MarginalEStep(EStep):
    """The other kernel's E-step, and those for patterns."""

    def __init__(self, inner: Kernel, candidates: Sequence[Candidate]) -> None:
        self._candidates = tuple(candidates)
        self._complete = inner.e_step(candidates)
        self._companies: list[_Company] | None = None
        self._inner = inner

    def _open_companies(self) -> list[_Company]:
        if self._companies is None:
            together: dict[Rule, list[int]] = {}
            for i, candidate in enumerate(self._candidates):
                p = candidate.parameters
                rule = Rule.of(self._inner, p.form, *p.means.shape)
                together.setdefault(rule, []).append(i)
            self._companies = [
                _Company(self._inner, rule, places, [self._candidates[i] for i in places])
                for rule, places in together.items()
            ]
        return self._companies

    def statistics(self, rows: Rows) -> tuple[SufficientStatistics, ...]:
        """Statistics of the rows for each candidate; see `EStep.statistics`."""
        if not self._has_gaps(rows):
            return self._complete.statistics(rows)
        return self._with_gaps(rows, None)

    def with_log_densities(
        self, rows: Rows
    ) -> tuple[tuple[SufficientStatistics, ...], NDArray[np.float64]]:
        """Statistics, and log-densities of what is present; see `EStep.with_log_densities`."""
        if not self._has_gaps(rows):
            return self._complete.with_log_densities(rows)
        kept = np.zeros(len(rows))
        return self._with_gaps(rows, kept), kept

    def _has_gaps(self, rows: Rows) -> bool:
        if rows.complete:
            return False
        for candidate in self._candidates:
            checked_values(rows.values, candidate.parameters.n_features)
        return has_gaps(rows.values)

    def _with_gaps(self, rows: Rows, kept: Array | None) -> tuple[SufficientStatistics, ...]:
        sums = [
            Sums(p.form, p.n_components, p.n_features, number_of_sums(p.form, *p.means.shape))
            for p in (c.parameters for c in self._candidates)
        ]
        for piece in _pieces(rows.values, rows.weights):
            here = None if kept is None else kept[piece.start : piece.start + len(piece.values)]
            self._add_complete(piece, sums, here)
            for company in self._open_companies():
                own = [sums[i] for i in company.places]
                theirs = here if 0 in company.places else None
                many, few = piece.apart(company.rule)
                for pattern in many:
                    _add_pattern(company, piece, pattern, own, theirs)
                _add_few(company, piece, few, own, theirs)
        found = []
        for candidate, total in zip(self._candidates, sums, strict=True):
            total.array[1] = rows.total_weight
            form, reference = candidate.parameters.form, candidate.reference
            found.append(
                SufficientStatistics.around(form, reference, len(rows), total.array, total.entropy)
            )
        return tuple(found)

    def _add_complete(self, piece: _Piece, sums: list[Sums], kept: Array | None) -> None:
        for index in _parts(piece.complete, _COMPLETE_BYTES, piece.values.shape[1]):
            try:
                found = _asked(self._complete, piece.take(index), index, kept)
            except NonFiniteError as error:
                raise _placed(error, piece.start, index) from None
            for total, one in zip(sums, found, strict=True):
                total.add(one)


def _asked(
    e_step: EStep, rows: Rows, index: NDArray[np.intp], kept: Array | None
) -> tuple[SufficientStatistics, ...]:
    """Statistics of some rows; their log-densities go to their places where these are kept."""
    if kept is None:
        return e_step.statistics(rows)
    found, kept[index] = e_step.with_log_densities(rows)
    return found


def _add_pattern(
    company: _Company, piece: _Piece, pattern: Pattern, sums: list[Sums], kept: Array | None
) -> None:
    steps = company.prepared.get(pattern)
    seen = steps.conditionals[0].seen
    for index in _parts(pattern.rows, _PATTERN_BYTES, piece.values.shape[1]):
        try:
            found = _asked(steps.e_step, piece.take(index, seen), index, kept)
        except NonFiniteError as error:
            raise _placed(error, piece.start, index, seen) from None
        parts = zip(company.candidates, steps.conditionals, found, sums, strict=True)
        for candidate, conditional, one, total in parts:
            conditional.complete(one, candidate.reference, total)


def _add_few(
    company: _Company, piece: _Piece, few: list[Pattern], sums: list[Sums], kept: Array | None
) -> None:
    for candidate, mixture, total in zip(company.candidates, company.scattered, sums, strict=True):
        try:
            for index, tile in mixture.tiles(piece.values, few):
                weights = None if piece.weights is None else piece.weights[index]
                tile.add_to(total, weights, candidate.reference)
                if kept is not None:
                    kept[index] = tile.log_densities
        except NonFiniteError as error:
            raise _moved(error, piece.start) from None
        kept = None  # they are the first one's


class _MarginalPredictor(Predictor):
    """The other kernel's predictor, and those for patterns."""

    def __init__(self, inner: Kernel, parameters: MixtureParameters) -> None:
        self._inner, self._parameters = inner, parameters
        self._complete = inner.predictor(parameters)
        self._form = parameters.form
        self._scattered = ScatteredRows(parameters)
        self._prepared = _Recent(self._prepare)

    def _prepare(self, present: NDArray[np.bool_]) -> _MarginalPrediction:
        conditional = Conditional(self._parameters, present)
        k, d = self._parameters.n_components, conditional.seen.size
        most = self._inner.workspace_bytes(d, [k], [self._form])
        predictor = self._inner.predictor(conditional.marginal)
        return _MarginalPrediction(predictor, conditional.seen, most)

    def log_densities(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Log-densities of what is present; see `Predictor.log_densities`."""
        return self._predict("log_densities", values, np.float64)

    def posteriors(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Responsibilities by what is present; see `Predictor.posteriors`."""
        return self._predict("posteriors", values, np.float64, self._parameters.n_components)

    def labels(self, values: NDArray[Any]) -> NDArray[np.intp]:
        """Most probable components by what is present; see `Predictor.labels`."""
        return self._predict("labels", values, np.intp)

    def _predict(
        self, entry: str, values: NDArray[Any], dtype: type, *columns: int
    ) -> NDArray[Any]:
        values = checked_values(values, self._parameters.n_features)
        if not has_gaps(values):
            whole: NDArray[Any] = getattr(self._complete, entry)(values)
            return whole
        out: NDArray[Any] = np.empty((len(values), *columns), dtype=dtype)
        rule = Rule.of(self._inner, self._form, *self._parameters.means.shape)
        for piece in _pieces(values):
            here = out[piece.start : piece.start + len(piece.values)]
            for index in _parts(piece.complete, _COMPLETE_BYTES, values.shape[1]):
                rows = piece.take(index).values
                here[index] = self._ask(self._complete, entry, rows, piece, index)
            many, few = piece.apart(rule)
            for pattern in many:
                own = self._prepared.get(pattern)
                for index in _parts(pattern.rows, _PATTERN_BYTES, values.shape[1]):
                    rows = piece.take(index, own.seen).values
                    here[index] = self._ask(own.predictor, entry, rows, piece, index, own.seen)
            self._predict_few(entry, piece, few, here)
        return out

    @staticmethod
    def _ask(
        predictor: Predictor,
        entry: str,
        rows: NDArray[Any],
        piece: _Piece,
        index: NDArray[np.intp],
        features: NDArray[np.intp] | None = None,
    ) -> NDArray[Any]:
        try:
            found: NDArray[Any] = getattr(predictor, entry)(rows)
        except NonFiniteError as error:
            raise _placed(error, piece.start, index, features) from None
        return found

    def _predict_few(
        self, entry: str, piece: _Piece, few: list[Pattern], out: NDArray[Any]
    ) -> None:
        try:
            for index, tile in self._scattered.tiles(piece.values, few):
                if entry == "log_densities":
                    out[index] = tile.log_densities
                elif entry == "posteriors":
                    out[index] = tile.posteriors.T
                else:
                    out[index] = tile.posteriors.argmax(axis=0)
        except NonFiniteError as error:
            raise _moved(error, piece.start) from None
