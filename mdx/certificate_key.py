"""A key for a certificate, and the request for it. The key never leaves its process.

From the request control takes the public key only; names are its own business.
"""

from __future__ import annotations

import hashlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

__all__ = ["CertificateKey"]


class CertificateKey:
    """A fresh ECDSA P-256 key. `key_hash` is the SHA-256 of its public key (SPKI, DER), in hex."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        public = self._key.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        self.key_hash = hashlib.sha256(public).hexdigest()

    def __repr__(self) -> str:
        return f"CertificateKey({self.key_hash[:16]}…)"

    def request(self) -> str:
        """A PKCS#10 request (PEM) that proves possession of the key and asks for nothing else."""
        builder = x509.CertificateSigningRequestBuilder(subject_name=x509.Name([]))
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()

    def pem(self) -> bytes:
        """The private key, PKCS#8 PEM, for a TLS context or a file of mode 0600."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
