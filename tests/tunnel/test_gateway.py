"""The gateway from outside, over real TLS: who gets in, where to, and what is written down."""

from __future__ import annotations

import base64
import json
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from tunnel.addresses import Address
from tunnel.destinations import Destination
from tunnel.errors import HandshakeFailed, RefusalCode, Refused
from tunnel.gateway_setup import Redeemed
from tunnel.hosts import Host
from tunnel.identity import Identity
from tunnel.limits import Limits
from tunnel.relay import abort
from tunnel.tickets import new_session_token, new_ticket
from tunnel.tls import ClientCertificate, client_context, server_context
from tunnel.tls_stream import TLSStream

if TYPE_CHECKING:
    from tests.tunnel.conftest import TLS, Authority, Gateway, Issued, LiveGateway, Serve

    EchoServer = Callable[[], AbstractAsyncContextManager[int]]
    TCPServer = Callable[[Serve], AbstractAsyncContextManager[int]]
    Program = Callable[..., Awaitable[tuple[int, bytes, bytes]]]

PENDING = bytes(range(256)) * 157
ECHO = "echo.test:7"


def connect(to: str, token: str | None = None, *more: str) -> bytes:
    """A CONNECT as a good client would send it."""
    lines = [f"CONNECT {to} HTTP/1.1", f"Host: {to}", *more]
    if token is not None:
        lines.append(f"Proxy-Authorization: Bearer {token}")
    return "\r\n".join([*lines, "", ""]).encode()


def basic(user: str, password: str) -> str:
    """The value of a Basic field."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def post_session(authorization: str | None, *more: str) -> bytes:
    """The request for a session."""
    lines = ["POST /.well-known/mdx/session HTTP/1.1", "Host: gateway.test", *more]
    if authorization is not None:
        lines.append(f"Authorization: {authorization}")
    return "\r\n".join([*lines, "", ""]).encode()


def status_of(answer: bytes) -> int:
    """The status of the only answer in there."""
    assert len(re.findall(rb"HTTP/1\.1 [0-9]{3} ", answer)) == 1, answer
    return int(answer.split(b" ", 2)[1])


def refusal(answer: bytes) -> str:
    """The code of a refusal that is as it should be: one answer, one line, and the end."""
    head, _, body = answer.partition(b"\r\n\r\n")
    fields = head.decode("ascii").split("\r\n")[1:]
    named = dict(field.split(": ", 1) for field in fields)
    code = RefusalCode[named["Mdx-Refused"]]
    assert status_of(answer) == code.http_status
    assert named["Connection"] == "close"
    assert int(named["Content-Length"]) == len(body)
    assert body.count(b"\n") == 1
    if code is RefusalCode.NOT_AUTHENTICATED:
        assert 'Proxy-Authenticate: Basic realm="mdx"' in fields
        assert 'Proxy-Authenticate: Bearer realm="mdx"' in fields
    return code.name


async def opened(live: LiveGateway, request: bytes, who: Issued | None = None) -> TLSStream:
    """A connection on which a CONNECT was granted."""
    stream = await live.connect(who)
    await stream.send_all(request)
    answer = await stream.receive_some()
    assert answer == b"HTTP/1.1 200 Connection established\r\n\r\n", answer
    return stream


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what happens on the gateway's side of a connection."""
    with trio.fail_after(5):
        while not condition():
            await trio.testing.wait_all_tasks_blocked(0.005)


async def still_serves(live: LiveGateway) -> None:
    """The same process still opens a flow."""
    stream = await opened(live, connect(ECHO, await live.token()))
    await stream.send_all(b"still here")
    assert await stream.receive_some() == b"still here"
    await stream.aclose()


# The good way ---------------------------------------------------------------------------------


async def test_session_then_flow_with_both_half_closes(
    gateway: Gateway, tcp_server: TCPServer
) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        received = bytearray()
        while data := await stream.receive_some():
            received += data
        await stream.send_all(received[::-1])  # after the client has ended its direction
        await stream.send_eof()

    async with tcp_server(serve) as port, gateway(hosts={ECHO: port}) as live:
        stream = await opened(live, connect(ECHO, await live.token(), "Mdx-Flow: 0123456789abcdef"))
        await stream.send_all(PENDING)
        await stream.send_eof()
        received = bytearray()
        while data := await stream.receive_some():
            received += data
        assert received == PENDING[::-1]
        await stream.aclose()
        await until(lambda: bool(live.events("flow.ended")))
    assert [record["event"] for record in live.records] == [
        "session.granted",
        "flow.allowed",
        "flow.ended",
    ]
    _, allowed, ended = live.records
    for record in (allowed, ended):
        assert record["flow"] == "0123456789abcdef"
        assert (record["device"], record["app"]) == ("d1", "payroll")
        assert record["destination"] == ECHO
        assert record["peer"] == "127.0.0.1"
    assert allowed["rule"] == "allow payroll to *"
    assert allowed["address"] == "127.0.0.1"
    assert (ended["bytes_up"], ended["bytes_down"]) == (len(PENDING), len(PENDING))
    assert ended["ended"] == "clean"


async def test_host_that_ends_first_still_hears_the_rest(
    gateway: Gateway, tcp_server: TCPServer
) -> None:
    heard: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(PENDING)
        await stream.send_eof()
        received = bytearray()
        while data := await stream.receive_some():
            received += data
        heard.append(bytes(received))
        await stream.aclose()

    async with tcp_server(serve) as port, gateway(hosts={ECHO: port}) as live:
        stream = await opened(live, connect(ECHO, await live.token()))
        received = bytearray()
        while data := await stream.receive_some():
            received += data
        assert received == PENDING
        await stream.send_all(PENDING)
        await stream.send_eof()
        await until(lambda: bool(live.events("flow.ended")))
        assert heard == [PENDING]
        await stream.aclose()


