"""Standing agents on request: each serves, at a fixed address, programs that mdx did not start.

Whom it serves is said by a rule that no request may leave out. All but `serve` is for the process
that asked for it, known by its pid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mdx.container.admission import rule_text
from mdx.errors import ConfigError, HubRefused, MdxError
from mdx.hub.gateway_access import GatewayAccess
from mdx.hub.leases import Leases
from mdx.hub.running import Running, demand_level, policy_facts, renewal_seconds
from mdx.hub.runs import Run, Runs
from mdx.hub.serving import Asked
from mdx.hub.signing_in import FindPolicy, SigningIn
from mdx.hub.wire import Message
from mdx.lease_times import LeaseTimes

__all__ = ["StandingAgents"]


class StandingAgents:
    """The operations `serve` and `serve.…`."""

    def __init__(
        self,
        runs: Runs,
        *,
        running: Running,
        leases: Leases,
        signing_in: SigningIn,
        access: GatewayAccess,
        policy: FindPolicy,
        record: Callable[..., None],
    ) -> None:
        self._runs = runs
        self._running = running
        self._leases = leases
        self._signing_in = signing_in
        self._access = access
        self._policy = policy
        self._record = record

    async def serve(self, asked: Asked) -> dict[str, Any]:
        """A new one. A locked app may have one: it refuses until somebody signs in."""
        app, listen = str(asked.message["app"]), str(asked.message["listen"])
        admit = _admission(asked.message)
        locked, lease, gateway = "", None, None
        with self._running.refusal_on_record(app):
            _, policy = self._policy(asked.message)
            demand_level(app, policy.minimum_level, ConfigError)
            try:
                lease = await self._signing_in.lease_for(app, policy)
                gateway = await self._access.gateway()
            except HubRefused as refused:
                if not refused.needs:
                    raise
                locked = str(refused)
        run = await self._running.start(
            asked,
            app,
            policy,
            command=f"agent at {listen} for {rule_text(admit)}",
            lease=lease,
            gateway=gateway,
            admit=admit,
            listen=listen,
        )
        return {"run": run.id, "app": app, "level": run.level, "locked": locked}

    async def watch(self, asked: Asked) -> None:
        """Its first process follows it, and brings its listener."""
        run = self._run(asked)
        (listener,) = asked.take_descriptors(1)
        self._runs.watch(run, asked.connection, listener)

    async def state(self, asked: Asked) -> dict[str, Any]:
        """Does it serve, and if not, why?"""
        run = self._run(asked)
        state = await self._leases.state(run.app)
        locked = "" if isinstance(state, LeaseTimes) else state or f"{run.app}: the vault is locked"
        return {"given_up": run.given_up, "locked": locked}

    async def reload(self, asked: Asked) -> dict[str, Any]:
        """Read the policy again. What is wrong with it is the answer, and the old one holds."""
        run = self._run(asked)
        admit = _admission(asked.message)
        _, policy = self._policy({**asked.message, "app": run.app})
        demand_level(run.app, policy.minimum_level, ConfigError)
        changes = policy_facts(run.app, policy) | {"admit": admit}
        changed = any(run.spec[name] != value for name, value in changes.items())
        self._record("run.reloaded", app=run.app, run=run.id, pid=asked.connection.pid)
        run.renew_for_seconds = renewal_seconds(policy)
        await self._runs.reload(run, changes)
        await run.wait_until_taken()  # so that "reloaded" means that it counts
        return {"changed": changed}

    def _run(self, asked: Asked) -> Run:
        return self._runs.of_root(asked.connection.pid, str(asked.message["run"]))


def _admission(message: Message) -> dict[str, Any]:
    """Whom a standing agent serves: one of the rules of `mdx.container.admission`, never none.

    Raises: MdxError.
    """
    match message["admit"]:
        case {"kind": "user", **rest} if not rest:
            return {"kind": "user"}
        case {"kind": "uid", "uid": int(uid), **rest} if not rest:
            return {"kind": "uid", "uid": uid}
        case {
            "kind": "executable",
            "path": str(path),
            "device": int(device),
            "inode": int(inode),
            **rest,
        } if not rest:
            return {"kind": "executable", "path": path, "device": device, "inode": inode}
    raise MdxError("an agent needs a rule that says whom it serves", exit_code=2)
