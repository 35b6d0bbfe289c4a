"""The agent: stands between one running app and the network, and serves no other.

Forked from the zygote with the run's listener and a pidfd of the launcher, which becomes the
command; or, for a standing agent, of `mdx agent`, whose clients nobody here started. It decides
each destination by the run's routes, writes its own audit chain, and holds nothing but this run's
short-lived certificate and session token; keys stay in the hub. It asks the hub for the
certificate and a ticket on first need. When the hub dies it runs on until the lease ends, and
finds the next hub by itself. It ends with the command.

A lease that ended refuses, and a new one serves again. Routes that were loaded anew hold for new
connections; what is open goes on.
"""

from __future__ import annotations

import select
import socket
import sys
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import trio

from mdx.audit import AuditLog
from mdx.certificate_key import CertificateKey
from mdx.container.admission import Rule, refusal_reason
from mdx.errors import AuditUnwritable, HubRefused, HubUnreachable
from mdx.hub.link import HubLink
from mdx.lease_times import LeaseTimes
from mdx.own_addresses import own_addresses
from mdx.route_data import table_from_data
from mdx.sparing import Sparing
from tunnel import (
    ClientContext,
    Destination,
    GatewayClient,
    Opened,
    RefusalCode,
    Refused,
    Relayed,
    Route,
    Verb,
    client_context,
    dial,
    serve_proxy,
    system_resolve,
)
from vault import now

__all__ = ["Agent", "main"]

LEASE_TICK_SECONDS = 10.0  # trio's timers stand still while the machine sleeps; a lease does not
RECONNECT_SECONDS = 1.0
LOOK_SECONDS = 10.0  # how long an agent that replaces another waits to hear of its lease
RENEW_AFTER = 2 / 3  # of a certificate's life: then it is replaced at the next need


def main(spec: dict[str, Any], *, listener: int, launcher: int) -> int:
    """Serve the run that `spec` describes until its command ends. Returns an exit status."""
    trio.run(Agent(spec).run, listener, launcher)
    return 0


