"""Tickets, session tokens, and how a client shows them to a gateway.

    mdx1.AUTHORITY.SECRET   a ticket: opens one session, once
    mdxs1.SECRET            a session token: good until the session's timers end

Rules of this file:
- SECRET is 256 random bits as 43 characters of unpadded base64url (RFC 4648, section 5) in their
  one canonical form: the bits that the last character has to spare are zero.
- Both are opaque. What they are bound to stands with whoever issued them, under the hash.
- A plain SHA-256 is enough for that hash, because nobody can try 2^256 secrets.
- No secret is in a repr or an exception.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from dataclasses import dataclass, field
from enum import Enum

from tunnel.errors import BadTicket

__all__ = [
    "Credentials",
    "ParsedTicket",
    "TokenKind",
    "new_session_token",
    "new_ticket",
    "parse_proxy_authorization",
    "parse_session_token",
    "parse_ticket",
    "session_token_hash",
    "ticket_hash",
]

SECRET_BYTES = 32
MAX_AUTHORIZATION_CHARACTERS = 512  # a name, a ticket and base64 around them are under 300

_RANDOM = r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]"
_TICKET = re.compile(rf"mdx1\.([a-z0-9][a-z0-9_-]{{0,62}})\.({_RANDOM})")
_SESSION_TOKEN = re.compile(rf"mdxs1\.({_RANDOM})")
_APP = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")


class TokenKind(Enum):
    """What a client showed."""

    TICKET = "ticket"
    SESSION = "session"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedTicket:
    """A well-formed ticket: the name of its issuer and the hash under which that one knows it."""

    authority: str
    hash: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a `Proxy-Authorization` says. `app` is the user name of Basic; Bearer has none.

    `token` is a well-formed ticket or session token, as `kind` says.
    """

    app: str | None
    kind: TokenKind
    token: str = field(repr=False)


def new_ticket(authority: str) -> str:
    """A fresh ticket of the authority. Raises: ValueError when that is no name for one."""
    ticket = f"mdx1.{authority}.{secrets.token_urlsafe(SECRET_BYTES)}"
    if not _TICKET.fullmatch(ticket):
        raise ValueError(f"{authority!r} cannot name a ticket authority")
    return ticket


def parse_ticket(text: str) -> ParsedTicket:
    """Raises: BadTicket."""
    match = _TICKET.fullmatch(text)
    if match is None:
        raise BadTicket("not a ticket of the form mdx1.AUTHORITY.SECRET")
    return ParsedTicket(authority=match[1], hash=_hash(text))


def ticket_hash(text: str) -> bytes:
    """SHA-256 of a ticket's text. Raises: BadTicket."""
    return parse_ticket(text).hash


def new_session_token() -> str:
    """A fresh session token."""
    return f"mdxs1.{secrets.token_urlsafe(SECRET_BYTES)}"


def parse_session_token(text: str) -> str:
    """The same text, when it is a well-formed session token. Raises: BadTicket."""
    if not _SESSION_TOKEN.fullmatch(text):
        raise BadTicket("not a session token of the form mdxs1.SECRET")
    return text


def session_token_hash(text: str) -> bytes:
    """SHA-256 of a session token's text. Raises: BadTicket."""
    return _hash(parse_session_token(text))


def parse_proxy_authorization(value: str) -> Credentials:
    """Read the value of `Proxy-Authorization` or `Authorization`: Basic or Bearer.

    RFC 7617 and RFC 6750. Basic carries the app as user and the token as password.

    Raises: BadTicket.
    """
    scheme, space, rest = value.partition(" ")
    if not space or len(value) > MAX_AUTHORIZATION_CHARACTERS:
        raise BadTicket("not credentials of the form SCHEME VALUE")
    match scheme.lower():
        case "bearer":
            return Credentials(app=None, kind=_kind(rest), token=rest)
        case "basic":
            app, _, token = _decode_basic(rest).partition(":")
            if not _APP.fullmatch(app):
                raise BadTicket("the user name is not the name of an app")
            return Credentials(app=app, kind=_kind(token), token=token)
    raise BadTicket("the scheme is neither Basic nor Bearer")


def _decode_basic(text: str) -> str:
    decoded = _decode_base64(text)
    # Raised here and not where decoding failed: that exception would carry what was sent, which
    # may be a secret spelt badly.
    if decoded is None or not decoded.isascii():
        raise BadTicket("the Basic credentials are not base64 of ASCII text")
    return decoded.decode("ascii")


def _decode_base64(text: str) -> bytes | None:
    if not _BASE64.fullmatch(text):
        return None
    try:
        decoded = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    # Spare bits that are not zero would be a second spelling of the same secret.
    return decoded if base64.b64encode(decoded).decode("ascii") == text else None


def _kind(token: str) -> TokenKind:
    if _SESSION_TOKEN.fullmatch(token):
        return TokenKind.SESSION
    if _TICKET.fullmatch(token):
        return TokenKind.TICKET
    raise BadTicket("the password is neither a session token nor a ticket")


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("ascii")).digest()
