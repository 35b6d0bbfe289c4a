"""What a vault tells before it is opened, and that an odd header is refused in words."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from vault import BadStore, KeeperKind, Vault, keyring_name, vault_kind

Raw = Callable[[], AbstractContextManager[sqlite3.Connection]]


def write(raw: Raw, keeper: str, parameters: bytes) -> None:
    with raw() as connection:
        connection.execute("UPDATE header SET keeper = ?, parameters = ?", (keeper, parameters))


def test_the_kind_is_told_without_a_key(vault: Vault, folder: Path, raw: Raw) -> None:
    assert (vault_kind(folder), keyring_name(folder)) == (KeeperKind.KEY_FILE, None)
    write(raw, "keyring", b"kwallet")
    assert (vault_kind(folder), keyring_name(folder)) == (KeeperKind.KEYRING, "kwallet")


def test_an_odd_header_is_refused(vault: Vault, folder: Path, raw: Raw) -> None:
    write(raw, "keyring", b"\xff")
    with pytest.raises(BadStore):
        keyring_name(folder)
    write(raw, "unheard of", b"")
    for tell in (vault_kind, keyring_name):
        with pytest.raises(BadStore):
            tell(folder)


def test_nothing_is_told_where_there_is_no_vault(folder: Path) -> None:
    assert vault_kind(folder) is None
    assert keyring_name(folder) is None
    assert not folder.exists()
