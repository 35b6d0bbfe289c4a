"""The administrator's face: a real Unix socket, and the blocking client that the CLI uses."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from cryptography import x509

from mdx.certificate_key import CertificateKey
from mdx.control.admin import AdminRefused, AdminUnreachable, admin_call, serve_admin
from mdx.control.client import ControlClient
from mdx.control.join import parse_join_code
from mdx.hub import serving
from tunnel import Purpose, Role, read_identity

if TYPE_CHECKING:
    from tests.mdx.control.conftest import Control

Call = Callable[..., Any]


@pytest.fixture
async def call(control: Control, tmp_path: Path) -> AsyncIterator[Call]:
    path = tmp_path / "admin.sock"
    listener = serving.listen(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    async def ask(method: str, target: str, body: dict[str, Any] | None = None) -> Any:
        return await trio.to_thread.run_sync(lambda: admin_call(path, method, target, body))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            serve_admin, listener, control.administrator, lambda event, **facts: None
        )
        yield ask
        nursery.cancel_scope.cancel()


async def test_a_join_code_is_made_and_works(control: Control, call: Call) -> None:
    made = await call("POST", "/v1/join-codes", {"uses": 1, "lifetime_seconds": 60})
    assert 59 < made["expires_at"] - control.clock() <= 60
    enrolled = await ControlClient.enroll(made["code"], CertificateKey().request())
    (device,) = (await call("GET", "/v1/devices"))["devices"]
    assert device["id"] == enrolled.device
    assert device["revoked_at"] is None
    await call("POST", "/v1/revocations", {"device": enrolled.device})
    (device,) = (await call("GET", "/v1/devices"))["devices"]
    assert device["revoked_at"] is not None
    with pytest.raises(AdminRefused) as caught:
        await call("POST", "/v1/revocations", {"device": enrolled.device})
    assert caught.value.status == 404
    events = [name for name, _ in control.audit.records]
    assert events.count("device.revoked") == 1
    assert made["code"] not in repr(control.audit.records)


async def test_a_gateway_gets_a_certificate(control: Control, call: Call) -> None:
    key = CertificateKey()
    body = {"name": "gateway", "host": "10.0.0.1", "csr": key.request()}
    made = await call("POST", "/v1/gateway-certificates", body)
    assert made["ca"] == control.root.certificate_pem
    leaf = x509.load_pem_x509_certificate(made["certificate"].encode())
    for purpose in Purpose:
        identity = read_identity(leaf, control.clock(), purpose=purpose)
        assert (identity.role, identity.name) == (Role.GATEWAY, "gateway")
    assert identity.key_hash == key.key_hash
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["gateway"]
    assert [str(found) for found in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]
    assert made["not_after"] == identity.not_after


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/v1/join-codes", {"uses": 0, "lifetime_seconds": 60}),
        ("/v1/join-codes", {"uses": 1001, "lifetime_seconds": 60}),
        ("/v1/join-codes", {"uses": True, "lifetime_seconds": 60}),
        ("/v1/join-codes", {"uses": "1", "lifetime_seconds": 60}),
        ("/v1/join-codes", {"uses": 1, "lifetime_seconds": 0}),
        ("/v1/join-codes", {"uses": 1, "lifetime_seconds": -1}),
        ("/v1/join-codes", {"uses": 1, "lifetime_seconds": float("nan")}),
        ("/v1/join-codes", {"uses": 1, "lifetime_seconds": float("inf")}),
        ("/v1/join-codes", {"uses": 1, "lifetime_seconds": 10**400}),
        ("/v1/join-codes", {"uses": 1}),
        ("/v1/gateway-certificates", {"name": "a/b", "host": "h", "csr": "x"}),
        ("/v1/gateway-certificates", {"name": "a_b", "host": "h", "csr": "x"}),
        ("/v1/gateway-certificates", {"name": "gateway", "host": "a b", "csr": "x"}),
        ("/v1/gateway-certificates", {"name": "gateway", "host": "", "csr": "x"}),
        ("/v1/gateway-certificates", {"name": "gateway", "host": "h", "csr": "x"}),
    ],
)
async def test_what_makes_no_sense_is_refused(
    call: Call, target: str, body: dict[str, Any]
) -> None:
    with pytest.raises(AdminRefused) as caught:
        await call("POST", target, body)
    assert caught.value.status == 400


async def test_the_device_api_is_not_here(call: Call) -> None:
    for target in ("/v1/enroll", "/v1/tickets", "/v1/tickets/redeem"):
        with pytest.raises(AdminRefused) as caught:
            await call("POST", target, {})
        assert caught.value.status == 404


async def test_status_says_where_devices_find_control(control: Control, call: Call) -> None:
    status = await call("GET", "/v1/status")
    code = parse_join_code(control.join_code())
    assert (status["host"], status["port"], status["pin"]) == (code.host, code.port, code.pin)
    assert (status["name"], status["tenant"]) == ("control", "home")
    assert status["ca"] == control.root.certificate_pem


def test_nobody_there_is_said_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with pytest.raises(AdminUnreachable, match="does not answer") as caught:
        admin_call(path, "GET", "/v1/status")
    assert "mdx up" in caught.value.hint
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(os.fspath(path))
    with pytest.raises(AdminUnreachable):
        admin_call(path, "GET", "/v1/status")


async def test_who_answers_nonsense_is_not_control(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    listener = serving.listen(path)
    answers = [b"", b"hello\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"]

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(answers.pop())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, answer, [listener])
        while answers:
            with pytest.raises(AdminUnreachable):
                await trio.to_thread.run_sync(lambda: admin_call(path, "GET", "/v1/status"))
        nursery.cancel_scope.cancel()
