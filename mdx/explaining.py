"""Why a destination goes where it goes, from both ends: policy here, names and guard, the gateway.

The answer is what a run would meet, without a connection to the destination: an agent's table for
the verdict, the same look-up and the same guard for DIRECT, and for TUNNEL the gateway's own word.
Never: a look-up of a name that goes through the tunnel; a hub that is started, or a lease that is
granted, by asking.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import trio

from mdx.certificate_key import CertificateKey
from mdx.errors import HubUnreachable, MdxError
from mdx.folders import Folders
from mdx.hub.wire import call, connect
from mdx.own_addresses import own_addresses
from mdx.policy import AppPolicy
from mdx.route_data import route_rules, table_from_data
from tunnel import (
    Checked,
    ClientContext,
    Destination,
    Explanation,
    GatewayClient,
    Refused,
    RouteTable,
    Verb,
    check_at_gateway,
    client_context,
    look_up,
    system_resolve,
)
from vault import VaultError, vault_kind

__all__ = [
    "Answered",
    "AtGateway",
    "Explained",
    "LookUp",
    "ask_gateway_about",
    "explain_here",
    "lease_of",
    "look_up_and_judge",
]

LOOK_UP_SECONDS = 5.0  # of a resolver that does not answer
GATEWAY_SECONDS = 10.0
HUB_SECONDS = 5.0  # it is on this machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One address of a name, and whether it would be dialled. `says` is the rule or the guard."""

    address: str
    dialled: bool
    says: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LookUp:
    """What the system's resolver said; `problem` when it has no answer.

    `change` says what would help when no address may be dialled.
    """

    addresses: tuple[Answered, ...] = ()
    problem: str = ""
    change: str = ""

    @property
    def is_dialled(self) -> bool:
        return any(one.dialled for one in self.addresses)


@dataclass(frozen=True, slots=True, kw_only=True)
class AtGateway:
    """What the gateway would do. `verdict` is ALLOW, REFUSE, or UNKNOWN with `problem`."""

    verdict: str
    rule: str = ""
    code: str = ""
    hint: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """The whole answer. What was not asked is None."""

    app: str
    here: Explanation
    lease: dict[str, Any]
    unattended: bool = False
    look_up: LookUp | None = None
    gateway: AtGateway | None = None

    @property
    def outcome(self) -> str:
        """A few words: what a run would meet now."""
        if self.here.verb == Verb.BLOCK.value:
            return "refused here"
        if self.look_up is not None and not self.look_up.is_dialled:
            return "refused here: " + (self.look_up.problem or "no address may be dialled")
        if self.needs_unlock:
            return f"refused here until mdx unlock {self.app}"
        if self.gateway is not None and self.gateway.verdict != "ALLOW":
            refused = self.gateway.verdict == "REFUSE"
            return (
                "refused by the gateway" if refused else "through the tunnel, if the gateway lets"
            )
        return "through the tunnel" if self.here.verb == Verb.TUNNEL.value else "directly"

    @property
    def needs_unlock(self) -> bool:
        """Whether somebody must sign in first. `unattended` renews what time alone ended."""
        ended = ("expired", "never unlocked") if not self.unattended else ()
        return self.lease["state"] in ("locked", *ended)

    @property
    def change(self) -> str:
        """What would change the outcome, at the end where it was decided."""
        if self.look_up is not None and not self.look_up.is_dialled:
            return self.look_up.change
        if self.gateway is not None and self.gateway.verdict == "REFUSE":
            if self.gateway.code == "NAME_NOT_FOUND":
                return "a name server of the gateway, or its [[hosts]], that knows the name"
            return f"at the gateway: {self.gateway.hint or self.gateway.rule}"
        return self.here.change

    def to_dict(self) -> dict[str, object]:
        """Data for JSON: that of `Explanation`, and what else was found out."""
        return {
            "app": self.app,
            **self.here.to_dict(),
            "change": self.change,
            "outcome": self.outcome,
            "lease": self.lease,
            "look_up": None if self.look_up is None else asdict(self.look_up),
            "gateway": None if self.gateway is None else asdict(self.gateway),
        }


def explain_here(
    app: str, policy: AppPolicy, destination: Destination
) -> tuple[RouteTable, Explanation]:
    """The agent's own table, and what it says before anything is looked up."""
    table = table_from_data(route_rules(app, policy), own=own_addresses())
    return table, table.explain(destination)


