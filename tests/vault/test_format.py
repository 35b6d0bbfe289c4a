"""A second reader of the format, from docs/vault-format.md alone: none of the vault's modules."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import sqlite3
from pathlib import Path

from cryptography.cobblestone import Cobblestone256Decryptor
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vault import KeyFile, Kind, Vault


def encode(label: str, *fields: bytes | str | int) -> bytes:
    out = b""
    for field in ("mdx vault 1 " + label, *fields):
        if isinstance(field, int):
            field = field.to_bytes(8, "big")
        elif isinstance(field, str):
            field = field.encode()
        out += len(field).to_bytes(4, "big") + field
    return out


def unseal(key: bytes, context: bytes, sealed: bytes) -> bytes:
    opening = Cobblestone256Decryptor(key, context)
    return opening.update(sealed) + opening.finalize()


def sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


class Reader:
    def __init__(self, database: Path, key_file: Path) -> None:
        self.db = sqlite3.connect(database)
        self.id, kind, parameters, wrapped = self.db.execute(
            "SELECT vault_id, keeper, parameters, wrapped_root FROM header"
        ).fetchone()
        prefix, _, home = key_file.read_bytes().rstrip(b"\n").partition(b":")
        assert (prefix, kind, parameters) == (b"mdx-key-file-1", "keyfile", b"")
        home_secret = base64.urlsafe_b64decode(home + b"=")
        home_key = self.derive(home_secret, encode("home key", self.id, kind, parameters))
        wrap = encode("root key wrapped by home key", self.id, kind, parameters)
        self.root = unseal(home_key, wrap, wrapped)
        (sealed,) = self.db.execute("SELECT sealed FROM state").fetchone()
        state_key = self.derive(self.root, encode("state key", self.id))
        self.state = json.loads(unseal(state_key, encode("state", self.id), sealed))

    def derive(self, secret: bytes, info: bytes) -> bytes:
        return HKDF(algorithm=SHA512(), length=32, salt=self.id, info=info).derive(secret)

    def mac(self, key: bytes, message: bytes) -> bytes:
        return hmac.digest(key, message, hashlib.sha512)[:16]

    def noted(self, note: bytes) -> int:
        key = self.derive(self.root, encode("note key", self.id))
        context = encode("generation noted with the keeper", self.id)
        return int.from_bytes(unseal(key, context, note), "big")

    def app_keys(self, scope: str, tag: bytes) -> tuple[dict[int, bytes], bytes]:
        """The app key of every epoch, and the index key."""
        newest = self.state["leases"][scope]["epoch"]
        info = encode("epoch wrapping key", self.id, scope, newest, 0)
        rows = self.db.execute(
            "SELECT epoch, wrapped_by, wrapped FROM epochs WHERE scope = ?", (tag,)
        )
        wraps = {epoch: (by, wrapped) for epoch, by, wrapped in rows}
        context = encode("epoch keys wrapped by root", self.id, scope, newest)
        both = unseal(self.derive(self.root, info), context, wraps[newest][1])
        keys = {newest: both[:32]}
        for older in set(wraps) - {newest}:
            context = encode("older epoch key wrapped by newer", self.id, scope, older, newest)
            keys[older] = unseal(both[:32], context, wraps[older][1])
        return keys, both[32:]

    def records(self, scope: str) -> dict[str, tuple[str, bytes]]:
        """Kind and value by name; each checked against the scope's tree."""
        tag_key = self.derive(self.root, encode("scope tag key", self.id))
        tag = self.mac(tag_key, encode("scope tag", self.id, scope))
        keys, index = self.app_keys(scope, tag)
        leaves = self.leaves(scope, tag, b"", self.state["trees"][scope])
        rows = self.db.execute(
            "SELECT record, version, epoch, value_hash, meta, value FROM records WHERE scope = ?",
            (tag,),
        )
        found = {}
        for record, version, epoch, value_hash, meta, value in rows:
            fields = (record, version, epoch, sha256(meta), value_hash)
            assert leaves.pop(record) == sha256(encode("record leaf", self.id, scope, *fields))
            assert sha256(value) == value_hash
            context = encode("record meta", self.id, scope, record, version)
            info = json.loads(unseal(keys[epoch], context, meta))
            assert record == self.mac(index, encode("record id", self.id, scope, info["name"]))
            context = encode("record value", self.id, scope, record, version, info["kind"])
            found[info["name"]] = (info["kind"], unseal(keys[epoch], context, value))
        for epoch, by, wrapped in self.db.execute(
            "SELECT epoch, wrapped_by, wrapped FROM epochs WHERE scope = ?", (tag,)
        ):
            place = sha256(encode("epoch place", self.id, scope, epoch))[:16]
            leaf = encode("epoch leaf", self.id, scope, epoch, by, wrapped)
            assert leaves.pop(place) == sha256(leaf)
        assert leaves == {}
        return found

    def leaves(self, scope: str, tag: bytes, path: bytes, expected: str) -> dict[bytes, bytes]:
        query = "SELECT node FROM nodes WHERE scope = ? AND path = ?"
        (node,) = self.db.execute(query, (tag, path)).fetchone()
        assert sha256(encode("tree node", self.id, scope, node)).hex() == expected
        found: dict[bytes, bytes] = {}
        while node:
            if node[0] & 0x80:
                below = path + bytes([node[0] & 0x7F])
                found |= self.leaves(scope, tag, below, node[1:33].hex())
                node = node[33:]
            else:
                found[node[1:17]] = node[17:49]
                node = node[49:]
        return found


def test_a_second_reader_finds_the_same(folder: Path, keeper: KeyFile) -> None:
    values = {f"name {n}": b"value %d" % n for n in range(100)}
    with Vault.create(folder, keeper) as vault:
        vault.lease("app:ä", lifetime_seconds=60)
        for name, value in values.items():
            vault.put("app:ä", name, value, kind=Kind.TOKEN)
        vault.lease("app:ä", lifetime_seconds=60)
        vault.put("app:ä", "large", b"L" * 50_000)
        generation = vault.status().generation
    reader = Reader(folder / "vault.db", keeper.path)
    found = reader.records("app:ä")
    assert found.pop("large") == ("blob", b"L" * 50_000)
    assert found == {name: ("token", value) for name, value in values.items()}
    assert reader.state["generation"] == generation
    (note,) = keeper.path.parent.glob(f"{keeper.path.name}.{reader.id.hex()}.seen")
    assert 1 < reader.noted(note.read_bytes()) <= generation
    reader.db.close()
