"""The clocks: leases and certificates are only as right as they are."""

from __future__ import annotations

import ctypes
from datetime import UTC, datetime
from typing import Any

from mdx.doctor.findings import Finding, bad, ok, warn
from vault import Instant

__all__ = ["check_clock", "check_highest_time", "is_synchronised"]

# This version was written then: a clock before it is wrong, whatever else is true.
WRITTEN_AT = datetime(2025, 6, 1, tzinfo=UTC).timestamp()
AHEAD_SECONDS = 60.0
_TIMEX_BYTES = 512  # struct timex has 208 on 64-bit machines; adjtimex(2) writes no more than that
_TIME_ERROR = 5


def check_clock(instant: Instant, *, synchronised: bool | None) -> Finding:
    """`synchronised` as the kernel says, None where it cannot be asked."""
    shown = datetime.fromtimestamp(instant.wall, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    if instant.wall < WRITTEN_AT:
        return bad(
            "clock",
            f"{shown} is before this program was written",
            "set the clock: certificates are not good yet at that time",
        )
    if instant.wall < instant.boot:
        return bad("clock", f"{shown} is less than the machine's uptime", "set the clock")
    if synchronised is False:
        return warn(
            "clock",
            f"{shown}; nothing keeps it right",
            "run a time service (timedatectl set-ntp true); certificates need it",
        )
    kept = ", kept right by a time service" if synchronised else ""
    return ok("clock", shown + kept)


def is_synchronised() -> bool | None:
    """Whether something keeps the kernel's clock right (adjtimex(2), which only reads here)."""
    libc = ctypes.CDLL(None, use_errno=True)
    state = libc.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    return None if state < 0 else state != _TIME_ERROR


def check_highest_time(vault: dict[str, Any]) -> Finding:
    """`vault` is the hub's `vault.status`."""
    name = "time seen"
    if "seen_ahead_seconds" not in vault:
        return ok(name, "not known while the vault is closed")
    ahead = float(vault["seen_ahead_seconds"])
    if ahead > AHEAD_SECONDS:
        return warn(
            name,
            f"the clock is {ahead:.0f} s behind the latest time that the vault has seen; "
            "leases go on from that time",
            "set the clock right; if it was ahead once, sign in again: lengths stay right",
        )
    return ok(name, "the clock was never set back")
