"""The server's side of a SOCKS5 handshake (RFC 1928): CONNECT, without authentication. No I/O.

    client: 05 N METHODS              server: 05 00, or 05 FF when 00 is not among them
    client: 05 01 00 TYPE HOST PORT   server: 05 REPLY 00 01 00000000 0000

Rules of this file:
- A client may send its request together with its greeting, and payload behind that.
- Nothing is decided by how the bytes were cut into pieces: each message is read when its length is
  there, from front to back.
- Whose connection it is was settled before the first byte (by the listener), so there is nothing
  to authenticate here; BIND and UDP ASSOCIATE are not offered.
- A host of whatever type goes through the strict parser: a name may hold any byte on this wire.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from tunnel.destinations import Destination, destination
from tunnel.errors import RefusalCode, Refused

__all__ = ["Socks5Handshake"]

VERSION = 5
NO_AUTHENTICATION = 0
NO_ACCEPTABLE_METHODS = 0xFF
CONNECT = 1
IPV4, NAME, IPV6 = 1, 3, 4  # address types
SUCCEEDED = 0
FIXED_BYTES = 4  # version, command, reserved, address type
PORT_BYTES = 2
_ADDRESS_BYTES = {IPV4: 4, IPV6: 16}


class Socks5Handshake:
    """One greeting and one request. `leftover` is what came behind them."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._to_send = b""
        self._greeted = False
        self._over = False

    def receive(self, data: bytes) -> Destination | None:
        """Where the client wants to go, once the request is all there.

        Never holds more than one greeting and one request before it decides (522 bytes), besides
        what `data` brought. Raises: Refused(MALFORMED, UNSUPPORTED, UNSUPPORTED_ADDRESS,
        BAD_DESTINATION).
        """
        if self._over:
            raise RuntimeError("the handshake is over")
        self._buffer += data
        try:
            found = self._read()
        except Refused:
            self._over = True
            raise
        self._over = found is not None
        return found

    def data_to_send(self) -> bytes:
        """What the client must be told now; given once."""
        data, self._to_send = self._to_send, b""
        return data

    def accept(self) -> bytes:
        """The answer when the destination is connected, behind what was not taken yet."""
        return self.data_to_send() + _reply(SUCCEEDED)

    def refuse(self, refused: Refused) -> bytes:
        """The one answer that says no, behind what was not taken yet."""
        if not self._greeted:
            return bytes([VERSION, NO_ACCEPTABLE_METHODS])
        return self.data_to_send() + _reply(refused.code.socks_reply)

    @property
    def leftover(self) -> bytes:
        """The bytes behind the request; empty before it is all there."""
        return bytes(self._buffer) if self._over else b""

    def _read(self) -> Destination | None:
        if not self._greeted:
            if (methods := self._take_greeting()) is None:
                return None
            if NO_AUTHENTICATION not in methods:
                rule = "the client offers no SOCKS method but ones with authentication"
                hint = "leave out user name and password"
                raise Refused(RefusalCode.UNSUPPORTED, rule, hint)
            self._greeted = True
            self._to_send = bytes([VERSION, NO_AUTHENTICATION])
        return self._take_request()

    def _take_greeting(self) -> bytes | None:
        if len(self._buffer) < 2:
            return None
        version, count = self._buffer[:2]
        _check_version(version)
        return None if len(self._buffer) < 2 + count else self._take(2 + count)[2:]

    def _take_request(self) -> Destination | None:
        if len(self._buffer) < FIXED_BYTES + 1:
            return None
        version, command, reserved, kind, first = self._buffer[: FIXED_BYTES + 1]
        _check_version(version)
        if command != CONNECT:
            rule = f"SOCKS command {command} is not understood"
            raise Refused(RefusalCode.UNSUPPORTED, rule, "only CONNECT (1) is")
        if reserved:
            raise _malformed("the reserved byte of the request is not 0")
        host_bytes = 1 + first if kind == NAME else _ADDRESS_BYTES.get(kind)
        if host_bytes is None:
            rule = f"SOCKS address type {kind} is not understood"
            hint = "use a name (3), IPv4 (1) or IPv6 (4)"
            raise Refused(RefusalCode.UNSUPPORTED_ADDRESS, rule, hint)
        end = FIXED_BYTES + host_bytes + PORT_BYTES
        if len(self._buffer) < end:
            return None
        request = self._take(end)
        port = int.from_bytes(request[-PORT_BYTES:], "big")
        return destination(_host(kind, request[FIXED_BYTES:-PORT_BYTES]), port)

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken


def _host(kind: int, data: bytes) -> str:
    if kind == IPV4:
        return str(IPv4Address(data))
    if kind == IPV6:
        return str(IPv6Address(data))
    try:
        return data[1:].decode("utf-8")
    except UnicodeDecodeError:
        raise Refused(RefusalCode.BAD_DESTINATION, "the name is not text in UTF-8") from None


def _check_version(version: int) -> None:
    if version != VERSION:
        raise _malformed(f"version {version} is not {VERSION}")


def _reply(code: int) -> bytes:
    """BND.ADDR and BND.PORT are zero: which socket dialled is nobody's business here."""
    return bytes([VERSION, code, 0, IPV4]) + bytes(4 + PORT_BYTES)


def _malformed(what: str) -> Refused:
    return Refused(RefusalCode.MALFORMED, f"the SOCKS message is not understood: {what}")
