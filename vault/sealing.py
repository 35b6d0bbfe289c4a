"""Sealing and opening: Cobblestone-256, for records, wraps and state alike.

C2SP chunked-encryption (https://c2sp.org/chunked-encryption@v1) with SHA-512 and AES-256-GCM, as
`cryptography.cobblestone` has it: a fresh key per message from a random 24-byte salt, a 32-byte
commitment to key, salt and context, then 16 KiB chunks. Because it commits, no sealed bytes open
under two keys, so it wraps keys too.

`open_` gives all of the plaintext or none: nothing is released before the end was verified.
Whatever is wrong, the error is the same.
"""

from __future__ import annotations

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag

from vault.errors import OpenFailed
from vault.keys import Key

__all__ = ["OVERHEAD_BYTES", "open_", "seal"]

OVERHEAD_BYTES = 24 + 32 + 16  # salt, commitment and one tag; a tag more per whole 16 KiB


def seal(key: Key, context: bytes, plaintext: bytes) -> bytes:
    """`plaintext` sealed under `key`; opens only with the same key and `context`."""
    encryptor = Cobblestone256Encryptor(key.secret, context)
    return encryptor.update(plaintext) + encryptor.finalize()


def open_(key: Key, context: bytes, sealed: bytes) -> bytes:
    """The plaintext.

    Raises: OpenFailed for a wrong key or context, and for bytes cut, changed or added.
    """
    decryptor = Cobblestone256Decryptor(key.secret, context)
    try:
        held_back = decryptor.update(sealed)
        return held_back + decryptor.finalize()
    except InvalidTag:
        raise OpenFailed from None
