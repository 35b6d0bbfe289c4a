from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from mdx.control.ca import wants_renewal
from mdx.control.ca_records import SCOPE, open_authorities
from mdx.errors import MdxError
from tunnel import public_key_hash
from vault import KeyFile, Vault

NOW = 1_800_000_000.0
YEAR = 365 * 86_400.0


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    with Vault.create(tmp_path / "vault", KeyFile(tmp_path / "control.key")) as made:
        yield made


def test_made_once_then_found_again(tmp_path: Path, vault: Vault) -> None:
    made = open_authorities(vault, "home", NOW)
    assert open_authorities(vault, "home", NOW) == made
    vault.close()
    with Vault.open_(tmp_path / "vault", KeyFile(tmp_path / "control.key")) as again:
        assert open_authorities(again, "home", NOW).issuing.certificate == made.issuing.certificate
    (root,) = x509.load_pem_x509_certificates(made.root_pem.encode())
    assert public_key_hash(root.public_key()) == made.root_pin
    made.issuing.certificate.verify_directly_issued_by(root)


def test_the_issuing_ca_is_renewed_under_the_same_root(vault: Vault) -> None:
    made = open_authorities(vault, "home", NOW)
    later = NOW + 3.5 * YEAR
    renewed = open_authorities(vault, "home", later)
    assert renewed.root_pin == made.root_pin
    assert renewed.issuing.certificate != made.issuing.certificate
    assert not wants_renewal(renewed.issuing.certificate, later)
    assert open_authorities(vault, "home", later) == renewed


def test_another_tenant_is_refused(vault: Vault) -> None:
    open_authorities(vault, "home", NOW)
    with pytest.raises(MdxError, match="of the tenant home") as caught:
        open_authorities(vault, "work", NOW)
    assert caught.value.exit_code == 78


def test_what_is_in_the_vault_is_a_ca_and_nothing_else(vault: Vault) -> None:
    open_authorities(vault, "home", NOW)
    vault.put(SCOPE, "issuing-ca", b"garbage")
    with pytest.raises(MdxError, match="issuing-ca"):
        open_authorities(vault, "home", NOW)


def test_no_key_is_in_a_repr(vault: Vault) -> None:
    made = open_authorities(vault, "home", NOW)
    secret = made.issuing.key.private_numbers().private_value
    for text in (repr(made), repr(made.issuing)):
        assert "PRIVATE" not in text
        assert str(secret) not in text
        assert f"{secret:x}" not in text
