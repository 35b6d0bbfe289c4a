"""What can go wrong in the tunnel, each with the answer that a client gets for it.

Rules of this file:
- A refusal knows its SOCKS reply (RFC 1928, section 6) and its HTTP status, so that no code matches
  on message texts and both listeners answer the same fault in the same way.
- The name of a `RefusalCode` is part of the wire: a refusal over HTTP carries it in `Mdx-Refused`.
- No secret is ever put in a message. Text that a client chose is quoted before it gets here.
"""

from __future__ import annotations

from enum import Enum

__all__ = [
    "BadRule",
    "BadTicket",
    "ConnectionCut",
    "HandshakeFailed",
    "RefusalCode",
    "Refused",
    "TunnelError",
    "WrongCertificate",
]


class RefusalCode(Enum):
    """Why a request was refused. The value is the name: `RefusalCode("BLOCKED_BY_RULE")`.

    SOCKS replies: 1 general failure, 2 not allowed by ruleset, 3 network unreachable, 4 host
    unreachable, 5 connection refused, 6 TTL expired (used for time-outs, as Tor does), 7 command
    not supported, 8 address type not supported.
    """

    socks_reply: int
    http_status: int

    def __new__(cls, name: str, socks_reply: int, http_status: int) -> RefusalCode:
        """A member whose value is its name alone, so that equal answers make no aliases."""
        member = object.__new__(cls)
        member._value_ = name
        member.socks_reply = socks_reply
        member.http_status = http_status
        return member

    # What the client sent.
    MALFORMED = ("MALFORMED", 1, 400)
    BAD_DESTINATION = ("BAD_DESTINATION", 2, 400)
    UNSUPPORTED = ("UNSUPPORTED", 7, 501)
    UNSUPPORTED_ADDRESS = ("UNSUPPORTED_ADDRESS", 8, 501)
    # What was decided.
    NOT_AUTHENTICATED = ("NOT_AUTHENTICATED", 2, 407)
    NOT_ALLOWED = ("NOT_ALLOWED", 2, 403)
    BLOCKED_BY_RULE = ("BLOCKED_BY_RULE", 2, 403)
    ADDRESS_GUARD = ("ADDRESS_GUARD", 2, 403)
    LEASE_ENDED = ("LEASE_ENDED", 2, 403)
    # What the network said.
    NAME_NOT_FOUND = ("NAME_NOT_FOUND", 4, 502)
    UNREACHABLE = ("UNREACHABLE", 3, 502)
    CONNECTION_REFUSED = ("CONNECTION_REFUSED", 5, 502)
    TIMED_OUT = ("TIMED_OUT", 6, 504)
    # What our own side cannot do now.
    GATEWAY_DOWN = ("GATEWAY_DOWN", 3, 502)
    GATEWAY_REFUSED = ("GATEWAY_REFUSED", 2, 403)
    OVERLOADED = ("OVERLOADED", 1, 503)
    AUDIT_UNWRITABLE = ("AUDIT_UNWRITABLE", 1, 500)


class TunnelError(Exception):
    """The base of everything that this package raises on purpose."""


class Refused(TunnelError):
    """A destination or a request was refused.

    `rule` says in words which rule or limit decided, `hint` what the user can do about it. Both are
    shown to the client and written to the audit.
    """

    def __init__(self, code: RefusalCode, rule: str, hint: str = "") -> None:
        super().__init__(code, rule, hint)
        self.code = code
        self.rule = rule
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.code.value}: {self.rule}" + (f" ({self.hint})" if self.hint else "")


class HandshakeFailed(TunnelError):
    """TLS or a proxy handshake did not come to an end that both sides accept."""


class ConnectionCut(TunnelError):
    """The peer's stream ended without saying so: the data before it may be incomplete."""


class WrongCertificate(TunnelError):
    """A certificate is valid for TLS but not for the part that its holder wants to play."""


class BadTicket(TunnelError):
    """A ticket, a session token or the credentials around it are not of the one right form."""


class BadRule(TunnelError):
    """A route, as it was written, means nothing or more than one thing."""
