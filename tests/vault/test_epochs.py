"""Newer opens older, never the reverse; and nothing opens under another name."""

from __future__ import annotations

import pytest

from vault.epochs import (
    ScopeKeys,
    new_scope_keys,
    record_id,
    unwrap_newest,
    unwrap_older,
    wrap_newest,
    wrap_older,
)
from vault.errors import OpenFailed
from vault.keys import new_key

VAULT, OTHER_VAULT = b"V" * 16, b"W" * 16
ROOT = new_key("root")
FIRST = new_scope_keys("app:a", 1, before=None)
SECOND = new_scope_keys("app:a", 2, before=FIRST)


def test_a_new_epoch_has_a_new_app_key_and_the_old_index_key() -> None:
    assert SECOND.app.secret != FIRST.app.secret
    assert SECOND.index is FIRST.index
    assert FIRST.index.secret not in (FIRST.app.secret, SECOND.app.secret)


def test_the_newest_epoch_is_wrapped_by_the_root_key() -> None:
    again = unwrap_newest(VAULT, ROOT, "app:a", 2, wrap_newest(VAULT, ROOT, SECOND))
    assert (again.app.secret, again.index.secret) == (SECOND.app.secret, SECOND.index.secret)


@pytest.mark.parametrize(
    ("vault_id", "scope", "epoch"),
    [(OTHER_VAULT, "app:a", 2), (VAULT, "app:b", 2), (VAULT, "app:a", 1), (VAULT, "app:a", 3)],
)
def test_a_wrap_opens_in_its_own_place_only(vault_id: bytes, scope: str, epoch: int) -> None:
    with pytest.raises(OpenFailed):
        unwrap_newest(vault_id, ROOT, scope, epoch, wrap_newest(VAULT, ROOT, SECOND))


def test_the_newest_opens_the_older_and_not_the_reverse() -> None:
    wrapped = wrap_older(VAULT, SECOND, 1, FIRST.app)
    assert unwrap_older(VAULT, SECOND, 1, wrapped).secret == FIRST.app.secret
    pretender = ScopeKeys(scope="app:a", epoch=2, app=FIRST.app, index=FIRST.index)
    with pytest.raises(OpenFailed):
        unwrap_older(VAULT, pretender, 1, wrapped)
    with pytest.raises(OpenFailed):
        unwrap_older(VAULT, SECOND, 3, wrapped)


def test_an_older_key_is_no_pair_of_newest_keys_nor_the_reverse() -> None:
    with pytest.raises(OpenFailed):
        unwrap_newest(VAULT, ROOT, "app:a", 2, wrap_older(VAULT, SECOND, 1, FIRST.app))
    with pytest.raises(OpenFailed):
        unwrap_older(VAULT, SECOND, 1, wrap_newest(VAULT, ROOT, SECOND))


def test_a_records_id_depends_on_key_vault_scope_and_name_only() -> None:
    made = record_id(VAULT, FIRST, "n")
    assert len(made) == 16
    assert made == record_id(VAULT, SECOND, "n")
    stranger = new_scope_keys("app:a", 1, before=None)
    neighbour = ScopeKeys(scope="app:b", epoch=1, app=FIRST.app, index=FIRST.index)
    others = {
        record_id(VAULT, FIRST, "m"),
        record_id(OTHER_VAULT, FIRST, "n"),
        record_id(VAULT, stranger, "n"),
        record_id(VAULT, neighbour, "n"),
    }
    assert len(others - {made}) == 4


def test_keys_are_not_shown() -> None:
    assert FIRST.app.secret.hex() not in repr(FIRST)
    assert repr(FIRST.app.secret) not in repr(FIRST)
