"""The public face: these names, loaded when used, and no more."""

from __future__ import annotations

import subprocess
import sys

import pytest

import vault
from vault import errors

NAMES = {
    "Argon2Parameters",
    "Caller",
    "Ended",
    "Instant",
    "Keeper",
    "KeeperKind",
    "KeyFile",
    "Keyring",
    "KeyringName",
    "Kind",
    "Lease",
    "Passphrase",
    "Record",
    "RecordInfo",
    "Vault",
    "VaultStatus",
    "keyring_name",
    "keyring_problem",
    "now",
    "vault_kind",
}


def test_the_public_names() -> None:
    assert set(vault.__all__) == NAMES | set(errors.__all__)
    assert set(vault.__all__) <= set(dir(vault))


@pytest.mark.parametrize("name", vault.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(vault, name).__name__ == name


def test_another_name_is_not_there() -> None:
    with pytest.raises(AttributeError, match="Store"):
        vault.Store  # noqa: B018


def test_importing_the_vault_for_the_time_loads_neither_sqlite_nor_cryptography() -> None:
    code = "import sys, vault; vault.now(); print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = ran.stdout.split()
    assert "vault.clock" in loaded
    assert not {"sqlite3", "cryptography", "keyring", "vault.store"} & set(loaded)
