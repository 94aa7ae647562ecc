"""Sizes and ages: every written text can be read, and no size is ever shown larger than it is."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mshare._core.errors import InvalidArgumentError, MshareError
from mshare._core.units import format_age, format_apart, format_list, format_size, format_time, parse_age, parse_size

UNITS = {"B": 0, "KiB": 1, "MiB": 2, "GiB": 3, "TiB": 4, "PiB": 5}
sizes = st.integers(0, 1 << 50) | st.integers(0, 50).map(lambda bits: (1 << bits) - 1)


def value_of(text: str) -> Fraction:
    """The oracle: exact, and not the parser under test."""
    number, unit = text.split(" ")
    return Fraction(number) * Fraction(1024 ** UNITS[unit])


@given(sizes)
def test_a_size_is_shown_to_three_digits_and_never_too_large(size: int) -> None:
    text = format_size(size)
    shown = value_of(text)
    assert shown <= size
    assert size - shown <= Fraction(size, 100), text
    assert sum(char.isdigit() for char in text) <= 4


@given(sizes, sizes)
def test_what_is_shown_keeps_the_order(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert value_of(format_size(low)) <= value_of(format_size(high))


@given(st.integers(0, 1023), st.sampled_from(["B", "KiB", "MiB", "GiB", "TiB"]))
def test_whole_units_come_back_as_they_were(number: int, unit: str) -> None:
    size = number * 1024 ** UNITS[unit]
    assert parse_size(format_size(size)) == size


@given(st.integers(0, 10**12), st.sampled_from(["", "k", "m", "g", "t", "K", "M", "G", "T"]), st.booleans())
def test_prefixes_are_powers_of_1024_and_with_b_of_1000(number: int, prefix: str, blank: bool) -> None:
    power = " kmgt".index(prefix.lower() or " ")
    gap = " " if blank else ""
    assert parse_size(f"{number}{gap}{prefix}") == number * 1024**power
    assert parse_size(f"{number}{gap}{prefix}B") == number * 1000**power
    if prefix:
        assert parse_size(f"{number}{gap}{prefix}iB") == number * 1024**power


@given(st.decimals(0, 1000, places=3), st.sampled_from("kmgt"))
def test_a_fraction_is_exact_or_refused(number: object, prefix: str) -> None:
    exact = Fraction(str(number)) * 1024 ** " kmgt".index(prefix)
    if exact.denominator == 1:
        assert parse_size(f"{number}{prefix}") == exact
    else:
        with pytest.raises(MshareError):
            parse_size(f"{number}{prefix}")


@given(st.text(max_size=12) | st.text(alphabet="0123456789.kKmMgGtTiIbB +-_e", max_size=12))
def test_any_text_is_a_size_or_a_clear_error(text: str) -> None:
    for parse in (parse_size, parse_age):
        with suppress(MshareError):
            assert parse(text) >= 0


@pytest.mark.parametrize("text", ["", "-1", "1e3", "0x10", "1..2", "1KK", "1 0", "٣", "9" * 5000, "∞", "1_000", "+1"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(MshareError, match="invalid size"):
        parse_size(text)


@given(st.integers(0, 1 << 60), st.integers(0, 1 << 60) | st.integers(0, 9000))
def test_two_sizes_are_told_apart(size: int, more: int) -> None:
    texts = format_apart(size + more, size)
    assert (texts[0] == texts[1]) is (more == 0)
    assert texts == (format_size(size + more), format_size(size)) or texts == (f"{size + more} bytes", f"{size} bytes")


@given(st.floats(0, 1e10))
def test_an_age_is_shown_rounded_down_in_its_unit(seconds: float) -> None:
    shown = parse_age(format_age(seconds))
    unit = parse_age("1" + format_age(seconds)[-1])
    assert shown <= seconds < shown + unit
    assert shown > 0 or seconds < 1


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5 h", 5400), ("2d", 172_800), ("1w", 604_800), ("0s", 0)]
)
def test_ages(text: str, seconds: float) -> None:
    assert parse_age(text) == seconds


@given(st.decimals(0, 1000, places=2), st.sampled_from(["", "M", "S", "H", "D", "W", "mo", "min", "y", "ms", "Mi"]))
def test_an_age_that_can_be_misread_is_refused(number: object, unit: str) -> None:
    """Elsewhere `M` is a month (systemd), a bare number is days (`find -mtime`), and `ms` is a thousandth."""
    with pytest.raises(InvalidArgumentError, match=r"write an age like 90s, 30m \(minutes\)"):
        parse_age(f"{number}{unit}")


def test_a_clock_that_was_set_back_makes_no_negative_age() -> None:
    assert format_age(-5) == "0s"


@given(st.lists(st.integers(1, 1 << 22), max_size=40), st.integers(1, 12))
def test_a_list_names_all_or_says_how_many_more(pids: list[int], most: int) -> None:
    text = format_list(pids, most)
    shown, _, rest = text.partition(" and ")
    named = [int(word) for word in shown.split(", ") if word]
    assert named == pids[:most]
    assert len(named) + int(rest.removesuffix(" more") or 0) == len(pids)


@pytest.mark.parametrize(
    ("nanoseconds", "text"), [(0, "0.0 µs"), (1_500, "1.5 µs"), (999_000, "999.0 µs"), (1_234_567_890, "1,234.6 ms")]
)
def test_durations(nanoseconds: int, text: str) -> None:
    assert format_time(nanoseconds) == text
