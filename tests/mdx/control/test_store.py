from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest

from mdx.control.store import Store, StoreFailed

NOW = 1_800_000_000.0


def test_it_is_made_private_durable_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    store = Store(path)
    with store.transaction():
        store.add_device("d1", NOW)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert store._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._database.execute("PRAGMA synchronous").fetchone() == (2,)
    store.close()
    again = Store(path)
    with again.transaction():
        assert [device.id for device in again.devices()] == ["d1"]
        assert again.is_in_good_standing("d1")
    again.close()


def test_a_transaction_happens_whole_or_not_at_all(tmp_path: Path) -> None:
    store = Store(tmp_path / "control.db")

    def add(*devices: str) -> None:
        with store.transaction():
            for device in devices:
                if not device:
                    raise RuntimeError("midway")
                store.add_device(device, NOW)

    with pytest.raises(RuntimeError, match="midway"):
        add("d1", "")
    with pytest.raises(StoreFailed):
        add("d1", "d1")
    with store.transaction():
        assert store.devices() == []
    add("d1")
    with store.transaction():
        assert [device.id for device in store.devices()] == ["d1"]
    store.close()


def test_a_join_code_is_counted_down_and_expires(tmp_path: Path) -> None:
    store = Store(tmp_path / "control.db")
    with store.transaction():
        store.add_join_code(b"h", uses=2, expires_at=NOW + 10, now=NOW)
        assert [store.use_join_code(b"h", NOW) for _ in range(3)] == [True, True, False]
        store.add_join_code(b"i", uses=1, expires_at=NOW + 10, now=NOW)
        assert not store.use_join_code(b"i", NOW + 10)
        assert store.use_join_code(b"i", NOW + 9)
        assert not store.use_join_code(b"j", NOW)
    store.close()


@pytest.mark.parametrize("statement", ["CREATE TABLE t (x)", "PRAGMA user_version = 2"])
def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "control.db"
    other = sqlite3.connect(path)
    other.execute(statement)
    other.commit()
    other.close()
    with pytest.raises(StoreFailed, match="not a control database"):
        Store(path)


def test_what_is_no_database_is_said(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    path.write_bytes(b"nothing like it" * 100)
    with pytest.raises(StoreFailed, match="not a database"):
        Store(path)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "control.db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreFailed):
        Store(tmp_path / "control.db")
    assert not (tmp_path / "elsewhere").exists()


def test_a_database_of_version_1_is_taken_along(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    old = sqlite3.connect(path)
    old.executescript(VERSION_1)
    old.execute("INSERT INTO devices VALUES ('d1', ?, NULL)", (NOW,))
    old.execute("INSERT INTO join_codes VALUES (X'6868', 3, ?)", (NOW + 10,))
    old.commit()
    old.close()
    for _ in range(2):  # the second time it is of this version
        store = Store(path)
        with store.transaction():
            (device,) = store.devices()
            (code,) = store.join_codes(NOW)
        store.close()
        assert (device.id, device.name, device.tags, device.seen_at) == ("d1", "", {}, None)
        assert (code.hash, code.uses, code.uses_left, code.is_key) == (b"hh", 3, 3, False)


# As the first release made it.
VERSION_1 = """
CREATE TABLE devices (id TEXT PRIMARY KEY, enrolled_at REAL NOT NULL, revoked_at REAL) STRICT;
CREATE TABLE join_codes (
    hash BLOB PRIMARY KEY, uses_left INTEGER NOT NULL, expires_at REAL NOT NULL
) STRICT;
PRAGMA application_id = 0x6D647863;
PRAGMA user_version = 1;
"""
