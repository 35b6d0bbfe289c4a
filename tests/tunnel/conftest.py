"""What the tests of the tunnel share: a certificate authority, TLS contexts, a live gateway."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from mdx.audit_events import check_event
from tunnel.allow_rules import AllowRules
from tunnel.destinations import Destination, parse_destination
from tunnel.errors import BadTicket, RefusalCode, Refused
from tunnel.gateway import serve_gateway
from tunnel.gateway_client import GatewayClient
from tunnel.gateway_setup import GatewaySetup, Redeemed
from tunnel.hosts import Host, Hosts
from tunnel.identity import Identity, Purpose, read_identity
from tunnel.limits import Limits
from tunnel.revocations import Revocations
from tunnel.tickets import new_ticket, parse_ticket
from tunnel.tls import ClientContext, ServerContext, client_context, server_context
from tunnel.tls_stream import MAX_BYTES_PER_KEY, TLSStream

CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH,)
SERVER = (ExtendedKeyUsageOID.SERVER_AUTH,)
APP_URI = "mdx://acme/device/d1/app/payroll"
GATEWAY_NAME = "gateway.test"


@dataclass(frozen=True, kw_only=True)
class Issued:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes = field(repr=False)

    @property
    def identity(self) -> Identity:
        """Who it is for, as a gateway would read it."""
        certificate = x509.load_pem_x509_certificate(self.certificate)
        now = certificate.not_valid_before_utc.timestamp()
        return read_identity(certificate, now, purpose=Purpose.CLIENT)

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """(certificate file, key file)."""
        paths = folder / f"{name}.pem", folder / f"{name}.key"
        paths[0].write_bytes(self.certificate)
        paths[1].write_bytes(self.key)
        return paths


class Authority:
    """A CA of its own for one test."""

    def __init__(self, name: str = "test authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        public = self._key.public_key()
        now = datetime.now(UTC)  # a certificate for the real OpenSSL lives in real time
        self.certificate = (
            x509.CertificateBuilder(
                issuer_name=self._name,
                subject_name=self._name,
                public_key=public,
                serial_number=x509.random_serial_number(),
                not_valid_before=now - timedelta(days=2),
                not_valid_after=now + timedelta(days=2),
            )
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.pem = self.certificate.public_bytes(Encoding.PEM)

    def issue(
        self,
        *,
        uris: Sequence[str] = (),
        names: Sequence[str] = (),
        purposes: Sequence[ObjectIdentifier] = CLIENT,
        starts_seconds: float = -3600,
        ends_seconds: float = 3600,
        key: ec.EllipticCurvePrivateKey | None = None,
        ca: bool = False,
    ) -> Issued:
        """A certificate that is valid from `starts_seconds` to `ends_seconds` from now."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder(
                issuer_name=self._name,
                subject_name=x509.Name([]),
                public_key=key.public_key(),
                serial_number=x509.random_serial_number(),
                not_valid_before=now + timedelta(seconds=starts_seconds),
                not_valid_after=now + timedelta(seconds=ends_seconds),
            )
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        subjects: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        subjects += [_name(name) for name in names]
        if subjects:
            builder = builder.add_extension(x509.SubjectAlternativeName(subjects), critical=True)
        if purposes:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        return Issued(
            certificate=builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM),
            key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )

    def server(self, *names: str, uri: str = "mdx://acme/gateway/gw") -> Issued:
        """A server's certificate, by default that of a gateway."""
        return self.issue(uris=[uri], names=names, purposes=SERVER)

    def key_pem(self) -> bytes:
        """The authority's own key, for a tool that signs what this library cannot."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


Stream = trio.abc.HalfCloseableStream
Connection = tuple[trio.SocketStream, trio.SocketStream]
TLSPair = tuple[TLSStream, TLSStream]


async def open_tcp_pair() -> Connection:
    """Two ends of one TCP connection over loopback."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with listener:
        port = listener.socket.getsockname()[1]
        client = await trio.open_tcp_stream("127.0.0.1", port)
        server = await listener.accept()
    return client, server


@dataclass(kw_only=True)
class TLS:
    """Contexts of one authority: a gateway's server side and an app's client side."""

    authority: Authority
    app: Issued
    server: ServerContext
    client: ClientContext

    async def pair(
        self,
        *,
        client: ClientContext | None = None,
        server: ServerContext | None = None,
        server_name: str = GATEWAY_NAME,
        max_bytes_per_key: int = MAX_BYTES_PER_KEY,
    ) -> TLSPair:
        """(client, server) after the handshake."""
        near, far = await open_tcp_pair()
        ends = (
            TLSStream(
                near,
                client or self.client,
                server_name=server_name,
                max_bytes_per_key=max_bytes_per_key,
            ),
            TLSStream(far, server or self.server, max_bytes_per_key=max_bytes_per_key),
        )
        async with trio.open_nursery() as nursery:
            for end in ends:
                nursery.start_soon(end.do_handshake)
        return ends


