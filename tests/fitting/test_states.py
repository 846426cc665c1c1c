"""States travel: through bytes, to another process and back, and every fit ends with its bits."""

from __future__ import annotations

import json
import pickle
import struct
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dask_gmm import GaussianMixture, select_gaussian_mixture
from dask_gmm.errors import StateError
from dask_gmm.fitting import fit as fit_module
from dask_gmm.fitting import loop, selection
from dask_gmm.fitting.events import Outcome, StepKind
from dask_gmm.fitting.state import VERSION, from_arrays, from_bytes, saved, to_arrays, to_bytes
from dask_gmm.mixture.family import COVARIANCE_TYPES, covariance_family
from dask_gmm.mixture.form import FORMS
from tests.fitting.travelling import FITS, Elsewhere, Fit, rows_of
from tests.marks import quick_ones

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dask_gmm.fitting.loop import State
    from dask_gmm.mixture.kernels import Candidate
    from dask_gmm.mixture.statistics import SufficientStatistics

RESUMED = (
    "plain merge",
    "variance-reduced",
    "variance-reduced plateau",
    "by objective reseed",
    "accelerated selection",
)
fits = pytest.mark.parametrize("name", FITS)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Elsewhere]:
    process = Elsewhere()
    yield process
    process.close()


@dataclass(frozen=True)
class Travelling:
    """A strategy whose states have been elsewhere when the next turn begins."""

    strategy: Any
    elsewhere: Elsewhere

    def propose(self, state: Any) -> tuple[Candidate, ...]:
        proposed: tuple[Candidate, ...] = self.strategy.propose(state)
        return proposed

    def judge(self, state: Any, statistics: Sequence[SufficientStatistics]) -> Any:
        return self.elsewhere.echo(self.strategy.judge(state, statistics))

    def stop(self, state: Any, outcome: Outcome) -> Any:
        return self.elsewhere.echo(self.strategy.stop(state, outcome))


# -- fits ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Whole:
    """A fit that nothing has interrupted, with the states after each turn as bytes."""

    fit: Fit
    turns: list[bytes]
    ends: tuple[Any, ...]
    digest: bytes

    @staticmethod
    @cache
    def of(name: str) -> Whole:
        fit = FITS[name]()
        turns: list[bytes] = []
        ends = fit.go_on(fit.states, lambda states: turns.append(to_bytes(states)))
        return Whole(fit, turns, ends, fit.digest(ends))


@pytest.mark.parametrize(
    "name", quick_ones(FITS, ("variance-reduced reseed", "by objective merge"))
)
def test_states_that_travel_at_every_turn_end_with_the_same_bits(
    name: str, elsewhere: Elsewhere
) -> None:
    whole, fit = Whole.of(name), FITS[name]()
    assert len(whole.turns) >= 2
    travelling = replace(fit, strategies=tuple(Travelling(s, elsewhere) for s in fit.strategies))
    travelled = travelling.go_on([elsewhere.echo(state) for state in fit.states])
    assert fit.digest(travelled) == whole.digest


def _resumed_everywhere(name: str, elsewhere: Elsewhere, some: slice) -> None:
    whole = Whole.of(name)
    for turn in whole.turns[some]:
        assert elsewhere.end_of(name, turn) == whole.digest


@pytest.mark.parametrize("name", quick_ones(RESUMED, ("variance-reduced",)))
def test_another_process_goes_on_to_the_same_end(name: str, elsewhere: Elsewhere) -> None:
    _resumed_everywhere(name, elsewhere, slice(2, 3))


@pytest.mark.slow
@fits
def test_another_process_goes_on_from_every_turn(name: str, elsewhere: Elsewhere) -> None:
    _resumed_everywhere(name, elsewhere, slice(None))


