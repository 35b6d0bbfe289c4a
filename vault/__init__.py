"""The vault: sealed records under app keys that expire, without trio and without a network.

The public names below are loaded on first use, so that a program that only asks what time it is
does not pay for SQLite and cryptography. Submodules import each other directly and never from here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vault.clock import Instant, now
    from vault.errors import (
        AlreadyExists,
        BadStore,
        InvalidRecord,
        InvalidScope,
        KeeperRefused,
        KeyExpired,
        Locked,
        LoosePermissions,
        NoSuchRecord,
        NoSuchVault,
        OpenFailed,
        RecordExpired,
        RolledBack,
        StoreBusy,
        StoreFull,
        VaultClosed,
        VaultError,
    )
    from vault.header import keyring_name, vault_kind
    from vault.keepers import Argon2Parameters, Caller, Keeper, KeeperKind, KeyFile, Passphrase
    from vault.keyring_keeper import Keyring, KeyringName, keyring_problem
    from vault.leases import Ended, Lease
    from vault.records import Kind, Record, RecordInfo
    from vault.vault import Vault, VaultStatus

__all__ = [
    "AlreadyExists",
    "Argon2Parameters",
    "BadStore",
    "Caller",
    "Ended",
    "Instant",
    "InvalidRecord",
    "InvalidScope",
    "Keeper",
    "KeeperKind",
    "KeeperRefused",
    "KeyExpired",
    "KeyFile",
    "Keyring",
    "KeyringName",
    "Kind",
    "Lease",
    "Locked",
    "LoosePermissions",
    "NoSuchRecord",
    "NoSuchVault",
    "OpenFailed",
    "Passphrase",
    "Record",
    "RecordExpired",
    "RecordInfo",
    "RolledBack",
    "StoreBusy",
    "StoreFull",
    "Vault",
    "VaultClosed",
    "VaultError",
    "VaultStatus",
    "keyring_name",
    "keyring_problem",
    "now",
    "vault_kind",
]

# Where each public name is defined.
_MODULES = {
    "vault.clock": ("Instant", "now"),
    "vault.errors": (
        "AlreadyExists",
        "BadStore",
        "InvalidRecord",
        "InvalidScope",
        "KeeperRefused",
        "KeyExpired",
        "Locked",
        "LoosePermissions",
        "NoSuchRecord",
        "NoSuchVault",
        "OpenFailed",
        "RecordExpired",
        "RolledBack",
        "StoreBusy",
        "StoreFull",
        "VaultClosed",
        "VaultError",
    ),
    "vault.header": ("keyring_name", "vault_kind"),
    "vault.keepers": (
        "Argon2Parameters",
        "Caller",
        "Keeper",
        "KeeperKind",
        "KeyFile",
        "Passphrase",
    ),
    "vault.keyring_keeper": ("Keyring", "KeyringName", "keyring_problem"),
    "vault.leases": ("Ended", "Lease"),
    "vault.records": ("Kind", "Record", "RecordInfo"),
    "vault.vault": ("Vault", "VaultStatus"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    """A public name, loaded from its module on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