async def test_cut_of_the_host_is_a_cut_for_the_client(
    gateway: Gateway, tcp_server: TCPServer
) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(b"half of it")
        await stream.receive_some()
        await abort(stream)

    async with tcp_server(serve) as port, gateway(hosts={ECHO: port}) as live:
        stream = await opened(live, connect(ECHO, await live.token()))
        assert await stream.receive_some() == b"half of it"
        await stream.send_all(b"go")
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        await stream.aclose()
        await until(lambda: bool(live.events("flow.ended")))
    assert live.events("flow.ended")[0]["ended"] == "cut"


async def test_status_says_what_was_negotiated(gateway: Gateway, tls: TLS) -> None:
    device = tls.authority.issue(uris=["mdx://acme/device/d1"])
    request = b"GET /.well-known/mdx/status HTTP/1.1\r\nHost: gateway.test\r\n\r\n"
    async with gateway() as live:
        for who, app in ((tls.app, "payroll"), (device, None)):
            answer = await live.ask(request, who)
            assert status_of(answer) == 200
            said = json.loads(answer.partition(b"\r\n\r\n")[2])
            assert said == {
                "name": "gateway",
                "tenant": "acme",
                "version": "TLSv1.3",
                "cipher": "TLS_AES_256_GCM_SHA384",
                "group": "X25519MLKEM768",
                "device": "d1",
                "app": app,
                "not_after": who.identity.not_after,
            }


async def test_payload_sent_with_the_request_arrives(
    gateway: Gateway, echo_server: EchoServer
) -> None:
    async with echo_server() as port, gateway(hosts={ECHO: port}) as live:
        request = connect(ECHO, await live.token()) + b"right behind"
        stream = await opened(live, request)
        assert await stream.receive_some() == b"right behind"
        await stream.aclose()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_request_byte_by_byte(
    gateway: Gateway, echo_server: EchoServer, version: str
) -> None:
    async with echo_server() as port, gateway(hosts={ECHO: port}) as live:
        request = connect(ECHO, await live.token()).replace(b"HTTP/1.1", f"HTTP/{version}".encode())
        stream = await live.connect()
        for index in range(len(request)):
            await stream.send_all(request[index : index + 1])
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
        await stream.aclose()


async def test_guarded_addresses_are_left_out_of_a_names_answer(gateway: Gateway) -> None:
    async def resolve(host: str) -> Sequence[Address]:
        await trio.lowlevel.checkpoint()
        return [ip_address(text) for text in ("127.0.0.1", "10.1.2.3", "::1", "10.1.2.4")]

    about_to_dial: list[str] = []

    def record(event: str, **fields: Any) -> None:
        if event == "flow.allowed":
            about_to_dial.append(fields["address"])
            raise OSError  # far enough: a test dials nothing out there

    async with gateway(resolve=resolve, record=record) as live:
        answer = await live.ask(connect("a.test:443", await live.token()))
        assert refusal(answer) == "AUDIT_UNWRITABLE"
    assert about_to_dial == ["10.1.2.3, 10.1.2.4"]


# Tokens and tickets -----------------------------------------------------------------------------


async def test_basic_and_bearer(gateway: Gateway, echo_server: EchoServer) -> None:
    async with echo_server() as port, gateway(hosts={ECHO: port}) as live:
        token = await live.token()
        for field in (basic("payroll", token), f"Bearer {token}", f"bearer {token}"):
            request = connect(ECHO, None, f"Proxy-Authorization: {field}")
            await (await opened(live, request)).aclose()
        assert live.desk.redeemed == 1


async def test_ticket_is_good_for_one_connect(gateway: Gateway, echo_server: EchoServer) -> None:
    async with echo_server() as port, gateway(hosts={ECHO: port}) as live:
        ticket = live.ticket()
        await (await opened(live, connect(ECHO, ticket))).aclose()
        assert refusal(await live.ask(connect(ECHO, ticket))) == "NOT_AUTHENTICATED"
        assert refusal(await live.ask(post_session(f"Bearer {ticket}"))) == "NOT_AUTHENTICATED"


async def test_ticket_opens_one_session(gateway: Gateway) -> None:
    async with gateway() as live:
        request = post_session(f"Bearer {live.ticket()}", "Content-Length: 0")
        answer = await live.ask(request)
        assert status_of(answer) == 200
        assert b"Cache-Control: no-store" in answer
        granted = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert granted["token"].startswith("mdxs1.")
        assert granted["expires_in"] == 86400
        assert refusal(await live.ask(request)) == "NOT_AUTHENTICATED"
    assert len(live.events("session.granted")) == len(live.events("session.refused")) == 1
    text = json.dumps(live.records + live.logs)
    assert granted["token"] not in text  # no secret in audit or log
    assert "mdx1." not in text


async def test_tickets_of_others_are_refused(gateway: Gateway, tls: TLS) -> None:
    issue = tls.authority.issue
    thieves = {
        "another app": issue(uris=["mdx://acme/device/d1/app/mail"]),
        "another device": issue(uris=["mdx://acme/device/d2/app/payroll"]),
        "another key": issue(uris=["mdx://acme/device/d1/app/payroll"]),
    }
    async with gateway(allow={"payroll": ["*"], "mail": ["*"]}) as live:
        for thief in thieves.values():
            ticket = live.ticket()
            for request in (post_session(f"Bearer {ticket}"), connect(ECHO, ticket)):
                assert refusal(await live.ask(request, thief)) == "NOT_AUTHENTICATED"
        assert live.desk.redeemed == 0


