"""The one place where the vault reads a clock.

Two clocks are read together, because neither can be trusted alone: the wall clock may be set by
hand, the boot clock (which counts through sleep) starts again at every boot. `boot_id` says which
boot the second one belongs to. Everything else takes an `Instant` as an argument; what may be
concluded from a series of them is decided in `vault.leases`.

Linux only for now: CLOCK_BOOTTIME (clock_gettime(2)) and the kernel's boot id (random(4)).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["Instant", "now"]

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Instant:
    """One moment, read from both clocks: `wall` in Unix seconds, `boot` in seconds since boot."""

    wall: float
    boot: float
    boot_id: str


def now() -> Instant:
    """This moment.

    Raises: OSError when the kernel does not say which boot this is.
    """
    return Instant(
        wall=time.time(), boot=time.clock_gettime(time.CLOCK_BOOTTIME), boot_id=_boot_id()
    )


@cache  # a boot does not end while its process lives
def _boot_id() -> str:
    return BOOT_ID.read_text(encoding="ascii").strip()
