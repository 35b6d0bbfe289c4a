"""Tickets and session tokens in the hands of others, with a standard curl."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.scenarios.conftest import Machine


def curl_config(machine: Machine, app: str, *options: str) -> Path:
    path = machine.home / f"{app}{''.join(options)}.curl"
    path.write_text(machine.mdx("token", app, "--curl", *options).stdout)
    return path


def fetch(machine: Machine, config: Path, *options: str) -> tuple[int, str]:
    url = "https://intranet.corp.internal/payroll.json"
    done = machine.run("curl", "-sS", "-m", "20", "--config", str(config), *options, url)
    return done.returncode, done.stdout + done.stderr


def test_a_plain_curl_gets_through_with_a_token_as_often_as_it_likes(machine: Machine) -> None:
    config = curl_config(machine, "payroll")

    for _ in range(3):
        status, said = fetch(machine, config)
        assert status == 0, said
        assert "salaries" in said


def test_bearer_works_as_well_as_basic(machine: Machine) -> None:
    config = curl_config(machine, "payroll")
    token = next(
        line.rpartition(":")[2].strip('"\n')
        for line in config.read_text().splitlines()
        if line.startswith("proxy-user")
    )
    lines = [line for line in config.read_text().splitlines() if "proxy-user" not in line]
    lines = [line for line in lines if line != "proxy-basic"]
    lines.append(f'proxy-header = "Proxy-Authorization: Bearer {token}"')
    config.write_text("\n".join(lines) + "\n")

    assert fetch(machine, config)[0] == 0


def test_a_raw_ticket_opens_one_connection_and_no_second(machine: Machine) -> None:
    config = curl_config(machine, "payroll", "--once")

    assert fetch(machine, config)[0] == 0
    status, said = fetch(machine, config)
    assert status == 56
    assert "407" in said
    assert machine.records("ticket.refused")


def test_a_token_is_worth_nothing_with_another_certificate(machine: Machine) -> None:
    stolen = curl_config(machine, "payroll").read_text()
    token_line = next(line for line in stolen.splitlines() if line.startswith("proxy-user"))
    mine = curl_config(machine, "payroll")  # a new key and certificate of the same app
    lines = [line for line in mine.read_text().splitlines() if not line.startswith("proxy-user")]
    mine.write_text("\n".join([*lines, token_line]) + "\n")

    status, said = fetch(machine, mine)
    assert status == 56
    assert "407" in said


def test_a_token_is_worth_nothing_without_a_certificate(machine: Machine) -> None:
    config = curl_config(machine, "payroll")
    lines = config.read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("proxy-cert", "proxy-key"))]
    config.write_text("\n".join(kept) + "\n")

    status, said = fetch(machine, config)
    assert status != 0
    assert "certificate required" in said


def test_an_app_cannot_pass_for_another(machine: Machine) -> None:
    config = curl_config(machine, "visitor")
    config.write_text(config.read_text().replace('"visitor:', '"payroll:'))

    status, said = fetch(machine, config)
    assert status == 56
    assert "salaries" not in said


@pytest.mark.parametrize("ticket", ["mdx1.sta.short", "mdxs1." + "A" * 43, "nonsense"])
def test_made_up_credentials_are_refused(machine: Machine, ticket: str) -> None:
    config = curl_config(machine, "payroll")
    lines = [line for line in config.read_text().splitlines() if "proxy-user" not in line]
    config.write_text("\n".join([*lines, f'proxy-user = "payroll:{ticket}"']) + "\n")

    status, said = fetch(machine, config)
    assert status == 56
    assert "407" in said


def test_key_and_certificate_are_the_users_alone(machine: Machine) -> None:
    facts = machine.json("token", "payroll")

    for name in ("key", "certificate"):
        assert Path(facts[name]).stat().st_mode & 0o077 == 0
    assert "mdxs1." not in machine.mdx("token", "payroll").stdout  # a table is no place for it


def test_a_token_ends_with_the_lease(machine: Machine) -> None:
    machine.mdx("unlock", "short")
    config = curl_config(machine, "short")
    assert "403" in fetch(machine, config)[1]  # known to the gateway, and not on its list

    machine.run("sleep", "4.2")  # the lease lasts three seconds, and X.509 counts whole ones

    status, said = fetch(machine, config)
    assert status != 0
    assert "certificate expired" in said
