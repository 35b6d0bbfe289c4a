"""Keys in memory, and how one is derived from another.

A key shows its id only, compares by identity and is dropped as early as possible. Python cannot
promise that dropped memory is overwritten; the vault's promise is that it keeps no reference.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

__all__ = ["KEY_BYTES", "Key", "derive_key", "new_key"]

KEY_BYTES = 32  # AES-256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Key:
    """32 uniformly random bytes, or the output of a key derivation function."""

    id: str
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise ValueError(f"a key is {KEY_BYTES} bytes")


def new_key(key_id: str) -> Key:
    """A fresh key from the system's generator."""
    return Key(id=key_id, secret=secrets.token_bytes(KEY_BYTES))


def derive_key(key_id: str, material: bytes, *, salt: bytes, info: bytes) -> Key:
    """HKDF-SHA-512 (RFC 5869). `info` is one of `vault.labels`' encodings, never free text."""
    kdf = HKDF(algorithm=SHA512(), length=KEY_BYTES, salt=salt, info=info)
    return Key(id=key_id, secret=kdf.derive(material))
