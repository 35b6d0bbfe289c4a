"""The root key opens with its own keeper, header and vault; a note with its own root key."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vault.errors import OpenFailed
from vault.keys import new_key
from vault.root import open_note, seal_note, unwrap_root, wrap_root
from vault.store import Header

VAULT, SECRET = b"V" * 16, b"s" * 32
ROOT = new_key("root")
HEADER = Header(
    vault_id=VAULT,
    keeper="passphrase",
    parameters=b"p",
    wrapped_root=wrap_root(ROOT, SECRET, VAULT, "passphrase", b"p"),
)


def test_the_keepers_secret_gives_the_root_key_back() -> None:
    assert unwrap_root(HEADER, SECRET).secret == ROOT.secret


@pytest.mark.parametrize(
    "change", [{"vault_id": b"W" * 16}, {"keeper": "caller"}, {"parameters": b""}]
)
def test_a_changed_header_opens_nothing(change: dict[str, Any]) -> None:
    with pytest.raises(OpenFailed):
        unwrap_root(replace(HEADER, **change), SECRET)


def test_another_secret_opens_nothing() -> None:
    with pytest.raises(OpenFailed):
        unwrap_root(HEADER, b"t" * 32)


def test_a_note_is_read_by_its_own_vault_only() -> None:
    note = seal_note(ROOT, VAULT, 258)
    assert len(note) == 80
    assert open_note(ROOT, VAULT, note) == 258
    assert open_note(new_key("root"), VAULT, note) is None
    assert open_note(ROOT, b"W" * 16, note) is None
    assert open_note(ROOT, VAULT, note[:-1]) is None
    assert open_note(ROOT, VAULT, None) is None
