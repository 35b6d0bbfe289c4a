"""The store and its database: whole or not at all, ours alone, and its failures in words."""

from __future__ import annotations

import contextlib
import os
import resource
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from vault import database
from vault.errors import (
    AlreadyExists,
    BadStore,
    LoosePermissions,
    NoSuchVault,
    StoreBusy,
    StoreFull,
)
from vault.store import EpochRow, Header, RecordRow, Store

HEADER = Header(vault_id=b"V" * 16, keeper="caller", parameters=b"", wrapped_root=b"wrapped")
ROW = RecordRow(record=b"r" * 16, version=1, epoch=1, value_hash=b"h", meta=b"m")
TAG = b"t" * 16

Raw = Callable[[], AbstractContextManager[sqlite3.Connection]]


@pytest.fixture
def place(folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def store(place: Path) -> Iterator[Store]:
    Store.create(place, HEADER, b"state 1")
    with contextlib.closing(Store.open_(place)) as opened:
        yield opened


def read_all(place: Path) -> None:
    with contextlib.closing(Store.open_(place)) as store, store.reading():
        store.header()
        store.state()
        store.count_records()
        store.records(TAG)
        store.epochs(TAG)
        store.node(TAG, b"")


def put_much(store: Store) -> None:
    with store.writing():
        store.put_state(b"half done")
        store.put_record(TAG, ROW, bytes(256 * 1024))


def state_of(store: Store) -> bytes:
    with store.reading():
        return store.state()


def test_what_was_created_is_there_in_files_of_mode_0600(store: Store, place: Path) -> None:
    with store.writing():
        assert store.header() == HEADER
        store.put_state(b"state 2")
    names = {path.name: stat.S_IMODE(path.stat().st_mode) for path in place.iterdir()}
    assert names == {"vault.db": 0o600, "vault.db-wal": 0o600, "vault.db-shm": 0o600}


def test_the_promised_settings_are_in_force(store: Store) -> None:
    def pragma(name: str) -> object:
        return store._connection.execute(f"PRAGMA {name}").fetchone()[0]

    assert pragma("journal_mode") == "wal"
    assert pragma("synchronous") == 2  # FULL
    assert pragma("secure_delete") == 1
    assert pragma("trusted_schema") == 0
    assert pragma("application_id") == int.from_bytes(b"MDXv", "big")
    assert pragma("user_version") == 1


def test_a_second_store_does_not_replace_the_first(store: Store, place: Path) -> None:
    with pytest.raises(AlreadyExists):
        Store.create(place, HEADER, b"other state")
    assert state_of(store) == b"state 1"
    assert not [path for path in place.iterdir() if path.name.startswith(".")]


def test_a_store_that_could_not_be_made_leaves_nothing(place: Path) -> None:
    with limited(16 * 1024), pytest.raises(StoreFull):
        Store.create(place, HEADER, bytes(64 * 1024))
    assert list(place.iterdir()) == []


def test_where_there_is_none(folder: Path) -> None:
    with pytest.raises(NoSuchVault):
        Store.open_(folder)
    folder.mkdir(mode=0o700)
    with pytest.raises(NoSuchVault):
        Store.open_(folder)


def test_an_exception_inside_a_transaction_undoes_it(store: Store) -> None:
    def break_off() -> None:
        with store.writing():
            store.put_state(b"half done")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    assert state_of(store) == b"state 1"


def test_readers_see_one_moment_while_another_writes(store: Store, place: Path) -> None:
    with contextlib.closing(Store.open_(place)) as other:
        with store.reading():
            assert store.state() == b"state 1"
            with other.writing():
                other.put_state(b"state 2")
            assert store.state() == b"state 1"
        assert state_of(store) == b"state 2"


def test_one_writer_at_a_time(store: Store, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.01)
    with contextlib.closing(Store.open_(place)) as other, store.writing():
        with pytest.raises(StoreBusy), other.writing():
            pass
        assert state_of(other) == b"state 1"


@pytest.mark.parametrize("name", [".", "vault.db", "vault.db-wal", "vault.db-shm"])
def test_whatever_others_could_read_is_refused(store: Store, place: Path, name: str) -> None:
    with store.writing():
        store.put_state(b"state 2")
    (place / name).chmod(0o750 if name == "." else 0o640)
    with pytest.raises(LoosePermissions):
        Store.open_(place)


@pytest.mark.parametrize("name", ["vault.db", "vault.db-wal", "vault.db-shm", "vault.db-journal"])
def test_links_in_the_folder_are_refused(store: Store, place: Path, name: str) -> None:
    store.close()
    elsewhere = place.parent / "elsewhere"
    if name == "vault.db":
        (place / name).rename(elsewhere)
    (place / name).symlink_to(elsewhere)
    with pytest.raises(LoosePermissions, match="symbolic link"):
        Store.open_(place)


def test_a_folder_that_is_a_link_is_refused(store: Store, place: Path) -> None:
    link = place.parent / "link"
    link.symlink_to(place)
    with pytest.raises(LoosePermissions):
        Store.open_(link)


@pytest.mark.parametrize(
    "content", [b"", b"text", b"SQLite format 3\0" + bytes(84), os.urandom(8192)]
)
def test_a_file_that_is_no_store_is_refused(place: Path, content: bytes) -> None:
    (place / "vault.db").touch(mode=0o600)
    (place / "vault.db").write_bytes(content)
    with pytest.raises(BadStore):
        Store.open_(place)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("PRAGMA user_version = 2", "format 2"),
        ("PRAGMA application_id = 7", "not a vault"),
        ("PRAGMA journal_mode = DELETE", "journal mode"),
        ("CREATE TABLE more (x)", "not ours"),
        ("CREATE TRIGGER t BEFORE UPDATE ON state BEGIN SELECT RAISE(IGNORE); END", "not ours"),
        ("CREATE VIEW v AS SELECT * FROM records", "not ours"),
        ("DROP INDEX records_by_epoch", "not ours"),
    ],
)
def test_another_format_or_schema_is_refused(
    store: Store, raw: Raw, place: Path, statement: str, said: str
) -> None:
    store.close()
    with raw() as connection:
        connection.execute(statement)
    with pytest.raises(BadStore, match=said):
        Store.open_(place)


