"""Joining and leaving on request: this device becomes one of a tenant's, or gives that up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mdx.errors import MdxError
from mdx.hub.device import Device
from mdx.hub.runs import Runs
from mdx.hub.serving import Asked

__all__ = ["Membership"]


class Membership:
    """The operations `join` and `leave`."""

    def __init__(self, device: Device, *, runs: Runs, record: Callable[..., None]) -> None:
        self._device = device
        self._runs = runs
        self._record = record

    async def join(self, asked: Asked) -> dict[str, Any]:
        """Enroll with a join code."""
        self._record("device.joining", pid=asked.connection.pid)
        name = str(asked.message.get("name") or "")
        joined = await self._device.join(str(asked.message["code"]), name=name)
        self._record("device.enrolled", device=joined.device, tenant=joined.tenant)
        return {
            "device": joined.device,
            "name": joined.name,
            "tenant": joined.tenant,
            "gateway": joined.gateway,
        }

    async def leave(self, asked: Asked) -> dict[str, Any]:
        """Give the identity up; nothing may run by it any more."""
        joined = await self._device.joined()
        if joined is None:
            raise MdxError("this device has not joined", hint="there is nothing to leave")
        if runs := self._runs.all_():
            named = ", ".join(f"{run.id} ({run.app})" for run in runs)
            raise MdxError(
                f"what runs still goes by this identity: {named}", hint="end it first: mdx stop RUN"
            )
        self._record("device.left", device=joined.device, tenant=joined.tenant)
        untold = await self._device.leave(joined)
        return {"device": joined.device, "tenant": joined.tenant, "untold": untold}
