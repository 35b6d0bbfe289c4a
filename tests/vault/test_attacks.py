"""What somebody with the disk, an old copy or an old key can do: nothing that goes unnoticed.

The attacker writes to the store with tools of his own (`raw`), knows this code, and in some tests
has the keys of a past lease. He has neither the root key nor the keeper.
"""
# ruff: noqa: S608 — table and column names put into statements are this file's own

from __future__ import annotations

import itertools
import json
import os
import shutil
import sqlite3
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import pytest

from vault import (
    BadStore,
    Caller,
    KeyExpired,
    KeyFile,
    Locked,
    OpenFailed,
    Passphrase,
    RolledBack,
    Vault,
    VaultError,
    labels,
    vault_kind,
)
from vault.epochs import ScopeKeys
from vault.keys import Key
from vault.sealing import open_, seal

Raw = Callable[[], AbstractContextManager[sqlite3.Connection]]
Reopen = Callable[[], Vault]
Row = tuple[Any, ...]

SCOPE = "app:payroll"
COLUMNS = "scope, record, version, epoch, value_hash, meta, value"


def rows(raw: Raw, table: str = "records", columns: str = COLUMNS) -> list[Row]:
    with raw() as connection:
        return list(connection.execute(f"SELECT {columns} FROM {table} ORDER BY rowid"))


def run(raw: Raw, statement: str, *values: object) -> None:
    with raw() as connection:
        assert connection.execute(statement, values).rowcount > 0


def assert_refused(vault: Vault, name: str, scope: str = SCOPE) -> None:
    with pytest.raises(OpenFailed):
        vault.get(scope, name)
    with pytest.raises(OpenFailed):
        vault.list_(scope)


@pytest.fixture
def kept(vault: Vault) -> Vault:
    vault.put(SCOPE, "a", b"value of a")
    vault.put(SCOPE, "b", b"value of b")
    return vault


# Rows -------------------------------------------------------------------------------------------


def test_two_records_swapped(kept: Vault, raw: Raw) -> None:
    (_, a, *_), (_, b, *_) = rows(raw)
    for old, new in ((a, b"temporary......."), (b, a), (b"temporary.......", b)):
        run(raw, "UPDATE records SET record = ? WHERE record = ?", new, old)
    assert_refused(kept, "a")
    assert_refused(kept, "b")


@pytest.mark.parametrize("column", ["version", "epoch"])
@pytest.mark.parametrize("value", [0, 1, 2, 999, -1, 2**63 - 1])
def test_a_record_given_another_version_or_epoch(
    kept: Vault, raw: Raw, column: str, value: int
) -> None:
    if value != rows(raw, columns=column)[0][0]:
        run(raw, f"UPDATE records SET {column} = ? WHERE number = 1", value)
        assert_refused(kept, "a")


@pytest.mark.parametrize("columns", [("value",), ("meta",), ("value", "value_hash")])
def test_one_records_sealed_bytes_in_another(
    kept: Vault, raw: Raw, columns: tuple[str, ...]
) -> None:
    for column in columns:
        other = rows(raw, columns=column)[1][0]
        run(raw, f"UPDATE records SET {column} = ? WHERE number = 1", other)
    with pytest.raises(OpenFailed):
        kept.get(SCOPE, "a")
    assert kept.get(SCOPE, "b").value == b"value of b"


def test_a_record_moved_to_another_scope(kept: Vault, raw: Raw) -> None:
    kept.lease("app:thief", lifetime_seconds=50)
    kept.put("app:thief", "a", b"bait")
    (mine, *_), _, (theirs, record, *_) = rows(raw)
    run(raw, "DELETE FROM records WHERE scope = ?", theirs)
    run(raw, "UPDATE records SET scope = ?, record = ? WHERE number = 1", theirs, record)
    assert_refused(kept, "a", "app:thief")
    assert_refused(kept, "a")
    assert mine != theirs


