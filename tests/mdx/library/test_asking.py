"""How the hub's errors arrive, from a hub that is a socket and says what a test wants."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mdx import errors
from mdx.errors import ConfigError, HubRefused, MdxError, RunFailed
from mdx.hub import wire
from mdx.library.asking import Caller, caller
from vault import NoSuchRecord, RecordExpired

Answering = Callable[[wire.Message], Caller]


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder with a path short enough for a socket."""
    made = Path(tempfile.mkdtemp(prefix="mdx-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def answering(home: Path) -> Iterator[Answering]:
    """The caller of a hub that gives one answer."""
    threads: list[threading.Thread] = []

    def serve(answer: wire.Message) -> Caller:
        (home / "run").mkdir(mode=0o700)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(os.fspath(home / "run" / "hub.sock"))
        listening.listen()

        def run() -> None:
            connection, _ = listening.accept()
            with connection, listening:
                (length,) = struct.unpack(">I", connection.recv(4, socket.MSG_WAITALL))
                connection.recv(length, socket.MSG_WAITALL)
                connection.sendall(wire.encode(answer))

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return caller("payroll", config=None, environ={"MDX_HOME": str(home)})

    yield serve
    for thread in threads:
        thread.join()


def refusal(error: Exception) -> wire.Message:
    return wire.error_message(error)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (
            HubRefused("no", hint="do", exit_code=77, needs="consent", kind="KeyExpired"),
            "KeyExpired",
        ),
        (HubRefused("no", hint="do", exit_code=77, needs="unlock", kind="Locked"), "Locked"),
        (HubRefused("no", hint="do", exit_code=77, needs="passphrase"), "Locked"),
        (ConfigError("no", hint="do"), "ConfigError"),
        (RunFailed("no", hint="do"), "RunFailed"),
        (NoSuchRecord("no", hint="do"), "NoSuchRecord"),
        (RecordExpired("no", hint="do"), "RecordExpired"),
        (MdxError("no", hint="do", exit_code=3), "HubRefused"),
    ],
)
def test_each_error_of_the_hub_has_its_class(
    answering: Answering, error: Exception, kind: str
) -> None:
    with pytest.raises(MdxError) as caught:
        answering(refusal(error)).ask("vault.get", name="x")
    assert type(caught.value) is getattr(errors, kind)
    assert str(caught.value) == "no"
    assert caught.value.hint == "do"
    assert caught.value.exit_code == getattr(error, "exit_code", 1)
    assert caught.value.__cause__ is None


def test_an_older_hub_that_names_no_kind_is_understood(answering: Answering) -> None:
    message = refusal(HubRefused("no", exit_code=77, needs="consent"))
    del message["error"]["kind"]
    with pytest.raises(errors.Locked):
        answering(message).ask("vault.get", name="x")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ({"leases": [{"scope": "app:payroll", "state": "expired"}]}, errors.LeaseEnded),
        ({"leases": [{"scope": "app:payroll", "state": "locked"}]}, errors.LeaseEnded),
        ({"leases": [{"scope": "app:payroll", "state": "unlocked"}]}, errors.ConnectionCut),
        ({"leases": [{"scope": "app:other", "state": "locked"}]}, errors.ConnectionCut),
        ({"open": False}, errors.ConnectionCut),
    ],
)
def test_a_cut_is_explained(
    answering: Answering, status: dict[str, Any], kind: type[MdxError]
) -> None:
    assert type(answering({"ok": status}).explain_cut()) is kind


def test_a_cut_starts_no_hub(home: Path) -> None:
    asking = caller("payroll", config=None, environ={"MDX_HOME": str(home)})
    assert type(asking.explain_cut()) is errors.ConnectionCut
    assert not list(home.iterdir())


def test_equal_callers_share_what_they_begin(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"MDX_HOME": str(home), "OTHER": "x"}
    one = caller("payroll", config=Path("mdx.toml"), environ=environ)
    same = caller("payroll", config=Path.cwd() / "mdx.toml", environ=environ | {"OTHER": "y"})
    assert one == same
    assert hash(one) == hash(same)
    assert one != caller("payroll", config=None, environ=environ)
