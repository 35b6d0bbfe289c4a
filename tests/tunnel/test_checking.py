"""What a gateway would do with a destination, asked without a flow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tunnel.destinations import parse_destination
from tunnel.errors import RefusalCode, Refused
from tunnel.gateway_client import SessionToken
from tunnel.hosts import Host
from tunnel.probing import Checked, check_at_gateway
from tunnel.tickets import new_session_token

if TYPE_CHECKING:
    from tests.tunnel.conftest import TLS, Gateway, LiveGateway

ALLOW = {"payroll": ["*.corp.test", "127.0.0.1", "10.0.0.0/8"]}


async def resolve(host: str) -> Sequence[IPv4Address | IPv6Address]:
    await trio.lowlevel.checkpoint()
    known = {"good.corp.test": "10.1.2.3", "trap.corp.test": "169.254.169.254"}
    if host not in known:
        raise Refused(RefusalCode.NAME_NOT_FOUND, f"the name {host} has no address")
    return [ip_address(known[host])]


def request(token: str, *more: str, destination: str | None = "good.corp.test:443") -> bytes:
    """A check as bytes."""
    lines = ["POST /.well-known/mdx/check HTTP/1.1", "Host: gateway.test", *more]
    lines.append(f"Authorization: Bearer {token}")
    if destination is not None:
        lines.append(f"Mdx-Destination: {destination}")
    return "\r\n".join([*lines, "", ""]).encode()


async def check(live: LiveGateway, tls: TLS, text: str) -> Checked:
    """By the product's own client."""
    session = SessionToken(token=await live.token(), expires_in=60)
    return await check_at_gateway(
        parse_destination(text),
        session,
        host="127.0.0.1",
        port=live.port,
        name="gateway.test",
        context=tls.client,
    )


@pytest.mark.parametrize(
    ("destination", "code", "says"),
    [
        ("good.corp.test:443", "", "allow payroll to *.corp.test"),
        ("10.9.9.9:22", "", "allow payroll to 10.0.0.0/8"),
        ("in.the.corp.test:7", "", "allow payroll to *.corp.test"),
        ("elsewhere.test:443", "NOT_ALLOWED", "allow list"),
        ("no.corp.test:443", "NAME_NOT_FOUND", "has no address"),
        ("trap.corp.test:443", "ADDRESS_GUARD", "cloud metadata"),
        ("127.0.0.1:443", "ADDRESS_GUARD", "loopback"),
    ],
)
async def test_a_check_says_what_connect_would_say(
    gateway: Gateway, tls: TLS, destination: str, code: str, says: str
) -> None:
    table: dict[str, int | Host] = {"in.the.corp.test:7": 1}  # nobody listens: nothing is dialled
    async with gateway(allow=ALLOW, resolve=resolve, hosts=table) as live:
        checked = await check(live, tls, destination)
        (record,) = live.events("flow.checked")

        assert (checked.allowed, checked.code) == (not code, code)
        assert says in checked.rule
        assert record["destination"] == destination
        assert record["verb"] == ("REFUSE" if code else "ALLOW")
        assert record["rule"] == checked.rule

        if code:
            connect = f"CONNECT {destination} HTTP/1.1\r\nHost: {destination}\r\n"
            connect += f"Proxy-Authorization: Bearer {await live.token()}\r\n\r\n"
            answer = await live.ask(connect.encode())
            assert f"Mdx-Refused: {code}\r\n".encode() in answer
            assert checked.rule.encode() in answer


@pytest.mark.parametrize(
    ("more", "destination", "code"),
    [
        ((), None, "MALFORMED"),
        (("Mdx-Destination: x.test:1",), "y.test:1", "MALFORMED"),
        ((), "y.test", "BAD_DESTINATION"),
        ((), "", "BAD_DESTINATION"),
        (("Content-Length: 3",), "y.test:1", "MALFORMED"),
        (("Transfer-Encoding: chunked",), "y.test:1", "MALFORMED"),
    ],
)
async def test_a_check_of_another_form_is_refused(
    gateway: Gateway, more: tuple[str, ...], destination: str | None, code: str
) -> None:
    async with gateway(allow=ALLOW, resolve=resolve) as live:
        answer = await live.ask(request(await live.token(), *more, destination=destination))

        assert f"Mdx-Refused: {code}\r\n".encode() in answer
        assert live.events("flow.checked") == []
        assert live.events("connection.refused")


async def test_no_check_without_a_session_of_that_very_certificate(
    gateway: Gateway, tls: TLS
) -> None:
    other = tls.authority.issue(uris=["mdx://acme/device/d1/app/payroll"])
    device = tls.authority.issue(uris=["mdx://acme/device/d1"])
    async with gateway(allow=ALLOW, resolve=resolve) as live:
        token = await live.token()
        for asking in (
            live.ask(request(new_session_token())),
            live.ask(request(live.ticket())),
            live.ask(request(token), other),
        ):
            assert b"Mdx-Refused: NOT_AUTHENTICATED\r\n" in await asking
        assert b"Mdx-Refused: NOT_ALLOWED\r\n" in await live.ask(request(token), device)
        assert live.events("flow.checked") == []
        # A ticket that was shown by mistake is not burnt by it.
        assert len(live.desk.tickets) == 1


async def test_what_cannot_be_recorded_is_not_told(gateway: Gateway) -> None:
    def record(event: str, **fields: Any) -> None:
        if event == "flow.checked":
            raise OSError("the disk is full")

    async with gateway(allow=ALLOW, resolve=resolve, record=record) as live:
        for destination in ("good.corp.test:443", "elsewhere.test:443"):
            answer = await live.ask(request(await live.token(), destination=destination))

            assert b"Mdx-Refused: AUDIT_UNWRITABLE\r\n" in answer
            assert b"verdict" not in answer


async def test_the_answer_tells_no_address(gateway: Gateway) -> None:
    async with gateway(allow=ALLOW, resolve=resolve) as live:
        answer = await live.ask(request(await live.token()))

    fields = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert fields == {
        "verdict": "ALLOW",
        "code": None,
        "rule": "allow payroll to *.corp.test",
        "hint": "",
    }
