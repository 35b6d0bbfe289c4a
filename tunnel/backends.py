"""Opening a backend for a flow that was allowed: host table or look-up, guard, dial, perhaps TLS.

Rules of this file:
- A destination in the table of hosts goes to the address that stands there, past the guard.
- Every other is looked up once; each address passes the guard, and what is dialled is an address
  that did. A name server cannot lead a flow to this machine or to a metadata service.
- Where the gateway ends TLS, the backend's certificate must be good: chain and name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Sequence

import trio

from tunnel.addresses import Address, guarded
from tunnel.destinations import Destination
from tunnel.dialing import addresses_to_dial, dial
from tunnel.errors import HandshakeFailed, RefusalCode, Refused
from tunnel.hosts import Host, Hosts
from tunnel.relay import abort
from tunnel.tls import ClientContext
from tunnel.tls_stream import TLSStream

__all__ = ["check_backend", "open_backend"]


async def open_backend(
    destination: Destination,
    *,
    hosts: Hosts,
    resolve: Callable[[str], Awaitable[Sequence[Address]]],
    own: Container[Address],
    chosen: Callable[[Sequence[Address]], None],
    timeout_seconds: float,
) -> trio.abc.HalfCloseableStream:
    """The backend's stream. `chosen` is told which addresses will be tried, before the first is.

    Raises: Refused, also when `chosen` does.
    """
    host = hosts.find(destination)
    with trio.move_on_after(timeout_seconds):
        if host is None:
            return await dial(
                destination,
                resolve=resolve,
                check=_guard(own),
                chosen=chosen,
                timeout_seconds=timeout_seconds,
            )
        tcp = await dial(
            host.dial,
            resolve=resolve,
            check=_pass,
            chosen=chosen,
            timeout_seconds=timeout_seconds,
        )
        return tcp if host.tls is None else await _shake_hands(tcp, host, host.tls)
    raise Refused(
        RefusalCode.TIMED_OUT, f"{destination} did not answer within {timeout_seconds:g} s"
    )


async def check_backend(
    destination: Destination,
    *,
    hosts: Hosts,
    resolve: Callable[[str], Awaitable[Sequence[Address]]],
    own: Container[Address],
    timeout_seconds: float,
) -> None:
    """What `open_backend` does before it dials: table of hosts, look-up, guard.

    Raises: Refused.
    """
    if hosts.find(destination) is not None:
        return
    with trio.move_on_after(timeout_seconds):
        await addresses_to_dial(destination, resolve=resolve, check=_guard(own))
        return
    raise Refused(
        RefusalCode.TIMED_OUT, f"{destination} was not looked up within {timeout_seconds:g} s"
    )


def _guard(own: Container[Address]) -> Callable[[Address], None]:
    def check(address: Address) -> None:
        if reason := guarded(address, own=own):
            raise Refused(
                RefusalCode.ADDRESS_GUARD,
                f"address guard: {reason}",
                "only the gateway's table of hosts can name it",
            )

    return check


def _pass(address: Address) -> None:
    """For an address that stands in the table of hosts."""


async def _shake_hands(tcp: trio.SocketStream, host: Host, context: ClientContext) -> TLSStream:
    stream = TLSStream(tcp, context, server_name=host.server_name or host.destination.host)
    try:
        await stream.do_handshake()
    except HandshakeFailed as error:
        raise Refused(
            RefusalCode.UNREACHABLE, f"TLS with {host.destination} failed: {error}"
        ) from None
    except BaseException:
        await abort(tcp)
        raise
    return stream
