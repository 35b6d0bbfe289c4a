"""The site's daemon as a process: how it starts, refuses to, and ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mdx.errors import MdxError

Start = Callable[..., Any]
End = Callable[[int], None]


def test_after_a_restart_the_ca_is_the_same(
    start_site: Start, end_process: End, tmp_path: Path
) -> None:
    first = start_site(tmp_path / "site")
    ca = first.ca_file.read_bytes()
    assert first.ca_file == tmp_path / "site" / "ca.pem"
    end_process(first.pid)
    assert json.loads(first.logged().splitlines()[-1])["event"] == "site.stopped"
    second = start_site(tmp_path / "site")
    assert second.ca_file.read_bytes() == ca


def test_only_one_serves_a_state_folder(start_site: Start, tmp_path: Path) -> None:
    start_site(tmp_path / "site")
    with pytest.raises(MdxError, match="already running"):
        start_site(tmp_path / "site")


def test_a_taken_port_is_said_to_be_taken(
    start_site: Start, taken_port: int, tmp_path: Path
) -> None:
    with pytest.raises(MdxError, match=f"port {taken_port} on 127.0.0.1 is taken") as caught:
        start_site(tmp_path / "site", port=taken_port)
    assert caught.value.hint


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_device_ca_that_is_none_is_a_configuration_error(
    content: bytes | None, start_site: Start, tmp_path: Path
) -> None:
    file = tmp_path / "device-ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(MdxError) as caught:
        start_site(tmp_path / "site", ca_file=file)
    assert caught.value.exit_code == 78
