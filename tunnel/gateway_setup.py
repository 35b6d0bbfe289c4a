"""What a gateway is given by whoever runs it: who it is, whom it asks, where it writes."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Container, Sequence
from dataclasses import dataclass, field

from tunnel.addresses import Address
from tunnel.destinations import Destination
from tunnel.dialing import system_resolve
from tunnel.hosts import Hosts
from tunnel.identity import Identity
from tunnel.limits import Limits
from tunnel.revocations import Revocations
from tunnel.tls import ServerContext

__all__ = ["GatewaySetup", "Redeemed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Redeemed:
    """What the ticket's authority allows: session timers. The gateway's own may be shorter."""

    idle_seconds: float = math.inf
    forced_seconds: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySetup:
    """What a gateway is given. All callables are asked anew for each connection.

    - `redeem(ticket, identity)` burns a ticket at its authority, bound to that identity's device,
      app and key. Raises: Refused, NOT_AUTHENTICATED for a ticket that is not good.
    - `allow(app, destination)` gives the rule that allows it (`AllowRules.check`), or raises
      Refused. Default deny is its business.
    - `record(event, **fields)` writes to the audit; whatever it raises refuses what it was about.
      Events: session.granted, session.refused, flow.allowed, flow.refused, flow.ended,
      flow.checked, connection.refused.
    - `log(event, **fields)` is for what strangers do, and for faults.
    - `clock()` is the wall clock, in Unix seconds.
    - `revoked` are the devices that are refused whatever they show, and cut when they are added.
    - `own()` are the addresses of this machine, which the guard refuses.
    """

    name: str
    tenant: str
    context: Callable[[], ServerContext]
    redeem: Callable[[str, Identity], Awaitable[Redeemed]]
    allow: Callable[[str, Destination], str]
    record: Callable[..., None]
    log: Callable[..., None]
    clock: Callable[[], float]
    hosts: Callable[[], Hosts] = Hosts
    resolve: Callable[[str], Awaitable[Sequence[Address]]] = system_resolve
    own: Callable[[], Container[Address]] = frozenset
    revoked: Revocations = field(default_factory=Revocations)
    limits: Limits = field(default_factory=Limits)
