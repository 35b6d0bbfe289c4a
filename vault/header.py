"""What a vault tells before it is opened: which keeper it needs."""

from __future__ import annotations

import contextlib
from pathlib import Path

from vault.errors import BadStore, NoSuchVault
from vault.keepers import KeeperKind
from vault.store import Header, Store

__all__ = ["keeper_kind", "keyring_name", "vault_kind"]


def vault_kind(folder: Path) -> KeeperKind | None:
    """Which keeper the vault in `folder` needs; None when there is no vault.

    Raises: LoosePermissions, BadStore, StoreBusy.
    """
    header = _read_header(folder)
    return keeper_kind(header) if header else None


def keyring_name(folder: Path) -> str | None:
    """Which keyring back end holds the vault's key (a `KeyringName`); None for other keepers.

    Raises: LoosePermissions, BadStore, StoreBusy.
    """
    header = _read_header(folder)
    if header is None or keeper_kind(header) is not KeeperKind.KEYRING:
        return None
    try:
        return header.parameters.decode("ascii")
    except UnicodeDecodeError:
        raise BadStore("the header names no keyring") from None


def keeper_kind(header: Header) -> KeeperKind:
    """The keeper that the header names. Raises: BadStore for one of a newer version."""
    try:
        return KeeperKind(header.keeper)
    except ValueError:
        raise BadStore(
            "the vault needs a keeper that this version does not know",
            hint="use the version of the program that made it",
        ) from None


def _read_header(folder: Path) -> Header | None:
    try:
        store = Store.open_(folder)
    except NoSuchVault:
        return None
    with contextlib.closing(store), store.reading():
        return store.header()
