"""The device CA: a root, an issuing CA under it, and the certificates that they give.

Rules of this file:
- Pure: keys and bytes in, certificates out, the time as an argument.
- ECDSA P-256 with SHA-256 everywhere. From a request nothing is taken but the public key, once its
  signature shows that the sender has the private one; names, uses and lives come from here.
- A certificate says who its holder is by one `mdx://` URI (`tunnel.identity`); servers also get the
  names by which they are dialled. The subject stays empty, so that nobody can lean on it.
- Every certificate begins a minute ago, for peers whose clocks are a little slow, and never
  outlives the CA that signed it.
- The root signs issuing CAs only. It is read for that moment and not kept at hand.

Never: a private key in a repr or an exception.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mdx.control.errors import RequestRefused
from tunnel import Role, Subject, identity_uri, public_key_hash

__all__ = [
    "APP_SECONDS",
    "DEVICE_SECONDS",
    "Authority",
    "Issued",
    "issue",
    "new_issuing_authority",
    "new_root",
    "read_request",
    "wants_renewal",
]

MINUTE, HOUR, DAY, YEAR = 60, 3600, 86_400, 365 * 86_400
BACKDATED_SECONDS = MINUTE
ROOT_SECONDS = 20 * YEAR
ISSUING_SECONDS = 5 * YEAR
DEVICE_SECONDS = 30 * DAY
APP_SECONDS = 12 * HOUR  # one per run, and never beyond its lease: what it opened ends with it
SERVICE_SECONDS = 30 * DAY  # gateways and control itself
MAX_REQUEST_CHARACTERS = 8 * 1024  # a request for a P-256 key has about 500

_SIGNATURE_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A CA: its certificate, and the key that signs."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False, compare=False)

    @property
    def certificate_pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode("ascii")

    def to_pem(self) -> bytes:
        """Key and certificate, not encrypted: for a record of the vault."""
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return key + self.certificate.public_bytes(Encoding.PEM)

    @classmethod
    def from_pem(cls, pem: bytes) -> Authority:
        """What `to_pem` gave. Raises: ValueError."""
        key = load_pem_private_key(pem, password=None)
        certificate = x509.load_pem_x509_certificate(pem)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or public_key_hash(
            key.public_key()
        ) != public_key_hash(certificate.public_key()):
            raise ValueError("the CA's key is not that of its certificate")
        return cls(certificate=certificate, key=key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A fresh certificate. `serial` is lower-case hex, `not_after` in Unix seconds."""

    pem: str
    subject: Subject
    serial: str
    key_hash: str
    not_after: float


def new_root(tenant: str, now: float) -> Authority:
    """The root of a tenant, with a fresh key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _ca_name(tenant, "root")
    builder = _ca_builder(key.public_key(), name, now, ROOT_SECONDS, path_length=1)
    builder = builder.issuer_name(name).add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
    )
    return Authority(certificate=builder.sign(key, hashes.SHA256()), key=key)


def new_issuing_authority(root: Authority, tenant: str, now: float) -> Authority:
    """A CA under `root` that signs the certificates of devices, apps and services."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _ca_name(tenant, f"issuing {x509.random_serial_number():x}"[:32])
    seconds = min(ISSUING_SECONDS, root.certificate.not_valid_after_utc.timestamp() - now)
    builder = _ca_builder(key.public_key(), name, now, seconds, path_length=0)
    certificate = _signed(builder, root)
    return Authority(certificate=certificate, key=key)


def wants_renewal(certificate: x509.Certificate, now: float) -> bool:
    """Whether two thirds of its life are over."""
    begins = certificate.not_valid_before_utc.timestamp()
    ends = certificate.not_valid_after_utc.timestamp()
    return now > begins + (ends - begins) * 2 / 3


