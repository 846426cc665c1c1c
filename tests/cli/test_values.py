"""Sizes and counts as people type them."""

from __future__ import annotations

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_gmm.cli.values import (
    BYTES,
    CHUNK,
    COUNT,
    COUNTS,
    SEARCH,
    STORAGE_OPTION,
    parse_bytes,
    parse_count,
)
from dask_gmm.quantities import show_bytes, show_count, show_seconds


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("2:5", (2, 3, 4, 5)),
        ("4:16:4", (4, 8, 12, 16)),
        ("4:15:4", (4, 8, 12)),
        ("7", (7,)),
        ("5, 2,3", (2, 3, 5)),
        ("1:3,3:4,10", (1, 2, 3, 4, 10)),
    ],
)
def test_ranges(text: str, numbers: tuple[int, ...]) -> None:
    assert COUNTS.convert(text, None, None) == numbers


@pytest.mark.parametrize("text", ["", "0", "3:2", "1:4:0", "2:", "-1", "a:b", "1:9999999", "1.5"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="no range of numbers"):
        COUNTS.convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("500MB", 500_000_000),
        ("64 MiB", 64 * 2**20),
        ("2G", 2_000_000_000),
        ("1.5gib", 3 * 2**29),
        ("1_000", 1000),
        ("12,000 b", 12_000),
        ("1e6", 1_000_000),
        ("5 furlongs", None),
        ("MB", None),
        ("-3MB", None),
        ("3 ib", None),
        ("", None),
    ],
)
def test_sizes(text: str, size: int | None) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1e6", 10**6),
        ("10M", 10**7),
        ("250k", 250_000),
        ("2_000", 2000),
        ("0.5", None),
        ("x", None),
    ],
)
def test_counts(text: str, count: int | None) -> None:
    assert parse_count(text) == count


@given(st.integers(1, 10**15))
def test_a_plain_number_is_itself(number: int) -> None:
    assert parse_bytes(str(number)) == number
    assert parse_count(f"{number:,}") == number


@given(st.integers(1, 10**17))
def test_what_is_shown_is_right_to_three_digits(number: int) -> None:
    shown = parse_bytes(show_bytes(number))
    assert shown is not None
    assert abs(shown - number) <= 0.006 * number + 1


@pytest.mark.parametrize("kind", [BYTES, COUNT, CHUNK])
@pytest.mark.parametrize("text", ["", "zero", "0", "-1", "1 2"])
def test_nonsense_is_refused(kind: click.ParamType, text: str) -> None:
    with pytest.raises(click.BadParameter):
        kind.convert(text, None, None)


def test_chunks_are_bytes_or_rows() -> None:
    assert CHUNK.convert("16MB", None, None) == ("bytes", 16_000_000)
    assert CHUNK.convert("100k", None, None) == ("rows", 100_000)
    assert CHUNK.convert("500 rows", None, None) == ("rows", 500)


def test_storage_options() -> None:
    assert STORAGE_OPTION.convert("a=b=c", None, None) == ("a", "b=c")
    assert STORAGE_OPTION.convert("skip_signature=True", None, None) == ("skip_signature", True)
    with pytest.raises(click.BadParameter) as refusal:
        STORAGE_OPTION.convert("my-secret-key", None, None)
    assert "my-secret" not in refusal.value.format_message()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.123, "0.12 s"), (9.94, "9.9 s"), (42.4, "42 s"), (65, "1 min 5 s"), (7800, "2 h 10 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert show_seconds(seconds) == text


def test_rates() -> None:
    assert [show_count(n) for n in (12, 12_345, 9_999_999)] == ["12", "12.3 k", "10.0 M"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("auto", "auto"), ("off", "off"), ("thorough", "thorough"), ("100", 100), ("0", 0)],
)
def test_how_much_is_searched(text: str, expected: int | str) -> None:
    assert SEARCH.convert(text, None, None) == expected


@pytest.mark.parametrize("text", ["often", "-1", "1.5", ""])
def test_what_is_no_search(text: str) -> None:
    with pytest.raises(click.UsageError, match="is no search"):
        SEARCH.convert(text, None, None)
