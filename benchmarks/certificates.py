"""Certificates for the peers, of the kind that ours are: P-256 keys, one CA, one day."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vault import now

__all__ = ["SERVER_NAME", "Certificates", "make_certificates"]

SERVER_NAME = "gateway"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """Files; `server` and `client` hold certificate and key together, as haproxy wants them."""

    ca: Path
    server: Path
    client: Path


def make_certificates(folder: Path) -> Certificates:
    """A CA, a server's certificate for `gateway` and a client's, in `folder`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("benchmark CA")
    ca = (
        _builder(name, name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    made = Certificates(
        ca=folder / "ca.pem", server=folder / "server.pem", client=folder / "client.pem"
    )
    made.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    for file, who, usage in (
        (made.server, SERVER_NAME, ExtendedKeyUsageOID.SERVER_AUTH),
        (made.client, "client", ExtendedKeyUsageOID.CLIENT_AUTH),
    ):
        own = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(_name(who), name, own.public_key())
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(who)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .sign(key, hashes.SHA256())
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM) + own.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        file.touch(mode=0o600)
        file.write_bytes(pem)
    return made


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    begun = datetime.datetime.fromtimestamp(now().wall, datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begun - datetime.timedelta(hours=1))
        .not_valid_after(begun + datetime.timedelta(days=1))
    )
