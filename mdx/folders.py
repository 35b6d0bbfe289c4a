"""Where mdx keeps things: one folder of state per user, private to that user.

`$MDX_HOME` names the folder; without it the XDG data folder is used. The hub's socket stands there
too and not in `$XDG_RUNTIME_DIR`: a job of cron has none, and must find the hub of its user.
Standard library only, since `mdx run` imports this before it does anything else.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from mdx.errors import MdxError

__all__ = ["MAX_SOCKET_PATH", "Folders", "find_folders", "private_folder"]

MAX_SOCKET_PATH = 107  # sun_path of sockaddr_un on Linux is 108 bytes with its NUL


class Folders:
    """Every path that mdx itself writes to, below `home`.

    (No dataclass: importing those takes 7 ms, which every `mdx run` would pay.)
    """

    __slots__ = ("home",)

    def __init__(self, *, home: Path) -> None:
        self.home = home

    @property
    def run(self) -> Path:
        return self.home / "run"

    @property
    def vault(self) -> Path:
        return self.home / "vault"

    @property
    def key_file(self) -> Path:
        return self.home / "keeper.key"

    @property
    def audit(self) -> Path:
        return self.home / "audit"

    @property
    def log(self) -> Path:
        return self.home / "log"

    @property
    def trust(self) -> Path:
        return self.home / "trust"

    @property
    def runs(self) -> Path:
        return self.run / "runs"

    @property
    def hub_socket(self) -> Path:
        return self.run / "hub.sock"


def find_folders(environ: Mapping[str, str]) -> Folders:
    """The folders that `environ` asks for; nothing is created.

    Raises: MdxError when the hub's socket path would be too long for the kernel.
    """
    if named := environ.get("MDX_HOME"):
        home = Path(os.path.abspath(named))
    else:
        user = environ.get("HOME") or os.path.expanduser("~")
        data = environ.get("XDG_DATA_HOME") or os.path.join(user, ".local", "share")
        home = Path(data) / "mdx"
    folders = Folders(home=home)
    length = len(os.fsencode(folders.hub_socket))
    if length > MAX_SOCKET_PATH:
        raise MdxError(
            f"the hub's socket path has {length} bytes, the kernel allows {MAX_SOCKET_PATH}: "
            f"{folders.hub_socket}",
            hint="set MDX_HOME to a folder with a shorter path",
            exit_code=78,
        )
    return folders


def private_folder(path: Path) -> Path:
    """Make `path` (and what is above it) if missing; it must be ours alone.

    Raises: MdxError when it cannot be made, is a link, belongs to somebody else or is open to
    others.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = os.lstat(path)
    except OSError as error:
        raise MdxError(f"{path} cannot be made: {error.strerror}", exit_code=78) from None
    if not stat.S_ISDIR(found.st_mode):
        raise MdxError(f"{path} is not a folder (links are not followed)", exit_code=78)
    if found.st_uid != os.getuid():
        raise MdxError(f"{path} belongs to uid {found.st_uid}, not to you", exit_code=78)
    if found.st_mode & 0o077:
        raise MdxError(
            f"{path} has mode {stat.S_IMODE(found.st_mode):04o}; others could get in",
            hint=f"chmod 700 {path}",
            exit_code=78,
        )
    return path