async def test_session_tokens_of_others_are_refused(
    gateway: Gateway, tls: TLS, echo_server: EchoServer
) -> None:
    issue = tls.authority.issue
    thieves = [
        issue(uris=["mdx://acme/device/d1/app/mail"]),
        issue(uris=["mdx://acme/device/d2/app/payroll"]),
        issue(uris=["mdx://acme/device/d1/app/payroll"]),
    ]
    everyone = {"payroll": ["*"], "mail": ["*"]}
    async with echo_server() as port, gateway(allow=everyone, hosts={ECHO: port}) as live:
        token = await live.token()
        for thief in thieves:
            assert refusal(await live.ask(connect(ECHO, token), thief)) == "NOT_AUTHENTICATED"
        assert len(live.events("flow.refused")) == len(thieves)
        # The owner is not hurt by that.
        await (await opened(live, connect(ECHO, token))).aclose()


async def test_renewed_certificate_of_the_same_key_may_go_on(
    gateway: Gateway, tls: TLS, echo_server: EchoServer
) -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(tls.app.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    renewed = tls.authority.issue(uris=["mdx://acme/device/d1/app/payroll"], key=key)
    async with echo_server() as port, gateway(hosts={ECHO: port}) as live:
        token = await live.token()
        await (await opened(live, connect(ECHO, token), renewed)).aclose()


async def test_user_name_must_be_the_certificates_app(gateway: Gateway) -> None:
    async with gateway() as live:
        field = f"Proxy-Authorization: {basic('mail', await live.token())}"
        assert refusal(await live.ask(connect(ECHO, None, field))) == "NOT_ALLOWED"


@pytest.mark.parametrize(
    "field",
    [
        None,
        "",
        "Bearer",
        "Bearer x",
        f"Bearer mdxs1.{'A' * 43}",
        f"Bearer mdx1.desk.{'A' * 43}",
        "Basic cGF5cm9sbDo=",
        "Digest username=payroll",
        "Bearer " + "A" * 2000,
    ],
)
async def test_odd_or_unknown_credentials_get_407(gateway: Gateway, field: str | None) -> None:
    more = [] if field is None else [f"Proxy-Authorization: {field}"]
    async with gateway() as live:
        assert refusal(await live.ask(connect(ECHO, None, *more))) == "NOT_AUTHENTICATED"
        assert live.events("flow.refused")[0]["code"] == "NOT_AUTHENTICATED"


async def test_two_credentials_are_none(gateway: Gateway) -> None:
    async with gateway() as live:
        token = await live.token()
        request = connect(ECHO, token, f"Proxy-Authorization: Bearer {token}")
        assert refusal(await live.ask(request)) == "MALFORMED"


async def test_session_wants_a_ticket_and_no_body(gateway: Gateway) -> None:
    async with gateway() as live:
        token = await live.token()
        cases = {
            post_session(None): "NOT_AUTHENTICATED",
            post_session(f"Bearer {token}"): "NOT_AUTHENTICATED",
            post_session(f"Bearer {live.ticket()}", "Content-Length: 1") + b"x": "MALFORMED",
            post_session(f"Bearer {live.ticket()}", "Transfer-Encoding: chunked"): "MALFORMED",
        }
        for request, code in cases.items():
            assert refusal(await live.ask(request)) == code


async def test_session_timers(gateway: Gateway, echo_server: EchoServer) -> None:
    limits = Limits(session_idle_seconds=1000, session_seconds=2500)
    async with echo_server() as port, gateway(hosts={ECHO: port}, limits=limits) as live:
        token = await live.token()
        for _ in range(2):  # each use begins the idle time anew
            live.clock.now += 900
            await (await opened(live, connect(ECHO, token))).aclose()
            with trio.fail_after(5):
                while len(live.events("flow.ended")) < len(live.events("flow.allowed")):
                    await trio.testing.wait_all_tasks_blocked(0.01)
        live.clock.now += 900  # 2,700: the forced timer
        assert refusal(await live.ask(connect(ECHO, token))) == "NOT_AUTHENTICATED"
        token = await live.token()
        live.clock.now += 1001
        assert refusal(await live.ask(connect(ECHO, token))) != "OVERLOADED"


async def test_authority_may_shorten_a_session(gateway: Gateway) -> None:
    async def redeem(ticket: str, identity: Identity) -> Redeemed:
        await trio.lowlevel.checkpoint()
        return Redeemed(idle_seconds=5, forced_seconds=60)

    async with gateway(redeem=redeem) as live:
        answer = await live.ask(post_session(f"Bearer {new_ticket('desk')}"))
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["expires_in"] == 60


async def test_authority_that_hangs_or_breaks(gateway: Gateway, echo_server: EchoServer) -> None:
    broken = trio.Event()

    async def redeem(ticket: str, identity: Identity) -> Redeemed:
        if broken.is_set():
            raise RuntimeError("mdx1.secret")
        broken.set()
        await trio.sleep_forever()
        raise AssertionError

    async with gateway(redeem=redeem, limits=Limits(redeem_seconds=0.05)) as live:
        request = post_session(f"Bearer {new_ticket('desk')}")
        assert refusal(await live.ask(request)) == "TIMED_OUT"
        with pytest.raises(trio.BrokenResourceError):
            await live.ask(request)
        assert live.logged("connection.failed")[0]["error"] == "RuntimeError"
        assert "secret" not in str(live.logs)


# Certificates -----------------------------------------------------------------------------------


async def test_wrong_parts_are_refused_with_the_reason(gateway: Gateway, tls: TLS) -> None:
    issue, uri = tls.authority.issue, "mdx://acme/device/d1/app/payroll"
    cases = {
        "the certificate is a gateway's": issue(uris=["mdx://acme/gateway/g"]),
        "the certificate is a control's": issue(uris=["mdx://acme/control/c"]),
        "the certificate is another tenant's": issue(uris=[uri.replace("acme", "other")]),
        "has no extended key usage": issue(uris=[uri], purposes=[]),
        "has 2 URIs": issue(uris=[uri, "mdx://acme/device/d1/app/mail"]),
        "has 0 URIs": issue(names=["d1.acme"]),
        "not an identity URI": issue(uris=["mdx://acme/device/d1/app/"]),
    }
    async with gateway() as live:
        for words, who in cases.items():
            answer = await live.ask(connect(ECHO, "x"), who)
            assert refusal(answer) == "NOT_ALLOWED"
            assert words in answer.decode()
        recorded = [record["reason"] for record in live.events("connection.refused")]
        assert len(recorded) == len(cases)
        for words, reason in zip(cases, recorded, strict=True):
            assert words in reason


async def test_device_certificate_opens_no_flow_and_no_session(gateway: Gateway, tls: TLS) -> None:
    device = tls.authority.issue(uris=["mdx://acme/device/d1"])
    async with gateway() as live:
        ticket = live.ticket(device)
        for request in (connect(ECHO, ticket), post_session(f"Bearer {ticket}")):
            answer = await live.ask(request, device)
            assert refusal(answer) == "NOT_ALLOWED"
            assert b"a device's" in answer
        assert live.desk.redeemed == 0


async def test_tls_refuses_what_is_not_of_this_authority(
    gateway: Gateway, tls: TLS, new_authority: Callable[[], Authority]
) -> None:
    uri = ["mdx://acme/device/d1/app/payroll"]
    cases = {
        "unknown ca": new_authority().issue(uris=uri),
        "certificate expired": tls.authority.issue(uris=uri, ends_seconds=-1),
        # Strict X.509: a nameless certificate, and a CA that may not sign.
        "certificate unknown": tls.authority.issue(),
        "bad certificate|certificate unknown|unsupported": tls.authority.issue(uris=uri, ca=True),
    }
    async with gateway() as live:
        for words, who in cases.items():
            with pytest.raises(HandshakeFailed, match=words):
                await live.ask(connect(ECHO, "x"), who)
        stream = TLSStream(
            await trio.open_tcp_stream("127.0.0.1", live.port),
            client_context(ca=tls.authority.pem),
            server_name="gateway.test",
        )
        await stream.do_handshake()
        with pytest.raises(HandshakeFailed, match="certificate required"):
            await stream.receive_some()
        await stream.aclose()
        await until(lambda: len(live.logged("handshake.failed")) >= len(cases) + 1)
        assert live.records == []  # strangers do not choose how fast the audit grows


async def test_version_1_certificate(
    gateway: Gateway, tls: TLS, program: Program, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_bytes(tls.authority.pem)
    (tmp_path / "ca.key").write_bytes(tls.authority.key_pem())
    for command in (
        "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout v1.key"
        " -subj /CN=d1 -out v1.csr",
        "openssl x509 -req -in v1.csr -CA ca.pem -CAkey ca.key -set_serial 7 -days 1 -out v1.pem",
    ):
        status, _, errors = await program(*command.split())
        assert status == 0, errors
    who = type(tls.app)(
        certificate=(tmp_path / "v1.pem").read_bytes(), key=(tmp_path / "v1.key").read_bytes()
    )
    async with gateway() as live:
        answer = await live.ask(connect(ECHO, "x"), who)
        assert refusal(answer) == "NOT_ALLOWED"
        assert b"not X.509 version 3" in answer


async def test_certificate_is_not_optional_even_where_tls_let_it_be(
    gateway: Gateway, tls: TLS
) -> None:
    own = tls.authority.server("gateway.test")
    lax = server_context(
        certificate=own.certificate,
        key=own.key,
        client_ca=tls.authority.pem,
        client_certificate=ClientCertificate.OPTIONAL,
    )
    async with gateway(context=lambda: lax) as live:
        stream = await live.connect(context=client_context(ca=tls.authority.pem))
        await stream.send_all(connect(ECHO, "x"))
        assert b"the client showed no certificate" in await stream.receive_some()
        await stream.aclose()


async def test_clock_set_back_revives_no_certificate(gateway: Gateway, tls: TLS) -> None:
    request = b"GET /.well-known/mdx/status HTTP/1.1\r\nHost: gateway.test\r\n\r\n"
    async with gateway() as live:
        assert status_of(await live.ask(request)) == 200
        live.clock.now += 7200
        answer = await live.ask(request)
        assert refusal(answer) == "NOT_ALLOWED"
        assert b"has expired" in answer
        live.clock.now -= 7200
        assert refusal(await live.ask(request)) == "NOT_ALLOWED"


async def test_flow_is_cut_when_its_certificate_ends(
    gateway: Gateway, tls: TLS, echo_server: EchoServer
) -> None:
    brief = tls.authority.issue(uris=["mdx://acme/device/d1/app/payroll"], ends_seconds=2)
    async with echo_server() as port, gateway(hosts={ECHO: port}) as live:
        stream = await opened(live, connect(ECHO, await live.token(brief)), brief)
        await stream.send_all(b"before")
        assert await stream.receive_some() == b"before"
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        await stream.aclose()
    assert live.events("flow.ended")[0]["ended"] == "stopped"
    assert live.events("flow.ended")[0]["bytes_up"] == 6


async def test_flow_is_cut_when_the_wall_clock_jumps_or_the_session_ends(
    gateway: Gateway, echo_server: EchoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunnel.gateway.CLOCK_TICK_SECONDS", 0.05)
    async with echo_server() as port, gateway(hosts={ECHO: port}) as live:
        stream = await opened(live, connect(ECHO, await live.token()))
        live.clock.now += 3700
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        await stream.aclose()
    limits = Limits(session_seconds=0.2)
    async with echo_server() as port, gateway(hosts={ECHO: port}, limits=limits) as live:
        stream = await opened(live, connect(ECHO, await live.token()))
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        await stream.aclose()


async def test_flow_lives_on_with_a_certificate_renewed_in_time(
    gateway: Gateway, tls: TLS, echo_server: EchoServer
) -> None:
    brief, renewed = of_one_key(tls, 2, 3600)
    async with echo_server() as port, gateway(hosts={ECHO: port}) as live:
        stream = await opened(live, connect(ECHO, await live.token(brief)), brief)
        await live.client(renewed).renew()
        with trio.move_on_after(3) as patience:
            await stream.receive_some()
        assert patience.cancelled_caught
        await stream.send_all(b"after")
        assert await stream.receive_some() == b"after"
        await stream.aclose()


@pytest.mark.parametrize("whose", ["another key's", "another app's", "an older one"])
async def test_other_certificates_do_not_prolong_a_flow(
    gateway: Gateway, tls: TLS, echo_server: EchoServer, whose: str
) -> None:
    brief, older = of_one_key(tls, 2, 1)
    shown = {
        "another key's": tls.app,
        "another app's": tls.authority.issue(uris=["mdx://acme/device/d1/app/mail"]),
        "an older one": older,
    }[whose]
    async with echo_server() as port, gateway(hosts={ECHO: port}) as live:
        stream = await opened(live, connect(ECHO, await live.token(brief)), brief)
        await live.client(shown).renew()
        await stream.send_all(b"before")
        assert await stream.receive_some() == b"before"
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        await stream.aclose()


async def test_renewed_certificate_does_not_prolong_the_session(
    gateway: Gateway, tls: TLS, echo_server: EchoServer
) -> None:
    first, renewed = of_one_key(tls, 1800, 3600)
    limits = Limits(session_seconds=1)
    async with echo_server() as port, gateway(hosts={ECHO: port}, limits=limits) as live:
        stream = await opened(live, connect(ECHO, await live.token(first)), first)
        await live.client(renewed).renew()
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        await stream.aclose()


def of_one_key(tls: TLS, *ends_seconds: float) -> list[Issued]:
    """Certificates of the usual names for one fresh key, each with its own end."""
    key = ec.generate_private_key(ec.SECP256R1())
    uri = "mdx://acme/device/d1/app/payroll"
    return [tls.authority.issue(uris=[uri], key=key, ends_seconds=end) for end in ends_seconds]


# Where to ---------------------------------------------------------------------------------------


async def test_default_deny(gateway: Gateway, echo_server: EchoServer) -> None:
    allow = {"payroll": ["*.corp.test:443", "git.test", "10.0.0.0/8:80-90"], "mail": ["*"]}
    async with echo_server() as port, gateway(allow=allow, hosts={ECHO: port}) as live:
        token = await live.token()
        for to in (ECHO, "corp.test:443", "a.corp.test:80", "10.1.2.3:91", "11.0.0.1:80"):
            answer = await live.ask(connect(to, token))
            assert refusal(answer) == "NOT_ALLOWED"
            assert to.encode() in answer
        for to in ("a.corp.test:443", "git.test:22"):  # the next gate: nobody knows the name
            assert refusal(await live.ask(connect(to, token))) == "NAME_NOT_FOUND"
    assert len(live.events("flow.refused")) == 7
    assert live.events("flow.allowed") == []


GUARDED = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "169.254.169.254",
    "169.254.1.1",
    "168.63.129.16",
    "100.100.100.200",
    "224.0.0.1",
    "255.255.255.255",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:169.254.169.254]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::a9fe:a9fe]",
    "[2002:7f00:1::]",
    "[fd00:ec2::254]",
    "[fe80::1]",
    "[fec0::1]",
    "[ff02::1]",
    "[::127.0.0.1]",
    "10.9.9.9",  # one of the gateway's own
]


