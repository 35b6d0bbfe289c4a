"""The state row: read at each transaction, written with each write, never an older one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vault.errors import OpenFailed, RolledBack
from vault.keys import Key
from vault.leases import Ended, grant
from vault.sealed_state import SEEN_LAG_SECONDS, SealedState, first_state
from vault.state import State
from vault.store import Header, Store

ROOT = Key(id="root", secret=bytes(range(32)))
VAULT = b"V" * 16
SCOPE = "app:a"

Open = Callable[[], SealedState]


@pytest.fixture
def store(folder: Path, clock: Any) -> Iterator[Store]:
    folder.mkdir(mode=0o700)
    generation, sealed = first_state(ROOT, VAULT, clock())
    assert generation == 1
    header = Header(vault_id=VAULT, keeper="caller", parameters=b"", wrapped_root=b"wrapped")
    Store.create(folder, header, sealed)
    with contextlib.closing(Store.open_(folder)) as opened:
        yield opened


@pytest.fixture
def told() -> list[State]:
    """Each state that was told as changed."""
    return []


@pytest.fixture
def open_state(store: Store, clock: Any, told: list[State]) -> Open:
    """As another process would have it, on the same store."""
    return lambda: SealedState(store, ROOT, VAULT, clock=clock, changed=told.append)


def unlock(state: SealedState, seconds: float) -> None:
    with state.changing() as change:
        before = change.state.leases.get(SCOPE)
        change.put_lease(grant(before, SCOPE, change.state.seen, seconds))


def ended(state: SealedState) -> Ended | None:
    with state.reading() as found:
        return found.leases[SCOPE].ended


def test_each_write_is_a_generation_and_reads_are_none(open_state: Open) -> None:
    one, other = open_state(), open_state()
    with one.changing() as change:
        change.put_tree(SCOPE, b"r" * 32)
    for _ in range(3):
        with other.reading() as state:
            assert (state.generation, state.trees) == (2, {SCOPE: b"r" * 32})
    assert one.generation == other.generation == 2


def test_a_change_that_breaks_off_leaves_nothing(open_state: Open, told: list[State]) -> None:
    state = open_state()
    with state.reading():
        told.clear()

    def break_off() -> None:
        with state.changing() as change:
            change.put_tree(SCOPE, b"r" * 32)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    assert state.generation == 1
    assert told == []
    with state.reading() as found:
        assert found.trees == {}


def test_changes_are_told_before_anybody_sees_them(open_state: Open, told: list[State]) -> None:
    one, other = open_state(), open_state()
    unlock(one, 10)
    told.clear()
    with other.reading() as state:
        assert [found.leases for found in told] == [state.leases]


def test_an_end_is_noticed_by_one_and_known_to_all(open_state: Open, clock: Any) -> None:
    one, other = open_state(), open_state()
    unlock(one, 10)
    assert one.seconds_to_next_end == 10
    clock.pass_(10)
    assert ended(one) is Ended.EXPIRED
    clock.set_back(1000)
    assert ended(other) is Ended.EXPIRED


def test_an_end_is_told_at_once_even_if_it_is_not_noted_yet(
    open_state: Open, clock: Any, told: list[State]
) -> None:
    state = open_state()
    unlock(state, 10)
    clock.pass_(10)
    with state.reading():
        assert told[-1].leases[SCOPE].ended is Ended.EXPIRED


def test_time_that_another_process_has_seen_is_not_lost(open_state: Open, clock: Any) -> None:
    one, other = open_state(), open_state()
    unlock(one, 100)
    clock.wall += 90  # set ahead
    with other.changing():
        pass
    clock.wall -= 90  # and back
    with one.reading() as state:
        seen = state.seen
    clock.pass_(9)
    assert ended(one) is None
    clock.pass_(1)
    assert ended(one) is Ended.EXPIRED
    with one.reading() as state:
        assert state.seen.wall == seen.wall + 10


def test_reads_alone_note_the_time_now_and_then(open_state: Open, clock: Any) -> None:
    state = open_state()
    for passed, generation in ((SEEN_LAG_SECONDS, 1), (1, 2), (1, 2)):
        clock.pass_(passed)
        with state.reading():
            pass
        assert state.generation == generation


def test_an_older_row_is_refused(open_state: Open, store: Store) -> None:
    state = open_state()
    with store.reading():
        old = store.state()
    unlock(state, 10)
    with store.writing():
        store.put_state(old)
    with pytest.raises(RolledBack):
        ended(state)


def test_another_row_of_the_same_generation_is_refused(
    open_state: Open, store: Store, clock: Any
) -> None:
    state = open_state()
    with state.reading():
        pass
    clock.pass_(1)
    with store.writing():
        store.put_state(first_state(ROOT, VAULT, clock())[1])
    with pytest.raises(RolledBack), state.reading():
        pass


def test_another_vaults_row_is_refused(open_state: Open, store: Store, clock: Any) -> None:
    for row in (first_state(ROOT, b"W" * 16, clock())[1], b"", b"no state"):
        with store.writing():
            store.put_state(row)
        with pytest.raises(OpenFailed), open_state().reading():
            pass
