"""TLS contexts against strangers: the system's openssl and curl, and clients that lie."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL

from tunnel import tls as tls_module
from tunnel.errors import HandshakeFailed
from tunnel.identity import public_key_hash
from tunnel.tls import ClientCertificate, ClientContext, ServerContext, client_context
from tunnel.tls import server_context as new_server_context
from tunnel.tls_stream import TLSStream

if TYPE_CHECKING:
    from tests.tunnel.conftest import TLS, Authority, Issued

    Program = Callable[..., Awaitable[tuple[int, bytes, bytes]]]

HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"


@dataclass
class Outcome:
    """What a server saw of one client."""

    failure: str = ""
    group: str = ""
    certificate: x509.Certificate | None = None


class Server:
    """Serves one client at a time, says hello, and remembers what it saw."""

    def __init__(self, context: ServerContext) -> None:
        self.context = context
        self.port = 0
        self._tell, self._told = trio.open_memory_channel[Outcome](10)

    async def outcome(self) -> Outcome:
        """What it saw of the next client that is done."""
        with trio.fail_after(5):
            return await self._told.receive()

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Serve until cancelled."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._serve, listeners)

    async def _serve(self, tcp: trio.SocketStream) -> None:
        outcome = Outcome()
        stream = TLSStream(tcp, self.context)
        try:
            await stream.do_handshake()
        except HandshakeFailed as error:
            outcome.failure = str(error)
        else:
            outcome.group = stream.negotiated.group
            outcome.certificate = stream.peer_certificate
            with suppress(trio.BrokenResourceError, HandshakeFailed):
                await stream.send_all(HELLO)
                await stream.send_eof()
                while await stream.receive_some():
                    pass
            await stream.aclose()
        self._tell.send_nowait(outcome)


async def s_client(
    program: Program, tls: TLS, folder: Path, port: int, *more: str
) -> tuple[int, str]:
    """(exit status, output and errors) of the system's openssl s_client."""
    certificate, key = tls.app.write(folder, "app")
    (folder / "ca.pem").write_bytes(tls.authority.pem)
    status, output, errors = await program(
        *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-ign_eof"),
        *("-CAfile", "ca.pem", "-servername", "gateway.test"),
        *("-cert", str(certificate), "-key", str(key)),
        *more,
    )
    return status, (output + errors).decode("utf-8", "replace")


async def with_s_client(
    server: Server, program: Program, tls: TLS, folder: Path, *more: str
) -> tuple[int, str, Outcome]:
    """(exit status, what it said, what the server saw) of one s_client."""
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        status, said = await s_client(program, tls, folder, server.port, *more)
        outcome = await server.outcome()
        nursery.cancel_scope.cancel()
    return status, said, outcome


async def shake(
    client: ClientContext, server: ServerContext, *, server_name: str = "gateway.test"
) -> tuple[str, str]:
    """("", "") when both ends are content, or what the client and the server said.

    With TLS 1.3 a client hears from its first receive that it was refused.
    """
    result = {"client": "", "server": ""}
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]

    async def serve() -> None:
        async with await listener.accept() as tcp:
            stream = TLSStream(tcp, server)
            try:
                await stream.do_handshake()
                await stream.send_all(b"welcome")
                await stream.receive_some()
            except (HandshakeFailed, trio.BrokenResourceError) as error:
                result["server"] = str(error)
            await stream.aclose()

    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        tcp = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        stream = TLSStream(tcp, client, server_name=server_name)
        try:
            await stream.do_handshake()
            assert await stream.receive_some() == b"welcome"
        except (HandshakeFailed, trio.BrokenResourceError) as error:
            result["client"] = str(error)
        await stream.aclose()
    return result["client"], result["server"]


# Resumption would skip the certificate check ------------------------------------------------


