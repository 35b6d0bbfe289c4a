"""Where a standing agent listens and whom it serves there: never anywhere without a rule.

    unix:/path           mode 0600; processes of this user, by the kernel's word
    127.0.0.1:PORT       with `--uid`: sockets that this user made, or `--executable`: processes
                         of exactly one file

Every other address is refused: what is not loopback can be reached by other machines, and a port
that asks nothing by everybody.
"""

from __future__ import annotations

import errno
import hashlib
import os
import pwd
import socket
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdx.errors import MdxError
from mdx.folders import MAX_SOCKET_PATH

__all__ = ["Executable", "ListenAddress", "bind", "parse_address", "pin_executable", "user_id"]

LOOPBACK = "127.0.0.1"
BACKLOG = 128
ALLOWED = "use unix:/path, or 127.0.0.1:PORT with --uid or --executable"
_MAX_UID = 2**32 - 2  # (uid_t)-1 means nobody


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenAddress:
    """A Unix socket (`path`) or a loopback port; port 0 means any free one."""

    path: Path | None = None
    port: int = 0

    @property
    def is_unix(self) -> bool:
        return self.path is not None

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"{LOOPBACK}:{self.port}"

    @property
    def lock_name(self) -> str:
        """The name of the lock that keeps two agents from one address."""
        return f"{hashlib.sha256(str(self).encode()).hexdigest()[:16]}.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Executable:
    """One program's file. The open `descriptor` keeps its inode from being given to another."""

    path: Path
    device: int
    inode: int
    descriptor: int = field(repr=False)

    def rule(self) -> dict[str, Any]:
        """As `mdx.container.admission` understands it."""
        return {
            "kind": "executable",
            "path": str(self.path),
            "device": self.device,
            "inode": self.inode,
        }

    def close(self) -> None:
        """Let go of the file."""
        os.close(self.descriptor)


def parse_address(text: str) -> ListenAddress:
    """Raises: MdxError for anything but the two forms."""
    if text.startswith("unix:"):
        return ListenAddress(path=_unix_path(text.removeprefix("unix:")))
    host, colon, port = text.rpartition(":")
    digits = port.isascii() and port.isdigit() and len(port) <= 5
    if not colon or not digits or int(port) > 65535:
        raise _usage(f"--listen {text}: this is no address", hint=ALLOWED)
    if host != LOOPBACK:
        raise _usage(
            f"--listen {text}: only {LOOPBACK} is served, where the kernel says whose a socket is",
            hint=f"use {LOOPBACK}:{int(port)}",
        )
    return ListenAddress(port=int(port))


def user_id(text: str) -> int:
    """A user's number, from the number or the name. Raises: MdxError."""
    if text.isascii() and text.isdigit() and int(text) <= _MAX_UID:
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError):
        raise _usage(f"--uid {text}: there is no such user") from None


def pin_executable(path: Path) -> Executable:
    """The program at `path`, as it is now; links are followed to the file itself.

    Raises: MdxError for what could never match, or could be changed by anybody else.
    """
    found = Path(os.path.realpath(path))
    try:
        descriptor = os.open(found, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _usage(f"--executable {path}: {error.strerror}") from None
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or not facts.st_mode & 0o111:
            raise _usage(f"--executable {path} is not a program")
        if os.pread(descriptor, 2, 0) == b"#!":
            raise _usage(
                f"--executable {path} is a script: what runs is its interpreter",
                hint="use --listen unix:/path, or mdx run",
            )
        if facts.st_mode & 0o022 or facts.st_uid not in (0, os.getuid()):
            raise _usage(
                f"--executable {path} can be changed by other users",
                hint=f"it must belong to you or root; chmod go-w {found}",
            )
    except BaseException:
        os.close(descriptor)
        raise
    return Executable(path=found, device=facts.st_dev, inode=facts.st_ino, descriptor=descriptor)


def bind(address: ListenAddress) -> socket.socket:
    """A listener at `address`. The caller holds the address's lock.

    Raises: MdxError when somebody else has it, or could take it over.
    """
    if address.path is not None:
        return _bind_unix(address.path)
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((LOOPBACK, address.port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise MdxError(
                f"port {address.port} on {LOOPBACK} is taken",
                hint=f"choose another one, or see who has it: ss -ltnp sport = :{address.port}",
            ) from None
        raise MdxError(f"cannot listen on {address}: {error.strerror}") from None
    return listening


def _unix_path(text: str) -> Path:
    if not text.startswith("/"):
        what = "abstract names have no mode" if text.startswith("@") else "a whole path is needed"
        raise _usage(f"--listen unix:{text}: {what}", hint="use unix:/path")
    path = Path(os.path.normpath(text))
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH:
        raise _usage(
            f"--listen: the path has {length} bytes, the kernel allows {MAX_SOCKET_PATH}: {path}",
            hint="use a folder with a shorter path",
        )
    return path


def _bind_unix(path: Path) -> socket.socket:
    _demand_safe_folder(path.parent)
    _clear_stale(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    umask = os.umask(0o177)
    try:
        listening.bind(os.fspath(path))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise MdxError(f"cannot listen on unix:{path}: {error.strerror}") from None
    finally:
        os.umask(umask)
    return listening


def _demand_safe_folder(folder: Path) -> None:
    """Where others may rename files, they could put a socket of theirs in the place of ours."""
    try:
        found = os.stat(folder)
    except OSError as error:
        raise MdxError(f"{folder}: {error.strerror}", hint=f"mkdir -m 700 {folder}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise MdxError(f"{folder} is not a folder")
    others = found.st_uid not in (0, os.getuid())
    if others or (found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX):
        raise MdxError(
            f"{folder} can be changed by other users, who could take the socket's place",
            hint="use a folder of your own (mode 0700)",
        )


def _clear_stale(path: Path) -> None:
    """Remove a socket of ours that nobody serves. Raises: MdxError for anything else there."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise MdxError(f"{path} exists and is not a socket", hint="choose another path")
    if found.st_uid != os.getuid():
        raise MdxError(
            f"{path} is a socket of uid {found.st_uid}, not yours", hint="choose another path"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as trying:
        trying.setblocking(False)  # a full backlog is an answer, too: somebody listens
        refused = trying.connect_ex(os.fspath(path)) == errno.ECONNREFUSED
    if refused:
        path.unlink(missing_ok=True)
        return
    raise MdxError(f"{path} is served already", hint="mdx ps lists the agents of this device")


def _usage(message: str, *, hint: str = "") -> MdxError:
    return MdxError(message, hint=hint, exit_code=2)
