"""What the doctor says of clocks."""

from __future__ import annotations

import pytest

from mdx.doctor.clocks import WRITTEN_AT, check_clock, check_highest_time, is_synchronised
from vault import Instant


def at(wall: float, boot: float = 100.0) -> Instant:
    return Instant(wall=wall, boot=boot, boot_id="one")


@pytest.mark.parametrize(
    ("instant", "synchronised", "standing"),
    [
        (at(WRITTEN_AT + 1), True, "ok"),
        (at(WRITTEN_AT + 1), None, "ok"),
        (at(WRITTEN_AT + 1), False, "warn"),
        (at(WRITTEN_AT - 1), True, "bad"),
        (at(0), True, "bad"),
        (at(WRITTEN_AT + 1, boot=WRITTEN_AT + 2), True, "bad"),
    ],
)
def test_a_clock_that_cannot_be_right_is_bad(
    instant: Instant, synchronised: bool | None, standing: str
) -> None:
    found = check_clock(instant, synchronised=synchronised)
    assert found.standing == standing
    assert bool(found.do) is (standing != "ok")


@pytest.mark.parametrize(
    ("facts", "standing", "says"),
    [
        ({"seen_ahead_seconds": 0.0}, "ok", "never set back"),
        ({"seen_ahead_seconds": 7200.0}, "warn", "7200 s behind"),
        ({}, "ok", "closed"),
    ],
)
def test_a_clock_that_was_set_back_is_told(
    facts: dict[str, float], standing: str, says: str
) -> None:
    found = check_highest_time(facts)
    assert (found.standing, says in found.what) == (standing, True)


def test_the_kernel_says_something() -> None:
    assert is_synchronised() in (True, False, None)
