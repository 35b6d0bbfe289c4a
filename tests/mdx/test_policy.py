"""mdx.toml: strict, closed by default, and wrong files say where and what would be right."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdx.durations import parse_duration
from mdx.errors import ConfigError
from mdx.policy import (
    MAX_ROUTES,
    AppPolicy,
    Config,
    find_config,
    load,
    load_found,
    schema,
    user_config,
)
from mdx.policy_errors import NOT_ENFORCED
from tunnel import is_identity_name

DOCS = Path(__file__).parents[2] / "docs"

SAMPLE = """\
# A sample with every setting in it.
[apps.payroll]
network_access = "tunneled"
split_tunnel = "reverse"
routes = [
    { tunnel = "*.corp.internal:443" },
    { direct = "10.1.2.3" },
    { block = "*.ads.example", reason = "no advertisements" },
]
exclusions = ["example.com", "*.example.com:443"]
key_lifetime = "90m"
on_lease_end = "stop"
ca_file = "trust/corp.pem"
unattended = true
audit_required = false
minimum_level = 3

[apps.quiet]
"""

Written = Callable[[str], Path]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Writes a mdx.toml and says where."""

    def write(text: str) -> Path:
        path = tmp_path / "mdx.toml"
        path.write_text(text, encoding="utf-8")
        path.chmod(0o600)
        return path

    return write


def problems(path: Path) -> list[str]:
    """What `load` complains about, without the folder."""
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.exit_code == 78
    lines = str(caught.value).splitlines()
    assert all(line.startswith(str(path)) and line.isprintable() for line in lines)
    return [line.removeprefix(f"{path.parent}/") for line in lines]


# What is right ------------------------------------------------------------------------------------


def test_every_setting_is_read(written: Written, tmp_path: Path) -> None:
    config = load(written(SAMPLE))
    assert config.path == tmp_path / "mdx.toml"
    payroll = config.app("payroll")
    assert payroll.network_access == "tunneled"
    assert payroll.split_tunnel == "reverse"
    assert [(entry.verb, entry.pattern, entry.reason) for entry in payroll.routes] == [
        ("tunnel", "*.corp.internal:443", ""),
        ("direct", "10.1.2.3", ""),
        ("block", "*.ads.example", "no advertisements"),
    ]
    assert payroll.exclusions == ("example.com", "*.example.com:443")
    assert (payroll.key_lifetime, payroll.key_lifetime_seconds) == ("90m", 5400)
    assert payroll.on_lease_end == "stop"
    assert payroll.ca_file == tmp_path / "trust" / "corp.pem"
    assert (payroll.unattended, payroll.audit_required, payroll.minimum_level) == (True, False, 3)
    assert payroll.origin("payroll", "routes", 2) == "mdx.toml:8 apps.payroll.routes[2]"


def test_what_is_not_said_is_closed(written: Written) -> None:
    quiet = load(written(SAMPLE)).app("quiet")
    assert quiet.model_dump() == AppPolicy().model_dump()
    assert quiet.network_access == "blocked"
    assert quiet.split_tunnel == "on"
    assert (quiet.routes, quiet.exclusions, quiet.ca_file) == ((), (), None)
    assert (quiet.key_lifetime, quiet.key_lifetime_seconds) == ("8h", 28800)
    assert (quiet.on_lease_end, quiet.unattended, quiet.audit_required) == ("cut", False, True)
    assert quiet.minimum_level == 1


@pytest.mark.parametrize("text", ["", "# nothing\n", "[apps]\n", "apps = {}\n"])
def test_a_file_may_name_no_app(written: Written, text: str) -> None:
    config = load(written(text))
    assert config.apps == {}
    with pytest.raises(ConfigError, match='no app is named "payroll"') as caught:
        config.app("payroll")
    assert caught.value.hint == "its apps: none"


def test_a_blocked_app_may_keep_its_routes_for_later(written: Written) -> None:
    text = SAMPLE.replace('"tunneled"', '"blocked"')
    assert load(written(text)).app("payroll").network_access == "blocked"


def test_a_whole_path_of_a_ca_file_stays(written: Written) -> None:
    text = '[apps.payroll]\nca_file = "/etc/corp.pem"\n'
    assert load(written(text)).app("payroll").ca_file == Path("/etc/corp.pem")


