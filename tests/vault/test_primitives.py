"""What the vault stands on does what it should: Wycheproof's vectors through the same library."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

VECTORS = Path(__file__).parents[1] / "vectors" / "wycheproof"


def cases(name: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    document = json.loads((VECTORS / name).read_text())
    found = [(group, case) for group in document["testGroups"] for case in group["tests"]]
    assert len(found) == document["numberOfTests"]
    return found


def test_aes_gcm() -> None:
    opened = 0
    for group, case in cases("aes_gcm_test.json"):
        data = {
            name: bytes.fromhex(case[name]) for name in ("key", "iv", "aad", "msg", "ct", "tag")
        }
        if not 64 <= group["ivSize"] <= 1024:  # sizes that the library refuses, and we never use
            with pytest.raises(ValueError, match="Nonce"):
                AESGCM(data["key"]).decrypt(data["iv"], data["ct"], data["aad"])
        elif case["result"] == "valid":
            sealed = data["ct"] + data["tag"]
            aead = AESGCM(data["key"])
            assert aead.decrypt(data["iv"], sealed, data["aad"]) == data["msg"]
            assert aead.encrypt(data["iv"], data["msg"], data["aad"]) == sealed
            opened += 1
        else:
            with pytest.raises(InvalidTag):
                AESGCM(data["key"]).decrypt(data["iv"], data["ct"] + data["tag"], data["aad"])
    assert opened > 200


def test_hkdf_sha_512() -> None:
    for _, case in cases("hkdf_sha512_test.json"):
        material, salt, info = (bytes.fromhex(case[name]) for name in ("ikm", "salt", "info"))
        if case["result"] == "valid":
            kdf = HKDF(algorithm=SHA512(), length=case["size"], salt=salt, info=info)
            assert kdf.derive(material).hex() == case["okm"]
        else:
            with pytest.raises(ValueError, match="larger"):
                HKDF(algorithm=SHA512(), length=case["size"], salt=salt, info=info)


def test_hmac_sha_512() -> None:
    for group, case in cases("hmac_sha512_test.json"):
        key, message, tag = (bytes.fromhex(case[name]) for name in ("key", "msg", "tag"))
        made = hmac.digest(key, message, hashlib.sha512)[: group["tagSize"] // 8]
        assert (made == tag) == (case["result"] == "valid")
