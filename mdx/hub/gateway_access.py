"""What an app goes to its gateway with: where that is, a certificate, a ticket, whom to trust.

Nothing here lives longer than the lease: a certificate ends with it, and so does what it opened.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from mdx import trust
from mdx.hub.device import Device
from mdx.hub.serving import Asked
from mdx.hub.signing_in import FindPolicy, SigningIn
from mdx.lease_times import LeaseTimes
from mdx.policy import AppPolicy

__all__ = ["GatewayAccess"]

TOKEN_SECONDS = 3600.0  # a token's key stands in a file, so its certificate is short


class GatewayAccess:
    """Access to the gateway in the name of `device`. Trust bundles are kept in `trust_folder`."""

    def __init__(
        self,
        device: Device,
        *,
        trust_folder: Path,
        signing_in: SigningIn,
        policy: FindPolicy,
        record: Callable[..., None],
    ) -> None:
        self._device = device
        self._trust_folder = trust_folder
        self._signing_in = signing_in
        self._policy = policy
        self._record = record

    async def token(self, asked: Asked) -> dict[str, Any]:
        """All of it, for a program that goes to the gateway by itself."""
        app, policy = self._policy(asked.message)
        lease = await self._signing_in.lease_for(app, policy)
        left = min(LeaseTimes.of(lease).left(), TOKEN_SECONDS)
        certificate = await self.certificate(app, asked, left)
        ticket = await self.ticket(app, asked, run="")
        gateway = await self.gateway()
        return certificate | ticket | {"gateway": gateway, "trust": await self.trust(policy)}

    async def certificate(self, app: str, asked: Asked, seconds: float) -> dict[str, Any]:
        """A certificate that ends with the lease: so does what it opened at the gateway."""
        csr = str(asked.message["csr"])
        return await self._device.certificate(app, csr, lifetime_seconds=max(seconds, 1.0))

    async def ticket(self, app: str, asked: Asked, *, run: str) -> dict[str, Any]:
        """A ticket for the holder of the certificate key that the request names."""
        key_hash = str(asked.message["key_hash"])
        self._record("ticket.requested", app=app, run=run)
        return {"ticket": await self._device.ticket(app, key_hash)}

    async def gateway(self) -> dict[str, Any] | None:
        """Where it is: host, port, name; None before this device joined. Raises: HubRefused."""
        joined = await self._device.joined()
        return joined.gateway if joined else None

    async def trust(self, policy: AppPolicy) -> dict[str, str] | None:
        """The files with the authorities that the app's programs are to trust, if it has any."""
        if policy.ca_file is None:
            return None
        return await trio.to_thread.run_sync(trust.bundle, self._trust_folder, policy.ca_file)
