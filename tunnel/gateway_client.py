"""The agent's way to the gateway: one mutual-TLS connection and one CONNECT for each stream.

Theory of operation. The run's certificate and a ticket come from callables, asked on first need,
so that a run which never tunnels costs control nothing. The first connection redeems the ticket
for a session token, which only this certificate's key can use; every CONNECT carries the token.
A gateway that no longer knows the token (it was restarted, or a timer ended) answers 407; then a
new ticket is redeemed, once per stream, so that a gateway which always says 407 ends in a refusal.

Never: a look-up of the destination here, a payload byte before the gateway's 2xx (RFC 9931),
a connection without the certificate.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import h11
import trio

from tunnel.destinations import Destination
from tunnel.errors import (
    BadTicket,
    HandshakeFailed,
    RefusalCode,
    Refused,
    TunnelError,
    WrongCertificate,
)
from tunnel.gateway_requests import SESSION_PATH, STATUS_PATH
from tunnel.identity import Role, read_subject
from tunnel.tickets import parse_session_token
from tunnel.tls import ClientContext, Negotiated
from tunnel.tls_stream import TLSStream

__all__ = ["Answer", "GatewayClient", "Opened", "SessionToken", "ask_gateway"]

MAX_ANSWER_BYTES = 16 * 1024  # head and body of what a gateway says; ours are under 1 KiB
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 30.0  # the gateway dials meanwhile, and tells when that takes too long


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionToken:
    """What a redeemed ticket gave: a token bound to this certificate's key."""

    token: str = field(repr=False)
    expires_in: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A stream to a destination. `early` are bytes that came before the app was told."""

    stream: trio.abc.HalfCloseableStream
    early: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A gateway's 200 to a request that opens no stream."""

    body: bytes = field(repr=False)
    negotiated: Negotiated


