"""The rows of one scope, each checked against the scope's tree before anybody uses it.

`Rows` stands between the store, which believes anything, and the vault, which opens only what is
the current row of that name. Its `root` is set from the sealed state when a transaction begins and
changes with every write; the vault puts it into the sealed state in the same transaction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from vault import labels, tree
from vault.errors import OpenFailed
from vault.store import EpochRow, RecordRow, Store

__all__ = ["Rows"]


class Rows:
    """One scope's epochs and records. `tag` is what the store calls the scope."""

    def __init__(
        self,
        store: Store,
        *,
        vault_id: bytes,
        scope: str,
        tag: bytes,
        known: dict[bytes, tree.Node],
    ) -> None:
        self.root = tree.EMPTY_ROOT
        self._store = store
        self.vault_id = vault_id
        self.scope = scope
        self._tag = tag
        self._nodes = tree.Nodes(
            read=lambda path: store.node(tag, path),
            write=lambda path, node: store.put_node(tag, path, node),
            remove=lambda path: store.remove_node(tag, path),
            hash_=lambda node: _hash(labels.tree_node(vault_id, scope, node)),
            known=known,
        )

    # Epochs ---------------------------------------------------------------------------------

    def epoch(self, epoch: int) -> EpochRow:
        """Raises: OpenFailed when it is missing or not the current one."""
        row = self._store.epoch(self._tag, epoch)
        if row is None or self._find(self._place(epoch)) != self._epoch_digest(row):
            raise OpenFailed
        return row

    def put_epoch(self, row: EpochRow) -> None:
        self._store.put_epoch(self._tag, row)
        digest = self._epoch_digest(row)
        self.root = tree.place(self._nodes, self.root, self._place(row.epoch), digest)

    def remove_unused_epochs(self, newest: int) -> set[int]:
        """Forget the keys of older epochs that seal no record. Returns those that still do."""
        in_use = set(self._store.epochs_in_use(self._tag)) - {newest}
        for epoch in set(self._store.epochs(self._tag)) - in_use - {newest}:
            self.root = tree.remove(self._nodes, self.root, self._place(epoch))
            self._store.remove_epoch(self._tag, epoch)
        return in_use

    # Records --------------------------------------------------------------------------------

    def record(self, record: bytes) -> tuple[RecordRow, bytes] | None:
        """The record's row and its sealed value.

        Raises: OpenFailed when either is not the current one, or the row is missing.
        """
        found = self._store.record(self._tag, record)
        digest = self._find(record)
        if found is None and digest is None:
            return None
        if found is None or digest != self._record_digest(found[0]):
            raise OpenFailed
        row, value = found
        if _hash(value) != row.value_hash:
            raise OpenFailed
        return row, value

    def records(self) -> Iterator[RecordRow]:
        """All records' rows, without their values.

        Raises: OpenFailed when one is missing, too many, or not the current one.
        """
        digests = dict(tree.walk(self._nodes, self.root))
        for epoch in self._store.epochs(self._tag):
            digests.pop(self._place(epoch), None)
        for row in self._store.records(self._tag):
            if digests.pop(row.record, None) != self._record_digest(row):
                raise OpenFailed
            yield row
        if digests:
            raise OpenFailed

    def before_epoch(self, epoch: int, *, at_most: int) -> list[bytes]:
        """The ids of some records that older epochs seal."""
        return self._store.records_before_epoch(self._tag, epoch, at_most=at_most)

    def put_record(
        self, record: bytes, *, version: int, epoch: int, meta: bytes, value: bytes
    ) -> None:
        """`meta` and `value` are sealed."""
        row = RecordRow(
            record=record, version=version, epoch=epoch, value_hash=_hash(value), meta=meta
        )
        self._store.put_record(self._tag, row, value)
        self.root = tree.place(self._nodes, self.root, record, self._record_digest(row))

    def remove_record(self, record: bytes) -> None:
        """Raises: OpenFailed when the tree does not have it."""
        self._store.remove_record(self._tag, record)
        self.root = tree.remove(self._nodes, self.root, record)

    def _find(self, key: bytes) -> bytes | None:
        return tree.find(self._nodes, self.root, key)

    def _place(self, epoch: int) -> bytes:
        hashed = _hash(labels.epoch_place(self.vault_id, self.scope, epoch))
        return hashed[: tree.KEY_BYTES]

    def _epoch_digest(self, row: EpochRow) -> bytes:
        return _hash(
            labels.epoch_leaf(self.vault_id, self.scope, row.epoch, row.wrapped_by, row.wrapped)
        )

    def _record_digest(self, row: RecordRow) -> bytes:
        return _hash(
            labels.record_leaf(
                self.vault_id,
                self.scope,
                row.record,
                row.version,
                row.epoch,
                _hash(row.meta),
                row.value_hash,
            )
        )


def _hash(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
