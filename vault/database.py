"""The vault's file: one SQLite database that is ours to the letter, and how it fails.

Rules of this file
1. The folder must be ours alone (0700), and the files in it too (0600) and no links; since nobody
   else can write in such a folder, what was checked cannot be exchanged before SQLite opens it.
2. A file is believed to be a vault's only when its schema is ours to the letter: no trigger or view
   from elsewhere runs.
3. What leaves a function or a `Transaction` is an error of ours, never one of SQLite's.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from vault.errors import BadStore, NoSuchVault, StoreBusy, StoreFull, VaultError
from vault.private_files import (
    check_private_file,
    check_private_folder,
    create_private,
    publish_private,
)

__all__ = ["Transaction", "create_database", "damaged", "is_there", "open_database"]

FILE_NAME = "vault.db"
BESIDE = ("-wal", "-shm", "-journal")  # what SQLite may keep beside its file
APPLICATION_ID = 0x4D44_5876  # "MDXv", in the file's header at offset 68
FORMAT = 1  # user_version, at offset 60
BUSY_SECONDS = 10.0  # how long a writer waits for another process's transaction

SCHEMA = """
CREATE TABLE header (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  vault_id BLOB NOT NULL,
  keeper TEXT NOT NULL,
  parameters BLOB NOT NULL,
  wrapped_root BLOB NOT NULL
) STRICT;
CREATE TABLE state (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  sealed BLOB NOT NULL
) STRICT;
CREATE TABLE epochs (
  scope BLOB NOT NULL,
  epoch INTEGER NOT NULL,
  wrapped_by INTEGER NOT NULL,
  wrapped BLOB NOT NULL,
  PRIMARY KEY (scope, epoch)
) STRICT, WITHOUT ROWID;
CREATE TABLE records (
  number INTEGER PRIMARY KEY,
  scope BLOB NOT NULL,
  record BLOB NOT NULL,
  version INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  value_hash BLOB NOT NULL,
  meta BLOB NOT NULL,
  value BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX records_by_name ON records (scope, record);
CREATE INDEX records_by_epoch ON records (scope, epoch);
CREATE TABLE nodes (
  scope BLOB NOT NULL,
  path BLOB NOT NULL,
  node BLOB NOT NULL,
  PRIMARY KEY (scope, path)
) STRICT, WITHOUT ROWID;
"""

# No room, a quota or a file size limit. SQLite reports a limit (EFBIG, EDQUOT) as a failed write.
FULL_CODES = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR_WRITE,
        sqlite3.SQLITE_IOERR_SHMSIZE,
        sqlite3.SQLITE_IOERR_TRUNCATE,
    }
)
PRIMARY_CODE = 0xFF  # the part of an extended result code that names its class


def create_database(folder: Path, fill: Callable[[sqlite3.Connection], None]) -> None:
    """A new database with what `fill` writes; it appears in `folder` whole or not at all.

    Raises: AlreadyExists, LoosePermissions, StoreFull, BadStore.
    """
    path = folder / FILE_NAME
    draft = folder / f".{FILE_NAME}.{secrets.token_hex(8)}"
    try:
        create_private(draft, b"")
        with contextlib.closing(_connect(draft)) as connection, _translated():
            _prepare(connection)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
            connection.executescript(SCHEMA)
            fill(connection)
            connection.execute("PRAGMA journal_mode = WAL")
        publish_private(draft, path)
    except OSError as error:
        raise BadStore(f"cannot write {path}: {error.strerror}") from error
    finally:
        for left_over in (draft, *_beside(draft)):
            left_over.unlink(missing_ok=True)


def open_database(folder: Path) -> sqlite3.Connection:
    """The database in `folder`, checked; it is the caller who lets one thread in at a time.

    Raises: NoSuchVault, LoosePermissions, BadStore, StoreBusy.
    """
    path = folder / FILE_NAME
    try:
        check_private_folder(folder)
        check_private_file(path)
        for beside in _beside(path):
            with contextlib.suppress(FileNotFoundError):
                check_private_file(beside)
    except FileNotFoundError:
        raise NoSuchVault(f"there is no vault in {folder}") from None
    except OSError as error:
        raise BadStore(f"cannot open {path}: {error.strerror}") from error
    connection = _connect(path)
    try:
        with _translated():
            _prepare(connection)
            _check_format(connection, path)
    except VaultError:
        connection.close()
        raise
    return connection


def is_there(folder: Path) -> bool:
    """Whether something stands where a database would; nothing about it is checked."""
    path = folder / FILE_NAME
    return path.exists() or path.is_symlink()


class Transaction:
    """One transaction for each `with`: committed at its end, or leaves all as it was.

    A class and not a generator, because every `get` passes through it.
    """

    def __init__(self, connection: sqlite3.Connection, begin: str) -> None:
        self._connection = connection
        self._begin = begin

    def __enter__(self) -> None:
        try:
            self._connection.execute(self._begin)
        except sqlite3.Error as error:
            raise _translate(error) from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._connection.execute("COMMIT")
        except sqlite3.Error as failed:
            self._roll_back()
            raise _translate(failed) from failed
        if error is not None:
            self._roll_back()
            if isinstance(error, (sqlite3.Error, UnicodeDecodeError)):
                raise _translate(error) from error

    def _roll_back(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise _translate(error) from error


def _beside(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in BESIDE]


def _connect(path: Path) -> sqlite3.Connection:
    """A connection to a file that is there; it is the caller who lets one thread in at a time."""
    with _translated():
        return sqlite3.connect(
            f"file:{quote(str(path.absolute()))}?mode=rw",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("PRAGMA temp_store = MEMORY")  # nothing spills into another folder


def _check_format(connection: sqlite3.Connection, path: Path) -> None:
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application_id != APPLICATION_ID:
        raise BadStore(f"{path} is not a vault")
    if version != FORMAT:
        raise BadStore(
            f"{path} has format {version}, this version knows format {FORMAT}",
            hint="use the version of the program that made it",
        )
    if _schema(connection) != _our_schema():
        raise BadStore(f"{path} has tables that are not ours")
    (journal_mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if journal_mode != "wal":
        raise BadStore(f"{path} is not in the journal mode of a vault")


@cache
def _our_schema() -> frozenset[tuple[str, str, str]]:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SCHEMA)
        return _schema(connection)


def _schema(connection: sqlite3.Connection) -> frozenset[tuple[str, str, str]]:
    return frozenset(connection.execute("SELECT type, name, sql FROM sqlite_schema"))


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise _translate(error) from error


def _translate(error: sqlite3.Error | UnicodeDecodeError) -> VaultError:
    if isinstance(error, UnicodeDecodeError):  # SQLite quotes a damaged schema in its message
        return damaged()
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE)  # the extended one
    if code in FULL_CODES:
        return StoreFull(
            "no room to write the vault; what it held before is intact",
            hint="make room on the disk (or raise the quota), then try again",
        )
    if code & PRIMARY_CODE in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreBusy(
            "another process is writing to the vault and does not finish",
            hint="is one of our programs stopped? Then let it go on, or end it",
        )
    if code & PRIMARY_CODE in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return damaged()
    return BadStore(f"the store cannot be used: {error}")


def damaged() -> BadStore:
    """The error for a file that holds something else than it should."""
    return BadStore("the store is damaged, or not a vault", hint="put a backup back")
