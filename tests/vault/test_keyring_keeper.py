"""The desktop's keyring: a named back end or none, whatever the machine or environment suggests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import keyring.backends.chainer
import keyring.backends.fail
import keyring.backends.null
import pytest
from keyring.backend import KeyringBackend

from vault import Keyring, KeyringName, Vault, keyring_name, keyring_problem, vault_kind
from vault.errors import BadStore, KeeperRefused
from vault.keyring_keeper import build_backend, refuse_unsafe

VAULT = bytes(range(16))


class InMemory(KeyringBackend):
    """A proper back end that happens to forget when the process ends."""

    priority: ClassVar[float] = 5

    def __init__(self) -> None:
        self.items: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.items.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.items[service, username] = password


class PlainText(InMemory):
    """Like keyrings.alt's: a file that anybody may read."""

    priority: ClassVar[float] = 0.5


class FromAlt(InMemory):
    """Says that it is fine; where it comes from says otherwise."""


FromAlt.__module__ = "keyrings.alt.file"


class Forgetful(InMemory):
    def set_password(self, service: str, username: str, password: str) -> None:
        """Keeps nothing."""


class Talkative(InMemory):
    """Puts what it was given into its errors."""

    def set_password(self, service: str, username: str, password: str) -> None:
        raise RuntimeError(f"could not store {password!r}")

    def get_password(self, service: str, username: str) -> str | None:
        raise RuntimeError("the bus went away")


def keeper_of(backend: KeyringBackend) -> Keyring:
    return Keyring("secret-service", build=lambda name: backend)


@pytest.fixture
def backend() -> InMemory:
    return InMemory()


def test_the_secret_is_one_item_and_the_note_another(backend: InMemory) -> None:
    keeper = keeper_of(backend)
    secret, parameters = keeper.make(VAULT)
    assert parameters == b"secret-service"
    assert keeper.fetch(VAULT, parameters) == secret
    assert keeper.holds_notes
    assert keeper.read_note(VAULT) is None
    keeper.write_note(VAULT, b"n" * 80)
    assert keeper.read_note(VAULT) == b"n" * 80
    assert set(backend.items) == {
        ("mdx-toolkit vault", VAULT.hex()),
        ("mdx-toolkit vault", f"{VAULT.hex()} seen"),
    }


def test_a_vault_lives_on_it_and_says_which_one(tmp_path: Path, backend: InMemory) -> None:
    folder = tmp_path / "vault"
    with Vault.create(folder, keeper_of(backend)) as vault:
        vault.lease("app:a", lifetime_seconds=60)
        vault.put("app:a", "n", b"value")
    assert (vault_kind(folder), keyring_name(folder)) == ("keyring", "secret-service")
    with Vault.open_(folder, keeper_of(backend)) as vault:
        assert vault.get("app:a", "n").value == b"value"
    with pytest.raises(BadStore, match="secret-service"):
        Vault.open_(folder, Keyring("kwallet", build=lambda name: backend))
    with pytest.raises(KeeperRefused, match="no key for"):
        Vault.open_(folder, keeper_of(InMemory()))


@pytest.mark.parametrize(
    "unsafe",
    [
        keyring.backends.null.Keyring,
        keyring.backends.fail.Keyring,
        keyring.backends.chainer.ChainerBackend,
        FromAlt,
        PlainText,
    ],
)
def test_back_ends_that_keep_nothing_or_keep_it_readable_are_refused(
    unsafe: Callable[[], KeyringBackend],
) -> None:
    with pytest.raises(KeeperRefused):
        refuse_unsafe(unsafe())
    with pytest.raises(KeeperRefused):
        keeper_of(unsafe()).make(VAULT)
    with pytest.raises(KeeperRefused):
        keeper_of(unsafe()).fetch(VAULT, b"secret-service")


def test_a_subclass_of_a_refused_one_is_refused() -> None:
    disguised: type[KeyringBackend] = type(
        "Disguised", (keyring.backends.null.Keyring,), {"priority": 9}
    )
    with pytest.raises(KeeperRefused):
        refuse_unsafe(disguised())


@pytest.mark.parametrize("name", ["null", "fail", "chainer", "plaintext", "", "Secret-Service"])
def test_only_named_back_ends_can_be_asked_for(name: str) -> None:
    with pytest.raises(KeeperRefused, match="not an accepted"):
        Keyring(name)


def test_what_does_not_come_back_is_not_relied_on() -> None:
    with pytest.raises(KeeperRefused, match="did not give back"):
        keeper_of(Forgetful()).make(VAULT)


def test_a_back_ends_own_words_are_not_repeated() -> None:
    with pytest.raises(KeeperRefused) as refused:
        keeper_of(Talkative()).write_note(VAULT, b"hunter2")
    assert str(refused.value) == "the keyring secret-service did not store the key (RuntimeError)"
    assert refused.value.__suppress_context__
    with pytest.raises(KeeperRefused, match="did not answer"):
        keeper_of(Talkative()).read_note(VAULT)


@pytest.mark.parametrize("content", ["not base64!", "AAAA"])
def test_something_else_under_our_name_is_refused(backend: InMemory, content: str) -> None:
    backend.items["mdx-toolkit vault", VAULT.hex()] = content
    with pytest.raises(KeeperRefused, match="something else"):
        keeper_of(backend).fetch(VAULT, b"secret-service")


@pytest.mark.parametrize("name", list(KeyringName))
def test_the_environment_cannot_set_a_back_end_up(
    name: KeyringName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYRING_PROPERTY_COLLECTION", "elsewhere")
    with pytest.raises(KeeperRefused, match="KEYRING_PROPERTY_COLLECTION"):
        build_backend(name)


@pytest.mark.parametrize("name", [KeyringName.MACOS_KEYCHAIN, KeyringName.WINDOWS])
def test_a_back_end_that_is_not_there_is_a_sentence_and_no_other_is_taken(
    name: KeyringName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    with pytest.raises(KeeperRefused, match="not available here") as refused:
        build_backend(name)
    assert "passphrase" in refused.value.hint


def test_a_keyring_shows_its_name_only(backend: InMemory) -> None:
    keeper = keeper_of(backend)
    assert repr(keeper) == "Keyring(backend='secret-service')"
    assert keeper.describe() == "keyring secret-service"


def test_a_back_end_that_cannot_work_here_is_told_without_trying_to_use_it() -> None:
    with pytest.raises(KeeperRefused) as refused:
        Keyring(KeyringName.WINDOWS).make(VAULT)
    assert keyring_problem(KeyringName.WINDOWS) == str(refused.value)