@pytest.mark.parametrize(
    ("without", "resumes"),
    [("nothing", False), ("OP_NO_TICKET", True), ("SESS_CACHE_OFF", True)],
)
async def test_no_resumption_and_each_setting_alone_would_resume(
    tls: TLS,
    program: Program,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    without: str,
    resumes: bool,
) -> None:
    if without == "OP_NO_TICKET":
        monkeypatch.setattr(tls_module, "OPTIONS", tls_module.OPTIONS & ~SSL.OP_NO_TICKET)
    own = tls.authority.server("gateway.test")
    context = new_server_context(
        certificate=own.certificate, key=own.key, client_ca=tls.authority.pem
    )
    if without != "nothing":
        context._context.set_session_id(b"test")  # or the library refuses to resume with an error
    if without == "SESS_CACHE_OFF":
        context._context.set_session_cache_mode(SSL.SESS_CACHE_SERVER)
    server = Server(context)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        more = (program, tls, tmp_path, server.port)
        _, first = await s_client(*more, "-sess_out", "session")
        assert "New, TLSv1.3, Cipher is TLS_AES_256_GCM_SHA384" in first
        if (tmp_path / "session").exists():  # without tickets or cache there is nothing to keep
            _, again = await s_client(*more, "-sess_in", "session")
        else:
            _, again = await s_client(*more)
        assert [(await server.outcome()).failure for _ in range(2)] == ["", ""]
        nursery.cancel_scope.cancel()
    assert ("Reused, TLSv1.3" in again) is resumes
    assert ("New, TLSv1.3" in again) is not resumes


# What a stranger hears ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "words"),
    [
        ("expired", "certificate expired"),
        ("none", "certificate required"),
        ("another authority's", "unknown ca"),
        ("not valid yet", "bad certificate"),
    ],
)
async def test_curl_says_why_it_was_refused(
    tls: TLS,
    new_authority: Callable[[], Authority],
    program: Program,
    tmp_path: Path,
    who: str,
    words: str,
) -> None:
    uri = ["mdx://acme/device/d1/app/payroll"]
    made: dict[str, Callable[[], Issued | None]] = {
        "expired": lambda: tls.authority.issue(uris=uri, ends_seconds=-60),
        "not valid yet": lambda: tls.authority.issue(uris=uri, starts_seconds=600),
        "another authority's": lambda: new_authority().issue(uris=uri),
        "none": lambda: None,
    }
    issued = made[who]()
    shown: list[str] = []
    if issued is not None:
        certificate, key = issued.write(tmp_path, "client")
        shown = ["--cert", str(certificate), "--key", str(key)]
    (tmp_path / "ca.pem").write_bytes(tls.authority.pem)
    server = Server(tls.server)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        status, _, errors = await program(
            *("curl", "--silent", "--show-error", "--cacert", "ca.pem", *shown),
            f"https://127.0.0.1:{server.port}/",
        )
        outcome = await server.outcome()
        nursery.cancel_scope.cancel()
    assert status != 0
    assert words in errors.decode()
    assert "certificate" in outcome.failure


async def test_curl_with_a_good_certificate_is_served(
    tls: TLS, program: Program, tmp_path: Path
) -> None:
    certificate, key = tls.app.write(tmp_path, "client")
    (tmp_path / "ca.pem").write_bytes(tls.authority.pem)
    server = Server(tls.server)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        status, output, _ = await program(
            *("curl", "--silent", "--cacert", "ca.pem"),
            *("--cert", str(certificate), "--key", str(key)),
            f"https://127.0.0.1:{server.port}/",
        )
        nursery.cancel_scope.cancel()
    assert (status, output) == (0, b"hello")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("-tls1_2",), "the peer does not speak TLS 1.3"),
        (("-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"), "does not offer AES-256-GCM"),
        (("-groups", "secp384r1"), "key agreement secp384r1 is not one that we allow"),
        (("-groups", "secp521r1"), "key agreement secp521r1 is not one that we allow"),
        (("-groups", "X448"), "key agreement x448 is not one that we allow"),
        (("-groups", "ffdhe2048"), "key agreement ffdhe2048 is not one that we allow"),
        (("-groups", "ffdhe8192"), ""),  # not even in the library's list
        (("-alpn", "h2"), "none of our application protocols"),
    ],
)
async def test_weak_clients_are_refused(
    tls: TLS, program: Program, tmp_path: Path, option: tuple[str, ...], words: str
) -> None:
    server = Server(tls.server)
    _, said, outcome = await with_s_client(server, program, tls, tmp_path, *option)
    assert "hello" not in said
    assert outcome.failure
    assert words in outcome.failure


