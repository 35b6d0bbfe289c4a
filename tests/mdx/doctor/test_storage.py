"""Folders, disk, audit and configuration, right and wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdx.audit import AuditLog
from mdx.doctor.storage import check_audit, check_configuration, check_disk, check_folders

GOOD = "[apps.payroll]\n"


def private(path: Path) -> Path:
    path.mkdir(mode=0o700)
    return path


def test_folders_of_ours_alone(tmp_path: Path) -> None:
    one, other = private(tmp_path / "one"), private(tmp_path / "other")
    (found,) = check_folders([one, other, tmp_path / "not-made-yet"])
    assert (found.standing, found.what) == ("ok", "2 folders, yours alone")


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o701, 0o777])
def test_a_folder_that_is_open_to_others(tmp_path: Path, mode: int) -> None:
    folder = private(tmp_path / "one")
    folder.chmod(mode)
    (found,) = check_folders([folder])
    assert (found.standing, found.do) == ("bad", f"chmod 700 {folder}")


def test_a_link_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(private(tmp_path / "one"))
    assert check_folders([tmp_path / "link"])[0].standing == "bad"


@pytest.mark.root
def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    import os

    folder = private(tmp_path / "one")
    os.chown(folder, 12345, -1)
    assert "uid 12345" in check_folders([folder])[0].what


def test_no_state_at_all(tmp_path: Path) -> None:
    assert check_folders([tmp_path / "none"])[0].standing == "warn"


def test_the_disk(tmp_path: Path) -> None:
    assert "MiB free" in check_disk(tmp_path).what
    assert check_disk(tmp_path / "none").standing == "warn"
    assert check_disk(Path("/proc")).standing == "bad"  # a file system without any room


def test_an_audit_that_was_changed(tmp_path: Path) -> None:
    folder = private(tmp_path / "audit")
    with AuditLog(folder / "hub.jsonl", writer="hub") as log:
        for _ in range(3):
            log.append("hub.started", pid=1)
    (whole,) = check_audit(folder)
    assert (whole.standing, whole.what) == ("ok", "1 chains with 3 records, whole")
    lines = (folder / "hub.jsonl").read_text().splitlines(keepends=True)
    (folder / "hub.jsonl").write_text(lines[0] + lines[2])
    (broken,) = check_audit(folder)
    assert broken.standing == "bad"
    assert broken.what.startswith("hub.jsonl: ")
    assert check_audit(tmp_path / "none")[0].standing == "warn"


@pytest.mark.parametrize(
    ("text", "standings"),
    [
        (None, ["warn"]),
        (GOOD, ["ok"]),
        ("[apps.payroll]\nminimum_level = 2\n", ["ok", "bad"]),
        ('[apps.payroll]\nca_file = "gone.pem"\n', ["ok", "bad"]),
        ("[apps.payroll]\nnetwork = 1\n", ["bad"]),
        ("[apps.payroll", ["bad"]),
    ],
)
def test_the_configuration(tmp_path: Path, text: str | None, standings: list[str]) -> None:
    home = private(tmp_path / "home")
    if text is not None:
        (home / "mdx.toml").write_text(text)
        (home / "mdx.toml").chmod(0o600)
    environ = {"MDX_HOME": str(home), "HOME": str(tmp_path)}
    found = check_configuration(None, environ)
    assert [finding.standing for finding in found] == standings
    assert all(finding.do for finding in found if finding.standing != "ok")
    assert all("\n" not in finding.what for finding in found)
