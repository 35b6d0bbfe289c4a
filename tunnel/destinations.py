"""Where a connection wants to go: one host and one port, each with exactly one spelling.

Rules of this file:
- It runs before any resolver. `getaddrinfo` reads `2130706433`, `0177.0.0.1`, `0x7f.1`, `127.1`,
  `①②⑦.⓪.⓪.①` and `127.0.0.1\\0.ok.test` as loopback: a rule that compares names must never see
  a text that some resolver reads as an address.
- A host is a dotted quad without leading zeros, an IPv6 address without zone, or a DNS name of
  lower-case LDH labels (RFC 1123) whose last label is neither all digits nor `0x…`. Underscores are
  allowed in names: private zones use them and no resolver reads them as anything else.
- Unicode names become A-labels (IDNA 2008, RFC 5891). Mapping (UTS 46) may change case and
  normalise, but it may not turn another script's character into ASCII or drop one: full-width
  digits, ideographic full stops and soft hyphens are disguises and are refused.
- A `Destination` that exists is canonical: nothing else can be put into one.

It never looks anything up, and never shows the text of a client unquoted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from unicodedata import normalize

from tunnel.errors import RefusalCode, Refused

__all__ = ["MAX_NAME_BYTES", "Destination", "destination", "parse_destination", "parse_host"]

MAX_NAME_BYTES = 253  # RFC 1035, 2.3.4: 255 octets on the wire are 253 characters of text
MAX_PORT = 65535

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_PORT = re.compile(r"[0-9]{1,5}")
_QUAD = re.compile(r"(?:(?:0|[1-9][0-9]{0,2})\.){3}(?:0|[1-9][0-9]{0,2})")
_V6_TEXT = re.compile(r"[0-9A-Fa-f:.]+")
_READ_AS_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


@dataclass(frozen=True, slots=True)
class Destination:
    """A canonical host and a port. Raises: Refused(BAD_DESTINATION) for any other spelling.

    `host` is a lower-case A-label name without trailing dot, or canonical address text (RFC 5952,
    without brackets); `address` is set for the latter. `str()` gives `host:port` or `[v6]:port`.
    """

    host: str
    port: int
    address: IPv4Address | IPv6Address | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        address = _parse_address(self.host)
        canonical = parse_host(self.host) if address is None else _address_text(address)
        if canonical != self.host:
            raise _bad(f"{_quoted(self.host)} is not the canonical spelling of a host")
        if not 1 <= self.port <= MAX_PORT:
            raise _bad(f"port {self.port} is not in 1-{MAX_PORT}")
        object.__setattr__(self, "address", address)

    def __str__(self) -> str:
        if isinstance(self.address, IPv6Address):
            return f"[{self.host}]:{self.port}"
        return f"{self.host}:{self.port}"


def parse_destination(text: str, *, default_port: int | None = None) -> Destination:
    """Read `host:port` or `[v6]:port`; the port may be left out when there is a default.

    Raises: Refused(BAD_DESTINATION).
    """
    _refuse_user_information(text)
    if text.startswith("["):
        inner, bracket, rest = text[1:].partition("]")
        address = _parse_v6(inner)
        if not bracket or address is None:
            raise _bad(f"{_quoted(text)} has no IPv6 address between its brackets")
        host = _address_text(address)
    else:
        host, colon, rest = text.partition(":")
        rest = colon + rest
        host = parse_host(host)
    if not rest:
        if default_port is None:
            raise _bad(f"{_quoted(text)} names no port")
        return Destination(host, default_port)
    if not rest.startswith(":"):
        raise _bad(f"{_quoted(text)} has more than an address and a port")
    return Destination(host, _parse_port(rest[1:]))


def destination(host: str, port: int) -> Destination:
    """A destination from a host in any acceptable spelling. Raises: Refused(BAD_DESTINATION)."""
    return Destination(parse_host(host), port)


def parse_host(text: str) -> str:
    """The canonical spelling of a name or of an address without brackets.

    Raises: Refused(BAD_DESTINATION).
    """
    _refuse_user_information(text)
    address = _parse_address(text)
    if address is not None:
        return _address_text(address)
    if len(text) > MAX_NAME_BYTES + 1:
        raise _bad(f"{_quoted(text)} is longer than {MAX_NAME_BYTES} characters")
    name = text.removesuffix(".")
    if not name:
        raise _bad("the host is empty")
    labels = [_canonical_label(label) for label in name.split(".")]
    canonical = ".".join(labels)
    if len(canonical) > MAX_NAME_BYTES:
        raise _bad(f"{_quoted(text)} is longer than {MAX_NAME_BYTES} characters")
    if _READ_AS_NUMBER.fullmatch(labels[-1]):
        raise _bad(
            f"{_quoted(text)} would be read as an address by some resolvers and is not exactly one",
            "write an IPv4 address as four decimal numbers without leading zeros",
        )
    return canonical


def _refuse_user_information(text: str) -> None:
    if "@" in text:  # it is not quoted, because it is where passwords stand
        raise _bad("user information has no place before a host", "leave out USER:PASSWORD@")


def _parse_address(text: str) -> IPv4Address | IPv6Address | None:
    if _QUAD.fullmatch(text):
        try:
            return IPv4Address(text)
        except AddressValueError:
            return None  # a number above 255; the name rules then refuse its last label
    return _parse_v6(text) if ":" in text else None


def _parse_v6(text: str) -> IPv6Address | None:
    if not _V6_TEXT.fullmatch(text):
        return None  # a zone id says which interface, which is not the client's to choose
    try:
        return IPv6Address(text)
    except AddressValueError:
        return None


def _address_text(address: IPv4Address | IPv6Address) -> str:
    # Python 3.13 began to write mapped addresses in mixed notation (RFC 5952, section 5).
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return f"::ffff:{address.ipv4_mapped}"
    return str(address)


def _parse_port(text: str) -> int:
    if not _PORT.fullmatch(text) or not 1 <= int(text) <= MAX_PORT:
        raise _bad(f"{_quoted(text)} is not a port in 1-{MAX_PORT}")
    return int(text)


def _canonical_label(label: str) -> str:
    if not label.isascii():
        return _to_a_label(label)
    lowered = label.lower()
    if not _LABEL.fullmatch(lowered):
        raise _bad(f"{_quoted(label)} is not a label of a DNS name")
    if lowered.startswith("xn--"):
        _check_a_label(lowered)
    return lowered


def _to_a_label(label: str) -> str:
    import idna  # its tables take as long to load as all of this package, and few names need them

    try:
        mapped = "".join(_map_character(character) for character in label)
        return idna.alabel(normalize("NFC", mapped)).decode("ascii")
    except UnicodeError:
        raise _bad(f"{_quoted(label)} is not an internationalised label (IDNA 2008)") from None


def _map_character(character: str) -> str:
    import idna

    if character.isascii():
        return character.lower()
    mapped = idna.uts46_remap(character, True, False)
    if not mapped or any(part.isascii() for part in mapped):
        raise _bad(f"the character {_quoted(character)} stands for another in a name")
    return mapped


def _check_a_label(label: str) -> None:
    import idna

    try:
        same = idna.alabel(idna.ulabel(label)).decode("ascii") == label
    except UnicodeError:
        same = False
    if not same:
        raise _bad(f"{_quoted(label)} is not the A-label of any name (IDNA 2008)")


def _quoted(text: str) -> str:
    return ascii(text if len(text) <= 80 else text[:80] + "…")


def _bad(rule: str, hint: str = "") -> Refused:
    return Refused(RefusalCode.BAD_DESTINATION, rule, hint)