class Agent:
    """One run's agent. `spec` is what the hub sent: plain data, no key in it."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._app: str = spec["app"]
        self._run: str = spec["run"]
        self._root: int = spec["root"]
        self._admits: Rule = spec["admit"]
        self._rules: dict[str, Any] = spec["rules"]
        self._own = own_addresses()
        self._table = table_from_data(self._rules, own=self._own)
        self._version: int = spec["version"]  # of what a reload may change
        self._audit_required: bool = spec["audit_required"]
        self._audit_path = Path(spec["audit"])
        self._audit: AuditLog | None = None
        self._hub = HubLink(Path(spec["hub_socket"]))
        self._lease = LeaseTimes(**spec["lease"]) if spec["lease"] else None
        self._ended = ""  # why there is no lease
        self._looked = trio.Event()  # whether the hub has said how the lease stands
        if self._lease is not None:
            self._looked.set()
        self._lease_changed = trio.Event()
        self._flows = trio.CancelScope()
        self._launcher = -1
        self._strangers = Sparing()
        self._key = CertificateKey()
        self._context: ClientContext | None = None
        self._context_due = 0.0
        self._gateway: GatewayClient | None = None
        self._gateway_facts: dict[str, Any] | None = None
        self._reach(spec["gateway"])

    async def run(self, listener: int, launcher: int) -> None:
        """Serve on `listener` until the process behind the pidfd `launcher` ends."""
        self._launcher = launcher
        async with trio.open_nursery() as nursery:
            listening = socket.socket(fileno=listener)
            nursery.start_soon(self._follow_hub, listening)
            nursery.start_soon(self._watch_lease)
            nursery.start_soon(self._serve, listening)
            await trio.lowlevel.wait_readable(launcher)
            nursery.cancel_scope.cancel()

    # The lease: a cancel scope around every flow ------------------------------------------

    async def _serve(self, listening: socket.socket) -> None:
        while True:
            # serve_listeners closes what it is given; the run's own listener outlives a cut.
            again = trio.SocketListener(trio.socket.from_stdlib_socket(listening.dup()))
            with trio.CancelScope() as self._flows:
                await serve_proxy(
                    again,
                    admit=self._admit,
                    connect=self._connect,
                    malformed=self._malformed,
                    ended=self._flow_ended,
                    failed=self._failed,
                )

    async def _watch_lease(self) -> None:
        while True:
            self._lease_changed = trio.Event()
            wait = LEASE_TICK_SECONDS
            if self._lease is not None:
                left = self._lease.left()
                if left <= 0:
                    at = datetime.fromtimestamp(now().wall, UTC).astimezone()
                    self._cut(f"{self._app}: key expired at {at:%H:%M}")
                else:
                    wait = min(wait, left)
            with trio.move_on_after(wait):
                await self._lease_changed.wait()
            self._guard_own_addresses()

    def _guard_own_addresses(self) -> None:
        """This machine's addresses change while an agent runs for weeks; its guard knows them."""
        if (own := own_addresses()) != self._own:
            self._own = own
            self._table = table_from_data(self._rules, own=own)

    def _cut(self, why: str) -> None:
        had, self._lease = self._lease, None
        self._ended = why
        if had is not None:  # otherwise none is open, and who waits is to hear the reason
            self._flows.cancel()

    async def _follow_hub(self, listening: socket.socket) -> None:
        """Hear of renewals and locks; when the hub is gone, wait for the next one."""
        attach = {"op": "agent.attach", "run": self._run}
        while True:
            with suppress(HubUnreachable, HubRefused):
                await self._hub.follow(attach, self._look, [listening.fileno()])
            await trio.sleep(RECONNECT_SECONDS)

    async def _look(self) -> None:
        """Ask the hub how the lease stands now.

        Raises: HubRefused, HubUnreachable.
        """
        request = {"op": "agent.lease", "run": self._run, "version": self._version}
        answer = await self._hub.call(request)
        if lease := answer.get("lease"):
            before, self._lease = self._lease, LeaseTimes(**lease)
            if before is not None and self._lease.wall_ends > before.wall_ends + 1:
                await self._renew_certificate()
        elif ended := answer.get("ended"):
            self._cut(ended)
        self._looked.set()
        self._lease_changed.set()
        if answer["version"] != self._version:
            await self._load_policy()
            await self._look()  # and say so

    async def _load_policy(self) -> None:
        """Take what a reload changed. Raises: HubRefused, HubUnreachable."""
        answer = await self._hub.call({"op": "agent.policy", "run": self._run})
        self._rules = answer["rules"]
        self._table = table_from_data(self._rules, own=self._own)
        self._audit_required = answer["audit_required"]
        self._admits = answer["admit"]
        self._reach(answer["gateway"])
        self._version = answer["version"]

    def _reach(self, named: dict[str, Any] | None) -> None:
        """Go by the gateway that the hub names; through another one only from now on."""
        if named == self._gateway_facts:
            return
        self._gateway_facts = named
        if named is None:
            self._gateway = None
            return
        self._gateway = GatewayClient(
            host=named["host"],
            port=named["port"],
            name=named["name"],
            context=self._current_context,
            ticket=self._fresh_ticket,
        )

    async def _renew_certificate(self) -> None:
        """What is open at the gateway ends with the certificate, so it must hear of the new one."""
        if self._context is None or self._gateway is None:
            return
        self._context_due = 0.0
        try:
            await self._gateway.renew()
        except Refused as refused:  # the next connection tries again; what is open ends in time
            sys.stderr.write(f"agent {self._run}: not renewed: {refused.code.value}\n")
            sys.stderr.flush()

    # One connection -----------------------------------------------------------------------

    async def _admit(self, stream: trio.SocketStream) -> bool:
        run_lives = not select.select([self._launcher], [], [], 0)[0]
        reason = "its run is over"
        if run_lives:
            reason = await self._refusal_reason(stream.socket)
        if not reason:
            return True
        if (left_out := self._strangers.let(trio.current_time())) is not None:
            where = stream.socket.getpeername()
            port = {"port": where[1]} if isinstance(where, tuple) else {}  # a Unix socket has none
            self._record("connection.refused", reason=reason, left_out=left_out, **port)
        return False

    async def _refusal_reason(self, connection: trio.socket.SocketType) -> str:
        if self._admits["kind"] != "executable":
            return refusal_reason(self._admits, self._root, connection)
        # It looks into all processes of this user, which takes milliseconds; flows go on.
        return await trio.to_thread.run_sync(
            refusal_reason, self._admits, self._root, connection, abandon_on_cancel=True
        )

    async def _connect(self, destination: Destination, flow: str) -> Opened:
        try:
            return await self._decide_and_dial(destination, flow)
        except Refused as refused:
            self._record(
                "flow.refused",
                flow=flow,
                destination=str(destination),
                code=refused.code.name,
                rule=refused.rule,
            )
            raise

    async def _decide_and_dial(self, destination: Destination, flow: str) -> Opened:
        with trio.move_on_after(LOOK_SECONDS):
            await self._looked.wait()
        if self._lease is None or self._lease.left() <= 0:
            raise Refused(
                RefusalCode.LEASE_ENDED,
                rule=self._ended or f"{self._app}: the hub has not said that it is unlocked",
                hint=f"run: mdx unlock {self._app}",
            )
        route = self._table.choose(destination)
        if route.verb is Verb.BLOCK:
            raise Refused(
                RefusalCode.BLOCKED_BY_RULE,
                rule=route.text,
                hint=f"mdx explain {self._app} {destination}",
            )
        if route.verb is Verb.TUNNEL:
            if self._gateway is None:
                raise Refused(
                    RefusalCode.GATEWAY_DOWN,
                    rule="this device has joined no gateway",
                    hint="mdx join CODE, or mdx up (all on one machine)",
                )
            self._record_allowed(destination, flow, route)
            opened = await self._gateway.open_(destination, flow=flow)
            return opened
        return await self._dial_direct(destination, flow, route)

    async def _dial_direct(self, destination: Destination, flow: str, route: Route) -> Opened:
        recorded = False

        def check(address: IPv4Address | IPv6Address) -> None:
            nonlocal recorded
            tightened = self._table.choose_address(destination, address)
            if tightened.verb is Verb.BLOCK:
                raise Refused(
                    RefusalCode.ADDRESS_GUARD,
                    rule=tightened.text,
                    hint=f"mdx explain {self._app} {destination}",
                )
            if not recorded:
                self._record_allowed(destination, flow, route)
                recorded = True

        stream = await dial(destination, resolve=system_resolve, check=check)
        return Opened(stream=stream)

    def _malformed(self, flow: str, refused: Refused) -> None:
        # Refused in any case, so a record that cannot be written changes nothing.
        with suppress(Refused):
            self._record("flow.refused", flow=flow, code=refused.code.name, rule=refused.rule)

    def _flow_ended(self, flow: str, relayed: Relayed) -> None:
        self._record(
            "flow.ended", flow=flow, bytes_up=relayed.bytes_up, bytes_down=relayed.bytes_down
        )

    def _failed(self, error: BaseException) -> None:
        # The type only: a message could carry what the app sent.
        sys.stderr.write(f"agent {self._run}: {type(error).__name__}\n")
        sys.stderr.flush()

    # Audit --------------------------------------------------------------------------------

    def _record_allowed(self, destination: Destination, flow: str, route: Route) -> None:
        self._record(
            "flow.allowed",
            flow=flow,
            destination=str(destination),
            verb=route.verb.name,
            rule=route.text,
        )

    def _record(self, event: str, **fields: str | int) -> None:
        """Raises: Refused where the policy demands audit and it cannot be written."""
        try:
            if self._audit is None:
                self._audit = AuditLog(self._audit_path, writer=f"agent:{self._run}")
            self._audit.append(event, app=self._app, **fields)
        except AuditUnwritable as error:
            if self._audit_required:
                raise Refused(
                    RefusalCode.AUDIT_UNWRITABLE, rule=str(error), hint=error.hint
                ) from None

    # What the gateway wants to see ----------------------------------------------------------

    async def _current_context(self) -> ClientContext:
        if self._context is None or now().wall > self._context_due:
            answer = await self._ask_hub(
                {"op": "agent.certificate", "run": self._run, "csr": self._key.request()}
            )
            self._context = client_context(
                ca=answer["ca"].encode(),
                certificate=answer["certificate"].encode(),
                key=self._key.pem(),
            )
            begun = now().wall
            self._context_due = begun + (answer["not_after"] - begun) * RENEW_AFTER
        return self._context

    async def _fresh_ticket(self) -> str:
        answer = await self._ask_hub(
            {"op": "agent.ticket", "run": self._run, "key_hash": self._key.key_hash}
        )
        return str(answer["ticket"])

    async def _ask_hub(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return dict(await self._hub.call(request))
        except (HubRefused, HubUnreachable) as error:
            is_down = getattr(error, "kind", "") == "ControlUnreachable"
            code = RefusalCode.GATEWAY_DOWN if is_down else RefusalCode.GATEWAY_REFUSED
            raise Refused(code, rule=str(error), hint=error.hint) from None