def test_paths_are_whole_even_for_a_file_named_from_here(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(SAMPLE)
    monkeypatch.chdir(tmp_path)
    config = load(Path("mdx.toml"))
    assert config.path == tmp_path / "mdx.toml"
    assert config.app("payroll").ca_file == tmp_path / "trust" / "corp.pem"


# What is wrong ------------------------------------------------------------------------------------

APP = "[apps.payroll]\n"
TUNNELED = APP + 'network_access = "tunneled"\n'
DURATION = 'write a whole number above 0 and s, m, h or d, such as "8h"'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            TUNNELED + 'split_tunnel = "sometimes"\n',
            'mdx.toml:3: apps.payroll.split_tunnel: "sometimes" is not allowed;'
            " use one of: on, off, reverse",
        ),
        (
            TUNNELED + "split_tunnel = true\n",
            "mdx.toml:3: apps.payroll.split_tunnel: true is not allowed;"
            " use one of: on, off, reverse",
        ),
        (
            APP + 'network_access = "Tunneled"\n',
            'mdx.toml:2: apps.payroll.network_access: "Tunneled" is not allowed;'
            " use one of: blocked, unrestricted, tunneled",
        ),
        (
            APP + "network_access = [1]\n",
            "mdx.toml:2: apps.payroll.network_access: an array is not allowed;"
            " use one of: blocked, unrestricted, tunneled",
        ),
        (
            APP + 'unattended = "yes"\n',
            'mdx.toml:2: apps.payroll.unattended: "yes" is not allowed; use one of: true, false',
        ),
        (
            APP + "audit_required = 1\n",
            "mdx.toml:2: apps.payroll.audit_required: 1 is not allowed; use one of: true, false",
        ),
        (
            APP + "minimum_level = 4\n",
            "mdx.toml:2: apps.payroll.minimum_level: 4 is not allowed; use one of: 1, 2, 3",
        ),
        (
            APP + "minimum_level = true\n",
            "mdx.toml:2: apps.payroll.minimum_level: true is not allowed; use one of: 1, 2, 3",
        ),
        (
            APP + "minimum_level = 1.0\n",
            "mdx.toml:2: apps.payroll.minimum_level: 1.0 is not allowed; use one of: 1, 2, 3",
        ),
        (
            APP + 'on_lease_end = ""\n',
            'mdx.toml:2: apps.payroll.on_lease_end: "" is not allowed; use one of: cut, stop',
        ),
        (
            APP + "key_lifetime = 0\n",
            f"mdx.toml:2: apps.payroll.key_lifetime: 0 is not allowed; {DURATION}",
        ),
        (
            APP + 'key_lifetime = "0s"\n',
            f'mdx.toml:2: apps.payroll.key_lifetime: "0s" is not allowed; {DURATION}',
        ),
        (
            APP + 'key_lifetime = "off"\n',
            'mdx.toml:2: apps.payroll.key_lifetime: "off" is not allowed;'
            " a key always expires: write how long it lives",
        ),
        (
            APP + 'key_lifetime = "8d"\n',
            'mdx.toml:2: apps.payroll.key_lifetime: "8d" is not allowed;'
            " a key lives for 168h at most",
        ),
        (
            APP + 'ca_file = "~/ca.pem"\n',
            'mdx.toml:2: apps.payroll.ca_file: "~/ca.pem" is not allowed;'
            " write the path in full, or relative to this file: ~ is not expanded",
        ),
        (
            APP + 'ca_file = ""\n',
            'mdx.toml:2: apps.payroll.ca_file: "" is not allowed;'
            " write the path of a PEM file in quotes",
        ),
        (
            APP + "ca_file = 5\n",
            "mdx.toml:2: apps.payroll.ca_file: 5 is not allowed;"
            " write the path of a PEM file in quotes",
        ),
        (
            TUNNELED + 'routes = "*"\n',
            'mdx.toml:3: apps.payroll.routes: "*" is not allowed; write an array: [ ... ]',
        ),
        (
            TUNNELED + 'routes = ["*"]\n',
            'mdx.toml:3: apps.payroll.routes[0]: "*" is not allowed; write a table',
        ),
        (
            TUNNELED + "routes = [\n  { tunnel = 5 },\n]\n",
            "mdx.toml:4: apps.payroll.routes[0].tunnel: 5 is not allowed;"
            ' write text in quotes: "..."',
        ),
        (
            TUNNELED + 'routes = [\n  { block = "a" },\n  { tunnel = "a:70000" },\n]\n',
            'mdx.toml:5: apps.payroll.routes[1].tunnel: "a:70000" is not allowed;'
            " '70000' is neither a port, nor FIRST-LAST, nor *",
        ),
        (
            TUNNELED + 'routes = [{ tunnel = "a", block = "a" }]\n',
            "mdx.toml:3: apps.payroll.routes[0]:"
            " write exactly one of tunnel, direct and block in each route",
        ),
        (
            TUNNELED + 'routes = [{ reason = "a" }]\n',
            "mdx.toml:3: apps.payroll.routes[0]:"
            " write exactly one of tunnel, direct and block in each route",
        ),
        (
            TUNNELED + 'routes = [{ block = "a", reason = "b\\u202ec" }]\n',
            'mdx.toml:3: apps.payroll.routes[0].reason: "b\\u202ec" is not allowed;'
            " write one line of at most 200 printable characters",
        ),
        (
            TUNNELED + f'routes = [{{ block = "a", reason = "{"x" * 201}" }}]\n',
            f'mdx.toml:3: apps.payroll.routes[0].reason: "{"x" * 56}... is not allowed;'
            " write one line of at most 200 printable characters",
        ),
        (
            TUNNELED + 'routes = [{ proxy = "a" }]\n',
            "mdx.toml:3: apps.payroll.routes[0].proxy:"
            " not enforced by this version; use one of: tunnel, direct, block",
        ),
        (
            TUNNELED + 'routes = [{ tunel = "a" }]\n',
            "mdx.toml:3: apps.payroll.routes[0].tunel: no such setting; did you mean tunnel?"
            " known here: block, direct, reason, tunnel",
        ),
        (
            TUNNELED + 'split_tunnel = "reverse"\nexclusions = ["10.0.0.0/8"]\n',
            'mdx.toml:4: apps.payroll.exclusions[0]: "10.0.0.0/8" is not allowed;'
            " an exclusion is a name or *.SUFFIX; for an address write a direct route",
        ),
        (
            TUNNELED + 'split_tunnel = "reverse"\nexclusions = ["*"]\n',
            'mdx.toml:4: apps.payroll.exclusions[0]: "*" is not allowed;'
            " an exclusion is a name or *.SUFFIX; for an address write a direct route",
        ),
        (
            APP + "splt_tunnel = 1\n",
            "mdx.toml:2: apps.payroll.splt_tunnel: no such setting; did you mean split_tunnel?"
            " known here: audit_required, ca_file, exclusions, key_lifetime, minimum_level,"
            " network_access, on_lease_end, routes, split_tunnel, unattended",
        ),
        (
            APP + '"a\\nb" = 1\n',
            'mdx.toml:2: apps.payroll."a\\nb": no such setting;'
            " known here: audit_required, ca_file, exclusions, key_lifetime, minimum_level,"
            " network_access, on_lease_end, routes, split_tunnel, unattended",
        ),
        (
            APP + "udp = 1\n",
            "mdx.toml:2: apps.payroll.udp: not enforced by this version; remove it",
        ),
        (
            "[app.payroll]\n",
            "mdx.toml:1: app: no such setting; did you mean apps? known here: apps",
        ),
        ("udp = 1\n", "mdx.toml:1: udp: no such setting; known here: apps"),
        ("apps = 1\n", "mdx.toml:1: apps: 1 is not allowed; write a table"),
        ("[apps]\npayroll = 1\n", "mdx.toml:2: apps.payroll: 1 is not allowed; write a table"),
        ("[[apps.payroll]]\n", "mdx.toml:1: apps.payroll: an array is not allowed; write a table"),
        (
            "\n[apps.Payroll]\n",
            'mdx.toml:2: apps.Payroll: "Payroll" is not allowed; name an app by 1 to 63 of'
            " a-z, 0-9, '.', '_' and '-', letter or digit first",
        ),
        (
            '[apps."[key]"]\n',
            'mdx.toml:1: apps."[key]": "[key]" is not allowed; name an app by 1 to 63 of'
            " a-z, 0-9, '.', '_' and '-', letter or digit first",
        ),
        (
            APP + 'routes = [{ tunnel = "a" }]\n',
            'mdx.toml:2: apps.payroll.routes: has no effect without network_access = "tunneled"'
            ' or "unrestricted"',
        ),
        (
            APP + 'split_tunnel = "on"\n',
            "mdx.toml:2: apps.payroll.split_tunnel: has no effect without"
            ' network_access = "tunneled"',
        ),
        (
            APP + 'network_access = "unrestricted"\nsplit_tunnel = "on"\n',
            "mdx.toml:3: apps.payroll.split_tunnel: has no effect with"
            ' network_access = "unrestricted": remove it',
        ),
        (
            TUNNELED + 'exclusions = ["a.example"]\n',
            'mdx.toml:3: apps.payroll.exclusions: needs split_tunnel = "reverse";'
            " otherwise write direct routes",
        ),
        # Not TOML at all
        (APP + "split_tunnel = on\n", 'mdx.toml:2: text stands in quotes: "on"'),
        (APP + "ca_file = ca.pem # x\n", 'mdx.toml:2: text stands in quotes: "ca.pem"'),
        (APP + "a = [\n1,\n", "mdx.toml:4: it is not TOML: Invalid value"),
        (APP + "a = 1\na = 2\n", "mdx.toml:3: it is not TOML: Cannot overwrite a value"),
        ("a = '\x1b'\n", "mdx.toml:1: it is not TOML: "),
        ("a = " + "[" * 100_000, "mdx.toml: it is nested too deeply"),
        ("a = " + "1" * 5000, "mdx.toml: it is not TOML: Exceeds the limit"),
    ],
)
def test_one_line_says_where_and_what_would_be_right(
    written: Written, text: str, problem: str
) -> None:
    found = problems(written(text))
    if "not TOML" in problem:  # the rest are the words of Python's own parser
        assert found[0].startswith(problem)
    else:
        assert found == [problem]


