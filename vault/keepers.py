"""Where a vault's home secret lives: the 32 bytes that unwrap its root key.

A keeper makes that secret when a vault is created (`make`) and gives it back when the vault is
opened (`fetch`). What it needs for that, other than secrets, are its *parameters*: they stand in
clear in the vault's header and are bound into the wrap of the root key.

A keeper with a place of its own outside the vault also holds a *note* per vault (sealed by the
vault, opaque here), from which a vault that was rolled back to an old copy is recognised. A
passphrase and a caller's key have no such place, and say so by `holds_notes`.

Rules: a secret from a file or header is checked before it is used; nothing falls back to another
keeper; no secret is ever in `describe()`, `repr` or an error.
"""

from __future__ import annotations

import base64
import json
import secrets
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from vault.errors import AlreadyExists, BadStore, KeeperRefused
from vault.keys import KEY_BYTES
from vault.private_files import create_private, read_private, replace_private

__all__ = [
    "MAX_NOTE_BYTES",
    "Argon2Parameters",
    "Caller",
    "Keeper",
    "KeeperKind",
    "KeyFile",
    "Passphrase",
]

KEY_FILE_PREFIX = b"mdx-key-file-1:"
KEY_FILE_BYTES = len(KEY_FILE_PREFIX) + 43 + 1  # base64url of 32 bytes without padding, newline
MAX_NOTE_BYTES = 256  # a note is a sealed 8-byte number, 80 bytes

# RFC 9106 section 4, second recommended option; also the floor for what a header may ask.
MEMORY_KIB, PASSES, LANES = 64 * 1024, 3, 4
# The cap: a header made by somebody else must not make us use all memory or all day.
MAX_MEMORY_KIB, MAX_PASSES, MAX_LANES = 1024 * 1024, 16, 16
SALT_BYTES = 16  # RFC 9106 section 3.1


class KeeperKind(StrEnum):
    """Which keeper a vault needs; the value stands in the vault's header."""

    KEY_FILE = "keyfile"
    PASSPHRASE = "passphrase"  # noqa: S105 — the name of a kind, not a passphrase
    KEYRING = "keyring"
    CALLER = "caller"


class Keeper(Protocol):
    """What a vault asks of the place that keeps its home secret. `vault_id` is 16 bytes."""

    @property
    def kind(self) -> KeeperKind:
        """The keeper's kind, for the vault's header."""

    @property
    def holds_notes(self) -> bool:
        """Whether `write_note` keeps anything."""

    def describe(self) -> str:
        """The place, for a person; no secret."""

    def make(self, vault_id: bytes) -> tuple[bytes, bytes]:
        """The home secret of a new vault (32 bytes), kept from now on, and the parameters.

        Raises: KeeperRefused, LoosePermissions.
        """

    def fetch(self, vault_id: bytes, parameters: bytes) -> bytes:
        """The home secret again (32 bytes).

        Raises: KeeperRefused, LoosePermissions, BadStore for impossible parameters.
        """

    def write_note(self, vault_id: bytes, note: bytes) -> None:
        """Keeps `note` (at most MAX_NOTE_BYTES) in place of the one before.

        Raises: KeeperRefused.
        """

    def read_note(self, vault_id: bytes) -> bytes | None:
        """The note kept last, None when there is none.

        Raises: KeeperRefused, LoosePermissions.
        """


