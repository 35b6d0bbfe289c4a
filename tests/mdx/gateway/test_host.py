"""What `mdx gateway init` makes, and what it refuses."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from mdx.errors import MdxError
from mdx.gateway import host as hosts
from mdx.gateway.config import load
from mdx.gateway.host import Host

PLAIN = Host(host="10.0.0.1", listen="10.0.0.1", tenant="corp")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_it_is_private_and_lets_nobody_in(state: Path) -> None:
    pin, is_new = hosts.init(state, PLAIN)
    assert is_new
    assert len(pin) == 64
    for path in (state, *state.rglob("*")):
        assert not stat.S_IMODE(path.lstat().st_mode) & 0o077, path
    config = load(state / "gateway" / "gateway.toml")
    assert (config.allow, config.hosts) == ([], [])
    assert (config.tenant, config.listen.host, config.listen.port) == ("corp", "10.0.0.1", 4433)
    assert (config.control.host, config.control.port) == ("10.0.0.1", 8443)
    assert hosts.read_host(state) == PLAIN


def test_a_second_time_changes_nothing(state: Path) -> None:
    first = hosts.init(state, PLAIN)
    config = state / "gateway" / "gateway.toml"
    config.write_text(config.read_text() + '\n[[allow]]\napp = "payroll"\nto = ["a.test:1"]\n')
    assert hosts.init(state, PLAIN) == (first[0], False)
    assert load(config).allow
    with pytest.raises(MdxError, match=r"with host 10\.0\.0\.1, gateway_port 4433: devices"):
        hosts.init(state, replace(PLAIN, host="10.0.0.2", gateway_port=4434))


def test_an_init_that_was_cut_off_is_finished_by_the_next(state: Path) -> None:
    first = hosts.init(state, PLAIN)
    (state / "gateway-host.json").unlink()
    with pytest.raises(MdxError, match="no gateway was set up") as caught:
        hosts.read_host(state)
    assert "mdx gateway init" in caught.value.hint
    assert hosts.init(state, PLAIN) == (first[0], True)


@pytest.mark.parametrize(
    ("listen", "control"),
    [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("10.1.1.1", "10.1.1.1"), ("fd00::1", "fd00::1")],
)
def test_the_gateway_finds_control_where_it_listens(state: Path, listen: str, control: str) -> None:
    hosts.init(state, replace(PLAIN, host="gw.example.com", listen=listen))
    assert load(state / "gateway" / "gateway.toml").control.host == control


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (replace(PLAIN, host="0.0.0.0"), "no address that devices can dial"),
        (replace(PLAIN, host="a b"), "--host"),
        (replace(PLAIN, host=""), "--host"),
        (replace(PLAIN, listen="gw.example.com"), "--listen gw.example.com is not an address"),
        (replace(PLAIN, control_port=4433), "must differ"),
        (replace(PLAIN, tenant="A/B"), "--tenant 'A/B' is not a name"),
        (replace(PLAIN, name="a_b"), "--name 'a_b' cannot name a gateway"),
        (replace(PLAIN, name='a"\nb'), "--name"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(
    state: Path, wanted: Host, said: str
) -> None:
    with pytest.raises(MdxError) as caught:
        hosts.init(state, wanted)
    assert said in str(caught.value)
    assert caught.value.exit_code == 78
    assert not state.exists()


def test_an_all_in_one_machine_is_left_alone(state: Path) -> None:
    state.mkdir(mode=0o700)
    (state / "allinone.json").write_text("{}")
    with pytest.raises(MdxError, match="all-in-one machine"):
        hosts.init(state, PLAIN)
    assert os.listdir(state) == ["allinone.json"]


def test_a_path_too_long_for_a_socket_is_said(tmp_path: Path) -> None:
    with pytest.raises(MdxError, match="kernel allows 107"):
        hosts.init(tmp_path / ("x" * 100), PLAIN)


def test_a_wrong_file_is_named_and_no_gateway_is_said(state: Path) -> None:
    hosts.init(state, PLAIN)
    config = state / "gateway" / "gateway.toml"
    with pytest.raises(MdxError, match="certificate"):  # none before the first run
        hosts.reload(state)
    config.write_text("nonsense")
    with pytest.raises(MdxError, match=r"not reloaded: gateway\.toml") as caught:
        hosts.reload(state)
    assert caught.value.exit_code == 78
    with pytest.raises(MdxError, match="there is no control service"):
        hosts.admin_socket(state / "elsewhere")
