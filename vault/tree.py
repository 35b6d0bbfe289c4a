"""Which rows a scope has, as a hash tree: a row swapped, put back, added or missing shows.

The tree is a radix tree over keys of 16 uniformly distributed bytes, four bits a step. A node lists
its entries in order of the step: either a *leaf* (key and 32-byte digest of a row) or the hash of
a child node. Its root hash stands in the vault's sealed state; the nodes themselves lie unsealed
in the store and are believed only when they hash to what the node above says.

The shape follows from the keys alone: a leaf stands as high as it can stand by itself. So the root
does not depend on the order of writes. No store and no keys here: `Nodes` are four callables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from vault.errors import OpenFailed

__all__ = ["EMPTY_ROOT", "KEY_BYTES", "Nodes", "find", "place", "remove", "walk"]

KEY_BYTES = 16
HASH_BYTES = 32
EMPTY_ROOT = bytes(HASH_BYTES)  # the root of a tree without leaves, which has no node
MAX_KNOWN = 8192  # nodes, a few MiB: all but the lowest levels of a tree with 100,000 leaves
CHILD = 0x80  # set in an entry's step when a child's hash follows


@dataclass(frozen=True, slots=True)
class Leaf:
    """One row."""

    key: bytes
    digest: bytes


Entry: TypeAlias = Leaf | bytes  # a leaf, or a child's hash
Node: TypeAlias = Mapping[int, Entry]


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """Where nodes are kept. A path is one byte (0 to 15) per step; `hash_` gives 32 bytes.

    `known` has nodes that were checked before, by their hash: what hashes to it cannot be another.
    """

    read: Callable[[bytes], bytes | None]
    write: Callable[[bytes, bytes], None]
    remove: Callable[[bytes], None]
    hash_: Callable[[bytes], bytes]
    known: dict[bytes, Node] = field(default_factory=dict)


def find(nodes: Nodes, root: bytes, key: bytes) -> bytes | None:
    """The digest at `key`, or None when the tree does not have it.

    Raises: OpenFailed when a node on the way is not the one that belongs there.
    """
    if root == EMPTY_ROOT:
        return None
    expected = root
    path = b""
    for depth in range(2 * KEY_BYTES):
        step = _step(key, depth)
        entry = _load(nodes, path, expected).get(step)
        if not isinstance(entry, bytes):
            return entry.digest if entry and entry.key == key else None
        expected = entry
        path += bytes([step])
    raise OpenFailed  # deeper than any tree of ours


def place(nodes: Nodes, root: bytes, key: bytes, digest: bytes) -> bytes:
    """The new root, with `digest` at `key`, whether there was one or not.

    Raises: OpenFailed as `find`.
    """
    return _place(nodes, b"", root, Leaf(key, digest))


def remove(nodes: Nodes, root: bytes, key: bytes) -> bytes:
    """The new root, with nothing at `key`.

    Raises: OpenFailed as `find`, and when there was nothing.
    """
    left = _remove(nodes, b"", root, key)
    if isinstance(left, Leaf):
        return _save(nodes, b"", {_step(left.key, 0): left})
    return left or EMPTY_ROOT


def walk(nodes: Nodes, root: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Every key with its digest, in order of the keys.

    Raises: OpenFailed as `find`.
    """
    if root == EMPTY_ROOT:
        return
    waiting: list[tuple[bytes, Entry]] = [(b"", root)]
    while waiting:
        path, entry = waiting.pop()
        if isinstance(entry, Leaf):
            yield entry.key, entry.digest
        else:
            node = _load(nodes, path, entry)
            waiting.extend(
                (path + bytes([step]), node[step]) for step in sorted(node, reverse=True)
            )


def _place(nodes: Nodes, path: bytes, expected: bytes, leaf: Leaf) -> bytes:
    depth = len(path)
    step = _step(leaf.key, depth)
    node: Node = {} if expected == EMPTY_ROOT and not path else _load(nodes, path, expected)
    below = path + bytes([step])
    match node.get(step):
        case Leaf() as other if other.key != leaf.key:
            alone = _save(nodes, below, {_step(other.key, depth + 1): other})
            entry: Entry = _place(nodes, below, alone, leaf)
        case bytes() as child:
            entry = _place(nodes, below, child, leaf)
        case _:
            entry = leaf
    return _save(nodes, path, {**node, step: entry})


def _remove(nodes: Nodes, path: bytes, expected: bytes, key: bytes) -> Entry | None:
    """What stands at `path` afterwards: a node's hash, the one leaf left over, or nothing."""
    if expected == EMPTY_ROOT:
        raise OpenFailed
    node = dict(_load(nodes, path, expected))
    step = _step(key, len(path))
    match node.pop(step, None):
        case Leaf() as leaf if leaf.key == key:
            pass
        case bytes() as child:
            if (left := _remove(nodes, path + bytes([step]), child, key)) is not None:
                node[step] = left
        case _:
            raise OpenFailed
    match list(node.values()):
        case []:
            nodes.remove(path)
            return None
        case [Leaf() as alone]:
            nodes.remove(path)
            return alone
    return _save(nodes, path, node)


def _load(nodes: Nodes, path: bytes, expected: bytes) -> Node:
    if (known := nodes.known.get(expected)) is not None:
        return known
    encoded = nodes.read(path)
    if encoded is None or nodes.hash_(encoded) != expected:
        raise OpenFailed
    if len(nodes.known) >= MAX_KNOWN:
        nodes.known.clear()
    nodes.known[expected] = node = _decode(encoded)
    return node


def _decode(encoded: bytes) -> Node:
    node: dict[int, Entry] = {}
    at = 0
    while at < len(encoded):
        step = encoded[at]
        if step & CHILD:
            node[step - CHILD] = encoded[at + 1 : at + 1 + HASH_BYTES]
            at += 1 + HASH_BYTES
        else:
            digest_at = at + 1 + KEY_BYTES
            node[step] = Leaf(encoded[at + 1 : digest_at], encoded[digest_at:][:HASH_BYTES])
            at = digest_at + HASH_BYTES
    return node


def _save(nodes: Nodes, path: bytes, node: Node) -> bytes:
    encoded = b"".join(
        bytes([step]) + entry.key + entry.digest
        if isinstance(entry, Leaf)
        else bytes([step | CHILD]) + entry
        for step, entry in sorted(node.items(), key=lambda item: item[0])
    )
    nodes.write(path, encoded)
    return nodes.hash_(encoded)


def _step(key: bytes, depth: int) -> int:
    byte = key[depth // 2]
    return byte & 0x0F if depth % 2 else byte >> 4
