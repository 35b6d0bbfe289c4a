"""How a program asks the hub: as one app, with the configuration that its environment names.

Nothing here opens the vault; the hub does, in its own process, and says no when it must.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdx.errors import (
    ConfigError,
    ConnectionCut,
    HubRefused,
    KeyExpired,
    LeaseEnded,
    Locked,
    MdxError,
    NoSuchRecord,
    RecordExpired,
    RunFailed,
)
from mdx.folders import Folders, find_folders
from mdx.hub.starting import connect_or_start
from mdx.hub.wire import call, connect
from mdx.launcher import CONFIG_VARIABLES

__all__ = ["Caller", "caller"]

# What the hub's errors are here, by the name of their class.
_KINDS: dict[str, type[MdxError]] = {
    "ConfigError": ConfigError,
    "KeyExpired": KeyExpired,
    "Locked": Locked,
    "NoSuchRecord": NoSuchRecord,
    "RecordExpired": RecordExpired,
    "RunFailed": RunFailed,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """One app, as this program asks for it. Two equal callers are one and the same run."""

    app: str
    config: str | None
    hub_socket: Path  # which hub, so whose app
    folders: Folders = field(compare=False)
    environ: tuple[tuple[str, str], ...]

    def ask(self, operation: str, descriptors: Sequence[int] = (), **fields: Any) -> Any:
        """The hub's answer; the hub is started if it does not run. Blocks.

        Raises: Locked, KeyExpired, ConfigError, NoSuchRecord, RecordExpired, RunFailed,
        HubUnreachable, or HubRefused for what has no class of its own.
        """
        request = {
            "op": operation,
            "app": self.app,
            "config": self.config,
            "environ": dict(self.environ),
            **fields,
        }
        try:
            with connect_or_start(self.folders) as hub:
                return call(hub, request, descriptors)
        except HubRefused as refused:
            raise _translated(refused) from None

    def explain_cut(self) -> ConnectionCut | LeaseEnded:
        """Why a connection broke: the lease is over, or something on the way. Blocks."""
        try:
            with connect(self.hub_socket) as hub:
                status = call(hub, {"op": "vault.status"})
        except MdxError:
            status = {}
        for lease in status.get("leases", ()):
            if lease["scope"] == f"app:{self.app}" and lease["state"] != "unlocked":
                why = "key expired" if lease["state"] == "expired" else lease["state"]
                return LeaseEnded(
                    f"{self.app}: {why}: the connection was cut",
                    hint=f"run: mdx unlock {self.app}",
                    code="LEASE_ENDED",
                )
        return ConnectionCut(
            f"{self.app}: the connection was cut before its end",
            hint=f"what was decided: mdx audit show; is the lease over? mdx unlock {self.app}",
            code="CUT",
        )


def caller(app: str, *, config: Path | None, environ: Mapping[str, str]) -> Caller:
    """The caller for `app`; nothing is asked yet. Raises: MdxError for a folder that cannot be."""
    folders = find_folders(environ)
    return Caller(
        app=app,
        config=os.path.abspath(config) if config is not None else None,
        hub_socket=folders.hub_socket,
        folders=folders,
        environ=tuple((name, environ[name]) for name in CONFIG_VARIABLES if name in environ),
    )


def _translated(refused: HubRefused) -> MdxError:
    """The error under the class that a program can catch."""
    kind = _KINDS.get(refused.kind, Locked if refused.needs else None)
    if kind is None:
        return refused
    return kind(str(refused), hint=refused.hint, exit_code=refused.exit_code)
