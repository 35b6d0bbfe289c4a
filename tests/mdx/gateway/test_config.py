"""gateway.toml: the example is good, and everything else is refused in words that help."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdx.errors import ConfigError
from mdx.gateway import config as config_module
from mdx.gateway.config import load
from tunnel import Refused, parse_destination

EXAMPLE = "\n".join(
    line.removeprefix("    ")
    for line in (config_module.__doc__ or "").splitlines()
    if line.startswith("    ")
)
LEAST = """\
name = "gateway"
tenant = "home"
certificate = "gateway.pem"
key = "gateway.pem"
ca = "ca.pem"
[control]
host = "control.example"
"""
HOST = '[[hosts]]\nname = "a.example"\nport = 443\ndial = "10.0.0.1:1"\n'
ALLOW = '[[allow]]\napp = "payroll"\nto = ["*.corp.internal:443"]\n'


def write(folder: Path, text: str | bytes, *, mode: int = 0o600) -> Path:
    path = folder / "gateway.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


def test_the_example_is_good(tmp_path: Path) -> None:
    config = load(write(tmp_path, EXAMPLE))
    assert config.listen.host == "0.0.0.0"
    assert config.hosts[0].destination == parse_destination("intranet.corp.internal:443")
    destination = parse_destination("intranet.corp.internal:443")
    assert "*.corp.internal:443" in config.allow_rules().check("payroll", destination)


def test_nothing_is_allowed_by_default(tmp_path: Path) -> None:
    config = load(write(tmp_path, LEAST))
    assert (config.listen.host, config.listen.port) == ("127.0.0.1", 4433)
    assert (config.control.port, config.control.name) == (8443, "control")
    with pytest.raises(Refused):
        config.allow_rules().check("payroll", parse_destination("a.example:443"))


def test_several_entries_of_one_app_add_up(tmp_path: Path) -> None:
    second = ALLOW.replace("*.corp.internal:443", "10.0.0.0/8:22")
    rules = load(write(tmp_path, LEAST + ALLOW + second)).allow_rules()
    assert rules.check("payroll", parse_destination("a.corp.internal:443"))
    assert rules.check("payroll", parse_destination("10.1.2.3:22"))
    with pytest.raises(Refused):
        rules.check("wiki", parse_destination("10.1.2.3:22"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # The file
        (LEAST + "name = ", "gateway.toml: "),
        (LEAST + LEAST, "gateway.toml: "),
        (b"\xff\xfe", "the file is not UTF-8"),
        ("x = " + "[" * 100_000, "brackets are nested too deeply"),
        ('["a\\u001b[31m\\n"]\n["a\\u001b[31m\\n"]', "gateway.toml: "),
        # Keys
        ("", "name: this key is missing"),
        (LEAST.replace('host = "control.example"', ""), "control.host: this key is missing"),
        ("nmae = 1\n" + LEAST, "nmae: there is no such key; did you mean name? known are: name,"),
        ("zzz = 1\n" + LEAST, "zzz: there is no such key; known are: name, tenant"),
        ('"a\\nb" = 1\n' + LEAST, 'gateway.toml: "a\\nb": there is no such key'),
        (LEAST + "prot = 1\n", "control.prot: there is no such key; did you mean port? known"),
        (LEAST + HOST + "tsl = 1\n", "hosts[0].tsl: there is no such key; did you mean tls?"),
        (LEAST + ALLOW + ALLOW + "too = 1\n", "allow[1].too: there is no such key; did you mean"),
        # Types: nothing is turned into anything
        (LEAST.replace('"gateway"', "7"), "name: 7 is not a text in quotes"),
        (LEAST + 'port = "8443"\n', 'control.port: "8443" is not a whole number'),
        (LEAST + "port = 8443.0\n", "control.port: 8443.0 is not a whole number"),
        (LEAST + "port = true\n", "control.port: true is not a whole number"),
        (LEAST + ALLOW.replace("[", "").replace("]", ""), "gateway.toml: "),
        ("hosts = 1\n" + LEAST, "hosts: 1 is not a list in brackets"),
        ("listen = 1\n" + LEAST, "listen: 1 is not a table"),
        ("hosts = [1]\n" + LEAST, "hosts[0]: 1 is not a table"),
        ('allow = [{app = "a", to = "x:1"}]\n' + LEAST, 'allow[0].to: "x:1" is not a list'),
        # Values
        (LEAST.replace('"home"', '"Home"'), 'tenant: "Home": use lower-case letters'),
        (LEAST.replace('"gateway.pem"', '""', 1), 'certificate: "": a path is not empty'),
        (LEAST + "port = 0\n", "control.port: 0 is not a port; use 1 to 65535"),
        (LEAST + "[listen]\nport = 65536\n", "listen.port: 65536 is not a port; use 0 to 65535"),
        (LEAST.replace("control.example", "2130706433"), "control.host: "),
        (LEAST + HOST.replace("a.example", "*.a.example"), 'hosts[0].name: "*.a.example": not a'),
        (LEAST + HOST.replace("10.0.0.1:1", "localhost:1"), 'hosts[0].dial: "localhost:1": a'),
        (LEAST + HOST.replace("10.0.0.1:1", "10.0.0.1"), 'write "ADDRESS:PORT"'),
        (LEAST + HOST.replace("10.0.0.1:1", "127.1:1"), "hosts[0].dial: "),
        (LEAST + HOST + 'tls = "mutual"\n', "hosts[0].tls: \"mutual\" is not allowed; use one of:"),
        (LEAST + HOST + 'tls = "gateway"\n', "hosts[0]: ca_file goes with tls"),
        (LEAST + HOST + 'ca_file = "a"\n', "hosts[0]: ca_file goes with tls"),
        (LEAST + HOST + HOST, "gateway.toml: hosts[1] is a.example:443 again, as hosts[0]"),
        (LEAST + ALLOW.replace("payroll", "PAY"), 'allow[0].app: "PAY": use lower-case'),
        (LEAST + ALLOW.replace(":443", ":443-80"), 'allow[0].to[0]: "*.corp.internal:443-80": '),
        (LEAST + ALLOW.replace("*.corp.internal", "10.0.0.1/8"), "bits beyond the network's"),
        (LEAST + ALLOW.replace('"*.corp.internal:443"', ""), "allow[0].to: the list is empty"),
        (LEAST.replace('"home"', '"' + "x" * 5000 + '"'), "xxx…: use lower-case"),
        (LEAST.replace('"home"', '"a\\u001b[31mb"'), 'tenant: "a\\u001b[31mb": use lower-case'),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(text: str | bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text))
    assert said in str(caught.value)
    assert caught.value.exit_code == 78
    for line in str(caught.value).splitlines():
        assert line.startswith("gateway.toml: ")
        assert len(line) < 400
        assert line.isprintable()


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    text = LEAST.replace('"home"', '"Home"') + ALLOW.replace("payroll", "PAY") + HOST + "x = 1\n"
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text))
    keys = [line.split(": ")[1] for line in str(caught.value).splitlines()]
    assert sorted(keys) == ["allow[0].app", "hosts[0].x", "tenant"]


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_change_is_refused(mode: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{mode:04o}") as caught:
        load(write(tmp_path, LEAST, mode=mode))
    assert caught.value.hint.startswith("chmod go-w ")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "gateway.toml")
    with pytest.raises(ConfigError, match="is not a file"):
        load(tmp_path)
    os.mkfifo(tmp_path / "gateway.toml", 0o600)
    with pytest.raises(ConfigError, match="is not a file"):
        load(tmp_path / "gateway.toml")


def test_a_file_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="more than 1048576 bytes"):
        load(write(tmp_path, b"#" * (1 << 20) + b"\n"))


SOAK = "MDX_SOAK" in os.environ
LINES = st.lists(st.sampled_from(EXAMPLE.splitlines() + HOST.splitlines()), max_size=40)


@settings(max_examples=20_000 if SOAK else 200, deadline=None)
@given(raw=st.binary(max_size=200) | LINES.map(lambda lines: "\n".join(lines).encode()))
def test_any_file_is_a_configuration_or_an_error(
    raw: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write(tmp_path_factory.getbasetemp(), raw)
    with contextlib.suppress(ConfigError):
        assert load(path).name


@given(kept=st.sets(st.integers(0, len(EXAMPLE.splitlines()) - 1)))
def test_a_line_that_is_left_out_opens_nothing(
    kept: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines = [line for index, line in enumerate(EXAMPLE.splitlines()) if index in kept]
    path = write(tmp_path_factory.getbasetemp(), "\n".join(lines))
    with contextlib.suppress(ConfigError, Refused):
        load(path).allow_rules().check("payroll", parse_destination("a.corp.internal:443"))
        assert any("*.corp.internal:443" in line for line in lines)
