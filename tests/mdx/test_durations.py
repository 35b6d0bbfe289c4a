"""Durations: every one has one spelling, and nothing without a unit is taken for one."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdx.durations import DURATION_PATTERN, MAX_DURATION_SECONDS, parse_duration

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1), ("90s", 90), ("15m", 900), ("8h", 28800), ("7d", 604800), ("366d", 31622400)],
)
def test_a_number_with_its_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@given(st.integers(1, 400), st.sampled_from(sorted(UNITS)))
def test_the_unit_multiplies(number: int, unit: str) -> None:
    seconds = number * UNITS[unit]
    if seconds <= MAX_DURATION_SECONDS:
        assert parse_duration(f"{number}{unit}") == seconds
    else:
        with pytest.raises(ValueError, match="at most 366 days"):
            parse_duration(f"{number}{unit}")


WRONG = """0 0s 00s 8 h -8h +8h 8H 1.5h 1e3s 1h30m 08h 8hours 1_0s ٨h ８h off now OFF inf nan s8"""


@pytest.mark.parametrize("text", [*WRONG.split(), "", "8 h", " 8h", "8h ", "8h\n", "9" * 5000])
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match='such as "8h"'):
        parse_duration(text)


@given(st.text())
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert 0 < seconds <= MAX_DURATION_SECONDS
    assert re.search(DURATION_PATTERN, text)


def test_a_word_counts_only_where_it_is_allowed() -> None:
    assert parse_duration("off", words={"off"}) == math.inf
    assert parse_duration("now", words={"now", "off"}) == 0
    with pytest.raises(ValueError, match='or "off"'):
        parse_duration("now", words={"off"})
    with pytest.raises(ValueError, match='or "now", or "off"'):
        parse_duration("0", words={"now", "off"})
    with pytest.raises(ValueError, match="such as"):
        parse_duration("soon", words={"soon"})  # a setting cannot make up a word
