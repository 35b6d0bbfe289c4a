"""Identities: what TLS libraries let through and we do not."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from tunnel.errors import WrongCertificate
from tunnel.identity import (
    Identity,
    Purpose,
    Role,
    Subject,
    identity_uri,
    is_identity_name,
    parse_identity_uri,
    public_key_hash,
    read_identity,
)

EXAMPLES = 20_000 if os.environ.get("MDX_SOAK") else 300
START = datetime(2030, 1, 1, tzinfo=UTC)
NOW = START.timestamp() + 60
APP_URI = "mdx://acme/device/d1/app/payroll"
KEY = ec.generate_private_key(ec.SECP256R1())
CLIENT_AND_SERVER = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)


def usage(*, signature: bool = True, cert_sign: bool = False) -> x509.KeyUsage:
    """A key usage with these two bits, or with key agreement alone."""
    return x509.KeyUsage(
        digital_signature=signature,
        key_cert_sign=cert_sign,
        key_agreement=not signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def certificate(
    names: Sequence[x509.GeneralName] | None = (x509.UniformResourceIdentifier(APP_URI),),
    *,
    extended: Sequence[x509.ObjectIdentifier] | None = CLIENT_AND_SERVER,
    key_usage: x509.KeyUsage | None = None,
    ca: bool | None = False,
    common_name: str = "anything",
    extra: x509.ExtensionType | None = None,
) -> x509.Certificate:
    """A certificate of a day with these extensions; None leaves one out."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=KEY.public_key())
        .serial_number(0xABC)
        .not_valid_before(START)
        .not_valid_after(START + timedelta(days=1))
    )
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if extended is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
    if extra is not None:
        builder = builder.add_extension(extra, critical=False)
    builder = builder.add_extension(key_usage or usage(), critical=True)
    return builder.sign(KEY, hashes.SHA256())


def uris(*texts: str) -> list[x509.GeneralName]:
    """Names of the URI kind."""
    return [x509.UniformResourceIdentifier(text) for text in texts]


def refusal(made: x509.Certificate, *, now: float = NOW, purpose: Purpose = Purpose.CLIENT) -> str:
    """Why a certificate is not accepted."""
    with pytest.raises(WrongCertificate) as caught:
        read_identity(made, now, purpose=purpose)
    return str(caught.value)


def test_a_good_certificate() -> None:
    spki = KEY.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for purpose in Purpose:
        assert read_identity(certificate(), NOW, purpose=purpose) == Identity(
            tenant="acme",
            role=Role.APP,
            device="d1",
            app="payroll",
            name=None,
            key_hash=hashlib.sha256(spki).hexdigest(),
            serial="abc",
            not_after=START.timestamp() + 86400,
        )
    assert public_key_hash(KEY.public_key()) == hashlib.sha256(spki).hexdigest()


def test_other_names_beside_the_uri_do_not_matter() -> None:
    names = [x509.DNSName("gw.corp"), *uris("mdx://acme/gateway/gw1"), x509.RFC822Name("a@b.test")]
    identity = read_identity(certificate(names), NOW, purpose=Purpose.SERVER)
    assert (identity.role, identity.name) == (Role.GATEWAY, "gw1")


@pytest.mark.parametrize(
    ("now", "expected"),
    [(-1.0, "not valid yet"), (0.0, None), (86400.0, None), (86401.0, "has expired")],
)
def test_times_are_inclusive(now: float, expected: str | None) -> None:
    at = START.timestamp() + now
    if expected is None:
        read_identity(certificate(), at, purpose=Purpose.CLIENT)
    else:
        assert expected in refusal(certificate(), now=at)


def test_purpose_is_told_from_the_extended_key_usage_alone() -> None:
    client = certificate(extended=[ExtendedKeyUsageOID.CLIENT_AUTH])
    server = certificate(extended=[ExtendedKeyUsageOID.SERVER_AUTH])
    read_identity(client, NOW, purpose=Purpose.CLIENT)
    read_identity(server, NOW, purpose=Purpose.SERVER)
    assert "not client authentication" in refusal(server)
    assert "not server authentication" in refusal(client, purpose=Purpose.SERVER)
    assert "no extended key usage" in refusal(certificate(extended=None))
    anything = certificate(extended=[ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])
    assert "not client authentication" in refusal(anything)


