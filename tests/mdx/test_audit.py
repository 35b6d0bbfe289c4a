"""Audit chains on disk: one writer each, whole after every fault, checked against each other."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mdx.audit import AuditLog, ChainReport, read, verify
from mdx.audit_chain import Flaw, Record, parse_record
from mdx.errors import AuditUnwritable, MdxError

KILLS = 30 if os.environ.get("MDX_SOAK") else 4

Opened = Callable[..., AuditLog]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "audit"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def opened(folder: Path) -> Iterator[Opened]:
    """Opens the chain of a writer; all are closed at the end."""
    logs: list[AuditLog] = []

    def open_(name: str = "hub", *, durable: bool = False) -> AuditLog:
        logs.append(AuditLog(folder / f"{name}.jsonl", writer=name, durable=durable))
        return logs[-1]

    yield open_
    for log in logs:
        log.close()


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Files cannot grow beyond `size` bytes meanwhile: the kernel's own short writes and EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def records_of(path: Path) -> list[Record]:
    return [parse_record(line) for line in path.read_bytes().splitlines()]


def events_of(path: Path) -> list[str]:
    return [record.event for record in records_of(path)]


def flaws(reports: list[ChainReport]) -> dict[str, list[Flaw]]:
    return {report.path.name: [found.flaw for found in report.findings] for report in reports}


# Writing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
def test_records_are_appended_and_private(folder: Path, opened: Opened, durable: bool) -> None:
    log = opened(durable=durable)
    log.append("hub.started", pid=7)
    log.append("run.ended", app="payroll", run="0badcafe")
    first, second = records_of(log.path)
    assert (first.seq, first.writer, first.event, first.fields) == (
        1,
        "hub",
        "hub.started",
        {"pid": 7},
    )
    assert (second.seq, second.prev) == (2, first.hash)
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600
    assert flaws(verify(folder)) == {"hub.jsonl": []}


def test_the_time_of_a_record_is_the_clocks(folder: Path) -> None:
    with AuditLog(folder / "hub.jsonl", writer="hub", clock=lambda: 1_772_352_000.25) as log:
        log.append("hub.started")
    assert records_of(log.path)[0].at == "2026-03-01T08:00:00.250Z"


def test_a_restarted_writer_goes_on_with_the_chain(folder: Path, opened: Opened) -> None:
    for pid in range(3):
        log = opened()
        log.append("hub.started", pid=pid)
        log.close()
    assert [record.seq for record in records_of(log.path)] == [1, 2, 3]
    assert flaws(verify(folder)) == {"hub.jsonl": []}


def test_what_a_client_chose_makes_no_second_record(folder: Path, opened: Opened) -> None:
    log = opened()
    forged = 'x"}\r\n{"seq":2,"event":"lease.granted"}\n\x1b[2J\u202e'
    log.append("flow.refused", destination=forged, rule=forged)
    log.append("run.ended")
    assert log.path.read_bytes().count(b"\n") == 2
    assert log.path.read_bytes().replace(b"\n", b"").decode("ascii").isprintable()
    assert records_of(log.path)[0].fields["destination"] == forged
    assert flaws(verify(folder)) == {"hub.jsonl": []}


def test_what_is_not_in_the_catalogue_is_a_programming_error(opened: Opened) -> None:
    log = opened()
    with pytest.raises(ValueError, match="not an audit event"):
        log.append("run.finished")
    with pytest.raises(ValueError, match="no field password"):
        log.append("run.ended", password="x")
    assert log.path.read_bytes() == b""


def test_threads_share_one_chain(folder: Path, opened: Opened) -> None:
    log = opened()

    def write() -> None:
        for _ in range(50):
            log.append("run.ended")

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [record.seq for record in records_of(log.path)] == list(range(1, 201))
    assert flaws(verify(folder)) == {"hub.jsonl": []}


# One writer ---------------------------------------------------------------------------------------

APPEND = """
import sys
from pathlib import Path
from mdx.audit import AuditLog
from mdx.errors import AuditUnwritable
try:
    log = AuditLog(Path(sys.argv[1]), writer="hub")
    log.append("hub.started")
except AuditUnwritable as error:
    sys.exit(str(error))
