"""Small private files: whole or not at all, ours alone, never through a link."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from mdx.private_files import read_file, write_file


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert read_file(path) is None
    for content in (b"first", b"second, longer", b""):
        write_file(path, content)
        assert read_file(path) == content
    assert os.listdir(tmp_path) == ["file"]


def test_it_is_for_us_alone_whatever_the_umask_and_the_old_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch(0o666)
    umask = os.umask(0)
    try:
        write_file(path, b"x")
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"untouched")
    (tmp_path / "link").symlink_to("elsewhere")
    with pytest.raises(OSError, match="link"):
        read_file(tmp_path / "link")
    write_file(tmp_path / "link", b"new")
    assert (tmp_path / "elsewhere").read_bytes() == b"untouched"
    assert not (tmp_path / "link").is_symlink()


def test_what_cannot_be_put_in_place_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_file(tmp_path / "folder", b"x")
    assert os.listdir(tmp_path) == ["folder"]
