"""The site as programs see it: through a gateway everything, without one nothing."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

import pytest
import trio

from mdx.site.pages import BLOCK_BYTES, MAX_BIG_BYTES, big_block
from mdx.site.repository import HANDBOOK
from tunnel import Role, TLSStream, client_context
from vault import now


class Holder(Protocol):
    file: Path
    pem: bytes


class Site(Protocol):
    name: str
    port: int
    ca_file: Path

    def logged(self) -> str: ...


OpenGateway = Callable[[Any, Any], AbstractAsyncContextManager[int]]
ENVIRON = {"PATH": os.environ["PATH"], "LC_ALL": "C", "GIT_CONFIG_GLOBAL": "/dev/null"}


async def run(*command: str) -> subprocess.CompletedProcess[bytes]:
    with trio.fail_after(30):
        return await trio.run_process(
            command, capture_stdout=True, capture_stderr=True, check=False, env=ENVIRON
        )


def through(site: Site, port: int) -> list[str]:
    """What makes curl go through the gateway at `port`, trusting the company's CA only."""
    return ["curl", "-sS", "--cacert", str(site.ca_file), "--proxy", f"http://127.0.0.1:{port}"]


def directly(site: Site, *options: str) -> list[str]:
    """What makes curl go to the site itself."""
    where = f"{site.name}:{site.port}:127.0.0.1"
    url = f"https://{site.name}:{site.port}/"
    return ["curl", "-sS", "--cacert", str(site.ca_file), "--resolve", where, *options, url]


@pytest.fixture(scope="session")
def gateway_holder(device_ca: Any) -> Holder:
    holder: Holder = device_ca.issue(Role.GATEWAY)
    return holder


async def test_through_the_gateway_the_site_greets_and_says_what_it_saw(
    site: Site, gateway_holder: Holder, open_gateway: OpenGateway
) -> None:
    async with open_gateway(site, gateway_holder) as port:
        got = await run(*through(site, port), f"https://{site.name}/?a=b")
    assert got.returncode == 0, got.stderr
    text = got.stdout.decode()
    assert f"Welcome to {site.name}." in text
    assert "the gateway 'gateway-1'" in text
    assert "gateway to site: TLSv1.3, TLS_AES_256_GCM_SHA384, X25519MLKEM768" in text
    assert "you to site:     TLSv1.3, " in text
    assert f"'{site.name}' '/?a=b'" in text
    assert "'curl/" in text