def test_a_record_of_another_vault(
    kept: Vault, raw: Raw, tmp_path: Path, keeper: KeyFile, clock: Any
) -> None:
    with Vault.create(tmp_path / "other", keeper, clock=clock) as other:
        other.lease(SCOPE, lifetime_seconds=50)
        other.put(SCOPE, "a", b"planted")
    theirs = sqlite3.connect(tmp_path / "other" / "vault.db")
    (planted,) = theirs.execute("SELECT version, epoch, value_hash, meta, value FROM records")
    theirs.close()
    with raw() as connection:
        connection.execute(
            "UPDATE records SET version = ?, epoch = ?, value_hash = ?, meta = ?, value = ?"
            " WHERE number = 1",
            planted,
        )
    assert_refused(kept, "a")


@pytest.mark.parametrize("column", ["value", "meta", "value_hash", "record"])
@pytest.mark.parametrize("change", ["cut", "flipped", "emptied", "lengthened"])
def test_a_records_bytes_changed(kept: Vault, raw: Raw, column: str, change: str) -> None:
    old: bytes = rows(raw, columns=column)[0][0]
    new = {
        "cut": old[:-1],
        "flipped": old[:-1] + bytes([old[-1] ^ 1]),
        "emptied": b"",
        "lengthened": old + b"\0",
    }[change]
    run(raw, f"UPDATE records SET {column} = ? WHERE number = 1", new)
    with pytest.raises(OpenFailed):
        kept.get(SCOPE, "a")
    assert kept.get(SCOPE, "b").value == b"value of b"


@pytest.mark.parametrize("column", ["value", "meta", "value_hash", "record"])
def test_a_records_bytes_changed_after_it_was_read(kept: Vault, raw: Raw, column: str) -> None:
    assert kept.get(SCOPE, "a").value == b"value of a"
    assert len(kept.list_(SCOPE)) == 2
    run(raw, f"UPDATE records SET {column} = zeroblob(length({column})) WHERE number = 1")
    with pytest.raises(OpenFailed):
        kept.get(SCOPE, "a")
    assert kept.get(SCOPE, "b").value == b"value of b"


def test_a_row_read_before_does_not_stand_for_another(kept: Vault, raw: Raw) -> None:
    kept.get(SCOPE, "a")
    kept.get(SCOPE, "b")
    (meta, _), (_, other) = rows(raw, columns="meta, number")
    run(raw, "UPDATE records SET meta = ? WHERE number = ?", meta, other)
    with pytest.raises(OpenFailed):
        kept.get(SCOPE, "b")


def test_one_record_put_back_to_an_older_version(kept: Vault, raw: Raw, reopen: Reopen) -> None:
    (old, _) = rows(raw)
    kept.put(SCOPE, "a", b"the password was changed")
    with raw() as connection:
        connection.execute("DELETE FROM records WHERE number = 1")
        connection.execute(f"INSERT INTO records ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", old)
    assert_refused(kept, "a")
    with reopen() as again:
        assert_refused(again, "a")
        assert again.get(SCOPE, "b").value == b"value of b"


def test_a_removed_record_put_back(kept: Vault, raw: Raw) -> None:
    (old, _) = rows(raw)
    kept.remove(SCOPE, "a")
    with raw() as connection:
        connection.execute(f"INSERT INTO records ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", old)
    assert_refused(kept, "a")


def test_a_record_taken_away(kept: Vault, raw: Raw) -> None:
    run(raw, "DELETE FROM records WHERE number = 1")
    assert_refused(kept, "a")


def test_a_scopes_whole_tree_put_back_with_its_records(kept: Vault, raw: Raw) -> None:
    tables = {"records": COLUMNS, "nodes": "scope, path, node"}
    with raw() as connection:
        old = {
            table: list(connection.execute(f"SELECT {columns} FROM {table}"))
            for table, columns in tables.items()
        }
    kept.put(SCOPE, "a", b"the password was changed")
    with raw() as connection:
        for table, columns in tables.items():
            marks = ", ".join("?" for _ in columns.split(", "))
            connection.execute(f"DELETE FROM {table}")
            connection.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", old[table])
    assert_refused(kept, "a")


def test_nodes_taken_away_or_changed(kept: Vault, raw: Raw, reopen: Reopen) -> None:
    run(raw, "UPDATE nodes SET node = CAST(node || x'00' AS BLOB) WHERE path = x''")
    with reopen() as again:
        assert_refused(again, "a")
        with pytest.raises(OpenFailed):
            again.put(SCOPE, "a", b"v")
    run(raw, "DELETE FROM nodes")
    with reopen() as again:
        assert_refused(again, "a")


