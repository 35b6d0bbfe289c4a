"""Leases as values: what time it is at least, and what that means for each scope.

No clock is read here; an `Instant` comes in. The rules:

1. Time never goes back. The *reckoned* time is the wall clock, or the highest time ever seen plus
   what the boot clock says has passed since, whichever is later. After a reboot at least the whole
   time since boot has passed. So setting the clock back, with or without a reboot, gains nothing.
2. A lease ends when reckoned time reaches `not_after`, and stays ended: only `grant` starts one.
3. A locked scope is locked until `grant`, also where its lease had expired: who renews expired
   leases by themselves must be able to see that somebody said no.

What follows from rule 1 and is accepted: a clock that was once far ahead keeps reckoned time ahead.
Lifetimes stay right, since they are counted from reckoned time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from vault.clock import Instant
from vault.errors import KeyExpired, Locked

__all__ = [
    "Ended",
    "Lease",
    "advance",
    "expire",
    "grant",
    "later",
    "living",
    "lock",
    "reckon",
    "soonest_end",
    "told",
]


class Ended(StrEnum):
    """Why a scope's key may not be used."""

    EXPIRED = "expired"
    LOCKED = "locked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to use a scope's key, from `granted_at` until `not_after`. Holds no key.

    `not_after` is in reckoned Unix seconds, None for a lease without an end. `seconds_left` is as
    of the moment when the lease was asked for: use it for timers, it does not depend on the clock
    being right.
    """

    scope: str
    epoch: int
    granted_at: Instant
    not_after: float | None
    ended: Ended | None = None
    seconds_left: float | None = None


def reckon(seen: Instant, now: Instant) -> float:
    """The earliest Unix time that `now` can be, given that `seen` came before."""
    passed = now.boot - seen.boot if seen.boot_id == now.boot_id else now.boot
    return max(now.wall, seen.wall + max(0.0, passed))


def advance(seen: Instant, now: Instant) -> Instant:
    """`seen` brought up to `now`: reckoned time as wall time, and never a smaller boot clock."""
    boot = now.boot
    if seen.boot_id == now.boot_id:
        # Two processes in different time namespaces must not count the same seconds twice.
        boot = max(seen.boot, now.boot)
    return Instant(wall=reckon(seen, now), boot=boot, boot_id=now.boot_id)


def later(one: Instant, other: Instant, now: Instant) -> Instant:
    """Whichever of two highest-seen times, brought up to `now`, says that it is later."""
    return max(advance(one, now), advance(other, now), key=lambda seen: seen.wall)


def grant(lease: Lease | None, scope: str, seen: Instant, lifetime_seconds: float | None) -> Lease:
    """A new lease, one epoch after `lease`, that starts at `seen`.

    Raises: ValueError for a lifetime that is not a positive finite number.
    """
    if lifetime_seconds is not None and not 0 < lifetime_seconds < math.inf:
        raise ValueError("a lifetime is a positive number of seconds, or None for no end")
    return Lease(
        scope=scope,
        epoch=lease.epoch + 1 if lease else 1,
        granted_at=seen,
        not_after=None if lifetime_seconds is None else seen.wall + lifetime_seconds,
    )


def lock(lease: Lease) -> Lease:
    """The lease, ended by somebody's will: that holds also where time had ended it before."""
    return replace(lease, ended=Ended.LOCKED)


def expire(leases: Mapping[str, Lease], seen: Instant) -> dict[str, Lease]:
    """All leases, those whose time has come marked as expired."""
    return {
        scope: replace(lease, ended=Ended.EXPIRED) if _is_over(lease, seen) else lease
        for scope, lease in leases.items()
    }


def soonest_end(leases: Mapping[str, Lease]) -> float:
    """When the next living lease ends, in reckoned Unix seconds; `inf` when none will."""
    ends = (lease.not_after for lease in leases.values() if not lease.ended)
    return min((end for end in ends if end is not None), default=math.inf)


def living(leases: Mapping[str, Lease], scope: str) -> Lease:
    """The scope's lease, which has not ended.

    Raises: Locked, KeyExpired.
    """
    lease = leases.get(scope)
    if lease is None or lease.ended is Ended.LOCKED:
        raise Locked(scope, by_user=lease is not None)
    if lease.ended is Ended.EXPIRED:
        raise KeyExpired(scope, lease.not_after or 0.0)
    return lease


def told(lease: Lease, seen: Instant) -> Lease:
    """The lease as it is told at `seen`: a living one with the seconds left."""
    if lease.not_after is None or lease.ended:
        return lease
    return replace(lease, seconds_left=lease.not_after - seen.wall)


def _is_over(lease: Lease, seen: Instant) -> bool:
    return not lease.ended and lease.not_after is not None and seen.wall >= lease.not_after
