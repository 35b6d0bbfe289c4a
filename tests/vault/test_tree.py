"""The tree against a plain dict: same content, one root for one content, no change unseen."""

from __future__ import annotations

import hashlib
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vault import tree
from vault.errors import OpenFailed
from vault.tree import EMPTY_ROOT, Nodes, find, place, remove, walk

EXAMPLES = 5_000 if os.environ.get("MDX_SOAK") else 200

# Few different bytes, so that keys share long beginnings.
keys = st.lists(st.sampled_from([0x00, 0x01, 0x10]), min_size=16, max_size=16).map(bytes)
digests = st.integers(0, 255).map(lambda byte: bytes([byte]) * 32)
contents = st.dictionaries(keys, digests, max_size=12)


def nodes_in(kept: dict[bytes, bytes]) -> Nodes:
    return Nodes(
        read=kept.get,
        write=kept.__setitem__,
        remove=kept.__delitem__,
        hash_=lambda node: hashlib.sha256(node).digest(),
    )


def built(content: dict[bytes, bytes]) -> tuple[dict[bytes, bytes], bytes]:
    kept: dict[bytes, bytes] = {}
    root = EMPTY_ROOT
    for key, digest in content.items():
        root = place(nodes_in(kept), root, key, digest)
    return kept, root


@settings(max_examples=EXAMPLES)
@given(contents, st.data())
def test_it_holds_what_was_placed_and_not_removed(
    content: dict[bytes, bytes], data: st.DataObject
) -> None:
    kept, root = built(content)
    gone = data.draw(st.sets(st.sampled_from(sorted(content)))) if content else set()
    for key in gone:
        root = remove(nodes_in(kept), root, key)
    left = {key: digest for key, digest in content.items() if key not in gone}
    assert dict(walk(nodes_in(kept), root)) == left
    assert [key for key, _ in walk(nodes_in(kept), root)] == sorted(left)
    for key in content:
        assert find(nodes_in(kept), root, key) == left.get(key)
    # ... and it is, to the last node, the tree of what is left, however it came about.
    assert (kept, root) == built(dict(sorted(left.items(), reverse=True)))


@settings(max_examples=EXAMPLES)
@given(contents, keys, digests)
def test_any_other_content_has_another_root(
    content: dict[bytes, bytes], key: bytes, digest: bytes
) -> None:
    other = content | {key: digest}
    assert (built(content)[1] == built(other)[1]) == (content == other)


@settings(max_examples=EXAMPLES)
@given(contents.filter(bool), st.data())
def test_a_changed_or_missing_node_shows_to_who_comes_by(
    content: dict[bytes, bytes], data: st.DataObject
) -> None:
    kept, root = built(content)
    path = data.draw(st.sampled_from(sorted(kept)))
    if data.draw(st.booleans()):
        del kept[path]
    else:
        node = bytearray(kept[path])
        node[data.draw(st.integers(0, len(node) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        kept[path] = bytes(node)
    with pytest.raises(OpenFailed):
        list(walk(nodes_in(kept), root))
    below = [key for key in content if steps(key).startswith(path)]
    for key in below:
        with pytest.raises(OpenFailed):
            find(nodes_in(kept), root, key)
        with pytest.raises(OpenFailed):
            place(nodes_in(dict(kept)), root, key, b"d" * 32)
        with pytest.raises(OpenFailed):
            remove(nodes_in(dict(kept)), root, key)


def test_a_node_that_was_checked_is_not_read_again() -> None:
    kept, root = built({b"a" * 16: b"1" * 32, b"b" * 16: b"2" * 32})
    nodes = nodes_in(kept)
    assert find(nodes, root, b"a" * 16) == b"1" * 32
    kept.clear()
    assert find(nodes, root, b"a" * 16) == b"1" * 32


def test_what_is_remembered_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "MAX_KNOWN", 2)
    content = {hashlib.sha256(bytes([n])).digest()[:16]: bytes(32) for n in range(100)}
    kept, root = built(content)
    nodes = nodes_in(kept)
    assert dict(walk(nodes, root)) == content
    assert len(nodes.known) <= 2


def test_removing_what_is_not_there_fails() -> None:
    kept, root = built({b"a" * 16: bytes(32)})
    for start in (root, EMPTY_ROOT):
        with pytest.raises(OpenFailed):
            remove(nodes_in(kept), start, b"b" * 16)


def steps(key: bytes) -> bytes:
    return bytes(int(digit, 16) for digit in key.hex())
