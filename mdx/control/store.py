"""Control's database: devices, join codes, tickets, and the certificates that were issued.

Rules of this file:
- SQLite, WAL, synchronous=FULL: what a committed transaction says survives a power cut.
- Everything happens inside `transaction()`, which holds SQLite's write lock from its first moment
  (BEGIN IMMEDIATE), so that several processes may share one database. An exception rolls back.
- What may happen once is one conditional UPDATE; whoever changes no row was too late.
- Of secrets (join codes, tickets) there is nothing here but a hash.
- Calls block: on fsync and on other writers. On trio they belong in a thread.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mdx.control.ca import Issued
from mdx.errors import MdxError

__all__ = ["Device", "JoinCodeEntry", "Store", "StoreFailed", "TicketBinding"]

APPLICATION_ID = 0x6D647863  # "mdxc"
SCHEMA_VERSION = 2
BUSY_SECONDS = 10.0
# How long what has expired is still told apart from what never was.
KEEP_SECONDS = 24 * 3600.0
SEEN_SECONDS = 60.0  # how exact "last seen" is: a busy device costs one more write a minute

_SCHEMA = """
CREATE TABLE devices (
    id TEXT PRIMARY KEY,
    enrolled_at REAL NOT NULL,
    revoked_at REAL,
    name TEXT NOT NULL DEFAULT '',
    tags TEXT NOT NULL DEFAULT '{}',
    join_code TEXT NOT NULL DEFAULT '',
    seen_at REAL,
    left INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE join_codes (
    hash BLOB PRIMARY KEY,
    uses_left INTEGER NOT NULL,
    expires_at REAL NOT NULL,
    name TEXT NOT NULL DEFAULT '',
    is_key INTEGER NOT NULL DEFAULT 0,
    tags TEXT NOT NULL DEFAULT '{}',
    uses INTEGER NOT NULL DEFAULT 1,
    created_at REAL NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE tickets (
    hash BLOB PRIMARY KEY,
    device TEXT NOT NULL REFERENCES devices (id),
    app TEXT NOT NULL,
    key_hash TEXT NOT NULL,
    gateway TEXT NOT NULL,
    expires_at REAL NOT NULL,
    redeemed_at REAL
) STRICT;
CREATE INDEX tickets_by_device ON tickets (device, expires_at);
CREATE INDEX tickets_by_end ON tickets (expires_at);
CREATE TABLE certificates (
    serial TEXT PRIMARY KEY,
    identity TEXT NOT NULL,
    key_hash TEXT NOT NULL,
    issued_at REAL NOT NULL,
    not_after REAL NOT NULL
) STRICT;
CREATE INDEX certificates_by_end ON certificates (not_after);
"""
# From version 1, which knew neither names nor keys.
_UPGRADE = """
ALTER TABLE devices ADD COLUMN name TEXT NOT NULL DEFAULT '';
ALTER TABLE devices ADD COLUMN tags TEXT NOT NULL DEFAULT '{}';
ALTER TABLE devices ADD COLUMN join_code TEXT NOT NULL DEFAULT '';
ALTER TABLE devices ADD COLUMN seen_at REAL;
ALTER TABLE devices ADD COLUMN left INTEGER NOT NULL DEFAULT 0;
ALTER TABLE join_codes ADD COLUMN name TEXT NOT NULL DEFAULT '';
ALTER TABLE join_codes ADD COLUMN is_key INTEGER NOT NULL DEFAULT 0;
ALTER TABLE join_codes ADD COLUMN tags TEXT NOT NULL DEFAULT '{}';
ALTER TABLE join_codes ADD COLUMN uses INTEGER NOT NULL DEFAULT 1;
ALTER TABLE join_codes ADD COLUMN created_at REAL NOT NULL DEFAULT 0;
UPDATE join_codes SET uses = uses_left
"""

_COLUMNS = (
    "SELECT hash, name, is_key, tags, uses, uses_left, created_at, expires_at FROM join_codes"
)
_JOIN_CODES = {
    "living": f"{_COLUMNS} WHERE expires_at > ? ORDER BY created_at, hash",
    "by hash": f"{_COLUMNS} WHERE hash = ?",
}


class StoreFailed(MdxError):
    """The database could not be read or written; nothing of the transaction happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """An enrolled device. Times are in Unix seconds.

    `join_code` is the id of the code by which it came. `left` says that it revoked itself.
    """

    id: str
    enrolled_at: float
    revoked_at: float | None
    name: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    join_code: str = ""
    seen_at: float | None = None
    left: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinCodeEntry:
    """A join code without its secret. `name` is for the device, or of the pre-authorised key."""

    hash: bytes = field(repr=False)
    name: str
    is_key: bool
    tags: Mapping[str, str]
    uses: int
    uses_left: int
    created_at: float
    expires_at: float

    @property
    def id(self) -> str:
        """What the audit and the administrator call it."""
        return self.hash.hex()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketBinding:
    """What a ticket is good for, all of it."""

    device: str
    app: str
    key_hash: str = field(repr=False)
    gateway: str


class Store:
    """The database at `path`, made (0600) when it is not there yet. Thread-safe.

    Raises: StoreFailed when the file is another program's, or a newer version's.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            os.close(os.open(path, flags, 0o600))
        except OSError as error:
            raise StoreFailed(f"{path}: {error.strerror}", exit_code=78) from None
        self._database = sqlite3.connect(
            path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(path)
        except sqlite3.Error as error:
            self._database.close()
            raise StoreFailed(f"{path}: {error}") from None
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        """Close the database; the object is of no more use."""
        with self._lock:
            self._database.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it happens, or nothing. Raises: StoreFailed."""
        with self._lock:
            try:
                self._database.execute("BEGIN IMMEDIATE")
                try:
                    yield
                    self._database.execute("COMMIT")
                except BaseException:
                    if self._database.in_transaction:
                        self._database.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise StoreFailed(f"control's database: {error}") from None

    # The rest is called inside a transaction.

    def add_device(
        self,
        device: str,
        now: float,
        *,
        name: str = "",
        tags: Mapping[str, str] | None = None,
        join_code: str = "",
    ) -> None:
        self._database.execute(
            "INSERT INTO devices (id, enrolled_at, name, tags, join_code, seen_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (device, now, name, json.dumps(dict(tags or {})), join_code, now),
        )

    def devices(self) -> list[Device]:
        rows = self._database.execute(
            "SELECT id, enrolled_at, revoked_at, name, tags, join_code, seen_at, left FROM devices"
            " ORDER BY enrolled_at, id"
        )
        return [
            Device(
                id=row[0],
                enrolled_at=row[1],
                revoked_at=row[2],
                name=row[3],
                tags=json.loads(row[4]),
                join_code=row[5],
                seen_at=row[6],
                left=bool(row[7]),
            )
            for row in rows
        ]

    def see_device(self, device: str, now: float) -> None:
        """Note that it asked for something."""
        self._database.execute(
            "UPDATE devices SET seen_at = ? WHERE id = ? AND (seen_at IS NULL OR seen_at < ?)",
            (now, device, now - SEEN_SECONDS),
        )

    def revoked_since(self, at: float) -> list[str]:
        """The devices that were revoked at that time or later."""
        rows = self._database.execute(
            "SELECT id FROM devices WHERE revoked_at >= ? ORDER BY revoked_at, id", (at,)
        )
        return [row[0] for row in rows]

    def is_in_good_standing(self, device: str) -> bool:
        """Whether the device is known and not revoked."""
        found = self._database.execute(
            "SELECT 1 FROM devices WHERE id = ? AND revoked_at IS NULL", (device,)
        )
        return found.fetchone() is not None

    def revoke_device(self, device: str, now: float, *, left: bool = False) -> bool:
        """False when there is no such device, or it is revoked already."""
        changed = self._database.execute(
            "UPDATE devices SET revoked_at = ?, left = ? WHERE id = ? AND revoked_at IS NULL",
            (now, int(left), device),
        )
        return changed.rowcount == 1

    def add_join_code(
        self,
        hash_: bytes,
        *,
        uses: int,
        expires_at: float,
        now: float,
        name: str = "",
        is_key: bool = False,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self._database.execute("DELETE FROM join_codes WHERE expires_at <= ?", (now,))
        self._database.execute(
            "INSERT INTO join_codes"
            " (hash, uses_left, expires_at, name, is_key, tags, uses, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (hash_, uses, expires_at, name, int(is_key), json.dumps(dict(tags or {})), uses, now),
        )

    def join_codes(self, now: float) -> list[JoinCodeEntry]:
        """Those that have not expired; used up ones, too."""
        return self._join_codes("living", (now,))

    def join_code(self, hash_: bytes) -> JoinCodeEntry | None:
        """The code of this hash, be it good or not."""
        found = self._join_codes("by hash", (hash_,))
        return found[0] if found else None

    def remove_join_code(self, id_: str, now: float) -> bool:
        """False when no code that has not expired has this id."""
        found = [entry.hash for entry in self.join_codes(now) if entry.id == id_]
        self._database.executemany("DELETE FROM join_codes WHERE hash = ?", [(h,) for h in found])
        return bool(found)

    def _join_codes(self, which: str, values: tuple[object, ...]) -> list[JoinCodeEntry]:
        rows = self._database.execute(_JOIN_CODES[which], values)
        return [
            JoinCodeEntry(
                hash=row[0],
                name=row[1],
                is_key=bool(row[2]),
                tags=json.loads(row[3]),
                uses=row[4],
                uses_left=row[5],
                created_at=row[6],
                expires_at=row[7],
            )
            for row in rows
        ]

    def use_join_code(self, hash_: bytes, now: float) -> bool:
        """Take one use of the code; False when it is unknown, used up or expired."""
        changed = self._database.execute(
            "UPDATE join_codes SET uses_left = uses_left - 1"
            " WHERE hash = ? AND uses_left > 0 AND expires_at > ?",
            (hash_, now),
        )
        return changed.rowcount == 1

    def add_certificate(self, issued: Issued, identity: str, now: float) -> None:
        self._database.execute("DELETE FROM certificates WHERE not_after <= ?", (now,))
        self._database.execute(
            "INSERT INTO certificates (serial, identity, key_hash, issued_at, not_after)"
            " VALUES (?, ?, ?, ?, ?)",
            (issued.serial, identity, issued.key_hash, now, issued.not_after),
        )

    def add_ticket(
        self, hash_: bytes, bound: TicketBinding, *, expires_at: float, now: float
    ) -> None:
        self._database.execute("DELETE FROM tickets WHERE expires_at <= ?", (now - KEEP_SECONDS,))
        self._database.execute(
            "INSERT INTO tickets (hash, device, app, key_hash, gateway, expires_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (hash_, bound.device, bound.app, bound.key_hash, bound.gateway, expires_at),
        )

    def living_tickets(self, device: str, now: float) -> int:
        """How many tickets of the device could still be redeemed."""
        found = self._database.execute(
            "SELECT count(*) FROM tickets"
            " WHERE device = ? AND expires_at > ? AND redeemed_at IS NULL",
            (device, now),
        )
        return int(found.fetchone()[0])

    def redeem_ticket(self, hash_: bytes, bound: TicketBinding, now: float) -> bool:
        """Redeem the ticket, in one statement; False when any condition is not met."""
        changed = self._database.execute(
            "UPDATE tickets SET redeemed_at = :now"
            " WHERE hash = :hash AND redeemed_at IS NULL AND expires_at > :now"
            " AND device = :device AND app = :app AND key_hash = :key_hash AND gateway = :gateway"
            " AND EXISTS (SELECT 1 FROM devices WHERE id = :device AND revoked_at IS NULL)",
            {
                "now": now,
                "hash": hash_,
                "device": bound.device,
                "app": bound.app,
                "key_hash": bound.key_hash,
                "gateway": bound.gateway,
            },
        )
        return changed.rowcount == 1

    def explain_ticket(self, hash_: bytes, bound: TicketBinding, now: float) -> str:
        """For the audit alone: why a ticket was not redeemed."""
        row = self._database.execute(
            "SELECT device, app, key_hash, gateway, expires_at, redeemed_at FROM tickets"
            " WHERE hash = ?",
            (hash_,),
        ).fetchone()
        if row is None:
            return "unknown ticket"
        device, app, key_hash, gateway, expires_at, redeemed_at = row
        for reason, holds in (
            ("bound to another device", device != bound.device),
            ("bound to another app", app != bound.app),
            ("bound to another key", key_hash != bound.key_hash),
            ("bound to another gateway", gateway != bound.gateway),
            ("redeemed before", redeemed_at is not None),
            ("expired", expires_at <= now),
        ):
            if holds:
                return reason
        return "its device is revoked"

    def _prepare(self, path: Path) -> None:
        database = self._database
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA foreign_keys = ON")
        database.execute("PRAGMA secure_delete = ON")
        with self.transaction():
            application = database.execute("PRAGMA application_id").fetchone()[0]
            version = database.execute("PRAGMA user_version").fetchone()[0]
            empty = not database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if (application, version) == (APPLICATION_ID, SCHEMA_VERSION):
                return
            if (application, version) == (APPLICATION_ID, 1):
                statements = _UPGRADE
            elif empty and (application, version) == (0, 0):
                statements = _SCHEMA
            else:
                raise StoreFailed(
                    f"{path} is not a control database of version {SCHEMA_VERSION} or older",
                    hint="it belongs to another program, or to a newer mdx",
                    exit_code=78,
                )
            for statement in statements.split(";"):
                database.execute(statement)
            database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
