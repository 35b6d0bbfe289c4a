"""The CA's keys as records of control's own vault: made once, read at each start.

The issuing CA is renewed at two thirds of its life. The root's key is read for that moment only;
otherwise its certificate is all that leaves the vault.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.x509.oid import NameOID

from mdx.control.ca import Authority, new_issuing_authority, new_root, wants_renewal
from mdx.errors import MdxError
from tunnel import public_key_hash
from vault import KeyFile, Kind, NoSuchRecord, Vault, vault_kind

__all__ = ["SCOPE", "Authorities", "authorities_at", "open_authorities"]

SCOPE = "none:control"
ROOT, ISSUING = "root-ca", "issuing-ca"


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorities:
    """What a control service works with. `root_pin` is the SHA-256 of the root's SPKI, in hex."""

    root_pem: str
    root_pin: str
    issuing: Authority


def authorities_at(state: Path, tenant: str, now: float) -> Authorities:
    """The CAs of the control service whose folder is `state`; vault and key are made if missing.

    The vault is closed again: the root's key does not stay in memory. Raises: MdxError, VaultError.
    """
    folder = state / "vault"
    keeper = KeyFile(state.parent / "control.key")
    opened = Vault.create if vault_kind(folder) is None else Vault.open_
    with opened(folder, keeper) as vault:
        return open_authorities(vault, tenant, now)


def open_authorities(vault: Vault, tenant: str, now: float) -> Authorities:
    """The CAs of `tenant` in an open vault; made when there are none.

    Raises: MdxError when the CAs there are another tenant's; VaultError.
    """
    if vault.current_lease(SCOPE) is None:
        vault.lease(SCOPE, lifetime_seconds=None)  # held by the root key, so without an end
    root = _read(vault, ROOT)
    if root is None:
        root = new_root(tenant, now)
        vault.put(SCOPE, ROOT, root.to_pem(), kind=Kind.KEY)
    (organisation,) = root.certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    owner = str(organisation.value)
    if owner != tenant:
        raise MdxError(
            f"this state is of the tenant {owner}, not of {tenant}",
            hint="give every tenant a state folder of its own",
            exit_code=78,
        )
    issuing = _read(vault, ISSUING)
    if issuing is None or wants_renewal(issuing.certificate, now):
        issuing = new_issuing_authority(root, tenant, now)
        vault.put(SCOPE, ISSUING, issuing.to_pem(), kind=Kind.KEY)
    return Authorities(
        root_pem=root.certificate_pem,
        root_pin=public_key_hash(root.certificate.public_key()),
        issuing=issuing,
    )


def _read(vault: Vault, name: str) -> Authority | None:
    try:
        pem = vault.get(SCOPE, name).value
    except NoSuchRecord:
        return None
    try:
        return Authority.from_pem(pem)
    except ValueError:  # its text could quote the record
        raise MdxError(f"the record {name} of control's vault is not a CA", exit_code=78) from None
