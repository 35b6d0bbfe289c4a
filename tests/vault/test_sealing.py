"""Sealing: the published format, one opaque error, and all or nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from vault.errors import OpenFailed
from vault.keys import Key, new_key
from vault.sealing import OVERHEAD_BYTES, open_, seal

VECTORS = json.loads(
    (Path(__file__).parents[1] / "vectors/chunked-encryption/vectors.json").read_text()
)["vectors"]
KEY_SIZES = {"AEAD_AES_128_GCM": 16, "AEAD_AES_256_GCM": 32, "AEAD_CHACHA20_POLY1305": 32}
SALT, COMMITMENT, CHUNK, TAG = 24, 32, 16 * 1024, 16
KEY = Key(id="test", secret=bytes(range(32)))
SIZES = [1, 16 * 1024 - 1, 16 * 1024, 16 * 1024 + 1, 3 * 16 * 1024]


def reference_open(
    aead: str, hash_: HashAlgorithm, secret: bytes, context: bytes, sealed: bytes
) -> bytes:
    """https://c2sp.org/chunked-encryption, read straight from the specification."""
    size = KEY_SIZES[aead]
    if len(secret) != size or len(sealed) < SALT + COMMITMENT + TAG:
        raise ValueError("length")
    salt, commitment = sealed[:SALT], sealed[SALT : SALT + COMMITMENT]
    info = b"c2sp.org/chunked-encryption@v1+" + aead.encode() + b"\0" + salt + context
    derived = HKDFExpand(algorithm=hash_, length=size + 12 + 32, info=info).derive(secret)
    key, base_nonce, committed = derived[:size], derived[size : size + 12], derived[size + 12 :]
    if committed != commitment:
        raise ValueError("commitment")
    cipher = ChaCha20Poly1305(key) if aead == "AEAD_CHACHA20_POLY1305" else AESGCM(key)
    chunks = sealed[SALT + COMMITMENT :]
    plain = b""
    for number in range(len(chunks) // (CHUNK + TAG) + 1):
        chunk = chunks[number * (CHUNK + TAG) :][: CHUNK + TAG]
        nonce = int.from_bytes(base_nonce, "big") ^ number
        plain += cipher.decrypt(nonce.to_bytes(12, "big"), chunk, None)
    return plain


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_the_reference_reader_agrees_with_the_published_vectors(vector: dict[str, Any]) -> None:
    sealed = base64.b64decode(vector["ciphertext"] or "")
    if vector.get("compressed"):
        sealed = zlib.decompress(sealed)
    arguments = bytes.fromhex(vector["key"]), vector["context"].encode(), sealed
    if vector["expect"] == "success":
        plain = reference_open(vector["aead"], SHA256(), *arguments)
        assert hashlib.sha256(plain).hexdigest() == vector["payload_sha256"]
    else:
        with pytest.raises((ValueError, InvalidTag)):
            reference_open(vector["aead"], SHA256(), *arguments)


@pytest.mark.parametrize("size", SIZES)
def test_the_reference_reader_opens_what_we_seal(size: int) -> None:
    plain = b"p" * size
    sealed = seal(KEY, b"context", plain)
    assert len(sealed) == OVERHEAD_BYTES + size + TAG * (size // CHUNK)
    opened = reference_open("AEAD_AES_256_GCM", SHA512(), KEY.secret, b"context", sealed)
    assert opened == open_(KEY, b"context", sealed) == plain


def test_the_same_bytes_are_never_sealed_alike() -> None:
    assert seal(KEY, b"", b"p") != seal(KEY, b"", b"p")


@pytest.mark.parametrize("at", [0, 23, 24, 55, 56, 60, -1])
def test_a_flipped_bit_fails(at: int) -> None:
    sealed = bytearray(seal(KEY, b"context", b"plain text"))
    sealed[at] ^= 1
    with pytest.raises(OpenFailed):
        open_(KEY, b"context", bytes(sealed))


@pytest.mark.parametrize("size", SIZES)
def test_cut_or_lengthened_bytes_fail(size: int) -> None:
    sealed = seal(KEY, b"context", bytes(size))
    for changed in (sealed[:-1], sealed[:-TAG], sealed + b"x", sealed[: SALT + COMMITMENT], b""):
        with pytest.raises(OpenFailed):
            open_(KEY, b"context", changed)


def test_chunks_cannot_be_swapped() -> None:
    sealed = seal(KEY, b"", b"a" * CHUNK + b"b" * CHUNK)
    head, body, full = sealed[:56], sealed[56:], CHUNK + TAG
    with pytest.raises(OpenFailed):
        open_(KEY, b"", head + body[full : 2 * full] + body[:full] + body[2 * full :])


def test_another_key_or_context_fails_with_the_same_error() -> None:
    sealed = seal(KEY, b"context", b"plain")
    said = set()
    for key, context in ((new_key("other"), b"context"), (KEY, b"contexT"), (KEY, b"")):
        with pytest.raises(OpenFailed) as failed:
            open_(key, context, sealed)
        said.add((str(failed.value), failed.value.hint))
        assert failed.value.__cause__ is None
    assert len(said) == 1


@given(st.binary(max_size=200))
def test_bytes_from_anywhere_do_not_open(content: bytes) -> None:
    with pytest.raises(OpenFailed):
        open_(KEY, b"", content)
