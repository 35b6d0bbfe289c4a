"""The desktop's keyring as a keeper: one item per vault, in a back end that is named here.

The only module that imports `keyring`, and only when the keeper is used. Of that library it takes
the back end classes and nothing else: its own choice of a back end follows an environment variable,
a config file or whatever package is installed, and may land on a plain-text file or on one that
forgets. So a back end is built by name from a fixed table, refused when it is one that keeps
nothing or keeps it readable, and relied on only after what was written was read back.

Never: falls back to another back end, lets the environment set one up, repeats a back end's own
error text for a call that had the secret in it.
"""

from __future__ import annotations

import base64
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from vault.errors import BadStore, KeeperRefused
from vault.keepers import MAX_NOTE_BYTES, KeeperKind
from vault.keys import KEY_BYTES, new_key

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

__all__ = ["Keyring", "KeyringName", "build_backend", "keyring_problem"]

SERVICE = "mdx-toolkit vault"
APP_ID = "mdx-toolkit"  # KWallet would otherwise take it from argv
RECOMMENDED_PRIORITY = 1  # keyring's own line between proper back ends and the rest
CHOICE = "choose one of the named back ends, a key file or a passphrase"


class KeyringName(StrEnum):
    """The back ends that are accepted; the value stands in the vault's header."""

    SECRET_SERVICE = "secret-service"  # noqa: S105 — a name
    KWALLET = "kwallet"
    LIBSECRET = "libsecret"
    MACOS_KEYCHAIN = "macos-keychain"
    WINDOWS = "windows"


CLASSES = {
    KeyringName.SECRET_SERVICE: ("keyring.backends.SecretService", "Keyring"),
    KeyringName.KWALLET: ("keyring.backends.kwallet", "DBusKeyring"),
    KeyringName.LIBSECRET: ("keyring.backends.libsecret", "Keyring"),
    KeyringName.MACOS_KEYCHAIN: ("keyring.backends.macOS", "Keyring"),
    KeyringName.WINDOWS: ("keyring.backends.Windows", "WinVaultKeyring"),
}
# Chains hold others, `fail` and `null` keep nothing, keyrings.alt and sagecipher-likes are files.
REFUSED_MODULES = (
    "keyring.backends.chainer",
    "keyring.backends.fail",
    "keyring.backends.null",
    "keyrings.",
)


def build_backend(name: KeyringName) -> KeyringBackend:
    """The back end of that name, ready to use.

    Raises: KeeperRefused when this machine does not have it, or the environment would change it.
    """
    if meddling := sorted(key for key in os.environ if key.startswith("KEYRING_PROPERTY_")):
        raise KeeperRefused(
            f"the environment would change the keyring back end: {meddling[0]}",
            hint=f"unset {meddling[0]}",
        )
    module_name, class_name = CLASSES[name]
    try:
        backend_class: type[KeyringBackend] = getattr(
            importlib.import_module(module_name), class_name
        )
        backend_class.priority  # noqa: B018 — reading it is how keyring asks: does it work here?
        backend = backend_class()
    except Exception as error:  # each back end has errors of its own (D-Bus, GLib, ImportError)
        raise KeeperRefused(
            f"the keyring back end {name} is not available here: {error}", hint=CHOICE
        ) from error
    if hasattr(backend, "appid"):
        backend.appid = APP_ID
    return backend


def keyring_problem(name: KeyringName) -> str | None:
    """Why that back end cannot keep a key here and now, or None. Nothing is stored for it.

    It may take as long as the desktop takes to answer.
    """
    try:
        refuse_unsafe(build_backend(name))
    except KeeperRefused as refused:
        return str(refused)
    return None


@dataclass(frozen=True, slots=True)
class Keyring:
    """The home secret as one item of the named back end, and the note as a second one.

    Raises: KeeperRefused for a name that is not in `KeyringName`.
    """

    backend: str
    build: Callable[[KeyringName], KeyringBackend] = field(default=build_backend, repr=False)

    def __post_init__(self) -> None:
        if self.backend not in set(KeyringName):
            raise KeeperRefused(
                f"{self.backend!r} is not an accepted keyring back end",
                hint=f"accepted: {', '.join(KeyringName)}",
            )

    @property
    def kind(self) -> KeeperKind:
        return KeeperKind.KEYRING

    @property
    def holds_notes(self) -> bool:
        return True

    def describe(self) -> str:
        return f"keyring {self.backend}"

    def make(self, vault_id: bytes) -> tuple[bytes, bytes]:
        secret = new_key("home secret").secret
        self._write(_home_account(vault_id), secret)
        return secret, self.backend.encode()

    def fetch(self, vault_id: bytes, parameters: bytes) -> bytes:
        if parameters != self.backend.encode():
            named = parameters.decode("ascii", "replace")
            raise BadStore(f"this vault's key is in the keyring {named!r}, not {self.backend!r}")
        secret = self._read(_home_account(vault_id))
        if secret is None:
            raise KeeperRefused(
                f"the keyring {self.backend} has no key for vault {vault_id.hex()}",
                hint="is it the keyring of the user who made the vault?",
            )
        if len(secret) != KEY_BYTES:
            raise KeeperRefused(f"the keyring {self.backend} holds something else as the key")
        return secret

    def write_note(self, vault_id: bytes, note: bytes) -> None:
        self._write(_note_account(vault_id), note)

    def read_note(self, vault_id: bytes) -> bytes | None:
        return self._read(_note_account(vault_id))

    def _write(self, account: str, content: bytes) -> None:
        backend = self._backend()
        try:
            backend.set_password(SERVICE, account, base64.b64encode(content).decode())
        except Exception as error:  # back ends raise errors of their own; the text may say too much
            raise self._refused("did not store the key", error) from None
        if self._read(account) != content:
            raise KeeperRefused(
                f"the keyring {self.backend} did not give back what was stored in it", hint=CHOICE
            )

    def _read(self, account: str) -> bytes | None:
        backend = self._backend()
        try:
            found = backend.get_password(SERVICE, account)
        except Exception as error:  # as above
            raise self._refused("did not answer", error) from None
        if found is None:
            return None
        try:
            return base64.b64decode(found, validate=True)[: MAX_NOTE_BYTES + 1]
        except ValueError:
            raise KeeperRefused(
                f"the keyring {self.backend} holds something else under our name"
            ) from None

    def _backend(self) -> KeyringBackend:
        backend = self.build(KeyringName(self.backend))
        refuse_unsafe(backend)
        return backend

    def _refused(self, what: str, error: Exception) -> KeeperRefused:
        return KeeperRefused(
            f"the keyring {self.backend} {what} ({type(error).__name__})",
            hint="is it unlocked? Otherwise " + CHOICE,
        )


def refuse_unsafe(backend: KeyringBackend) -> None:
    """Raises: KeeperRefused for chains, for back ends that keep nothing, and for readable files."""
    for ancestor in type(backend).__mro__:
        if f"{ancestor.__module__}.".startswith(REFUSED_MODULES):
            raise KeeperRefused(
                f"a keyring back end of {ancestor.__module__} is never used", hint=CHOICE
            )
    if backend.priority < RECOMMENDED_PRIORITY:
        raise KeeperRefused(
            f"{type(backend).__name__} is not a back end that keyring itself recommends",
            hint=CHOICE,
        )


def _home_account(vault_id: bytes) -> str:
    return vault_id.hex()


def _note_account(vault_id: bytes) -> str:
    return f"{vault_id.hex()} seen"
