"""The gateway: an HTTPS proxy over mutual TLS that decides again what a device has decided before.

    POST /.well-known/mdx/session   a ticket for a session token
    GET  /.well-known/mdx/status    who you are here, and what TLS agreed on
    POST /.well-known/mdx/check     what CONNECT would say, with a session token; nothing is dialled
    CONNECT HOST:PORT               a stream, with a session token or (once) a ticket

Theory of operation. A connection passes through gates, and each says why it refuses: places left,
TLS 1.3 with a client certificate, an identity in that certificate, a request head of the one form,
a token of that identity, the allow list, the address guard on every address, the audit. Only then
is the backend dialled, at an address that was checked; only then comes the 200. One connection
carries one request.

Rules of this file:
- A refusal is one answer and the end of the connection. What the client sent behind its request is
  thrown away unread (RFC 9931).
- What cannot be recorded does not happen: the record comes before the token and before the dial.
  A refusal needs no record to be a refusal. Strangers without a certificate get a line in the log
  only, or they would choose how fast the audit grows.
- No exception leaves a connection's task: it would end the gateway for everyone.
- Time runs forwards only: a clock that was set back revives no certificate.
- A connection ends with the certificate, or with the session, that opened it, and with the
  standing of its device.

Never: a configuration file, a database, a secret in a log line, a look at what flows carry.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field

import trio

from tunnel.addresses import Address
from tunnel.backends import check_backend, open_backend
from tunnel.destinations import Destination
from tunnel.errors import (
    HandshakeFailed,
    RefusalCode,
    Refused,
    TunnelError,
    WrongCertificate,
)
from tunnel.gateway_requests import (
    ESTABLISHED,
    Asked,
    asked_destination,
    demand_app,
    demand_no_body,
    flow_id,
    json_answer,
    receive_head,
    shown_credentials,
    what_is_asked,
)
from tunnel.gateway_setup import GatewaySetup, Redeemed
from tunnel.http_head import Head
from tunnel.http_proxy import connect_destination, refusal_answer
from tunnel.identity import Identity, Purpose, Role, read_identity
from tunnel.limits import Places
from tunnel.relay import Relayed, abort, relay
from tunnel.sessions import Session, Sessions
from tunnel.tickets import TokenKind
from tunnel.tls_stream import TLSStream

__all__ = ["serve_gateway"]

CLOCK_TICK_SECONDS = 10.0  # trio's timers do not see a clock that jumps or a machine that sleeps
_MAY_ASK_STATUS = frozenset({Role.APP, Role.DEVICE})


async def serve_gateway(
    listeners: Sequence[trio.SocketListener],
    setup: GatewaySetup,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; then listeners are closed and every connection is reset.

    The end of each flow is recorded then, too.
    """
    gateway = _Gateway(setup)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.watch_clock)
        nursery.start_soon(gateway.watch_revocations)
        await nursery.start(trio.serve_listeners, gateway.serve, listeners)
        task_status.started()


