"""Where the vault's root key is kept, why there, and whether that place is as it should be."""

from __future__ import annotations

import os
import platform
import stat
from collections.abc import Callable
from pathlib import Path

from mdx.doctor.findings import Finding, bad, ok, warn
from mdx.folders import Folders
from vault import KeeperKind, KeyringName, VaultError, keyring_name, keyring_problem, vault_kind

__all__ = ["check_keeper", "check_keyring", "keyrings_of_this_system"]

_WHY = {
    KeeperKind.KEY_FILE: "a key file (the default: works without a desktop and unattended); "
    "whoever can read it can open the vault",
    KeeperKind.PASSPHRASE: "a passphrase, as chosen at mdx vault init; it is asked for at sign-in",
    KeeperKind.KEYRING: "the keyring {keyring}, as named at mdx vault init",
    KeeperKind.CALLER: "the program that made the vault",
}


def check_keeper(folders: Folders) -> list[Finding]:
    """The keeper by the vault's header; nothing is opened."""
    name = "keeper"
    try:
        kind = vault_kind(folders.vault)
        keyring = keyring_name(folders.vault) if kind is KeeperKind.KEYRING else None
    except VaultError as error:
        return [bad(name, str(error), error.hint or "restore the vault's folder from a backup")]
    if kind is None:
        return [warn(name, "there is no vault yet", "mdx up (all on one machine), mdx vault init")]
    found = [ok(name, "root key kept by " + _WHY[kind].format(keyring=keyring))]
    if kind is KeeperKind.KEY_FILE:
        found.append(_check_key_file(folders.key_file))
    if keyring is not None and (problem := keyring_problem(KeyringName(keyring))):
        found.append(bad("keyring", problem, "unlock it, or sign in to the desktop that has it"))
    return found


def check_keyring(
    name: KeyringName, *, problem: Callable[[KeyringName], str | None] = keyring_problem
) -> Finding:
    """Whether one back end could keep a root key here; for information, none is needed."""
    why = problem(name)
    if why is None:
        return ok(f"keyring {name}", f"reachable: mdx vault init --keeper keyring --keyring {name}")
    return ok(f"keyring {name}", "not reachable here; not needed unless you choose it")


def keyrings_of_this_system() -> list[KeyringName]:
    """Those that can be there at all."""
    if platform.system() == "Linux":
        return [KeyringName.SECRET_SERVICE, KeyringName.KWALLET, KeyringName.LIBSECRET]
    return list(KeyringName)


def _check_key_file(path: Path) -> Finding:
    name = "key file"
    try:
        found = os.lstat(path)
    except OSError as error:
        return bad(
            name,
            f"{path}: {error.strerror}",
            "put it back from a backup: without it the vault cannot be opened",
        )
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid():
        return bad(name, f"{path} is not a file of yours", "put your own back, with mode 0600")
    if mode & 0o077:
        return bad(
            name,
            f"{path} has mode {mode:04o}; others could read it",
            f"chmod 600 {path}; if somebody may have read it, make a new vault",
        )
    return ok(name, f"{path}, yours alone")
