"""Runs on request: one is started by what its policy demands and gives, listed, or stopped."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from mdx.container.admission import Rule
from mdx.errors import AuditUnwritable, MdxError, RunFailed
from mdx.folders import Folders
from mdx.hub.gateway_access import GatewayAccess
from mdx.hub.runs import Run, Runs
from mdx.hub.serving import Asked
from mdx.hub.signing_in import FindPolicy, SigningIn
from mdx.lease_times import LeaseTimes
from mdx.policy import AppPolicy
from mdx.route_data import route_rules
from vault import Lease, VaultError, now

__all__ = ["Running", "demand_level", "flow_chain", "policy_facts", "renewal_seconds"]

LEVEL_REACHED = 1  # level 1 of the ladder; the container's own issue brings 2 and 3
"""The most that this version's container can do."""


class Running:
    """The operations on `runs`, and how each run begins."""

    def __init__(
        self,
        runs: Runs,
        *,
        folders: Folders,
        signing_in: SigningIn,
        access: GatewayAccess,
        policy: FindPolicy,
        record: Callable[..., None],
        note: Callable[..., None],
    ) -> None:
        self._runs = runs
        self._folders = folders
        self._signing_in = signing_in
        self._access = access
        self._policy = policy
        self._record = record
        self._note = note

    async def run(self, asked: Asked) -> dict[str, Any]:
        """A command, which the launcher becomes."""
        app = str(asked.message["app"])
        with self.refusal_on_record(app):
            _, policy = self._policy(asked.message)
            demand_level(app, max(policy.minimum_level, int(asked.message["minimum_level"])))
            lease = await self._signing_in.lease_for(app, policy)
            gateway = await self._access.gateway()
            bundle = await self._access.trust(policy)
        run = await self.start(
            asked,
            app,
            policy,
            command=str(asked.message["command"])[:64],
            lease=lease,
            gateway=gateway,
            admit={"kind": "run"},
        )
        return {"run": run.id, "app": app, "level": run.level, "trust": bundle}

    async def ps(self, asked: Asked) -> list[dict[str, Any]]:
        """What runs."""
        return [run.facts() for run in self._runs.all_()]

    async def stop(self, asked: Asked) -> list[str]:
        """End one run, or every run of an app."""
        stopped = self._runs.named(str(asked.message["name"]))
        for run in stopped:
            self._record("run.stopping", app=run.app, run=run.id, pid=asked.connection.pid)
        async with trio.open_nursery() as nursery:
            for run in stopped:
                nursery.start_soon(self._runs.stop, run)
        return [run.id for run in stopped]

    @contextmanager
    def refusal_on_record(self, app: str) -> Iterator[None]:
        """What refuses a run of `app` in here is written down."""
        try:
            yield
        except (MdxError, VaultError) as error:
            self._record("run.refused", app=app, reason=str(error))
            raise

    async def start(
        self,
        asked: Asked,
        app: str,
        policy: AppPolicy,
        *,
        command: str,
        lease: Lease | None,
        gateway: dict[str, Any] | None,
        admit: Rule,
        listen: str = "",
    ) -> Run:
        """A new run of the process that asks, with the listener that it sent.

        Raises: MdxError; then there is no run, and its descriptors are closed.
        """
        run_id = secrets.token_hex(4)
        spec = policy_facts(app, policy) | {
            "app": app,
            "run": run_id,
            "root": asked.connection.pid,
            "admit": admit,
            "audit": str(flow_chain(self._folders, run_id)),
            "hub_socket": str(self._folders.hub_socket),
            "lease": None if lease is None else LeaseTimes.of(lease).facts(),
            "gateway": gateway,
            "version": 0,
        }
        (listener,) = asked.take_descriptors(1)
        try:
            root_pidfd = asked.connection.pidfd()
        except MdxError:
            os.close(listener)
            raise
        run = Run(
            id=run_id,
            app=app,
            command=command,
            level=LEVEL_REACHED,
            started_at=now().wall,
            root=asked.connection.pid,
            root_pidfd=root_pidfd,
            listener=listener,
            listen=listen,
            stop_at_end=policy.on_lease_end == "stop" and not listen,
            renew_for_seconds=renewal_seconds(policy),
            spec=spec,
        )
        try:
            self._record(
                "run.started", app=app, run=run_id, level=run.level, command=command, pid=run.root
            )
        except AuditUnwritable:
            run.close()
            raise
        try:
            await self._runs.start(run)
        except MdxError:
            self._note("run.ended", app=app, run=run_id)
            raise
        return run


def policy_facts(app: str, policy: AppPolicy) -> dict[str, Any]:
    """What of the policy an agent goes by."""
    return {"rules": route_rules(app, policy), "audit_required": policy.audit_required}


def renewal_seconds(policy: AppPolicy) -> float | None:
    """For how long a lease is renewed without asking; None where somebody is to be asked."""
    return policy.key_lifetime_seconds if policy.unattended else None


def demand_level(app: str, wanted: int, error: type[MdxError] = RunFailed) -> None:
    """Raises: `error` when more is demanded than this version reaches."""
    if wanted > LEVEL_REACHED:
        raise error(
            f"{app}: level {wanted} is demanded, this version reaches {LEVEL_REACHED}",
            hint="lower minimum_level if proxy variables are enough for this app",
        )


def flow_chain(folders: Folders, run: str) -> Path:
    """The audit file in which the agent of a run writes down its flows."""
    return folders.audit / f"flows-{run}.jsonl"
