import os
from pathlib import Path

import pytest

from mdx.errors import MdxError
from mdx.folders import MAX_SOCKET_PATH, find_folders, private_folder


def test_mdx_home_names_every_folder(tmp_path: Path) -> None:
    folders = find_folders({"MDX_HOME": str(tmp_path / "state"), "HOME": "/nowhere"})

    assert folders.home == tmp_path / "state"
    assert folders.hub_socket == tmp_path / "state" / "run" / "hub.sock"
    assert {folders.vault.parent, folders.audit.parent, folders.log.parent} == {folders.home}
    assert not folders.home.exists()


def test_without_it_the_xdg_data_folder_counts() -> None:
    folders = find_folders({"HOME": "/h", "XDG_DATA_HOME": "/data"})

    assert folders.home == Path("/data/mdx")
    assert find_folders({"HOME": "/h"}).home == Path("/h/.local/share/mdx")


def test_a_shell_and_a_cron_job_of_one_user_find_the_same_hub(tmp_path: Path) -> None:
    """A login session has a runtime folder of its own; a job of the same user has none."""
    session = find_folders({"HOME": "/h", "XDG_RUNTIME_DIR": str(tmp_path)})

    assert session.hub_socket == find_folders({"HOME": "/h"}).hub_socket


def test_a_relative_mdx_home_becomes_absolute() -> None:
    assert find_folders({"MDX_HOME": "state"}).home == Path(os.path.abspath("state"))


def test_a_path_too_long_for_a_socket_is_refused_at_once() -> None:
    with pytest.raises(MdxError, match=str(MAX_SOCKET_PATH)) as caught:
        find_folders({"MDX_HOME": "/" + "x" * MAX_SOCKET_PATH})

    assert "shorter path" in caught.value.hint


def test_a_private_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    made = private_folder(tmp_path / "a" / "b")

    assert made.stat().st_mode & 0o777 == 0o700


def test_a_folder_open_to_others_is_refused_with_the_cure(tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    loose.chmod(0o750)

    with pytest.raises(MdxError, match="0750") as caught:
        private_folder(loose)

    assert caught.value.hint == f"chmod 700 {loose}"
    assert caught.value.exit_code == 78


def test_a_link_is_not_a_private_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")

    with pytest.raises(MdxError, match="links are not followed"):
        private_folder(link)


def test_a_folder_that_cannot_be_made_is_said_so() -> None:
    with pytest.raises(MdxError, match="cannot be made: Not a directory"):
        private_folder(Path("/dev/null/state"))