def test_every_problem_has_its_line_in_the_order_of_the_file(written: Written) -> None:
    text = SAMPLE.replace('"stop"', '"end"').replace('"reverse"', '"off"').replace("= 3", "= 0")
    text += 'udp = "relay"\n[apps.third]\nroutes = []\n'
    assert [problem.split(":")[1:3] for problem in problems(written(text))] == [
        ["12", " apps.payroll.on_lease_end"],
        ["16", " apps.payroll.minimum_level"],
        ["19", " apps.quiet.udp"],
        ["21", " apps.third.routes"],
    ]


def test_the_order_is_that_of_the_file_and_not_of_the_settings(written: Written) -> None:
    text = "[apps.b]\nunattended = 1\nnetwork_access = 1\n[apps.a]\nudp = 1\nminimum_level = 0\n"
    assert [problem.split(":")[1] for problem in problems(written(text))] == ["2", "3", "5", "6"]


def test_problems_end_somewhere(written: Written) -> None:
    found = problems(written("".join(f"key{number} = 1\n" for number in range(60))))
    assert len(found) == 51
    assert found[-1] == "mdx.toml: and 10 more problems"


def test_more_routes_than_a_grant_can_carry(written: Written) -> None:
    routes = '{block="a"},' * (MAX_ROUTES + 1)
    assert problems(written(f"{TUNNELED}routes = [{routes}]\n")) == [
        "mdx.toml:3: apps.payroll.routes: 10001 entries; at most 10000 are allowed"
    ]