async def test_guard_refuses_addresses_as_given_and_as_resolved(gateway: Gateway) -> None:
    """Rebinding: a name that leads to a guarded address is no better than the address."""
    answer_of: list[Address] = []

    async def resolve(host: str) -> Sequence[Address]:
        await trio.lowlevel.checkpoint()
        return answer_of

    own = {ip_address("10.9.9.9")}
    async with gateway(resolve=resolve, own=own) as live:
        token = await live.token()
        for text in GUARDED:
            assert refusal(await live.ask(connect(f"{text}:80", token))) == "ADDRESS_GUARD", text
            answer_of[:] = [ip_address(text.strip("[]"))]
            answer = await live.ask(connect("rebound.test:80", token))
            assert refusal(answer) == "ADDRESS_GUARD", text
    assert live.events("flow.allowed") == []
    assert len(live.events("flow.refused")) == 2 * len(GUARDED)


async def test_allow_list_that_names_the_address_does_not_pass_the_guard(
    gateway: Gateway, echo_server: EchoServer
) -> None:
    async with echo_server() as port:
        to = f"127.0.0.1:{port}"
        async with gateway(allow={"payroll": [to]}) as live:
            assert refusal(await live.ask(connect(to, await live.token()))) == "ADDRESS_GUARD"


async def test_table_of_hosts_is_the_way_past_the_guard_but_not_past_the_allow_list(
    gateway: Gateway, echo_server: EchoServer
) -> None:
    async with (
        echo_server() as port,
        gateway(allow={"payroll": ["echo.test"]}, hosts={ECHO: port, "other.test:7": port}) as live,
    ):
        token = await live.token()
        await (await opened(live, connect(ECHO, token))).aclose()
        assert refusal(await live.ask(connect("other.test:7", token))) == "NOT_ALLOWED"
        # An entry is one port.
        assert refusal(await live.ask(connect("echo.test:8", token))) == "NAME_NOT_FOUND"


