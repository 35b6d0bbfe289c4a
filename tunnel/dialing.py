"""Dialling a destination: one look-up, a check of every address, a connection to what was checked.

Rules of this file:
- A name is looked up once, and the connection goes to the very address that was checked. Whoever
  checks one answer and dials another one can be led astray by a name server.
- Addresses are tried in the order of the answer, each a moment after the one before it (in the
  spirit of RFC 8305); the first connection wins and the others are closed.
- What the system says is turned into a refusal code here, once.
"""

from __future__ import annotations

import errno
import math
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

import trio

from tunnel.destinations import Destination
from tunnel.errors import RefusalCode, Refused

__all__ = ["Address", "addresses_to_dial", "dial", "look_up", "system_resolve"]

Address = IPv4Address | IPv6Address

STAGGER_SECONDS = 0.25  # RFC 8305, section 5: 150 to 250 ms
MAX_ADDRESSES = 16  # of one answer; a name server must not choose how long we knock
# What says that there is no way to the host; anything else that is not listed counts as this too.
_CODES = {
    errno.ECONNREFUSED: RefusalCode.CONNECTION_REFUSED,
    errno.ECONNRESET: RefusalCode.CONNECTION_REFUSED,
    errno.ETIMEDOUT: RefusalCode.TIMED_OUT,
}


async def dial(
    destination: Destination,
    *,
    resolve: Callable[[str], Awaitable[Sequence[Address]]],
    check: Callable[[Address], None],
    chosen: Callable[[Sequence[Address]], None] | None = None,
    timeout_seconds: float = 10.0,
    stagger_seconds: float = STAGGER_SECONDS,
) -> trio.SocketStream:
    """A TCP connection to `destination`.

    `check(address)` raises Refused for an address that may not be dialled; such addresses are left
    out, and when none remains the first of these refusals is raised. `chosen` is told which
    addresses remain before the first of them is dialled; what it raises ends the call.

    Raises: Refused (from `check`, or NAME_NOT_FOUND, CONNECTION_REFUSED, UNREACHABLE, TIMED_OUT).
    """
    with trio.move_on_after(timeout_seconds):
        allowed = await addresses_to_dial(destination, resolve=resolve, check=check)
        if chosen is not None:
            chosen(allowed)
        return await _race(destination, allowed, stagger_seconds)
    raise Refused(
        RefusalCode.TIMED_OUT, f"{destination} did not answer within {timeout_seconds:g} s"
    )


async def addresses_to_dial(
    destination: Destination,
    *,
    resolve: Callable[[str], Awaitable[Sequence[Address]]],
    check: Callable[[Address], None],
) -> list[Address]:
    """The addresses that `dial` would try, in its order, without dialling any.

    Raises: Refused (from `check` or `resolve`, or NAME_NOT_FOUND).
    """
    return _allowed(await look_up(destination, resolve), check)


async def look_up(
    destination: Destination, resolve: Callable[[str], Awaitable[Sequence[Address]]]
) -> Sequence[Address]:
    """The addresses of a destination that are considered at all, at most MAX_ADDRESSES.

    Raises: Refused (from `resolve`, or NAME_NOT_FOUND).
    """
    if destination.address is not None:
        return [destination.address]
    addresses = await resolve(destination.host)
    if not addresses:
        raise Refused(RefusalCode.NAME_NOT_FOUND, f"the name {destination.host} has no address")
    return addresses[:MAX_ADDRESSES]


async def system_resolve(host: str) -> list[Address]:
    """The addresses of a name by the system's resolver, in its order.

    AI_ADDRCONFIG is off: what interfaces this host has must not hide an address from the check.

    Raises: Refused (NAME_NOT_FOUND).
    """
    try:
        found = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=0)
    except (socket.gaierror, UnicodeError):
        raise Refused(RefusalCode.NAME_NOT_FOUND, f"the name {host} has no address") from None
    addresses: dict[Address, None] = {}  # a set that keeps the order
    for family, _, _, _, where in found:
        if family in (socket.AF_INET, socket.AF_INET6):
            addresses[ip_address(where[0])] = None
    return list(addresses)


def _allowed(addresses: Sequence[Address], check: Callable[[Address], None]) -> list[Address]:
    allowed: list[Address] = []
    first_refusal: Refused | None = None
    for address in addresses:
        try:
            check(address)
        except Refused as refused:
            first_refusal = first_refusal or refused
        else:
            allowed.append(address)
    if not allowed and first_refusal is not None:
        raise first_refusal
    return allowed


async def _race(
    destination: Destination, addresses: Sequence[Address], stagger_seconds: float
) -> trio.SocketStream:
    winner: list[trio.socket.SocketType] = []
    errors: list[OSError] = []
    failed = [trio.Event() for _ in addresses]

    async def attempt(index: int, nursery: trio.Nursery) -> None:
        address = addresses[index]
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        connection: trio.socket.SocketType | None = None
        try:
            connection = trio.socket.socket(family, socket.SOCK_STREAM)
            await connection.connect((str(address), destination.port))
        except OSError as error:
            errors.append(error)
            failed[index].set()
            if connection is not None:
                connection.close()
        except BaseException:
            if connection is not None:
                connection.close()
            raise
        else:
            if winner:  # a connection that came second, in the same turn
                connection.close()
                return
            winner.append(connection)
            nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            for index in range(len(addresses)):
                nursery.start_soon(attempt, index, nursery)
                last = index == len(addresses) - 1
                with trio.move_on_after(math.inf if last else stagger_seconds):
                    await failed[index].wait() if not last else None
    except BaseException:
        for connection in winner:
            connection.close()
        raise
    if winner:
        return trio.SocketStream(winner[0])
    raise _refusal(destination, errors)


def _refusal(destination: Destination, errors: Sequence[OSError]) -> Refused:
    codes = [_CODES.get(error.errno or 0, RefusalCode.UNREACHABLE) for error in errors]
    # Someone who said no tells more than a network that did not carry the question.
    for code, words in (
        (RefusalCode.CONNECTION_REFUSED, "refused the connection"),
        (RefusalCode.TIMED_OUT, "did not answer"),
    ):
        if code in codes:
            return Refused(code, f"{destination} {words}")
    return Refused(RefusalCode.UNREACHABLE, f"there is no way to {destination}")
