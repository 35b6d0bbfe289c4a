"""Time as a thief may turn it: back, forward, through reboots. No turn gives a lease more life."""

from __future__ import annotations

import math
import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vault.clock import Instant
from vault.leases import Ended, Lease, advance, expire, grant, later, lock, reckon, soonest_end

EXAMPLES = 20_000 if os.environ.get("MDX_SOAK") else 300
SEEN = Instant(wall=1000.0, boot=50.0, boot_id="a")
LEASE = grant(None, "app:a", SEEN, 100.0)

# What happens between two looks: seconds that really pass, whether the machine reboots meanwhile
# (then the boot clock has counted only part of them), and where the wall clock is put.
steps = st.lists(
    st.tuples(
        st.floats(0, 200, allow_nan=False),
        st.booleans(),
        st.floats(-1e6, 1e6, allow_nan=False),
    ),
    max_size=12,
)


def looks(turns: list[tuple[float, bool, float]]) -> list[tuple[float, Instant]]:
    """(seconds that passed where the boot clock could count them, what the clocks say)"""
    counted, wall, boot, boots, found = 0.0, SEEN.wall, SEEN.boot, 0, []
    for passed, reboots, put in turns:
        wall += passed + put
        if reboots:
            boot, boots = passed, boots + 1
        else:
            boot += passed
        counted += passed
        found.append(
            (counted, Instant(wall=wall, boot=boot, boot_id=f"a{boots}" if boots else "a"))
        )
    return found


@settings(max_examples=EXAMPLES)
@given(steps)
def test_reckoned_time_never_goes_back_and_never_lags_what_the_boot_clock_counted(
    turns: list[tuple[float, bool, float]],
) -> None:
    seen = SEEN
    for counted, instant in looks(turns):
        before, seen = seen, advance(seen, instant)
        assert seen.wall >= before.wall
        assert seen.wall >= SEEN.wall + counted - 1e-6
        assert seen.wall >= instant.wall
        assert seen.boot_id == instant.boot_id


@settings(max_examples=EXAMPLES)
@given(steps)
def test_a_lease_ends_in_time_whatever_the_clock_says_and_stays_ended(
    turns: list[tuple[float, bool, float]],
) -> None:
    seen, leases, ended = SEEN, {"app:a": LEASE}, False
    for counted, instant in looks(turns):
        seen = advance(seen, instant)
        leases = expire(leases, seen)
        if counted >= 100.0 + 1e-6 or ended:
            assert leases["app:a"].ended is Ended.EXPIRED
        ended = leases["app:a"].ended is not None


def test_reckoned_time_is_the_later_of_the_wall_clock_and_what_the_boot_clock_counted() -> None:
    assert reckon(SEEN, Instant(wall=1010.0, boot=60.0, boot_id="a")) == 1010.0
    assert reckon(SEEN, Instant(wall=10.0, boot=60.0, boot_id="a")) == 1010.0
    assert reckon(SEEN, Instant(wall=5000.0, boot=60.0, boot_id="a")) == 5000.0
    assert reckon(SEEN, Instant(wall=10.0, boot=7.0, boot_id="b")) == 1007.0
    assert reckon(SEEN, Instant(wall=10.0, boot=40.0, boot_id="a")) == 1000.0


def test_a_smaller_boot_clock_does_not_make_seconds_count_twice() -> None:
    seen = SEEN
    for boot in (60.0, 50.0, 60.0, 50.0, 60.0):
        seen = advance(seen, Instant(wall=0.0, boot=boot, boot_id="a"))
    assert seen.wall == 1010.0


def test_of_two_highest_times_the_later_counts() -> None:
    instant = Instant(wall=0.0, boot=60.0, boot_id="a")
    ahead = replace(SEEN, wall=2000.0)
    assert later(SEEN, ahead, instant).wall == later(ahead, SEEN, instant).wall == 2010.0


def test_a_lease_ends_at_its_end_and_not_before() -> None:
    leases = {"app:a": LEASE}
    assert expire(leases, replace(SEEN, wall=1099.9))["app:a"].ended is None
    assert expire(leases, replace(SEEN, wall=1100.0))["app:a"].ended is Ended.EXPIRED


def test_a_lease_without_an_end_does_not_end() -> None:
    endless = grant(None, "none:hub", SEEN, None)
    assert expire({"none:hub": endless}, replace(SEEN, wall=1e12))["none:hub"].ended is None


def test_only_a_grant_starts_again_in_a_new_epoch() -> None:
    assert LEASE.epoch == 1
    again = grant(lock(LEASE), "app:a", SEEN, 5.0)
    assert (again.epoch, again.ended, again.not_after) == (2, None, 1005.0)


def test_a_lock_wins_over_an_expiry_before_and_after() -> None:
    over = replace(SEEN, wall=2000.0)
    expired = expire({"app:a": LEASE}, over)["app:a"]
    assert lock(expired).ended is Ended.LOCKED
    assert expire({"app:a": lock(LEASE)}, over)["app:a"].ended is Ended.LOCKED


@pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan])
def test_an_impossible_lifetime_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="lifetime"):
        grant(None, "app:a", SEEN, seconds)


def test_the_soonest_end_is_that_of_a_living_lease() -> None:
    endless = Lease(scope="none:hub", epoch=1, granted_at=SEEN, not_after=None)
    assert soonest_end({}) == soonest_end({"none:hub": endless}) == math.inf
    sooner = replace(LEASE, not_after=1050.0)
    assert soonest_end({"a": LEASE, "b": sooner, "c": endless}) == 1050.0
    assert soonest_end({"a": LEASE, "b": lock(sooner)}) == 1100.0
