"""The vault: scopes, leases, and records that only a living lease opens.

Theory of operation. The keeper's home secret gives (HKDF) the home key, which unwraps the root key;
an open vault holds that root key and what is derived from it. The root key opens the sealed state
and unwraps the newest epoch's keys of each scope, and those open the records. So whoever may open
the vault could, by the keys alone, open every scope: that a scope without a living lease stays
shut is this module's work, at each call, in every process that has the vault open.

Rules of this file
1. Each call is one transaction that first reads the state as it is now, brings it up to this moment
   (`vault.sealed_state`) and only then asks whether the scope has a living lease. Another process's
   lock or renewal counts from its commit on.
2. Each write puts the scope's tree into the state, in the same transaction.
3. What was promised is durable before a call returns. Keys in memory follow the commit, never lead.
4. One lock: any thread may call, one at a time is served.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from vault import leases
from vault.alarm import Alarm
from vault.clock import Instant, now
from vault.errors import (
    AlreadyExists,
    BadStore,
    KeyExpired,
    Locked,
    RolledBack,
    VaultClosed,
    VaultError,
)
from vault.header import keeper_kind
from vault.keepers import Keeper, KeeperKind
from vault.keys import Key, new_key
from vault.leases import Lease
from vault.private_files import make_private_folder
from vault.records import Kind, Record, RecordInfo, check_name, check_record, check_scope
from vault.root import open_note, seal_note, unwrap_root, wrap_root
from vault.scopes import OpenScope, Scopes
from vault.sealed_state import SealedState, first_state
from vault.state import State
from vault.store import Header, Store

__all__ = ["Vault", "VaultStatus"]

VAULT_ID_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultStatus:
    """What may be told about a vault. `leases` has each scope's last lease, living or ended.

    `seen_ahead_seconds` is how far the wall clock is behind the highest time that was ever seen;
    leases are counted from the latter.
    """

    folder: Path
    vault_id: str
    keeper: KeeperKind
    kept_by: str
    rollback_noticed: bool  # whether the keeper has a place to note the generation
    generation: int
    seen_ahead_seconds: float
    records: int
    leases: tuple[Lease, ...]


class Vault:
    """An open vault. Made by `Vault.create` and `Vault.open_`; close it, or use it in `with`.

    Every method raises VaultClosed after `close`, and BadStore, StoreBusy or OpenFailed when the
    store is damaged, kept busy or was changed from outside.
    """

    def __init__(
        self,
        *,
        folder: Path,
        store: Store,
        header: Header,
        root: Key,
        keeper: Keeper,
        clock: Callable[[], Instant],
    ) -> None:
        self._folder = folder
        self._store = store
        self._id = header.vault_id
        self._kind = keeper.kind
        self._kept_by = keeper.describe()
        # A keeper without a place for notes may hold a passphrase: no reason to keep that.
        self._notes = keeper if keeper.holds_notes else None
        self._clock = clock
        self._lock = threading.RLock()
        self._root = root
        self._scopes = Scopes(store, root, self._id)
        self._state: SealedState | None = SealedState(  # None once closed
            store, root, self._id, clock=clock, changed=self._scopes.drop_dead
        )
        self._alarm = Alarm(partial(_look, weakref.ref(self)))

    # Making, opening, closing ---------------------------------------------------------------

    @classmethod
    def create(cls, folder: Path, keeper: Keeper, *, clock: Callable[[], Instant] = now) -> Self:
        """A new vault in `folder`, which is made when it is not there; opened.

        Raises: AlreadyExists, LoosePermissions, KeeperRefused, StoreFull, BadStore.
        """
        make_private_folder(folder)
        if Store.exists(folder):
            raise AlreadyExists(f"there is a vault in {folder} already")
        vault_id = secrets.token_bytes(VAULT_ID_BYTES)
        secret, parameters = keeper.make(vault_id)
        root = new_key("root")
        header = Header(
            vault_id=vault_id,
            keeper=keeper.kind,
            parameters=parameters,
            wrapped_root=wrap_root(root, secret, vault_id, keeper.kind, parameters),
        )
        generation, sealed = first_state(root, vault_id, clock())
        # The note comes first: a vault whose keeper has no note of it is taken for an old copy.
        keeper.write_note(vault_id, seal_note(root, vault_id, generation))
        Store.create(folder, header, sealed)
        return cls(
            folder=folder,
            store=Store.open_(folder),
            header=header,
            root=root,
            keeper=keeper,
            clock=clock,
        )

    @classmethod
    def open_(
        cls,
        folder: Path,
        keeper: Keeper,
        *,
        clock: Callable[[], Instant] = now,
        accept_rollback: bool = False,
    ) -> Self:
        """The vault in `folder`. Leases that still live can be used.

        `accept_rollback` is for a backup put back on purpose; every scope is locked then.

        Raises: NoSuchVault, LoosePermissions, KeeperRefused, OpenFailed (the wrong secret),
        RolledBack, BadStore, StoreBusy.
        """
        store = Store.open_(folder)
        try:
            with store.reading():
                header = store.header()
            if keeper_kind(header) is not keeper.kind:
                raise BadStore(f"this vault needs a keeper of kind {header.keeper}")
            secret = keeper.fetch(header.vault_id, header.parameters)
            root = unwrap_root(header, secret)
            vault = cls(
                folder=folder, store=store, header=header, root=root, keeper=keeper, clock=clock
            )
            vault._check_generation(accept_rollback=accept_rollback)
        except BaseException:
            store.close()
            raise
        return vault

    def close(self) -> None:
        """Drop every key. Leases go on: who opens the vault again can use those that live."""
        with self._lock:
            if self._state is None:
                return
            self._state = None
            self._alarm.stop()
            del self._root, self._scopes
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Leases ---------------------------------------------------------------------------------

    def lease(self, scope: str, *, lifetime_seconds: float | None) -> Lease:
        """A new lease with a new app key, in place of the one before; None for no end.

        Raises: InvalidScope; ValueError for an impossible lifetime; StoreFull; KeeperRefused when
        the keeper did not take the note (the lease stands).
        """
        check_scope(scope)
        with self._lock:
            with self._open_state().changing() as change:
                before = change.state.leases.get(scope)
                lease = leases.grant(before, scope, change.state.seen, lifetime_seconds)
                opened = self._scopes.renew(change.state, lease)
                change.put_lease(lease)
                change.put_tree(scope, opened.rows.root)
            self._scopes.hold(opened)
            self._watch_ends()
            self._note_generation()
            return leases.told(lease, change.state.seen)

    def current_lease(self, scope: str) -> Lease | None:
        """The scope's living lease, None when it has none."""
        try:
            return self.require_lease(scope)
        except (Locked, KeyExpired):
            return None

    def require_lease(self, scope: str) -> Lease:
        """The scope's living lease.

        Raises: Locked, KeyExpired, InvalidScope.
        """
        check_scope(scope)
        with self._lock, self._open_state().reading() as state:
            return leases.told(leases.living(state.leases, scope), state.seen)

    def lock(self, scope: str) -> None:
        """End the scope's lease now, in every process; one that never had any is locked, too.

        Raises: InvalidScope; StoreFull; KeeperRefused when the keeper did not take the note (the
        scope is locked).
        """
        check_scope(scope)
        with self._lock:
            with self._open_state().changing() as change:
                before = change.state.leases.get(scope)
                if before is None:  # a lease to lock: it is made, and nobody gets to use it
                    before = leases.grant(None, scope, change.state.seen, None)
                    change.put_tree(scope, self._scopes.renew(change.state, before).rows.root)
                change.put_lease(leases.lock(before))
            self._note_generation()

    def lock_all(self) -> None:
        """End the lease of every scope that ever had one, as `lock`."""
        with self._lock:
            with self._open_state().changing() as change:
                for lease in change.state.leases.values():
                    change.put_lease(leases.lock(lease))
            self._note_generation()

    # Records --------------------------------------------------------------------------------

    def put(
        self,
        scope: str,
        name: str,
        value: bytes,
        *,
        kind: Kind = Kind.BLOB,
        expires_at: float | None = None,
    ) -> RecordInfo:
        """Keep `value` under `name`, in place of what was there; durable when this returns.

        Raises: Locked, KeyExpired, InvalidScope, InvalidRecord, StoreFull.
        """
        check_scope(scope)
        with self._lock, self._open_state().changing() as change:
            opened = self._opened(change.state, scope)
            check_record(name, value, expires_at, change.state.seen.wall)
            info = RecordInfo(
                scope=scope,
                name=name,
                kind=kind,
                version=change.state.generation,
                written_at=change.state.seen.wall,
                expires_at=expires_at,
                size_bytes=len(value),
            )
            opened.put(info, value)
            change.put_tree(scope, opened.rows.root)
        return info

    def get(self, scope: str, name: str) -> Record:
        """The record of that name.

        Raises: Locked, KeyExpired, NoSuchRecord, RecordExpired, InvalidScope, InvalidRecord.
        """
        check_scope(scope)
        check_name(name)
        with self._lock, self._open_state().reading() as state:
            return self._opened(state, scope).get(name, state.seen.wall)

    def list_(self, scope: str) -> list[RecordInfo]:
        """All records of the scope without their values, by name; expired ones too.

        Raises: Locked, KeyExpired, InvalidScope.
        """
        check_scope(scope)
        with self._lock, self._open_state().reading() as state:
            return self._opened(state, scope).list_()

    def remove(self, scope: str, name: str) -> None:
        """Forget the record of that name; durable when this returns.

        Raises: Locked, KeyExpired, NoSuchRecord, InvalidScope, InvalidRecord, StoreFull.
        """
        check_scope(scope)
        check_name(name)
        with self._lock, self._open_state().changing() as change:
            opened = self._opened(change.state, scope)
            opened.remove(name)
            change.put_tree(scope, opened.rows.root)

    def status(self) -> VaultStatus:
        """What may be told; needs no lease."""
        with self._lock, self._open_state().reading() as state:
            return VaultStatus(
                folder=self._folder,
                vault_id=self._id.hex(),
                keeper=self._kind,
                kept_by=self._kept_by,
                rollback_noticed=self._notes is not None,
                generation=state.generation,
                seen_ahead_seconds=max(0.0, state.seen.wall - self._clock().wall),
                records=self._store.count_records(),
                leases=tuple(
                    leases.told(lease, state.seen) for _, lease in sorted(state.leases.items())
                ),
            )

    # Generations ----------------------------------------------------------------------------

    def _check_generation(self, *, accept_rollback: bool) -> None:
        """Raises: RolledBack when the keeper remembers more than the store, or nothing at all."""
        # The note is read first: another process may write and note meanwhile, in that order.
        note = self._notes.read_note(self._id) if self._notes else None
        with self._open_state().reading() as state:
            generation = state.generation
        noted = open_note(self._root, self._id, note)
        if self._notes is None or (noted is not None and noted <= generation):
            return
        if not accept_rollback:
            raise RolledBack(
                "this vault is an older copy than the one used last"
                if noted is not None
                else "the keeper has no note of this vault, so it may be an old copy",
                hint="if a backup was put back on purpose, say so when opening it",
            )
        with self._open_state().changing() as change:
            for lease in change.state.leases.values():
                change.put_lease(leases.lock(lease))
            above = max(change.state.generation, (noted or 0) + 1)
            change.state = replace(change.state, generation=above)
        self._note_generation()

    def _note_generation(self) -> None:
        """After the commit, never before it: a note must not run ahead of the store."""
        if self._notes is not None:
            note = seal_note(self._root, self._id, self._open_state().generation)
            self._notes.write_note(self._id, note)

    # Leases and keys ------------------------------------------------------------------------

    def _open_state(self) -> SealedState:
        """Raises: VaultClosed."""
        if self._state is None:
            raise VaultClosed("the vault was closed")
        return self._state

    def _opened(self, state: State, scope: str) -> OpenScope:
        """The scope, whose lease lives. Raises: Locked, KeyExpired, OpenFailed."""
        lease = leases.living(state.leases, scope)
        if (opened := self._scopes.held(state, lease)) is None:
            opened = self._scopes.open_(state, lease)
            self._watch_ends()
        return opened

    def _watch_ends(self) -> None:
        """Look again when the next lease ends, so that a key goes though nobody asks for it."""
        self._alarm.set_(self._open_state().seconds_to_next_end)


def _look(reference: weakref.ref[Vault]) -> None:
    """What the alarm does, in its own thread: a look at the state drops what is over."""
    if (vault := reference()) is not None:
        # Nobody asked, so there is nobody to tell; the next call meets the same error.
        with contextlib.suppress(VaultError), vault._lock:
            with vault._open_state().reading():
                pass
            vault._watch_ends()