def read_request(text: str) -> ec.EllipticCurvePublicKey:
    """The public key of a PKCS#10 request (PEM), whose sender has the private one.

    Raises: RequestRefused (400).
    """
    if len(text) > MAX_REQUEST_CHARACTERS:
        raise _bad(f"a certificate request has at most {MAX_REQUEST_CHARACTERS} characters")
    try:
        request = x509.load_pem_x509_csr(text.encode("ascii"))
        key = request.public_key()
        algorithm = request.signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm):
        raise _bad("this is not a certificate request (PKCS#10, PEM)") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _bad("the key of a certificate request must be ECDSA P-256")
    if not isinstance(algorithm, _SIGNATURE_HASHES) or not request.is_signature_valid:
        raise _bad("the certificate request is not signed by its own key")
    return key


def issue(
    issuing: Authority,
    key: ec.EllipticCurvePublicKey,
    subject: Subject,
    *,
    now: float,
    hosts: Sequence[str] = (),
    at_most_until: float | None = None,
) -> Issued:
    """A certificate for `subject`. `hosts` are the names and addresses of a service.

    `at_most_until` cuts its life (Unix seconds). Raises: ValueError for a subject or host that is
    none, or when no life is left.
    """
    template = _TEMPLATES[subject.role]
    if bool(hosts) != template.server:
        raise ValueError(f"host names go with services; {subject.role.value} is given {hosts!r}")
    ends = min(
        now + template.seconds,
        issuing.certificate.not_valid_after_utc.timestamp(),
        *(() if at_most_until is None else (at_most_until,)),
    )
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity_uri(subject))]
    names += [_general_name(host) for host in dict.fromkeys(hosts)]
    builder = (
        _builder(key, now, ends)
        .subject_name(x509.Name([]))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(template.uses), critical=False)
        # Critical, because the subject is empty (RFC 5280, 4.2.1.6).
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
    )
    certificate = _signed(builder, issuing)
    return Issued(
        pem=certificate.public_bytes(Encoding.PEM).decode("ascii") + issuing.certificate_pem,
        subject=subject,
        serial=f"{certificate.serial_number:x}",
        key_hash=public_key_hash(key),
        not_after=certificate.not_valid_after_utc.timestamp(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Template:
    seconds: float
    client: bool = False
    server: bool = False

    @property
    def uses(self) -> list[x509.ObjectIdentifier]:
        client = [ExtendedKeyUsageOID.CLIENT_AUTH] if self.client else []
        return client + ([ExtendedKeyUsageOID.SERVER_AUTH] if self.server else [])


_TEMPLATES = {
    Role.DEVICE: _Template(seconds=DEVICE_SECONDS, client=True),
    Role.APP: _Template(seconds=APP_SECONDS, client=True),
    # A gateway is the server of agents, and the client of control and of private hosts.
    Role.GATEWAY: _Template(seconds=SERVICE_SECONDS, client=True, server=True),
    Role.CONTROL: _Template(seconds=SERVICE_SECONDS, server=True),
}


def _bad(message: str) -> RequestRefused:
    return RequestRefused(message, status=400, hint="mdx makes requests of the right form itself")


def _ca_name(tenant: str, which: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, tenant),
            x509.NameAttribute(NameOID.COMMON_NAME, f"mdx {which}"),
        ]
    )


def _ca_builder(
    key: ec.EllipticCurvePublicKey, name: x509.Name, now: float, seconds: float, path_length: int
) -> x509.CertificateBuilder:
    return (
        _builder(key, now, now + seconds)
        .subject_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
    )


def _builder(key: ec.EllipticCurvePublicKey, now: float, ends: float) -> x509.CertificateBuilder:
    if ends <= now:
        raise ValueError("no life is left for a certificate")
    return (
        x509.CertificateBuilder()
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(int(now - BACKDATED_SECONDS), UTC))
        .not_valid_after(datetime.fromtimestamp(int(ends), UTC))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _signed(builder: x509.CertificateBuilder, authority: Authority) -> x509.Certificate:
    identifier = authority.certificate.extensions.get_extension_for_class(
        x509.SubjectKeyIdentifier
    ).value
    return (
        builder.issuer_name(authority.certificate.subject)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
        .sign(authority.key, hashes.SHA256())
    )


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
