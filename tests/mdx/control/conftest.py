"""A control service for tests: real TLS on loopback, in this process, with a clock to turn."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from mdx.certificate_key import CertificateKey
from mdx.control.admin import admin_face
from mdx.control.ca import Authority, new_issuing_authority, new_root
from mdx.control.client import ControlClient, Enrolled
from mdx.control.enrollment import Enrollment
from mdx.control.face import Face
from mdx.control.own_certificate import OwnCertificate
from mdx.control.service import device_face, serve
from mdx.control.sta import TicketAuthority
from mdx.control.store import Store
from mdx.errors import AuditUnwritable
from tunnel import Destination, public_key_hash
from vault import now

HOST = "127.0.0.1"
TENANT = "home"
GATEWAY = {"host": "127.0.0.1", "port": 4433, "name": "gateway"}


@dataclass
class Clock:
    """The real time and what a test adds to it: TLS itself goes by the real one."""

    ahead: float = 0.0

    def __call__(self) -> float:
        return now().wall + self.ahead


@dataclass
class Audit:
    """Records in a list; `broken` makes it refuse, as a full disk does."""

    records: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    broken: bool = False

    def __call__(self, event: str, **fields: Any) -> None:
        from mdx.audit_events import check_event

        check_event(event, fields)
        if self.broken:
            raise AuditUnwritable("the disk is full")
        self.records.append((event, fields))

    def of(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.records if name == event]


@dataclass
class DeviceHere:
    """A device of the test: its key, what enrolling gave, and a client that shows both."""

    key: CertificateKey
    enrolled: Enrolled
    client: ControlClient


@dataclass
class Control:
    """A running service and what it is made of."""

    enrollment: Enrollment
    tickets: TicketAuthority
    store: Store
    database: Path
    root: Authority
    issuing: Authority
    clock: Clock
    audit: Audit
    address: Destination
    administrator: Face
    log: trio.MemoryReceiveChannel[tuple[str, dict[str, Any]]]

    async def logged(self, event: str) -> dict[str, Any]:
        """The facts of the next such line of the log."""
        async for name, facts in self.log:
            if name == event:
                return facts
        raise AssertionError(f"{event} was not logged")

    def join_code(self, uses: int = 1, lifetime_seconds: float = 600.0) -> str:
        return self.enrollment.new_join_code(
            uses=uses, lifetime_seconds=lifetime_seconds, now=self.clock()
        ).code

    def client(self, certificate: str, key: CertificateKey) -> ControlClient:
        return ControlClient(
            host=self.address.host,
            port=self.address.port,
            name="control",
            ca=self.root.certificate_pem.encode(),
            certificate=certificate.encode(),
            key=key.pem(),
            clock=self.clock,
        )

    async def device(self) -> DeviceHere:
        """A new device, enrolled over the wire."""
        key = CertificateKey()
        enrolled = await ControlClient.enroll(self.join_code(), key.request())
        return DeviceHere(key=key, enrolled=enrolled, client=self.client(enrolled.certificate, key))

    def gateway(self, name: str = "gateway") -> ControlClient:
        """A client with a gateway's certificate."""
        key = CertificateKey()
        issued = self.enrollment.gateway_certificate(
            name=name, host=HOST, csr=key.request(), now=self.clock()
        )
        return self.client(issued.pem, key)


StartControl = Callable[..., AbstractAsyncContextManager[Control]]


@pytest.fixture
def start_control(tmp_path: Path) -> StartControl:
    """`async with start_control() as control`; state in `folder` survives for a second start."""

    @asynccontextmanager
    async def start(
        folder: Path = tmp_path, *, root: Authority | None = None
    ) -> AsyncIterator[Control]:
        clock, audit = Clock(), Audit()
        root = root or new_root(TENANT, clock())
        issuing = new_issuing_authority(root, TENANT, clock())
        listeners = await trio.open_tcp_listeners(0, host=HOST)
        address = Destination(HOST, listeners[0].socket.getsockname()[1])
        database = folder / "control.db"
        store = Store(database)
        pin = public_key_hash(root.certificate.public_key())
        enrollment = Enrollment(
            store,
            tenant=TENANT,
            root_pem=root.certificate_pem,
            root_pin=pin,
            issuing=issuing,
            address=address,
            record=audit,
        )
        tickets = TicketAuthority(store, name="control", record=audit)
        own = OwnCertificate(enrollment, name="control", clock=clock)
        control = {"host": address.host, "port": address.port, "name": "control"}
        face = device_face(
            enrollment, tickets, control=control, gateway=GATEWAY, record=audit, clock=clock
        )
        noted, log = trio.open_memory_channel[tuple[str, dict[str, Any]]](1000)

        def note(event: str, **facts: Any) -> None:
            noted.send_nowait((event, facts))

        async with trio.open_nursery() as nursery:

            async def run() -> None:
                await serve(listeners, context=own.context, face=face, clock=clock, log=note)

            nursery.start_soon(run)
            yield Control(
                enrollment=enrollment,
                tickets=tickets,
                store=store,
                database=database,
                root=root,
                issuing=issuing,
                clock=clock,
                audit=audit,
                address=address,
                administrator=admin_face(
                    enrollment, control=control, pin=pin, record=audit, clock=clock
                ),
                log=log,
            )
            nursery.cancel_scope.cancel()
        store.close()

    return start


@pytest.fixture
async def control(start_control: StartControl) -> AsyncIterator[Control]:
    async with start_control() as running:
        yield running
