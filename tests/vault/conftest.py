"""What the tests of the vault share: a clock to turn, vaults that cost no Argon2id, raw access."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from vault import Caller, Instant, KeyFile, Vault

SECRET = bytes(range(32))
START = 1_800_000_000.0


@dataclass
class Clock:
    """A clock that stands still until it is turned. Called, it says what `vault.now` would."""

    wall: float = START
    boot: float = 1000.0
    boot_id: str = "boot-1"

    def __call__(self) -> Instant:
        return Instant(wall=self.wall, boot=self.boot, boot_id=self.boot_id)

    def pass_(self, seconds: float) -> None:
        """Time passes as it should."""
        self.wall += seconds
        self.boot += seconds

    def set_back(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        self.wall -= seconds

    def reboot(self) -> None:
        self.boot, self.boot_id = 10.0, self.boot_id + "'"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "vault"


@pytest.fixture
def keeper(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "home.key")


@pytest.fixture
def caller() -> Caller:
    return Caller(SECRET)


@pytest.fixture
def vault(folder: Path, keeper: KeyFile, clock: Clock) -> Iterator[Vault]:
    """A new vault with a lease of 100 seconds for `app:payroll`."""
    with Vault.create(folder, keeper, clock=clock) as made:
        made.lease("app:payroll", lifetime_seconds=100)
        yield made


@pytest.fixture
def reopen(folder: Path, keeper: KeyFile, clock: Clock) -> Callable[[], Vault]:
    """Opens the vault of `folder` once more, as another process would."""
    return lambda: Vault.open_(folder, keeper, clock=clock)


@pytest.fixture
def raw(folder: Path) -> Callable[[], AbstractContextManager[sqlite3.Connection]]:
    """The store's tables as somebody with write access to the file has them."""

    @contextmanager
    def opened() -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(folder / "vault.db", isolation_level=None)
        try:
            yield connection
        finally:
            connection.close()

    return opened
