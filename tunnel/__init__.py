"""The tunnel: routes, handshakes, tickets, TLS and the gateway, without keyring or database.

The public names below are loaded on first use, so that a program that only reads routes does not
pay for TLS. Submodules import each other directly and never from here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunnel.addresses import Address, AddressClass, Network, classify, guarded
    from tunnel.allow_rules import AllowRules
    from tunnel.destinations import Destination, destination, parse_destination, parse_host
    from tunnel.dialing import dial, look_up, system_resolve
    from tunnel.errors import (
        BadRule,
        BadTicket,
        ConnectionCut,
        HandshakeFailed,
        RefusalCode,
        Refused,
        TunnelError,
        WrongCertificate,
    )
    from tunnel.explanations import Explanation, Step
    from tunnel.gateway import serve_gateway
    from tunnel.gateway_client import GatewayClient, Opened, SessionToken
    from tunnel.gateway_setup import GatewaySetup, Redeemed
    from tunnel.hosts import Host, Hosts
    from tunnel.http_client import BadAnswer, JSONAnswer, request_json
    from tunnel.http_service import Request, Response, error_response, serve_requests
    from tunnel.identity import (
        Identity,
        Purpose,
        Role,
        Subject,
        identity_uri,
        is_identity_name,
        parse_identity_uri,
        public_key_hash,
        read_identity,
    )
    from tunnel.limits import Limits
    from tunnel.patterns import Pattern, PatternKind
    from tunnel.probing import Checked, Probed, check_at_gateway, probe
    from tunnel.proxy import serve_proxy
    from tunnel.relay import Ended, Relayed, abort
    from tunnel.revocations import Revocations
    from tunnel.routes import Route, RouteTable, Rule, SplitMode, Verb, split_table
    from tunnel.tickets import ParsedTicket, new_ticket, parse_ticket, ticket_hash
    from tunnel.tls import (
        ClientCertificate,
        ClientContext,
        Negotiated,
        ServerContext,
        client_context,
        server_context,
    )
    from tunnel.tls_stream import TLSStream

__all__ = [
    "Address",
    "AddressClass",
    "AllowRules",
    "BadAnswer",
    "BadRule",
    "BadTicket",
    "Checked",
    "ClientCertificate",
    "ClientContext",
    "ConnectionCut",
    "Destination",
    "Ended",
    "Explanation",
    "GatewayClient",
    "GatewaySetup",
    "HandshakeFailed",
    "Host",
    "Hosts",
    "Identity",
    "JSONAnswer",
    "Limits",
    "Negotiated",
    "Network",
    "Opened",
    "ParsedTicket",
    "Pattern",
    "PatternKind",
    "Probed",
    "Purpose",
    "Redeemed",
    "RefusalCode",
    "Refused",
    "Relayed",
    "Request",
    "Response",
    "Revocations",
    "Role",
    "Route",
    "RouteTable",
    "Rule",
    "ServerContext",
    "SessionToken",
    "SplitMode",
    "Step",
    "Subject",
    "TLSStream",
    "TunnelError",
    "Verb",
    "WrongCertificate",
    "abort",
    "check_at_gateway",
    "classify",
    "client_context",
    "destination",
    "dial",
    "error_response",
    "guarded",
    "identity_uri",
    "is_identity_name",
    "look_up",
    "new_ticket",
    "parse_destination",
    "parse_host",
    "parse_identity_uri",
    "parse_ticket",
    "probe",
    "public_key_hash",
    "read_identity",
    "request_json",
    "serve_gateway",
    "serve_proxy",
    "serve_requests",
    "server_context",
    "split_table",
    "system_resolve",
    "ticket_hash",
]

# Where each public name is defined.
_MODULES = {
    "tunnel.addresses": (
        "Address",
        "AddressClass",
        "Network",
        "classify",
        "guarded",
    ),
    "tunnel.allow_rules": ("AllowRules",),
    "tunnel.destinations": (
        "Destination",
        "destination",
        "parse_destination",
        "parse_host",
    ),
    "tunnel.dialing": (
        "dial",
        "look_up",
        "system_resolve",
    ),
    "tunnel.errors": (
        "BadRule",
        "BadTicket",
        "ConnectionCut",
        "HandshakeFailed",
        "RefusalCode",
        "Refused",
        "TunnelError",
        "WrongCertificate",
    ),
    "tunnel.explanations": (
        "Explanation",
        "Step",
    ),
    "tunnel.gateway": ("serve_gateway",),
    "tunnel.gateway_setup": (
        "GatewaySetup",
        "Redeemed",
    ),
    "tunnel.gateway_client": (
        "GatewayClient",
        "Opened",
        "SessionToken",
    ),
    "tunnel.hosts": (
        "Host",
        "Hosts",
    ),
    "tunnel.http_client": (
        "BadAnswer",
        "JSONAnswer",
        "request_json",
    ),
    "tunnel.http_service": (
        "Request",
        "Response",
        "error_response",
        "serve_requests",
    ),
    "tunnel.identity": (
        "Identity",
        "Purpose",
        "Role",
        "Subject",
        "identity_uri",
        "is_identity_name",
        "parse_identity_uri",
        "public_key_hash",
        "read_identity",
    ),
    "tunnel.limits": ("Limits",),
    "tunnel.patterns": (
        "Pattern",
        "PatternKind",
    ),
    "tunnel.probing": (
        "Checked",
        "Probed",
        "check_at_gateway",
        "probe",
    ),
    "tunnel.proxy": ("serve_proxy",),
    "tunnel.relay": (
        "Ended",
        "Relayed",
        "abort",
    ),
    "tunnel.revocations": ("Revocations",),
    "tunnel.routes": (
        "Route",
        "RouteTable",
        "Rule",
        "SplitMode",
        "Verb",
        "split_table",
    ),
    "tunnel.tickets": (
        "ParsedTicket",
        "new_ticket",
        "parse_ticket",
        "ticket_hash",
    ),
    "tunnel.tls": (
        "ClientCertificate",
        "ClientContext",
        "Negotiated",
        "ServerContext",
        "client_context",
        "server_context",
    ),
    "tunnel.tls_stream": ("TLSStream",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    """A public name, loaded from its module on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