print("written", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_gone(folder: Path, opened: Opened) -> None:
    path = folder / "hub.jsonl"
    run = [sys.executable, "-c", APPEND, str(path)]
    with subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "written\n"
        with pytest.raises(AuditUnwritable, match="has a living writer already"):
            opened()
        second = subprocess.run(run, input="", capture_output=True, text=True)
        assert second.returncode == 1
        assert "has a living writer already" in second.stderr
        first.kill()
    opened().append("hub.started")
    assert events_of(path) == ["hub.started", "hub.started"]
    assert flaws(verify(folder)) == {"hub.jsonl": []}


def test_the_chain_of_another_writer_is_not_gone_on_with(folder: Path, opened: Opened) -> None:
    opened().append("hub.started")
    shutil.copy(folder / "hub.jsonl", folder / "control.jsonl")
    with pytest.raises(AuditUnwritable, match="the chain of hub, not of control"):
        opened("control")


def test_a_closed_log_writes_nothing(opened: Opened) -> None:
    log = opened()
    log.close()
    log.close()
    with pytest.raises(AuditUnwritable, match="is closed"):
        log.append("hub.started")


# Places that are not ours -------------------------------------------------------------------------


def test_links_are_not_followed(folder: Path, tmp_path: Path, opened: Opened) -> None:
    target = tmp_path / "elsewhere"
    target.touch(0o600)
    (folder / "hub.jsonl").symlink_to(target)
    with pytest.raises(AuditUnwritable, match="cannot be written") as caught:
        opened()
    assert "links are not followed" in caught.value.hint
    (folder / "agent.jsonl").hardlink_to(target)
    with pytest.raises(AuditUnwritable, match="2 names"):
        opened("agent")
    assert target.read_bytes() == b""


def test_what_is_not_a_private_regular_file(folder: Path, opened: Opened) -> None:
    os.mkfifo(folder / "hub.jsonl", 0o600)
    with pytest.raises(AuditUnwritable, match="not a regular file"):
        opened()
    (folder / "agent.jsonl").mkdir()
    with pytest.raises(AuditUnwritable, match="cannot be written"):
        opened("agent")
    (folder / "control.jsonl").touch()
    (folder / "control.jsonl").chmod(0o640)
    with pytest.raises(AuditUnwritable, match="has mode 0640") as caught:
        opened("control")
    assert caught.value.hint.startswith("chmod 600")


@pytest.mark.root
def test_a_file_of_somebody_else(folder: Path, opened: Opened) -> None:
    (folder / "hub.jsonl").touch(0o600)
    os.chown(folder / "hub.jsonl", 65534, -1)
    with pytest.raises(AuditUnwritable, match="belongs to uid 65534, not to you"):
        opened()


def test_a_folder_that_is_missing_or_not_a_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, why in [
        (folder / "missing" / "hub.jsonl", "No such file"),
        (tmp_path / "file" / "hub.jsonl", "Not a directory"),
    ]:
        with pytest.raises(AuditUnwritable, match=why):
            AuditLog(path, writer="hub")


@contextmanager
def no_permission(folder: Path) -> Iterator[None]:
    """We may not write in `folder` meanwhile; root has to become somebody else for that."""
    if os.geteuid() == 0:
        os.seteuid(65534)
    else:
        folder.chmod(0o500)
    try:
        yield
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        else:
            folder.chmod(0o700)


def test_a_folder_that_we_may_not_write(folder: Path, opened: Opened) -> None:
    with no_permission(folder), pytest.raises(AuditUnwritable, match="Permission denied") as caught:
        opened()
    assert caught.value.hint == "see who owns the folder, and its mode"
    opened().append("hub.started")


def test_a_file_that_was_moved_away_is_not_written_to(folder: Path, opened: Opened) -> None:
    log = opened()
    log.append("hub.started")
    log.path.rename(folder / "old")
    for _ in range(2):
        with pytest.raises(AuditUnwritable, match="was moved or removed"):
            log.append("hub.stopped")
        (folder / "hub.jsonl").touch(0o600)
    (folder / "old").rename(log.path)
    log.append("hub.stopped")
    assert events_of(log.path) == ["hub.started", "hub.stopped"]


def test_a_file_that_somebody_wrote_to_is_not_gone_on_with(folder: Path, opened: Opened) -> None:
    log = opened()
    log.append("hub.started")
    content = log.path.read_bytes()
    with log.path.open("ab") as file:
        file.write(b"x\n")
    with pytest.raises(AuditUnwritable, match=r"changed by somebody else \(\+2 bytes\)"):
        log.append("hub.stopped")
    log.close()
    with pytest.raises(AuditUnwritable, match="broken at its end: it is not a record") as caught:
        opened()
    assert "mdx audit verify" in caught.value.hint
    log.path.write_bytes(content)
    opened().append("hub.stopped")
    assert flaws(verify(folder)) == {"hub.jsonl": []}


# Faults -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("fits", [0, 1, 100, 250])
def test_a_full_disk_leaves_no_half_record(
    folder: Path, opened: Opened, durable: bool, fits: int
) -> None:
    log = opened(durable=durable)
    log.append("run.started", app="payroll")
    content = log.path.read_bytes()
    with room_for(len(content) + fits):
        for _ in range(2):
            with pytest.raises(
                AuditUnwritable, match="cannot be written: File too large"
            ) as caught:
                log.append("run.ended", app="payroll", run="x" * 200)
            assert log.path.read_bytes() == content
    assert "may not grow" in caught.value.hint
    log.append("run.ended", app="payroll")
    assert [record.seq for record in records_of(log.path)] == [1, 2]
    assert flaws(verify(folder)) == {"hub.jsonl": []}


def test_a_crash_in_the_middle_of_a_record(folder: Path, opened: Opened) -> None:
    log = opened()
    for run in ("a", "b"):
        log.append("run.ended", run=run)
    log.close()
    content = log.path.read_bytes()
    last = content.splitlines(keepends=True)[1]
    for kept in (1, 50, len(last) - 1):
        log.path.write_bytes(content[: -len(last)] + last[:kept])
        assert flaws(verify(folder)) == {"hub.jsonl": [Flaw.UNFINISHED]}
        log = opened()
        log.append("hub.started")
        log.close()
        recovered = records_of(log.path)[1]
        assert recovered.event == "audit.recovered"
        assert recovered.fields == {"dropped_bytes": kept}
        assert events_of(log.path) == ["run.ended", "audit.recovered", "hub.started"]
        assert flaws(verify(folder)) == {"hub.jsonl": []}


@pytest.mark.parametrize("torn", [b"{", b"\x00" * 5000, b"x" * 100_000])
def test_a_crash_in_the_first_record(folder: Path, opened: Opened, torn: bytes) -> None:
    (folder / "hub.jsonl").touch(0o600)
    (folder / "hub.jsonl").write_bytes(torn)
    opened().append("hub.started")
    assert events_of(folder / "hub.jsonl") == ["audit.recovered", "hub.started"]
    assert flaws(verify(folder)) == {"hub.jsonl": []}


def test_a_crash_that_cannot_be_recovered_from_is_said_at_once(
    folder: Path, opened: Opened
) -> None:
    log = opened()
    log.append("hub.started")
    log.close()
    size = log.path.stat().st_size
    with log.path.open("ab") as file:
        file.write(b"{")
    with room_for(size), pytest.raises(AuditUnwritable, match="File too large"):
        opened()
    opened().append("hub.started")
    assert flaws(verify(folder)) == {"hub.jsonl": []}


@pytest.mark.parametrize(
    "content", [b"x" * 1_000_000, b"not a record\n", b"\n", b"x" * 600_000 + b"\n"]
)
def test_what_was_never_a_chain_is_not_gone_on_with(
    folder: Path, opened: Opened, content: bytes
) -> None:
    path = folder / "hub.jsonl"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(AuditUnwritable, match="is broken"):
        opened()
    assert path.read_bytes() == content
    assert flaws(verify(folder))["hub.jsonl"]


WRITE_ON = """
import os, sys
from pathlib import Path
from mdx.audit import AuditLog
log = AuditLog(Path(sys.argv[1]), writer="hub")
while True:
    log.append("run.ended", run="x" * 300)
    os.write(1, b".")
"""


def test_a_writer_that_is_killed_loses_nothing_that_it_acknowledged(folder: Path) -> None:
    path = folder / "hub.jsonl"
    acknowledged = 0
    for round_ in range(KILLS):
        run = [sys.executable, "-c", WRITE_ON, str(path)]
        with subprocess.Popen(run, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            acknowledged += len(writer.stdout.read(50 + 37 * round_))
            writer.send_signal(signal.SIGKILL)
            acknowledged += len(writer.stdout.read())
        AuditLog(path, writer="hub").close()  # takes back what may be half-written
        [report] = verify(folder)
        assert report.problems == []
        assert report.records >= acknowledged


# Anchors ------------------------------------------------------------------------------------------


@pytest.fixture
def flows(folder: Path, opened: Opened) -> Path:
    """A chain of five records that hub.jsonl anchors."""
    log = opened("flows-1")
    for number in range(5):
        log.append("flow.ended", flow=f"{number:016x}")
    hub = opened("hub")
    hub.anchor(log.path)
    hub.close()
    log.close()
    return log.path


def test_an_anchor_holds_the_end_of_another_chain(folder: Path, flows: Path) -> None:
    last = records_of(flows)[-1]
    [anchor] = records_of(folder / "hub.jsonl")
    assert anchor.event == "audit.anchored"
    assert anchor.fields == {"chain": "flows-1.jsonl", "last_seq": 5, "last_hash": last.hash}
    anchored = {report.path.name: report.anchored for report in verify(folder)}
    assert anchored == {"flows-1.jsonl": 5, "hub.jsonl": 0}


def test_a_cut_chain_is_found_by_its_anchor(folder: Path, flows: Path) -> None:
    lines = flows.read_bytes().splitlines(keepends=True)
    flows.write_bytes(b"".join(lines[:3]))
    assert flaws(verify(folder)) == {"flows-1.jsonl": [Flaw.CUT], "hub.jsonl": []}
    text = "records 4 to 5 are cut off; record 1 of hub.jsonl knows of them"
    assert verify(folder)[0].problems == [text]
    flows.write_bytes(b"")
    assert flaws(verify(folder)) == {"flows-1.jsonl": [Flaw.CUT], "hub.jsonl": []}


def test_a_chain_written_anew_is_found_by_its_anchor(
    folder: Path, flows: Path, opened: Opened
) -> None:
    flows.unlink()
    log = opened("flows-1")
    for number in range(9):
        log.append("flow.ended", flow=f"{number + 1:016x}")
    assert flaws(verify(folder)) == {"flows-1.jsonl": [Flaw.CHANGED], "hub.jsonl": []}


def test_a_chain_that_is_gone_is_found_by_its_anchor(folder: Path, flows: Path) -> None:
    flows.unlink()
    assert flaws(verify(folder)) == {"flows-1.jsonl": [Flaw.MISSING], "hub.jsonl": []}
    problem = "the whole chain is gone; record 1 of hub.jsonl knew it"
    assert [report.problems for report in verify(folder)] == [[], [problem]]


def test_a_chain_may_grow_beyond_its_anchor(folder: Path, flows: Path, opened: Opened) -> None:
    opened("flows-1").append("flow.ended")
    assert flaws(verify(folder)) == {"flows-1.jsonl": [], "hub.jsonl": []}


def test_an_unfinished_chain_is_anchored_where_it_is_whole(
    folder: Path, flows: Path, opened: Opened
) -> None:
    with flows.open("ab") as file:
        file.write(b"{")
    opened("hub").anchor(flows)
    assert records_of(folder / "hub.jsonl")[-1].fields["last_seq"] == 5
    assert flaws(verify(folder)) == {"flows-1.jsonl": [Flaw.UNFINISHED], "hub.jsonl": []}


def test_an_empty_chain_can_be_anchored(folder: Path, opened: Opened) -> None:
    opened("flows-1")
    opened("hub").anchor(folder / "flows-1.jsonl")
    assert records_of(folder / "hub.jsonl")[-1].fields["last_seq"] == 0
    assert flaws(verify(folder)) == {"flows-1.jsonl": [], "hub.jsonl": []}


def test_what_cannot_be_anchored_is_written_down(folder: Path, flows: Path, opened: Opened) -> None:
    hub = opened("hub")
    with flows.open("ab") as file:
        file.write(b"x\n")
    hub.anchor(flows)
    hub.anchor(folder / "gone.jsonl")
    written = [record.fields.get("flaw") for record in records_of(folder / "hub.jsonl")]
    assert written == [None, "its last record: it is not a record", "No such file or directory"]
    assert flaws(verify(folder)) == {
        "flows-1.jsonl": [Flaw.CHANGED, Flaw.CHANGED],
        "hub.jsonl": [],
        "gone.jsonl": [Flaw.CHANGED],
    }


def test_a_chain_in_another_folder_cannot_be_anchored(tmp_path: Path, opened: Opened) -> None:
    with pytest.raises(ValueError, match="is not in"):
        opened("hub").anchor(tmp_path / "flows-1.jsonl")


# Verifying and reading ----------------------------------------------------------------------------


def test_reports_are_data(folder: Path, flows: Path) -> None:
    flows.write_bytes(flows.read_bytes().replace(b"0001", b"0009", 1))
    report = verify(folder)[0]
    assert report.problems == ["line 2: it does not match its own hash"]
    described = json.loads(json.dumps(report.to_dict()))
    assert described["findings"] == [
        {"flaw": "changed", "line": 2, "text": "it does not match its own hash"}
    ]
    assert (described["writer"], described["records"], described["whole"]) == ("flows-1", 5, False)
    assert described["first_at"] <= described["last_at"]


def test_more_findings_than_anybody_reads(folder: Path) -> None:
    (folder / "hub.jsonl").write_bytes(b"x\n" * 150)
    [report] = verify(folder)
    assert len(report.problems) == 101
    assert report.problems[-1] == "and 50 more"


def test_a_line_that_is_too_long_is_one_finding(folder: Path, opened: Opened) -> None:
    log = opened()
    log.append("hub.started")
    first = log.path.read_bytes()
    log.append("hub.stopped")
    second = log.path.read_bytes().removeprefix(first)
    for length in (256 * 1024, 256 * 1024 + 1, 256 * 1024 + 2, 1_000_000):
        log.path.write_bytes(first + b"x" * length + b"\n" + second)
        [report] = verify(folder)
        assert [(found.flaw, found.line) for found in report.findings] == [(Flaw.CHANGED, 2)]


def test_what_is_no_file_is_a_finding_and_other_names_are_not_looked_at(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "folder.jsonl").mkdir()
    os.mkfifo(folder / "pipe.jsonl")
    (tmp_path / "elsewhere").touch()
    (folder / "link.jsonl").symlink_to(tmp_path / "elsewhere")
    (folder / "notes.txt").write_text("not a chain")
    assert flaws(verify(folder)) == {
        "folder.jsonl": [Flaw.MISSING],
        "link.jsonl": [Flaw.MISSING],
        "pipe.jsonl": [Flaw.MISSING],
    }
    for report in verify(folder):
        assert report.problems[0].startswith("it cannot be read: ")


def test_without_a_folder_there_is_nothing_to_verify_or_read(tmp_path: Path) -> None:
    for look in (verify, read):
        with pytest.raises(MdxError, match=r"there is no audit to read in .*No such file"):
            look(tmp_path / "missing")


def test_a_living_writer_is_not_taken_for_a_broken_chain(folder: Path) -> None:
    run = [sys.executable, "-c", WRITE_ON, str(folder / "hub.jsonl")]
    with subprocess.Popen(run, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        fcntl.fcntl(writer.stdout, fcntl.F_SETPIPE_SZ, 4096)  # it does not run far ahead
        for _ in range(10):
            writer.stdout.read(1000)
            [report] = verify(folder)
            assert report.problems == []
        writer.kill()
        writer.stdout.read()


def test_records_of_all_chains_are_read_by_time(folder: Path) -> None:
    for writer, times in [("hub", (10, 40, 30)), ("agent", (20, 35))]:
        clock = iter(times).__next__
        with AuditLog(folder / f"{writer}.jsonl", writer=writer, clock=clock) as log:
            for _ in times:
                log.append("run.ended")
    found = [(record.writer, record.at[17:19]) for record in read(folder)]
    assert found == [
        ("hub", "10"),
        ("agent", "20"),
        ("agent", "35"),
        ("hub", "40"),
        ("hub", "30"),  # its clock was set back; a chain keeps its order
    ]


def test_lines_that_are_no_records_are_told(folder: Path, opened: Opened) -> None:
    log = opened()
    for _ in range(3):
        log.append("run.ended")
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(lines[0] + b"x\n" + lines[2])
    told: list[tuple[Path, int, str]] = []
    found = list(read(folder, unreadable=lambda *line: told.append(line)))
    assert [record.seq for record in found] == [1, 3]
    assert told == [(log.path, 2, "it is not a record")]
    assert len(list(read(folder))) == 2


def test_a_record_is_data(folder: Path, opened: Opened) -> None:
    log = opened()
    log.append("run.ended", run="0badcafe")
    [record] = read(folder)
    assert json.loads(json.dumps(record.to_dict())) == json.loads(log.path.read_bytes())