def test_an_epochs_keys_changed_swapped_or_put_back(kept: Vault, raw: Raw, reopen: Reopen) -> None:
    old = rows_of_epochs(raw)
    kept.lease(SCOPE, lifetime_seconds=50)
    kept.put(SCOPE, "a", b"written since")
    for change in (
        "UPDATE epochs SET wrapped = ? WHERE wrapped_by = 0",
        "UPDATE epochs SET wrapped = ?, wrapped_by = 0",
    ):
        run(raw, change, old[0][3])
        with reopen() as again:
            assert_refused(again, "a")
    run(raw, "DELETE FROM epochs")
    with reopen() as again:
        assert_refused(again, "a")
        with pytest.raises(OpenFailed):
            again.lease(SCOPE, lifetime_seconds=50)


def rows_of_epochs(raw: Raw) -> list[Row]:
    with raw() as connection:
        return list(connection.execute("SELECT scope, epoch, wrapped_by, wrapped FROM epochs"))


# The state and the whole store ------------------------------------------------------------------


def sealed_state(raw: Raw) -> bytes:
    state: bytes = rows(raw, "state", "sealed")[0][0]
    return state


def test_the_state_row_put_back(kept: Vault, raw: Raw, reopen: Reopen) -> None:
    old = sealed_state(raw)
    kept.lock(SCOPE)
    run(raw, "UPDATE state SET sealed = ?", old)
    with pytest.raises(RolledBack):
        kept.get(SCOPE, "a")
    with pytest.raises(RolledBack):
        reopen()


@pytest.mark.parametrize("change", [b"", b"\0" * 100])
def test_the_state_row_changed(kept: Vault, raw: Raw, reopen: Reopen, change: bytes) -> None:
    run(raw, "UPDATE state SET sealed = ?", change)
    with pytest.raises(OpenFailed):
        kept.get(SCOPE, "a")
    with pytest.raises(OpenFailed):
        kept.status()
    with pytest.raises(OpenFailed):
        reopen()


def test_a_state_or_header_taken_away(kept: Vault, raw: Raw, reopen: Reopen) -> None:
    run(raw, "DELETE FROM state")
    with pytest.raises(BadStore):
        reopen()
    run(raw, "DELETE FROM header")
    with pytest.raises(BadStore):
        reopen()


def test_the_whole_store_put_back(
    vault: Vault, folder: Path, keeper: KeyFile, clock: Any, tmp_path: Path
) -> None:
    vault.put(SCOPE, "a", b"old")
    vault.close()
    shutil.copytree(folder, tmp_path / "copy")
    with Vault.open_(folder, keeper, clock=clock) as again:
        again.put(SCOPE, "a", b"new")
        again.lock(SCOPE)
    shutil.rmtree(folder)
    (tmp_path / "copy").rename(folder)
    with pytest.raises(RolledBack) as refused:
        Vault.open_(folder, keeper, clock=clock)
    assert refused.value.hint

    with Vault.open_(folder, keeper, clock=clock, accept_rollback=True) as restored:
        with pytest.raises(Locked):  # a lease does not come back to life from a backup
            restored.get(SCOPE, "a")
        restored.lease(SCOPE, lifetime_seconds=10)
        assert restored.get(SCOPE, "a").value == b"old"
    Vault.open_(folder, keeper, clock=clock).close()  # accepted once, not for ever


def test_the_keys_of_a_lease_that_a_backup_undid_are_not_planted_in_the_one_after(
    vault: Vault, folder: Path, keeper: KeyFile, clock: Any, tmp_path: Path, raw: Raw
) -> None:
    vault.close()
    shutil.copytree(folder, tmp_path / "copy")
    with Vault.open_(folder, keeper, clock=clock) as again:
        again.lease(SCOPE, lifetime_seconds=50)  # epoch 2, whose keys the attacker takes
        ((_, _, _, taken),) = rows_of_epochs(raw)
    shutil.rmtree(folder)
    (tmp_path / "copy").rename(folder)
    with Vault.open_(folder, keeper, clock=clock, accept_rollback=True) as restored:
        assert restored.lease(SCOPE, lifetime_seconds=50).epoch == 2
    run(raw, "UPDATE epochs SET wrapped = ? WHERE epoch = 2", taken)
    with Vault.open_(folder, keeper, clock=clock) as again, pytest.raises(OpenFailed):
        again.put(SCOPE, "a", b"for the attacker")


