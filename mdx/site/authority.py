"""The company's own small CA, and the site's certificate from it, kept in the site's state folder.

    ca.pem  ca.key      the corporate CA: 10 years, and good for names of this site only
    site.pem            the site's key and certificate, in one file so that they change in one step

The CA is made for one name and constrained to it (RFC 5280, 4.2.1.10): whoever adds it to the
authorities that an app trusts has not handed out a key to every site in the world.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mdx.errors import MdxError
from mdx.folders import private_folder
from mdx.private_files import read_file, write_file

__all__ = ["CA_LIFETIME", "SITE_LIFETIME", "SiteCertificate", "prepare"]

CA_LIFETIME = timedelta(days=3652)
CA_RENEWED_BEFORE_END = timedelta(days=365)
SITE_LIFETIME = timedelta(days=90)
SITE_RENEWED_BEFORE_END = SITE_LIFETIME / 3
BACKDATED = timedelta(minutes=1)  # for clocks that differ a little


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteCertificate:
    """What the site's TLS is made of. `pem` has the key first, then the certificate."""

    ca_file: Path
    ca: bytes
    pem: bytes = field(repr=False)


def prepare(state: Path, *, name: str, now: float) -> SiteCertificate:
    """The site's certificate for `name`; made, or made anew, when that is due at `now`.

    Raises: MdxError when the folder is open to others, or what is in it cannot be read or written.
    """
    private_folder(state)
    try:
        return _prepare(state, name, datetime.fromtimestamp(now, UTC))
    except OSError as error:
        raise MdxError(f"{error.filename or state}: {error.strerror}") from None
    except (ValueError, x509.ExtensionNotFound):
        raise MdxError(
            f"the certificates in {state} are damaged",
            hint="remove that folder; the site makes new ones",
        ) from None


def _prepare(state: Path, name: str, now: datetime) -> SiteCertificate:
    ca, ca_key = _authority(state, name, now)
    pem = read_file(state / "site.pem")
    if pem is None or not _is_good(pem, ca, name, now):
        pem = _issue(ca, ca_key, name, now)
        write_file(state / "site.pem", pem)
    return SiteCertificate(ca_file=state / "ca.pem", ca=ca.public_bytes(Encoding.PEM), pem=pem)


_Authority = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def _authority(state: Path, name: str, now: datetime) -> _Authority:
    pem, key_pem = read_file(state / "ca.pem"), read_file(state / "ca.key")
    if pem is not None and key_pem is not None:
        ca, key = x509.load_pem_x509_certificate(pem), _load_key(key_pem)
        constraint = ca.extensions.get_extension_for_class(x509.NameConstraints).value
        if (
            ca.public_key() == key.public_key()
            and ca.not_valid_after_utc - now > CA_RENEWED_BEFORE_END
            and constraint == _constraint(name)
        ):
            return ca, key
    ca, key = _found_authority(name, now)
    write_file(state / "ca.key", _key_pem(key))
    write_file(state / "ca.pem", ca.public_bytes(Encoding.PEM))
    return ca, key


def _found_authority(name: str, now: datetime) -> _Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"CA of {name}"[:64])])
    own_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        _builder(subject, subject, key, now, CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(own_id, critical=False)
        .add_extension(_constraint(name), critical=True)
    )
    return builder.sign(key, hashes.SHA256()), key


def _issue(
    ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey, name: str, now: datetime
) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    ca_id = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        # Without a subject the alternative name says all, and is critical (RFC 5280, 4.1.2.6).
        _builder(x509.Name([]), ca.subject, key, now, SITE_LIFETIME)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_id), critical=False
        )
    )
    certificate = builder.sign(ca_key, hashes.SHA256())
    return _key_pem(key) + certificate.public_bytes(Encoding.PEM)


def _is_good(pem: bytes, ca: x509.Certificate, name: str, now: datetime) -> bool:
    certificate = x509.load_pem_x509_certificate(pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, InvalidSignature):  # the CA is another than it was
        return False
    return (
        names.get_values_for_type(x509.DNSName) == [name]
        and certificate.not_valid_after_utc - now > SITE_RENEWED_BEFORE_END
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + lifetime)
    )


def _constraint(name: str) -> x509.NameConstraints:
    return x509.NameConstraints(permitted_subtrees=[x509.DNSName(name)], excluded_subtrees=None)


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the CA's key is not an elliptic-curve key")
    return key