async def test_what_the_network_says(gateway: Gateway, unused_port: int) -> None:
    async with gateway(hosts={"dead.test:1": unused_port}) as live:
        answer = await live.ask(connect("dead.test:1", await live.token()))
        assert refusal(answer) == "CONNECTION_REFUSED"
    assert [record["event"] for record in live.records][1:] == ["flow.allowed", "flow.refused"]


# TLS to the backend -------------------------------------------------------------------------------


async def backend_answer(live: LiveGateway, to: str = "site.test:443") -> bytes:
    """What the gateway says to a CONNECT to the site."""
    return await live.ask(connect(to, await live.token()))


async def test_gateway_ends_tls_to_the_backend_with_its_own_certificate(
    gateway: Gateway, tls: TLS, tcp_server: TCPServer
) -> None:
    own = tls.authority.server("site.test")
    site = server_context(certificate=own.certificate, key=own.key, client_ca=tls.authority.pem)
    shown: list[str] = []

    async def serve(tcp: trio.SocketStream) -> None:
        stream = TLSStream(tcp, site)
        try:
            await stream.do_handshake()
        except HandshakeFailed:
            return
        certificate = stream.peer_certificate
        assert certificate is not None
        shown.append(str(certificate.serial_number))
        while data := await stream.receive_some():
            await stream.send_all(data.upper())
        await stream.send_eof()
        await stream.aclose()

    as_gateway = tls.authority.issue(uris=["mdx://acme/gateway/gateway"])
    to_site = client_context(
        ca=tls.authority.pem, certificate=as_gateway.certificate, key=as_gateway.key
    )
    async with tcp_server(serve) as port:
        here = Destination("127.0.0.1", port)
        host = Host(destination=here, dial=here, tls=to_site)
        async with gateway(hosts={"site.test:443": host}) as live:
            stream = await opened(live, connect("site.test:443", await live.token()))
            await stream.send_all(b"hello")
            assert await stream.receive_some() == b"HELLO"
            await stream.send_eof()
            assert await stream.receive_some() == b""
            await stream.aclose()
    assert len(shown) == 1


