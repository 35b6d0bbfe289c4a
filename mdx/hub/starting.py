"""Reaching the hub, and starting it when it is not there: once, under a lock, for everybody.

Standard library only, since the launcher imports it.
"""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

from mdx.errors import HubUnreachable, MdxError
from mdx.folders import Folders, private_folder
from mdx.hub.wire import connect

__all__ = ["connect_or_start", "hub_lock"]


def hub_lock(folders: Folders) -> Path:
    """The lock that a living hub holds."""
    return folders.run / "hub.lock"


def connect_or_start(folders: Folders) -> socket.socket:
    """A connection to the hub, which is started if need be.

    Raises: HubUnreachable when it cannot be started, with its own reason.
    """
    try:
        return connect(folders.hub_socket)
    except HubUnreachable:
        pass
    for folder in (folders.home, folders.run, folders.log):
        private_folder(folder)
    descriptor = os.open(folders.run / "start.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            return connect(folders.hub_socket)  # somebody else was quicker
        except HubUnreachable:
            _start(folders)
        return connect(folders.hub_socket)
    finally:
        os.close(descriptor)


def _start(folders: Folders) -> None:
    from mdx.spawn import start_daemon  # 8 ms that a warm start need not pay

    try:
        start_daemon("mdx.hub", [], log=folders.log / "hub.log")
    except MdxError as error:
        raise HubUnreachable(str(error), hint=error.hint, exit_code=error.exit_code) from None