def test_a_version_1_certificate_is_none() -> None:
    """Of a v3 certificate without extensions, a v1 certificate is what lacks the version."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, APP_URI)])
    made = (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=KEY.public_key())
        .serial_number(1)
        .not_valid_before(START)
        .not_valid_after(START + timedelta(days=1))
        .sign(KEY, hashes.SHA256())
    )
    version = bytes.fromhex("a003020102")
    inner = made.tbs_certificate_bytes
    assert version in inner[:10]
    shorter = sequence(body_of(inner).removeprefix(version))
    rest = body_of(made.public_bytes(serialization.Encoding.DER)).removeprefix(inner)
    old = x509.load_der_x509_certificate(sequence(shorter + rest))
    assert old.version is x509.Version.v1
    assert "version 3" in refusal(old)


def sequence(body: bytes) -> bytes:
    """DER: SEQUENCE with a length of two bytes or fewer."""
    size = len(body)
    length = (
        bytes([size])
        if size < 128
        else bytes([0x81, size])
        if size < 256
        else b"\x82" + size.to_bytes(2, "big")
    )
    return b"\x30" + length + body


def body_of(der: bytes) -> bytes:
    """What a DER SEQUENCE holds."""
    return der[2 + (der[1] & 0x7F if der[1] & 0x80 else 0) :]


def test_a_cas_own_certificate_is_no_identity() -> None:
    assert "CA's own" in refusal(certificate(ca=True))
    read_identity(certificate(ca=None), NOW, purpose=Purpose.CLIENT)


def test_key_usage() -> None:
    assert "key usage" in refusal(certificate(key_usage=usage(signature=False)))
    assert "key usage" in refusal(certificate(key_usage=usage(cert_sign=True)))


def test_a_common_name_is_no_identity() -> None:
    assert "no subject alternative name" in refusal(certificate(None, common_name=APP_URI))
    assert "0 URIs" in refusal(certificate([x509.DNSName("a.test")], common_name=APP_URI))
    assert "0 URIs" in refusal(certificate([x509.DNSName(APP_URI)]))
    assert "0 URIs" in refusal(certificate([x509.RFC822Name(APP_URI)]))


def test_two_uris_are_not_one_identity() -> None:
    assert "2 URIs" in refusal(certificate(uris(APP_URI, "mdx://acme/device/d2")))
    assert "2 URIs" in refusal(certificate(uris(APP_URI, APP_URI)))
    assert "2 URIs" in refusal(certificate(uris(APP_URI, "https://a.test")))


@pytest.mark.parametrize(
    ("uri", "subject"),
    [
        ("mdx://acme/device/d1", Subject(tenant="acme", role=Role.DEVICE, device="d1")),
        (APP_URI, Subject(tenant="acme", role=Role.APP, device="d1", app="payroll")),
        ("mdx://acme/gateway/gw-1", Subject(tenant="acme", role=Role.GATEWAY, name="gw-1")),
        ("mdx://a.b_c-d/control/0", Subject(tenant="a.b_c-d", role=Role.CONTROL, name="0")),
        ("mdx://device/device/device", Subject(tenant="device", role=Role.DEVICE, device="device")),
    ],
)
def test_identity_uris(uri: str, subject: Subject) -> None:
    assert parse_identity_uri(uri) == subject
    assert identity_uri(subject) == uri
    made = read_identity(certificate(uris(uri)), NOW, purpose=Purpose.CLIENT)
    assert (made.tenant, made.role, made.device, made.app, made.name) == (
        subject.tenant,
        subject.role,
        subject.device,
        subject.app,
        subject.name,
    )


ODD_URIS = [
    "",
    "https://acme/device/d1",
    "MDX://acme/device/d1",
    "mdx:/acme/device/d1",
    "mdx:acme/device/d1",
    "mdx://Acme/device/d1",
    "mdx://acme/Device/d1",
    "mdx://acme/device/D1",
    "mdx://acme/device/d1/",
    "mdx://acme/device/",
    "mdx://acme//device/d1",
    "mdx:///device/d1",
    "mdx://acme/device/d1/app/",
    "mdx://acme/device/d1/app/payroll/x",
    "mdx://acme/device/d1/App/payroll",
    "mdx://acme/device/d1/payroll",
    "mdx://acme/app/payroll",
    "mdx://acme/gateway/gw1/app/payroll",
    "mdx://acme/admin/root",
    "mdx://acme/device/../gateway/gw1",
    "mdx://acme/device/.",
    "mdx://acme/device/d1%2fapp%2fpayroll",
    "mdx://acme/device/d%31",
    "mdx://acme:443/device/d1",
    "mdx://user@acme/device/d1",
    "mdx://acme/device/d1?x=1",
    "mdx://acme/device/d1#x",
    "mdx://acme/device/d1;x",
    "mdx://acme/device/d 1",
    " mdx://acme/device/d1",
    "mdx://acme/device/d1 ",
    "mdx://acme/device/d1\n",
    "mdx://acme/device/d1\0",
    "mdx://acme/device/" + "d" * 64,
    "mdx://-acme/device/d1",
    "mdx://acme/device/d1/app/payroll,mdx://acme/gateway/gw1",
]


@pytest.mark.parametrize("uri", ODD_URIS)
def test_uris_that_are_refused(uri: str) -> None:
    with pytest.raises(WrongCertificate):
        parse_identity_uri(uri)
    assert "not an identity URI" in refusal(certificate(uris(uri)))


def test_uris_in_other_scripts_are_refused() -> None:
    for uri in ("mdx://acme/device/d\u0661", "mdx://acmé/device/d1", "mdx://acme/device/ｄ1"):
        with pytest.raises(WrongCertificate) as caught:
            parse_identity_uri(uri)
        assert str(caught.value).isascii()


@pytest.mark.parametrize(
    "subject",
    [
        Subject(tenant="acme", role=Role.DEVICE),
        Subject(tenant="acme", role=Role.DEVICE, device="d1", app="payroll"),
        Subject(tenant="acme", role=Role.DEVICE, device="d1/app/payroll"),
        Subject(tenant="acme", role=Role.DEVICE, device="d1", name="gw1"),
        Subject(tenant="acme", role=Role.APP, device="d1"),
        Subject(tenant="acme", role=Role.APP, app="payroll"),
        Subject(tenant="acme", role=Role.GATEWAY),
        Subject(tenant="acme", role=Role.GATEWAY, name="gw1", device="d1"),
        Subject(tenant="acme", role=Role.CONTROL, name="C1"),
        Subject(tenant="acme/device", role=Role.CONTROL, name="c1"),
        Subject(tenant="", role=Role.CONTROL, name="c1"),
    ],
)
def test_subjects_that_have_no_uri(subject: Subject) -> None:
    with pytest.raises(ValueError, match="no identity URI"):
        identity_uri(subject)


def test_names() -> None:
    for name in ("a", "0", "a.b_c-d", "a" * 63):
        assert is_identity_name(name)
    for name in ("", "A", "-a", ".a", "_a", "a/b", "a b", "a\n", "a" * 64, "ä", "a\0"):
        assert not is_identity_name(name)


def test_a_certificate_that_cannot_be_read_is_refused() -> None:
    broken = x509.UnrecognizedExtension(x509.oid.ExtensionOID.NAME_CONSTRAINTS, b"\xff\xff")
    assert "cannot be read" in refusal(certificate(extra=broken))


@settings(max_examples=EXAMPLES, deadline=None)
@given(uri=st.text(max_size=40) | st.from_regex(r"mdx://[a-z/.0-9%A-Z-]{1,40}", fullmatch=True))
def test_any_uri_is_canonical_or_refused(uri: str) -> None:
    try:
        subject = parse_identity_uri(uri)
    except WrongCertificate:
        return
    assert identity_uri(subject) == uri
