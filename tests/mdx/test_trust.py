"""What a wrapped app trusts: its policy's authorities and the system's, and nobody else's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from mdx import trust
from mdx.errors import ConfigError
from mdx.private_files import MAX_BYTES

OWN = b"-----BEGIN CERTIFICATE-----\nb3du\n-----END CERTIFICATE-----\n"
PLANTED = b"-----BEGIN CERTIFICATE-----\ncGxhbnRlZA==\n-----END CERTIFICATE-----\n"


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_bytes(OWN)
    return path


def test_both_stand_in_one_private_file(tmp_path: Path, ca_file: Path) -> None:
    said = trust.bundle(tmp_path / "trust", ca_file)

    bundle = Path(said["bundle"])
    assert said["extra"] == str(ca_file)
    assert bundle.read_bytes().startswith(OWN)
    assert stat.S_IMODE(bundle.stat().st_mode) == 0o600
    assert trust.bundle(tmp_path / "trust", ca_file) == said
    assert list((tmp_path / "trust").iterdir()) == [bundle]


def test_the_systems_authorities_are_those_of_its_fixed_places(
    tmp_path: Path, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = tmp_path / "system.pem"
    system.write_bytes(b"of the system\n")
    monkeypatch.setattr(trust, "SYSTEM_BUNDLES", (os.fspath(system),))
    monkeypatch.setattr("ssl.get_default_verify_paths", lambda: _Paths(tmp_path / "none"))

    said = trust.bundle(tmp_path / "trust", ca_file)

    assert Path(said["bundle"]).read_bytes() == OWN + b"of the system\n"


class _Paths:
    def __init__(self, path: Path) -> None:
        self.openssl_cafile = os.fspath(path)


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE"])
def test_the_environment_brings_no_authority(
    tmp_path: Path, ca_file: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    planted = tmp_path / "planted.pem"
    planted.write_bytes(PLANTED)
    monkeypatch.setenv(name, os.fspath(tmp_path if name.endswith("DIR") else planted))

    said = trust.bundle(tmp_path / "trust", ca_file)

    assert PLANTED not in Path(said["bundle"]).read_bytes()


def test_a_bundle_that_somebody_changed_is_written_anew(tmp_path: Path, ca_file: Path) -> None:
    bundle = Path(trust.bundle(tmp_path / "trust", ca_file)["bundle"])
    before = bundle.read_bytes()
    bundle.write_bytes(PLANTED)

    trust.bundle(tmp_path / "trust", ca_file)

    assert bundle.read_bytes() == before


def test_what_is_no_file_of_certificates_is_refused_at_once(tmp_path: Path) -> None:
    """A pipe that nobody writes to would hold up the hub, a device without an end fill it."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    with open(tmp_path / "large", "wb") as large:
        large.truncate(MAX_BYTES + 1)
    expected = {
        tmp_path / "pipe": "is not a regular file",
        Path("/dev/zero"): "is not a regular file",
        tmp_path: "is not a regular file",
        tmp_path / "missing": "No such file",
        tmp_path / "empty": "holds no PEM certificate",
        tmp_path / "large": "is larger than",
    }
    open_before = set(os.listdir("/proc/self/fd"))
    for path, why in expected.items():
        with pytest.raises(ConfigError, match=why) as caught:
            trust.bundle(tmp_path / "trust", path)
        assert str(path) in str(caught.value)
    assert set(os.listdir("/proc/self/fd")) == open_before
    assert not (tmp_path / "trust").exists()