@pytest.mark.slow
def test_the_fits_are_what_they_are_to_be() -> None:
    """Restarts recentre and end apart, rules mend, contestants drop out and win."""
    ends = {name: Whole.of(name).ends for name in FITS}
    lengths = {len(state.bounds) for state in ends["plain restarts"]}
    assert len(lengths) == 3
    for kind in ("plain", "squarem", "by objective"):
        kinds = {j.kind for state in ends[f"{kind} restarts"] for j in state.judgements}
        assert StepKind.REPEATED in kinds
        assert ends[f"{kind} stop"][0].outcome is Outcome.COLLAPSED
    for name in FITS:
        if name.endswith(("merge", "reseed")):
            assert ends[name][0].mended
    assert len(ends["variance-reduced plateau"][0].memory.anchors) == 12
    for name in ("plain selection", "accelerated selection"):
        outcomes = {s.outcome for s in ends[name][0].standings}
        assert {Outcome.DROPPED, Outcome.CONVERGED} <= outcomes


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "acceleration", ["squarem", pytest.param("variance-reduced", marks=pytest.mark.slow)]
)
def test_public_fits_and_selections_may_travel_too(
    acceleration: str, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With passes, budgets and held-out rows around them."""
    rows = rows_of(600)

    def fitted(**options: Any) -> tuple[object, ...]:
        gm = GaussianMixture(3, tol=1e-4, random_state=0, init_size=150, **options).fit(rows)
        judged = [record.judgement for record in gm.history_]
        return gm.weights_.tobytes(), gm.means_.tobytes(), gm.remaining_gain_, judged

    def selected(**options: Any) -> tuple[object, ...]:
        found = select_gaussian_mixture(rows, range(1, 4), random_state=0, init_size=150, **options)
        outcomes = [(r.outcome, r.passes, r.start, r.log_likelihood) for r in found.table]
        return found.best_model.means_.tobytes(), outcomes, found.best_model.remaining_gain_

    def all_of_them() -> list[tuple[object, ...]]:
        return [
            fitted(n_init=3, acceleration=None),
            fitted(max_passes=3, acceleration=acceleration),
            selected(criterion="heldout", acceleration=acceleration),
            selected(max_passes=3, acceleration=acceleration, criterion="icl"),
        ]

    expected = all_of_them()
    turns: list[tuple[State, ...]] = []

    def run(
        strategies: Any,
        states: Any,
        evaluate: Any,
        spent: Any,
        after_turn: Any = lambda _: None,
        *,
        at_rest: Any,
    ) -> Any:
        def resting(now: Any) -> None:
            turns.append(now)
            at_rest(now)

        travelling = [Travelling(s, elsewhere) for s in strategies]
        begun = [elsewhere.echo(state) for state in states]
        return loop.run(travelling, begun, evaluate, spent, after_turn, resting)

    monkeypatch.setattr(fit_module, "run", run)
    monkeypatch.setattr(selection, "run", run)
    assert all_of_them() == expected
    assert len(turns) > 10


# -- the codec -----------------------------------------------------------------------------------


@saved
@dataclass(frozen=True, eq=False)
class Box:
    """What a state may hold."""

    content: Any
    beside: Any = None


@saved
@dataclass(frozen=True)
class Later:
    """What an older version had without the last field."""

    first: int
    added: float = 0.5


@saved
class Colour(Enum):
    """An enum that states may hold."""

    RED = "red"
    BLUE = 2


@dataclass(frozen=True)
class Unknown:
    """No part of any state."""

    value: int = 0


def same(a: Any, b: Any) -> bool:
    """Whether two values agree to the last bit, in type, layout and what may be written to."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        flags = ("c_contiguous", "f_contiguous", "writeable")
        return (
            (a.dtype, a.shape) == (b.dtype, b.shape)
            and a.tobytes() == b.tobytes()
            and all(getattr(a.flags, flag) == getattr(b.flags, flag) for flag in flags)
        )
    if isinstance(a, np.generic):
        return bool(a.tobytes() == b.tobytes())
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return bool(a == b)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Any numbers, in any order of axes, writeable or not."""
    dtype = draw(st.sampled_from(["f8", "f4", ">f8", "i8", "u1", "?", "c16"]))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    data = draw(st.binary(min_size=size, max_size=size))
    if dtype == "?":
        data = bytes(byte & 1 for byte in data)
    array = np.frombuffer(data, dtype).reshape(shape)  # any bits, payloads of NaN among them
    axes = draw(st.permutations(range(len(shape))))
    array = np.array(array.transpose(axes), order=draw(st.sampled_from("CF")))
    array = array.transpose(axes)
    array.setflags(write=draw(st.booleans()))
    return array


def float_of(bits: int) -> float:
    (value,) = struct.unpack("d", struct.pack("Q", bits))
    return float(value)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(0, 2**64 - 1).map(float_of),
    st.sampled_from([-0.0, float("inf"), float("-inf"), 5e-324, float_of(0x7FF8000000000DAD)]),
    st.text(st.characters(codec=None)),
    st.sampled_from([*Colour, *Outcome, *StepKind, *FORMS, np.float64(-0.0), np.int64(3)]),
    st.sampled_from([covariance_family(name) for name in COVARIANCE_TYPES]),
    arrays(),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=5), inner, max_size=3),
        st.builds(Box, inner, inner),
    ),
    max_leaves=8,
)


@given(value=values)
@settings(max_examples=80, deadline=None)
def test_every_value_comes_back_to_the_last_bit(value: Any) -> None:
    assert same(from_bytes(to_bytes(value)), value)
    assert to_bytes(from_bytes(to_bytes(value))) == to_bytes(value)
    kept = to_arrays(value)
    assert all(array.flags.c_contiguous for array in kept.values())
    assert same(from_arrays(kept), value)


def test_what_was_one_object_is_one_again() -> None:
    shared, box = np.arange(3.0), Box(1.0)
    found = from_bytes(to_bytes((Box(shared, box), shared, box, shared.copy())))
    assert found[0].content is found[1]
    assert found[0].beside is found[2]
    assert found[1] is not found[3]


def test_what_is_read_has_its_own_memory() -> None:
    kept = to_arrays(Box(np.arange(3.0)))
    found = from_arrays(kept)
    found.content[0] = 7.0
    assert from_arrays(kept).content[0] == 0.0


@pytest.mark.parametrize(
    "value", [Unknown(), [1.0], {1: 2}, np.array(["a"]), np.array([None]), object(), {1.0}, b"a"]
)
def test_what_no_state_may_hold_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="a state"):
        to_bytes(Box(value))


def test_only_frozen_classes_of_one_name_are_registered() -> None:
    @dataclass
    class Loose:
        value: int = 0

    with pytest.raises(TypeError, match="no frozen dataclass"):
        saved(Loose)
    another: type = dataclass(frozen=True)(type("Box", (), {"__annotations__": {}}))
    with pytest.raises(TypeError, match="another class Box"):
        saved(another)


def _with_structure(value: Any, old: str, new: str) -> dict[str, np.ndarray]:
    kept = to_arrays(value)
    text = kept["structure"].tobytes().decode()
    assert old in text
    return {**kept, "structure": np.frombuffer(text.replace(old, new).encode(), np.uint8)}


def test_a_class_that_is_not_known_is_named() -> None:
    for name in ("Crate", "SystemExit", "os.system"):
        with pytest.raises(StateError, match=f"holds a {name}, which is not known here"):
            from_arrays(_with_structure(Box(1.0), '"Box"', f'"{name}"'))
    with pytest.raises(StateError, match="fields"):
        from_arrays(_with_structure(Box(1.0), '"beside"', '"above"'))
    with pytest.raises(StateError, match="family"):
        from_arrays(_with_structure(covariance_family("full"), '"full"', '"fuller"'))
    with pytest.raises(StateError, match="'float16'"):
        from_arrays(_with_structure(Box(1.0), '"float"', '"float16"'))


def test_what_an_older_version_did_not_write_has_its_default() -> None:
    arrays = to_arrays(Later(1, 2.0))
    structure = json.loads(arrays["structure"].tobytes())
    (node,) = structure["nodes"]
    del node["fields"]["added"]
    arrays["structure"] = np.frombuffer(json.dumps(structure).encode(), np.uint8)
    assert from_arrays(arrays) == Later(1, 0.5)
    del node["fields"]["first"]
    arrays["structure"] = np.frombuffer(json.dumps(structure).encode(), np.uint8)
    with pytest.raises(StateError, match="another version"):
        from_arrays(arrays)


def test_a_newer_form_is_refused() -> None:
    kept = {**to_arrays(Box(1.0)), "version": np.array(VERSION + 1)}
    with pytest.raises(StateError, match=f"form {VERSION + 1}.*newer"):
        from_arrays(kept)


def test_what_is_no_state_is_refused() -> None:
    for wrong in ({}, {"version": np.array(1)}, {"version": np.zeros(2), "structure": np.zeros(2)}):
        with pytest.raises(StateError, match="no state"):
            from_arrays(wrong)
    kept = to_arrays(Box(np.zeros(3)))
    del kept["0"]
    with pytest.raises(StateError, match="no state"):
        from_arrays(kept)
    for data in (b"", b"dask_gmm state\n", pickle.dumps(Box(1.0)), b"PK"):
        with pytest.raises(StateError, match=r"no (whole )?state"):
            from_bytes(data)


@given(cut=st.integers(0, 10_000), flip=st.booleans())
@settings(max_examples=100, deadline=None)
def test_bytes_that_are_missing_or_changed_are_found(cut: int, flip: bool) -> None:
    data = to_bytes(Box(np.arange(40.0), (1.5, "two", Colour.RED)))
    place = cut % len(data)
    broken = data[:place] + (bytes([data[place] ^ 1]) + data[place + 1 :] if flip else b"")
    with pytest.raises(StateError, match=r"cut short|no state"):
        from_bytes(broken)
