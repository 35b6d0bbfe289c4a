"""Control's device face: enrollment, certificates and tickets, over mutual TLS.

    POST /v1/enroll               {secret, csr, name?}              anyone with a join code
    POST /v1/certificates         {app, csr, lifetime_seconds}      a device
    POST /v1/device-certificates  {csr}                             a device
    POST /v1/tickets              {app, key_hash}                   a device
    POST /v1/tickets/redeem       {ticket, device, app, key_hash}   a gateway
    POST /v1/leave                                                  a device
    GET  /v1/revocations                                            a gateway
    GET  /v1/status                                                 a device or a gateway

Rules of this file:
- TLS asks for a client certificate and verifies what it is shown. All but enrollment need one, and
  of the right role; that is looked at for each request, with the device's standing, so that a
  revoked device gets nothing over a connection that it kept open.
- A device speaks for itself: its name is taken from its certificate and from nowhere else. So is
  the gateway that redeems.
- Each connection is guarded at its top, and has limits: in number, in time, in bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import trio

from mdx.control.ca import Issued
from mdx.control.enrollment import Enrollment, facts
from mdx.control.errors import RequestRefused
from mdx.control.face import MAX_BODY_BYTES, Answer, Caller, Face, Fields, Route
from mdx.control.sta import TICKET_SECONDS, Record, TicketAuthority
from mdx.control.store import TicketBinding
from mdx.json_log import Log
from tunnel import (
    HandshakeFailed,
    Identity,
    Purpose,
    Role,
    ServerContext,
    TLSStream,
    WrongCertificate,
    identity_uri,
    is_identity_name,
    read_identity,
    serve_requests,
)

__all__ = ["DeviceCaller", "device_face", "serve"]

MAX_CONNECTIONS = 512  # about 100 KiB each; a device needs one, for a moment
HANDSHAKE_SECONDS = 10.0
IDLE_SECONDS = 15.0

NO_CERTIFICATE = "none was shown"

_KEY_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCaller(Caller):
    """The other end of a connection. Without `identity`, `problem` says why there is none."""

    identity: Identity | None = None
    problem: str = NO_CERTIFICATE


def device_face(
    enrollment: Enrollment,
    tickets: TicketAuthority,
    *,
    control: dict[str, Any],
    gateway: dict[str, Any],
    record: Record,
    clock: Callable[[], float],
) -> Face:
    """The routes above. `control` and `gateway` are each {"host", "port", "name"}."""
    served = _Served(enrollment, tickets, control, gateway, clock)
    device = served.admit_device
    routes = {
        ("POST", "/v1/enroll"): Route(
            answer=served.enroll, fields={"secret": str, "csr": str}, optional={"name": str}
        ),
        ("POST", "/v1/certificates"): Route(
            answer=served.app_certificate,
            admit=device,
            fields={"app": str, "csr": str, "lifetime_seconds": float},
        ),
        ("POST", "/v1/device-certificates"): Route(
            answer=served.device_certificate, admit=device, fields={"csr": str}
        ),
        ("POST", "/v1/tickets"): Route(
            answer=served.ticket, admit=device, fields={"app": str, "key_hash": str}
        ),
        ("POST", "/v1/tickets/redeem"): Route(
            answer=served.redeem,
            admit=served.admit_gateway,
            fields={"ticket": str, "device": str, "app": str, "key_hash": str},
        ),
        ("POST", "/v1/leave"): Route(answer=served.leave, admit=device),
        ("GET", "/v1/revocations"): Route(answer=served.revocations, admit=served.admit_gateway),
        ("GET", "/v1/status"): Route(answer=served.status, admit=served.admit_device_or_gateway),
    }
    return Face(routes, record=record)


async def serve(
    listeners: Sequence[trio.SocketListener],
    *,
    context: Callable[[], ServerContext],
    face: Face,
    clock: Callable[[], float],
    log: Log,
) -> None:
    """Serve until cancelled. `context()` gives the TLS context for each new connection."""
    connections = 0

    async def serve_one(transport: trio.SocketStream) -> None:
        nonlocal connections
        if connections >= MAX_CONNECTIONS:
            log("connection.refused", reason="too many connections")
            await trio.aclose_forcefully(transport)
            return
        connections += 1
        try:
            await _serve_connection(transport, context(), face, clock, log)
        except Exception as error:  # one bad connection never ends the service
            log("connection.failed", error=type(error).__name__, at=_places(error))
            await trio.aclose_forcefully(transport)
        finally:
            connections -= 1

    await trio.serve_listeners(serve_one, list(listeners))


async def _serve_connection(
    transport: trio.SocketStream,
    context: ServerContext,
    face: Face,
    clock: Callable[[], float],
    log: Log,
) -> None:
    stream = TLSStream(transport, context)
    try:
        with trio.fail_after(HANDSHAKE_SECONDS):
            await stream.do_handshake()
    except (HandshakeFailed, trio.TooSlowError) as error:
        await trio.aclose_forcefully(stream)
        log("handshake.failed", reason=str(error) or "it took too long")
        return
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    peer: str = transport.socket.getpeername()[0]
    caller = _caller(stream, peer, clock())
    await serve_requests(
        stream,
        lambda request: face.answer(caller, request),
        max_body_bytes=MAX_BODY_BYTES,
        idle_seconds=IDLE_SECONDS,
    )


def _caller(stream: TLSStream, peer: str, now: float) -> DeviceCaller:
    try:
        certificate = stream.peer_certificate
        if certificate is None:
            return DeviceCaller(facts={"peer": peer}, known=False)
        identity = read_identity(certificate, now, purpose=Purpose.CLIENT)
    except (HandshakeFailed, WrongCertificate) as error:
        return DeviceCaller(facts={"peer": peer}, known=False, problem=str(error))
    return DeviceCaller(
        facts={**facts(identity), "key_hash": identity.key_hash, "peer": peer}, identity=identity
    )


class _Served:
    """What the routes do; see the table at the top. All of it runs in threads."""

    def __init__(
        self,
        enrollment: Enrollment,
        tickets: TicketAuthority,
        control: dict[str, Any],
        gateway: dict[str, Any],
        clock: Callable[[], float],
    ) -> None:
        self._enrollment = enrollment
        self._tickets = tickets
        self._control = control
        self._gateway = gateway
        self._clock = clock

    # Who may ------------------------------------------------------------------------------------

    def admit_device(self, caller: DeviceCaller) -> None:
        self._admit(caller, Role.DEVICE)

    def admit_gateway(self, caller: DeviceCaller) -> None:
        self._admit(caller, Role.GATEWAY)

    def admit_device_or_gateway(self, caller: DeviceCaller) -> None:
        self._admit(caller, Role.DEVICE, Role.GATEWAY)

    def _admit(self, caller: DeviceCaller, *roles: Role) -> None:
        identity = caller.identity
        if identity is None:
            raise RequestRefused(
                f"a client certificate is needed: {caller.problem}",
                status=401 if caller.problem == NO_CERTIFICATE else 403,
                hint="join first (mdx join)",
            )
        if identity.tenant != self._enrollment.tenant:
            raise RequestRefused("the certificate is another tenant's", status=403)
        if identity.role not in roles:
            wanted = " or ".join(role.value for role in roles)
            shown = "an app" if identity.role is Role.APP else f"a {identity.role.value}"
            raise RequestRefused(
                f"this needs the certificate of a {wanted}, not of {shown}", status=403
            )
        if identity.not_after < self._clock():
            raise RequestRefused("the certificate has expired meanwhile", status=403)
        if identity.device is not None and not self._enrollment.is_in_good_standing(
            identity.device
        ):
            raise RequestRefused("this device is not enrolled, or was revoked", status=403)

    # What they get ------------------------------------------------------------------------------

    def enroll(self, caller: DeviceCaller, fields: Fields) -> Answer:
        try:
            secret = bytes.fromhex(fields["secret"])
        except ValueError:
            raise RequestRefused("secret must be hexadecimal", status=400) from None
        enrolled = self._enrollment.enroll(
            secret, fields["csr"], self._clock(), name=fields.get("name", "")
        )
        issued = enrolled.issued
        return {
            "device": issued.subject.device,
            "name": enrolled.name,
            "tenant": issued.subject.tenant,
            "control": self._control,
            "gateway": self._gateway,
            **self._certificate(issued),
        }

    def app_certificate(self, caller: DeviceCaller, fields: Fields) -> Answer:
        identity = _identity(caller)
        issued = self._enrollment.app_certificate(
            identity,
            fields["app"],
            fields["csr"],
            self._clock(),
            lifetime_seconds=fields["lifetime_seconds"],
        )
        return self._certificate(issued)

    def device_certificate(self, caller: DeviceCaller, fields: Fields) -> Answer:
        issued = self._enrollment.device_certificate(
            _identity(caller), fields["csr"], self._clock()
        )
        return self._certificate(issued)

    def ticket(self, caller: DeviceCaller, fields: Fields) -> Answer:
        bound = _binding(fields, _identity(caller).device, self._gateway["name"])
        return {
            "ticket": self._tickets.issue(bound, self._clock()),
            "expires_in": TICKET_SECONDS,
        }

    def redeem(self, caller: DeviceCaller, fields: Fields) -> Answer:
        bound = _binding(fields, fields["device"], _identity(caller).name)
        return {"ticket": self._tickets.redeem(fields["ticket"], bound, self._clock())}

    def leave(self, caller: DeviceCaller, fields: Fields) -> Answer:
        self._enrollment.leave(_identity(caller).device or "", self._clock())
        return {}

    def revocations(self, caller: DeviceCaller, fields: Fields) -> Answer:
        return {"devices": self._enrollment.revoked(self._clock())}

    def status(self, caller: DeviceCaller, fields: Fields) -> Answer:
        return {
            "name": self._control["name"],
            "version": version("mdx-toolkit"),
            "tenant": self._enrollment.tenant,
            "time": self._clock(),
            "caller": identity_uri(_identity(caller)),
            "gateway": self._gateway,
        }

    def _certificate(self, issued: Issued) -> Answer:
        return {
            "certificate": issued.pem,
            "ca": self._enrollment.root_pem,
            "not_after": issued.not_after,
        }


def _identity(caller: DeviceCaller) -> Identity:
    if caller.identity is None:
        raise RequestRefused("a client certificate is needed", status=401)
    return caller.identity


def _binding(fields: Fields, device: str | None, gateway: str | None) -> TicketBinding:
    names = [name for name in (device, fields["app"], gateway) if name and is_identity_name(name)]
    if len(names) != 3:
        raise RequestRefused("device and app must be names", status=400)
    if not _KEY_HASH.fullmatch(fields["key_hash"]):
        raise RequestRefused("key_hash must be 64 lower-case hexadecimal digits", status=400)
    device, app, gateway = names
    return TicketBinding(device=device, app=app, key_hash=fields["key_hash"], gateway=gateway)


def _places(error: BaseException) -> str:
    """The places that an error passed, without its text or any value."""
    places = []
    trace = error.__traceback__
    while trace is not None:
        places.append(f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " > ".join(places)
