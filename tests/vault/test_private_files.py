"""Files that only we may read, that appear whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from vault.errors import AlreadyExists, LoosePermissions
from vault.private_files import (
    check_private_file,
    check_private_folder,
    create_private,
    publish_private,
    read_private,
    replace_private,
    sync_folder,
)


def test_a_file_is_made_with_mode_0600_whatever_the_umask(tmp_path: Path) -> None:
    for umask in (0o000, 0o377):
        before = os.umask(umask)
        try:
            create_private(tmp_path / f"file-{umask}", b"content")
        finally:
            os.umask(before)
        made = tmp_path / f"file-{umask}"
        assert stat.S_IMODE(made.stat().st_mode) == 0o600
        assert read_private(made, at_most_bytes=100) == b"content"
    assert len(list(tmp_path.iterdir())) == 2  # and no draft is left


def test_a_file_that_is_there_is_not_replaced_by_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    create_private(path, b"first")
    with pytest.raises(AlreadyExists):
        create_private(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_that_leads_nowhere_is_something_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AlreadyExists):
        create_private(path, b"content")
    assert not (tmp_path / "elsewhere").exists()


def test_replacing_changes_a_links_name_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"untouched")
    (tmp_path / "file").symlink_to(tmp_path / "victim")
    replace_private(tmp_path / "file", b"new")
    assert (tmp_path / "victim").read_bytes() == b"untouched"
    assert not (tmp_path / "file").is_symlink()
    assert read_private(tmp_path / "file", at_most_bytes=10) == b"new"


def test_publishing_gives_a_draft_its_name_once(tmp_path: Path) -> None:
    for name in ("one", "two"):
        create_private(tmp_path / name, name.encode())
    publish_private(tmp_path / "one", tmp_path / "final")
    with pytest.raises(AlreadyExists):
        publish_private(tmp_path / "two", tmp_path / "final")
    assert (tmp_path / "final").read_bytes() == b"one"


def test_longer_content_than_allowed_is_cut_right_behind_the_limit(tmp_path: Path) -> None:
    create_private(tmp_path / "file", b"x" * 100)
    assert len(read_private(tmp_path / "file", at_most_bytes=10)) == 11


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620, 0o601])
def test_a_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    create_private(path, b"content")
    path.chmod(mode)
    for check in (check_private_file, lambda path: read_private(path, at_most_bytes=10)):
        with pytest.raises(LoosePermissions) as refused:
            check(path)
        assert "chmod" in refused.value.hint


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o701])
def test_a_folder_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    check_private_folder(folder)
    folder.chmod(mode)
    with pytest.raises(LoosePermissions):
        check_private_folder(folder)


def test_links_are_refused(tmp_path: Path) -> None:
    create_private(tmp_path / "file", b"content")
    (tmp_path / "folder").mkdir(mode=0o700)
    (tmp_path / "to-file").symlink_to(tmp_path / "file")
    (tmp_path / "to-folder").symlink_to(tmp_path / "folder")
    with pytest.raises(LoosePermissions):
        read_private(tmp_path / "to-file", at_most_bytes=10)
    with pytest.raises(LoosePermissions):
        check_private_file(tmp_path / "to-file")
    with pytest.raises(LoosePermissions):
        check_private_folder(tmp_path / "to-folder")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(LoosePermissions):
        read_private(tmp_path / "pipe", at_most_bytes=10)


def test_a_file_is_no_folder_nor_a_folder_a_file(tmp_path: Path) -> None:
    create_private(tmp_path / "file", b"content")
    (tmp_path / "folder").mkdir(mode=0o700)
    with pytest.raises(LoosePermissions):
        check_private_folder(tmp_path / "file")
    with pytest.raises(LoosePermissions):
        check_private_file(tmp_path / "folder")


def test_somebody_elses_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_private(tmp_path / "file", b"content")
    somebody_else = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: somebody_else)
    with pytest.raises(LoosePermissions, match="belongs to"):
        check_private_file(tmp_path / "file")


def test_what_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        check_private_file(tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "folder")
