"""Units into their place. The manager is a stand-in that notes what it is told: a test can have
no systemd of its own, and must not change the one of whoever runs it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mdx.errors import MdxError
from mdx.service import systemd
from mdx.service.units import MARK, Unit

NAME = "mdx-hub.service"
STAND_IN = """#!/bin/sh
echo "$@" >> "$NOTES"
case "$*" in
  *show-environment) exit ${ANSWERS:-0} ;;
  *"${FAILS:-nothing}"*) echo "Job failed."; exit 1 ;;
  *" show "*) echo "ActiveState=active"; echo "SubState=running"
              echo "UnitFileState=enabled"; echo "StatusText=serves unix:/x=y" ;;
esac
"""


def unit(text: str = "one") -> Unit:
    return Unit(name=NAME, text=f"{MARK}{NAME}\n# {text}\n")


class Manager:
    def __init__(self, folder: Path) -> None:
        self.units = folder / "units"
        self._notes = folder / "notes"

    def told(self) -> list[str]:
        """What it was told since the last time, but for the question whether it is there."""
        lines = self._notes.read_text().splitlines() if self._notes.exists() else []
        self._notes.unlink(missing_ok=True)
        return [line.removeprefix("--user ") for line in lines if line != "--user show-environment"]


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manager:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "systemctl").write_text(STAND_IN)
    (tools / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    return Manager(tmp_path)


@pytest.fixture
def no_manager(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> Manager:
    monkeypatch.setenv("ANSWERS", "1")
    return manager


def test_it_is_written_enabled_and_started_and_again_is_no_harm(manager: Manager) -> None:
    first = systemd.install(manager.units, unit())
    assert (manager.units / NAME).read_text() == unit().text
    assert first.became == "written, enabled, runs"
    assert manager.told() == ["daemon-reload", f"enable {NAME}", f"restart {NAME}"]

    again = systemd.install(manager.units, unit())
    assert again.became == "unchanged, enabled, runs"
    assert manager.told() == ["daemon-reload", f"enable {NAME}", f"start {NAME}"]

    changed = systemd.install(manager.units, unit("two"))
    assert changed.became == "replaced, enabled, runs"
    assert manager.told()[-1] == f"restart {NAME}"
    assert os.listdir(manager.units) == [NAME]


def test_it_is_removed_and_again_is_no_harm(manager: Manager) -> None:
    systemd.install(manager.units, unit())
    manager.told()

    assert systemd.remove(manager.units, NAME).became == "removed"
    assert manager.told() == [f"disable --now {NAME}", "daemon-reload"]
    assert os.listdir(manager.units) == []
    assert systemd.remove(manager.units, NAME).became == "was not installed"


def test_without_a_manager_it_says_what_to_run(no_manager: Manager) -> None:
    done = systemd.install(no_manager.units, unit())

    assert done.became == "written"
    assert done.todo == (
        "systemctl --user daemon-reload",
        f"systemctl --user enable {NAME}",
        f"systemctl --user restart {NAME}",
    )
    wants = no_manager.units / "default.target.wants"
    wants.mkdir()
    (wants / NAME).symlink_to(no_manager.units / NAME)
    removed = systemd.remove(no_manager.units, NAME)
    assert removed.todo == (f"systemctl --user stop {NAME}", "systemctl --user daemon-reload")
    assert os.listdir(wants) == []
    assert no_manager.told() == []


def test_no_systemctl_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert systemd.install(tmp_path / "units", unit()).todo


def test_what_the_manager_refuses_is_said(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILS", "restart")
    with pytest.raises(MdxError, match=f"systemctl --user restart {NAME}: Job failed") as caught:
        systemd.install(manager.units, unit())
    assert f"journalctl --user -u {NAME}" in caught.value.hint


def test_a_file_of_somebody_else_is_left_alone(manager: Manager) -> None:
    manager.units.mkdir()
    (manager.units / NAME).write_text("[Unit]\n")
    with pytest.raises(MdxError, match="was not written by mdx service install"):
        systemd.install(manager.units, unit())
    with pytest.raises(MdxError, match="was not written by mdx service install"):
        systemd.remove(manager.units, NAME)
    assert systemd.known(manager.units) == []
    assert (manager.units / NAME).read_text() == "[Unit]\n"
    assert manager.told() == []


def test_what_is_installed_and_how_it_stands(manager: Manager) -> None:
    assert systemd.known(manager.units) == []
    systemd.install(manager.units, unit())

    (found,) = systemd.known(manager.units)

    assert found.name == NAME
    assert (found.state, found.starts) == ("active/running", "enabled")
    assert found.says == "serves unix:/x=y"


def test_without_a_manager_nothing_is_known_of_the_state(no_manager: Manager) -> None:
    systemd.install(no_manager.units, unit())
    (found,) = systemd.known(no_manager.units)
    assert found.state == ""


def test_a_folder_that_cannot_be_written(manager: Manager, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MdxError):
        systemd.install(tmp_path / "file" / "units", unit())


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"HOME": "/home/ada"}, "/home/ada/.config/systemd/user"),
        ({"HOME": "/home/ada", "XDG_CONFIG_HOME": "/x"}, "/x/systemd/user"),
    ],
)
def test_where_units_stand(environ: dict[str, str], folder: str) -> None:
    assert str(systemd.unit_folder(environ)) == folder
