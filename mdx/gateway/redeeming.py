"""Redeeming tickets at control, in the gateway's words."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from mdx.control.client import ControlClient, ControlRefused
from mdx.errors import MdxError
from tunnel import Identity, Redeemed, RefusalCode, Refused

__all__ = ["redeem_at"]

NOT_GOOD = 403  # control's one answer for a ticket that is unknown, used, expired or another's


def redeem_at(
    control: Callable[[], ControlClient], log: Callable[..., None]
) -> Callable[[str, Identity], Awaitable[Redeemed]]:
    """What `tunnel.serve_gateway` calls. A client learns that its ticket is not good, or that the
    authority cannot be asked; why that is stands in the log."""

    async def redeem(ticket: str, identity: Identity) -> Redeemed:
        try:
            await control().redeem(
                ticket,
                device=identity.device or "",
                app=identity.app or "",
                key_hash=identity.key_hash,
            )
        except ControlRefused as refused:
            if refused.status == NOT_GOOD:
                raise Refused(
                    RefusalCode.NOT_AUTHENTICATED,
                    "the ticket is not good: unknown, used, expired, or another's",
                    "ask for a new one",
                ) from None
            log("redeem.failed", reason=str(refused))
            raise _unreachable() from None
        except MdxError as error:
            log("redeem.failed", reason=str(error))
            raise _unreachable() from None
        return Redeemed()

    return redeem


def _unreachable() -> Refused:
    return Refused(
        RefusalCode.UNREACHABLE,
        "the gateway cannot ask the ticket authority",
        "try again; the gateway's log says why",
    )
