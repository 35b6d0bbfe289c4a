"""The keys of one scope, epoch by epoch, and how they are wrapped at rest.

Each lease makes an epoch with a fresh random *app key*. At rest the newest epoch's key is wrapped
under a key derived from the root key; every older one that still seals a record is wrapped under
the newest app key. So newer opens older, and an older key opens nothing that was written since.

Beside the app key a scope has an *index key*, which turns names into record ids. It stays the same
from epoch to epoch (else no record would be found again) and opens nothing.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

from vault import labels
from vault.errors import OpenFailed
from vault.keys import KEY_BYTES, Key, derive_key, new_key
from vault.sealing import open_, seal

__all__ = [
    "ScopeKeys",
    "new_scope_keys",
    "record_id",
    "unwrap_newest",
    "unwrap_older",
    "wrap_newest",
    "wrap_older",
]

RECORD_ID_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeKeys:
    """What is in memory while a lease lives; `older` has the older app keys met so far."""

    scope: str
    epoch: int
    app: Key
    index: Key
    older: dict[int, Key] = field(default_factory=dict)


def new_scope_keys(scope: str, epoch: int, *, before: ScopeKeys | None) -> ScopeKeys:
    """A new epoch's app key, and the index key of the epoch before if there was one."""
    return ScopeKeys(
        scope=scope,
        epoch=epoch,
        app=new_key(_app_id(scope, epoch)),
        index=before.index if before else new_key(_index_id(scope)),
    )


def record_id(vault_id: bytes, keys: ScopeKeys, name: str) -> bytes:
    """The 16 bytes that stand for a record's name: HMAC-SHA-512, cut."""
    message = labels.record_id(vault_id, keys.scope, name)
    return hmac.digest(keys.index.secret, message, hashlib.sha512)[:RECORD_ID_BYTES]


def wrap_newest(vault_id: bytes, root: Key, keys: ScopeKeys) -> bytes:
    """App key and index key under the root key."""
    wrapping = _wrapping_key(vault_id, root, keys.scope, keys.epoch)
    context = labels.epoch_by_root(vault_id, keys.scope, keys.epoch)
    return seal(wrapping, context, keys.app.secret + keys.index.secret)


def unwrap_newest(vault_id: bytes, root: Key, scope: str, epoch: int, wrapped: bytes) -> ScopeKeys:
    """Raises: OpenFailed."""
    wrapping = _wrapping_key(vault_id, root, scope, epoch)
    both = open_(wrapping, labels.epoch_by_root(vault_id, scope, epoch), wrapped)
    if len(both) != 2 * KEY_BYTES:
        raise OpenFailed
    return ScopeKeys(
        scope=scope,
        epoch=epoch,
        app=Key(id=_app_id(scope, epoch), secret=both[:KEY_BYTES]),
        index=Key(id=_index_id(scope), secret=both[KEY_BYTES:]),
    )


def wrap_older(vault_id: bytes, keys: ScopeKeys, epoch: int, app: Key) -> bytes:
    """An older epoch's app key under the newest one."""
    return seal(
        keys.app, labels.epoch_by_epoch(vault_id, keys.scope, epoch, keys.epoch), app.secret
    )


def unwrap_older(vault_id: bytes, keys: ScopeKeys, epoch: int, wrapped: bytes) -> Key:
    """Raises: OpenFailed."""
    context = labels.epoch_by_epoch(vault_id, keys.scope, epoch, keys.epoch)
    secret = open_(keys.app, context, wrapped)
    if len(secret) != KEY_BYTES:
        raise OpenFailed
    return Key(id=_app_id(keys.scope, epoch), secret=secret)


def _wrapping_key(vault_id: bytes, root: Key, scope: str, epoch: int) -> Key:
    info = labels.wrapping_key(vault_id, scope, epoch, shared=False)
    return derive_key(f"wrapping {scope} epoch {epoch}", root.secret, salt=vault_id, info=info)


def _app_id(scope: str, epoch: int) -> str:
    return f"{scope} epoch {epoch}"


def _index_id(scope: str) -> str:
    return f"{scope} index"
