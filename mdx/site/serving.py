"""The site on the network: TLS that only a gateway gets through, and the site's own TLS inside it.

    client ══ TLS, the site's certificate ═══════════════════════════════╗
       └── gateway ══ mutual TLS, the gateway's certificate ══ site ═════╝

Rules of this file:
- The outer layer demands a client certificate of the device CA, made for a gateway. Whoever comes
  without any gets a TLS alert; an app or a device that comes with its own gets a 403 in words.
- The inner layer is what any HTTPS site has. The gateway carries it and cannot look into it.
- Each connection is guarded at its top: none ends the site.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import trio

from mdx.site.pages import Seen, answer
from tunnel import (
    HandshakeFailed,
    Identity,
    Purpose,
    Request,
    Response,
    Role,
    ServerContext,
    TLSStream,
    TunnelError,
    WrongCertificate,
    error_response,
    read_identity,
    serve_requests,
)

__all__ = ["MAX_CONNECTIONS", "Site", "serve"]

MAX_CONNECTIONS = 1024  # each costs a descriptor and two TLS layers, about 200 KiB
HANDSHAKE_SECONDS = 15.0  # for each layer; the inner one crosses two networks


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What serving takes. The contexts are asked for anew for each connection.

    `clock` is the wall clock in Unix seconds; `log(event, **facts)` writes a line.
    """

    name: str
    outer: Callable[[], ServerContext]
    inner: Callable[[], ServerContext]
    clock: Callable[[], float]
    log: Callable[..., None]


async def serve(listeners: list[trio.SocketListener], site: Site) -> None:
    """Serve until cancelled; then connections are reset."""
    limit = trio.CapacityLimiter(MAX_CONNECTIONS)

    async def serve_one(tcp: trio.SocketStream) -> None:
        try:
            async with tcp:
                if limit.available_tokens:
                    async with limit:
                        await _serve_connection(tcp, site)
                else:
                    site.log("connection.refused", reason="too many connections")
        except trio.TooSlowError:
            site.log("connection.refused", reason="the TLS handshake took too long")
        except (HandshakeFailed, WrongCertificate) as error:
            site.log("connection.refused", reason=str(error))
        except (trio.BrokenResourceError, trio.ClosedResourceError, TunnelError, OSError):
            site.log("connection.cut")
        except Exception as error:
            site.log("connection.failed", error=type(error).__name__)

    await trio.serve_listeners(serve_one, listeners)


async def _serve_connection(tcp: trio.SocketStream, site: Site) -> None:
    outer = await _shake_hands(tcp, site.outer())
    try:
        gateway = _read_gateway(outer, site.clock())
    except WrongCertificate as error:
        await _tell(outer, str(error))
        raise
    inner = await _shake_hands(outer, site.inner())
    seen = Seen(
        site=site.name,
        gateway=gateway.name or "",
        outer=outer.negotiated,
        inner=inner.negotiated,
    )

    async def show(request: Request) -> Response:
        response = answer(request, seen)
        site.log(
            "request", method=request.method, target=request.target[:300], status=response.status
        )
        return response

    await serve_requests(inner, show)


async def _shake_hands(transport: trio.abc.Stream, context: ServerContext) -> TLSStream:
    stream = TLSStream(transport, context)
    with trio.fail_after(HANDSHAKE_SECONDS):
        await stream.do_handshake()
    return stream


def _read_gateway(outer: TLSStream, now: float) -> Identity:
    """Who is at the other end of the outer layer. Raises: WrongCertificate for all but gateways."""
    certificate = outer.peer_certificate
    if certificate is None:
        raise WrongCertificate("no certificate was shown")
    identity = read_identity(certificate, now, purpose=Purpose.CLIENT)
    if identity.role is not Role.GATEWAY:
        raise WrongCertificate(f"this site speaks to gateways, not to a {identity.role.value}")
    return identity


async def _tell(outer: TLSStream, reason: str) -> None:
    """Refuse in HTTP, whatever is asked for: whoever comes here directly speaks that."""

    async def refuse(_: Request) -> Response:
        return error_response(403, reason, "go through the gateway: mdx run APP -- COMMAND")

    with trio.move_on_after(HANDSHAKE_SECONDS):
        await serve_requests(outer, refuse, idle_seconds=HANDSHAKE_SECONDS)
