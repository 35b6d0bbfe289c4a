"""What devices and gateways ask of control, over mutual TLS.

The server must show a certificate of control's own role: the chain and the name alone would also
fit a gateway of the same CA that stands at the same address.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mdx.control.join import parse_join_code
from mdx.errors import MdxError
from tunnel import (
    ClientContext,
    Destination,
    HandshakeFailed,
    JSONAnswer,
    Negotiated,
    Purpose,
    Refused,
    Role,
    TLSStream,
    TunnelError,
    WrongCertificate,
    client_context,
    destination,
    read_identity,
    request_json,
)
from vault import now

__all__ = ["ControlClient", "ControlRefused", "ControlUnreachable", "Enrolled"]


class ControlUnreachable(MdxError):
    """Control does not answer, or who answers is not control."""


class ControlRefused(MdxError):
    """Control said no. `status` is its HTTP status."""

    exit_code = 77

    def __init__(self, message: str, *, hint: str = "", status: int) -> None:
        super().__init__(message, hint=hint)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """What a join code gave. `control` and `gateway` are each {"host", "port", "name"}.

    `certificate` is the device's chain and `ca` the root to trust, both PEM; `not_after` is the
    end of the certificate in Unix seconds.
    """

    device: str
    name: str
    tenant: str
    certificate: str
    ca: str
    not_after: float
    control: dict[str, Any]
    gateway: dict[str, Any]


def _wall_clock() -> float:
    return now().wall


class ControlClient:
    """Control as seen by the holder of `certificate` (chain) and `key`, all PEM.

    `host` and `port` say where it is, `name` what its certificate says. Every call is a connection
    of its own. Raises: MdxError when the certificate cannot be used.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        name: str,
        ca: bytes,
        certificate: bytes,
        key: bytes,
        clock: Callable[[], float] = _wall_clock,
    ) -> None:
        self._name = name
        self._clock = clock
        self.negotiated: Negotiated | None = None  # of the last connection
        try:
            self._to = destination(host, port)
            self._context = client_context(ca=ca, certificate=certificate, key=key)
        except (ValueError, Refused) as error:
            raise MdxError(f"control's address or this certificate is of no use: {error}") from None

    @classmethod
    async def enroll(
        cls, code: str, csr: str, *, name: str = "", clock: Callable[[], float] = _wall_clock
    ) -> Enrolled:
        """Become a device, by a join code and a certificate request (PEM).

        `name` is a label for it, where the code does not bring one.

        Raises: MdxError for a text that is no join code; ControlUnreachable, with both
        fingerprints when the service is another than the code's; ControlRefused.
        """
        parsed = parse_join_code(code)
        answer = await _ask(
            "POST",
            "/v1/enroll",
            {"secret": parsed.secret.hex(), "csr": csr} | ({"name": name} if name else {}),
            to=Destination(parsed.host, parsed.port),
            context=client_context(pins=[parsed.pin]),
            server_name=parsed.host,
            check=lambda stream: _check_role(stream, None, clock()),
        )
        try:
            return Enrolled(
                device=str(answer["device"]),
                name=str(answer.get("name", "")),
                tenant=str(answer["tenant"]),
                certificate=str(answer["certificate"]),
                ca=str(answer["ca"]),
                not_after=float(answer["not_after"]),
                control=_service(answer["control"]),
                gateway=_service(answer["gateway"]),
            )
        except (KeyError, TypeError, ValueError):
            raise _odd_answer() from None

    async def certificate(self, app: str, csr: str, *, lifetime_seconds: float) -> dict[str, Any]:
        """A certificate for one run of `app` on this device, good for `lifetime_seconds` at most.

        Gives {"certificate", "ca", "not_after"}. Raises: ControlUnreachable, ControlRefused.
        """
        body = {"app": app, "csr": csr, "lifetime_seconds": lifetime_seconds}
        return _certificate(await self._call("POST", "/v1/certificates", body))

    async def renew(self, csr: str) -> dict[str, Any]:
        """A new certificate for this device, for the key in `csr`; gives what `certificate` does.

        Raises: ControlUnreachable, ControlRefused.
        """
        return _certificate(await self._call("POST", "/v1/device-certificates", {"csr": csr}))

    async def ticket(self, app: str, key_hash: str) -> str:
        """A ticket for one session of `app` by the holder of that certificate key.

        Raises: ControlUnreachable, ControlRefused.
        """
        answer = await self._call("POST", "/v1/tickets", {"app": app, "key_hash": key_hash})
        ticket = answer.get("ticket")
        if not isinstance(ticket, str):
            raise _odd_answer()
        return ticket

    async def redeem(self, ticket: str, *, device: str, app: str, key_hash: str) -> dict[str, Any]:
        """As a gateway: redeem a ticket that the holder of such a certificate showed.

        Gives {"ticket"}, the ticket's id for the audit. Raises: ControlRefused (status 403) when it
        is not good; ControlUnreachable.
        """
        return await self._call(
            "POST",
            "/v1/tickets/redeem",
            {"ticket": ticket, "device": device, "app": app, "key_hash": key_hash},
        )

    async def leave(self) -> None:
        """As a device: be one no longer. Raises: ControlUnreachable, ControlRefused."""
        await self._call("POST", "/v1/leave", None)

    async def revocations(self) -> frozenset[str]:
        """As a gateway: the devices that are revoked, as far as their certificates could matter.

        Raises: ControlUnreachable, ControlRefused.
        """
        devices = (await self._call("GET", "/v1/revocations", None)).get("devices")
        if not isinstance(devices, list) or not all(isinstance(one, str) for one in devices):
            raise _odd_answer()
        return frozenset(devices)

    async def status(self) -> dict[str, Any]:
        """What control says of itself and of who asks.

        Raises: ControlUnreachable, ControlRefused.
        """
        return await self._call("GET", "/v1/status", None)

    async def _call(self, method: str, target: str, body: dict[str, Any] | None) -> dict[str, Any]:
        return await _ask(
            method,
            target,
            body,
            to=self._to,
            context=self._context,
            server_name=self._name,
            check=self._check,
        )

    def _check(self, stream: TLSStream) -> None:
        self.negotiated = stream.negotiated
        _check_role(stream, self._name, self._clock())


