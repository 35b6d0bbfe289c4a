"""What a gateway proves and trusts: its certificate, the device CA, and contexts made of them.

Rules of this file:
- The files are looked at for each connection, and read anew when one has changed: renewal needs no
  restart. What is new but of no use is reported once, and the old stays in use.
- A certificate that is another gateway's, or another tenant's, is an error at the start and not a
  riddle for the first client.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509

from mdx.control.client import ControlClient
from mdx.errors import ConfigError, MdxError
from mdx.gateway.config import GatewayConfig, HostEntry
from tunnel import (
    Host,
    Hosts,
    Purpose,
    Role,
    ServerContext,
    WrongCertificate,
    client_context,
    parse_destination,
    read_identity,
    server_context,
)

__all__ = ["Credentials", "Loaded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What is made of one state of the files."""

    server: ServerContext
    hosts: Hosts
    control: ControlClient


class Credentials:
    """The files that `config` names, relative to `folder`. Raises: ConfigError.

    `log(event, **facts)` is told of every reload; `clock` is the wall clock in Unix seconds.
    """

    def __init__(
        self,
        config: GatewayConfig,
        folder: Path,
        *,
        clock: Callable[[], float],
        log: Callable[..., None],
    ) -> None:
        self._config = config
        self._folder = folder
        self._clock = clock
        self._log = log
        self._state = self._look()
        self._loaded = self._load()

    def current(self) -> Loaded:
        """What the files say now, or said when they were last of use."""
        state = self._look()
        if state != self._state:
            self._state = state
            try:
                self._loaded = self._load()
            except MdxError as error:
                self._log("certificates.not_reloaded", reason=str(error))
            else:
                self._log("certificates.reloaded")
        return self._loaded

    def _look(self) -> tuple[tuple[int, ...] | None, ...]:
        """What changes when a file is replaced or rewritten."""
        return tuple(_look_at(path) for path in self._paths())

    def _paths(self) -> list[Path]:
        config = self._config
        names = [config.certificate, config.key, config.ca]
        names += [host.ca_file for host in config.hosts if host.ca_file is not None]
        return [self._folder / name for name in names]

    def _load(self) -> Loaded:
        config = self._config
        files = _Files(
            certificate=self._read("certificate", config.certificate),
            key=self._read("key", config.key, private=True),
            ca=self._read("ca", config.ca),
        )
        self._check_identity(files.certificate)
        try:
            server = server_context(
                certificate=files.certificate, key=files.key, client_ca=files.ca
            )
        except ValueError as error:
            raise ConfigError(f"certificate, key and ca are of no use together: {error}") from None
        control = ControlClient(
            host=config.control.host,
            port=config.control.port,
            name=config.control.name,
            ca=files.ca,
            certificate=files.certificate,
            key=files.key,
            clock=self._clock,
        )
        hosts = [self._host(index, host, files) for index, host in enumerate(config.hosts)]
        return Loaded(server=server, hosts=Hosts(hosts), control=control)

    def _check_identity(self, pem: bytes) -> None:
        config = self._config
        try:
            certificate = x509.load_pem_x509_certificate(pem)
            identity = read_identity(certificate, self._clock(), purpose=Purpose.SERVER)
        except ValueError:
            raise ConfigError(f"certificate: {config.certificate} holds none in PEM") from None
        except WrongCertificate as error:
            raise ConfigError(
                f"certificate: {config.certificate}: {error}", hint="enroll this gateway anew"
            ) from None
        found = (identity.tenant, identity.role, identity.name)
        if found != (config.tenant, Role.GATEWAY, config.name):
            raise ConfigError(
                f"certificate: {config.certificate} is for the {identity.role.value} "
                f"{identity.name or identity.device} of {identity.tenant}, "
                f"not for the gateway {config.name} of {config.tenant}"
            )

    def _host(self, index: int, entry: HostEntry, files: _Files) -> Host:
        tls = None
        if entry.ca_file is not None:
            ca = self._read(f"hosts[{index}].ca_file", entry.ca_file)
            try:
                tls = client_context(ca=ca, certificate=files.certificate, key=files.key)
            except ValueError as error:
                raise ConfigError(f"hosts[{index}].ca_file: {entry.ca_file}: {error}") from None
        return Host(destination=entry.destination, dial=parse_destination(entry.dial), tls=tls)

    def _read(self, key: str, name: str, *, private: bool = False) -> bytes:
        path = self._folder / name
        try:
            with open(path, "rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                if private and mode & 0o077:
                    raise ConfigError(
                        f"{key}: {path} has mode {stat.S_IMODE(mode):04o}; others could read it",
                        hint=f"chmod 600 {path}",
                    )
                return file.read()
        except OSError as error:
            raise ConfigError(f"{key}: {path}: {error.strerror}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)
    ca: bytes = field(repr=False)


def _look_at(path: Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