def test_the_catalogue_and_what_is_enforced_do_not_overlap(written: Written) -> None:
    assert not NOT_ENFORCED & set(AppPolicy.model_fields)
    text = APP + "".join(f"{name} = 1\n" for name in sorted(NOT_ENFORCED)[:50])
    assert all(problem.endswith("remove it") for problem in problems(written(text)))


# The file -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write(written: Written, mode: int) -> None:
    path = written(SAMPLE)
    path.chmod(mode)
    with pytest.raises(
        ConfigError, match=f"others may write to it \\(mode {mode:04o}\\)"
    ) as caught:
        load(path)
    assert caught.value.hint == f"chmod go-w {path}"


@pytest.mark.parametrize("mode", [0o400, 0o644])
def test_a_file_that_others_may_read_is_fine(written: Written, mode: int) -> None:
    path = written(SAMPLE)
    path.chmod(mode)
    assert load(path).apps


@pytest.mark.root
def test_a_file_of_somebody_else(written: Written) -> None:
    path = written(SAMPLE)
    os.chown(path, 65534, -1)
    why = "it belongs to uid 65534, neither to you nor to root"
    assert problems(path) == [f"mdx.toml: {why}"]


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path, why in [
        (tmp_path, "(?i)is a directory"),
        (tmp_path / "pipe", "not a regular file"),
        (Path("/dev/null"), "not a regular file"),
        (tmp_path / "missing", "No such file"),
        (tmp_path / "a\0b", "embedded null"),
    ]:
        with pytest.raises(ConfigError, match=why):
            load(path)


