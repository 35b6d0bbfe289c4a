"""Small files that only we may read: checked, durable, never through a link.

A file is *private* when it is a regular file of the effective user with no permission for group
or others; a folder likewise. Writing is fsync of the file, then an atomic name, then fsync of the
folder: without the last step a power cut can lose the name.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from vault.errors import AlreadyExists, BadStore, LoosePermissions

__all__ = [
    "check_private_file",
    "check_private_folder",
    "create_private",
    "make_private_folder",
    "publish_private",
    "read_private",
    "replace_private",
    "sync_folder",
]


def read_private(path: Path, *, at_most_bytes: int) -> bytes:
    """The file's content, which may be cut at `at_most_bytes` + 1: the caller refuses that.

    Raises: LoosePermissions; FileNotFoundError and other OSError as they come.
    """
    with _opened(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as descriptor:
        _check(path, os.fstat(descriptor), want_folder=False)
        return _read(descriptor, at_most_bytes + 1)


def create_private(path: Path, content: bytes) -> None:
    """A new file of mode 0600 that appears whole or not at all.

    Raises: AlreadyExists; OSError.
    """
    _publish(_written_beside(path, content), path)


def publish_private(draft: Path, path: Path) -> None:
    """Gives the finished file `draft` the name `path`, which must be free, and makes it durable.

    Raises: AlreadyExists; OSError.
    """
    with _opened(draft, os.O_RDONLY | os.O_NOFOLLOW) as descriptor:
        os.fsync(descriptor)
    _publish(draft, path)


def replace_private(path: Path, content: bytes) -> None:
    """The file at `path`, if any, is replaced in one step.

    Raises: OSError.
    """
    draft = _written_beside(path, content)
    draft.replace(path)
    sync_folder(path.parent)


def make_private_folder(path: Path) -> None:
    """A folder of mode 0700, made with those above it unless it is there.

    Raises: LoosePermissions, BadStore.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_private_folder(path)
    except FileExistsError:
        raise LoosePermissions(f"{path} is not a folder") from None
    except OSError as error:
        raise BadStore(f"cannot make {path}: {error.strerror}") from error


def check_private_file(path: Path) -> None:
    """Raises: LoosePermissions; FileNotFoundError when there is nothing."""
    _check(path, os.lstat(path), want_folder=False)


def check_private_folder(path: Path) -> None:
    """Raises: LoosePermissions; FileNotFoundError when there is nothing."""
    _check(path, os.lstat(path), want_folder=True)


def sync_folder(path: Path) -> None:
    """Makes names created, renamed or removed in the folder durable."""
    with _opened(path, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        os.fsync(descriptor)


def _written_beside(path: Path, content: bytes) -> Path:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        with _opened(draft, flags) as descriptor:
            os.fchmod(descriptor, 0o600)  # whatever the umask took away or left
            written = 0
            while written < len(content):
                written += os.write(descriptor, content[written:])
            os.fsync(descriptor)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    return draft


def _publish(draft: Path, path: Path) -> None:
    # link, not rename: rename would silently take the place of a file that is already there
    try:
        os.link(draft, path, follow_symlinks=False)
    except FileExistsError:
        raise AlreadyExists(f"{path} already exists") from None
    finally:
        draft.unlink()
    sync_folder(path.parent)


def _check(path: Path, found: os.stat_result, *, want_folder: bool) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise LoosePermissions(f"{path} is a symbolic link", hint="name the real place")
    if want_folder and not stat.S_ISDIR(found.st_mode):
        raise LoosePermissions(f"{path} is not a folder")
    if not want_folder and not stat.S_ISREG(found.st_mode):
        raise LoosePermissions(f"{path} is not a regular file")
    if found.st_uid != os.geteuid():
        raise LoosePermissions(f"{path} belongs to user {found.st_uid}, not to us")
    if loose := stat.S_IMODE(found.st_mode) & 0o077:
        raise LoosePermissions(
            f"{path} gives permissions to others (mode {loose:03o} too much)",
            hint=f"chmod go= {path}",
        )


def _read(descriptor: int, at_most_bytes: int) -> bytes:
    content = b""
    while len(content) < at_most_bytes:
        piece = os.read(descriptor, at_most_bytes - len(content))
        if not piece:
            break
        content += piece
    return content


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if path.is_symlink():  # O_NOFOLLOW's ELOOP, said in words
            raise LoosePermissions(
                f"{path} is a symbolic link", hint="name the real place"
            ) from error
        raise
    try:
        yield descriptor
    finally:
        os.close(descriptor)