@pytest.mark.parametrize("content", [None, b"", b"\0" * 80])
def test_without_its_note_a_vault_may_be_an_old_copy(
    vault: Vault, keeper: KeyFile, reopen: Reopen, content: bytes | None
) -> None:
    (note,) = keeper.path.parent.glob("*.seen")
    if content is None:
        note.unlink()
    else:
        note.write_bytes(content)
    with pytest.raises(RolledBack):
        reopen()


def test_a_header_changed(kept: Vault, raw: Raw, folder: Path, keeper: KeyFile) -> None:
    for change in ("wrapped_root = zeroblob(104)", "vault_id = zeroblob(16)"):
        run(raw, f"UPDATE header SET {change}")
        with pytest.raises(VaultError) as refused:
            Vault.open_(folder, keeper)
        assert isinstance(refused.value, OpenFailed)
    run(raw, "UPDATE header SET parameters = x'7b7d'")
    with pytest.raises(BadStore):
        Vault.open_(folder, keeper)
    run(raw, "UPDATE header SET keeper = 'unheard of'")
    with pytest.raises(BadStore):
        vault_kind(folder)


def test_a_keeper_exchanged_in_the_header(folder: Path, keeper: KeyFile, raw: Raw) -> None:
    Vault.create(folder, keeper).close()
    secret = keeper.fetch(b"", b"")
    run(raw, "UPDATE header SET keeper = 'caller'")
    with pytest.raises(OpenFailed):
        Vault.open_(folder, Caller(secret))


def test_argon2_costs_changed_in_the_header(folder: Path, raw: Raw) -> None:
    Vault.create(folder, Passphrase(b"correct horse")).close()
    good = json.loads(rows(raw, "header", "parameters")[0][0])
    for change in ({"memory_kib": 8}, {"memory_kib": 2**30}, {"passes": 1}, {"passes": 10**9}):
        run(raw, "UPDATE header SET parameters = ?", json.dumps(good | change).encode())
        with pytest.raises(BadStore):
            Vault.open_(folder, Passphrase(b"correct horse"))
    # Within the bounds it costs another second, and opens nothing: the wrap is bound to them.
    run(raw, "UPDATE header SET parameters = ?", json.dumps(good | {"passes": 4}).encode())
    with pytest.raises(OpenFailed):
        Vault.open_(folder, Passphrase(b"correct horse"))


def test_flipped_bits_anywhere_in_the_file_end_in_an_error_of_ours_or_change_nothing(
    kept: Vault, folder: Path, reopen: Reopen
) -> None:
    kept.close()
    path = folder / "vault.db"
    content = path.read_bytes()
    step = 7 if os.environ.get("MDX_SOAK") else 331
    refused = 0
    for at in itertools.chain(range(0, 100, 5), range(100, len(content), step)):
        changed = bytearray(content)
        changed[at] ^= 1 << at % 8
        path.write_bytes(changed)
        with suppress(FileNotFoundError):
            (folder / "vault.db-wal").unlink()
        try:
            with reopen() as again:
                assert again.get(SCOPE, "a").value == b"value of a"
                assert len(again.list_(SCOPE)) == 2
        except VaultError:
            refused += 1
    assert refused


# Old keys ---------------------------------------------------------------------------------------


def dumped(vault: Vault) -> ScopeKeys:
    """What a look into the memory of a living lease gives: its keys."""
    return vault._scopes._held[SCOPE].keys


def opens(raw: Raw, keys: ScopeKeys, known: list[Key]) -> list[str]:
    """The names of all records that these app keys open, wraps of other epochs included."""
    vault_id = rows(raw, "header", "vault_id")[0][0]
    have = list(known)
    found = []
    for _, epoch, by, wrapped in rows_of_epochs(raw):
        for key in list(have):
            for context in (
                labels.epoch_by_epoch(vault_id, SCOPE, epoch, by),
                labels.epoch_by_root(vault_id, SCOPE, epoch),
            ):
                with suppress(OpenFailed):
                    have.append(Key(id="won", secret=open_(key, context, wrapped)[:32]))
    for _, record, version, _, _, meta, _ in rows(raw):
        for key in have:
            with suppress(OpenFailed):
                context = labels.record_meta(vault_id, SCOPE, record, version)
                found.append(json.loads(open_(key, context, meta))["name"])
    return sorted(found)