def test_a_link_to_a_safe_file_is_followed(written: Written, tmp_path: Path) -> None:
    path = written(SAMPLE)
    (tmp_path / "link.toml").symlink_to(path)
    assert "payroll" in load(tmp_path / "link.toml").apps
    path.chmod(0o666)
    with pytest.raises(ConfigError, match="others may write"):
        load(tmp_path / "link.toml")


def test_a_file_has_a_largest_size(written: Written) -> None:
    assert load(written("#" * 1024 * 1024)).apps == {}
    assert problems(written("#" * (1024 * 1024 + 1))) == [
        "mdx.toml: it is larger than 1048576 bytes"
    ]


def test_a_file_is_utf8(written: Written) -> None:
    path = written("")
    path.write_bytes(b"# fine\n# \xff\n")
    assert problems(path) == ["mdx.toml:2: it is not UTF-8 text"]


@given(
    st.binary(max_size=200)
    | st.text(alphabet="[]{}=,.\"'#\n ab1").map(str.encode)
    | st.tuples(
        st.integers(0, len(SAMPLE)), st.integers(0, 20), st.text(max_size=5).map(str.encode)
    ).map(lambda cut: SAMPLE.encode()[: cut[0]] + cut[2] + SAMPLE.encode()[cut[0] + cut[1] :])
)
def test_any_bytes_are_a_configuration_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    path.write_bytes(content)
    path.chmod(0o600)
    try:
        config: Config | None = load(path)
        said = ""
    except ConfigError as error:
        config, said = None, str(error)
    assert (config is None) == bool(said)
    for line in said.splitlines():
        assert line.startswith(str(path))
        assert line.isprintable()


# Finding it ---------------------------------------------------------------------------------------


def make(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    path.chmod(0o600)
    return path


def test_the_first_that_is_found_wins(tmp_path: Path) -> None:
    system = tmp_path / "etc" / "mdx.toml"
    environ = {
        "HOME": f"{tmp_path}/user",
        "XDG_CONFIG_HOME": f"{tmp_path}/xdg",
        "MDX_HOME": f"{tmp_path}/home",
        "MDX_CONFIG": f"{tmp_path}/named.toml",
    }

    def find(explicit: Path | None = None) -> Path | None:
        return find_config(explicit, environ, system=system)

    with pytest.raises(ConfigError, match=r"named.toml does not exist") as caught:
        find()
    assert caught.value.hint == "MDX_CONFIG names it"
    named = make(tmp_path / "named.toml")
    assert find() == named
    del environ["MDX_CONFIG"]
    assert find() is None
    for path in [system, tmp_path / "xdg/mdx/mdx.toml", tmp_path / "home/mdx.toml"]:
        assert find() != path
        make(path)
        assert find() == path
    explicit = tmp_path / "explicit.toml"
    with pytest.raises(ConfigError, match=r"explicit.toml does not exist") as caught:
        find(explicit)
    assert caught.value.hint == "--config names it"
    assert find(make(explicit)) == explicit


def test_without_xdg_it_is_below_the_home_folder(tmp_path: Path) -> None:
    there = tmp_path / ".config" / "mdx" / "mdx.toml"
    for environ in ({}, {"XDG_CONFIG_HOME": ""}, {"XDG_CONFIG_HOME": "relative"}):
        assert user_config({"HOME": str(tmp_path)} | environ) == there
    make(there)
    assert find_config(None, {"HOME": str(tmp_path), "MDX_CONFIG": "", "MDX_HOME": ""}) == there
    assert user_config({"HOME": str(tmp_path), "MDX_HOME": "/srv/mdx"}) == Path("/srv/mdx/mdx.toml")


def test_the_working_folder_never_brings_a_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "mdx.toml")
    make(tmp_path / "mdx" / "mdx.toml")
    make(tmp_path / ".config" / "mdx" / "mdx.toml")
    monkeypatch.chdir(tmp_path)
    away = {"HOME": "/nonexistent"}
    for environ in ({}, {"XDG_CONFIG_HOME": "."}, {"XDG_CONFIG_HOME": ""}):
        assert find_config(None, away | environ, system=tmp_path / "no") is None
    for variable in ("MDX_HOME", "MDX_CONFIG"):
        with pytest.raises(ConfigError, match=f"{variable} is") as caught:
            find_config(None, away | {variable: "mdx.toml"})
        assert "whole path" in caught.value.hint
    assert find_config(Path("mdx.toml"), away) == tmp_path / "mdx.toml"  # asked for by name