@pytest.fixture
def authority() -> Authority:
    """A fresh CA."""
    return Authority()


@pytest.fixture
def new_authority() -> Callable[[], Authority]:
    """For tests that need a second one."""
    return Authority


@pytest.fixture
def tcp_pair() -> Callable[[], Awaitable[Connection]]:
    """Two ends of one TCP connection."""
    return open_tcp_pair


@pytest.fixture
def tls(authority: Authority) -> TLS:
    """The usual contexts."""
    app = authority.issue(uris=[APP_URI])
    own = authority.server(GATEWAY_NAME, "127.0.0.1")
    return TLS(
        authority=authority,
        app=app,
        server=server_context(certificate=own.certificate, key=own.key, client_ca=authority.pem),
        client=client_context(ca=authority.pem, certificate=app.certificate, key=app.key),
    )


Serve = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Serve) -> AsyncIterator[int]:
    """A TCP server on loopback for as long as the block runs; gives its port."""
    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(
            partial(trio.serve_tcp, _forgiving(handler), 0, host="127.0.0.1")
        )
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def _forgiving(handler: Serve) -> Serve:
    async def serve(stream: trio.SocketStream) -> None:
        try:
            await handler(stream)
        except trio.BrokenResourceError:
            await stream.aclose()

    return serve


async def echo(stream: trio.abc.HalfCloseableStream) -> None:
    """Say back what is said, up to its end."""
    while data := await stream.receive_some():
        await stream.send_all(data)
    await stream.send_eof()


@pytest.fixture
def tcp_server() -> Callable[[Serve], AbstractAsyncContextManager[int]]:
    """`async with tcp_server(handler) as port`."""
    return serving


@pytest.fixture
def echo_server() -> Callable[[], AbstractAsyncContextManager[int]]:
    """`async with echo_server() as port`."""
    return lambda: serving(echo)


# A live gateway ---------------------------------------------------------------------------


@dataclass(kw_only=True)
class TicketDesk:
    """A ticket authority of a few lines: each ticket once, bound to device, app and key."""

    tickets: dict[bytes, tuple[str | None, str | None, str]] = field(default_factory=dict)
    redeemed: int = 0

    def issue(self, identity: Identity) -> str:
        """A ticket for this certificate."""
        ticket = new_ticket("desk")
        self.tickets[parse_ticket(ticket).hash] = (
            identity.device,
            identity.app,
            identity.key_hash,
        )
        return ticket

    async def redeem(self, ticket: str, identity: Identity) -> Redeemed:
        """Raises: Refused (NOT_AUTHENTICATED)."""
        await trio.lowlevel.checkpoint()
        try:
            bound = self.tickets.get(parse_ticket(ticket).hash)
        except BadTicket as error:
            raise Refused(RefusalCode.NOT_AUTHENTICATED, str(error)) from None
        if bound != (identity.device, identity.app, identity.key_hash):
            raise Refused(RefusalCode.NOT_AUTHENTICATED, "the ticket is not good")
        del self.tickets[parse_ticket(ticket).hash]
        self.redeemed += 1
        return Redeemed()


Record = dict[str, Any]


