"""Renewing a gateway's own certificate while it runs, on a host where control's socket is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from mdx.errors import MdxError
from mdx.gateway.enrolling import enroll

__all__ = ["LOOK_SECONDS", "keep_renewed"]

LOOK_SECONDS = 3600.0  # the last third of its life is ten days: some 240 tries


async def keep_renewed(
    state: Path, *, name: str, host: str, admin_socket: Path, log: Callable[..., None]
) -> None:
    """Look now and then whether `gateway.pem` in `state` is due; until cancelled.

    What is new is taken up by the gateway at its next connection. What fails is logged, and tried
    again.
    """
    renew = partial(enroll, state, name=name, host=host, admin_socket=admin_socket)
    while True:
        try:
            await trio.to_thread.run_sync(renew, abandon_on_cancel=True)
        except MdxError as error:
            log("certificate.not_renewed", reason=str(error))
        await trio.sleep(LOOK_SECONDS)
