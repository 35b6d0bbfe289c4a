"""The daemon as a process: `python -m mdx.control`."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mdx import audit
from mdx.certificate_key import CertificateKey
from mdx.control.admin import admin_call
from mdx.control.client import ControlClient
from mdx.errors import MdxError
from mdx.spawn import running_pid, start_daemon, stop_daemon

Start = Callable[..., dict[str, Any]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def start(home: Path) -> Iterator[Start]:
    def run(**options: str) -> dict[str, Any]:
        chosen = {
            "state": str(home / "control"),
            "host": "127.0.0.1",
            "port": "0",
            "tenant": "home",
            "gateway-host": "127.0.0.1",
            "gateway-port": "4433",
            "gateway-name": "gateway",
            **{name.replace("_", "-"): value for name, value in options.items()},
        }
        arguments = [word for name, value in chosen.items() for word in (f"--{name}", value)]
        return start_daemon("mdx.control", arguments, log=home / "control.log")

    yield run
    stop_daemon(home / "control" / "control.lock")


def _client(report: dict[str, Any], enrolled: Any, key: CertificateKey) -> ControlClient:
    return ControlClient(
        host=report["host"],
        port=report["port"],
        name="control",
        ca=enrolled.ca.encode(),
        certificate=enrolled.certificate.encode(),
        key=key.pem(),
    )


async def test_ca_devices_and_chain_survive_a_restart(home: Path, start: Start) -> None:
    report = start()
    path = Path(report["admin_socket"])
    code = admin_call(path, "POST", "/v1/join-codes", {"uses": 1, "lifetime_seconds": 60})["code"]
    key = CertificateKey()
    enrolled = await ControlClient.enroll(code, key.request())
    assert enrolled.ca == report["ca"]
    assert stop_daemon(home / "control" / "control.lock")
    assert "admin.sock" not in os.listdir(home / "control")

    again = start(port=str(report["port"]))
    assert (again["pin"], again["ca"]) == (report["pin"], report["ca"])
    assert again["pid"] != report["pid"]
    client = _client(again, enrolled, key)
    assert (await client.status())["caller"] == f"mdx://home/device/{enrolled.device}"
    await client.ticket("payroll", "ab" * 32)
    assert stop_daemon(home / "control" / "control.lock")

    assert [finding for chain in audit.verify(home / "audit") for finding in chain.findings] == []
    records = [
        json.loads(line)
        for line in (home / "audit" / "control.jsonl").read_text().split("\n")
        if line
    ]
    events = [record["event"] for record in records]
    assert events.count("control.started") == events.count("control.stopped") == 2
    assert events.index("device.enrolled") < events.index("ticket.issued")
    for file in (home / "control.key", home / "control" / "control.db"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_no_key_is_in_clear_in_its_state(home: Path, start: Start) -> None:
    start()
    stop_daemon(home / "control" / "control.lock")
    for path in (home / "control").rglob("*"):
        if path.is_file():
            assert b"PRIVATE KEY" not in path.read_bytes(), path


def test_a_second_one_on_the_same_state_is_refused(start: Start) -> None:
    start()
    with pytest.raises(MdxError, match="already running"):
        start()


def test_a_taken_port_is_said_with_what_to_do(home: Path, start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        with pytest.raises(MdxError, match=f"port {port} on 127.0.0.1 is taken") as caught:
            start(port=port)
    assert caught.value.hint
    assert running_pid(home / "control" / "control.lock") is None
    start(port=port)


def test_another_tenant_cannot_take_over_the_state(home: Path, start: Start) -> None:
    start()
    stop_daemon(home / "control" / "control.lock")
    with pytest.raises(MdxError, match="of the tenant home, not of other"):
        start(tenant="other")


def test_without_its_key_file_it_does_not_start_afresh(home: Path, start: Start) -> None:
    start()
    stop_daemon(home / "control" / "control.lock")
    (home / "control.key").unlink()
    with pytest.raises(MdxError) as caught:
        start()
    assert "control.key" in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("tenant", "No Such", "--tenant"),
        ("name", "a.b", "--name"),
        ("name", "a_b", "--name"),
        ("gateway_name", "a/b", "--gateway-name"),
        ("host", "0.0.0.0", "no address that others can dial"),
        ("host", "0x7f.1", "--host"),
        ("gateway_port", "0", "--gateway-host"),
    ],
)
def test_odd_arguments_are_named(start: Start, option: str, value: str, says: str) -> None:
    with pytest.raises(MdxError, match=says) as caught:
        start(**{option: value})
    assert caught.value.exit_code == 78


def test_a_state_folder_open_to_others_is_refused(home: Path, start: Start) -> None:
    (home / "control").mkdir(mode=0o755)
    with pytest.raises(MdxError, match="0755"):
        start()


def test_it_ends_cleanly_on_sigterm_and_says_so(home: Path, start: Start) -> None:
    report = start()
    subprocess.run(["kill", "-TERM", str(report["pid"])], check=True)
    stop_daemon(home / "control" / "control.lock")
    log = (home / "control.log").read_text()
    assert "Traceback" not in log
