"""A gateway's certificate: its key is made here, control's administrator face signs for it.

    gateway.pem   key and certificate chain, in one file so that they change in one step
    ca.pem        the root by which the gateway knows devices and control

A running gateway takes up what is new in these files by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509

from mdx.certificate_key import CertificateKey
from mdx.control.admin import admin_call
from mdx.control.ca import wants_renewal
from mdx.errors import MdxError
from mdx.folders import private_folder
from mdx.private_files import read_file, write_file
from tunnel import Purpose, Role, WrongCertificate, read_identity
from vault import now

__all__ = ["GatewayFiles", "enroll"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayFiles:
    """Where `gateway.toml` finds them. `certificate` and `key` are one file."""

    certificate: Path
    key: Path
    ca: Path


def enroll(
    state: Path, *, name: str, host: str, admin_socket: Path, at: float | None = None
) -> GatewayFiles:
    """The files of the gateway `name`, which devices dial at `host`; made when that is due.

    That is when there are none, when two thirds of the certificate's life are over at `at` (Unix
    seconds, by default now), or when name, host or control's root are others than they were.
    Blocks. Raises: MdxError (AdminUnreachable, AdminRefused, a folder open to others).
    """
    private_folder(state)
    whole, ca_file = state / "gateway.pem", state / "ca.pem"
    at = now().wall if at is None else at
    control = admin_call(admin_socket, "GET", "/v1/status")
    try:
        pem = read_file(whole)
        if (
            pem is None
            or read_file(ca_file) != _bytes(control, "ca")
            or not _is_good(pem, tenant=str(control["tenant"]), name=name, host=host, at=at)
        ):
            key = CertificateKey()
            request = {"name": name, "host": host, "csr": key.request()}
            made = admin_call(admin_socket, "POST", "/v1/gateway-certificates", request)
            write_file(ca_file, _bytes(made, "ca"))
            write_file(whole, key.pem() + _bytes(made, "certificate"))
    except OSError as error:
        raise MdxError(f"{error.filename or state}: {error.strerror}") from None
    except KeyError as error:
        raise MdxError(f"control's answer lacks {error}") from None
    return GatewayFiles(certificate=whole, key=whole, ca=ca_file)


def _is_good(pem: bytes, *, tenant: str, name: str, host: str, at: float) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        identity = read_identity(certificate, at, purpose=Purpose.SERVER)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, WrongCertificate, x509.ExtensionNotFound):
        return False
    dialled = {str(value) for value in names.get_values_for_type(x509.DNSName)}
    dialled |= {str(value) for value in names.get_values_for_type(x509.IPAddress)}
    return (
        (identity.tenant, identity.role, identity.name) == (tenant, Role.GATEWAY, name)
        and {name, host} <= dialled
        and not wants_renewal(certificate, at)
    )


def _bytes(answer: dict[str, Any], key: str) -> bytes:
    return str(answer[key]).encode("ascii")