@pytest.mark.parametrize(
    ("group", "name"), [("X25519", "x25519"), ("P-256", "secp256r1"), ("X25519:P-384", "x25519")]
)
async def test_allowed_groups(
    tls: TLS, program: Program, tmp_path: Path, group: str, name: str
) -> None:
    server = Server(tls.server)
    status, said, outcome = await with_s_client(server, program, tls, tmp_path, "-groups", group)
    assert (status, "hello" in said, outcome.group) == (0, True, name)


async def test_any_cipher_suite_must_be_asked_for(
    tls: TLS, program: Program, tmp_path: Path
) -> None:
    own = tls.authority.server("gateway.test")
    server = Server(
        new_server_context(
            certificate=own.certificate,
            key=own.key,
            client_ca=tls.authority.pem,
            any_cipher_suite=True,
        )
    )
    suite = "TLS_CHACHA20_POLY1305_SHA256"
    _, said, _ = await with_s_client(server, program, tls, tmp_path, "-ciphersuites", suite)
    assert "hello" in said


# Application protocols --------------------------------------------------------------------


async def test_alpn_mismatch_fails_on_both_sides(tls: TLS) -> None:
    stranger = client_context(
        ca=tls.authority.pem, certificate=tls.app.certificate, key=tls.app.key, alpn=["mdx/1"]
    )
    client, server = await shake(stranger, tls.server)
    assert "no application protocol" in client
    assert "none of our application protocols" in server


async def test_client_refuses_a_server_that_chooses_no_protocol(tls: TLS) -> None:
    own = tls.authority.server("gateway.test")
    mute = new_server_context(
        certificate=own.certificate, key=own.key, client_ca=tls.authority.pem, alpn=[]
    )
    # A server without a list: the library then ignores what the client offers.

    def choose(connection: SSL.Connection, offered: list[bytes]) -> Any:
        return SSL.NO_OVERLAPPING_PROTOCOLS

    mute._context.set_alpn_select_callback(choose)
    client, _ = await shake(tls.client, mute)
    assert client == "the server speaks none of the offered application protocols"


async def test_client_that_offers_no_protocol_is_taken_in(tls: TLS) -> None:
    plain = client_context(
        ca=tls.authority.pem, certificate=tls.app.certificate, key=tls.app.key, alpn=[]
    )
    assert await shake(plain, tls.server) == ("", "")


# The server's certificate, as a client judges it -----------------------------------------------


def served_by(tls: TLS, own: Issued) -> ServerContext:
    """A server with this certificate."""
    return new_server_context(certificate=own.certificate, key=own.key, client_ca=tls.authority.pem)


def common_name_only(authority: Authority, name: str) -> Issued:
    """A server's certificate as it was made long ago, without subject alternative name."""
    issued = authority.issue(purposes=[ExtendedKeyUsageOID.SERVER_AUTH])
    # Built again with a subject: the fixture makes none.
    own = x509.load_pem_x509_certificate(issued.certificate)
    builder = x509.CertificateBuilder(
        issuer_name=own.issuer,
        subject_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
        public_key=own.public_key(),
        serial_number=own.serial_number,
        not_valid_before=own.not_valid_before_utc,
        not_valid_after=own.not_valid_after_utc,
        extensions=list(own.extensions),
    )
    key = x509_key(authority)
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    return type(issued)(certificate=certificate, key=issued.key)


