"""`mdx explain` foretells what a run meets: here, by names and guard, and at the gateway."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.scenarios.conftest import Machine


def curl_says(machine: Machine, app: str, host: str) -> str:
    """What a real run is told about the same destination."""
    curl = ["curl", "-sSv", "-m", "20", f"https://{host}/"]
    return machine.run("mdx", "run", "--quiet", app, "--", *curl).stderr


def test_what_the_gateway_allows(machine: Machine, site: str) -> None:
    shown = machine.json("explain", "payroll", site)

    assert (shown["verb"], shown["outcome"]) == ("TUNNEL", "through the tunnel")
    assert shown["gateway"]["verdict"] == "ALLOW"
    assert shown["gateway"]["rule"] == "allow payroll to *.corp.internal"
    assert shown["look_up"] is None  # a tunnelled name is not looked up here
    assert shown["lease"]["state"] == "unlocked"
    assert 0 < shown["lease"]["seconds_left"] <= 8 * 3600


@pytest.mark.parametrize(
    ("app", "host", "code"),
    [
        ("visitor", "intranet.corp.internal", "NOT_ALLOWED"),
        ("payroll", "nowhere.corp.internal", "NAME_NOT_FOUND"),
    ],
)
def test_what_the_gateway_refuses_is_what_a_run_is_told(
    machine: Machine, app: str, host: str, code: str
) -> None:
    shown = machine.json("explain", app, host)

    assert shown["verb"] == "TUNNEL"  # this device's policy would let it go
    assert shown["outcome"] == "refused by the gateway"
    assert (shown["gateway"]["verdict"], shown["gateway"]["code"]) == ("REFUSE", code)
    assert f"Mdx-Refused: {code}" in curl_says(machine, app, host)
    assert "gateway" in shown["change"]


def test_asking_is_on_the_gateways_record_and_dials_nothing(machine: Machine) -> None:
    before = len(machine.records("flow.allowed"))

    machine.mdx("explain", "visitor", "intranet.corp.internal")

    record = machine.records("flow.checked")[-1]["fields"]
    assert (record["app"], record["verb"]) == ("visitor", "REFUSE")
    assert len(machine.records("flow.allowed")) == before


def test_without_look_up_nothing_leaves_this_machine(machine: Machine, site: str) -> None:
    before = len(machine.records("flow.checked")), len(machine.records("ticket.requested"))

    tunnelled = machine.json("explain", "payroll", site, "--no-lookup")
    direct = machine.json("explain", "direct", "localhost", "--no-lookup")

    assert tunnelled["gateway"] is None
    assert direct["look_up"] is None
    after = len(machine.records("flow.checked")), len(machine.records("ticket.requested"))
    assert after == before


def test_addresses_and_the_guard(machine: Machine) -> None:
    shown = machine.json("explain", "direct", "localhost:80")

    (first, *_) = shown["look_up"]["addresses"]
    assert first["dialled"] is False
    assert "loopback" in first["says"]
    assert shown["outcome"] == "refused here: no address may be dialled"
    assert shown["change"].startswith("a rule that names the address")

    named = machine.json("explain", "direct", "127.0.0.9:80")
    assert [one["dialled"] for one in named["look_up"]["addresses"]] == [True]
    assert named["outcome"] == "directly"


def test_a_name_without_an_address(machine: Machine) -> None:
    shown = machine.json("explain", "direct", "no-such-host.invalid")

    assert "has no address" in shown["look_up"]["problem"]
    assert shown["outcome"].startswith("refused here: ")


def test_what_is_blocked_asks_nobody(machine: Machine) -> None:
    shown = machine.json("explain", "payroll", "example.com")

    assert (shown["verb"], shown["outcome"]) == ("BLOCK", "refused here")
    assert shown["gateway"] is shown["look_up"] is None


def test_a_locked_app_is_told_and_stays_locked(own_machine: Machine, site: str) -> None:
    own_machine.mdx("lock", "payroll")
    before = len(own_machine.records("ticket.requested"))

    shown = own_machine.json("explain", "payroll", site)

    assert shown["lease"]["state"] == "locked"
    assert shown["outcome"] == "refused here until mdx unlock payroll"
    assert shown["gateway"]["verdict"] == "UNKNOWN"
    assert len(own_machine.records("ticket.requested")) == before
    assert own_machine.json("explain", "payroll", site)["lease"]["state"] == "locked"
    assert "mdx unlock payroll" in own_machine.mdx("explain", "payroll", site).stdout


@pytest.fixture(scope="module")
def without_gateway(make_machine: Callable[[], Machine]) -> Machine:
    machine = make_machine()
    machine.up()
    pid = int((machine.home / "gateway" / "gateway.lock").read_text())
    pidfd = os.pidfd_open(pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)
    return machine


def test_a_gateway_that_is_down_is_said_to_be(without_gateway: Machine, site: str) -> None:
    shown = without_gateway.json("explain", "payroll", site)

    assert shown["gateway"]["verdict"] == "UNKNOWN"
    assert "does not answer" in shown["gateway"]["problem"]
    assert "mdx up" in shown["gateway"]["hint"]
    assert shown["outcome"] == "through the tunnel, if the gateway lets"


def test_no_hub_is_started_by_asking(make_machine: Callable[[], Machine]) -> None:
    machine = make_machine()
    (machine.home / "mdx.toml").write_text(
        '[apps.a]\nnetwork_access = "tunneled"\nsplit_tunnel = "off"\n'
    )

    shown: dict[str, Any] = machine.json("explain", "a", "example.com")

    assert shown["lease"] == {
        "state": "unknown",
        "seconds_left": None,
        "why": "there is no vault yet",
    }
    assert shown["gateway"]["verdict"] == "UNKNOWN"
    assert [path.name for path in machine.home.iterdir()] == ["mdx.toml"]


def test_a_hub_that_hangs_is_not_waited_for(own_machine: Machine, site: str) -> None:
    pidfd = os.pidfd_open(int((own_machine.home / "run" / "hub.lock").read_text()))
    signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
    try:
        shown = own_machine.json("explain", "payroll", site, "--no-lookup")
    finally:
        signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        os.close(pidfd)

    assert (shown["verb"], shown["lease"]["state"]) == ("TUNNEL", "unknown")
    assert "timed out" in shown["lease"]["why"]