def test_the_keys_of_a_past_lease_open_nothing_written_since(kept: Vault, raw: Raw) -> None:
    for n in range(100):
        kept.put(SCOPE, f"old {n:03}", b"v")
    old = dumped(kept)
    kept.lease(SCOPE, lifetime_seconds=50)
    kept.put(SCOPE, "new", b"v")
    kept.put(SCOPE, "a", b"changed")
    names = opens(raw, old, [old.app, old.index, *old.older.values()])
    assert names  # what was not moved yet, he could have read then
    assert {"new", "a"}.isdisjoint(names)
    now_held = dumped(kept)
    assert len(opens(raw, now_held, [now_held.app])) == 103  # the newest opens all


def test_the_keys_of_a_past_lease_forge_nothing(kept: Vault, raw: Raw, reopen: Reopen) -> None:
    for n in range(100):
        kept.put(SCOPE, f"old {n:03}", b"v")
    old = dumped(kept)
    kept.lease(SCOPE, lifetime_seconds=50)
    vault_id = rows(raw, "header", "vault_id")[0][0]
    (left,) = [row for row in rows(raw) if row[3] == 1][:1]
    _, record, version, _, _, meta, _ = left
    context = labels.record_meta(vault_id, SCOPE, record, version)
    name = json.loads(open_(old.app, context, meta))["name"]
    value_context = labels.record_value(vault_id, SCOPE, record, version, "blob")
    forged = seal(old.app, value_context, b"x")
    run(raw, "UPDATE records SET value = ? WHERE record = ?", forged, record)
    with reopen() as again:
        with pytest.raises(OpenFailed):
            again.get(SCOPE, name)
        again.lease(SCOPE, lifetime_seconds=50)  # and it is not laundered by moving on
        with pytest.raises(OpenFailed):
            again.get(SCOPE, name)


def test_a_damaged_old_record_does_not_keep_anybody_from_signing_in(kept: Vault, raw: Raw) -> None:
    run(raw, "UPDATE records SET value = x'00' WHERE number = 1")
    kept.lease(SCOPE, lifetime_seconds=50)
    kept.put(SCOPE, "c", b"v")
    assert kept.get(SCOPE, "b").value == b"value of b"
    with pytest.raises(OpenFailed):
        kept.get(SCOPE, "a")


# What is visible, and what is said --------------------------------------------------------------


def test_neither_names_nor_kinds_nor_scopes_nor_values_are_on_the_disk(
    vault: Vault, folder: Path
) -> None:
    vault.put(SCOPE, "remarkable name", b"remarkable value")
    on_disk = b"".join(path.read_bytes() for path in folder.iterdir())
    for word in (b"remarkable", b"payroll", b"blob", b"app:"):
        assert word not in on_disk


def test_no_secret_in_what_is_shown_or_said(
    kept: Vault, raw: Raw, clock: Any, keeper: KeyFile
) -> None:
    kept.put(SCOPE, "a", b"hunter2-hunter2")
    keys = dumped(kept)
    said = [repr(kept), repr(keys), repr(kept.get(SCOPE, "a")), repr(kept.status()), repr(keeper)]
    run(raw, "UPDATE records SET value = x'00' WHERE number = 1")
    clock_back = (lambda: kept.get(SCOPE, "a"), lambda: kept.put(SCOPE, "a\n", b"hunter2-hunter2"))
    for use in clock_back:
        with pytest.raises(VaultError) as error:
            use()
        said += [*traceback.format_exception(error.value), error.value.hint]
    clock.pass_(1000)
    with pytest.raises(KeyExpired) as expired:
        kept.put(SCOPE, "a", b"hunter2-hunter2")
    said += traceback.format_exception(expired.value)
    home = keeper.path.read_bytes()[15:40].decode()
    secrets = [key.secret for key in (keys.app, keys.index)]
    for text in said:
        assert not any(line.strip().startswith("hunter2") for line in text.splitlines())
        assert home not in text
        assert not any(repr(secret)[2:-1] in text or secret.hex() in text for secret in secrets)