async def _ask(
    method: str,
    target: str,
    body: dict[str, Any] | None,
    *,
    to: Destination,
    context: ClientContext,
    server_name: str,
    check: Callable[[TLSStream], None],
) -> dict[str, Any]:
    try:
        answer = await request_json(
            method, target, body, to=to, context=context, server_name=server_name, check=check
        )
    except Refused as refused:
        raise ControlUnreachable(
            f"control at {to} cannot be reached: {refused.rule}",
            hint="see that it runs and that this machine has a way to it; then try again",
        ) from None
    except HandshakeFailed as error:
        raise ControlUnreachable(
            f"{to} is not the control service that was expected, or it refuses us: {error}",
            hint="do not go on if that is a surprise; a new join code (mdx join) starts afresh",
        ) from None
    except TunnelError as error:
        raise ControlUnreachable(
            f"control at {to} gives no proper answer: {error}", hint="try again; see its log"
        ) from None
    if answer.status == 200:
        return answer.value
    raise _refusal(answer)


def _refusal(answer: JSONAnswer) -> ControlRefused:
    error = answer.value.get("error")
    said = error if isinstance(error, dict) else {}
    return ControlRefused(
        f"control refused: {_printable(said.get('message')) or f'status {answer.status}'}",
        hint=_printable(said.get("hint")),
        status=answer.status,
    )


def _check_role(stream: TLSStream, name: str | None, at: float) -> None:
    certificate = stream.peer_certificate
    if certificate is None:
        raise HandshakeFailed("the server showed no certificate")
    try:
        identity = read_identity(certificate, at, purpose=Purpose.SERVER)
    except WrongCertificate as error:
        raise HandshakeFailed(str(error)) from None
    if identity.role is not Role.CONTROL or (name is not None and identity.name != name):
        raise HandshakeFailed(
            f"the server is the {identity.role.value} {identity.name or identity.device}"
        )


def _certificate(answer: dict[str, Any]) -> dict[str, Any]:
    try:
        return {
            "certificate": str(answer["certificate"]),
            "ca": str(answer["ca"]),
            "not_after": float(answer["not_after"]),
        }
    except (KeyError, TypeError, ValueError):
        raise _odd_answer() from None


def _service(value: dict[str, Any]) -> dict[str, Any]:
    return {
        "host": str(value["host"]),
        "port": int(value["port"]),
        "name": str(value["name"]),
    }


def _printable(value: object) -> str:
    """A text of the server's as one line that cannot move a terminal's cursor."""
    text = value if isinstance(value, str) else ""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:500])


def _odd_answer() -> ControlUnreachable:
    return ControlUnreachable(
        "control's answer lacks what it should hold", hint="its version may not fit this one"
    )
