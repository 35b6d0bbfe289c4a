"""The root key: wrapped by the home key at rest, and what only its holder can note.

The home key is derived from the keeper's secret; keeper and parameters are bound into it and into
the wrap, so a header changed from outside opens nothing. The note is a sealed generation that lies
with the keeper, from which a store put back to an old copy is recognised.
"""

from __future__ import annotations

from vault import labels
from vault.errors import OpenFailed
from vault.keys import KEY_BYTES, Key, derive_key
from vault.sealing import open_, seal
from vault.store import Header

__all__ = ["open_note", "seal_note", "unwrap_root", "wrap_root"]

NOTE_BYTES = 8


def wrap_root(root: Key, secret: bytes, vault_id: bytes, kind: str, parameters: bytes) -> bytes:
    """The root key under the home key; `secret` is the keeper's."""
    home = _home_key(secret, vault_id, kind, parameters)
    return seal(home, labels.root_wrap(vault_id, kind, parameters), root.secret)


def unwrap_root(header: Header, secret: bytes) -> Key:
    """Raises: OpenFailed for another secret, or a header that was changed."""
    home = _home_key(secret, header.vault_id, header.keeper, header.parameters)
    context = labels.root_wrap(header.vault_id, header.keeper, header.parameters)
    opened = open_(home, context, header.wrapped_root)
    if len(opened) != KEY_BYTES:
        raise OpenFailed
    return Key(id="root", secret=opened)


def seal_note(root: Key, vault_id: bytes, generation: int) -> bytes:
    """The note to leave with the keeper."""
    plain = generation.to_bytes(NOTE_BYTES, "big")
    return seal(_note_key(root, vault_id), labels.generation_note(vault_id), plain)


def open_note(root: Key, vault_id: bytes, note: bytes | None) -> int | None:
    """The generation noted last; None when there is no note that we made."""
    if note is None:
        return None
    try:
        opened = open_(_note_key(root, vault_id), labels.generation_note(vault_id), note)
    except OpenFailed:
        return None
    return int.from_bytes(opened, "big")


def _home_key(secret: bytes, vault_id: bytes, kind: str, parameters: bytes) -> Key:
    info = labels.home_key(vault_id, kind, parameters)
    return derive_key("home", secret, salt=vault_id, info=info)


def _note_key(root: Key, vault_id: bytes) -> Key:
    return derive_key("note", root.secret, salt=vault_id, info=labels.note_key(vault_id))
