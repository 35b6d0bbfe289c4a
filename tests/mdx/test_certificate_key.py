from cryptography import x509

from mdx.certificate_key import CertificateKey
from tunnel import public_key_hash


def test_the_request_proves_possession_and_asks_for_nothing() -> None:
    key = CertificateKey()

    request = x509.load_pem_x509_csr(key.request().encode())

    assert request.is_signature_valid
    assert list(request.subject) == []
    assert list(request.extensions) == []
    assert public_key_hash(request.public_key()) == key.key_hash


def test_no_key_material_in_the_repr() -> None:
    key = CertificateKey()

    assert repr(key) == f"CertificateKey({key.key_hash[:16]}…)"
    assert key.pem().startswith(b"-----BEGIN PRIVATE KEY-----")


def test_every_key_is_new() -> None:
    assert CertificateKey().key_hash != CertificateKey().key_hash