def test_a_file_that_is_found_but_wrong_is_not_passed_over(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path / "user"), "MDX_HOME": str(tmp_path)}
    make(tmp_path / "user" / ".config" / "mdx" / "mdx.toml")
    (tmp_path / "mdx.toml").symlink_to(tmp_path / "gone")
    with pytest.raises(ConfigError, match="No such file"):
        load_found(None, environ)


def test_no_file_at_all_says_where_one_goes() -> None:
    with pytest.raises(ConfigError, match=r"there is no mdx.toml yet") as caught:
        load_found(None, {"HOME": "/nonexistent"})
    assert "/nonexistent/.config/mdx/mdx.toml" in caught.value.hint


# The schema ---------------------------------------------------------------------------------------

SCHEMA = schema()


def fits(value: Any, rule: Any, root: dict[str, Any]) -> bool:
    """Whether `value` is valid by the words of JSON Schema that ours uses; another one fails."""
    if isinstance(rule, bool):
        return rule
    checks: dict[str, Callable[[Any], bool]] = {
        "$ref": lambda ref: fits(value, root["$defs"][ref.removeprefix("#/$defs/")], root),
        "type": lambda name: (
            isinstance(value, TYPES[name]) and (name == "boolean" or not isinstance(value, bool))
        ),
        "enum": lambda choices: any(
            value == each and type(value) is type(each) for each in choices
        ),
        "const": lambda only: value == only,
        "pattern": lambda pattern: not isinstance(value, str) or bool(re.search(pattern, value)),
        "minLength": lambda least: not isinstance(value, str) or len(value) >= least,
        "maxLength": lambda most: not isinstance(value, str) or len(value) <= most,
        "maxItems": lambda most: not isinstance(value, list) or len(value) <= most,
        "items": lambda each: (
            not isinstance(value, list) or all(fits(item, each, root) for item in value)
        ),
        "required": lambda keys: not isinstance(value, dict) or all(key in value for key in keys),
        "properties": lambda known: (
            not isinstance(value, dict)
            or all(fits(value[key], known[key], root) for key in known if key in value)
        ),
        "patternProperties": lambda known: (
            not isinstance(value, dict)
            or all(
                fits(value[key], each, root)
                for pattern, each in known.items()
                for key in value
                if re.search(pattern, key)
            )
        ),
        "additionalProperties": lambda allowed: (
            not isinstance(value, dict)
            or allowed
            or all(
                key in rule.get("properties", {})
                or any(re.search(pattern, key) for pattern in rule.get("patternProperties", {}))
                for key in value
            )
        ),
        "dependentRequired": lambda needs: (
            not isinstance(value, dict)
            or all(need in value for key in needs if key in value for need in needs[key])
        ),
        "oneOf": lambda rules: sum(fits(value, each, root) for each in rules) == 1,
        "allOf": lambda rules: all(fits(value, each, root) for each in rules),
        "if": lambda condition: not fits(value, condition, root) or fits(value, rule["then"], root),
    }
    silent = {"$schema", "$defs", "title", "description", "default", "examples", "then"}
    return all(checks[word](argument) for word, argument in rule.items() if word not in silent)


TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
}


def test_the_schema_in_the_docs_is_current() -> None:
    written = (DOCS / "mdx.schema.json").read_text(encoding="utf-8")
    assert json.loads(written) == schema(), "run: make schema"
    assert written == json.dumps(schema(), indent=2) + "\n"


def test_the_module_prints_its_schema() -> None:
    run = [sys.executable, "-m", "mdx.policy"]
    printed = subprocess.run(run, capture_output=True, check=True, text=True)
    assert json.loads(printed.stdout) == schema()