class Noteless:
    """The half of a keeper that has no place for notes."""

    @property
    def holds_notes(self) -> bool:
        return False

    def write_note(self, vault_id: bytes, note: bytes) -> None:
        """Keeps nothing, as `holds_notes` says."""

    def read_note(self, vault_id: bytes) -> bytes | None:
        return None


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A file of mode 0600 with the home secret in it; made when it is not there yet.

    Several vaults may share one key file. Notes stand beside it, `PATH.VAULT_ID.seen`; so keep it
    outside the vault's folder, best on another file system.
    """

    path: Path

    @property
    def kind(self) -> KeeperKind:
        return KeeperKind.KEY_FILE

    @property
    def holds_notes(self) -> bool:
        return True

    def describe(self) -> str:
        return f"key file {self.path}"

    def make(self, vault_id: bytes) -> tuple[bytes, bytes]:
        secret = secrets.token_bytes(KEY_BYTES)
        content = KEY_FILE_PREFIX + base64.urlsafe_b64encode(secret).rstrip(b"=") + b"\n"
        try:
            create_private(self.path, content)
        except AlreadyExists:
            return self.fetch(vault_id, b""), b""
        except OSError as error:
            raise KeeperRefused(f"cannot write {self.path}: {error.strerror}") from error
        return secret, b""

    def fetch(self, vault_id: bytes, parameters: bytes) -> bytes:
        if parameters:
            raise BadStore("the header has parameters for a key file, which takes none")
        try:
            content = read_private(self.path, at_most_bytes=KEY_FILE_BYTES)
        except OSError as error:
            raise KeeperRefused(
                f"cannot read {self.path}: {error.strerror}",
                hint="without its key file a vault cannot be opened; put it back",
            ) from error
        return _parse_key_file(self.path, content)

    def write_note(self, vault_id: bytes, note: bytes) -> None:
        try:
            replace_private(self._note_path(vault_id), note)
        except OSError as error:
            raise KeeperRefused(f"cannot write beside {self.path}: {error.strerror}") from error

    def read_note(self, vault_id: bytes) -> bytes | None:
        try:
            return read_private(self._note_path(vault_id), at_most_bytes=MAX_NOTE_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise KeeperRefused(f"cannot read beside {self.path}: {error.strerror}") from error

    def _note_path(self, vault_id: bytes) -> Path:
        return self.path.with_name(f"{self.path.name}.{vault_id.hex()}.seen")


@dataclass(frozen=True, slots=True, kw_only=True)
class Argon2Parameters:
    """Argon2id costs (RFC 9106), never below the floor and never above the cap.

    Raises: ValueError on construction.
    """

    memory_kib: int = MEMORY_KIB
    passes: int = PASSES
    lanes: int = LANES

    def __post_init__(self) -> None:
        for name, value, floor, cap in (
            ("memory_kib", self.memory_kib, MEMORY_KIB, MAX_MEMORY_KIB),
            ("passes", self.passes, PASSES, MAX_PASSES),
            ("lanes", self.lanes, LANES, MAX_LANES),
        ):
            if type(value) is not int or not floor <= value <= cap:
                raise ValueError(f"{name} must be {floor} to {cap}")


@dataclass(frozen=True, slots=True)
class Passphrase(Noteless):
    """Argon2id over a passphrase. `parameters` are for a new vault; an old one has its own."""

    passphrase: bytes = field(repr=False)
    parameters: Argon2Parameters = Argon2Parameters()

    def __post_init__(self) -> None:
        if not self.passphrase:
            raise KeeperRefused("an empty passphrase protects nothing")

    @property
    def kind(self) -> KeeperKind:
        return KeeperKind.PASSPHRASE

    def describe(self) -> str:
        return "passphrase"

    def make(self, vault_id: bytes) -> tuple[bytes, bytes]:
        salt = secrets.token_bytes(SALT_BYTES)
        fields = {"kdf": "argon2id", **asdict(self.parameters), "salt": salt.hex()}
        return _argon2id(self.passphrase, salt, self.parameters), json.dumps(fields).encode()

    def fetch(self, vault_id: bytes, parameters: bytes) -> bytes:
        salt, costs = _parse_argon2(parameters)
        return _argon2id(self.passphrase, salt, costs)


@dataclass(frozen=True, slots=True)
class Caller(Noteless):
    """32 random bytes that the calling program keeps by means of its own."""

    root_key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.root_key) != KEY_BYTES:
            raise KeeperRefused(f"a caller's key is {KEY_BYTES} random bytes")

    @property
    def kind(self) -> KeeperKind:
        return KeeperKind.CALLER

    def describe(self) -> str:
        return "key given by the caller"

    def make(self, vault_id: bytes) -> tuple[bytes, bytes]:
        return self.root_key, b""

    def fetch(self, vault_id: bytes, parameters: bytes) -> bytes:
        if parameters:
            raise BadStore("the header has parameters for a caller's key, which takes none")
        return self.root_key


def _parse_key_file(path: Path, content: bytes) -> bytes:
    malformed = KeeperRefused(f"{path} is not a key file of this vault's format")
    if len(content) != KEY_FILE_BYTES or not content.startswith(KEY_FILE_PREFIX):
        raise malformed
    encoded = content[len(KEY_FILE_PREFIX) : -1]
    try:
        secret = base64.urlsafe_b64decode(encoded + b"=")
    except ValueError:
        raise malformed from None
    if base64.urlsafe_b64encode(secret).rstrip(b"=") + b"\n" != content[len(KEY_FILE_PREFIX) :]:
        raise malformed  # the decoder skips foreign characters; only one spelling is ours
    return secret


def _parse_argon2(parameters: bytes) -> tuple[bytes, Argon2Parameters]:
    try:
        fields = json.loads(parameters)
        costs = Argon2Parameters(
            memory_kib=fields["memory_kib"], passes=fields["passes"], lanes=fields["lanes"]
        )
        salt = bytes.fromhex(fields["salt"])
        if len(salt) != SALT_BYTES or fields["kdf"] != "argon2id" or len(fields) != 5:
            raise ValueError("salt, kdf or number of fields")
    except (ValueError, KeyError, TypeError) as error:
        raise BadStore(
            f"the header's passphrase parameters are not acceptable: {error}",
            hint="they were changed from outside, or a newer version wrote them",
        ) from error
    return salt, costs


def _argon2id(passphrase: bytes, salt: bytes, costs: Argon2Parameters) -> bytes:
    kdf = Argon2id(
        salt=salt,
        length=KEY_BYTES,
        iterations=costs.passes,
        lanes=costs.lanes,
        memory_cost=costs.memory_kib,
    )
    return kdf.derive(passphrase)
