"""Laws of what is made of a link's answers: pure functions, for all links there may be."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_gmm.data.direct.link import (
    BODY_SECONDS,
    FIRST_REQUESTS,
    GAIN,
    GROWTH,
    HEDGED_SHARE,
    KNOWN,
    LEAST_PATIENCE,
    LEAST_REQUESTS,
    MAX_REQUESTS,
    MOST_SPARE,
    SMALLEST_PART,
    UNKNOWN_PATIENCE,
    Allowance,
    Answer,
    Estimate,
    Window,
    allowed_seconds,
    divided,
    estimate,
    joined,
    needed,
    next_spare,
    next_window,
    parts,
    patience,
)

latencies = st.floats(1e-4, 1.0)
rates = st.floats(1e5, 1e10)
sizes = st.integers(1, 2**31)
answers = st.lists(
    st.builds(Answer, latencies, st.floats(1e-5, 100.0), st.integers(0, 2**30)), max_size=300
)


@st.composite
def links(draw: st.DrawFn) -> Estimate:
    latency, rate = draw(latencies), draw(rates)
    size = draw(st.floats(1, 2**30))
    return Estimate(latency, rate, 1.5 * latency, 1.5 / rate, size, 100)


@given(answers)
def test_an_estimate_lies_among_its_answers(found: list[Answer]) -> None:
    link = estimate(found)
    assert link.answers == len(found)
    assert link == estimate(found[::-1])
    if found:
        assert min(a.latency for a in found) <= link.latency <= link.late
        assert link.late <= max(a.latency for a in found)
        assert min(a.size for a in found) <= link.size <= max(a.size for a in found)
    large = [a for a in found if a.size >= max(2**16, link.size / 2)]
    if large:
        times = [link.rate * a.body / a.size for a in large]
        assert max(times) >= 1 - 1e-9
        assert sum(time < 1 - 1e-9 for time in times) <= 0.1 * len(large)
    else:
        assert math.isinf(link.rate)


@given(latencies, rates, sizes)
def test_of_answers_that_are_alike_all_is_known(latency: float, rate: float, size: int) -> None:
    size = max(size, 2**16)
    link = estimate([Answer(latency, size / rate, size)] * 20)
    assert link.latency == link.late == latency
    assert link.rate == pytest.approx(rate)
    assert link.late_body == pytest.approx(1 / rate)


@given(st.floats(1, 1e12), st.floats(1, 10), links())
def test_what_is_needed_grows_with_the_throughput_and_is_bounded(
    throughput: float, factor: float, link: Estimate
) -> None:
    n = needed(throughput, link)
    assert LEAST_REQUESTS <= n <= MAX_REQUESTS
    assert n <= needed(factor * throughput, link)
    assert n <= needed(throughput, link._replace(latency=factor * link.latency))
    if n < MAX_REQUESTS:  # Little: so many in flight bring as much, and more
        seconds = link.latency + link.size / link.rate
        assert n * link.size / seconds >= throughput * (1 - 1e-9)
    assert needed(0.0, link) == needed(throughput, Estimate()) == MAX_REQUESTS


@given(st.floats(1, 100), rates, rates)
def test_where_few_do_not_fill_the_link_there_are_more(
    spare: float, throughput: float, best: float
) -> None:
    spare = min(spare, MOST_SPARE)
    more = next_spare(spare, throughput, best)
    assert spare <= more <= MOST_SPARE
    if throughput >= best:
        assert more == spare
    elif GAIN * throughput < best and spare < MOST_SPARE:
        assert more > spare


@given(latencies, rates, rates, st.integers(2**10, 2**27))
def test_the_window_grows_until_the_link_is_full_and_not_much_further(
    latency: float, rate: float, bandwidth: float, size: int
) -> None:
    def throughput(n: int) -> float:
        return min(bandwidth, n * size / (latency + size / min(rate, bandwidth)))

    window, seen = Window(), []
    for _ in range(100):
        window = next_window(window, throughput(window.size))
        assert 1 <= window.size <= MAX_REQUESTS
        seen.append(window)
    settled = [w.before or w.size for w in seen[20:]]
    assert len(set(settled)) == 1  # it has settled, and only ever tries a larger one
    n = settled[0]
    larger = min(MAX_REQUESTS, math.ceil(GROWTH * n))
    assert n == MAX_REQUESTS or throughput(larger) < GAIN * throughput(n)
    smaller = math.floor(n / GROWTH)
    assert n == FIRST_REQUESTS or throughput(n) >= GAIN * throughput(smaller) * (1 - 1e-9)


@given(st.integers(0, 2**33), st.integers(1, MAX_REQUESTS), st.integers(0, 100), links())
def test_objects_are_divided_only_where_there_are_too_few(
    size: int, window: int, wanted: int, link: Estimate
) -> None:
    n = parts(size, window, wanted, link)
    assert n >= 1
    assert n == 1 or size / n >= max(SMALLEST_PART, int(link.rate * link.latency))
    assert n == 1 or (n - 1) * max(1, wanted) < window
    if wanted >= window:
        assert n == 1
    assert parts(size, window, wanted + 1, link) <= n


ranges = st.lists(
    st.tuples(st.integers(0, 2**30), st.integers(1, 2**27)).map(lambda r: (r[0], r[0] + r[1])),
    max_size=20,
)


@given(ranges, links(), st.integers(1, MAX_REQUESTS))
def test_joined_and_divided_ranges_cover_what_is_wanted(
    wanted: list[tuple[int, int]], link: Estimate, window: int
) -> None:
    found = joined(wanted, link)
    assert all(any(a <= start and stop <= b for a, b in found) for start, stop in wanted)
    gap = min(2**20, link.rate * link.latency)
    assert all(b + gap < c for (_, b), (c, _) in itertools.pairwise(found))
    # Nothing is fetched beyond gaps that are shorter than a request takes.
    assert joined(found, link) == found
    pieces = divided(found, window, link)
    assert len(pieces) <= len(found) + window
    assert sum(b - a for a, b in pieces) == sum(b - a for a, b in found)
    at_once = link._replace(latency=0.0)
    assert joined(pieces, at_once) == joined(found, at_once)


@given(links(), sizes, sizes)
def test_patience_fits_the_size(link: Estimate, one: int, other: int) -> None:
    small, large = sorted((one, other))
    assert LEAST_PATIENCE <= patience(link, small) <= patience(link, large)
    assert patience(link, large) >= link.latency + large / link.rate  # an answer as any other
    assert patience(link._replace(answers=KNOWN - 1), large) == UNKNOWN_PATIENCE
    assert BODY_SECONDS < allowed_seconds(small) <= allowed_seconds(large)


@given(st.lists(st.booleans(), max_size=2000))
def test_second_requests_are_a_bounded_share(late: list[bool]) -> None:
    allowance, hedges = Allowance(), 0
    for is_late in late:
        allowance = allowance.after_request()
        left = allowance.after_hedge() if is_late else None
        if left is not None:
            allowance, hedges = left, hedges + 1
    assert hedges <= 4 + HEDGED_SHARE * len(late) + 1e-6
    if len(late) >= 200 and all(late):
        assert hedges >= HEDGED_SHARE * len(late)