def x509_key(authority: Authority) -> ec.EllipticCurvePrivateKey:
    """The authority's key."""
    return authority._key


async def test_good_names(tls: TLS) -> None:
    server = served_by(tls, tls.authority.server("gateway.test", "*.wild.test", "127.0.0.1", "::1"))
    for name in ("gateway.test", "a.wild.test", "127.0.0.1", "::1"):
        assert await shake(tls.client, server, server_name=name) == ("", "")


@pytest.mark.parametrize(
    "name", ["other.test", "x.gateway.test", "a.b.wild.test", "wild.test", "127.0.0.2", "gateway"]
)
async def test_wrong_name_is_refused(tls: TLS, name: str) -> None:
    server = served_by(tls, tls.authority.server("gateway.test", "*.wild.test", "127.0.0.1"))
    client, _ = await shake(tls.client, server, server_name=name)
    assert client.startswith(f"the server's certificate is not good for {name}")


async def test_common_name_is_no_name(tls: TLS) -> None:
    server = served_by(tls, common_name_only(tls.authority, "gateway.test"))
    client, _ = await shake(tls.client, server)
    assert client.startswith("the server's certificate is not good for gateway.test")


async def test_bad_server_certificates_are_refused(
    tls: TLS, new_authority: Callable[[], Authority]
) -> None:
    authority = tls.authority
    cases = {
        "certificate expired": authority.issue(
            names=["gateway.test"],
            purposes=[ExtendedKeyUsageOID.SERVER_AUTH],
            ends_seconds=-60,
        ),
        "certificate not made for this side of TLS": authority.issue(names=["gateway.test"]),
        "unknown ca": new_authority().server("gateway.test"),
    }
    for words, own in cases.items():
        client, server = await shake(tls.client, served_by(tls, own))
        assert client == f"the peer's certificate was refused: {words}"
        assert server.startswith("the peer refused: ")


async def test_system_cas_do_not_hold_a_private_one(tls: TLS) -> None:
    context = client_context(system_cas=True, certificate=tls.app.certificate, key=tls.app.key)
    client, _ = await shake(context, tls.server)
    assert client == "the peer's certificate was refused: unknown ca"


async def test_a_ca_beside_the_systems_is_trusted_and_another_is_not(
    tls: TLS, new_authority: Callable[[], Authority]
) -> None:
    own = tls.app
    context = client_context(
        ca=tls.authority.pem, system_cas=True, certificate=own.certificate, key=own.key
    )
    assert await shake(context, tls.server) == ("", "")
    strange = new_authority().server("gateway.test")
    client, _ = await shake(context, served_by(tls, strange))
    assert client == "the peer's certificate was refused: unknown ca"


async def test_pins_beside_a_ca(tls: TLS) -> None:
    own = tls.authority.server("gateway.test")
    leaf = x509.load_pem_x509_certificate(own.certificate)
    good = [
        public_key_hash(leaf.public_key()),
        public_key_hash(tls.authority.certificate.public_key()),
    ]
    for pins in ([good[0]], [good[1]], ["0" * 64, good[0]]):
        context = client_context(
            ca=tls.authority.pem, pins=pins, certificate=tls.app.certificate, key=tls.app.key
        )
        assert await shake(context, served_by(tls, own)) == ("", "")
    context = client_context(
        ca=tls.authority.pem, pins=["0" * 64], certificate=tls.app.certificate, key=tls.app.key
    )
    client, _ = await shake(context, served_by(tls, own))
    assert client == "no key in the server's certificate chain is one that is pinned"


