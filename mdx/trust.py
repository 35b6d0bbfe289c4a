"""The bundle of certificate authorities that a wrapped app trusts: its policy's, and the system's.

Most programs let a variable replace their bundle, not add to it, so one file must hold both.
"""

from __future__ import annotations

import hashlib
import os
import ssl
import stat
from contextlib import suppress
from pathlib import Path

from mdx.errors import ConfigError, MdxError
from mdx.folders import private_folder
from mdx.private_files import MAX_BYTES, read_file, write_file

__all__ = ["bundle"]

SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # Alpine, BSDs
)


def bundle(folder: Path, ca_file: Path) -> dict[str, str]:
    """Write (once per content) `ca_file` + the system's authorities; say where.

    Returns `bundle`, the path of both together, and `extra`, that of `ca_file` alone.
    Raises: ConfigError when `ca_file` cannot be read or holds no certificate; MdxError when the
    bundle cannot be written.
    """
    own = _read(ca_file)
    if b"-----BEGIN CERTIFICATE-----" not in own:
        raise ConfigError(f"ca_file {ca_file} holds no PEM certificate")
    both = own.rstrip() + b"\n" + _system_authorities()
    path = private_folder(folder) / f"{hashlib.sha256(both).hexdigest()[:32]}.pem"
    try:
        if read_file(path) != both:
            write_file(path, both)
    except OSError as error:
        raise MdxError(f"{path} cannot be written: {error.strerror}") from None
    return {"bundle": str(path), "extra": str(ca_file)}


def _read(ca_file: Path) -> bytes:
    """Not blocking on a pipe, and no more than any bundle has. Raises: ConfigError."""
    try:
        descriptor = os.open(ca_file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigError(f"ca_file {ca_file} is not a regular file")
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read(MAX_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigError(f"ca_file {ca_file}: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"ca_file {ca_file} is larger than {MAX_BYTES} bytes")
    return content


def _system_authorities() -> bytes:
    """The system's bundle, by its fixed places: the environment is not asked, because the one in
    which the hub was started may be that of a wrapped app, or of somebody who chose it.

    Empty where the system has none.
    """
    compiled = ssl.get_default_verify_paths().openssl_cafile
    for place in (compiled, *SYSTEM_BUNDLES):
        with suppress(OSError):
            return Path(place).read_bytes()
    return b""
