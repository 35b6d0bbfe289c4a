"""The rows in the vault's database, as bytes that were sealed or hashed elsewhere.

Nothing here knows a key. That the rows are the right ones is for `vault.rows` and the sealed state
to say.

Rules of this file
1. Every statement runs inside `reading` or `writing`; there SQLite's errors become ours.
2. A write is one transaction: begun with the write lock held (so it never has to start over), and
   durable when it returns (WAL with synchronous=FULL). A failed one leaves what was there before.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from vault.database import Transaction, create_database, damaged, is_there, open_database
from vault.errors import BadStore

__all__ = ["EpochRow", "Header", "RecordRow", "Store"]

RECORD_TYPES = [bytes, int, int, bytes, bytes]

Types: TypeAlias = list[type]  # of a row's columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What is needed to ask a keeper for the home secret, in clear, and the wrapped root key."""

    vault_id: bytes
    keeper: str
    parameters: bytes
    wrapped_root: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRow:
    """An epoch's wrapped keys; `wrapped_by` is the newer epoch's number, 0 for the root key."""

    epoch: int
    wrapped_by: int
    wrapped: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordRow:
    """A record without its sealed value, of which it has the SHA-256."""

    record: bytes
    version: int
    epoch: int
    value_hash: bytes = field(repr=False)
    meta: bytes = field(repr=False)


