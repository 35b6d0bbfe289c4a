"""What the hub does for those who ask: the table of operations, and what they share.

Every request comes from a process of this user (`mdx.hub.serving` sees to that). Decisions are
written to the audit before they take effect; what cannot be written does not happen.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import trio

from mdx.audit import AuditLog
from mdx.errors import AuditUnwritable, HubRefused, MdxError
from mdx.folders import Folders
from mdx.hub.agents import Agents
from mdx.hub.device import Device
from mdx.hub.forking import Zygote
from mdx.hub.gateway_access import GatewayAccess
from mdx.hub.leases import Leases
from mdx.hub.membership import Membership
from mdx.hub.running import Running, flow_chain
from mdx.hub.runs import Runs
from mdx.hub.serving import Asked
from mdx.hub.signing_in import SigningIn
from mdx.hub.standing_agents import StandingAgents
from mdx.hub.vault_records import VaultRecords
from mdx.hub.wire import Message
from mdx.policy import AppPolicy, Config, load_found

__all__ = ["Hub"]


class Hub:
    """One user's hub. `nursery` holds its watchers."""

    def __init__(
        self,
        folders: Folders,
        *,
        audit: AuditLog,
        zygote: Zygote,
        nursery: trio.Nursery,
    ) -> None:
        self._folders = folders
        self._audit = audit
        self._zygote = zygote
        self.runs = Runs(
            folders.runs,
            zygote=zygote,
            nursery=nursery,
            record=self._record,
            ended=self._run_ended,
        )
        # Signing in gives leases, and they tell it of their ends: so each needs the other.
        self.leases = Leases(
            folders,
            due=lambda app: signing_in.lease_due(app),
            ended=lambda app, reason: signing_in.lease_ended(app, reason),
        )
        self._device = Device(self.leases)
        signing_in = SigningIn(
            self.leases,
            runs=self.runs,
            device=self._device,
            nursery=nursery,
            config=_config,
            policy=_policy,
            record=self._record,
            note=self._note,
            log=_log,
        )
        access = GatewayAccess(
            self._device,
            trust_folder=folders.trust,
            signing_in=signing_in,
            policy=_policy,
            record=self._record,
        )
        running = Running(
            self.runs,
            folders=folders,
            signing_in=signing_in,
            access=access,
            policy=_policy,
            record=self._record,
            note=self._note,
        )
        standing = StandingAgents(
            self.runs,
            running=running,
            leases=self.leases,
            signing_in=signing_in,
            access=access,
            policy=_policy,
            record=self._record,
        )
        agents = Agents(
            self.runs, leases=self.leases, signing_in=signing_in, access=access, log=_log
        )
        records = VaultRecords(
            self.leases, signing_in=signing_in, policy=_policy, record=self._record
        )
        membership = Membership(self._device, runs=self.runs, record=self._record)
        self._operations: Mapping[str, Callable[[Asked], Awaitable[Any]]] = {
            "agent.attach": agents.attach,
            "agent.certificate": agents.certificate,
            "agent.lease": agents.lease,
            "agent.policy": agents.policy,
            "agent.ticket": agents.ticket,
            "join": membership.join,
            "leave": membership.leave,
            "lock": signing_in.lock,
            "logout": signing_in.logout,
            "ps": running.ps,
            "run": running.run,
            "serve": standing.serve,
            "serve.reload": standing.reload,
            "serve.state": standing.state,
            "serve.watch": standing.watch,
            "status": self._status,
            "stop": running.stop,
            "token": access.token,
            "unlock": signing_in.unlock,
            "vault.get": records.get,
            "vault.init": records.init,
            "vault.list": records.list_,
            "vault.put": records.put,
            "vault.remove": records.remove,
            "vault.status": records.status,
        }

    async def handle(self, asked: Asked) -> Any:
        """The result of one request. Raises: MdxError, VaultError, TunnelError."""
        operation = self._operations.get(str(asked.message.get("op")))
        if operation is None:
            raise MdxError(
                f"the hub knows no operation {asked.message.get('op')!r}",
                hint="an older hub may still run: mdx down",
            )
        try:
            return await operation(asked)
        except KeyError as error:
            raise MdxError(f"the request lacks {error}") from None

    async def _status(self, asked: Asked) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "hub": {"pid": os.getpid(), "zygote": self._zygote.pid},
            "home": str(self._folders.home),
            "runs": [run.facts() for run in self.runs.all_()],
            "vault": await self.leases.status(),
        }
        try:
            config = _config(asked.message)
            facts["config"] = {"path": str(config.path), "apps": sorted(config.apps)}
        except MdxError as error:
            facts["config"] = {"error": str(error)}
        try:
            facts["device"] = await self._device.facts(
                ask_gateway=bool(asked.message.get("ask_gateway", True)),
                ask_control=bool(asked.message.get("ask_control", False)),
            )
        except HubRefused as refused:
            facts["device"] = {"error": str(refused)}
        return facts

    async def _run_ended(self, run_id: str, app: str) -> None:
        """Fix the end of the run's own chain in ours. The run is over, written down or not."""
        chain = flow_chain(self._folders, run_id)
        try:
            self._record("run.ended", app=app, run=run_id)
            if chain.exists():
                self._audit.anchor(chain)
        except AuditUnwritable as error:
            _log(f"run {run_id} ended: {error}")

    def _record(self, event: str, **fields: str | int | float) -> None:
        """Raises: AuditUnwritable; then what it is about must not happen."""
        self._audit.append(event, **fields)

    def _note(self, event: str, **fields: str | int | float) -> None:
        """Record what is so already, and stays so when it cannot be written."""
        try:
            self._record(event, **fields)
        except AuditUnwritable as error:
            _log(f"{event} is not on record: {error}")


def _config(message: Message) -> Config:
    """The configuration that a request leads to. Raises: ConfigError."""
    explicit = message.get("config")
    return load_found(Path(explicit) if explicit else None, message.get("environ") or {})


def _policy(message: Message) -> tuple[str, AppPolicy]:
    """The app that a request names, and its policy. Raises: ConfigError."""
    app = str(message["app"])
    return app, _config(message).app(app)


def _log(text: str) -> None:
    sys.stderr.write(f"hub: {text}\n")
    sys.stderr.flush()
