"""Errors are one line, know what to do next, and how a command ends with them."""

from __future__ import annotations

import pytest

from vault import errors
from vault.errors import KeyExpired, Locked, OpenFailed, RolledBack, VaultError

REFUSED = {"KeyExpired", "Locked", "RolledBack"}
CONFIGURATION = {
    "AlreadyExists",
    "BadStore",
    "KeeperRefused",
    "LoosePermissions",
    "NoSuchVault",
}


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_a_vault_error_with_the_exit_code_of_its_class(name: str) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, VaultError)
    assert kind.exit_code == (77 if name in REFUSED else 78 if name in CONFIGURATION else 1)


def test_an_expired_key_says_which_and_since_when() -> None:
    error = KeyExpired("app:payroll", 1_800_000_000.0)
    assert str(error) == "the key of app:payroll expired at 2027-01-15 08:00:00 UTC"
    assert (error.scope, error.expired_at) == ("app:payroll", 1_800_000_000.0)
    assert error.hint


def test_locked_says_which_scope() -> None:
    error = Locked("app:payroll", by_user=True)
    assert (str(error), error.scope, error.by_user) == (
        "app:payroll is locked",
        "app:payroll",
        True,
    )


def test_opening_fails_with_the_same_words_whatever_is_wrong() -> None:
    assert str(OpenFailed()) == str(OpenFailed(hint="another hint"))
    assert OpenFailed().hint
    assert not RolledBack("put back").hint
