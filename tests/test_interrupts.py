"""Signals that are held, and where they are taken."""

# ruff: noqa: PT012 - that more is to happen than the signal is the point

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import pytest

from dask_gmm.interrupts import DOUBLE_SECONDS, allowed, held, outcome, take_signals

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


class Terminated(KeyboardInterrupt):
    """What SIGTERM raises here."""


def terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


@pytest.fixture(autouse=True)
def handlers() -> Iterator[dict[int, Any]]:
    """Those of a program that stops at both; afterwards they are there as before."""
    mine: dict[int, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: terminate,
    }
    before = {number: signal.signal(number, handler) for number, handler in mine.items()}
    try:
        yield mine
        assert {number: signal.getsignal(number) for number in mine} == mine
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_a_signal_waits_for_the_end(number: signal.Signals, error: type[BaseException]) -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt) as raised:
        with held():
            signal.raise_signal(number)
            steps.append("inside")
        steps.append("behind")
    assert raised.type is error
    assert steps == ["inside"]


def test_a_signal_is_taken_where_somebody_asks() -> None:
    steps = []
    with held():
        take_signals()
        signal.raise_signal(signal.SIGINT)
        steps.append("pressed")
        with pytest.raises(KeyboardInterrupt):
            take_signals()
        take_signals()
    assert steps == ["pressed"]


def test_one_inside_another_waits_for_the_outer_end() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt):
        with held():
            with held():
                signal.raise_signal(signal.SIGINT)
            steps.append("between")
        steps.append("behind")
    assert steps == ["between"]


def test_what_is_allowed_is_interrupted_at_once_and_then_held_again() -> None:
    with held():
        with pytest.raises(KeyboardInterrupt), allowed():
            signal.raise_signal(signal.SIGINT)
            pytest.fail("it was not taken")
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), allowed():
            pytest.fail("the one that waited was not taken")
        with allowed():
            with pytest.raises(KeyboardInterrupt), held():
                signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)


def test_a_second_signal_is_taken_at_once() -> None:
    with held():
        signal.raise_signal(signal.SIGINT)
        time.sleep(1.1 * DOUBLE_SECONDS)
        with pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)
        take_signals()


def test_two_in_a_row_are_one() -> None:
    with pytest.raises(KeyboardInterrupt), held():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    take_signals()


def test_a_handler_that_does_not_raise_is_called_later() -> None:
    """asyncio has such ones: they cancel a task."""
    calls: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: calls.append(number))
    with held():
        signal.raise_signal(signal.SIGINT)
        assert calls == []
        take_signals()
        assert calls == [signal.SIGINT]
        signal.raise_signal(signal.SIGINT)
    assert calls == [signal.SIGINT] * 2
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_handler_that_is_set_inside_stays() -> None:
    calls: list[int] = []

    def mine(number: int, _: FrameType | None) -> None:
        calls.append(number)

    with held():
        signal.signal(signal.SIGINT, mine)
        with held():
            signal.raise_signal(signal.SIGINT)
    assert calls == [signal.SIGINT]
    assert signal.signal(signal.SIGINT, signal.default_int_handler) is mine


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with held():
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        signal.raise_signal(signal.SIGINT)
        take_signals()
    assert signal.signal(signal.SIGINT, signal.default_int_handler) == signal.SIG_IGN


def test_other_threads_hold_nothing_and_take_nothing() -> None:
    taken: list[BaseException] = []

    def other() -> None:
        try:
            with held(), allowed():
                take_signals()
                assert signal.getsignal(signal.SIGINT) != signal.default_int_handler
        except BaseException as error:
            taken.append(error)

    with pytest.raises(KeyboardInterrupt), held():
        signal.raise_signal(signal.SIGINT)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert taken == []


def test_a_wait_is_interrupted() -> None:
    never: Future[None] = Future()
    pressing = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    pressing.start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt), held():
        outcome(never)
    assert time.monotonic() - begun < 1.0
    pressing.join()


def test_outcomes() -> None:
    good, bad, never = Future[int](), Future[int](), Future[int]()
    threading.Timer(0.02, good.set_result, (3,)).start()
    bad.set_exception(ZeroDivisionError())
    assert outcome(good) == 3
    with pytest.raises(ZeroDivisionError):
        outcome(bad, 1.0)
    with pytest.raises(TimeoutError):
        outcome(never, 0.02)
    assert outcome(good, 0.0) == 3
