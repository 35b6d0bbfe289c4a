"""This device's identity: who it is to control and the gateway, from the day it joined.

Key and certificate are one record in the hub's own scope of the vault. What is asked of control
goes over a connection that shows that certificate; an answer is passed on as it came.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import trio

from mdx.certificate_key import CertificateKey
from mdx.control.client import ControlClient, ControlRefused, ControlUnreachable
from mdx.errors import MdxError
from mdx.hub.leases import HUB_SCOPE, Leases
from tunnel import Refused, client_context, probe
from vault import Kind, NoSuchRecord, now

__all__ = ["Device", "Joined"]

RECORD = "device"
LEAVE_SECONDS = 10.0
STRANGER = 403
RENEW_BEFORE_SECONDS = 10 * 86400.0  # control gives 30 days: renewed when two thirds are over


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """What joining gave: names, addresses, and the certificate with its key."""

    device: str
    tenant: str
    control: dict[str, Any]  # host, port, name
    gateway: dict[str, Any]  # host, port, name
    ca: str
    certificate: str
    not_after: float  # of the certificate, Unix seconds
    key: str = field(repr=False)
    name: str = ""  # as control lists it; a record that is older has none


class Device:
    """The identity of this device, kept in the vault that `leases` opens."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._joined: Joined | None = None
        self._renewing = trio.Lock()

    def forget(self) -> None:
        """Drop the key from memory; it stays in the vault."""
        self._joined = None

    async def joined(self) -> Joined | None:
        """Who this device is, or None before it joined. Raises: HubRefused when locked."""
        if self._joined is None:
            try:
                record = await self._leases.call(lambda vault: vault.get(HUB_SCOPE, RECORD))
            except NoSuchRecord:
                return None
            self._joined = Joined(**json.loads(record.value))
        return self._joined

    async def join(self, code: str, *, name: str = "") -> Joined:
        """Enroll with a join code and keep what it gave; `name` is a label for this device.

        Raises: MdxError when joined already, or when control refuses.
        """
        if (before := await self.joined()) is not None:
            raise MdxError(
                f"this device is {before.device} of {before.tenant} already",
                hint="mdx leave gives that identity up",
            )
        key = CertificateKey()
        enrolled = await ControlClient.enroll(code, key.request(), name=name)
        joined = Joined(
            device=enrolled.device,
            name=enrolled.name,
            tenant=enrolled.tenant,
            control=enrolled.control,
            gateway=enrolled.gateway,
            ca=enrolled.ca,
            certificate=enrolled.certificate,
            not_after=enrolled.not_after,
            key=key.pem().decode(),
        )
        await self._keep(joined)
        return joined

    async def leave(self, joined: Joined) -> str:
        """Tell control, then forget the identity; gives why control was not told, or nothing."""
        untold = ""
        try:
            with trio.fail_after(LEAVE_SECONDS):
                await _client(joined).leave()
        except ControlRefused as refused:
            if refused.status != STRANGER:  # of a device that is revoked already it knows no more
                untold = str(refused)
        except (MdxError, trio.TooSlowError) as error:
            untold = str(error) or "it does not answer"
        await self._leases.call(lambda vault: vault.remove(HUB_SCOPE, RECORD))
        self._joined = None
        return untold

    async def certificate(self, app: str, csr: str, *, lifetime_seconds: float) -> dict[str, Any]:
        """A certificate for one run of `app`, for that long at most: certificate, ca, not_after."""
        control = await self._control()
        return await control.certificate(app, csr, lifetime_seconds=lifetime_seconds)

    async def ticket(self, app: str, key_hash: str) -> str:
        """A ticket for one session of `app` by the holder of that certificate key."""
        return await (await self._control()).ticket(app, key_hash)

    async def facts(self, *, ask_gateway: bool, ask_control: bool = False) -> dict[str, Any] | None:
        """Who this device is, and what TLS gateway and control agree on with it, where asked."""
        joined = await self.joined()
        if joined is None:
            return None
        facts: dict[str, Any] = {
            "device": joined.device,
            "name": joined.name,
            "tenant": joined.tenant,
            "certificate_ends_at": joined.not_after,
            "control": dict(joined.control),
            "gateway": dict(joined.gateway),
        }
        if ask_gateway:
            context = client_context(
                ca=joined.ca.encode(),
                certificate=joined.certificate.encode(),
                key=joined.key.encode(),
            )
            try:
                probed = await probe(**joined.gateway, context=context)
                facts["gateway"] |= asdict(probed.negotiated)
            except Refused as refused:
                facts["gateway"]["error"] = refused.rule
        if ask_control:
            facts["control"] |= await _ask_control(joined)
        return facts

    async def _keep(self, joined: Joined) -> None:
        value = json.dumps(asdict(joined)).encode()
        await self._leases.call(lambda vault: vault.put(HUB_SCOPE, RECORD, value, kind=Kind.KEY))
        self._joined = joined

    async def _control(self) -> ControlClient:
        joined = await self.joined()
        if joined is None:
            raise MdxError(
                "this device has not joined", hint="mdx up (all on one machine), or mdx join CODE"
            )
        if now().wall > joined.not_after - RENEW_BEFORE_SECONDS:
            joined = await self._renew(joined)
        return _client(joined)

    async def _renew(self, joined: Joined) -> Joined:
        """A new certificate for a new key; the old one is shown for the last time."""
        async with self._renewing:
            if self._joined is not None and self._joined is not joined:
                return self._joined  # somebody else's request was quicker
            key = CertificateKey()
            try:
                given = await _client(joined).renew(key.request())
            except ControlUnreachable:
                if now().wall > joined.not_after:
                    raise
                return joined  # good for some days yet; the next request tries again
            renewed = replace(
                joined,
                certificate=given["certificate"],
                not_after=given["not_after"],
                key=key.pem().decode(),
            )
            await self._keep(renewed)
            return renewed


async def _ask_control(joined: Joined) -> dict[str, Any]:
    try:
        client = _client(joined)
        status = await client.status()
        behind = status["time"] - now().wall
    except (MdxError, KeyError, TypeError) as error:
        return {"error": str(error)}
    agreed = asdict(client.negotiated) if client.negotiated else {}
    return agreed | {"clock_behind_seconds": behind}


def _client(joined: Joined) -> ControlClient:
    return ControlClient(
        host=joined.control["host"],
        port=joined.control["port"],
        name=joined.control["name"],
        ca=joined.ca.encode(),
        certificate=joined.certificate.encode(),
        key=joined.key.encode(),
    )
