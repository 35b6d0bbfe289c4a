"""Where an agent may listen: what is refused, and what cannot be taken over."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from mdx.errors import MdxError
from mdx.listen_address import ListenAddress, bind, parse_address, pin_executable, user_id

NOBODY = 65534


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("unix:/run/user/1000/payroll.sock", "unix:/run/user/1000/payroll.sock"),
        ("unix:/tmp//x/../payroll.sock", "unix:/tmp/payroll.sock"),
        ("127.0.0.1:3128", "127.0.0.1:3128"),
        ("127.0.0.1:0", "127.0.0.1:0"),
    ],
)
def test_the_two_forms(text: str, shown: str) -> None:
    address = parse_address(text)
    assert str(address) == shown
    assert address.is_unix == text.startswith("unix:")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0.0.0.0:3128", r"only 127\.0\.0\.1"),
        ("localhost:3128", r"only 127\.0\.0\.1"),
        ("[::1]:3128", r"only 127\.0\.0\.1"),
        ("192.0.2.1:3128", r"only 127\.0\.0\.1"),
        (":3128", r"only 127\.0\.0\.1"),
        ("3128", "no address"),
        ("127.0.0.1", "no address"),
        ("127.0.0.1:", "no address"),
        ("127.0.0.1:65536", "no address"),
        ("127.0.0.1:-1", "no address"),
        ("127.0.0.1:²", "no address"),
        ("127.0.0.1:" + "9" * 5000, "no address"),
        ("", "no address"),
        ("unix:", "whole path"),
        ("unix:payroll.sock", "whole path"),
        ("unix:@payroll", "abstract"),
        ("unix:/" + "x" * 107, "108 bytes, the kernel allows 107"),
    ],
)
def test_everything_else_is_refused(text: str, why: str) -> None:
    with pytest.raises(MdxError, match=why) as caught:
        parse_address(text)
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_two_names_of_one_address_have_one_lock() -> None:
    first, second = parse_address("unix:/tmp/a.sock"), parse_address("unix:/tmp/./a.sock")
    assert first.lock_name == second.lock_name != parse_address("unix:/tmp/b.sock").lock_name


def test_users_by_number_and_name() -> None:
    assert user_id("0") == user_id("root") == 0
    assert user_id(str(NOBODY)) == NOBODY


@pytest.mark.parametrize("text", ["", "no-such-user", "-1", "4294967295", "²", "a\0b"])
def test_no_such_user(text: str) -> None:
    with pytest.raises(MdxError, match="no such user"):
        user_id(text)


# Unix sockets ---------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A short one: pytest's own folders can be longer than a socket's path may be."""
    short = Path(f"/tmp/mdx-{os.getpid()}-{tmp_path.stat().st_ino}")
    short.mkdir(mode=0o700)
    yield short / "s"
    for left in short.iterdir():
        left.unlink()
    short.rmdir()


def test_only_its_user_may_connect(path: Path) -> None:
    umask = os.umask(0)
    try:
        with bind(ListenAddress(path=path)):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert os.umask(0) == 0  # as it was before
    finally:
        os.umask(umask)


def test_a_stale_socket_is_replaced(path: Path) -> None:
    bind(ListenAddress(path=path)).close()  # as after SIGKILL: the file stays
    with bind(ListenAddress(path=path)), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_socket_that_somebody_serves_is_not(path: Path) -> None:
    with bind(ListenAddress(path=path)) as first:
        with pytest.raises(MdxError, match="is served already"):
            bind(ListenAddress(path=path))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            first.accept()[0].close()


