from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mdx.certificate_key import CertificateKey
from mdx.control.ca import (
    Authority,
    issue,
    new_issuing_authority,
    new_root,
    read_request,
    wants_renewal,
)
from mdx.control.errors import RequestRefused
from tunnel import Purpose, Role, Subject, read_identity

NOW = 1_800_000_000.0
DAY = 86_400.0
DEVICE = Subject(tenant="home", role=Role.DEVICE, device="d1")
APP = Subject(tenant="home", role=Role.APP, device="d1", app="payroll")
GATEWAY = Subject(tenant="home", role=Role.GATEWAY, name="gateway")
CONTROL = Subject(tenant="home", role=Role.CONTROL, name="control")


@pytest.fixture(scope="module")
def root() -> Authority:
    return new_root("home", NOW)


@pytest.fixture(scope="module")
def issuing(root: Authority) -> Authority:
    return new_issuing_authority(root, "home", NOW)


@pytest.mark.parametrize(
    ("subject", "hosts", "seconds", "uses"),
    [
        (DEVICE, [], 30 * DAY, [ExtendedKeyUsageOID.CLIENT_AUTH]),
        (APP, [], 12 * 3600, [ExtendedKeyUsageOID.CLIENT_AUTH]),
        (
            GATEWAY,
            ["gateway", "127.0.0.1"],
            30 * DAY,
            [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH],
        ),
        (CONTROL, ["control", "::1"], 30 * DAY, [ExtendedKeyUsageOID.SERVER_AUTH]),
    ],
    ids=lambda value: value.role.value if isinstance(value, Subject) else None,
)
def test_each_role_has_its_template(
    issuing: Authority,
    subject: Subject,
    hosts: list[str],
    seconds: float,
    uses: list[x509.ObjectIdentifier],
) -> None:
    key = CertificateKey()
    issued = issue(issuing, read_request(key.request()), subject, now=NOW, hosts=hosts)
    leaf, parent = x509.load_pem_x509_certificates(issued.pem.encode())
    assert parent == issuing.certificate
    extensions = leaf.extensions
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == uses
    basic = extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical
    assert not basic.value.ca
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_cert_sign
    assert leaf.not_valid_before_utc.timestamp() == NOW - 60
    assert leaf.not_valid_after_utc.timestamp() == NOW + seconds == issued.not_after
    assert not list(leaf.subject)
    purpose = Purpose.SERVER if subject is CONTROL else Purpose.CLIENT
    identity = read_identity(leaf, NOW, purpose=purpose)
    assert (identity.role, identity.device, identity.app) == (
        subject.role,
        subject.device,
        subject.app,
    )
    assert (identity.key_hash, identity.serial) == (key.key_hash, issued.serial)


@pytest.mark.parametrize("name", ["control", "127.0.0.1"])
def test_a_service_passes_a_strict_verifier_up_to_the_root(
    root: Authority, issuing: Authority, name: str
) -> None:
    key = read_request(CertificateKey().request())
    issued = issue(issuing, key, CONTROL, now=NOW, hosts=["control", "127.0.0.1"])
    leaf, parent = x509.load_pem_x509_certificates(issued.pem.encode())
    builder = verification.PolicyBuilder().store(verification.Store([root.certificate]))
    builder = builder.time(datetime.fromtimestamp(NOW + 1, UTC))
    subject = x509.DNSName(name) if name == "control" else x509.IPAddress(ip_address(name))
    assert len(builder.build_server_verifier(subject).verify(leaf, [parent])) == 3


@pytest.mark.parametrize(
    ("subject", "hosts", "purpose"),
    [
        (DEVICE, [], "sslclient"),
        (APP, [], "sslclient"),
        (GATEWAY, ["gateway"], "sslclient"),
        (GATEWAY, ["gateway"], "sslserver"),
        (CONTROL, ["control"], "sslserver"),
    ],
)
def test_openssl_verifies_each_strictly_for_its_purpose_and_no_other(
    tmp_path: Path,
    root: Authority,
    issuing: Authority,
    subject: Subject,
    hosts: list[str],
    purpose: str,
) -> None:
    issued = issue(issuing, read_request(CertificateKey().request()), subject, now=NOW, hosts=hosts)
    leaf, parents = tmp_path / "leaf.pem", tmp_path / "issuing.pem"
    leaf.write_text(issued.pem)
    parents.write_text(issuing.certificate_pem)
    (tmp_path / "root.pem").write_text(root.certificate_pem)

    def verify(purpose: str) -> bool:
        command = [
            "openssl",
            "verify",
            "-x509_strict",
            "-purpose",
            purpose,
            "-attime",
            str(int(NOW)),
        ]
        files = ["-CAfile", str(tmp_path / "root.pem"), "-untrusted", str(parents), str(leaf)]
        done = subprocess.run([*command, *files], capture_output=True, check=False)
        return done.returncode == 0

    assert verify(purpose)
    if subject is not GATEWAY:
        assert not verify({"sslclient": "sslserver", "sslserver": "sslclient"}[purpose])


def test_serials_are_random(issuing: Authority) -> None:
    key = read_request(CertificateKey().request())
    serials = {issue(issuing, key, APP, now=NOW).serial for _ in range(20)}
    assert len(serials) == 20
    assert min(len(serial) for serial in serials) > 20


