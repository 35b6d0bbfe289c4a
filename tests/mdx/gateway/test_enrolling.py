"""A gateway's certificate: made once, renewed in time, and made anew when it no longer fits."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from mdx.errors import MdxError
from mdx.gateway.enrolling import GatewayFiles, enroll
from tunnel import Purpose, Role, ServerContext, read_identity, server_context
from vault import now

DAY = 86_400.0


def once(state: Path, control: Any, **changed: Any) -> tuple[GatewayFiles, bytes]:
    options = {"name": "gateway", "host": "127.0.0.1", "admin_socket": control.admin_socket}
    files = enroll(state, **(options | changed))
    return files, files.certificate.read_bytes()


def test_its_files_make_a_server_and_name_the_gateway(control: Any, tmp_path: Path) -> None:
    files, pem = once(tmp_path / "gateway", control)
    context = server_context(certificate=pem, key=pem, client_ca=files.ca.read_bytes())
    assert isinstance(context, ServerContext)
    for purpose in (Purpose.SERVER, Purpose.CLIENT):
        certificate = x509.load_pem_x509_certificate(pem)
        identity = read_identity(certificate, now().wall, purpose=purpose)
        assert (identity.role, identity.name) == (Role.GATEWAY, "gateway")
    assert files.ca.read_text() == control.ca
    for path in (files.certificate, files.certificate.parent):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_what_is_good_stays(control: Any, tmp_path: Path) -> None:
    _, first = once(tmp_path / "gateway", control)
    _, second = once(tmp_path / "gateway", control, at=now().wall + 19 * DAY)
    assert second == first


@pytest.mark.parametrize(
    "changed",
    [{"at": now().wall + 21 * DAY}, {"name": "other"}, {"host": "gateway.example"}],
    ids=["two thirds over", "name", "host"],
)
def test_what_no_longer_fits_is_made_anew(
    changed: dict[str, Any], control: Any, tmp_path: Path
) -> None:
    _, first = once(tmp_path / "gateway", control)
    _, second = once(tmp_path / "gateway", control, **changed)
    assert second != first
    assert x509.load_pem_x509_certificate(second) != x509.load_pem_x509_certificate(first)


@pytest.mark.parametrize("damage", [None, b"?"])
@pytest.mark.parametrize("name", ["gateway.pem", "ca.pem"])
def test_a_file_that_is_lost_or_damaged_is_made_anew(
    name: str, damage: bytes | None, control: Any, tmp_path: Path
) -> None:
    _, first = once(tmp_path / "gateway", control)
    path = tmp_path / "gateway" / name
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    _, second = once(tmp_path / "gateway", control)
    assert second != first
    assert (tmp_path / "gateway" / "ca.pem").read_text() == control.ca


def test_control_that_does_not_run_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(MdxError, match="does not answer"):
        enroll(tmp_path / "g", name="g", host="127.0.0.1", admin_socket=tmp_path / "none.sock")


def test_a_name_that_is_none_is_refused_by_control(control: Any, tmp_path: Path) -> None:
    with pytest.raises(MdxError):
        once(tmp_path / "gateway", control, name="Not A Name")
    assert not (tmp_path / "gateway" / "gateway.pem").exists()