class Store:
    """An open store. Not for two threads at a time; scopes are named by their tags."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._reading = Transaction(connection, "BEGIN")
        self._writing = Transaction(connection, "BEGIN IMMEDIATE")

    @classmethod
    def create(cls, folder: Path, header: Header, sealed_state: bytes) -> None:
        """A new store, which appears in `folder` whole or not at all.

        Raises: AlreadyExists, LoosePermissions, StoreFull, BadStore.
        """

        def fill(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO header VALUES (1, ?, ?, ?, ?)",
                (header.vault_id, header.keeper, header.parameters, header.wrapped_root),
            )
            connection.execute("INSERT INTO state VALUES (1, ?)", (sealed_state,))

        create_database(folder, fill)

    @classmethod
    def open_(cls, folder: Path) -> Store:
        """The store in `folder`.

        Raises: NoSuchVault, LoosePermissions, BadStore, StoreBusy.
        """
        return cls(open_database(folder))

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether something stands where a store would; nothing about it is checked."""
        return is_there(folder)

    def close(self) -> None:
        """What was written stays; the last process to close also empties the log."""
        self._connection.close()

    def reading(self) -> Transaction:
        """A transaction that sees one moment of the store.

        Raises: BadStore, StoreBusy.
        """
        return self._reading

    def writing(self) -> Transaction:
        """A transaction that is durable at its end, or leaves all as it was.

        Raises: StoreFull, StoreBusy, BadStore.
        """
        return self._writing

    # Header and state -----------------------------------------------------------------------

    def header(self) -> Header:
        """Raises: BadStore when there is none."""
        row = self._row(
            [bytes, str, bytes, bytes],
            "SELECT vault_id, keeper, parameters, wrapped_root FROM header",
        )
        if row is None:
            raise BadStore("the vault has no header")
        vault_id, keeper, parameters, wrapped_root = row
        return Header(
            vault_id=vault_id, keeper=keeper, parameters=parameters, wrapped_root=wrapped_root
        )

    def state(self) -> bytes:
        """The sealed state. Raises: BadStore when there is none."""
        row = self._row([bytes], "SELECT sealed FROM state")
        if row is None:
            raise BadStore("the vault has no state")
        sealed: bytes = row[0]
        return sealed

    def put_state(self, sealed: bytes) -> None:
        self._connection.execute("UPDATE state SET sealed = ?", (sealed,))

    # Epochs ---------------------------------------------------------------------------------

    def epoch(self, scope: bytes, epoch: int) -> EpochRow | None:
        row = self._row(
            [int, int, bytes],
            "SELECT epoch, wrapped_by, wrapped FROM epochs WHERE scope = ? AND epoch = ?",
            scope,
            epoch,
        )
        return row and EpochRow(epoch=row[0], wrapped_by=row[1], wrapped=row[2])

    def epochs(self, scope: bytes) -> list[int]:
        """The numbers of all epochs whose keys are kept, oldest first."""
        return self._numbers("SELECT epoch FROM epochs WHERE scope = ? ORDER BY epoch", scope)

    def epochs_in_use(self, scope: bytes) -> list[int]:
        """The numbers of those that seal at least one record, oldest first."""
        return self._numbers(
            "SELECT epoch FROM epochs WHERE scope = ? AND EXISTS (SELECT 1 FROM records"
            " WHERE records.scope = epochs.scope AND records.epoch = epochs.epoch) ORDER BY epoch",
            scope,
        )

    def put_epoch(self, scope: bytes, row: EpochRow) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO epochs VALUES (?, ?, ?, ?)",
            (scope, row.epoch, row.wrapped_by, row.wrapped),
        )

    def remove_epoch(self, scope: bytes, epoch: int) -> None:
        self._connection.execute("DELETE FROM epochs WHERE scope = ? AND epoch = ?", (scope, epoch))

    # Records --------------------------------------------------------------------------------

    def record(self, scope: bytes, record: bytes) -> tuple[RecordRow, bytes] | None:
        """A record's row and its sealed value."""
        row = self._row(
            [*RECORD_TYPES, bytes],
            "SELECT record, version, epoch, value_hash, meta, value FROM records"
            " WHERE scope = ? AND record = ?",
            scope,
            record,
        )
        return row and (_record_row(row), row[5])

    def records(self, scope: bytes) -> list[RecordRow]:
        """All of a scope's records, in order of their ids."""
        found = self._rows(
            RECORD_TYPES,
            "SELECT record, version, epoch, value_hash, meta FROM records"
            " WHERE scope = ? ORDER BY record",
            scope,
        )
        return [_record_row(row) for row in found]

    def records_before_epoch(self, scope: bytes, epoch: int, *, at_most: int) -> list[bytes]:
        """The ids of records sealed in older epochs, the oldest epochs first."""
        found = self._rows(
            [bytes],
            "SELECT record FROM records WHERE scope = ? AND epoch < ? ORDER BY epoch LIMIT ?",
            scope,
            epoch,
            at_most,
        )
        return [row[0] for row in found]

    def count_records(self) -> int:
        """How many records there are in all scopes."""
        (count,) = self._numbers("SELECT count(*) FROM records")
        return count

    def put_record(self, scope: bytes, row: RecordRow, value: bytes) -> None:
        self._connection.execute(
            "INSERT INTO records (scope, record, version, epoch, value_hash, meta, value)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (scope, record) DO UPDATE SET"
            " version = excluded.version, epoch = excluded.epoch,"
            " value_hash = excluded.value_hash, meta = excluded.meta, value = excluded.value",
            (scope, row.record, row.version, row.epoch, row.value_hash, row.meta, value),
        )

    def remove_record(self, scope: bytes, record: bytes) -> None:
        self._connection.execute(
            "DELETE FROM records WHERE scope = ? AND record = ?", (scope, record)
        )

    # Nodes of the scopes' trees -------------------------------------------------------------

    def node(self, scope: bytes, path: bytes) -> bytes | None:
        row = self._row([bytes], "SELECT node FROM nodes WHERE scope = ? AND path = ?", scope, path)
        return row[0] if row else None

    def put_node(self, scope: bytes, path: bytes, node: bytes) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO nodes VALUES (?, ?, ?)", (scope, path, node)
        )

    def remove_node(self, scope: bytes, path: bytes) -> None:
        self._connection.execute("DELETE FROM nodes WHERE scope = ? AND path = ?", (scope, path))

    def _numbers(self, statement: str, *values: bytes) -> list[int]:
        return [row[0] for row in self._rows([int], statement, *values)]

    def _row(self, types: Types, statement: str, *values: bytes | int) -> Any:
        row = self._connection.execute(statement, values).fetchone()
        return row and _checked(types, row)

    def _rows(self, types: Types, statement: str, *values: bytes | int) -> Iterator[Any]:
        for row in self._connection.execute(statement, values):
            yield _checked(types, row)


def _checked(types: Types, row: Any) -> Any:
    """The row, if a damaged file did not give something else than the column holds."""
    if [*map(type, row)] != types:
        raise damaged()
    return row


def _record_row(row: Any) -> RecordRow:
    return RecordRow(record=row[0], version=row[1], epoch=row[2], value_hash=row[3], meta=row[4])
