"""The vault's records: reading and durable writing, in process."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

from cryptography.fernet import Fernet

from benchmarks.figures import OURS, TURNS, Figure, measure
from benchmarks.stage import Stage
from vault import Caller, Vault

__all__ = ["BENCHMARKS"]

SCOPE = "app:bench"
VALUE = b"a secret of usual size, say 40 bytes long"
GETS = 2000
PUTS = 100


def get(stage: Stage) -> Figure:
    """`vault.get` of one record, beside a Fernet value in an SQLite table."""
    with _both(stage) as (vault, peer):
        medians = measure(
            TURNS,
            {
                OURS: lambda: _per_second(GETS, lambda _: vault.get(SCOPE, "one")),
                "fernet": lambda: _per_second(GETS, lambda _: peer.get("one")),
            },
        )
    return Figure.of("vault.get", "one record, opened and checked", "1/s", "higher", medians)


def put(stage: Stage) -> Figure:
    """`vault.put`, durable when it returns, beside the same table with `synchronous = FULL`."""
    with _both(stage) as (vault, peer):
        medians = measure(
            TURNS,
            {
                OURS: lambda: _per_second(PUTS, lambda n: vault.put(SCOPE, f"r{n}", VALUE)),
                "fernet": lambda: _per_second(PUTS, lambda n: peer.put(f"r{n}", VALUE)),
            },
        )
    return Figure.of("vault.put", "one record, durable when it returns", "1/s", "higher", medians)


BENCHMARKS: Mapping[str, Callable[[Stage], Figure]] = {"vault.get": get, "vault.put": put}


@contextmanager
def _both(stage: Stage) -> Iterator[tuple[Vault, _FernetTable]]:
    with tempfile.TemporaryDirectory(dir=stage.folder) as folder:
        place = Path(folder)
        with Vault.create(place / "vault", Caller(bytes(range(32)))) as vault:
            vault.lease(SCOPE, lifetime_seconds=3600)
            vault.put(SCOPE, "one", VALUE)
            peer = _FernetTable(place / "fernet.db")
            peer.put("one", VALUE)
            try:
                yield vault, peer
            finally:
                peer.close()


class _FernetTable:
    """What one would write without a vault: no expiry, no binding of names, no rollback check."""

    def __init__(self, path: Path) -> None:
        self._fernet = Fernet(Fernet.generate_key())
        self._table = sqlite3.connect(path, isolation_level=None)
        self._table.execute("PRAGMA journal_mode = WAL")
        self._table.execute("PRAGMA synchronous = FULL")
        self._table.execute("CREATE TABLE record (name TEXT PRIMARY KEY, value BLOB)")

    def put(self, name: str, value: bytes) -> None:
        row = (name, self._fernet.encrypt(value))
        self._table.execute("INSERT OR REPLACE INTO record VALUES (?, ?)", row)

    def get(self, name: str) -> bytes:
        found = self._table.execute("SELECT value FROM record WHERE name = ?", (name,)).fetchone()
        return self._fernet.decrypt(found[0])

    def close(self) -> None:
        self._table.close()


def _per_second(count: int, once: Callable[[int], object]) -> float:
    begun = perf_counter()
    for number in range(count):
        once(number)
    return count / (perf_counter() - begun)
