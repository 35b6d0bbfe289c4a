"""When a lease ends, by both clocks of this boot, so that hub and agent can each watch it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from vault import Lease, now

__all__ = ["LeaseTimes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimes:
    """The end by the wall clock (Unix seconds) and by the boot clock; `inf` where there is none.

    The boot clock counts through sleep and cannot be set: whichever comes first is the end.
    """

    wall_ends: float
    boot_ends: float

    @classmethod
    def of(cls, lease: Lease) -> LeaseTimes:
        """The times of a lease that was just asked for."""
        left = math.inf if lease.seconds_left is None else lease.seconds_left
        instant = now()
        return cls(wall_ends=instant.wall + left, boot_ends=instant.boot + left)

    def left(self) -> float:
        """Seconds until the end; not above zero when the lease is over."""
        instant = now()
        return min(self.wall_ends - instant.wall, self.boot_ends - instant.boot)

    def facts(self) -> dict[str, float]:
        """Plain data, from which `LeaseTimes(**facts)` makes the same again."""
        return asdict(self)
