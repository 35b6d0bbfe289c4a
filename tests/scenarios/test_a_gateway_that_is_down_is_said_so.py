"""The right reply code for each protocol, and a hint for the user."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.scenarios.conftest import Machine


@pytest.fixture(scope="module")
def without_gateway(make_machine: Callable[[], Machine]) -> Machine:
    machine = make_machine()
    machine.up()
    pid = int((machine.home / "gateway" / "gateway.lock").read_text())
    pidfd = os.pidfd_open(pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)
    return machine


def test_connect_says_bad_gateway(without_gateway: Machine, site: str) -> None:
    curl = ["curl", "-sSv", "-m", "20", f"https://{site}/"]
    done = without_gateway.run("mdx", "run", "--quiet", "payroll", "--", *curl)

    assert done.returncode == 56
    assert "HTTP/1.1 502" in done.stderr
    assert "Mdx-Refused: GATEWAY_DOWN" in done.stderr


def test_plain_http_gets_a_page_with_the_hint(without_gateway: Machine, site: str) -> None:
    done = without_gateway.mdx(
        "run", "--quiet", "payroll", "--", "curl", "-sS", "-w", "%{http_code}", f"http://{site}/"
    )

    assert done.stdout.endswith("502")
    assert "does not answer" in done.stdout
    assert "mdx up" in done.stdout


def test_socks_says_network_unreachable(without_gateway: Machine, site: str) -> None:
    script = f'curl -sS -m 20 --proxy "$ALL_PROXY" https://{site}/'
    done = without_gateway.run("mdx", "run", "--quiet", "payroll", "--", "sh", "-c", script)

    assert done.returncode == 97
    assert "(3)" in done.stderr  # RFC 1928, section 6


def test_status_and_token_say_so_too(without_gateway: Machine) -> None:
    assert "does not answer" in without_gateway.json("status")["device"]["gateway"]["error"]
    done = without_gateway.mdx("token", "payroll", status=1)
    assert "does not answer" in done.stderr
    assert "mdx up" in done.stderr


def test_the_refusal_is_on_the_record(without_gateway: Machine, site: str) -> None:
    curl = ["curl", "-s", "-m", "20", f"https://{site}/"]
    without_gateway.run("mdx", "run", "--quiet", "payroll", "--", *curl)

    assert without_gateway.records("flow.refused")[-1]["fields"]["code"] == "GATEWAY_DOWN"
