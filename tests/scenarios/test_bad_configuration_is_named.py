"""What is wrong in mdx.toml or gateway.toml is named with its place, and nothing runs instead."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.scenarios.conftest import Machine

CONFIGURATION = 78
NOT_STARTED = 125

# What stands in the file from line 1, where and what is said about it.
BAD = {
    "value": (
        '[apps.payroll]\nnetwork_access = "tunnelled"\n',
        'mdx.toml:2: apps.payroll.network_access: "tunnelled" is not allowed; use one of: '
        "blocked, unrestricted, tunneled",
    ),
    "misspelt setting": (
        '[apps.payroll]\nnetwork_acces = "tunneled"\n',
        "mdx.toml:2: apps.payroll.network_acces: no such setting; did you mean network_access?",
    ),
    "setting of another product": (
        "[apps.payroll]\nblock_root = true\n",
        "mdx.toml:2: apps.payroll.block_root: not enforced by this version; remove it",
    ),
    "type": ('[apps.payroll]\n\nunattended = "yes"\n', "mdx.toml:3: apps.payroll.unattended: "),
    "duration": (
        '[apps.payroll]\nkey_lifetime = "8 hours"\n',
        "mdx.toml:2: apps.payroll.key_lifetime: ",
    ),
    "endless lease": (
        '[apps.payroll]\nkey_lifetime = "100000d"\n',
        "mdx.toml:2: apps.payroll.key_lifetime: ",
    ),
    "level": ("[apps.payroll]\nminimum_level = 4\n", "mdx.toml:2: apps.payroll.minimum_level: "),
    "route without a verb": (
        '[apps.payroll]\nnetwork_access = "tunneled"\nroutes = [{ reason = "why" }]\n',
        "mdx.toml:3: apps.payroll.routes[0]",
    ),
    "route with an odd pattern": (
        '[apps.payroll]\nnetwork_access = "tunneled"\nroutes = [\n  { tunnel = "a*b" },\n]\n',
        "mdx.toml:4: apps.payroll.routes[0].tunnel: ",
    ),
    "contradiction": (
        '[apps.payroll]\nsplit_tunnel = "off"\n',
        'mdx.toml:2: apps.payroll.split_tunnel: has no effect without network_access = "tunneled"',
    ),
    "app name": ("[apps.Payroll]\n", "mdx.toml:1: apps.Payroll: "),
    "app twice": ("[apps.payroll]\n[apps.payroll]\n", "mdx.toml:2: it is not TOML: "),
    "no TOML": ("[apps.payroll\n", "mdx.toml:1: it is not TOML: "),
    "text without quotes": (
        "[apps.payroll]\nnetwork_access = tunneled\n",
        'mdx.toml:2: text stands in quotes: "tunneled"',
    ),
    "terminal codes": (
        '[apps.payroll]\nnetwork_access = "\\u001b[2J\\u009b"\n',
        "mdx.toml:2: apps.payroll.network_access: ",
    ),
}


@pytest.fixture(scope="module")
def unconfigured(make_machine: Callable[[], Machine]) -> Machine:
    """A hub with a vault and no configuration."""
    machine = make_machine()
    machine.mdx("vault", "init")
    return machine


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_text(content)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("what", BAD)
def test_every_command_names_the_place_and_none_goes_on(unconfigured: Machine, what: str) -> None:
    content, said = BAD[what]
    config = str(write(unconfigured.home / "bad" / "mdx.toml", content))

    check = unconfigured.mdx("policy", "check", config, status=CONFIGURATION)
    run = unconfigured.mdx(
        "run", "--config", config, "payroll", "--", "echo", "begun", status=NOT_STARTED
    )

    for done in (check, run):
        assert done.stdout == ""
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        assert all(character == "\n" or character.isprintable() for character in done.stderr)


def test_no_other_command_goes_on_either(unconfigured: Machine) -> None:
    config = str(write(unconfigured.home / "bad" / "mdx.toml", BAD["value"][0]))

    for command in (
        ("vault", "get", "--config", config, "payroll", "x"),
        ("vault", "put", "--config", config, "payroll", "x"),
        ("unlock", "--config", config),
        ("token", "--config", config, "payroll"),
        ("explain", "--config", config, "payroll", "example.com"),
    ):
        assert BAD["value"][1] in unconfigured.mdx(*command, status=CONFIGURATION).stderr


def test_all_problems_are_named_at_once(unconfigured: Machine) -> None:
    content = '[apps.a]\nunattended = 1\n[apps.b]\non_lease_end = "go on"\nsandbox = true\n'
    config = write(unconfigured.home / "bad" / "mdx.toml", content)

    done = unconfigured.mdx("policy", "check", str(config), status=CONFIGURATION)

    for place in (":2: apps.a.unattended", ":4: apps.b.on_lease_end", ":5: apps.b.sandbox"):
        assert f"mdx.toml{place}" in done.stderr


def test_the_working_folders_file_is_never_read(machine: Machine, tmp_path: Path) -> None:
    """A cloned repository brings no policy."""
    write(tmp_path / "mdx.toml", '[apps.smuggled]\nnetwork_access = "unrestricted"\n')

    def here(*arguments: str) -> subprocess.CompletedProcess[str]:
        return machine.run("sh", "-c", f'cd "{tmp_path}" && exec mdx "$@"', "sh", *arguments)

    assert "payroll" in here("policy", "check", "--json").stdout
    for arguments in (("run", "smuggled", "--", "true"), ("explain", "smuggled", "x.test")):
        done = here(*arguments)
        assert done.returncode in (CONFIGURATION, NOT_STARTED)
        assert 'no app is named "smuggled"' in done.stderr
    asked = here("policy", "check", "mdx.toml")  # unless it is named
    assert asked.returncode == 0


def test_a_variable_names_another_file(machine: Machine, tmp_path: Path) -> None:
    config = write(tmp_path / "mdx.toml", "[apps.elsewhere]\n")

    def run(value: str) -> subprocess.CompletedProcess[str]:
        return machine.run("mdx", "policy", "check", environment={"MDX_CONFIG": value})

    assert "elsewhere" in run(str(config)).stdout
    missing = run(str(tmp_path / "missing.toml"))
    assert missing.returncode == CONFIGURATION
    assert "does not exist" in missing.stderr
    assert "MDX_CONFIG names it" in missing.stderr
    relative = run("mdx.toml")
    assert relative.returncode == CONFIGURATION
    assert "the working folder is not used" in relative.stderr


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_change_is_not_read(
    machine: Machine, tmp_path: Path, mode: int
) -> None:
    config = write(tmp_path / "mdx.toml", "[apps.payroll]\n")
    config.chmod(mode)

    done = machine.mdx("policy", "check", str(config), status=CONFIGURATION)

    assert f"others may write to it (mode {mode:04o})" in done.stderr
    assert f"chmod go-w {config}" in done.stderr


@pytest.mark.root
def test_a_file_of_another_user_is_not_read(machine: Machine, tmp_path: Path) -> None:
    config = write(tmp_path / "mdx.toml", "[apps.payroll]\n")
    done = machine.run("chown", "65534", str(config))
    assert done.returncode == 0

    done = machine.mdx("policy", "check", str(config), status=CONFIGURATION)

    assert "it belongs to uid 65534" in done.stderr


def test_a_folder_is_no_configuration(machine: Machine, tmp_path: Path) -> None:
    assert (
        machine.run("mdx", "policy", "check", environment={"MDX_CONFIG": str(tmp_path)}).returncode
        == CONFIGURATION
    )


def test_without_any_the_hint_says_where_it_goes(unconfigured: Machine) -> None:
    done = unconfigured.mdx("policy", "check", status=CONFIGURATION)

    assert "there is no mdx.toml yet" in done.stderr
    assert f"write {unconfigured.home}/mdx.toml" in done.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("prot = 443", "listen.prot: there is no such key; did you mean port?"),
        ("port = 70000", "listen.port: 70000 is not a port; use 0 to 65535"),
        ('port = "443"', 'listen.port: "443" is not a whole number'),
        ("port = = 1", "gateway.toml: "),
    ],
)
def test_mdx_up_names_what_is_wrong_in_gateway_toml(
    without_gateway: Machine, line: str, said: str
) -> None:
    config = without_gateway.home / "gateway" / "gateway.toml"
    right = config.read_text()
    try:
        before, _, after = right.partition("[listen]\n")
        config.write_text(f"{before}[listen]\n{line}\n{after[after.index('[control]') :]}")

        done = without_gateway.mdx("up", status=CONFIGURATION)
    finally:
        config.write_text(right)

    assert done.stderr.startswith("mdx: gateway: gateway.toml: ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) <= 2


@pytest.fixture(scope="module")
def without_gateway(make_machine: Callable[[], Machine]) -> Machine:
    """Set up once, and down."""
    machine = make_machine()
    machine.up()
    machine.down()
    return machine
