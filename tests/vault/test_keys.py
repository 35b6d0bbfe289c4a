"""Keys: their length, their silence, their derivation."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from vault.keys import Key, derive_key, new_key


def test_new_keys_differ_and_are_aes_256_keys() -> None:
    one, other = new_key("a"), new_key("a")
    assert one.secret != other.secret
    assert len(one.secret) == 32


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_another_length_is_no_key(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Key(id="a", secret=bytes(length))


def test_a_key_shows_its_id_only_and_compares_by_identity() -> None:
    key = Key(id="app:x epoch 3", secret=b"S" * 32)
    assert repr(key) == "Key(id='app:x epoch 3')"
    assert f"{key}" == repr(key)
    assert key != Key(id="app:x epoch 3", secret=b"S" * 32)


def test_derivation_is_hkdf_sha_512() -> None:
    extracted = hmac.digest(b"salt", b"m" * 32, hashlib.sha512)
    expanded = hmac.digest(extracted, b"info" + b"\x01", hashlib.sha512)[:32]
    assert derive_key("a", b"m" * 32, salt=b"salt", info=b"info").secret == expanded