async def test_backend_with_wrong_name_or_authority_is_refused(
    gateway: Gateway,
    tls: TLS,
    new_authority: Callable[[], Authority],
    tcp_server: TCPServer,
) -> None:
    to_site = client_context(ca=tls.authority.pem, certificate=tls.app.certificate, key=tls.app.key)
    cases = {
        "not good for site.test": tls.authority.server("other.test"),
        "unknown ca": new_authority().server("site.test"),
        "not made for this side": tls.authority.issue(names=["site.test"]),
        "expired": tls.authority.issue(
            names=["site.test"], purposes=[ExtendedKeyUsageOID.SERVER_AUTH], ends_seconds=-5
        ),
    }
    for words, own in cases.items():
        site = server_context(certificate=own.certificate, key=own.key, client_ca=tls.authority.pem)

        async def serve(tcp: trio.SocketStream, site: Any = site) -> None:
            stream = TLSStream(tcp, site)
            try:
                await stream.do_handshake()
                assert await stream.receive_some() == b""  # not a byte of the client's
            except (HandshakeFailed, trio.BrokenResourceError):
                await stream.aclose()
            await stream.aclose()

        async with tcp_server(serve) as port:
            here = Destination("127.0.0.1", port)
            host = Host(destination=here, dial=here, tls=to_site)
            async with gateway(hosts={"site.test:443": host}) as live:
                answer = await backend_answer(live)
                assert status_of(answer) == 502
                assert refusal(answer) == "UNREACHABLE"
                assert words in answer.decode()


async def test_backend_that_speaks_no_tls_or_nothing(
    gateway: Gateway, tls: TLS, tcp_server: TCPServer, echo_server: EchoServer
) -> None:
    async def silent(stream: trio.SocketStream) -> None:
        while await stream.receive_some():
            pass
        await stream.aclose()

    limits = Limits(dial_seconds=0.3)
    async with echo_server() as talks, tcp_server(silent) as mute:
        table = {
            f"{name}.test:443": Host(
                destination=Destination("127.0.0.1", port),
                dial=Destination("127.0.0.1", port),
                tls=tls.client,
            )
            for name, port in (("echo", talks), ("mute", mute))
        }
        async with gateway(hosts=table, limits=limits) as live:
            assert refusal(await backend_answer(live, "echo.test:443")) == "UNREACHABLE"
            assert refusal(await backend_answer(live, "mute.test:443")) == "TIMED_OUT"


# Hostile and slow clients -------------------------------------------------------------------------


def hostile_heads() -> list[tuple[str, str, bytes]]:
    """(fault, refusal code, bytes)."""
    rows = json.loads((Path(__file__).parent / "hostile" / "connect.json").read_text())
    return [
        (
            row["name"],
            row["code"],
            b"".join(
                (piece if isinstance(piece, str) else piece[0] * piece[1]).encode("latin-1")
                for piece in row["data"]
            ),
        )
        for row in rows
    ]


async def test_hostile_heads_get_one_refusal_each_and_the_same_process_still_serves(
    gateway: Gateway, echo_server: EchoServer
) -> None:
    heads = hostile_heads()
    assert len(heads) >= 40
    async with echo_server() as port, gateway(hosts={ECHO: port}) as live:
        token = await live.token()
        for fault, code, data in heads:
            # Right behind it a good request, which must not be read.
            answer = await live.ask(data + connect(ECHO, token))
            # What the agent's listener takes for a bad address is another method here.
            expected = code if data.startswith(b"CONNECT ") else refusal(answer)
            assert refusal(answer) == expected, fault
        await still_serves(live)
    assert len(live.events("flow.allowed")) == 1


