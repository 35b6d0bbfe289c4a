"""The gateway's caps, in one table: how much of anything one client may have, and why that much.

Rules of this file:
- What is refused is refused early, before it costs anything, and the one who is over his own limit
  does not take the place of others: for each cap on all there is a smaller one on each.
- The numbers are defaults for one process; a gateway may be given others, a test small ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tunnel.errors import RefusalCode, Refused

__all__ = ["Limits", "Places"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Caps of one gateway process. `…_seconds` are time limits, the others numbers at one time."""

    # A connection costs two descriptors and, while data waits, about 400 KiB.
    connections: int = 4096
    # One device runs many apps, and each opens a connection per stream; a browser holds hundreds.
    connections_per_device: int = 1024
    # A handshake costs 1 to 2 ms of CPU and comes from strangers, too: these are about half a
    # second of work. More at one time would only make all of them late.
    handshakes: int = 256
    # Below that, so that one source cannot fill them; many users may share an address by NAT.
    handshakes_per_source: int = 64
    # Two round trips, also by satellite, and one lost packet.
    handshake_seconds: float = 10.0
    # A client that has shaken hands has its request ready.
    head_seconds: float = 10.0
    # A client that does not read its refusal.
    answer_seconds: float = 5.0
    # The ticket authority is near, or down.
    redeem_seconds: float = 10.0
    # Look-up, connection and TLS of the backend. The client waits 30 s for our answer.
    dial_seconds: float = 15.0
    # Nothing moved either way: half an hour, as for the session.
    flow_idle_seconds: float = 1800.0
    # Session timers (policy names: session time-out and forced time-out); the first to elapse wins.
    session_idle_seconds: float = 1800.0
    session_seconds: float = 86400.0
    # A run takes one session. At the cap the device's longest unused one makes room.
    sessions_per_device: int = 64


class Places:
    """How many of each thing there are now, each under its cap."""

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()

    def taken(self, what: str) -> int:
        """How many there are."""
        return self._taken[what]

    @contextmanager
    def take(self, what: str, *, at_most: int, who: str = "all clients") -> Iterator[None]:
        """One more of `what`, for as long as the block runs. Raises: Refused (OVERLOADED)."""
        if self._taken[what] >= at_most:
            raise Refused(
                RefusalCode.OVERLOADED,
                f"the gateway allows {who} {at_most} {what.partition(' ')[0]} at one time",
                "try again later",
            )
        self._taken[what] += 1
        try:
            yield
        finally:
            self._taken[what] -= 1
            if not self._taken[what]:
                del self._taken[what]
