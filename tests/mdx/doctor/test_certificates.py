"""Certificates by their days left."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from mdx.doctor.certificates import DAY, check_certificate_file, check_end, ends_at


@pytest.mark.parametrize(
    ("left", "standing", "says"),
    [
        (30 * DAY, "ok", "30 days left"),
        (8 * DAY, "warn", "8 days left"),
        (3600, "warn", "1 hours left"),
        (0, "bad", "ended"),
        (-2 * DAY, "bad", "ended 2.0 days ago"),
    ],
)
def test_days_left(left: float, standing: str, says: str) -> None:
    found = check_end("a", 1e9 + left, 1e9, do="renew")
    assert (found.standing, says in found.what) == (standing, True)
    assert found.do == ("" if standing == "ok" else "renew")


def test_files(tmp_path: Path) -> None:
    issued = trustme.CA().issue_cert("a.test")
    pem = issued.private_key_and_cert_chain_pem.bytes()
    file = tmp_path / "a.pem"
    file.write_bytes(pem)
    end = ends_at(pem)
    assert check_certificate_file("a", file, end - 30 * DAY, do="x").standing == "ok"
    assert check_certificate_file("a", file, end + 1, do="x").standing == "bad"
    file.write_text("nothing")
    assert "holds no certificate" in check_certificate_file("a", file, 0, do="x").what
    file.unlink()
    assert "not there" in check_certificate_file("a", file, 0, do="x").what
    file.symlink_to(tmp_path)
    assert check_certificate_file("a", file, 0, do="x").standing == "bad"