def test_the_schema_describes_every_setting() -> None:
    described = schema()
    assert described["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for definition in described["$defs"].values():
        assert definition["additionalProperties"] is False
        for name, setting in definition["properties"].items():
            assert setting["description"], name
            assert "null" not in json.dumps(setting), name


@given(st.text(alphabet="aZ0._-\n é", max_size=70) | st.text(max_size=3))
def test_the_schema_and_identities_agree_on_names_of_apps(name: str) -> None:
    pattern = next(iter(SCHEMA["properties"]["apps"]["patternProperties"]))
    assert bool(re.search(pattern.replace("$", r"\Z"), name)) == is_identity_name(name)


# Settings that go together, and what may be put in the place of one of them.
CONSISTENT: list[dict[str, Any]] = [
    {},
    {"network_access": "unrestricted", "routes": [{"block": "a.example", "reason": "no"}]},
    {"network_access": "tunneled", "split_tunnel": "on", "routes": [{"tunnel": "*"}]},
    {"network_access": "tunneled", "split_tunnel": "reverse", "exclusions": ["a.example"]},
    {"network_access": "blocked", "split_tunnel": "reverse", "exclusions": [], "routes": []},
    {"key_lifetime": "7d", "on_lease_end": "stop", "ca_file": "a.pem", "minimum_level": 3},
    {"unattended": True, "audit_required": False, "minimum_level": 1},
]
anything = st.one_of(
    st.sampled_from([-1, 0, 1, 3, 4, 1.0, True, False, "", "1", "on", "off", "reverse", "blocked"]),
    st.sampled_from(["unrestricted", "tunneled", "stop", "8h", "8", "0s", "~/a.pem", [], ["a"]]),
    st.lists(
        st.dictionaries(
            st.sampled_from(["tunnel", "direct", "block", "reason", "proxy"]),
            st.sampled_from(["a.example", "*.example:443"]),
            max_size=2,
        ),
        min_size=1,
        max_size=2,
    ),
)


@settings(max_examples=max(500, settings().max_examples))
@given(
    st.sampled_from(["payroll", "payroll", "Pay roll"]),
    st.sampled_from(CONSISTENT),
    st.sets(st.sampled_from(sorted(AppPolicy.model_fields)), max_size=2),
    st.dictionaries(st.sampled_from([*AppPolicy.model_fields, "udp"]), anything, max_size=1),
)
def test_an_editor_with_the_schema_says_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    consistent: dict[str, Any],
    dropped: set[str],
    changed: dict[str, Any],
) -> None:
    app = {key: value for key, value in consistent.items() if key not in dropped} | changed
    document = {"apps": {name: app}}
    path = tmp_path_factory.getbasetemp() / "agreed.toml"
    lines = [f"[apps.{json.dumps(name)}]"]
    for key, value in app.items():
        written = json.dumps(value)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            tables = (
                "{" + ",".join(f"{verb} = {json.dumps(to)}" for verb, to in entry.items()) + "}"
                for entry in value
            )
            written = f"[{', '.join(tables)}]"
        lines.append(f"{key} = {written}")
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o600)
    try:
        load(path)
    except ConfigError:
        loads = False
    else:
        loads = True
    assert fits(document, SCHEMA, SCHEMA) == loads


def test_the_sample_is_right_by_the_schema_too() -> None:
    assert fits(tomllib.loads(SAMPLE), SCHEMA, SCHEMA)


# The documentation --------------------------------------------------------------------------------

CONFIGURATION = (DOCS / "configuration.md").read_text(encoding="utf-8")
EXAMPLES_IN_DOCS = re.findall(r"```toml\n(.*?)```(?:\n\n```text\n(.*?)```)?", CONFIGURATION, re.S)


@pytest.mark.parametrize(("text", "said"), EXAMPLES_IN_DOCS)
def test_an_example_of_the_documentation(written: Written, text: str, said: str) -> None:
    path = written(text)
    if said:
        assert problems(path) == said.splitlines()
    else:
        assert load(path).apps


def test_the_documentation_has_examples_of_both_kinds() -> None:
    assert len([text for text, said in EXAMPLES_IN_DOCS if not said]) >= 4
    assert any(said for _, said in EXAMPLES_IN_DOCS)


def test_the_documentation_lists_every_setting_with_its_values_and_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", CONFIGURATION, re.M))
    for name, setting in schema()["$defs"]["AppPolicy"]["properties"].items():
        values, default = rows[name].split(" | ")[:2]
        for choice in setting.get("enum", []):
            assert f"`{choice}`" in values, name
        if setting.get("default") not in (None, []):
            assert default == f"`{json.dumps(setting['default'])}`", name


def test_the_longest_key_lifetime_is_a_duration() -> None:
    assert AppPolicy(key_lifetime="7d").key_lifetime_seconds == parse_duration("168h")
