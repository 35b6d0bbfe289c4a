"""The text of units, read back strictly by the rules of systemd.syntax(7)."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdx.errors import MdxError
from mdx.service.units import MARK, Unit, agent_unit, hub_unit

# systemd.unit(5), systemd.service(5), systemd.exec(5), systemd.kill(5): what is known there.
DIRECTIVES = {
    "Unit": {"Description", "Wants", "After"},
    "Service": {
        *("Type", "NotifyAccess", "ExecStart", "ExecReload", "Environment", "Restart"),
        *("RestartSec", "RestartPreventExitStatus", "WatchdogSec", "KillMode", "TimeoutStopSec"),
        *("NoNewPrivileges", "UMask", "LimitCORE", "LockPersonality", "RestrictNamespaces"),
        *("RestrictRealtime", "RestrictSUIDSGID", "RestrictAddressFamilies"),
        *("SystemCallArchitectures", "SystemCallFilter", "SystemCallErrorNumber"),
    },
    "Install": {"WantedBy"},
}
PYTHON, LOG = "/opt/mdx/bin/python", "/home/ada/.local/share/mdx/log/hub.log"


def parse(unit: Unit) -> dict[str, dict[str, list[str]]]:
    """Sections, directives and values; every line must be understood."""
    sections: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in unit.text.splitlines():
        if not line or line.startswith("#"):
            continue
        if header := re.fullmatch(r"\[([A-Z][a-z]+)\]", line):
            section = header[1]
            assert section not in sections
            sections[section] = {}
            continue
        name, equals, value = line.partition("=")
        assert equals
        assert name in DIRECTIVES[section], line
        assert not value.endswith("\\")
        sections[section].setdefault(name, []).append(value)
    assert set(sections) == set(DIRECTIVES)
    return sections


def words(value: str, *, dollars: bool) -> list[str]:
    """Quoted words, their escapes undone. Specifiers and variables must not be left."""
    found = []
    rest = value
    while rest:
        quoted = re.match(r'"((?:[^"\\]|\\.)*)"(?: |$)', rest)
        assert quoted, rest
        rest = rest[quoted.end() :]
        word = re.sub(r"\\(.)", r"\1", quoted[1])
        for special in "%$" if dollars else "%":
            assert special not in word.replace(special * 2, "")
            word = word.replace(special * 2, special)
        found.append(word)
    return found


def test_the_hub() -> None:
    unit = hub_unit(PYTHON, LOG, {"MDX_HOME": "/srv/mdx", "HOME": "/home/ada", "PATH": "/bin"})
    service = parse(unit)["Service"]

    assert unit.name == "mdx-hub.service"
    assert unit.text.startswith(MARK)
    command = [PYTHON, "-P", "-m", "mdx.log_files", LOG, "mdx.hub", "--take-over"]
    assert words(service["ExecStart"][0], dollars=True) == command
    assert words(service["Environment"][0], dollars=False) == ["MDX_HOME=/srv/mdx"]
    assert len(service["Environment"]) == 1
    assert service["Type"] == ["notify"]
    assert service["KillMode"] == ["process"]  # runs outlive their hub


def test_an_agent() -> None:
    options = ["--listen", "unix:/run/user/1000/payroll.sock"]
    unit = agent_unit(PYTHON, "payroll", options, {})
    sections = parse(unit)

    assert unit.name == "mdx-agent-payroll.service"
    assert sections["Unit"]["Wants"] == sections["Unit"]["After"] == ["mdx-hub.service"]
    service = sections["Service"]
    command = [PYTHON, "-P", "-m", "mdx", "agent", "payroll", *options]
    assert words(service["ExecStart"][0], dollars=True) == command
    assert service["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert "Environment" not in service


@pytest.mark.parametrize("unit", [hub_unit(PYTHON, LOG, {}), agent_unit(PYTHON, "a", [], {})])
def test_both_are_hardened_by_what_a_user_manager_can_do(unit: Unit) -> None:
    service = {name: values for name, [*values] in parse(unit)["Service"].items()}
    for name in (
        *("NoNewPrivileges", "LockPersonality", "RestrictNamespaces"),
        *("RestrictRealtime", "RestrictSUIDSGID"),
    ):
        assert service[name] == ["yes"]
    assert service["UMask"] == ["0077"]
    assert service["SystemCallFilter"] == ["@system-service"]
    # sock_diag needs netlink: without it nobody would be served
    families = ["AF_UNIX AF_INET AF_INET6 AF_NETLINK"]
    assert service["RestrictAddressFamilies"] == families
    # these need mounts of one's own, which a user's manager often may not make
    assert not [name for name in service if name.startswith(("Private", "Protect", "ReadOnly"))]


PRINTABLE = st.text(st.characters(codec="utf-8")).filter(str.isprintable)


@given(word=PRINTABLE, value=PRINTABLE.filter(bool))
def test_every_word_arrives_as_it_was(word: str, value: str) -> None:
    unit = agent_unit(PYTHON, "a", ["--config", word], {"MDX_HOME": value})
    service = parse(unit)["Service"]
    assert words(service["ExecStart"][0], dollars=True)[-1] == word
    assert words(service["Environment"][0], dollars=False) == [f"MDX_HOME={value}"]


@pytest.mark.parametrize("word", ["a\nExecStartPost=/bin/evil", "a\0b", "\x1b[2J", "a\u2028b"])
def test_no_word_begins_a_line_of_its_own(word: str) -> None:
    with pytest.raises(MdxError, match="cannot stand in a unit"):
        agent_unit(PYTHON, "a", ["--listen", word], {})
    with pytest.raises(MdxError, match="cannot stand in a unit"):
        hub_unit(PYTHON, LOG, {"MDX_HOME": word})
