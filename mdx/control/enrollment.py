"""Enrollment: join codes, devices, and the certificates of devices, apps and gateways.

Rules of this file:
- A use of a join code, the device that it made, its certificate and the records of all that are one
  transaction: who is refused, or cannot be recorded, used nothing up and left nothing behind.
- A request is checked before any code is looked up: a bad one costs no use, and what is answered
  about a code is yes or no.
- The device in a certificate is the one that the connection's own certificate names.
- Names and tags of devices are labels for people; nothing is decided by them.

Calls block, on the store.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from mdx.control.ca import DEVICE_SECONDS, Authority, Issued, issue, read_request
from mdx.control.errors import RequestRefused
from mdx.control.join import JoinCode, new_join_code, secret_hash
from mdx.control.sta import Record
from mdx.control.store import Device, JoinCodeEntry, Store
from tunnel import (
    Destination,
    Identity,
    Refused,
    Role,
    Subject,
    identity_uri,
    is_identity_name,
    parse_host,
)

__all__ = ["Enrolled", "Enrollment", "Joining", "facts"]

DEVICE_ID_BYTES = 8
MAX_JOIN_CODE_USES = 1000
MAX_JOIN_CODE_SECONDS = 30 * 86_400.0  # who prepares machines for later has a month
MAX_TAGS = 16
_TAG_KEY = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}", re.ASCII)
_TAG_VALUE = re.compile(r"[A-Za-z0-9._:/@+-]{0,64}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """A fresh join code, its id for the audit, and until when it is good (Unix seconds)."""

    code: str = field(repr=False)
    id: str
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """A new device: its first certificate, and the label that it has."""

    issued: Issued
    name: str


class Enrollment:
    """Who may join `tenant`, and what certificates `issuing` gives.

    `address` is where devices find control; `root` is the certificate that they will trust.
    """

    def __init__(
        self,
        store: Store,
        *,
        tenant: str,
        root_pem: str,
        root_pin: str,
        issuing: Authority,
        address: Destination,
        record: Record,
    ) -> None:
        self.tenant = tenant
        self.root_pem = root_pem
        self.address = address
        self._store = store
        self._root_pin = root_pin
        self._issuing = issuing
        self._record = record

    # For the administrator ------------------------------------------------------------------

    def new_join_code(
        self,
        *,
        uses: int,
        lifetime_seconds: float,
        now: float,
        name: str = "",
        is_key: bool = False,
        tags: Mapping[str, str] | None = None,
    ) -> Joining:
        """A code by which `uses` devices may join.

        `name` and `tags` are for those devices. A key (pre-authorised, for machines without a
        person) is known by its name, so there is one of that name at a time; its devices are
        NAME-1, NAME-2 … unless they say otherwise. Raises: RequestRefused for what makes no sense.
        """
        if not 1 <= uses <= MAX_JOIN_CODE_USES:
            raise _bad(f"uses must be 1 to {MAX_JOIN_CODE_USES}")
        if not 0 < lifetime_seconds <= MAX_JOIN_CODE_SECONDS:
            raise _bad(f"lifetime_seconds must be above 0, at most {MAX_JOIN_CODE_SECONDS:g}")
        if name or is_key:
            _check_name(name)
        tags = dict(tags or {})
        _check_tags(tags)
        code: JoinCode = new_join_code(
            host=self.address.host, port=self.address.port, pin=self._root_pin
        )
        expires_at = now + lifetime_seconds
        hash_ = secret_hash(code.secret)
        with self._store.transaction():
            if is_key and any(e.is_key and e.name == name for e in self._store.join_codes(now)):
                raise RequestRefused(
                    f"there is a key {name} already",
                    status=409,
                    hint=f"take another name, or first: mdx device key remove {name}",
                )
            self._store.add_join_code(
                hash_,
                uses=uses,
                expires_at=expires_at,
                now=now,
                name=name,
                is_key=is_key,
                tags=tags,
            )
            self._record(
                "join_code.created",
                tenant=self.tenant,
                join_code=_code_id(hash_),
                uses=uses,
                expires_at=expires_at,
                **({"name": name} if name else {}),
            )
        return Joining(code=code.text(), id=_code_id(hash_), expires_at=expires_at)

    def join_codes(self, now: float) -> list[JoinCodeEntry]:
        """The join codes that have not expired; their secrets are nowhere."""
        with self._store.transaction():
            return self._store.join_codes(now)

    def remove_join_code(self, id_: str, now: float) -> None:
        """From now on nobody joins by that code. Raises: RequestRefused (404)."""
        with self._store.transaction():
            if not self._store.remove_join_code(id_, now):
                raise RequestRefused("no such join code, or expired already", status=404)
            self._record("join_code.removed", tenant=self.tenant, join_code=id_)

    def gateway_certificate(self, *, name: str, host: str, csr: str, now: float) -> Issued:
        """A certificate for the gateway `name`, which is dialled at `host` and asked for by name.

        Raises: RequestRefused.
        """
        subject = Subject(tenant=self.tenant, role=Role.GATEWAY, name=name)
        try:
            hosts = [parse_host(name), parse_host(host)]
        except Refused as refused:
            raise _bad(f"name and host must be names of hosts: {refused.rule}") from None
        if not is_identity_name(name) or any("_" in label for label in hosts):
            raise _bad("a gateway's name is 1 to 63 of a-z, 0-9, dot and hyphen")
        key = read_request(csr)
        with self._store.transaction():
            issued = self._issue(key, subject, now, hosts=hosts)
            self._record(
                "gateway.enrolled", tenant=self.tenant, name=name, host=host, serial=issued.serial
            )
        return issued

    def devices(self) -> list[Device]:
        """All devices that ever joined."""
        with self._store.transaction():
            return self._store.devices()

    def revoke(self, device: str, now: float) -> None:
        """From now on the device gets nothing, and its tickets are worth nothing.

        Raises: RequestRefused (404) when there is no such device in good standing.
        """
        with self._store.transaction():
            if not self._store.revoke_device(device, now):
                raise RequestRefused("no such device, or revoked already", status=404)
            self._record("device.revoked", tenant=self.tenant, device=device)

    # For gateways ---------------------------------------------------------------------------

    def revoked(self, now: float) -> list[str]:
        """The revoked devices of which a certificate could still be good by its dates."""
        with self._store.transaction():
            return self._store.revoked_since(now - DEVICE_SECONDS)

    # For devices ----------------------------------------------------------------------------

    def enroll(self, secret: bytes, csr: str, now: float, *, name: str = "") -> Enrolled:
        """A new device for whoever has a join code's secret; `name` is what it calls itself.

        A name that the administrator gave is not changed. Raises: RequestRefused.
        """
        key = read_request(csr)
        if name:
            _check_name(name)
        hash_ = secret_hash(secret)
        device = f"d{secrets.token_hex(DEVICE_ID_BYTES)}"
        with self._store.transaction():
            if not self._store.use_join_code(hash_, now):
                raise RequestRefused(
                    "the join code is not good",
                    status=403,
                    hint="it may be used up or expired; ask for a new one",
                )
            code = self._store.join_code(hash_)
            label = name if code is None else _label(code, name)
            self._store.add_device(
                device,
                now,
                name=label,
                tags=code.tags if code else {},
                join_code=_code_id(hash_),
            )
            subject = Subject(tenant=self.tenant, role=Role.DEVICE, device=device)
            issued = self._issue(key, subject, now)
            self._record(
                "device.enrolled",
                tenant=self.tenant,
                device=device,
                join_code=_code_id(hash_),
                serial=issued.serial,
                **({"name": label} if label else {}),
            )
        return Enrolled(issued=issued, name=label)

    def leave(self, device: str, now: float) -> None:
        """The device itself wants to be one no longer. Raises: RequestRefused (403)."""
        with self._store.transaction():
            if not self._store.revoke_device(device, now, left=True):
                raise RequestRefused("this device is not enrolled, or was revoked", status=403)
            self._record("device.left", tenant=self.tenant, device=device)

    def app_certificate(
        self, device: Identity, app: str, csr: str, now: float, *, lifetime_seconds: float
    ) -> Issued:
        """A certificate for one run of `app` on that device.

        It is good for `lifetime_seconds` (what is left of the app's lease), and no longer than the
        device's own certificate or APP_SECONDS. Raises: RequestRefused.
        """
        if not is_identity_name(app):
            raise _bad("app is not a name")
        if not lifetime_seconds >= 1:  # X.509 counts whole seconds
            raise _bad("lifetime_seconds must be at least 1")
        until = min(device.not_after, now + lifetime_seconds)
        subject = Subject(tenant=self.tenant, role=Role.APP, device=device.device, app=app)
        return self._certificate_for(device, subject, csr, now, at_most_until=until)

    def device_certificate(self, device: Identity, csr: str, now: float) -> Issued:
        """The next certificate of a device. Raises: RequestRefused."""
        subject = Subject(tenant=self.tenant, role=Role.DEVICE, device=device.device)
        return self._certificate_for(device, subject, csr, now)

    def is_in_good_standing(self, device: str) -> bool:
        """Whether the device is known and not revoked."""
        with self._store.transaction():
            return self._store.is_in_good_standing(device)

    # For control itself ---------------------------------------------------------------------

    def own_certificate(self, name: str, csr: str, now: float) -> Issued:
        """A certificate for this service's own TLS. It begins a chain that ends with the root."""
        subject = Subject(tenant=self.tenant, role=Role.CONTROL, name=name)
        with self._store.transaction():
            return self._issue(read_request(csr), subject, now, hosts=[name, self.address.host])

    def _certificate_for(
        self,
        device: Identity,
        subject: Subject,
        csr: str,
        now: float,
        *,
        at_most_until: float | None = None,
    ) -> Issued:
        key = read_request(csr)
        with self._store.transaction():
            if device.device is None or not self._store.is_in_good_standing(device.device):
                raise RequestRefused("this device is not enrolled, or was revoked", status=403)
            self._store.see_device(device.device, now)
            return self._issue(key, subject, now, at_most_until=at_most_until)

    def _issue(
        self,
        key: EllipticCurvePublicKey,
        subject: Subject,
        now: float,
        *,
        hosts: tuple[str, ...] | list[str] = (),
        at_most_until: float | None = None,
    ) -> Issued:
        """Inside a transaction: sign, keep, record."""
        issued = issue(
            self._issuing, key, subject, now=now, hosts=hosts, at_most_until=at_most_until
        )
        self._store.add_certificate(issued, identity_uri(subject), now)
        self._record(
            "certificate.issued",
            serial=issued.serial,
            key_hash=issued.key_hash,
            not_after=issued.not_after,
            **facts(subject),
        )
        return issued


def facts(subject: Subject) -> dict[str, str]:
    """The audit's fields for a subject: tenant, role, and the names that it has."""
    names = {"device": subject.device, "app": subject.app, "name": subject.name}
    known = {field: name for field, name in names.items() if name is not None}
    return {"tenant": subject.tenant, "role": subject.role.value, **known}


def _label(code: JoinCodeEntry, name: str) -> str:
    """What the device of one use of this code is called. Raises: RequestRefused."""
    if not code.is_key:
        if code.name and name and name != code.name:
            raise RequestRefused(
                f"this code is for the device {code.name}, not for {name}",
                status=403,
                hint="join without --name, or ask for another code",
            )
        return code.name or name
    return name or f"{code.name}-{code.uses - code.uses_left}"


def _check_name(name: str) -> None:
    if not is_identity_name(name):
        raise _bad("a name is 1 to 63 of a-z, 0-9, dot, underscore and hyphen")


def _check_tags(tags: Mapping[str, object]) -> None:
    if len(tags) > MAX_TAGS:
        raise _bad(f"at most {MAX_TAGS} tags")
    for key, value in tags.items():
        if not _TAG_KEY.fullmatch(key):
            raise _bad("a tag's name is 1 to 32 of a-z, 0-9, dot, underscore and hyphen")
        if not isinstance(value, str) or not _TAG_VALUE.fullmatch(value):
            raise _bad("a tag's value is at most 64 of letters, digits and . _ : / @ + -")


def _code_id(hash_: bytes) -> str:
    return hash_.hex()[:16]


def _bad(message: str) -> RequestRefused:
    return RequestRefused(message, status=400)
