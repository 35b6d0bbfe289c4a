"""Small files of our own that nobody else may read: written in one step, mode 0600.

A reader sees the old content or the new one, never half of it; after a power cut, too.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

__all__ = ["MAX_BYTES", "read_file", "write_file"]

MAX_BYTES = 4 * 1024 * 1024  # certificates and keys have a few KiB, a bundle of all CAs 1/4 MiB


def read_file(path: Path) -> bytes | None:
    """The content, or None when there is no such file. Links are not followed.

    Raises: OSError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as file:
        return file.read(MAX_BYTES)


def write_file(path: Path, content: bytes) -> None:
    """Put `content` there, in place of what was there, and make it durable. Raises: OSError."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(
        draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
