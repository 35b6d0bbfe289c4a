"""A device CA, the site as a real process, and a gateway small enough to see through."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from mdx.certificate_key import CertificateKey
from mdx.control.ca import issue, new_issuing_authority, new_root, read_request
from mdx.spawn import start_daemon
from tunnel import (
    ClientContext,
    Role,
    Subject,
    TLSStream,
    client_context,
)
from tunnel.relay import relay
from vault import now

NAME = "intranet.corp.internal"
TENANT = "home"


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A certificate with its key, in one PEM file."""

    file: Path
    pem: bytes


@dataclass(frozen=True, kw_only=True)
class DeviceCA:
    """`issue(role)` makes a certificate of that role; a second CA of the same names differs."""

    file: Path
    issue: Callable[..., Holder]


@dataclass(frozen=True, kw_only=True)
class Site:
    """A running site."""

    name: str
    port: int
    pid: int
    ca_file: Path
    state: Path
    log: Path

    def logged(self) -> str:
        return self.log.read_text()


@pytest.fixture(scope="session")
def new_device_ca(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], DeviceCA]:
    def new() -> DeviceCA:
        folder = tmp_path_factory.mktemp("device-ca")
        at = now().wall
        root = new_root(TENANT, at)
        issuing = new_issuing_authority(root, TENANT, at)
        (folder / "ca.pem").write_text(root.certificate_pem)

        def make(role: Role, *, at: float = at) -> Holder:
            key = CertificateKey()
            match role:
                case Role.GATEWAY | Role.CONTROL:
                    subject = Subject(tenant=TENANT, role=role, name="gateway-1")
                case Role.DEVICE:
                    subject = Subject(tenant=TENANT, role=role, device="d1")
                case Role.APP:
                    subject = Subject(tenant=TENANT, role=role, device="d1", app="payroll")
            hosts = ["gateway-1"] if role in (Role.GATEWAY, Role.CONTROL) else []
            issued = issue(issuing, read_request(key.request()), subject, now=at, hosts=hosts)
            pem = key.pem() + issued.pem.encode()
            file = folder / f"{key.key_hash}.pem"
            file.write_bytes(pem)
            return Holder(file=file, pem=pem)

        return DeviceCA(file=folder / "ca.pem", issue=make)

    return new


@pytest.fixture(scope="session")
def device_ca(new_device_ca: Callable[[], DeviceCA]) -> DeviceCA:
    return new_device_ca()


StartSite = Callable[..., Site]


def _end(pid: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    assert select.select([pidfd], [], [], 10)[0], "SIGTERM ends a daemon"
    os.close(pidfd)


@pytest.fixture(scope="session")
def end_process() -> Callable[[int], None]:
    """SIGTERM, and wait until the process is gone."""
    return _end


@pytest.fixture(scope="session")
def start_site(device_ca: DeviceCA) -> Iterator[StartSite]:
    """Start the daemon for a state folder; at the end all of them are stopped."""
    started: list[int] = []

    def start(
        state: Path, *, port: int = 0, name: str = NAME, ca_file: Path = device_ca.file
    ) -> Site:
        arguments = ["--state", str(state), "--host", "127.0.0.1", "--port", str(port)]
        arguments += ["--name", name, "--device-ca", str(ca_file)]
        log = state.parent / f"{state.name}.log"
        report = start_daemon("mdx.site", arguments, log=log)
        started.append(report["pid"])
        return Site(
            name=name,
            port=report["port"],
            pid=report["pid"],
            ca_file=Path(report["ca_file"]),
            state=state,
            log=log,
        )

    yield start
    for pid in started:
        _end(pid)


@pytest.fixture(scope="session")
def site(start_site: StartSite, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """One site for all tests that only talk to it."""
    return start_site(tmp_path_factory.mktemp("running") / "site")


OpenGateway = Callable[[Site, Holder], AbstractAsyncContextManager[int]]


@pytest.fixture(scope="session")
def open_gateway() -> OpenGateway:
    """The port of a proxy that wraps what it carries in the outer TLS, and does nothing else."""

    @asynccontextmanager
    async def open_(site: Site, holder: Holder) -> AsyncIterator[int]:
        context = client_context(
            ca=site.ca_file.read_bytes(), certificate=holder.pem, key=holder.pem
        )
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(_accept, listener, site, context)
            yield listener.socket.getsockname()[1]
            nursery.cancel_scope.cancel()

    return open_


async def _accept(listener: trio.SocketListener, site: Site, context: ClientContext) -> None:
    async def carry(client: trio.SocketStream) -> None:
        try:
            async with client:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += await client.receive_some()
                assert head.startswith(b"CONNECT ")
                async with await trio.open_tcp_stream("127.0.0.1", site.port) as tcp:
                    outer = TLSStream(tcp, context, server_name=site.name)
                    await outer.do_handshake()
                    await client.send_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    await relay(client, outer)
        except trio.BrokenResourceError:
            return  # the client left

    await trio.serve_listeners(carry, [listener])


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as held:
        yield held.getsockname()[1]
