"""Every derivation label and sealing context of the vault, and their one encoding.

Rules: a label names one use of one key and is never reused. An encoding is a sequence of byte
strings, each preceded by its length (4 bytes, big-endian), the label first; so two different
sequences never give the same bytes. Integers are 8 bytes, big-endian (two's complement; ours are
never negative, a tampered row's may be); text is UTF-8.
The vault id stands in every encoding, so nothing made for one vault means anything in another.

Changing anything here makes old vaults unreadable: `docs/vault-format.md` has the same table.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache

__all__ = [
    "epoch_by_epoch",
    "epoch_by_root",
    "epoch_leaf",
    "epoch_place",
    "generation_note",
    "home_key",
    "note_key",
    "record_id",
    "record_leaf",
    "record_meta",
    "record_value",
    "root_wrap",
    "scope_tag",
    "scope_tag_key",
    "state",
    "state_key",
    "tree_node",
    "wrapping_key",
]

PREFIX = "mdx vault 1 "
LENGTH_BYTES = 4
INTEGER_BYTES = 8
INTEGER_LENGTH = INTEGER_BYTES.to_bytes(LENGTH_BYTES, "big")


class Label(StrEnum):
    """One name per use. HKDF info, HMAC and hash input, sealing context: none share a label."""

    HOME_KEY = "home key"
    ROOT_WRAP = "root key wrapped by home key"
    STATE_KEY = "state key"
    STATE = "state"
    NOTE_KEY = "note key"
    NOTE = "generation noted with the keeper"
    SCOPE_TAG_KEY = "scope tag key"
    SCOPE_TAG = "scope tag"
    WRAPPING_KEY = "epoch wrapping key"
    EPOCH_BY_ROOT = "epoch keys wrapped by root"
    EPOCH_BY_EPOCH = "older epoch key wrapped by newer"
    RECORD_ID = "record id"
    RECORD_META = "record meta"
    RECORD_VALUE = "record value"
    RECORD_LEAF = "record leaf"
    EPOCH_PLACE = "epoch place"
    EPOCH_LEAF = "epoch leaf"
    TREE_NODE = "tree node"


def home_key(vault_id: bytes, kind: str, parameters: bytes) -> bytes:
    """HKDF info: the keeper's secret → the key that wraps the root key."""
    return _encode(Label.HOME_KEY, vault_id, kind, parameters)


def root_wrap(vault_id: bytes, kind: str, parameters: bytes) -> bytes:
    """Context of the wrapped root key; binds the keeper's kind and parameters."""
    return _encode(Label.ROOT_WRAP, vault_id, kind, parameters)


def state_key(vault_id: bytes) -> bytes:
    """HKDF info: root key → the key of the state row."""
    return _encode(Label.STATE_KEY, vault_id)


def state(vault_id: bytes) -> bytes:
    """Context of the state row."""
    return _encode(Label.STATE, vault_id)


def note_key(vault_id: bytes) -> bytes:
    """HKDF info: root key → the key of the note that the keeper holds."""
    return _encode(Label.NOTE_KEY, vault_id)


def generation_note(vault_id: bytes) -> bytes:
    """Context of the note that the keeper holds."""
    return _encode(Label.NOTE, vault_id)


def scope_tag_key(vault_id: bytes) -> bytes:
    """HKDF info: root key → the HMAC key of scope tags."""
    return _encode(Label.SCOPE_TAG_KEY, vault_id)


def scope_tag(vault_id: bytes, scope: str) -> bytes:
    """HMAC input of a scope's tag."""
    return _encode(Label.SCOPE_TAG, vault_id, scope)


def wrapping_key(vault_id: bytes, scope: str, epoch: int, *, shared: bool) -> bytes:
    """HKDF info: root key ‖ server share → the key that wraps a scope's newest epoch keys."""
    return _encode(Label.WRAPPING_KEY, vault_id, scope, epoch, int(shared))


def epoch_by_root(vault_id: bytes, scope: str, epoch: int) -> bytes:
    """Context of the newest epoch's keys."""
    return _encode(Label.EPOCH_BY_ROOT, vault_id, scope, epoch)


def epoch_by_epoch(vault_id: bytes, scope: str, older: int, newer: int) -> bytes:
    """Context of an older epoch's key under the newest epoch's key."""
    return _encode(Label.EPOCH_BY_EPOCH, vault_id, scope, older, newer)


def record_id(vault_id: bytes, scope: str, name: str) -> bytes:
    """HMAC input of a record's id, so the id stands for the name."""
    return _encode(Label.RECORD_ID, vault_id, scope, name)


def record_meta(vault_id: bytes, scope: str, record: bytes, version: int) -> bytes:
    """Context of a record's name, kind and times."""
    return _encode(Label.RECORD_META, vault_id, scope, record, version)


def record_value(vault_id: bytes, scope: str, record: bytes, version: int, kind: str) -> bytes:
    """Context of a record's value."""
    return _encode(Label.RECORD_VALUE, vault_id, scope, record, version, kind)


def record_leaf(
    vault_id: bytes,
    scope: str,
    record: bytes,
    version: int,
    epoch: int,
    meta_hash: bytes,
    value_hash: bytes,
) -> bytes:
    """Hash input: a record's row as the scope's tree has it; hashes are of the sealed bytes."""
    return _encode(
        Label.RECORD_LEAF, vault_id, scope, record, version, epoch, meta_hash, value_hash
    )


def epoch_place(vault_id: bytes, scope: str, epoch: int) -> bytes:
    """Hash input: where in the scope's tree an epoch's row stands."""
    return _encode(Label.EPOCH_PLACE, vault_id, scope, epoch)


def epoch_leaf(vault_id: bytes, scope: str, epoch: int, wrapped_by: int, wrapped: bytes) -> bytes:
    """Hash input: an epoch's row as the scope's tree has it; `wrapped_by` 0 is the root key."""
    return _encode(Label.EPOCH_LEAF, vault_id, scope, epoch, wrapped_by, wrapped)


def tree_node(vault_id: bytes, scope: str, node: bytes) -> bytes:
    """Hash input: one node of the scope's tree."""
    return _encode(Label.TREE_NODE, vault_id, scope, node)


def _encode(label: Label, vault_id: bytes, *fields: bytes | str | int) -> bytes:
    parts = [_begin(label, vault_id)]
    for field in fields:
        if isinstance(field, int):
            parts += (INTEGER_LENGTH, field.to_bytes(INTEGER_BYTES, "big", signed=True))
        else:
            part = field.encode() if isinstance(field, str) else field
            parts += (_length(len(part)), part)
    return b"".join(parts)


@lru_cache
def _begin(label: Label, vault_id: bytes) -> bytes:
    text = (PREFIX + label).encode()
    return b"".join((_length(len(text)), text, _length(len(vault_id)), vault_id))


@lru_cache  # few lengths are met, each very often
def _length(size_bytes: int) -> bytes:
    return size_bytes.to_bytes(LENGTH_BYTES, "big")