async def test_refusal_is_one_answer_whatever_is_pipelined(
    gateway: Gateway, echo_server: EchoServer
) -> None:
    async with echo_server() as port, gateway(hosts={ECHO: port}) as live:
        token = await live.token()
        good = connect(ECHO, token)
        for bad in (
            connect("forbidden.test:1", token),
            connect(ECHO),
            b"GET / HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
            b"OPTIONS * HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
            b"GET http://echo.test/ HTTP/1.1\r\nHost: echo.test\r\n\r\n",
            b"POST /.well-known/mdx/status HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
            b"\x16\x03\x01\x02\x00" + bytes(100),
        ):
            assert refusal(await live.ask(bad + good * 3))
        status = b"GET /.well-known/mdx/status HTTP/1.1\r\nHost: gateway.test\r\n\r\n"
        assert status_of(await live.ask(status + good)) == 200  # one connection, one request
        await still_serves(live)


async def test_strangers_of_other_protocols_do_not_end_the_gateway(
    gateway: Gateway, echo_server: EchoServer
) -> None:
    async with echo_server() as port, gateway(hosts={ECHO: port}) as live:
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x05\x01\x00", bytes(4096), b"\x16\x03\x01", b""):
            stream = await trio.open_tcp_stream("127.0.0.1", live.port)
            await stream.send_all(data)
            await stream.send_eof()
            try:
                while await stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                assert data
            await stream.aclose()
        for _ in range(20):  # reset while the handshake waits
            stream = await trio.open_tcp_stream("127.0.0.1", live.port)
            await abort(stream)
        await still_serves(live)


async def test_slow_clients_are_cut(gateway: Gateway, echo_server: EchoServer) -> None:
    limits = Limits(handshake_seconds=0.2, head_seconds=0.2)
    async with echo_server() as port, gateway(hosts={ECHO: port}, limits=limits) as live:
        mute = await trio.open_tcp_stream("127.0.0.1", live.port)
        slow = await live.connect()
        await slow.send_all(b"CONNECT echo.test:7 HTTP/1.1\r\n")
        with trio.fail_after(5):
            for stream in (mute, slow):
                with pytest.raises(trio.BrokenResourceError):
                    await stream.receive_some()
                await stream.aclose()
        assert len(live.logged("connection.slow")) == 2
        await still_serves(live)


async def test_client_that_talks_on_after_its_refusal_is_cut(gateway: Gateway) -> None:
    async with gateway() as live:
        stream = await live.connect()
        await stream.send_all(connect(ECHO))

        async def talk() -> None:  # it neither reads nor ends
            while True:
                await stream.send_all(bytes(1024))

        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
            await talk()
        await stream.aclose()


async def test_client_that_leaves_midway(gateway: Gateway, echo_server: EchoServer) -> None:
    async with echo_server() as port, gateway(hosts={ECHO: port}) as live:
        for ending in (abort, trio.aclose_forcefully):
            stream = await live.connect()
            await stream.send_all(b"CONNECT echo")
            await ending(stream)
        stream = await opened(live, connect(ECHO, await live.token()))
        await abort(stream)
        await until(lambda: bool(live.events("flow.ended")))
        await still_serves(live)
    assert live.events("flow.ended")[0]["ended"] == "cut"


async def test_idle_flow_is_cut(gateway: Gateway, echo_server: EchoServer) -> None:
    limits = Limits(flow_idle_seconds=0.2)
    async with echo_server() as port, gateway(hosts={ECHO: port}, limits=limits) as live:
        stream = await opened(live, connect(ECHO, await live.token()))
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        await stream.aclose()
    assert live.events("flow.ended")[0]["ended"] == "idle"


# Caps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits",
    [
        Limits(connections=2),
        Limits(handshakes=2),
        Limits(handshakes_per_source=2),
    ],
)
async def test_overload_refuses_early_and_recovers(
    gateway: Gateway, echo_server: EchoServer, limits: Limits
) -> None:
    async with echo_server() as port, gateway(hosts={ECHO: port}, limits=limits) as live:
        waiting = [await trio.open_tcp_stream("127.0.0.1", live.port) for _ in range(2)]
        await trio.testing.wait_all_tasks_blocked(0.05)
        with pytest.raises((HandshakeFailed, trio.BrokenResourceError)):
            await live.connect()
        assert live.logged("connection.refused")[0]["code"] == "OVERLOADED"
        for stream in waiting:
            await stream.aclose()
        await until(lambda: len(live.logged("handshake.failed")) >= 2)
        await still_serves(live)


async def test_one_device_cannot_take_all_connections(
    gateway: Gateway, tls: TLS, echo_server: EchoServer
) -> None:
    other = tls.authority.issue(uris=["mdx://acme/device/d2/app/payroll"])
    limits = Limits(connections_per_device=2)
    async with echo_server() as port, gateway(hosts={ECHO: port}, limits=limits) as live:
        token, others = await live.token(), await live.token(other)
        flows = [await opened(live, connect(ECHO, token)) for _ in range(2)]
        assert refusal(await live.ask(connect(ECHO, token))) == "OVERLOADED"
        await (await opened(live, connect(ECHO, others), other)).aclose()
        for flow in flows:
            await abort(flow)
        await until(lambda: len(live.events("flow.ended")) >= 3)
        await (await opened(live, connect(ECHO, token))).aclose()


# Audit, and the end -------------------------------------------------------------------------------


