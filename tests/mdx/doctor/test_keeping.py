"""Where the root key is kept, and whether that place is as it should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdx.doctor.findings import Finding
from mdx.doctor.keeping import check_keeper, check_keyring, keyrings_of_this_system
from mdx.folders import Folders
from vault import KeyFile, KeyringName, Passphrase, Vault


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    return Folders(home=home)


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_no_vault_is_no_fault(folders: Folders) -> None:
    (found,) = check_keeper(folders)
    assert found.standing == "warn"
    assert "mdx vault init" in found.do


def test_a_key_file_of_ours_alone(folders: Folders) -> None:
    Vault.create(folders.vault, KeyFile(folders.key_file)).close()
    found = by_name(check_keeper(folders))
    assert found["keeper"].standing == found["key file"].standing == "ok"
    assert "whoever can read it" in found["keeper"].what
    content = folders.key_file.read_text()
    assert all(content.strip() not in finding.what for finding in found.values())


def test_a_key_file_open_to_others(folders: Folders) -> None:
    Vault.create(folders.vault, KeyFile(folders.key_file)).close()
    folders.key_file.chmod(0o644)
    found = by_name(check_keeper(folders))["key file"]
    assert (found.standing, "0644" in found.what) == ("bad", True)
    assert f"chmod 600 {folders.key_file}" in found.do


def test_a_key_file_that_is_gone_or_a_link(folders: Folders, tmp_path: Path) -> None:
    Vault.create(folders.vault, KeyFile(folders.key_file)).close()
    elsewhere = tmp_path / "elsewhere"
    folders.key_file.rename(elsewhere)
    assert by_name(check_keeper(folders))["key file"].standing == "bad"
    folders.key_file.symlink_to(elsewhere)
    assert by_name(check_keeper(folders))["key file"].standing == "bad"


def test_a_passphrase_has_no_place(folders: Folders) -> None:
    Vault.create(folders.vault, Passphrase(b"correct horse")).close()
    (found,) = check_keeper(folders)
    assert found.standing == "ok"
    assert "asked for at sign-in" in found.what


def test_a_damaged_vault_is_bad(folders: Folders) -> None:
    Vault.create(folders.vault, KeyFile(folders.key_file)).close()
    for file in folders.vault.iterdir():
        file.write_bytes(b"not a database" * 100)
    assert check_keeper(folders)[0].standing == "bad"


def test_keyrings_are_for_information() -> None:
    reachable = check_keyring(KeyringName.KWALLET, problem=lambda name: None)
    assert "--keyring kwallet" in reachable.what
    missing = check_keyring(KeyringName.KWALLET, problem=lambda name: "no D-Bus")
    assert missing.standing == "ok"
    assert "not needed" in missing.what
    assert KeyringName.SECRET_SERVICE in keyrings_of_this_system()
