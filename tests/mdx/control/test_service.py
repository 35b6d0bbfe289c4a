"""The device face over real TLS: who may ask for what, and what comes of asking for more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import h11
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from mdx.certificate_key import CertificateKey
from mdx.control.ca import issue, new_issuing_authority, new_root, read_request
from mdx.control.client import ControlClient, ControlRefused, ControlUnreachable
from mdx.control.join import JoinCode, new_join_code, parse_join_code
from mdx.control.own_certificate import OwnCertificate
from mdx.control.service import serve
from tunnel import (
    ClientContext,
    HandshakeFailed,
    JSONAnswer,
    Purpose,
    Role,
    Subject,
    TLSStream,
    client_context,
    public_key_hash,
    read_identity,
    request_json,
    server_context,
)

if TYPE_CHECKING:
    from tests.mdx.control.conftest import Control, DeviceHere, StartControl


END = h11.EndOfMessage()


async def ask(
    control: Control,
    target: str,
    body: dict[str, Any] | None = None,
    *,
    method: str = "POST",
    certificate: str | None = None,
    key: CertificateKey | None = None,
) -> JSONAnswer:
    context: ClientContext = client_context(
        ca=control.root.certificate_pem.encode(),
        certificate=certificate.encode() if certificate else None,
        key=key.pem() if key else None,
    )
    return await request_json(
        method, target, body, to=control.address, context=context, server_name="control"
    )


def issued_by(control: Control, subject: Subject, key: CertificateKey, **more: Any) -> str:
    """A certificate straight from the CA, also such as control itself would not give."""
    public = read_request(key.request())
    return issue(control.issuing, public, subject, **{"now": control.clock(), **more}).pem


@asynccontextmanager
async def kept_open(
    control: Control, certificate: str, key: CertificateKey
) -> AsyncIterator[Callable[[str], Awaitable[int]]]:
    """One connection; the callable sends a GET over it and gives the status of the answer."""
    context = client_context(
        ca=control.root.certificate_pem.encode(), certificate=certificate.encode(), key=key.pem()
    )
    transport = await trio.open_tcp_stream(control.address.host, control.address.port)
    async with TLSStream(transport, context, server_name="control") as stream:
        await stream.do_handshake()
        connection = h11.Connection(h11.CLIENT)

        async def get(target: str) -> int:
            head = h11.Request(method="GET", target=target, headers=[("Host", "control")])
            await stream.send_all((connection.send(head) or b"") + (connection.send(END) or b""))
            status = 0
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if isinstance(event, h11.Response):
                    status = event.status_code
                elif event is h11.NEED_DATA:
                    connection.receive_data(await stream.receive_some())
            connection.start_next_cycle()
            return status

        yield get


async def test_a_device_joins_and_gets_certificates_and_tickets(control: Control) -> None:
    device = await control.device()
    enrolled = device.enrolled
    assert enrolled.tenant == "home"
    assert enrolled.control == {
        "host": "127.0.0.1",
        "port": control.address.port,
        "name": "control",
    }
    assert enrolled.gateway == {"host": "127.0.0.1", "port": 4433, "name": "gateway"}
    assert enrolled.ca == control.root.certificate_pem
    leaf = x509.load_pem_x509_certificate(enrolled.certificate.encode())
    identity = read_identity(leaf, control.clock(), purpose=Purpose.CLIENT)
    assert (identity.role, identity.device) == (Role.DEVICE, enrolled.device)
    assert identity.key_hash == device.key.key_hash

    run = CertificateKey()
    answer = await device.client.certificate("payroll", run.request(), lifetime_seconds=600)
    leaf = x509.load_pem_x509_certificate(answer["certificate"].encode())
    identity = read_identity(leaf, control.clock(), purpose=Purpose.CLIENT)
    assert (identity.device, identity.app) == (enrolled.device, "payroll")
    assert answer["not_after"] == identity.not_after
    assert 500 < answer["not_after"] - control.clock() <= 600
    assert answer["ca"] == control.root.certificate_pem

    ticket = await device.client.ticket("payroll", run.key_hash)
    gateway = control.gateway()
    binding = {"device": enrolled.device, "app": "payroll", "key_hash": run.key_hash}
    redeemed = await gateway.redeem(ticket, **binding)
    with pytest.raises(ControlRefused, match="not good") as caught:
        await gateway.redeem(ticket, **binding)
    assert caught.value.status == 403
    assert [name for name, _ in control.audit.records if not name.startswith("cert")] == [
        "join_code.created",
        "device.enrolled",
        "ticket.issued",
        "gateway.enrolled",
        "ticket.redeemed",
        "ticket.refused",
    ]
    (issued,) = control.audit.of("ticket.issued")
    assert issued["ticket"] == redeemed["ticket"]
    assert ticket not in repr(control.audit.records)

    status = await device.client.status()
    assert status["caller"] == f"mdx://home/device/{enrolled.device}"
    assert (await gateway.status())["caller"] == "mdx://home/gateway/gateway"


async def test_a_stolen_ticket_is_refused_and_its_owner_is_not(control: Control) -> None:
    owner, thief = await control.device(), await control.device()
    run, thiefs_run = CertificateKey(), CertificateKey()
    ticket = await owner.client.ticket("payroll", run.key_hash)
    good = {
        "device": owner.enrolled.device,
        "app": "payroll",
        "key_hash": run.key_hash,
    }
    gateway, other = control.gateway(), control.gateway("other")
    for client, wrong in (
        (gateway, {"device": thief.enrolled.device}),
        (gateway, {"app": "mail"}),
        (gateway, {"key_hash": thiefs_run.key_hash}),
        (gateway, {"device": thief.enrolled.device, "key_hash": thiefs_run.key_hash}),
        (other, {}),
    ):
        with pytest.raises(ControlRefused, match="not good"):
            await client.redeem(ticket, **{**good, **wrong})
    await gateway.redeem(ticket, **good)
    assert len(control.audit.of("ticket.refused")) == 5


async def test_of_parallel_connections_one_redeems(control: Control) -> None:
    device, run, gateway = await control.device(), CertificateKey(), control.gateway()
    ticket = await device.client.ticket("payroll", run.key_hash)
    outcomes: list[bool] = []

    async def redeem() -> None:
        try:
            await gateway.redeem(
                ticket, device=device.enrolled.device, app="payroll", key_hash=run.key_hash
            )
        except ControlRefused:
            outcomes.append(False)
        else:
            outcomes.append(True)

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(redeem)
    assert sorted(outcomes) == [False] * 5 + [True]


async def test_an_expired_ticket_is_refused(control: Control) -> None:
    device, run, gateway = await control.device(), CertificateKey(), control.gateway()
    ticket = await device.client.ticket("payroll", run.key_hash)
    control.clock.ahead = 101
    with pytest.raises(ControlRefused):
        await gateway.redeem(
            ticket, device=device.enrolled.device, app="payroll", key_hash=run.key_hash
        )


async def test_a_join_code_has_its_uses_and_its_end(control: Control) -> None:
    twice = control.join_code(uses=2)
    first = await ControlClient.enroll(twice, CertificateKey().request())
    second = await ControlClient.enroll(twice, CertificateKey().request())
    assert first.device != second.device
    short = control.join_code(lifetime_seconds=60)
    guessed = new_join_code(
        host=control.address.host,
        port=control.address.port,
        pin=public_key_hash(control.root.certificate.public_key()),
    ).text()
    control.clock.ahead = 60
    said = set()
    for code in (twice, short, guessed):
        with pytest.raises(ControlRefused, match="join code is not good") as caught:
            await ControlClient.enroll(code, CertificateKey().request())
        said.add((str(caught.value), caught.value.hint, caught.value.status))
    assert len(said) == 1
    assert len(control.enrollment.devices()) == 2
    assert [fields["status"] for fields in control.audit.of("request.refused")] == [403] * 3
    assert {fields["peer"] for fields in control.audit.of("request.refused")} == {"127.0.0.1"}


async def test_a_bad_request_costs_no_use_of_a_code(control: Control) -> None:
    code = control.join_code()
    with pytest.raises(ControlRefused) as caught:
        await ControlClient.enroll(code, "garbage")
    assert caught.value.status == 400
    await ControlClient.enroll(code, CertificateKey().request())


async def test_the_secret_of_a_code_is_not_in_the_database(control: Control) -> None:
    code = control.join_code()
    secret = parse_join_code(code).secret
    content = b"".join(path.read_bytes() for path in control.database.parent.glob("control.db*"))
    assert secret not in content
    assert secret.hex().encode() not in content


async def test_another_ca_is_refused_with_both_fingerprints(start_control: StartControl) -> None:
    async with start_control() as control:
        real = parse_join_code(control.join_code())
        other = public_key_hash(new_root("home", control.clock()).certificate.public_key())
        code = JoinCode(host=real.host, port=real.port, pin=other, secret=real.secret).text()
        with pytest.raises(ControlUnreachable) as caught:
            await ControlClient.enroll(code, CertificateKey().request())
        assert other in str(caught.value)
        assert real.pin in str(caught.value)
        assert "join" in caught.value.hint
        assert control.enrollment.devices() == []


async def test_who_shows_the_right_root_without_its_key_is_refused(
    start_control: StartControl,
) -> None:
    """An impostor can send the public certificate of the real root, but not chain to it."""
    async with start_control() as control:
        code = parse_join_code(control.join_code())
        impostor = new_root("home", control.clock())
        chain = control.root.certificate_pem
        async with start_control(root=impostor) as fake:
            fake.enrollment.root_pem = chain  # shown at the end of the chain, from the next start
            own = OwnCertificate(fake.enrollment, name="control", clock=fake.clock)
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            async with trio.open_nursery() as nursery:

                async def run() -> None:
                    await serve(
                        listeners,
                        context=own.context,
                        face=fake.administrator,
                        clock=fake.clock,
                        log=lambda event, **facts: None,
                    )

                nursery.start_soon(run)
                lured = JoinCode(
                    host="127.0.0.1",
                    port=listeners[0].socket.getsockname()[1],
                    pin=code.pin,
                    secret=code.secret,
                )
                with pytest.raises(ControlUnreachable, match="not good for"):
                    await ControlClient.enroll(lured.text(), CertificateKey().request())
                nursery.cancel_scope.cancel()


async def test_without_a_certificate_there_is_nothing_but_enrolling(control: Control) -> None:
    for target, body in (
        ("/v1/certificates", {"app": "a", "csr": "x", "lifetime_seconds": 60}),
        ("/v1/device-certificates", {"csr": "x"}),
        ("/v1/tickets", {"app": "a", "key_hash": "ab" * 32}),
        ("/v1/tickets/redeem", {"ticket": "t", "device": "d", "app": "a", "key_hash": "x"}),
    ):
        answer = await ask(control, target, body)
        assert answer.status == 401
        assert "certificate" in answer.value["error"]["message"]
    assert (await ask(control, "/v1/status", method="GET")).status == 401


async def test_roles_do_not_mix(control: Control) -> None:
    device = await control.device()
    run = CertificateKey()
    app = (await device.client.certificate("payroll", run.request(), lifetime_seconds=600))[
        "certificate"
    ]
    gateway_key = CertificateKey()
    gateway = control.enrollment.gateway_certificate(
        name="gateway", host="127.0.0.1", csr=gateway_key.request(), now=control.clock()
    ).pem
    wants_device: list[tuple[str, dict[str, Any]]] = [
        ("/v1/certificates", {"app": "payroll", "csr": run.request(), "lifetime_seconds": 60}),
        ("/v1/device-certificates", {"csr": run.request()}),
        ("/v1/tickets", {"app": "payroll", "key_hash": run.key_hash}),
    ]
    redeem = {
        "ticket": "mdx1.control." + "A" * 43,
        "device": device.enrolled.device,
        "app": "payroll",
        "key_hash": run.key_hash,
    }
    for certificate, key in ((app, run), (gateway, gateway_key)):
        for target, body in wants_device:
            answer = await ask(control, target, body, certificate=certificate, key=key)
            assert answer.status == 403
            assert "certificate of a device" in answer.value["error"]["message"]
    for certificate, key in ((app, run), (device.enrolled.certificate, device.key)):
        answer = await ask(control, "/v1/tickets/redeem", redeem, certificate=certificate, key=key)
        assert answer.status == 403
        assert "certificate of a gateway" in answer.value["error"]["message"]
    answer = await ask(control, "/v1/status", method="GET", certificate=app, key=run)
    assert answer.status == 403
    refused = control.audit.of("request.refused")
    assert {fields["role"] for fields in refused} == {"app", "gateway", "device"}
    assert control.audit.of("ticket.issued") == []


async def test_a_device_speaks_for_itself_only(control: Control) -> None:
    """There is no field for a device; a body that names one is refused, not read past."""
    device, other = await control.device(), await control.device()
    run = CertificateKey()
    for target, body in (
        ("/v1/certificates", {"app": "payroll", "csr": run.request(), "lifetime_seconds": 60}),
        ("/v1/tickets", {"app": "payroll", "key_hash": run.key_hash}),
    ):
        answer = await ask(
            control,
            target,
            {**body, "device": other.enrolled.device},
            certificate=device.enrolled.certificate,
            key=device.key,
        )
        assert answer.status == 400
    for app in (
        "../" + other.enrolled.device,
        f"{other.enrolled.device}/app/mail",
        "",
        "A",
        "a" * 64,
    ):
        with pytest.raises(ControlRefused) as caught:
            await device.client.certificate(app, run.request(), lifetime_seconds=600)
        assert caught.value.status == 400
        with pytest.raises(ControlRefused) as caught:
            await device.client.ticket(app, run.key_hash)
        assert caught.value.status == 400


@pytest.mark.parametrize("key_hash", ["", "ab" * 31, "AB" * 32, "ab" * 32 + "\n", "g" * 64])
async def test_a_ticket_needs_a_proper_key_hash(control: Control, key_hash: str) -> None:
    device = await control.device()
    with pytest.raises(ControlRefused) as caught:
        await device.client.ticket("payroll", key_hash)
    assert caught.value.status == 400


async def test_revoking_ends_what_a_device_may_do(control: Control) -> None:
    device, run, gateway = await control.device(), CertificateKey(), control.gateway()
    ticket = await device.client.ticket("payroll", run.key_hash)
    control.enrollment.revoke(device.enrolled.device, control.clock())
    calls: list[Callable[[], Any]] = [
        lambda: device.client.certificate("payroll", run.request(), lifetime_seconds=600),
        lambda: device.client.renew(CertificateKey().request()),
        lambda: device.client.ticket("payroll", run.key_hash),
        lambda: device.client.status(),
        lambda: gateway.redeem(
            ticket, device=device.enrolled.device, app="payroll", key_hash=run.key_hash
        ),
    ]
    for call in calls:
        with pytest.raises(ControlRefused) as caught:
            await call()
        assert caught.value.status == 403


async def test_a_device_that_control_never_saw_is_refused(control: Control) -> None:
    key = CertificateKey()
    subject = Subject(tenant="home", role=Role.DEVICE, device="d-of-an-older-database")
    client = control.client(issued_by(control, subject, key), key)
    with pytest.raises(ControlRefused, match="not enrolled"):
        await client.ticket("payroll", key.key_hash)


async def test_another_tenants_certificate_is_refused(control: Control) -> None:
    key = CertificateKey()
    subject = Subject(tenant="other", role=Role.DEVICE, device="d1")
    client = control.client(issued_by(control, subject, key), key)
    with pytest.raises(ControlRefused, match="another tenant"):
        await client.status()


async def test_an_expired_certificate_ends_in_tls(control: Control) -> None:
    device = await control.device()
    key = CertificateKey()
    subject = Subject(tenant="home", role=Role.DEVICE, device=device.enrolled.device)
    long_ago = control.clock() - 3600
    expired = issued_by(control, subject, key, now=long_ago, at_most_until=long_ago + 60)
    with pytest.raises(ControlUnreachable, match="expired"):
        await control.client(expired, key).status()
    facts = await control.logged("handshake.failed")
    assert facts == {"reason": "the peer's certificate was refused: certificate expired"}


async def test_a_kept_open_connection_ends_with_certificate_or_standing(control: Control) -> None:
    device = await control.device()
    key = CertificateKey()
    subject = Subject(tenant="home", role=Role.DEVICE, device=device.enrolled.device)
    short = issued_by(control, subject, key, at_most_until=control.clock() + 600)
    async with kept_open(control, short, key) as status_of:
        assert await status_of("/v1/status") == 200
        control.clock.ahead = 700
        assert await status_of("/v1/status") == 403
        control.clock.ahead = 0
        assert await status_of("/v1/status") == 200
        control.enrollment.revoke(device.enrolled.device, control.clock())
        assert await status_of("/v1/status") == 403


async def test_the_certificate_of_another_ca_ends_in_tls(control: Control) -> None:
    root = new_root("home", control.clock())
    issuing = new_issuing_authority(root, "home", control.clock())
    key = CertificateKey()
    subject = Subject(tenant="home", role=Role.DEVICE, device="d1")
    stranger = issue(issuing, read_request(key.request()), subject, now=control.clock()).pem
    with pytest.raises(ControlUnreachable, match="refuse"):
        await control.client(stranger, key).status()


async def test_a_ca_certificate_is_no_client(control: Control) -> None:
    context = client_context(
        ca=control.root.certificate_pem.encode(),
        certificate=control.issuing.certificate.public_bytes(Encoding.PEM),
        key=control.issuing.to_pem().partition(b"-----BEGIN CERT")[0],
    )
    with pytest.raises(HandshakeFailed, match="unsupported certificate"):
        await request_json(
            "GET", "/v1/status", to=control.address, context=context, server_name="control"
        )


async def test_a_device_renews_its_certificate(control: Control) -> None:
    device = await control.device()
    key = CertificateKey()
    answer = await device.client.renew(key.request())
    renewed = control.client(answer["certificate"], key)
    status = await renewed.status()
    assert status["caller"].endswith(device.enrolled.device)


async def test_an_app_certificate_ends_within_half_a_day_whatever_is_asked(
    control: Control,
) -> None:
    device = await control.device()
    key = CertificateKey()
    answer = await device.client.certificate("payroll", key.request(), lifetime_seconds=1e9)

    assert answer["not_after"] - control.clock() <= 12 * 3600


@pytest.mark.parametrize("seconds", [0.0, -5.0, 0.99, float("nan")])
async def test_an_app_certificate_needs_some_life(control: Control, seconds: float) -> None:
    device = await control.device()
    with pytest.raises(ControlRefused, match="lifetime_seconds"):
        await device.client.certificate(
            "payroll", CertificateKey().request(), lifetime_seconds=seconds
        )


async def test_an_app_certificate_does_not_outlive_the_devices(control: Control) -> None:
    device = await control.device()
    key = CertificateKey()
    subject = Subject(tenant="home", role=Role.DEVICE, device=device.enrolled.device)
    short = issued_by(control, subject, key, at_most_until=control.clock() + 600)
    answer = await control.client(short, key).certificate(
        "payroll", CertificateKey().request(), lifetime_seconds=600
    )
    assert answer["not_after"] <= control.clock() + 600


async def test_a_gateway_cannot_pass_for_control(control: Control) -> None:
    """It has a certificate of the same CA, for the same address, good for servers."""
    device = await control.device()
    key = CertificateKey()
    pem = control.enrollment.gateway_certificate(
        name="gateway", host="127.0.0.1", csr=key.request(), now=control.clock()
    ).pem
    context = server_context(
        certificate=pem.encode() + control.root.certificate_pem.encode(),
        key=key.pem(),
        client_ca=control.root.certificate_pem.encode(),
    )
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            await serve(
                listeners,
                context=lambda: context,
                face=control.administrator,
                clock=control.clock,
                log=lambda event, **facts: None,
            )

        nursery.start_soon(run)
        port = listeners[0].socket.getsockname()[1]
        client = ControlClient(
            host="127.0.0.1",
            port=port,
            name="gateway",
            ca=control.root.certificate_pem.encode(),
            certificate=device.enrolled.certificate.encode(),
            key=device.key.pem(),
        )
        with pytest.raises(ControlUnreachable, match="the server is the gateway"):
            await client.status()
        code = JoinCode(
            host="127.0.0.1",
            port=port,
            pin=public_key_hash(control.root.certificate.public_key()),
            secret=b"s" * 16,
        )
        with pytest.raises(ControlUnreachable):
            await ControlClient.enroll(code.text(), CertificateKey().request())
        nursery.cancel_scope.cancel()


async def test_what_cannot_be_recorded_is_refused_and_undone(control: Control) -> None:
    device, code = await control.device(), control.join_code()
    control.audit.broken = True
    for call in (
        lambda: device.client.ticket("payroll", "ab" * 32),
        lambda: device.client.certificate(
            "payroll", CertificateKey().request(), lifetime_seconds=600
        ),
        lambda: ControlClient.enroll(code, CertificateKey().request()),
        lambda: ControlClient.enroll("mdxj1." + code[6:], "garbage"),
    ):
        with pytest.raises(ControlRefused, match="cannot record") as caught:
            await call()
        assert caught.value.status == 503
    control.audit.broken = False
    assert len(control.enrollment.devices()) == 1
    await ControlClient.enroll(code, CertificateKey().request())


async def test_odd_bodies_and_targets_are_refused_and_it_still_serves(control: Control) -> None:
    device = await control.device()
    who: dict[str, Any] = {"certificate": device.enrolled.certificate, "key": device.key}
    for body in (
        None,
        {},
        {"app": "payroll"},
        {"app": "payroll", "key_hash": 1},
        {"app": None, "key_hash": "ab" * 32},
        {"app": ["payroll"], "key_hash": "ab" * 32},
        {"app": "\ud800", "key_hash": "ab" * 32},
        {"app": "payroll", "key_hash": "ab" * 32, "gateway": "other"},
    ):
        answer = await ask(control, "/v1/tickets", body, **who)
        assert answer.status == 400
        assert set(answer.value["error"]) == {"message", "hint"}
    for method, target, status in (
        ("GET", "/v1/tickets", 405),
        ("POST", "/v1/status", 405),
        ("GET", "/", 404),
        ("GET", "/v1/tickets?x", 404),
        ("GET", "/v1/../v1/status", 404),
    ):
        assert (await ask(control, target, method=method, **who)).status == status
    answer = await ask(control, "/v1/tickets", {"app": "a" * 20_000, "key_hash": ""}, **who)
    assert answer.status == 413
    assert (await ask(control, "/v1/status", method="GET", **who)).status == 200


async def test_plain_http_and_noise_end_one_connection_only(control: Control) -> None:
    for noise in (b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n", b"\x00" * 500, b"\x16\x03\x01"):
        stream = await trio.open_tcp_stream(control.address.host, control.address.port)
        await stream.send_all(noise)
        await stream.send_eof()
        async for _ in stream:
            pass
        await stream.aclose()
    assert (await control.device()).enrolled.tenant == "home"


async def test_state_survives_a_restart(start_control: StartControl) -> None:
    async with start_control() as control:
        device: DeviceHere = await control.device()
        root = control.root
    async with start_control(root=root) as control:
        again = control.client(device.enrolled.certificate, device.key)
        assert (await again.status())["caller"].endswith(device.enrolled.device)
        assert [known.id for known in control.enrollment.devices()] == [device.enrolled.device]
