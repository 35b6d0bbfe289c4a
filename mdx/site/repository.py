"""A bare git repository as plain files, made here in Python and the same on every machine.

    HEAD  config  description  info/refs  objects/info/packs  objects/XX/…  refs/…

That is all that git's "dumb" HTTP protocol reads (gitprotocol-http(5)), so any server of static
files can be cloned from. Objects are loose: their id is the SHA-1 of their content, which is what
git's format demands and nothing that is relied on here.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["HANDBOOK", "build", "handbook"]

_AUTHOR = "The Handbook <handbook@corp.internal>"
_FIRST_AT = 1_700_000_000  # 14 November 2023, 22:13:20 UTC
_DAY_SECONDS = 86_400

_README = """\
# Handbook

You reached this repository through a tunnel of your app's own. Nothing but the gateway can reach
the site that serves it, and the gateway lets in only what its allow list names.
"""
_ON_CALL = """\
# On call

1. Look at `mdx status` before anything else.
2. `mdx explain APP DESTINATION` says which rule decided.
3. `mdx audit show` tells what happened, and to which flow.
"""
_FIRST_DAY = """\
# Your first day

Ask for a join code, then: `mdx join CODE`. A code is good once and not for long.
"""

# Each revision of the handbook: its message, and all of its files.
HANDBOOK: tuple[tuple[str, Mapping[str, str]], ...] = (
    ("Begin the handbook", {"README.md": _README}),
    ("Say what to do on call", {"README.md": _README, "teams/on-call.md": _ON_CALL}),
    (
        "Welcome newcomers",
        {"README.md": _README, "first-day.md": _FIRST_DAY, "teams/on-call.md": _ON_CALL},
    ),
)


def handbook() -> dict[str, bytes]:
    """The files of the sample repository, by their path in it."""
    return build(HANDBOOK, tag="v1")


def build(revisions: tuple[tuple[str, Mapping[str, str]], ...], *, tag: str) -> dict[str, bytes]:
    """A repository with one branch, `main`, of these revisions, the last of them tagged."""
    objects = _Objects()
    commit = ""
    at = _FIRST_AT
    for message, files in revisions:
        tree = objects.add_tree({name: text.encode() for name, text in files.items()})
        parent = f"parent {commit}\n" if commit else ""
        who = f"{_AUTHOR} {at} +0000"
        text = f"tree {tree}\n{parent}author {who}\ncommitter {who}\n\n{message}\n"
        commit = objects.add("commit", text.encode())
        at += _DAY_SECONDS
    text = f"object {commit}\ntype commit\ntag {tag}\ntagger {_AUTHOR} {at} +0000\n\n{tag}\n"
    tagged = objects.add("tag", text.encode())
    refs = (
        f"{commit}\trefs/heads/main\n"
        f"{tagged}\trefs/tags/{tag}\n"
        f"{commit}\trefs/tags/{tag}^{{}}\n"  # what the tag points to
    )
    return {
        "HEAD": b"ref: refs/heads/main\n",
        "config": b"[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n",
        "description": b"The company's handbook\n",
        "info/refs": refs.encode(),
        "objects/info/packs": b"\n",
        "refs/heads/main": f"{commit}\n".encode(),
        f"refs/tags/{tag}": f"{tagged}\n".encode(),
        **objects.files,
    }


@dataclass(slots=True)
class _Objects:
    """Loose objects, by path (gitformat-loose(5))."""

    files: dict[str, bytes] = field(default_factory=dict)

    def add(self, kind: str, content: bytes) -> str:
        """Add an object; return its id in hex."""
        whole = f"{kind} {len(content)}\0".encode() + content
        name = hashlib.sha1(whole, usedforsecurity=False).hexdigest()
        self.files[f"objects/{name[:2]}/{name[2:]}"] = zlib.compress(whole)
        return name

    def add_tree(self, files: Mapping[str, bytes]) -> str:
        """Add a tree of these files, with its subtrees; return its id."""
        entries: dict[str, tuple[str, str]] = {}
        folders: dict[str, dict[str, bytes]] = {}
        for path, content in files.items():
            first, slash, rest = path.partition("/")
            if slash:
                folders.setdefault(first, {})[rest] = content
            else:
                entries[first] = ("100644", self.add("blob", content))
        for name, inside in folders.items():
            entries[name + "/"] = ("40000", self.add_tree(inside))
        # Sorted as if the names of subtrees ended in a slash; fsck checks that.
        body = b"".join(
            f"{mode} {name.removesuffix('/')}\0".encode() + bytes.fromhex(object_id)
            for name, (mode, object_id) in sorted(entries.items())
        )
        return self.add("tree", body)
