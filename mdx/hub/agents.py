"""What agents ask: each for its own run, known by its pid, which the kernel vouches for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mdx.errors import MdxError
from mdx.hub.gateway_access import GatewayAccess
from mdx.hub.leases import Leases
from mdx.hub.runs import Run, Runs
from mdx.hub.serving import Asked
from mdx.hub.signing_in import SigningIn
from mdx.lease_times import LeaseTimes
from vault import VaultError

__all__ = ["Agents"]


class Agents:
    """The `agent.…` operations."""

    def __init__(
        self,
        runs: Runs,
        *,
        leases: Leases,
        signing_in: SigningIn,
        access: GatewayAccess,
        log: Callable[[str], None],
    ) -> None:
        self._runs = runs
        self._leases = leases
        self._signing_in = signing_in
        self._access = access
        self._log = log

    async def attach(self, asked: Asked) -> None:
        """Follow the run; a hub that is new gets the listener."""
        run = self._run(asked)
        (listener,) = asked.take_descriptors(1)
        self._runs.attach(run, asked.connection, listener)

    async def lease(self, asked: Asked) -> dict[str, Any]:
        """How the lease stands: its times, why it is over, or nothing new."""
        run = self._run(asked)
        run.take(int(asked.message["version"]))
        state = await self._leases.state(run.app)
        if isinstance(state, str) and await self._signing_in.renewed(run):
            state = await self._leases.state(run.app)  # it had ended while no hub was there
        if isinstance(state, LeaseTimes) and run.spec["gateway"] is None:
            await self._find_gateway(run)
        answer = {"version": run.spec["version"]}
        match state:
            case LeaseTimes() as times:
                return answer | {"lease": times.facts()}
            case str() as why:
                return answer | {"ended": why}
        return answer

    async def policy(self, asked: Asked) -> dict[str, Any]:
        """What a reload may have changed."""
        spec = self._run(asked).spec
        names = ("rules", "audit_required", "admit", "gateway", "version")
        return {name: spec[name] for name in names}

    async def certificate(self, asked: Asked) -> dict[str, Any]:
        """A certificate for the agent's own key, as long as the lease."""
        run = self._run(asked)
        lease = await self._leases.current(run.app)
        # X.509 counts whole seconds: rounded down, the gateway would cut before the lease is over.
        # The agent itself ends on the instant.
        return await self._access.certificate(run.app, asked, LeaseTimes.of(lease).left() + 1)

    async def ticket(self, asked: Asked) -> dict[str, Any]:
        """A ticket for one session."""
        run = self._run(asked)
        await self._leases.current(run.app)
        return await self._access.ticket(run.app, asked, run=run.id)

    def _run(self, asked: Asked) -> Run:
        return self._runs.of_agent(asked.connection.pid, str(asked.message["run"]))

    async def _find_gateway(self, run: Run) -> None:
        """A run that began before the vault was open, or before this device joined, has none."""
        try:
            if (gateway := await self._access.gateway()) is not None:
                await self._runs.reload(run, {"gateway": gateway})
        except (MdxError, VaultError) as error:
            self._log(f"run {run.id} has no gateway yet: {error}")
