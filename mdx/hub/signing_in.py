"""Signing in and out: leases are given on request, taken away on request, and end by themselves.

A lease is on record before it is given. Locking comes before its record: it takes rights away, so
nothing may stand in its way, be it a full disk or a configuration that is broken.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, TypeAlias

import trio

from mdx.errors import HubRefused, MdxError
from mdx.hub.device import Device
from mdx.hub.leases import Leases
from mdx.hub.runs import Run, Runs
from mdx.hub.serving import Asked
from mdx.hub.wire import Message
from mdx.lease_times import LeaseTimes
from mdx.policy import AppPolicy, Config
from vault import Lease, VaultError

__all__ = ["FindPolicy", "SigningIn", "secret"]

FindPolicy: TypeAlias = Callable[[Message], tuple[str, AppPolicy]]
"""The app that a request names, and its policy. Raises: ConfigError."""


class SigningIn:
    """Who may use which key, and until when."""

    def __init__(
        self,
        leases: Leases,
        *,
        runs: Runs,
        device: Device,
        nursery: trio.Nursery,
        config: Callable[[Message], Config],
        policy: FindPolicy,
        record: Callable[..., None],
        note: Callable[..., None],
        log: Callable[[str], None],
    ) -> None:
        self._leases = leases
        self._runs = runs
        self._device = device
        self._nursery = nursery
        self._config = config
        self._policy = policy
        self._record = record
        self._note = note
        self._log = log

    # Operations -----------------------------------------------------------------------------

    async def unlock(self, asked: Asked) -> list[dict[str, Any]]:
        """One app, or (single sign-on) every app of the configuration."""
        config = self._config(asked.message)
        named = asked.message.get("app")
        apps = {named: config.app(named)} if named else config.apps
        if await self._leases.needs_passphrase() and "passphrase" not in asked.message:
            raise HubRefused(
                "signing in needs the vault's passphrase", exit_code=77, needs="passphrase"
            )
        try:
            await self._leases.open_(secret(asked.message, "passphrase"))
        except (MdxError, VaultError) as error:
            pid = asked.connection.pid
            self._record("unlock.refused", app=named or "*", reason=str(error), pid=pid)
            raise
        return [await self._grant(app, policy.key_lifetime_seconds) for app, policy in apps.items()]

    async def lock(self, asked: Asked) -> None:
        """End one app's lease."""
        app = str(asked.message["app"])
        if not self._runs.of_app(app) and not await self._leases.knows(app):
            self._policy(asked.message)  # so that a name mistyped is said to be unknown
        await self._leases.lock(app)
        self._note("lease.locked", app=app)

    async def logout(self, asked: Asked) -> list[str]:
        """End every lease, and drop the root key and the device's."""
        locked = await self._leases.logout(run.app for run in self._runs.all_())
        self._device.forget()
        self._note("lease.locked", app="*")
        return locked

    # For other operations -------------------------------------------------------------------

    async def lease_for(self, app: str, policy: AppPolicy) -> Lease:
        """The app's lease; a new one without asking where its policy says `unattended`.

        Raises: HubRefused.
        """
        try:
            return await self._leases.current(app)
        except HubRefused as refused:
            if not policy.unattended or refused.needs != "consent":
                raise
        await self._grant(app, policy.key_lifetime_seconds)
        return await self._leases.current(app)

    async def renewed(self, run: Run) -> bool:
        """Renew a lease that time alone ended, where the policy of `run` says so."""
        if run.renew_for_seconds is None:
            return False
        try:
            await self._leases.current(run.app)
        except HubRefused as refused:
            return refused.needs == "consent" and await self._renew(run.app, run.renew_for_seconds)
        return True

    # What leases tell -----------------------------------------------------------------------

    async def lease_due(self, app: str) -> None:
        """A lease is about to end: renew it in time where the policy of a run says so."""
        seconds = [run.renew_for_seconds for run in self._runs.of_app(app) if run.renew_for_seconds]
        if seconds:
            await self._renew(app, min(seconds))

    async def lease_ended(self, app: str, reason: str) -> None:
        """A lease is over: its agents cut their flows, and the policy may end the commands too."""
        self._note("lease.ended", app=app, reason=reason)
        if reason == "expired":
            await self.lease_due(app)  # the machine may have slept past the time for it
        await self._runs.tell(app)
        for run in self._runs.of_app(app):
            if run.stop_at_end and not isinstance(await self._leases.state(app), LeaseTimes):
                self._nursery.start_soon(self._runs.stop, run)

    async def _grant(self, app: str, seconds: float) -> dict[str, Any]:
        self._record("lease.granted", app=app, seconds=seconds)
        lease = await self._leases.grant(app, seconds)
        await self._runs.tell(app)
        return {"app": app, "epoch": lease.epoch, "not_after": lease.not_after}

    async def _renew(self, app: str, seconds: float) -> bool:
        """Give `app` a new lease; False, and a line in the log, when it cannot have one."""
        try:
            await self._grant(app, seconds)
        except (MdxError, VaultError) as error:
            self._log(f"{app} is not renewed: {error}")
            return False
        return True


def secret(message: Message, name: str) -> bytes | None:
    """The bytes of a field that holds a secret; None when it is left out."""
    encoded = message.get(name)
    return None if encoded is None else base64.b64decode(encoded)
