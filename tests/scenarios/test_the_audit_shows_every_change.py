"""Who changes, cuts or floods the audit is found out; what cannot be written does not happen."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.scenarios.conftest import Machine

RUN = ("run", "--quiet", "payroll", "--")
FETCH = ("curl", "-sS", "-o", "/dev/null", "https://intranet.corp.internal/")
CONNECT = (
    "curl -sSv https://intranet.corp.internal/ 2>&1 | grep -o 'Mdx-Refused: [A-Z_]*';"
    " curl -sS -o /dev/null -w '%{http_code}\\n' https://intranet.corp.internal/ 2>/dev/null\n"
)

# Host names that would end a line, begin a record, or speak to a terminal.
HOSTILE_NAMES = [
    b'a.corp.internal\r\n{"seq":1,"event":"flow.allowed"}',
    b"\x1b[2J\x1b]0;owned\x07.corp.internal",
    b"a.corp.internal\x9b2J",
    "\u202efdp.exe\u2028.corp.internal".encode(),
    b"\xff\xfe.corp.internal",
]
SOCKS_CLIENT = """
import os, socket, sys
proxy = os.environ["http_proxy"].removeprefix("http://").split(":")
for name in sys.argv[1:]:
    host = bytes.fromhex(name)
    with socket.create_connection((proxy[0], int(proxy[1])), timeout=20) as connection:
        address = bytes([len(host)]) + host + b"\\x01\\xbb"
        connection.sendall(b"\\x05\\x01\\x00\\x05\\x01\\x00\\x03" + address)
        print(connection.recv(12, socket.MSG_WAITALL)[3])