async def test_first_contact_by_the_pin_of_a_ca_alone(
    tls: TLS, new_authority: Callable[[], Authority]
) -> None:
    pin = public_key_hash(tls.authority.certificate.public_key())
    context = client_context(pins=[pin])
    elsewhere = new_authority()  # whose clients the server takes: it sends no CA by itself

    def server(own: Issued, chain: bytes = b"") -> ServerContext:
        return new_server_context(
            certificate=own.certificate + chain,
            key=own.key,
            client_ca=elsewhere.pem,
            client_certificate=ClientCertificate.OPTIONAL,
        )

    own, authority = tls.authority.server("gateway.test"), tls.authority.pem
    assert await shake(context, server(own, authority)) == ("", "")
    client, _ = await shake(context, server(own))
    assert client.startswith("no authority in the server's certificate chain is one that is pinned")
    stranger = elsewhere.server("gateway.test")
    client, _ = await shake(context, server(stranger, elsewhere.pem))
    assert client.startswith("no authority in the server's certificate chain is one that is pinned")
    client, _ = await shake(context, server(stranger, authority))  # it did not sign
    assert client.startswith("the server's certificate is not good for gateway.test")
    client, _ = await shake(context, server(own, authority), server_name="other.test")
    assert client.startswith("the server's certificate is not good for other.test")


# Client certificates --------------------------------------------------------------------------


async def test_optional_client_certificate_is_still_verified(
    tls: TLS, new_authority: Callable[[], Authority]
) -> None:
    own = tls.authority.server("gateway.test")
    server = new_server_context(
        certificate=own.certificate,
        key=own.key,
        client_ca=tls.authority.pem,
        client_certificate=ClientCertificate.OPTIONAL,
    )
    assert await shake(client_context(ca=tls.authority.pem), server) == ("", "")
    assert await shake(tls.client, server) == ("", "")
    stranger = new_authority().issue(uris=["mdx://acme/device/d1"])
    context = client_context(
        ca=tls.authority.pem, certificate=stranger.certificate, key=stranger.key
    )
    client, said = await shake(context, server)
    assert "unknown ca" in client
    assert said == "the peer's certificate was refused: unknown ca"


async def test_server_certificate_is_no_client_certificate(tls: TLS) -> None:
    own = tls.authority.server("gateway.test")
    context = client_context(ca=tls.authority.pem, certificate=own.certificate, key=own.key)
    _, server = await shake(context, tls.server)
    assert server == "the peer's certificate was refused: certificate not made for this side of TLS"


# Making contexts ------------------------------------------------------------------------------


def test_what_a_context_is_made_from_is_checked(tls: TLS) -> None:
    authority, app = tls.authority, tls.app
    other = authority.issue()
    bad: list[Callable[[], object]] = [
        lambda: client_context(),
        lambda: client_context(pins=["AB" * 32]),
        lambda: client_context(pins=["ab"]),
        lambda: client_context(ca=authority.pem, certificate=app.certificate),
        lambda: client_context(ca=authority.pem, key=app.key),
        lambda: client_context(ca=b"nothing"),
        lambda: client_context(ca=authority.pem, certificate=app.certificate, key=other.key),
        lambda: client_context(ca=authority.pem, certificate=app.certificate, key=b"none"),
        lambda: client_context(ca=authority.pem, certificate=app.key, key=app.key),
        lambda: new_server_context(certificate=app.certificate, key=app.key, client_ca=b""),
    ]
    for make in bad:
        with pytest.raises(ValueError, match=r"\w") as caught:
            make()
        text = repr(caught.value)
        assert "PRIVATE KEY" not in text
        assert app.key.decode().splitlines()[1] not in text


def test_keys_of_other_kinds_are_refused(tls: TLS) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(ValueError, match="neither an elliptic-curve nor an RSA key"):
        client_context(ca=tls.authority.pem, certificate=tls.app.certificate, key=pem)


def test_no_key_in_a_repr(tls: TLS) -> None:
    for context in (tls.client, tls.server):
        assert "Context object" not in repr(context)
        assert "BEGIN" not in repr(context)


async def test_a_client_must_name_its_server(tls: TLS) -> None:
    with pytest.raises(ValueError, match="needs the server's name"):
        tls.client.connection(None)
    with pytest.raises(ValueError, match="does not choose"):
        tls.server.connection("gateway.test")