@pytest.mark.parametrize("kept", [0, 100, 4096, 5000, 20000])
def test_a_cut_file_is_refused(store: Store, place: Path, kept: int) -> None:
    store.close()
    os.truncate(place / "vault.db", kept)
    with pytest.raises(BadStore):
        read_all(place)


def test_a_schema_that_is_not_even_text_is_refused(store: Store, place: Path) -> None:
    store.close()
    content = (place / "vault.db").read_bytes()
    (place / "vault.db").write_bytes(content.replace(b"STRICT", b"\xc2TRICT"))
    with pytest.raises(BadStore, match="damaged"):
        Store.open_(place)


def test_rows_of_another_type_are_refused(
    place: Path, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    # STRICT tables keep every writer from it, but bits flipped in the file ask nobody.
    lenient = database.SCHEMA.replace("STRICT, ", "").replace(" STRICT", "")
    monkeypatch.setattr(database, "SCHEMA", lenient)
    monkeypatch.setattr(database, "_our_schema", database._our_schema.__wrapped__)
    Store.create(place, HEADER, b"state 1")
    with raw() as connection:
        connection.execute("UPDATE state SET sealed = 'text'")
    with contextlib.closing(Store.open_(place)) as store, pytest.raises(BadStore, match="damaged"):
        state_of(store)


def test_a_full_disk_is_said_so_and_leaves_what_was_there(store: Store, place: Path) -> None:
    with store.writing():
        store.put_record(TAG, ROW, b"old value")
    with limited(64 * 1024):
        with pytest.raises(StoreFull) as full:
            put_much(store)
        assert full.value.hint
        with store.reading():
            assert store.record(TAG, ROW.record) == (ROW, b"old value")
            assert store.state() == b"state 1"
    store.close()
    with contextlib.closing(Store.open_(place)) as again, again.writing():
        assert again.record(TAG, ROW.record) == (ROW, b"old value")
        again.put_record(TAG, ROW, bytes(256 * 1024))


def test_a_page_limit_is_a_full_disk(store: Store) -> None:
    store._connection.execute("PRAGMA max_page_count = 1")
    with pytest.raises(StoreFull), store.writing():
        store.put_record(TAG, ROW, bytes(64 * 1024))


def test_what_is_removed_is_overwritten(store: Store, place: Path) -> None:
    with store.writing():
        store.put_epoch(TAG, EpochRow(epoch=1, wrapped_by=0, wrapped=b"remarkable" * 8))
        store.put_record(TAG, ROW, b"unmistakable" * 500)
    with store.writing():
        store.remove_epoch(TAG, 1)
        store.remove_record(TAG, ROW.record)
    store.close()
    content = (place / "vault.db").read_bytes()
    assert b"remarkable" not in content
    assert b"unmistakable" not in content
    assert not (place / "vault.db-wal").exists()


def test_epochs_and_nodes_and_records_are_kept_apart_by_scope(store: Store) -> None:
    other = b"o" * 16
    row = EpochRow(epoch=2, wrapped_by=0, wrapped=b"w")
    with store.writing():
        store.put_epoch(TAG, row)
        store.put_epoch(TAG, EpochRow(epoch=1, wrapped_by=2, wrapped=b"w"))
        store.put_node(TAG, b"\1", b"node")
        store.put_record(TAG, ROW, b"value")
    with store.reading():
        assert (store.epoch(TAG, 2), store.epoch(TAG, 3), store.epoch(other, 2)) == (
            row,
            None,
            None,
        )
        assert (store.epochs(TAG), store.epochs_in_use(TAG), store.epochs(other)) == (
            [1, 2],
            [1],
            [],
        )
        assert (store.node(TAG, b"\1"), store.node(other, b"\1")) == (b"node", None)
        assert (store.records(TAG), store.records(other)) == ([ROW], [])
        assert store.records_before_epoch(TAG, 2, at_most=5) == [ROW.record]
        assert store.records_before_epoch(TAG, 1, at_most=5) == []
        assert store.count_records() == 1


@contextlib.contextmanager
def limited(size_bytes: int) -> Iterator[None]:
    """No file of this process grows beyond that: a full disk that needs no disk and no root."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