"""


# Changes ------------------------------------------------------------------------------------------

Lines = list[bytes]


def edited(lines: Lines) -> Lines:
    return [*lines[:-1], lines[-1].replace(b'"payroll"', b'"visitor"')]


def deleted(lines: Lines) -> Lines:
    return lines[1:]


def reordered(lines: Lines) -> Lines:
    return [*lines[:-2], lines[-1], lines[-2]]


def repeated(lines: Lines) -> Lines:
    return [*lines, lines[-1]]


def cut(lines: Lines) -> Lines:
    return lines[:-1]


def cut_midway(lines: Lines) -> Lines:
    return [*lines[:-1], lines[-1][:-20]]


def emptied(_: Lines) -> Lines:
    return []


def inserted(lines: Lines) -> Lines:
    return [*lines, b"and something else\n"]


@pytest.fixture(scope="module")
def whole(machine: Machine) -> Path:
    """The audit folder of a machine on which something happened, and a run that is over."""
    machine.mdx(*RUN, *FETCH)
    machine.until(lambda: bool(machine.records("audit.anchored")))  # the run is over
    return machine.home / "audit"


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "audit"))


def verify(machine: Machine, folder: Path, *, status: int) -> dict[str, dict[str, Any]]:
    """What `mdx audit verify` says of each chain."""
    done = machine.mdx("audit", "verify", "--folder", str(folder), "--json", status=status)
    return {Path(report["path"]).name: report for report in json.loads(done.stdout)}


def test_the_same_flow_stands_in_both_chains(machine: Machine) -> None:
    machine.mdx(*RUN, *FETCH)

    agents = [r for r in machine.records("flow.allowed") if r["writer"].startswith("agent:")][-1]
    flow = agents["fields"]["flow"]
    shown = machine.json("audit", "show", "--flow", flow)

    told = {(record["writer"].partition(":")[0], record["event"]) for record in shown}
    assert told == {
        (who, what) for who in ("agent", "gateway") for what in ("flow.allowed", "flow.ended")
    }
    assert {record["fields"]["app"] for record in shown} == {"payroll"}
    assert {"TUNNEL *.corp.internal", "allow payroll to *.corp.internal"} == {
        record["fields"]["rule"].partition(" (")[0]
        for record in shown
        if "rule" in record["fields"]
    }


def test_an_audit_that_nobody_touched_is_whole(machine: Machine, copied: Path) -> None:
    reports = verify(machine, copied, status=0)

    assert {"hub.jsonl", "gateway.jsonl", "control.jsonl"} < set(reports)
    assert all(report["whole"] and report["records"] for report in reports.values())


@pytest.mark.parametrize(
    "change", [edited, deleted, reordered, repeated, cut, cut_midway, emptied, inserted]
)
def test_a_change_is_found_and_the_chain_named(
    machine: Machine, copied: Path, change: Callable[[Lines], Lines]
) -> None:
    chain = max(copied.glob("flows-*.jsonl"), key=lambda path: path.stat().st_size)
    before = chain.read_bytes()
    chain.write_bytes(b"".join(change(before.splitlines(keepends=True))))
    assert chain.read_bytes() != before

    reports = verify(machine, copied, status=1)

    assert [name for name, report in reports.items() if not report["whole"]] == [chain.name]
    done = machine.mdx("audit", "verify", "--folder", str(copied), status=1)
    assert done.stderr == "mdx: the audit does not verify\n"
    (row,) = [line for line in done.stdout.splitlines() if line.startswith(chain.name)]
    assert "whole" not in row


def test_a_chain_that_is_gone_is_missed(machine: Machine, copied: Path) -> None:
    chain = max(copied.glob("flows-*.jsonl"), key=lambda path: path.stat().st_size)
    chain.unlink()

    assert not verify(machine, copied, status=1)[chain.name]["whole"]


# Names that clients choose ------------------------------------------------------------------------


def test_no_name_ends_a_line_or_moves_a_terminal(machine: Machine) -> None:
    names = [name.hex() for name in HOSTILE_NAMES]

    done = machine.mdx(*RUN, sys.executable, "-c", SOCKS_CLIENT, *names)

    assert len(done.stdout.split()) == len(names)
    assert "0" not in done.stdout.split()  # RFC 1928, section 6: 0 would be success
    assert_everything_printable(machine)


def test_a_hostile_command_name_stays_in_its_string(machine: Machine) -> None:
    name = 'true\n{"seq":1}\x1b[2J\x1b]0;owned\x07\u202e'
    program = machine.home / name
    program.symlink_to(shutil.which("true") or "true")

    machine.mdx(*RUN, str(program))

    program.unlink()
    assert machine.records("run.started")[-1]["fields"]["command"] == name
    assert_everything_printable(machine)


def assert_everything_printable(machine: Machine) -> None:
    for chain in (machine.home / "audit").glob("*.jsonl"):
        content = chain.read_bytes()
        assert all(byte == 0x0A or 0x20 <= byte < 0x7F for byte in content), chain
    shown = machine.mdx("audit", "show", "--last", "100").stdout
    assert all(character == "\n" or character.isprintable() for character in shown)
    machine.mdx("audit", "verify")


# What cannot be written ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def breakable(make_machine: Callable[[], Machine]) -> Machine:
    """A machine whose hub these tests hinder; they leave it unhindered."""
    machine = make_machine()
    machine.up()
    return machine


@contextmanager
def no_room_in(chain: Path, *, writer: int) -> Iterator[None]:
    """The file of the process `writer` cannot grow: the kernel says EFBIG as it would ENOSPC."""
    before = resource.prlimit(writer, resource.RLIMIT_FSIZE)
    resource.prlimit(writer, resource.RLIMIT_FSIZE, (chain.stat().st_size, before[1]))
    try:
        yield
    finally:
        resource.prlimit(writer, resource.RLIMIT_FSIZE, before)


def test_what_the_hub_cannot_write_down_it_does_not_do(breakable: Machine) -> None:
    breakable.mdx("vault", "put", "payroll", "db", stdin="hunter2")
    breakable.mdx(*RUN, "true")
    hub = breakable.json("status")["hub"]["pid"]
    chain = breakable.home / "audit" / "hub.jsonl"
    breakable.until(lambda: not breakable.json("ps"))

    with no_room_in(chain, writer=hub):
        for arguments, status in (
            (("vault", "get", "payroll", "db"), 1),
            (("vault", "put", "payroll", "db"), 1),
            (("vault", "list", "payroll"), 1),
            (("vault", "remove", "payroll", "db"), 1),
            (("token", "payroll", "--curl"), 1),
            (("unlock", "payroll"), 1),
            ((*RUN, "echo", "handed out"), 125),
        ):
            done = breakable.mdx(*arguments, status=status, stdin="another")
            assert done.stdout == "", arguments
            assert "hub.jsonl cannot be written: File too large" in done.stderr, arguments
            assert "Traceback" not in done.stderr
        assert breakable.json("ps") == []

    assert breakable.mdx("vault", "get", "payroll", "db").stdout == "hunter2"
    assert breakable.mdx(*RUN, "echo", "goes on").stdout == "goes on\n"
    assert breakable.json("status")["hub"]["pid"] == hub
    breakable.mdx("audit", "verify")


def test_a_lease_ends_and_the_hub_lives_though_it_cannot_write_so(breakable: Machine) -> None:
    """The end of a lease is no permission, so it happens written down or not."""
    hub = breakable.json("status")["hub"]["pid"]
    command = ["mdx", "run", "--quiet", "stopped", "--", "sleep", "60"]
    breakable.mdx("unlock", "stopped")
    breakable.mdx("vault", "put", "stopped", "db", stdin="hunter2")
    with breakable.start(*command) as run:
        breakable.until(lambda: any(known["pid"] == run.pid for known in breakable.json("ps")))
        with no_room_in(breakable.home / "audit" / "hub.jsonl", writer=hub):
            assert run.wait(timeout=20) == -signal.SIGTERM  # on_lease_end = "stop"

    assert breakable.json("status")["hub"]["pid"] == hub
    breakable.mdx("vault", "get", "stopped", "db", status=77)
    breakable.mdx("audit", "verify")


def test_an_agent_is_not_replaced_unwritten(breakable: Machine) -> None:
    """Then the app has no way out any more, and the hub serves the others."""
    hub = breakable.json("status")["hub"]["pid"]
    with breakable.start("mdx", *RUN, "sh") as run:
        assert tell(run, CONNECT) == ["200"]
        (facts,) = [known for known in breakable.json("ps") if known["pid"] == run.pid]
        with no_room_in(breakable.home / "audit" / "hub.jsonl", writer=hub):
            os.kill(facts["agent"], signal.SIGKILL)
            assert tell(run, CONNECT) == ["000"]
        run.communicate("exit\n", timeout=20)

    assert breakable.json("status")["hub"]["pid"] == hub
    breakable.mdx(*RUN, *FETCH)
    breakable.mdx("audit", "verify")


def test_what_an_agent_cannot_write_down_it_does_not_dial(machine: Machine) -> None:
    with machine.start("mdx", *RUN, "sh") as run:
        assert tell(run, CONNECT) == ["200"]
        (facts,) = [known for known in machine.json("ps") if known["pid"] == run.pid]
        chain = machine.home / "audit" / f"flows-{facts['run']}.jsonl"

        with no_room_in(chain, writer=facts["agent"]):
            assert tell(run, CONNECT) == ["Mdx-Refused: AUDIT_UNWRITABLE", "000"]
        assert tell(run, CONNECT) == ["200"]

        run.communicate("exit\n", timeout=20)
    machine.mdx("audit", "verify")


def tell(run: subprocess.Popen[str], line: str) -> list[str]:
    """What a shell prints for one line."""
    assert run.stdin is not None
    assert run.stdout is not None
    run.stdin.write(f"{line}echo end\n")
    run.stdin.flush()
    said = []
    while (word := run.stdout.readline().strip()) != "end":
        said.append(word)
    return said