class _Gateway:
    """What the connections of one gateway share."""

    def __init__(self, setup: GatewaySetup) -> None:
        self._setup = setup
        self._limits = setup.limits
        self._places = Places()
        self._sessions = Sessions(per_device=setup.limits.sessions_per_device)
        self._timed: set[_Timed] = set()
        self._highest_now = -math.inf

    def now(self) -> float:
        """The wall clock's highest time so far."""
        self._highest_now = max(self._highest_now, self._setup.clock())
        return self._highest_now

    async def watch_clock(self) -> None:
        """End what is over by the wall clock, whatever trio's own clock says."""
        while True:
            now = self.now()
            for timed in self._timed:
                if now >= timed.ends_at:
                    timed.scope.cancel()
            self._sessions.expire(now)
            await trio.sleep(CLOCK_TICK_SECONDS)

    async def watch_revocations(self) -> None:
        """Cut the connections of a device at the moment at which it is known to be revoked."""
        while True:
            await self._setup.revoked.changed()
            for timed in self._timed:
                if timed.device in self._setup.revoked:
                    timed.scope.cancel()

    # One connection -----------------------------------------------------------------------

    async def serve(self, tcp: trio.SocketStream) -> None:
        """One connection, from accept to its end. Raises nothing."""
        peer = "unknown"
        try:
            peer = tcp.socket.getpeername()[0]
            with self._places.take("connections", at_most=self._limits.connections):
                await self._serve_tls(tcp, peer)
        except Refused as refused:  # before TLS: there is no cheap way to tell the client
            self._log("connection.refused", peer=peer, code=refused.code.value)
        except HandshakeFailed as error:
            self._log("handshake.failed", peer=peer, reason=str(error))
        except trio.TooSlowError:
            self._log("connection.slow", peer=peer)
        except (trio.BrokenResourceError, trio.ClosedResourceError, TunnelError, OSError):
            self._log("connection.cut", peer=peer)
        except Exception as error:
            # The type only: a message could carry what a client sent.
            self._log("connection.failed", peer=peer, error=type(error).__name__)
        finally:
            with trio.CancelScope(shield=True):
                await abort(tcp)

    async def _serve_tls(self, tcp: trio.SocketStream, peer: str) -> None:
        stream = await self._shake_hands(tcp, peer)
        try:
            identity = self._identify(stream, peer)
            with (
                self._places.take(
                    f"connections of {identity.device}",
                    at_most=self._limits.connections_per_device,
                    who="one device",
                ),
                self._while_valid(identity) as timed,
            ):
                client = _Client(stream=stream, identity=identity, peer=peer, timed=timed)
                await self._serve_request(client)
        except Refused as refused:
            await self._answer(stream, refusal_answer(refused))

    async def _shake_hands(self, tcp: trio.SocketStream, peer: str) -> TLSStream:
        with (
            self._places.take("handshakes", at_most=self._limits.handshakes),
            self._places.take(
                f"handshakes from {peer}",
                at_most=self._limits.handshakes_per_source,
                who="one address",
            ),
            trio.fail_after(self._limits.handshake_seconds),
        ):
            stream = TLSStream(tcp, self._setup.context())
            await stream.do_handshake()
            return stream

    def _identify(self, stream: TLSStream, peer: str) -> Identity:
        try:
            certificate = stream.peer_certificate
            if certificate is None:
                raise WrongCertificate("the client showed no certificate")
            identity = read_identity(certificate, self.now(), purpose=Purpose.CLIENT)
            if identity.tenant != self._setup.tenant:
                raise WrongCertificate("the certificate is another tenant's")
            if identity.role not in _MAY_ASK_STATUS:
                raise WrongCertificate(f"the certificate is a {identity.role.value}'s")
            if identity.device in self._setup.revoked:
                raise WrongCertificate("the device was revoked")
        except (WrongCertificate, HandshakeFailed) as error:
            refused = Refused(RefusalCode.NOT_ALLOWED, str(error), "ask for a new certificate")
            self._record_refused_connection(refused, peer=peer)
            raise refused from None
        return identity

    @contextmanager
    def _while_valid(self, identity: Identity) -> Iterator[_Timed]:
        """A scope that is cancelled when the wall clock, or trio's, says that it is over.

        Whoever shows a later certificate of the same key and names gives all connections of that
        key the longer life: a run that is renewed in time does not lose its flows.
        """
        now = self.now()
        timed = _Timed(holder=_holder(identity), certificate_ends_at=identity.not_after)
        self._timed.add(timed)
        for other in self._timed:
            if other.holder == timed.holder:
                other.renew(identity.not_after, now)
        try:
            with timed.scope:
                yield timed
        finally:
            self._timed.discard(timed)

    # One request --------------------------------------------------------------------------

    async def _serve_request(self, client: _Client) -> None:
        try:
            with trio.fail_after(self._limits.head_seconds):
                head, leftover = await receive_head(client.stream)
            asked = what_is_asked(head)
        except Refused as refused:
            self._record_refused_connection(refused, **client.who)
            raise
        match asked:
            case Asked.FLOW:
                await self._connect(client, head, leftover)
            case Asked.SESSION:
                await self._answer(client.stream, await self._grant_session(client, head))
            case Asked.STATUS:
                await self._answer(client.stream, json_answer(self._status(client)))
            case Asked.CHECK:
                await self._answer(client.stream, await self._check(client, head))

    def _status(self, client: _Client) -> dict[str, object]:
        negotiated, identity = client.stream.negotiated, client.identity
        return {
            "name": self._setup.name,
            "tenant": self._setup.tenant,
            "version": negotiated.version,
            "cipher": negotiated.cipher,
            "group": negotiated.group,
            "device": identity.device,
            "app": identity.app,
            "not_after": identity.not_after,
        }

    async def _grant_session(self, client: _Client, head: Head) -> bytes:
        identity, who = client.identity, client.who
        try:
            demand_app(identity)
            demand_no_body(head)
            shown = shown_credentials(head, "authorization", identity)
            if shown.kind is not TokenKind.TICKET:
                raise Refused(RefusalCode.NOT_AUTHENTICATED, "a session is opened by a ticket")
            redeemed = await self._redeem(shown.token, identity)
            granted = self._sessions.grant(
                identity,
                self.now(),
                idle_seconds=min(redeemed.idle_seconds, self._limits.session_idle_seconds),
                forced_seconds=min(redeemed.forced_seconds, self._limits.session_seconds),
            )
            try:
                self._record("session.granted", **who)
            except Refused:
                self._sessions.revoke(granted.token)
                raise
        except Refused as refused:
            self._record_refusal("session.refused", refused, **who)
            raise
        return json_answer({"token": granted.token, "expires_in": granted.expires_in})

    async def _redeem(self, ticket: str, identity: Identity) -> Redeemed:
        with trio.move_on_after(self._limits.redeem_seconds):
            return await self._setup.redeem(ticket, identity)
        raise Refused(
            RefusalCode.TIMED_OUT,
            f"the ticket authority did not answer within {self._limits.redeem_seconds:g} s",
            "try again",
        )

    # One flow -----------------------------------------------------------------------------

    async def _connect(self, client: _Client, head: Head, leftover: bytes) -> None:
        identity = client.identity
        facts = {"flow": flow_id(head), **client.who}
        try:
            demand_app(identity)
            destination = connect_destination(head)
            facts["destination"] = str(destination)
            session = await self._authenticate(client, head)
            upstream = await self._open(identity, destination, facts)
        except Refused as refused:
            self._record_refusal("flow.refused", refused, **facts)
            raise

        def ended(relayed: Relayed) -> None:
            self._record_end(relayed, **facts)

        with nullcontext() if session is None else session.flow(self.now):
            await relay(
                client.stream,
                upstream,
                answer=ESTABLISHED,
                first_up=leftover,
                idle_seconds=self._limits.flow_idle_seconds,
                ended=ended,
            )

    async def _authenticate(self, client: _Client, head: Head) -> Session | None:
        """The session whose token was shown, or None for a ticket, which is burnt by this."""
        identity, timed = client.identity, client.timed
        shown = shown_credentials(head, "proxy-authorization", identity)
        if shown.kind is TokenKind.SESSION:
            session = self._sessions.check(shown.token, identity, self.now())
            timed.force(session.ends_at, self.now())
            return session
        redeemed = await self._redeem(shown.token, identity)
        seconds = min(redeemed.forced_seconds, self._limits.session_seconds)
        timed.force(self.now() + seconds, self.now())
        return None

    async def _open(
        self, identity: Identity, destination: Destination, facts: Mapping[str, str | None]
    ) -> trio.abc.HalfCloseableStream:
        rule = self._setup.allow(identity.app or "", destination)

        def chosen(addresses: Sequence[Address]) -> None:
            text = ", ".join(str(address) for address in addresses)
            self._record("flow.allowed", **facts, rule=rule, address=text)

        return await open_backend(
            destination,
            hosts=self._setup.hosts(),
            resolve=self._setup.resolve,
            own=self._setup.own(),
            chosen=chosen,
            timeout_seconds=self._limits.dial_seconds,
        )

    # What a flow would be told ------------------------------------------------------------

    async def _check(self, client: _Client, head: Head) -> bytes:
        """The decision about a destination, as data. It is recorded like the real one: otherwise
        whoever holds a token could read the allow list unseen."""
        identity, facts = client.identity, dict(client.who)
        try:
            demand_app(identity)
            demand_no_body(head)
            shown = shown_credentials(head, "authorization", identity)
            if shown.kind is not TokenKind.SESSION:
                raise Refused(RefusalCode.NOT_AUTHENTICATED, "a check is asked by a session")
            self._sessions.check(shown.token, identity, self.now())
            destination = asked_destination(head)
        except Refused as refused:
            self._record_refused_connection(refused, **facts)
            raise
        facts["destination"] = str(destination)
        try:
            rule = await self._decide(identity, destination)
        except Refused as refused:
            code = refused.code.value
            self._record("flow.checked", **facts, verb="REFUSE", code=code, rule=refused.rule)
            return json_answer(
                {
                    "verdict": "REFUSE",
                    "code": code,
                    "rule": refused.rule,
                    "hint": refused.hint,
                }
            )
        self._record("flow.checked", **facts, verb="ALLOW", rule=rule)
        return json_answer({"verdict": "ALLOW", "code": None, "rule": rule, "hint": ""})

    async def _decide(self, identity: Identity, destination: Destination) -> str:
        """The rule that lets a flow through, after look-up and guard. Raises: Refused."""
        rule = self._setup.allow(identity.app or "", destination)
        await check_backend(
            destination,
            hosts=self._setup.hosts(),
            resolve=self._setup.resolve,
            own=self._setup.own(),
            timeout_seconds=self._limits.dial_seconds,
        )
        return rule

    # Answers and records ------------------------------------------------------------------

    async def _answer(self, stream: TLSStream, answer: bytes) -> None:
        """One answer and the end; a client that does not read it is cut."""
        with trio.move_on_after(self._limits.answer_seconds):
            await stream.send_all(answer)
        await stream.aclose()

    def _log(self, event: str, **fields: str) -> None:
        with suppress(Exception):  # nobody is served by a gateway that ends for want of a log
            self._setup.log(event, **fields)

    def _record(self, event: str, **fields: str | int | None) -> None:
        """Raises: Refused (AUDIT_UNWRITABLE)."""
        try:
            self._setup.record(event, **fields)
        except Exception as error:
            self._log("audit.failed", about=event, error=type(error).__name__)
            raise Refused(
                RefusalCode.AUDIT_UNWRITABLE,
                "the gateway cannot write its audit, and does nothing unrecorded",
                "whoever runs the gateway finds the cause in its log",
            ) from None

    def _record_refused_connection(self, refused: Refused, **fields: str | None) -> None:
        with suppress(Refused):
            code = refused.code.value
            self._record("connection.refused", **fields, code=code, reason=refused.rule)

    def _record_refusal(self, event: str, refused: Refused, **fields: str | None) -> None:
        with suppress(Refused):  # it is in the log then, and a refusal stands in any case
            self._record(event, **fields, code=refused.code.value, rule=refused.rule)

    def _record_end(self, relayed: Relayed, **fields: str | None) -> None:
        with suppress(Refused):  # it is in the log then, and what was carried was carried
            self._record(
                "flow.ended",
                **fields,
                bytes_up=relayed.bytes_up,
                bytes_down=relayed.bytes_down,
                ended=relayed.ended.value,
            )


