"""The vault on request: it is made, and its records are put, read and removed.

An app's records are for those who ask while the app's lease lives, and each use is on record first.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from mdx.errors import HubRefused, MdxError
from mdx.hub.leases import Leases, app_scope
from mdx.hub.serving import Asked
from mdx.hub.signing_in import FindPolicy, SigningIn, secret
from vault import Kind, NoSuchRecord, RecordInfo

__all__ = ["VaultRecords"]


class VaultRecords:
    """The `vault.…` operations."""

    def __init__(
        self,
        leases: Leases,
        *,
        signing_in: SigningIn,
        policy: FindPolicy,
        record: Callable[..., None],
    ) -> None:
        self._leases = leases
        self._signing_in = signing_in
        self._policy = policy
        self._record = record

    async def init(self, asked: Asked) -> None:
        """Make the vault of this device."""
        self._record("vault.created", keeper=str(asked.message["keeper"]))
        await self._leases.create(
            str(asked.message["keeper"]),
            passphrase=secret(asked.message, "passphrase"),
            backend=asked.message.get("backend"),
        )

    async def put(self, asked: Asked) -> dict[str, Any]:
        """Keep a value under a name."""
        app, name = await self._app(asked), str(asked.message["name"])
        value = secret(asked.message, "value")
        if value is None:
            raise MdxError("the request lacks a value")
        kind = Kind(asked.message.get("kind") or Kind.PASSWORD)
        self._record("vault.put", app=app, name=name, kind=kind.value)
        expires_at = asked.message.get("expires_at")
        info = await self._leases.call(
            lambda vault: vault.put(app_scope(app), name, value, kind=kind, expires_at=expires_at)
        )
        return _facts(info)

    async def get(self, asked: Asked) -> dict[str, Any]:
        """One record with its value."""
        app, name = await self._app(asked), str(asked.message["name"])
        self._record("vault.get", app=app, name=name, pid=asked.connection.pid)
        try:
            record = await self._leases.call(lambda vault: vault.get(app_scope(app), name))
        except NoSuchRecord:
            raise _unknown(app, name) from None
        return _facts(record.info) | {"value": base64.b64encode(record.value).decode()}

    async def list_(self, asked: Asked) -> list[dict[str, Any]]:
        """The records of an app, without their values."""
        app = await self._app(asked)
        self._record("vault.list", app=app)
        infos = await self._leases.call(lambda vault: vault.list_(app_scope(app)))
        return [_facts(info) for info in infos]

    async def remove(self, asked: Asked) -> None:
        """Remove one record."""
        app, name = await self._app(asked), str(asked.message["name"])
        self._record("vault.remove", app=app, name=name)
        try:
            await self._leases.call(lambda vault: vault.remove(app_scope(app), name))
        except NoSuchRecord:
            raise _unknown(app, name) from None

    async def status(self, asked: Asked) -> dict[str, Any]:
        """How the vault stands; nothing is opened for it."""
        return await self._leases.status()

    async def _app(self, asked: Asked) -> str:
        """The app whose records are asked for; it must have a living lease."""
        app, policy = self._policy(asked.message)
        try:
            await self._signing_in.lease_for(app, policy)
        except MdxError as error:
            self._record("vault.refused", app=app, reason=str(error))
            raise
        return app


def _unknown(app: str, name: str) -> HubRefused:
    return HubRefused(
        f"{app} has no record {name!r}", hint=f"mdx vault list {app}", kind=NoSuchRecord.__name__
    )


def _facts(info: RecordInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "kind": info.kind.value,
        "version": info.version,
        "written_at": info.written_at,
        "expires_at": info.expires_at,
        "size_bytes": info.size_bytes,
    }
