"""Putting units into place and having the user's systemd take them; without one, saying so."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mdx.errors import MdxError
from mdx.service.units import MARK, Unit
from mdx.spawn import run_tool

__all__ = ["Installed", "Known", "install", "known", "remove", "unit_folder"]

STATES = {"ActiveState": "", "SubState": "", "UnitFileState": "", "StatusText": ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What became of one unit. `todo` are the commands that are left to a person."""

    name: str
    path: Path
    became: str
    todo: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A unit of ours and how it stands; `state` is empty where no systemd answers."""

    name: str
    path: Path
    state: str
    starts: str
    says: str


def unit_folder(environ: Mapping[str, str]) -> Path:
    """Where this user's own units stand (systemd.unit(5))."""
    home = environ.get("HOME") or os.path.expanduser("~")
    return Path(environ.get("XDG_CONFIG_HOME") or Path(home) / ".config") / "systemd" / "user"


def install(folder: Path, unit: Unit) -> Installed:
    """Write the unit, enable it and have it run as it stands there now. Can be done again.

    Raises: MdxError when the file is somebody else's or cannot be written, or systemd refuses.
    """
    path = folder / unit.name
    became = _write(path, unit.text)
    start = [["daemon-reload"], ["enable", unit.name]]
    # What is unchanged and runs goes on; what has changed must be started anew to hold.
    start.append(["start" if became == "unchanged" else "restart", unit.name])
    if not _manager_answers():
        return Installed(name=unit.name, path=path, became=became, todo=_typed(start))
    _do(start, unit.name)
    return Installed(name=unit.name, path=path, became=f"{became}, enabled, runs")


def remove(folder: Path, name: str) -> Installed:
    """Stop the unit and take it away. Can be done again.

    Raises: MdxError when the file is somebody else's, or systemd refuses.
    """
    path = folder / name
    is_there = _is_ours(path)
    answers = _manager_answers()
    if is_there and answers:
        _do([["disable", "--now", name]], name)
    if is_there:
        path.unlink()
    wants = folder / "default.target.wants" / name
    if wants.is_symlink():  # what `enable` made, where nobody is there to take it back
        wants.unlink()
    became = "removed" if is_there else "was not installed"
    if answers:
        _do([["daemon-reload"]], name)
        return Installed(name=name, path=path, became=became)
    todo = _typed([["stop", name], ["daemon-reload"]]) if is_there else ()
    return Installed(name=name, path=path, became=became, todo=todo)


def known(folder: Path) -> list[Known]:
    """Our units in this folder."""
    found = []
    answers = _manager_answers()
    for path in sorted(folder.glob("mdx-*.service")):
        if not _is_ours(path, strict=False):
            continue
        facts = dict(STATES)
        if answers:
            asked = ["show", "--property", ",".join(STATES), path.name]
            status, said = run_tool(["systemctl", "--user", *asked])
            if status == 0:
                facts |= dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
        state = "/".join(filter(None, (facts["ActiveState"], facts["SubState"])))
        found.append(
            Known(
                name=path.name,
                path=path,
                state=state,
                starts=facts["UnitFileState"],
                says=facts["StatusText"],
            )
        )
    return found


def _manager_answers() -> bool:
    return run_tool(["systemctl", "--user", "show-environment"])[0] == 0


def _do(commands: list[list[str]], name: str) -> None:
    for command in commands:
        status, said = run_tool(["systemctl", "--user", *command])
        if status != 0:
            last = said.splitlines()[-1] if said else f"status {status}"
            raise MdxError(
                f"systemctl --user {' '.join(command)}: {last}",
                hint=f"systemctl --user status {name}; journalctl --user -u {name}",
            )


def _typed(commands: list[list[str]]) -> tuple[str, ...]:
    return tuple(f"systemctl --user {' '.join(command)}" for command in commands)


def _is_ours(path: Path, *, strict: bool = True) -> bool:
    """Is our unit there? Raises: MdxError, when `strict`, for a file that we did not write."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            ours = file.readline().startswith(MARK)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise MdxError(f"{path}: {error.strerror}") from None
    if not ours and strict:
        raise MdxError(
            f"{path} was not written by mdx service install", hint="move it away, then try again"
        )
    return ours


def _write(path: Path, text: str) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text() if _is_ours(path) else None
        if before == text:
            return "unchanged"
        fresh = path.with_name(f".{path.name}.new")
        fresh.write_text(text)
        fresh.replace(path)
    except OSError as error:
        raise MdxError(f"{path} cannot be written: {error.strerror}") from None
    return "written" if before is None else "replaced"
