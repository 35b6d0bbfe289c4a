"""Learning from control which devices were revoked, while the gateway serves.

Rules of this file:
- Control refuses tickets and certificates of a revoked device at once, whatever happens here. What
  is left are sessions that this gateway gave before, and they end within `CHECK_SECONDS`.
- While control cannot be asked, the last answer stays: a gateway that cut everybody off with its
  control would be the worse failure. No new session is given then in any case, since tickets are
  redeemed there.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from mdx.control.client import ControlClient
from mdx.errors import MdxError
from tunnel import Revocations

__all__ = ["CHECK_SECONDS", "Nudge", "follow_revocations"]

CHECK_SECONDS = 5.0  # a mutual TLS handshake each, 2 ms on both sides


class Nudge:
    """A way to end a pause early: `mdx device revoke` does so on the gateway's own host."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def give(self) -> None:
        """End the pause of now, or else the next one."""
        self._event.set()

    async def wait(self, seconds: float) -> None:
        """Until `give()`, or so long."""
        with trio.move_on_after(seconds):
            await self._event.wait()
        self._event = trio.Event()


async def follow_revocations(
    control: Callable[[], ControlClient],
    revoked: Revocations,
    log: Callable[..., None],
    nudge: Nudge,
    *,
    check_seconds: float = CHECK_SECONDS,
) -> None:
    """Keep `revoked` as control has it, until cancelled."""
    silent = False
    while True:
        try:
            with trio.fail_after(check_seconds):
                devices = await control().revocations()
        except (MdxError, trio.TooSlowError) as error:
            if not silent:  # one line for a control that is down, not one every few seconds
                log("revocations.not_known", reason=str(error) or "control takes too long")
            silent = True
        else:
            if silent:
                log("revocations.known_again")
            silent = False
            for device in sorted(revoked.replace(devices)):
                log("device.revoked", device=device)
        await nudge.wait(check_seconds)