class GatewayClient:
    """Opens streams through one gateway for one app.

    `context()` gives the TLS context with the run's certificate, `ticket()` a fresh ticket; both
    may raise Refused. `host`, `port` say where the gateway is, `name` what its certificate says.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        name: str,
        context: Callable[[], Awaitable[ClientContext]],
        ticket: Callable[[], Awaitable[str]],
    ) -> None:
        self._place = _Place(host=host, port=port, name=name)
        self._context = context
        self._ticket = ticket
        self._token: SessionToken | None = None
        self._token_ends = -math.inf  # on trio's clock
        self._redeeming = trio.Lock()
        self.negotiated: Negotiated | None = None

    async def open_(self, destination: Destination, *, flow: str) -> Opened:
        """A stream to `destination`, dialled by the gateway.

        Raises: Refused with the gateway's own reason, or GATEWAY_DOWN when it cannot be reached.
        Never NOT_AUTHENTICATED: that the gateway does not take our token is no matter of the app's.
        """
        try:
            token = await self._current_token(None)
            answer = await self._ask_connect(destination, flow, token)
            if isinstance(answer, Refused) and answer.code is RefusalCode.NOT_AUTHENTICATED:
                token = await self._current_token(token)
                answer = await self._ask_connect(destination, flow, token)
            if isinstance(answer, Refused):
                raise answer
            return answer
        except Refused as refused:
            if refused.code is RefusalCode.NOT_AUTHENTICATED:
                raise Refused(
                    RefusalCode.GATEWAY_REFUSED, refused.rule, refused.hint or "mdx doctor"
                ) from None
            raise

    async def redeem(self) -> SessionToken:
        """Redeem a fresh ticket at the gateway for a session token.

        Raises: Refused when the gateway, or the authority behind it, does not accept it.
        """
        ticket = await self._ticket()
        headers = [
            ("Host", self._place.authority),
            ("Authorization", f"Bearer {ticket}"),
            ("Content-Length", "0"),
            ("Connection", "close"),
        ]
        request = h11.Request(method="POST", target=SESSION_PATH, headers=headers)
        answer = await self._place.ask(request, await self._context())
        self.negotiated = answer.negotiated
        try:
            fields = json.loads(answer.body)
            token = parse_session_token(fields["token"])
            expires_in = float(fields["expires_in"])
        except (ValueError, KeyError, TypeError, BadTicket):
            raise Refused(
                RefusalCode.GATEWAY_REFUSED, "the gateway's answer makes no sense", "mdx doctor"
            ) from None
        return SessionToken(token=token, expires_in=expires_in)

    async def renew(self) -> None:
        """Show the gateway the certificate as it is now, so that open streams live on with it.

        Raises: Refused.
        """
        headers = [("Host", self._place.authority), ("Connection", "close")]
        request = h11.Request(method="GET", target=STATUS_PATH, headers=headers)
        await self._place.ask(request, await self._context())

    async def _current_token(self, unusable: SessionToken | None) -> SessionToken:
        async with self._redeeming:  # streams that start together share one ticket
            token = self._token
            if token is None or token is unusable or trio.current_time() >= self._token_ends:
                token = await self.redeem()
                self._token = token
                self._token_ends = trio.current_time() + token.expires_in * 0.9
            return token

    async def _ask_connect(
        self, destination: Destination, flow: str, token: SessionToken
    ) -> Opened | Refused:
        headers = [
            ("Host", str(destination)),
            ("Proxy-Authorization", f"Bearer {token.token}"),
            ("Mdx-Flow", flow),
        ]
        request = h11.Request(method="CONNECT", target=str(destination), headers=headers)
        stream = await self._place.connect(await self._context())
        self.negotiated = stream.negotiated
        opened = False
        try:
            response, body, early = await self._place.exchange(stream, request)
            opened = 200 <= response.status_code < 300
        finally:
            if not opened:
                await trio.aclose_forcefully(stream)
        return Opened(stream=stream, early=early) if opened else _refusal(response, body)


async def ask_gateway(
    request: h11.Request, *, host: str, port: int, name: str, context: ClientContext
) -> Answer:
    """One request without a body, on a connection of its own.

    Raises: Refused for every other answer than 200, and for none.
    """
    return await _Place(host=host, port=port, name=name).ask(request, context)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a gateway is, and what its certificate says."""

    host: str
    port: int
    name: str

    @property
    def authority(self) -> str:
        return f"{self.name}:{self.port}"

    async def ask(self, request: h11.Request, context: ClientContext) -> Answer:
        stream = await self.connect(context)
        try:
            response, body, _ = await self.exchange(stream, request)
        finally:
            await trio.aclose_forcefully(stream)
        if response.status_code != 200:
            raise _refusal(response, body)
        return Answer(body=body, negotiated=stream.negotiated)

    async def connect(self, context: ClientContext) -> TLSStream:
        """A connection after its handshake. Raises: Refused."""
        try:
            with trio.fail_after(CONNECT_SECONDS):
                tcp = await trio.open_tcp_stream(self.host, self.port)
                stream = TLSStream(tcp, context, server_name=self.name)
                try:
                    await stream.do_handshake()
                    self._check_role(stream)
                except BaseException:
                    await trio.aclose_forcefully(stream)
                    raise
        except HandshakeFailed as error:
            raise self._tls_failed(error) from None
        except (OSError, trio.TooSlowError, TunnelError) as error:
            raise Refused(
                RefusalCode.GATEWAY_DOWN,
                f"the gateway at {self.host}:{self.port} does not answer ({_reason(error)})",
                "is it running? on an all-in-one machine: mdx up",
            ) from None
        return stream

    def _check_role(self, stream: TLSStream) -> None:
        """Chain and name would also fit another service of the same CA at this address."""
        certificate = stream.peer_certificate
        try:
            subject = read_subject(certificate) if certificate else None
        except WrongCertificate as error:
            raise HandshakeFailed(str(error)) from None
        if subject is None or subject.role is not Role.GATEWAY:
            raise HandshakeFailed("the server is no gateway")

    async def exchange(
        self, stream: TLSStream, request: h11.Request
    ) -> tuple[h11.Response, bytes, bytes]:
        """(response, its body, bytes after a 2xx to CONNECT). Raises: Refused."""
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_ANSWER_BYTES)
        try:
            with trio.fail_after(ANSWER_SECONDS):
                await stream.send_all(
                    (connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b"")
                )
                return await _read_answer(stream, connection)
        except HandshakeFailed as error:  # TLS 1.3 tells of a refused certificate only now
            raise self._tls_failed(error) from None
        except (trio.BrokenResourceError, h11.RemoteProtocolError) as error:
            raise Refused(
                RefusalCode.GATEWAY_DOWN,
                f"the gateway {self.name} broke off ({_reason(error)})",
                "try again; its log says why",
            ) from None
        except trio.TooSlowError:
            raise Refused(
                RefusalCode.TIMED_OUT,
                f"the gateway {self.name} took longer than {ANSWER_SECONDS:.0f} s",
                "try again",
            ) from None

    def _tls_failed(self, error: HandshakeFailed) -> Refused:
        return Refused(
            RefusalCode.GATEWAY_REFUSED,
            f"TLS with the gateway {self.name} failed: {error}",
            "mdx status",
        )


async def _read_answer(
    stream: TLSStream, connection: h11.Connection
) -> tuple[h11.Response, bytes, bytes]:
    response: h11.Response | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some())
        elif isinstance(event, h11.Response):
            response = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_ANSWER_BYTES:
                raise h11.RemoteProtocolError("an answer larger than any that a gateway gives")
        elif response is not None and (
            event is h11.PAUSED or isinstance(event, h11.EndOfMessage | h11.ConnectionClosed)
        ):
            early, _ = connection.trailing_data
            return response, bytes(body), early
        elif isinstance(event, h11.ConnectionClosed):
            raise h11.RemoteProtocolError("closed before it answered")


def _refusal(response: h11.Response, body: bytes) -> Refused:
    """The gateway's refusal, as the agent passes it on to the app."""
    named = dict(response.headers).get(b"mdx-refused", b"").decode("ascii", "replace")
    code = RefusalCode.__members__.get(named)
    if code is None:
        code = (
            RefusalCode.NOT_AUTHENTICATED
            if response.status_code == RefusalCode.NOT_AUTHENTICATED.http_status
            else RefusalCode.GATEWAY_REFUSED
        )
    said = " ".join(body.decode("utf-8", "replace").split())[:500]
    text = "".join(character if character.isprintable() else "�" for character in said)
    said = text.removeprefix(f"{code.value}: ") or f"status {response.status_code}"
    return Refused(code, f"gateway: {said}")


def _reason(error: BaseException) -> str:
    if isinstance(error, trio.TooSlowError):
        return f"no answer within {CONNECT_SECONDS:.0f} s"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