class Clock:
    """The wall clock of a test: it stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC).timestamp()

    def __call__(self) -> float:
        return self.now


@dataclass(kw_only=True)
class LiveGateway:
    """A gateway that serves on loopback, and all that can be done to it from outside."""

    tls: TLS
    port: int
    desk: TicketDesk
    records: list[Record]
    logs: list[Record]
    clock: Clock

    async def connect(
        self, who: Issued | None = None, *, context: ClientContext | None = None
    ) -> TLSStream:
        """A TLS connection with the usual app's certificate, or another."""
        if context is None:
            context = self.context(who) if who else self.tls.client
        tcp = await trio.open_tcp_stream("127.0.0.1", self.port)
        stream = TLSStream(tcp, context, server_name=GATEWAY_NAME)
        await stream.do_handshake()
        return stream

    def context(self, who: Issued) -> ClientContext:
        """A client's context with this certificate."""
        return client_context(ca=self.tls.authority.pem, certificate=who.certificate, key=who.key)

    async def ask(self, request: bytes, who: Issued | None = None) -> bytes:
        """All that a gateway answers to these bytes, to the clean end."""
        stream = await self.connect(who)
        async with stream:
            await stream.send_all(request)
            answer = bytearray()
            while data := await stream.receive_some():
                answer += data
        return bytes(answer)

    def ticket(self, who: Issued | None = None) -> str:
        """A good ticket."""
        return self.desk.issue((who or self.tls.app).identity)

    async def token(self, who: Issued | None = None) -> str:
        """A good session token, by a ticket."""
        return await self.client(who).redeem_text()

    def client(self, who: Issued | None = None) -> Client:
        """The product's own client."""
        context = self.context(who or self.tls.app)

        async def current_context() -> ClientContext:
            await trio.lowlevel.checkpoint()
            return context

        async def fresh_ticket() -> str:
            await trio.lowlevel.checkpoint()
            return self.ticket(who)

        return Client(
            host="127.0.0.1",
            port=self.port,
            name=GATEWAY_NAME,
            context=current_context,
            ticket=fresh_ticket,
        )

    def events(self, name: str) -> list[Record]:
        """The records of one kind."""
        return [record for record in self.records if record["event"] == name]

    def logged(self, name: str) -> list[Record]:
        """The log lines of one kind."""
        return [line for line in self.logs if line["event"] == name]


class Client(GatewayClient):
    """With a shortcut for tests."""

    async def redeem_text(self) -> str:
        """The token itself."""
        return (await self.redeem()).token


Gateway = Callable[..., AbstractAsyncContextManager[LiveGateway]]


async def no_names(host: str) -> Sequence[IPv4Address | IPv6Address]:
    """A resolver that knows nothing."""
    await trio.lowlevel.checkpoint()
    raise Refused(RefusalCode.NAME_NOT_FOUND, f"the name {host} has no address")


@pytest.fixture
def gateway(tls: TLS) -> Gateway:
    """`async with gateway(allow={"payroll": ["*"]}, hosts={"echo.test:7": port}) as live`."""

    @asynccontextmanager
    async def run(
        *,
        allow: dict[str, list[str]] | None = None,
        hosts: dict[str, int | Host] | None = None,
        resolve: Callable[[str], Awaitable[Sequence[Any]]] = no_names,
        own: Container[Any] = frozenset(),
        limits: Limits | None = None,
        redeem: Callable[[str, Identity], Awaitable[Redeemed]] | None = None,
        record: Callable[..., None] | None = None,
        context: Callable[[], ServerContext] | None = None,
        revoked: Revocations | None = None,
    ) -> AsyncIterator[LiveGateway]:
        desk, records, logs, clock = TicketDesk(), list[Record](), list[Record](), Clock()

        def remember(event: str, **fields: Any) -> None:
            check_event(event, fields)
            if record is not None:
                record(event, **fields)
            records.append({"event": event, **fields})

        table = Hosts(_host(text, where) for text, where in (hosts or {}).items())
        setup = GatewaySetup(
            name="gateway",
            tenant="acme",
            context=context or (lambda: tls.server),
            redeem=redeem or desk.redeem,
            allow=AllowRules.parse(allow or {"payroll": ["*"]}).check,
            record=remember,
            log=lambda event, **fields: logs.append({"event": event, **fields}),
            clock=clock,
            hosts=lambda: table,
            resolve=resolve,
            own=lambda: own,
            limits=limits or Limits(),
            revoked=revoked if revoked is not None else Revocations(),
        )
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_gateway, listeners, setup)
            yield LiveGateway(
                tls=tls,
                port=listeners[0].socket.getsockname()[1],
                desk=desk,
                records=records,
                logs=logs,
                clock=clock,
            )
            nursery.cancel_scope.cancel()

    return run


def _host(text: str, where: int | Host) -> Host:
    if isinstance(where, Host):
        return replace(where, destination=parse_destination(text))
    return Host(destination=parse_destination(text), dial=Destination("127.0.0.1", where))


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., Awaitable[tuple[int, bytes, bytes]]]:
    """`await program("curl", …, stdin=b"")`: (exit status, output, errors) of a real program."""

    async def run(*command: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
        environ = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        with trio.fail_after(30):
            done = await trio.run_process(
                list(command),
                stdin=stdin,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                cwd=tmp_path,
                env=environ | {"HOME": str(tmp_path)},
            )
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A port on which nobody listens, nor can: it is taken for as long as the test runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]