def test_nor_is_one_whose_backlog_is_full(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as client:
        busy.bind(str(path))
        busy.listen(0)
        client.connect(str(path))
        with pytest.raises(MdxError, match="is served already"):
            bind(ListenAddress(path=path))


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_what_is_no_socket_is_left_alone(path: Path, kind: str) -> None:
    other = path.with_name("other")
    match kind:
        case "file":
            path.write_text("keep")
        case "link":
            bind(ListenAddress(path=other)).close()
            path.symlink_to(other)
        case "folder":
            path.mkdir()
    with pytest.raises(MdxError, match="is not a socket"):
        bind(ListenAddress(path=path))
    assert os.path.lexists(path)
    if kind == "folder":
        path.rmdir()


@pytest.mark.root
def test_a_socket_of_another_user_is_left_alone(path: Path) -> None:
    bind(ListenAddress(path=path)).close()
    os.chown(path, NOBODY, NOBODY)
    with pytest.raises(MdxError, match=f"is a socket of uid {NOBODY}"):
        bind(ListenAddress(path=path))
    assert path.is_socket()


def test_a_folder_in_which_others_can_rename_is_refused(path: Path) -> None:
    path.parent.chmod(0o777)
    with pytest.raises(MdxError, match="could take the socket's place"):
        bind(ListenAddress(path=path))
    path.parent.chmod(0o1777)  # sticky, as /tmp is: only its owner can
    bind(ListenAddress(path=path)).close()


@pytest.mark.root
def test_a_folder_of_another_user_is_refused(path: Path) -> None:
    os.chown(path.parent, NOBODY, NOBODY)
    with pytest.raises(MdxError, match="could take the socket's place"):
        bind(ListenAddress(path=path))


def test_a_folder_that_is_not_there(path: Path) -> None:
    with pytest.raises(MdxError, match="No such file") as caught:
        bind(ListenAddress(path=path / "deeper"))
    assert "mkdir" in caught.value.hint


# Loopback -------------------------------------------------------------------------------------


def test_a_port_on_loopback_only() -> None:
    with bind(ListenAddress(port=0)) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with pytest.raises(MdxError, match=f"port {port} on 127.0.0.1 is taken") as caught:
            bind(ListenAddress(port=port))
    assert "ss -ltnp" in caught.value.hint


# Executables ----------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path: Path) -> Path:
    made = tmp_path / "program"
    made.write_bytes(b"\x7fELF and so on")
    made.chmod(0o755)
    return made


def test_a_program_is_pinned_by_its_inode(program: Path) -> None:
    pinned = pin_executable(program)
    facts = program.stat()
    expected = {
        "kind": "executable",
        "path": str(program),
        "device": facts.st_dev,
        "inode": facts.st_ino,
    }
    assert pinned.rule() == expected
    program.unlink()
    assert os.fstat(pinned.descriptor).st_ino == facts.st_ino  # no new file can get the number
    pinned.close()


def test_a_link_leads_to_the_file_itself(program: Path) -> None:
    link = program.with_name("link")
    link.symlink_to(program)
    pinned = pin_executable(link)
    assert (pinned.path, pinned.inode) == (program, program.stat().st_ino)
    pinned.close()


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_a_program_that_others_can_change_is_refused(program: Path, mode: int) -> None:
    program.chmod(mode)
    with pytest.raises(MdxError, match="can be changed by other users") as caught:
        pin_executable(program)
    assert "chmod go-w" in caught.value.hint


@pytest.mark.root
def test_a_program_of_another_user_is_refused(program: Path) -> None:
    os.chown(program, NOBODY, NOBODY)
    with pytest.raises(MdxError, match="can be changed by other users"):
        pin_executable(program)


def test_a_script_never_runs_itself(program: Path) -> None:
    program.write_text("#!/bin/sh\n")
    with pytest.raises(MdxError, match="is a script: what runs is its interpreter"):
        pin_executable(program)


def test_what_is_no_program(program: Path) -> None:
    program.chmod(0o644)
    for wrong in (program, program.parent, Path("/dev/null")):
        with pytest.raises(MdxError, match="is not a program"):
            pin_executable(wrong)
    with pytest.raises(MdxError, match="No such file"):
        pin_executable(program.with_name("none"))


def test_refusing_keeps_no_descriptor_open(program: Path) -> None:
    program.chmod(0o644)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(MdxError):
        pin_executable(program)
    assert len(os.listdir("/proc/self/fd")) == before
