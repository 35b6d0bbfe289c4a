"""Join codes: one line of text from which a device finds control, trusts it and may enroll.

    mdxj1.PAYLOAD

    PAYLOAD is unpadded base64url (RFC 4648, section 5), in its one canonical form, of
    checksum (4 bytes) ‖ secret (16) ‖ SHA-256 of the root CA's SPKI (32) ‖ HOST:PORT

Rules of this file:
- The secret is 128 random bits: nobody guesses it, so control keeps a plain SHA-256 of it, and a
  look-up of that hash takes the same work for every guess.
- The checksum is there for people who copy half a line. It proves nothing about who made the code.
- The device trusts the service whose certificate chain ends in the key with this hash and nobody
  else, from the first byte on.
- No code and no part of one is in a repr or an exception.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from dataclasses import dataclass, field

from mdx.errors import MdxError
from tunnel import Destination, Refused, parse_destination

__all__ = ["JoinCode", "new_join_code", "parse_join_code", "secret_hash"]

PREFIX = "mdxj1."
SECRET_BYTES = 16
PIN_BYTES = 32
CHECKSUM_BYTES = 4
FIXED_BYTES = CHECKSUM_BYTES + SECRET_BYTES + PIN_BYTES
MAX_CODE_CHARACTERS = 512  # a host name of 253 characters in base64, with room

_BASE64 = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinCode:
    """What a join code says. `pin` is the SHA-256 of the root CA's DER SPKI, in lower-case hex."""

    host: str
    port: int
    pin: str
    secret: bytes = field(repr=False)

    def text(self) -> str:
        """The code as a person passes it on; it is a secret."""
        address = str(Destination(self.host, self.port)).encode("ascii")
        content = self.secret + bytes.fromhex(self.pin) + address
        payload = base64.urlsafe_b64encode(_checksum(content) + content).rstrip(b"=")
        return PREFIX + payload.decode("ascii")


def new_join_code(*, host: str, port: int, pin: str) -> JoinCode:
    """A code with a fresh secret. `host` is an address or a name, `pin` 64 hexadecimal digits.

    Raises: Refused (BAD_DESTINATION) when host and port are nothing that a device could dial.
    """
    Destination(host, port)
    return JoinCode(host=host, port=port, pin=pin, secret=secrets.token_bytes(SECRET_BYTES))


def parse_join_code(text: str) -> JoinCode:
    """Raises: MdxError when `text` (white space around it aside) is not a whole join code."""
    text = text.strip()
    payload = _decode(text.removeprefix(PREFIX)) if text.startswith(PREFIX) else None
    if payload is None or len(text) > MAX_CODE_CHARACTERS or len(payload) <= FIXED_BYTES:
        raise _bad("this is not a join code")
    checksum, content = payload[:CHECKSUM_BYTES], payload[CHECKSUM_BYTES:]
    if checksum != _checksum(content):
        raise _bad("the join code is cut off or mistyped")
    secret, rest = content[:SECRET_BYTES], content[SECRET_BYTES:]
    pin, address = rest[:PIN_BYTES], rest[PIN_BYTES:]
    try:
        where = parse_destination(address.decode("ascii"))
    except (UnicodeDecodeError, Refused):
        raise _bad("the join code names no address") from None
    return JoinCode(host=where.host, port=where.port, pin=pin.hex(), secret=secret)


def secret_hash(secret: bytes) -> bytes:
    """Under which control knows the code with this secret."""
    return hashlib.sha256(b"mdx join code 1\0" + secret).digest()


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(b"mdx join code 1 checksum\0" + content).digest()[:CHECKSUM_BYTES]


def _decode(text: str) -> bytes | None:
    """The bytes, or None when `text` is not the one spelling of any."""
    if not _BASE64.fullmatch(text) or len(text) % 4 == 1:
        return None
    try:
        decoded = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        return None
    return decoded if base64.urlsafe_b64encode(decoded).rstrip(b"=").decode() == text else None


def _bad(message: str) -> MdxError:
    return MdxError(
        message, hint="copy the whole line, from mdxj1. to its end, or ask for a new code"
    )