def look_up_and_judge(table: RouteTable, destination: Destination) -> LookUp:
    """Each address that a DIRECT destination leads to, judged as the agent would judge it."""

    async def ask() -> LookUp:
        with trio.move_on_after(LOOK_UP_SECONDS):
            try:
                addresses = await look_up(destination, system_resolve)
            except Refused as refused:
                return LookUp(
                    problem=refused.rule, change="a name that this machine's resolver knows"
                )
            routes = [(one, table.choose_address(destination, one)) for one in addresses]
            return LookUp(
                addresses=tuple(
                    Answered(
                        address=str(address),
                        dialled=route.verb is Verb.DIRECT,
                        says=route.text,
                    )
                    for address, route in routes
                ),
                change=table.explain(destination, address=addresses[0]).change,
            )
        return LookUp(
            problem=f"the resolver did not answer within {LOOK_UP_SECONDS:.0f} s",
            change="a resolver that answers (/etc/resolv.conf)",
        )

    return trio.run(ask)


def lease_of(folders: Folders, app: str) -> dict[str, Any]:
    """`state` (unlocked, locked, expired, never unlocked, unknown), `seconds_left`, `why`."""
    try:
        hub = connect(folders.hub_socket)
    except HubUnreachable:
        return _lease("unknown", why=_without_hub(folders))
    hub.settimeout(HUB_SECONDS)
    try:
        with hub:
            status = call(hub, {"op": "vault.status"})
    except MdxError as error:
        return _lease("unknown", why=str(error))
    if status["kept_by"] is None:
        return _lease("never unlocked", why="there is no vault yet")
    if not status["open"]:
        return _lease("unknown", why="the vault is closed")
    for lease in status["leases"]:
        if lease["scope"] == f"app:{app}":
            return _lease(lease["state"], seconds_left=lease["seconds_left"])
    return _lease("never unlocked")


def _lease(state: str, *, seconds_left: float | None = None, why: str = "") -> dict[str, Any]:
    return {"state": state, "seconds_left": seconds_left, "why": why}


def _without_hub(folders: Folders) -> str:
    try:
        made = vault_kind(folders.vault) is not None
    except VaultError:
        made = True
    return "the hub does not run" if made else "there is no vault yet"


def ask_gateway_about(
    folders: Folders,
    app: str,
    destination: Destination,
    *,
    config: Path | None,
    environ: Mapping[str, str],
) -> AtGateway:
    """What the gateway would do, asked with a session of this app (which the hub grants)."""
    key = CertificateKey()
    request = {
        "op": "token",
        "app": app,
        "csr": key.request(),
        "key_hash": key.key_hash,
        "config": str(config.absolute()) if config else None,
        "environ": dict(environ),
    }
    try:
        with connect(folders.hub_socket) as hub:
            hub.settimeout(GATEWAY_SECONDS)  # it asks control meanwhile
            answer = call(hub, request)
        if answer["gateway"] is None:
            return _unknown("this device has joined no gateway", "mdx up, or mdx join CODE")
        checked = trio.run(_check, answer, key, destination)
    except MdxError as error:
        return _unknown(f"not asked: {error}", error.hint)
    except Refused as refused:
        return _unknown(refused.rule, refused.hint)
    if checked is None:
        return _unknown(f"no answer within {GATEWAY_SECONDS:.0f} s", "mdx doctor")
    return AtGateway(
        verdict="ALLOW" if checked.allowed else "REFUSE",
        rule=checked.rule,
        code=checked.code,
        hint=checked.hint,
    )


def _unknown(problem: str, hint: str) -> AtGateway:
    return AtGateway(verdict="UNKNOWN", problem=problem, hint=hint)


async def _check(
    answer: dict[str, Any], key: CertificateKey, destination: Destination
) -> Checked | None:
    context = client_context(
        ca=answer["ca"].encode(), certificate=answer["certificate"].encode(), key=key.pem()
    )

    async def given_context() -> ClientContext:
        return context

    async def given_ticket() -> str:
        return str(answer["ticket"])

    where = answer["gateway"]
    client = GatewayClient(**where, context=given_context, ticket=given_ticket)
    with trio.move_on_after(GATEWAY_SECONDS):
        session = await client.redeem()
        return await check_at_gateway(destination, session, **where, context=context)
    return None