def test_a_certificate_ends_when_it_is_told_to_and_never_after_its_ca(issuing: Authority) -> None:
    key = read_request(CertificateKey().request())
    assert issue(issuing, key, APP, now=NOW, at_most_until=NOW + 5).not_after == NOW + 5
    ends = issuing.certificate.not_valid_after_utc.timestamp()
    assert issue(issuing, key, DEVICE, now=ends - DAY).not_after == ends
    with pytest.raises(ValueError, match="no life"):
        issue(issuing, key, DEVICE, now=ends)


def test_what_makes_no_identity_is_not_signed(issuing: Authority) -> None:
    key = read_request(CertificateKey().request())
    odd = Subject(tenant="home", role=Role.APP, device="d1", app="../d2")
    with pytest.raises(ValueError, match="identity URI"):
        issue(issuing, key, odd, now=NOW)
    with pytest.raises(ValueError, match="host names"):
        issue(issuing, key, APP, now=NOW, hosts=["gateway"])
    with pytest.raises(ValueError, match="host names"):
        issue(issuing, key, GATEWAY, now=NOW)


def test_the_issuing_ca_can_make_no_other_ca(root: Authority, issuing: Authority) -> None:
    lengths = [
        authority.certificate.extensions.get_extension_for_class(
            x509.BasicConstraints
        ).value.path_length
        for authority in (root, issuing)
    ]
    assert lengths == [1, 0]


def test_a_ca_survives_its_record_and_shows_no_key(root: Authority) -> None:
    again = Authority.from_pem(root.to_pem())
    assert again.certificate == root.certificate
    assert again.key.private_numbers() == root.key.private_numbers()
    assert "key" not in repr(root).replace("public_key", "")
    other = new_root("home", NOW)
    mixed = root.to_pem().partition(b"-----BEGIN CERT")[0] + other.certificate_pem.encode()
    with pytest.raises(ValueError, match="not that of"):
        Authority.from_pem(mixed)


def test_renewal_is_wanted_after_two_thirds(root: Authority) -> None:
    begins = root.certificate.not_valid_before_utc.timestamp()
    life = root.certificate.not_valid_after_utc.timestamp() - begins
    assert not wants_renewal(root.certificate, begins + life * 0.66)
    assert wants_renewal(root.certificate, begins + life * 0.67)


def test_nothing_that_a_request_asks_for_is_granted(issuing: Authority) -> None:
    own = ec.generate_private_key(ec.SECP256R1())
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier("mdx://home/gateway/g"), x509.DNSName("gateway")]
            ),
            critical=False,
        )
        .sign(own, hashes.SHA256())
        .public_bytes(Encoding.PEM)
        .decode()
    )
    issued = issue(issuing, read_request(request), APP, now=NOW)
    plain = issue(issuing, own.public_key(), APP, now=NOW)
    leaf, _ = x509.load_pem_x509_certificates(issued.pem.encode())
    expected, _ = x509.load_pem_x509_certificates(plain.pem.encode())
    assert list(leaf.extensions) == list(expected.extensions)
    assert leaf.subject == expected.subject == x509.Name([])


def _signed(key: object) -> str:
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    builder = x509.CertificateSigningRequestBuilder(subject_name=x509.Name([]))
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM).decode()  # type: ignore[arg-type]


def _stolen_key() -> str:
    """A request for somebody else's public key: the signature is another key's."""
    wanted = ec.generate_private_key(ec.SECP256R1())
    mine = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder(subject_name=x509.Name([]))
    theirs = builder.sign(wanted, hashes.SHA256())
    signature = mine.sign(theirs.tbs_certrequest_bytes, ec.ECDSA(hashes.SHA256()))
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    bits = bytes([0x03, len(signature) + 1, 0]) + signature
    content = theirs.tbs_certrequest_bytes + algorithm + bits
    length = len(content)
    head = bytes([0x30, length]) if length < 128 else bytes([0x30, 0x81, length])
    text = base64.encodebytes(head + content).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{text}-----END CERTIFICATE REQUEST-----\n"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: "", "not a certificate request"),
        (lambda: "garbage", "not a certificate request"),
        (lambda: "\ud800", "not a certificate request"),
        (lambda: "é" * 10, "not a certificate request"),
        (lambda: CertificateKey().request()[:200], "not a certificate request"),
        (lambda: CertificateKey().pem().decode(), "not a certificate request"),
        (lambda: "A" * 9000, "at most"),
        (lambda: _signed(rsa.generate_private_key(65537, 1024)), "P-256"),  # noqa: S505
        (lambda: _signed(rsa.generate_private_key(65537, 2048)), "P-256"),
        (lambda: _signed(ec.generate_private_key(ec.SECP384R1())), "P-256"),
        (lambda: _signed(ec.generate_private_key(ec.SECP256K1())), "P-256"),
        (lambda: _signed(ed25519.Ed25519PrivateKey.generate()), "P-256"),
        (_stolen_key, "not signed by its own key"),
    ],
)
def test_odd_requests_are_refused(make: Callable[[], str], says: str) -> None:
    with pytest.raises(RequestRefused, match=says) as caught:
        read_request(make())
    assert caught.value.status == 400
