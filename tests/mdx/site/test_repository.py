"""The sample repository: what git itself says of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mdx.site.repository import HANDBOOK, build, handbook

# Nothing of the machine's or the user's git configuration.
ENVIRON = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "LC_ALL": "C",
}


def git(*arguments: str, folder: Path) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=ENVIRON, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    root = tmp_path / "handbook.git"
    for name, content in handbook().items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def test_fsck_finds_nothing_wrong(bare: Path) -> None:
    said = git("fsck", "--strict", "--full", "--no-dangling", folder=bare)
    assert not [line for line in said.splitlines() if "Checking" not in line]


def test_a_clone_has_the_files_of_the_last_revision(bare: Path, tmp_path: Path) -> None:
    git("clone", "--quiet", str(bare), str(tmp_path / "clone"), folder=tmp_path)
    found = {
        str(path.relative_to(tmp_path / "clone")): path.read_text()
        for path in (tmp_path / "clone").rglob("*.md")
    }
    assert found == HANDBOOK[-1][1]


def test_history_and_tag_are_there(bare: Path) -> None:
    messages = git("log", "--format=%s", "--reverse", "main", folder=bare).splitlines()
    assert messages == [message for message, _ in HANDBOOK]
    assert git("describe", "main", folder=bare).strip() == "v1"


def test_it_is_the_same_everywhere(bare: Path) -> None:
    # Object ids depend on every byte of every file, author and date.
    assert git("rev-parse", "main", folder=bare).strip() == EXPECTED_COMMIT


def test_info_refs_are_what_git_itself_would_write(bare: Path) -> None:
    ours = (bare / "info" / "refs").read_bytes()
    git("update-server-info", "--force", folder=bare)
    assert (bare / "info" / "refs").read_bytes() == ours
    assert (bare / "objects" / "info" / "packs").read_bytes() == handbook()["objects/info/packs"]


def test_trees_are_sorted_as_git_sorts_them(tmp_path: Path) -> None:
    # "a.b" < "a/" < "a0": a subtree sorts as if its name ended in a slash.
    names = {"a0": "", "a/inside": "", "a.b": "", "A": "", "a-": ""}
    for name, content in build((("one", names),), tag="t").items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    git("fsck", "--strict", "--full", folder=tmp_path)
    listed = git("ls-tree", "-r", "--name-only", "main", folder=tmp_path).split()
    assert sorted(listed) == sorted(names)


EXPECTED_COMMIT = "392fbe81962a298a0fc3ac7ba9bddea98d89ee7a"
