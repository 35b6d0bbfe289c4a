"""The corporate CA and the site's certificate: who believes them, and when they are made anew."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from mdx.errors import MdxError
from mdx.site.authority import CA_LIFETIME, SITE_LIFETIME, prepare

NAME = "intranet.corp.internal"
NOW = 1_800_000_000.0
DAY = 86_400.0


def files(state: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in state.iterdir()}


def verify(state: Path, leaf: bytes, name: str, folder: Path) -> str:
    """What the system's openssl says, strictly."""
    (folder / "leaf.pem").write_bytes(leaf)
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver"]
    command += ["-attime", str(int(NOW)), "-verify_hostname", name]
    command += ["-CAfile", str(state / "ca.pem"), str(folder / "leaf.pem")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_a_strict_stranger_believes_the_certificate(tmp_path: Path) -> None:
    made = prepare(tmp_path / "s", name=NAME, now=NOW)
    certificate = x509.load_pem_x509_certificate(made.pem).public_bytes(Encoding.PEM)
    assert "leaf.pem: OK" in verify(tmp_path / "s", certificate, NAME, tmp_path)
    assert "mismatch" in verify(tmp_path / "s", certificate, "other.corp.internal", tmp_path)


def test_the_ca_is_good_for_this_site_only(tmp_path: Path) -> None:
    state = tmp_path / "s"
    prepare(state, name=NAME, now=NOW)
    ca = x509.load_pem_x509_certificate((state / "ca.pem").read_bytes())
    ca_key = load_pem_private_key((state / "ca.key").read_bytes(), None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    ca_id = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    forged = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(ca.not_valid_before_utc)
        .not_valid_after(ca.not_valid_after_utc)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("bank.example")]), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_id), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    said = verify(state, forged.public_bytes(Encoding.PEM), "bank.example", tmp_path)
    assert "permitted subtree violation" in said


def test_keys_are_for_us_alone_and_never_shown(tmp_path: Path) -> None:
    made = prepare(tmp_path / "s", name=NAME, now=NOW)
    for path in [tmp_path / "s", *(tmp_path / "s").iterdir()]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert "PRIVATE KEY" in made.pem.decode()
    assert "PRIVATE KEY" not in repr(made)


def test_what_is_there_and_good_stays(tmp_path: Path) -> None:
    first = prepare(tmp_path / "s", name=NAME, now=NOW)
    before = files(tmp_path / "s")
    assert prepare(tmp_path / "s", name=NAME, now=NOW + 59 * DAY) == first
    assert files(tmp_path / "s") == before


def test_the_certificate_is_renewed_in_the_last_third_of_its_life(tmp_path: Path) -> None:
    first = prepare(tmp_path / "s", name=NAME, now=NOW)
    second = prepare(tmp_path / "s", name=NAME, now=NOW + 61 * DAY)
    assert second.pem != first.pem
    assert second.ca == first.ca
    ends = x509.load_pem_x509_certificate(second.pem).not_valid_after_utc.timestamp()
    assert ends == NOW + 61 * DAY + SITE_LIFETIME.total_seconds()


def test_a_ca_near_its_end_is_replaced_and_so_is_its_certificate(tmp_path: Path) -> None:
    first = prepare(tmp_path / "s", name=NAME, now=NOW)
    later = NOW + CA_LIFETIME.total_seconds() - 364 * DAY
    second = prepare(tmp_path / "s", name=NAME, now=later)
    assert second.ca != first.ca
    x509.load_pem_x509_certificate(second.pem).verify_directly_issued_by(
        x509.load_pem_x509_certificate(second.ca)
    )


@pytest.mark.parametrize("lost", ["ca.pem", "ca.key"])
def test_a_ca_that_is_half_there_is_made_anew(lost: str, tmp_path: Path) -> None:
    first = prepare(tmp_path / "s", name=NAME, now=NOW)
    (tmp_path / "s" / lost).unlink()
    second = prepare(tmp_path / "s", name=NAME, now=NOW)
    assert second.ca != first.ca
    assert second.pem != first.pem


def test_another_name_is_another_ca(tmp_path: Path) -> None:
    first = prepare(tmp_path / "s", name=NAME, now=NOW)
    second = prepare(tmp_path / "s", name="wiki.corp.internal", now=NOW)
    assert second.ca != first.ca
    names = x509.load_pem_x509_certificate(second.pem).extensions
    names_value = names.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names_value.get_values_for_type(x509.DNSName) == ["wiki.corp.internal"]


@pytest.mark.parametrize("damaged", ["ca.pem", "ca.key", "site.pem"])
def test_damaged_files_are_an_error_with_a_way_out(damaged: str, tmp_path: Path) -> None:
    prepare(tmp_path / "s", name=NAME, now=NOW)
    (tmp_path / "s" / damaged).write_bytes(b"not PEM")
    with pytest.raises(MdxError, match="are damaged") as caught:
        prepare(tmp_path / "s", name=NAME, now=NOW)
    assert "remove that folder" in caught.value.hint


def test_links_are_not_followed(tmp_path: Path) -> None:
    prepare(tmp_path / "s", name=NAME, now=NOW)
    (tmp_path / "s" / "ca.key").rename(tmp_path / "elsewhere")
    (tmp_path / "s" / "ca.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MdxError, match=r"ca\.key"):
        prepare(tmp_path / "s", name=NAME, now=NOW)


def test_a_folder_open_to_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir(mode=0o755)
    with pytest.raises(MdxError, match="0755"):
        prepare(tmp_path / "s", name=NAME, now=NOW)
