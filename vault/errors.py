"""What can go wrong in a vault.

Each error is one line for a person, a `hint` (what to do next) and an `exit_code` for a command:
77 locked or refused, 78 configuration, 1 anything else. Callers tell errors apart by class,
never by text. No message holds a secret, and no message about sealed data says which check failed.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import ClassVar

__all__ = [
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
]


class VaultError(Exception):
    """Anything that the vault refuses or cannot do."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class OpenFailed(VaultError):
    """Sealed data did not open. Wrong key, cut, changed, moved: deliberately not told apart."""

    def __init__(self, *, hint: str = "") -> None:
        super().__init__(
            "sealed data did not open",
            hint=hint or "wrong key or passphrase, or the store was changed from outside",
        )


class Locked(VaultError):
    """The scope has no lease: it was locked (`by_user`), or nobody has unlocked it yet."""

    exit_code = 77

    def __init__(self, scope: str, *, by_user: bool) -> None:
        super().__init__(f"{scope} is locked", hint="sign in to unlock it")
        self.scope = scope
        self.by_user = by_user


class KeyExpired(VaultError):
    """The scope's lease ended at `expired_at` (Unix seconds); only a new lease brings it back."""

    exit_code = 77

    def __init__(self, scope: str, expired_at: float) -> None:
        at = datetime.fromtimestamp(expired_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        super().__init__(f"the key of {scope} expired at {at}", hint="sign in to unlock it")
        self.scope = scope
        self.expired_at = expired_at


class NoSuchRecord(VaultError):
    """The scope has no record of that name."""


class InvalidRecord(VaultError):
    """A name, value or expiry that a record cannot have."""


class InvalidScope(VaultError):
    """A scope that is not `app:NAME`, `group:NAME` or `none:NAME`."""


class RecordExpired(VaultError):
    """The record's own expiry has passed, so its value is not handed out."""


class RolledBack(VaultError):
    """The store is older than the keeper remembers: an old copy was put back."""

    exit_code = 77


class StoreFull(VaultError):
    """The store could not be written for want of room; what it held before is intact."""


class StoreBusy(VaultError):
    """Another process kept the store's write lock for too long."""


class BadStore(VaultError):
    """The file is not a vault, is damaged, or cannot be read or written."""

    exit_code = 78


class LoosePermissions(VaultError):
    """A file or folder that others could read or replace, that is not ours, or is a link."""

    exit_code = 78


class KeeperRefused(VaultError):
    """The place that keeps the root key is not available, not acceptable, or not the right one."""

    exit_code = 78


class AlreadyExists(VaultError):
    """There is something already where a vault or key file was to be made."""

    exit_code = 78


class NoSuchVault(VaultError):
    """There is no vault in that folder."""

    exit_code = 78


class VaultClosed(VaultError):
    """The vault object was closed; open the vault again."""