async def test_pages(site: Site, gateway_holder: Holder, open_gateway: OpenGateway) -> None:
    async with open_gateway(site, gateway_holder) as port:
        payroll = await run(*through(site, port), "-f", f"https://{site.name}/payroll.json")
        assert json.loads(payroll.stdout)["salaries"]
        # One connection, several requests, and a path that curl may not tidy up.
        got = await run(
            *through(site, port), "--path-as-is", "-w", "%{http_code} %{num_connects}\n",
            "-o", "/dev/null", f"https://{site.name}/payroll.json",
            "-o", "/dev/null", f"https://{site.name}/git/handbook.git/../../payroll.json",
            "-o", "/dev/null", f"https://{site.name}/nowhere",
        )  # fmt: skip
    assert got.stdout.split() == [b"200", b"1", b"404", b"0", b"404", b"0"]


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, 5_000_000])
async def test_big_has_exactly_these_bytes(
    size: int, site: Site, gateway_holder: Holder, open_gateway: OpenGateway
) -> None:
    async with open_gateway(site, gateway_holder) as port:
        got = await run(*through(site, port), "-f", f"https://{site.name}/big/{size}")
    expected = b"".join(big_block(index) for index in range(size // BLOCK_BYTES + 1))[:size]
    assert len(got.stdout) == size
    assert hashlib.sha256(got.stdout).digest() == hashlib.sha256(expected).digest()


async def test_the_largest_page_is_announced_without_being_sent(
    site: Site, gateway_holder: Holder, open_gateway: OpenGateway
) -> None:
    async with open_gateway(site, gateway_holder) as port:
        url = f"https://{site.name}/big/{MAX_BIG_BYTES}"
        got = await run(*through(site, port), "--head", url)
        assert f"content-length: {MAX_BIG_BYTES}" in got.stdout.decode().lower()
        got = await run(*through(site, port), "--range", "0-9", "--max-time", "0.3", url)
        assert got.returncode == 28, "it streams on until curl's time is over"
        assert len(got.stdout) > BLOCK_BYTES


async def test_git_clones_the_handbook(
    site: Site, gateway_holder: Holder, open_gateway: OpenGateway, tmp_path: Path
) -> None:
    clone = tmp_path / "handbook"
    async with open_gateway(site, gateway_holder) as port:
        options = ["-c", f"http.proxy=http://127.0.0.1:{port}"]
        options += ["-c", f"http.sslCAInfo={site.ca_file}"]
        url = f"https://{site.name}/git/handbook.git"
        done = await run("git", *options, "clone", "--quiet", url, str(clone))
    assert done.returncode == 0, done.stderr
    found = {str(path.relative_to(clone)): path.read_text() for path in clone.rglob("*.md")}
    assert found == HANDBOOK[-1][1]
    checked = await run("git", "-C", str(clone), "fsck", "--strict", "--full")
    assert checked.returncode == 0, checked.stderr


async def test_without_a_certificate_nobody_gets_in(site: Site) -> None:
    got = await run(*directly(site))
    assert got.returncode != 0
    assert b"certificate required" in got.stderr
    assert got.stdout == b""


@pytest.mark.parametrize("role", [Role.APP, Role.DEVICE])
async def test_an_app_or_device_is_told_to_go_through_the_gateway(
    role: Role, site: Site, device_ca: Any
) -> None:
    got = await run(*directly(site, "--cert", str(device_ca.issue(role).file), "-i"))
    assert got.stdout.startswith(b"HTTP/1.1 403 ")
    assert f"not to a {role.value}".encode() in got.stdout
    assert b"Welcome" not in got.stdout


async def test_a_servers_certificate_is_not_a_clients(site: Site, device_ca: Any) -> None:
    got = await run(*directly(site, "--cert", str(device_ca.issue(Role.CONTROL).file), "-i"))
    assert got.returncode != 0
    assert got.stdout == b""


async def test_a_gateway_of_another_ca_is_refused(
    site: Site, new_device_ca: Callable[[], Any]
) -> None:
    stranger = new_device_ca().issue(Role.GATEWAY)
    got = await run(*directly(site, "--cert", str(stranger.file)))
    assert got.returncode != 0
    assert b"unknown ca" in got.stderr
    assert got.stdout == b""


async def test_an_expired_gateway_is_refused(site: Site, device_ca: Any) -> None:
    old = device_ca.issue(Role.GATEWAY, at=now().wall - 31 * 86_400)
    got = await run(*directly(site, "--cert", str(old.file)))
    assert got.returncode != 0
    assert b"certificate expired" in got.stderr


async def test_the_gateway_itself_gets_no_page_without_the_inner_tls(
    site: Site, gateway_holder: Holder
) -> None:
    got = await run(*directly(site, "--cert", str(gateway_holder.file)))
    assert b"Welcome" not in got.stdout
    assert got.returncode != 0


async def test_a_client_of_another_ca_does_not_believe_the_site(
    site: Site, gateway_holder: Holder, open_gateway: OpenGateway, device_ca: Any
) -> None:
    async with open_gateway(site, gateway_holder) as port:
        command = ["curl", "-sS", "--cacert", str(device_ca.file)]
        command += ["--proxy", f"http://127.0.0.1:{port}", f"https://{site.name}/"]
        got = await run(*command)
        assert got.returncode == 60, "curl: the peer's certificate cannot be authenticated"


async def test_garbage_in_every_layer_and_the_site_still_serves(
    site: Site, gateway_holder: Holder, open_gateway: OpenGateway
) -> None:
    context = client_context(
        ca=site.ca_file.read_bytes(), certificate=gateway_holder.pem, key=gateway_holder.pem
    )
    inner_context = client_context(ca=site.ca_file.read_bytes())
    for garbage in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff", os.urandom(500)):
        for layers in range(3):
            stream: trio.abc.HalfCloseableStream
            stream = await trio.open_tcp_stream("127.0.0.1", site.port)
            for layer in (context, inner_context)[:layers]:
                stream = TLSStream(stream, layer, server_name=site.name)
                await stream.do_handshake()
            await stream.send_all(garbage)
            await trio.aclose_forcefully(stream)
    async with open_gateway(site, gateway_holder) as port:
        got = await run(*through(site, port), "-f", f"https://{site.name}/")
    assert got.returncode == 0, got.stderr
    assert "connection.failed" not in site.logged()


async def test_the_log_has_one_line_of_json_per_event(
    site: Site, gateway_holder: Holder, open_gateway: OpenGateway
) -> None:
    async with open_gateway(site, gateway_holder) as port:
        await run(*through(site, port), f"https://{site.name}/%0a%22logged")
    events = [json.loads(line) for line in site.logged().splitlines()]
    assert {
        "part": "site",
        "event": "request",
        "target": "/%0a%22logged",
        "status": 404,
    }.items() <= (next(event for event in events if event.get("target") == "/%0a%22logged").items())