@pytest.mark.parametrize("event", ["session.granted", "flow.allowed"])
async def test_what_cannot_be_recorded_does_not_happen(
    gateway: Gateway, tcp_server: TCPServer, event: str
) -> None:
    came: list[trio.SocketStream] = []
    full = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        came.append(stream)
        await stream.aclose()

    def record(name: str, **fields: Any) -> None:
        if full.is_set():
            raise OSError(28, "No space left on device")

    async with tcp_server(serve) as port, gateway(hosts={ECHO: port}, record=record) as live:
        token = await live.token()
        full.set()
        if event == "flow.allowed":
            answer = await live.ask(connect(ECHO, token))
        else:
            answer = await live.ask(post_session(f"Bearer {live.ticket()}"))
        assert refusal(answer) == "AUDIT_UNWRITABLE"
        assert b"mdxs1." not in answer
        # A refusal needs no record to stand.
        assert refusal(await live.ask(connect(ECHO))) == "NOT_AUTHENTICATED"
        await trio.testing.wait_all_tasks_blocked(0.02)
    assert came == []
    assert live.logged("audit.failed")[0]["about"] == event


async def test_stopped_gateway_resets_flows_and_records_their_ends(
    gateway: Gateway, echo_server: EchoServer
) -> None:
    async with echo_server() as port:
        async with gateway(hosts={ECHO: port}) as live:
            stream = await opened(live, connect(ECHO, await live.token()))
            await stream.send_all(b"12345")
            assert await stream.receive_some() == b"12345"
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        await stream.aclose()
        with pytest.raises(OSError, match="attempts to connect"):
            await trio.open_tcp_stream("127.0.0.1", live.port)
    [ended] = live.events("flow.ended")
    assert (ended["ended"], ended["bytes_up"], ended["bytes_down"]) == ("stopped", 5, 5)


async def test_log_that_fails_ends_nothing(tls: TLS, echo_server: EchoServer) -> None:
    from tunnel.gateway import serve_gateway
    from tunnel.gateway_setup import GatewaySetup

    def broken(event: str, **fields: object) -> None:
        raise BrokenPipeError

    async def redeem(ticket: str, identity: Identity) -> Redeemed:
        raise Refused(RefusalCode.NOT_AUTHENTICATED, "no")

    def allow(app: str, destination: Destination) -> str:
        raise AssertionError

    setup = GatewaySetup(
        name="gateway",
        tenant="acme",
        context=lambda: tls.server,
        redeem=redeem,
        allow=allow,
        record=broken,
        log=broken,
        clock=lambda: tls.app.identity.not_after - 60,
    )
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_gateway, listeners, setup)
        for _ in range(2):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stream.send_all(b"not TLS")
            with suppress(trio.BrokenResourceError):
                while await stream.receive_some():
                    pass
            await stream.aclose()
        tcp = await trio.open_tcp_stream("127.0.0.1", port)
        stream_tls = TLSStream(tcp, tls.client, server_name="gateway.test")
        await stream_tls.do_handshake()
        await stream_tls.send_all(connect(ECHO, new_ticket("desk")))
        assert refusal(await stream_tls.receive_some()) == "NOT_AUTHENTICATED"
        await stream_tls.aclose()
        nursery.cancel_scope.cancel()


# Real programs ------------------------------------------------------------------------------------


async def test_real_curl_by_a_config_file(
    gateway: Gateway, tls: TLS, tcp_server: TCPServer, program: Program, tmp_path: Path
) -> None:
    own = tls.authority.server("intranet.test")
    site = server_context(
        certificate=own.certificate,
        key=own.key,
        client_ca=tls.authority.pem,
        client_certificate=ClientCertificate.OPTIONAL,
    )

    async def serve(tcp: trio.SocketStream) -> None:
        stream = TLSStream(tcp, site)  # the client's own TLS, end to end through the gateway
        await stream.do_handshake()
        await stream.receive_some()
        await stream.send_all(
            b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\nprivate\n"
        )
        await stream.send_eof()
        await stream.aclose()

    certificate, key = tls.app.write(tmp_path, "app")
    (tmp_path / "ca.pem").write_bytes(tls.authority.pem)
    async with tcp_server(serve) as port, gateway(hosts={"intranet.test:443": port}) as live:

        async def curl(token: str) -> tuple[int, bytes, bytes]:
            # Like what `mdx token APP --curl` prints: no secret in argv.
            lines = [
                f'proxy = "https://gateway.test:{live.port}"',
                'proxy-cacert = "ca.pem"',
                f'proxy-cert = "{certificate}"',
                f'proxy-key = "{key}"',
                f'proxy-user = "payroll:{token}"',
                f'resolve = "gateway.test:{live.port}:127.0.0.1"',
                'cacert = "ca.pem"',
                "silent",
                "show-error",
            ]
            (tmp_path / "curl.conf").write_text("\n".join(lines) + "\n")
            return await program("curl", "--config", "curl.conf", "https://intranet.test/")

        token = await live.token()
        for _ in range(2):
            assert await curl(token) == (0, b"private\n", b"")
        status, output, errors = await curl(new_session_token())
        assert (status, output) == (56, b"")
        assert b"407" in errors
        # A ticket, once.
        ticket = live.ticket()
        assert (await curl(ticket))[:2] == (0, b"private\n")
        assert (await curl(ticket))[0] == 56


async def test_many_clients_at_once(gateway: Gateway, echo_server: EchoServer) -> None:
    async with echo_server() as port, gateway(hosts={ECHO: port}) as live:
        token = await live.token()
        done: list[int] = []

        async def one(number: int) -> None:
            stream = await opened(live, connect(ECHO, token))
            text = f"{number}".encode() * 5000
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, text)
                received = bytearray()
                while len(received) < len(text):
                    received += await stream.receive_some()
            assert received == text
            await stream.send_eof()
            assert await stream.receive_some() == b""
            await stream.aclose()
            done.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(one, number)
        assert sorted(done) == list(range(20))


def test_nothing_listens_after_a_test(unused_port: int) -> None:
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", unused_port))
