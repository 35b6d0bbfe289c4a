"""Who a certificate speaks for: the one `mdx://` URI in its subject alternative name.

    mdx://TENANT/device/ID            a device
    mdx://TENANT/device/ID/app/NAME   one app's run on a device
    mdx://TENANT/gateway/NAME         a gateway
    mdx://TENANT/control/NAME         control's device API

Rules of this file:
- TLS libraries verify the chain; they accept version 1 certificates, certificates without extended
  key usage and a common name as a fallback. None of that makes an identity here.
- URIs have one spelling: no percent-encoding, no upper case, no empty or relative segment, no port,
  query or fragment. What does not match exactly is refused.
- The signature, the chain and revocation are *not* checked here; a caller does that first.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import Enum

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from tunnel.errors import WrongCertificate

__all__ = [
    "Identity",
    "Purpose",
    "Role",
    "Subject",
    "identity_uri",
    "is_identity_name",
    "parse_identity_uri",
    "public_key_hash",
    "read_identity",
    "read_subject",
]

NAME = r"[a-z0-9][a-z0-9._-]{0,62}"
_NAME = re.compile(NAME, re.ASCII)
_URI = re.compile(
    rf"mdx://(?P<tenant>{NAME})/"
    rf"(?:device/(?P<device>{NAME})(?:/app/(?P<app>{NAME}))?|(?P<part>gateway|control)/(?P<name>{NAME}))",
    re.ASCII,
)


class Role(Enum):
    """The part that the holder of a certificate plays."""

    DEVICE = "device"
    APP = "app"
    GATEWAY = "gateway"
    CONTROL = "control"


class Purpose(Enum):
    """The side of a TLS connection on which a certificate is shown (RFC 5280, 4.2.1.12)."""

    CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
    SERVER = ExtendedKeyUsageOID.SERVER_AUTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What an identity URI says: `device` (and `app`) of a device's own, `name` of a service."""

    tenant: str
    role: Role
    device: str | None = None
    app: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity(Subject):
    """A subject together with the certificate that it was read from.

    `key_hash` is the SHA-256 of the DER SubjectPublicKeyInfo in lower-case hex; tickets and session
    tokens are bound to it. `serial` is lower-case hex. `not_after` is in Unix seconds.
    """

    key_hash: str
    serial: str
    not_after: float


def is_identity_name(text: str) -> bool:
    """Whether `text` can stand for a tenant, device, app, gateway or control in an identity URI."""
    return _NAME.fullmatch(text) is not None


def parse_identity_uri(text: str) -> Subject:
    """The subject of an identity URI. Raises: WrongCertificate."""
    match = _URI.fullmatch(text)
    if match is None:
        raise WrongCertificate(f"not an identity URI: {text[:200]!a}")
    if match["device"] is None:
        return Subject(tenant=match["tenant"], role=Role(match["part"]), name=match["name"])
    role = Role.DEVICE if match["app"] is None else Role.APP
    return Subject(tenant=match["tenant"], role=role, device=match["device"], app=match["app"])


def identity_uri(subject: Subject) -> str:
    """The URI of a subject. Raises: ValueError when names and role do not make one."""
    match subject.role:
        case Role.DEVICE:
            text = f"mdx://{subject.tenant}/device/{subject.device}"
        case Role.APP:
            text = f"mdx://{subject.tenant}/device/{subject.device}/app/{subject.app}"
        case Role.GATEWAY | Role.CONTROL:
            text = f"mdx://{subject.tenant}/{subject.role.value}/{subject.name}"
    found = _URI.fullmatch(text)
    # A name left out would be spelt "None", which upper case already excludes from names.
    if found is None or (found["device"], found["app"], found["name"]) != (
        subject.device,
        subject.app,
        subject.name,
    ):
        raise ValueError(f"no identity URI for {subject!r}")
    return text


def public_key_hash(key: PublicKeyTypes) -> str:
    """SHA-256 of the key's DER SubjectPublicKeyInfo, in lower-case hex."""
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def read_identity(certificate: x509.Certificate, now: float, *, purpose: Purpose) -> Identity:
    """The identity in a certificate that is shown for `purpose` at `now` (Unix seconds).

    Raises: WrongCertificate, with the first demand that is not met.
    """
    if certificate.version is not x509.Version.v3:
        raise WrongCertificate("the certificate is not X.509 version 3")
    not_after = certificate.not_valid_after_utc.timestamp()
    if now < certificate.not_valid_before_utc.timestamp():
        raise WrongCertificate("the certificate is not valid yet")
    if now > not_after:
        raise WrongCertificate("the certificate has expired")
    try:
        extensions = certificate.extensions
        key_hash = public_key_hash(certificate.public_key())
    except (
        ValueError,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
        UnsupportedAlgorithm,
    ) as error:
        raise WrongCertificate("the certificate cannot be read") from error
    _check_usage(extensions, purpose)
    subject = parse_identity_uri(_only_uri(extensions))
    return Identity(
        tenant=subject.tenant,
        role=subject.role,
        device=subject.device,
        app=subject.app,
        name=subject.name,
        key_hash=key_hash,
        serial=f"{certificate.serial_number:x}",
        not_after=not_after,
    )


def read_subject(certificate: x509.Certificate) -> Subject:
    """Who a certificate speaks for, when TLS has verified chain, time and usage already.

    Raises: WrongCertificate.
    """
    try:
        return parse_identity_uri(_only_uri(certificate.extensions))
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise WrongCertificate("the certificate cannot be read") from error


def _check_usage(extensions: x509.Extensions, purpose: Purpose) -> None:
    for extension in extensions:
        match extension.value:
            case x509.BasicConstraints(ca=True):
                raise WrongCertificate("the certificate is a CA's own")
            case x509.KeyUsage() as usage if not usage.digital_signature or usage.key_cert_sign:
                raise WrongCertificate("the certificate's key usage is not digital signature")
    try:
        extended = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        raise WrongCertificate("the certificate has no extended key usage") from None
    if purpose.value not in extended:
        side = purpose.name.lower()
        raise WrongCertificate(f"the certificate's extended key usage is not {side} authentication")


def _only_uri(extensions: x509.Extensions) -> str:
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise WrongCertificate("the certificate has no subject alternative name") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise WrongCertificate(f"the certificate has {len(uris)} URIs where one is wanted")
    return uris[0]