@dataclass(slots=True, kw_only=True, eq=False)
class _Timed:
    """A connection with its ends by the wall clock: its certificate's, and its session's."""

    holder: tuple[str | None, ...]
    certificate_ends_at: float
    forced_ends_at: float = math.inf
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def ends_at(self) -> float:
        """Whichever comes first."""
        return min(self.certificate_ends_at, self.forced_ends_at)

    @property
    def device(self) -> str | None:
        """Whose connection it is."""
        return self.holder[1]

    def renew(self, ends_at: float, now: float) -> None:
        """The certificate is good until then, or for longer."""
        self.certificate_ends_at = max(self.certificate_ends_at, ends_at)
        self._set_deadline(now)

    def force(self, ends_at: float, now: float) -> None:
        """The session ends then, whatever the certificate says."""
        self.forced_ends_at = ends_at
        self._set_deadline(now)

    def _set_deadline(self, now: float) -> None:
        self.scope.deadline = trio.current_time() + max(0.0, self.ends_at - now)


def _holder(identity: Identity) -> tuple[str | None, ...]:
    return identity.tenant, identity.device, identity.app, identity.key_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class _Client:
    """A connection whose identity is known."""

    stream: TLSStream
    identity: Identity
    peer: str
    timed: _Timed

    @property
    def who(self) -> dict[str, str | None]:
        """For the audit."""
        identity = self.identity
        return {
            "device": identity.device,
            "app": identity.app,
            "key_hash": identity.key_hash,
            "peer": self.peer,
        }
