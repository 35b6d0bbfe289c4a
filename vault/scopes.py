"""Scopes while their leases live: their rows, and the keys that open them.

Whether the lease lives is asked elsewhere (`vault.vault`), in the same transaction and before
anything here is called.

Records that older epochs seal move to the newest one a few at a time, with writes that are made
anyway, so that no call takes long. A record that does not open is left for its reader to find.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac

from vault import labels
from vault.epochs import (
    ScopeKeys,
    new_scope_keys,
    record_id,
    unwrap_newest,
    unwrap_older,
    wrap_newest,
    wrap_older,
)
from vault.errors import NoSuchRecord, OpenFailed, RecordExpired
from vault.keys import Key, derive_key
from vault.leases import Lease
from vault.records import Record, RecordInfo, decode_meta, encode_meta
from vault.rows import Rows
from vault.sealing import open_, seal
from vault.state import State
from vault.store import EpochRow, RecordRow, Store
from vault.tree import EMPTY_ROOT, Node

__all__ = ["OpenScope", "Scopes"]

SCOPE_TAG_BYTES = 16
RESEAL_PER_LEASE = 64  # records of older epochs that move with it
RESEAL_PER_PUT = 4
RESEAL_BYTES = 1024 * 1024
MAX_KNOWN = 4096  # descriptions of records, about 2 MiB


class OpenScope:
    """One scope's records, opened and sealed. `rows` must be at the current transaction's root."""

    def __init__(self, rows: Rows, keys: ScopeKeys) -> None:
        self.rows = rows
        self.keys = keys
        self._vault_id = rows.vault_id
        # What was opened before, by all that it was opened from; never a value, and only of rows
        # that the tree has. Opening and parsing them was a quarter of each `get`.
        self._known: dict[tuple[bytes, int, int, bytes], RecordInfo] = {}

    def get(self, name: str, now: float) -> Record:
        """Raises: NoSuchRecord, RecordExpired, OpenFailed."""
        row, sealed = self._found(name)
        info = self._info(row)
        if info.expires_at is not None and now >= info.expires_at:
            raise RecordExpired(f"{name!r} of {self.keys.scope} has expired", hint="put a new one")
        return Record(info=info, value=self._value(row, info, sealed))

    def list_(self) -> list[RecordInfo]:
        """All records without their values, by name. Raises: OpenFailed."""
        return sorted(map(self._info, self.rows.records()), key=lambda info: info.name)

    def put(self, info: RecordInfo, value: bytes) -> None:
        """Seal the record in the newest epoch, in place of what was there."""
        self._put_sealed(record_id(self._vault_id, self.keys, info.name), info, value)
        self.reseal(at_most=RESEAL_PER_PUT)

    def remove(self, name: str) -> None:
        """Raises: NoSuchRecord, OpenFailed."""
        row, _ = self._found(name)
        self.rows.remove_record(row.record)

    def reseal(self, *, at_most: int) -> None:
        """Move some records of older epochs to the newest one; their versions stay."""
        done_bytes = 0
        for record in self.rows.before_epoch(self.keys.epoch, at_most=at_most):
            with contextlib.suppress(OpenFailed):
                if (found := self.rows.record(record)) is not None and done_bytes < RESEAL_BYTES:
                    row, sealed = found
                    info = self._info(row)
                    value = self._value(row, info, sealed)
                    self._put_sealed(record, info, value)
                    done_bytes += len(value)

    def app_key(self, epoch: int) -> Key:
        """The app key of `epoch`, by way of the newest one. Raises: OpenFailed."""
        keys = self.keys
        if epoch == keys.epoch:
            return keys.app
        if epoch not in keys.older:
            wrapped = self.rows.epoch(epoch).wrapped
            keys.older[epoch] = unwrap_older(self._vault_id, keys, epoch, wrapped)
        return keys.older[epoch]

    def _found(self, name: str) -> tuple[RecordRow, bytes]:
        found = self.rows.record(record_id(self._vault_id, self.keys, name))
        if found is None:
            raise NoSuchRecord(f"{self.keys.scope} has no record {name!r}")
        return found

    def _info(self, row: RecordRow) -> RecordInfo:
        what = (row.record, row.version, row.epoch, row.meta)
        if (info := self._known.get(what)) is None:
            scope = self.keys.scope
            context = labels.record_meta(self._vault_id, scope, row.record, row.version)
            encoded = open_(self.app_key(row.epoch), context, row.meta)
            info = decode_meta(scope, row.version, encoded)
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[what] = info
        return info

    def _value(self, row: RecordRow, info: RecordInfo, sealed: bytes) -> bytes:
        context = labels.record_value(
            self._vault_id, self.keys.scope, row.record, row.version, info.kind
        )
        return open_(self.app_key(row.epoch), context, sealed)

    def _put_sealed(self, record: bytes, info: RecordInfo, value: bytes) -> None:
        where = (self._vault_id, self.keys.scope, record, info.version)
        self.rows.put_record(
            record,
            version=info.version,
            epoch=self.keys.epoch,
            meta=seal(self.keys.app, labels.record_meta(*where), encode_meta(info)),
            value=seal(self.keys.app, labels.record_value(*where, info.kind), value),
        )


class Scopes:
    """The scopes of an open vault, and the keys of those with a living lease."""

    def __init__(self, store: Store, root: Key, vault_id: bytes) -> None:
        self._store = store
        self._root = root
        self._vault_id = vault_id
        self._tag_key = derive_key(
            "scope tags", root.secret, salt=vault_id, info=labels.scope_tag_key(vault_id)
        )
        self._known_nodes: dict[bytes, Node] = {}
        self._held: dict[str, OpenScope] = {}

    def held(self, state: State, lease: Lease) -> OpenScope | None:
        """The lease's scope, if it was opened before, ready for the transaction of `state`."""
        opened = self._held.get(lease.scope)
        if opened is None or opened.keys.epoch != lease.epoch:
            return None
        opened.rows.root = _root(state, lease.scope)
        return opened

    def open_(self, state: State, lease: Lease) -> OpenScope:
        """The scope of a living lease, held from now on. Raises: OpenFailed."""
        opened = self._unwrap(self._rows(state, lease.scope), lease.epoch)
        self.hold(opened)
        return opened

    def renew(self, state: State, lease: Lease) -> OpenScope:
        """The scope with new keys for the new `lease`; not held before that is committed.

        Those of all older epochs are wrapped by the new ones. Raises: OpenFailed.
        """
        rows = self._rows(state, lease.scope)
        if (before := state.leases.get(lease.scope)) is None:
            keys = new_scope_keys(lease.scope, lease.epoch, before=None)
        else:
            past = self._unwrap(rows, before.epoch)
            keys = new_scope_keys(lease.scope, lease.epoch, before=past.keys)
            for older in rows.remove_unused_epochs(before.epoch) | {before.epoch}:
                wrapped = wrap_older(self._vault_id, keys, older, past.app_key(older))
                rows.put_epoch(EpochRow(epoch=older, wrapped_by=lease.epoch, wrapped=wrapped))
        wrapped = wrap_newest(self._vault_id, self._root, keys)
        rows.put_epoch(EpochRow(epoch=lease.epoch, wrapped_by=0, wrapped=wrapped))
        opened = OpenScope(rows, keys)
        opened.reseal(at_most=RESEAL_PER_LEASE)
        rows.remove_unused_epochs(lease.epoch)
        return opened

    def hold(self, opened: OpenScope) -> None:
        """Keep the scope at hand until its lease is over."""
        self._held[opened.keys.scope] = opened

    def drop_dead(self, state: State) -> None:
        """Drop the keys of leases that are over or were followed by another."""
        for scope, opened in list(self._held.items()):
            lease = state.leases.get(scope)
            if lease is None or lease.ended or lease.epoch != opened.keys.epoch:
                del self._held[scope]

    def _unwrap(self, rows: Rows, epoch: int) -> OpenScope:
        wrapped = rows.epoch(epoch).wrapped
        return OpenScope(
            rows, unwrap_newest(self._vault_id, self._root, rows.scope, epoch, wrapped)
        )

    def _rows(self, state: State, scope: str) -> Rows:
        message = labels.scope_tag(self._vault_id, scope)
        tag = hmac.digest(self._tag_key.secret, message, hashlib.sha512)[:SCOPE_TAG_BYTES]
        rows = Rows(
            self._store, vault_id=self._vault_id, scope=scope, tag=tag, known=self._known_nodes
        )
        rows.root = _root(state, scope)
        return rows


def _root(state: State, scope: str) -> bytes:
    return state.trees.get(scope, EMPTY_ROOT)
