"""The sealed state as transactions meet it: read first, brought up to this moment, written last.

Rules of this file
1. Every transaction reads the state row anew. One that is byte for byte the row met last needs no
   opening; any other must have a higher generation. (Asking SQLite for `data_version` instead was
   measured: it costs as much as reading the row, and knows less.)
2. Each write changes the state in the same transaction.
3. What is remembered follows the commit, never leads it.
4. An end that was noticed is written down at once, where there is room, and remembered anyway.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from vault import labels, leases
from vault.clock import Instant
from vault.errors import RolledBack, StoreBusy, StoreFull
from vault.keys import Key, derive_key
from vault.leases import Lease
from vault.sealing import open_, seal
from vault.state import State, decode_state, encode_state
from vault.store import Store

__all__ = ["Change", "SealedState", "first_state"]

# How far the stored highest time may lag behind while there are only reads.
SEEN_LAG_SECONDS = 60.0


@dataclass(slots=True)
class Change:
    """The state that a write transaction is about to leave behind."""

    state: State

    def put_lease(self, lease: Lease) -> None:
        self.state = replace(self.state, leases=self.state.leases | {lease.scope: lease})

    def put_tree(self, scope: str, root: bytes) -> None:
        self.state = replace(self.state, trees=self.state.trees | {scope: root})


def first_state(root: Key, vault_id: bytes, seen: Instant) -> tuple[int, bytes]:
    """The generation and the sealed state of a new vault."""
    state = State(generation=1, seen=seen)
    return state.generation, _seal(_state_key(root, vault_id), vault_id, state)


class SealedState:
    """The state row of an open store. Not for two threads at a time.

    `changed(state)` is called whenever the leases may have changed, before anybody sees the state.
    """

    def __init__(
        self,
        store: Store,
        root: Key,
        vault_id: bytes,
        *,
        clock: Callable[[], Instant],
        changed: Callable[[State], None],
    ) -> None:
        self._store = store
        self._vault_id = vault_id
        self._key = _state_key(root, vault_id)
        self._clock = clock
        self._changed = changed
        self._seen = clock()  # the highest time that this process knows of
        self._sealed: bytes | None = None  # as last read or written, with what it says
        self._state = State(generation=0, seen=self._seen)
        self._soonest_end = -math.inf
        self._unnoted = False  # whether time did something that the store does not say yet

    @property
    def generation(self) -> int:
        """As last read or written."""
        return self._state.generation

    @property
    def seconds_to_next_end(self) -> float:
        """From the last transaction to the end of the next lease; `inf` when none will end."""
        return self._soonest_end - self._seen.wall

    @contextlib.contextmanager
    def reading(self) -> Iterator[State]:
        """A transaction that only reads, with the state at this moment.

        Raises: OpenFailed, RolledBack, BadStore, StoreBusy.
        """
        try:
            with self._store.reading():
                yield self._current()
        finally:
            self._note_time()

    @contextlib.contextmanager
    def changing(self) -> Iterator[Change]:
        """A write transaction; at its end the state in the change is written too.

        Raises: OpenFailed, RolledBack, StoreFull, StoreBusy, BadStore.
        """
        try:
            with self._committing() as change:
                yield change
        finally:
            self._note_time()

    @contextlib.contextmanager
    def _committing(self) -> Iterator[Change]:
        with self._store.writing():
            state = self._current()
            change = Change(replace(state, generation=state.generation + 1))
            yield change
            sealed = _seal(self._key, self._vault_id, change.state)
            self._store.put_state(sealed)
        self._remember(sealed, change.state)
        self._unnoted = False

    def _current(self) -> State:
        """The state as it is in the store, brought up to this moment."""
        sealed = self._store.state()
        now = self._clock()
        if sealed == self._sealed:
            # Its highest time went into ours when it was remembered.
            seen = leases.advance(self._seen, now)
        else:
            state = decode_state(open_(self._key, labels.state(self._vault_id), sealed))
            if state.generation <= self._state.generation:
                raise RolledBack("the vault went back to an old copy while it was open")
            self._remember(sealed, state)
            seen = leases.later(state.seen, self._seen, now)
        self._seen = seen
        stored = self._state
        if seen.wall < self._soonest_end:
            self._unnoted = seen.wall - stored.seen.wall > SEEN_LAG_SECONDS
            return State(
                generation=stored.generation,
                seen=seen,
                leases=stored.leases,
                trees=stored.trees,
            )
        current = replace(stored, seen=seen, leases=leases.expire(stored.leases, seen))
        self._changed(current)
        self._unnoted = True
        return current

    def _remember(self, sealed: bytes, state: State) -> None:
        self._sealed, self._state = sealed, state
        self._soonest_end = leases.soonest_end(state.leases)
        self._changed(state)

    def _note_time(self) -> None:
        """Write down an end that was noticed, and now and then what time it is at least."""
        if self._unnoted:
            # When it cannot be written now, this process still knows; the next call tries again.
            with contextlib.suppress(StoreFull, StoreBusy), self._committing():
                self._unnoted = False


def _state_key(root: Key, vault_id: bytes) -> Key:
    return derive_key("state", root.secret, salt=vault_id, info=labels.state_key(vault_id))


def _seal(key: Key, vault_id: bytes, state: State) -> bytes:
    return seal(key, labels.state(vault_id), encode_state(state))
