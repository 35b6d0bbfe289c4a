"""When the lease is over, what the library gave breaks and says why; a renewal nobody notices."""

# Most functions here run as programs of their own: each imports what it needs, without pytest.
# ruff: noqa: PT017
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.scenarios.conftest import Machine

RunFunction = Callable[..., str]


@pytest.fixture
def echoing(machine: Machine) -> str:
    """Where programs of the app `direct` find a server of their own."""
    machine.mdx("unlock", "direct")
    return "127.0.0.9"


def meet_the_end(host: str, command: str) -> None:
    """Connections of every kind stand open while somebody at another terminal acts."""
    import asyncio
    import socket
    import subprocess
    import threading

    import trio

    import mdx

    app = mdx.App("direct")
    listener = socket.create_server((host, 0))
    port = listener.getsockname()[1]
    held = []

    def serve() -> None:
        for _ in range(5):
            connection, _ = listener.accept()
            connection.recv(1, socket.MSG_PEEK)
            held.append(connection)

    threading.Thread(target=serve, daemon=True).start()

    def act() -> None:
        subprocess.run(["mdx", command, "direct"], check=True, stdout=subprocess.DEVNULL)

    async def hold() -> list[str]:
        told: list[str] = []
        heard = trio.Event()

        async def receive(stream: trio.abc.ReceiveStream) -> None:
            try:
                await stream.receive_some()
            except trio.BrokenResourceError as error:
                told.append(f"{type(error).__mro__[1].__name__}: {error}")
                heard.set()

        async with trio.open_nursery() as nursery, await app.connect(host, port) as stream:
            await stream.send_all(b"x")
            nursery.start_soon(receive, stream)
            await trio.to_thread.run_sync(act)
            with trio.move_on_after(1 if command == "unlock" else 20):
                await heard.wait()
            nursery.cancel_scope.cancel()
        return told

    async def hold_by_asyncio() -> str:
        reader, writer = await app.aio.open_connection(host, port)
        writer.write(b"x")
        await writer.drain()
        await asyncio.to_thread(act)
        try:
            await reader.read()
        except mdx.LeaseEnded as error:
            return f"LeaseEnded: {error}"
        finally:
            writer.close()
        raise AssertionError

    print(trio.run(hold))
    if command == "unlock":
        return
    for refused in (lambda: app.vault["x"], lambda: app.open_connection(host, port)):
        try:
            refused()
        except mdx.Locked as error:
            print(f"{type(error).__name__}; {error.hint}")
    subprocess.run(["mdx", "unlock", "direct"], check=True, stdout=subprocess.DEVNULL)
    connection = app.open_connection(host, port)  # the same run goes on
    connection.sendall(b"x")
    act()
    try:
        connection.recv(1)
    except mdx.LeaseEnded as error:
        print(f"LeaseEnded: {error}; {error.hint}")
    connection.close()
    subprocess.run(["mdx", "unlock", "direct"], check=True, stdout=subprocess.DEVNULL)
    print(asyncio.run(hold_by_asyncio()))
    subprocess.run(["mdx", "unlock", "direct"], check=True, stdout=subprocess.DEVNULL)


def test_a_lock_breaks_streams_of_every_kind_and_says_so(
    machine: Machine, echoing: str, run_function: RunFunction
) -> None:
    said = run_function(machine, meet_the_end, echoing, "lock").splitlines()
    cut = "LeaseEnded: direct: locked: the connection was cut"
    assert said == [
        f"['{cut}']",
        "Locked; run: mdx unlock direct",
        "LeaseEnded; run: mdx unlock direct",
        f"{cut}; run: mdx unlock direct",
        cut,
    ]


def test_a_renewal_is_not_noticed(
    machine: Machine, echoing: str, run_function: RunFunction
) -> None:
    assert run_function(machine, meet_the_end, echoing, "unlock") == "[]\n"


def outlive_it(site: str) -> None:
    import subprocess
    import threading

    import mdx

    app = mdx.App("short")  # three seconds
    app.vault["lib"] = b"x"
    with app.http() as http:
        try:
            http.get(f"https://{site}/")
        except mdx.BlockedByRule as error:
            assert error.code == "NOT_ALLOWED"
        threading.Event().wait(3.2)
        for use in (lambda: http.get(f"https://{site}/"), lambda: app.vault["lib"]):
            try:
                use()
            except mdx.Locked as error:
                print(type(error).__name__, "expired" in str(error), error.hint)
        subprocess.run(["mdx", "unlock", "short"], check=True, stdout=subprocess.DEVNULL)
        print(app.vault.pop("lib"))


def test_an_expired_key_is_told_from_a_lock(
    machine: Machine, site: str, run_function: RunFunction
) -> None:
    machine.mdx("unlock", "short")
    assert run_function(machine, outlive_it, site).splitlines() == [
        "LeaseEnded True run: mdx unlock short",
        "KeyExpired True run: mdx unlock short",
        "b'x'",
    ]


def lose_a_download(site: str) -> None:
    import subprocess

    import mdx

    app = mdx.App("payroll")
    try:
        with app.http() as http, http.stream("GET", f"https://{site}/big/1000000000") as download:
            for number, piece in enumerate(download):
                assert piece
                if number == 10:
                    subprocess.run(["mdx", "lock", "payroll"], check=True, capture_output=True)
    except mdx.LeaseEnded as error:
        print(error)


def test_a_download_that_is_cut_is_no_end(
    own_machine: Machine, site: str, run_function: RunFunction
) -> None:
    said = run_function(own_machine, lose_a_download, site)
    assert said == "payroll: locked: the connection was cut\n"


def meet_a_gateway_that_is_down(site: str) -> None:
    import mdx

    try:
        mdx.App("payroll").open_connection(site, 443)
    except mdx.GatewayDown as error:
        print(error.code, error.hint)


def test_a_gateway_that_is_down_is_said_so(
    own_machine: Machine, site: str, run_function: RunFunction
) -> None:
    own_machine.run(
        *("python", "-c"),
        "from mdx.spawn import stop_daemon; from pathlib import Path;"
        f"assert stop_daemon(Path({str(own_machine.home)!r}) / 'gateway' / 'gateway.lock')",
    )
    said = run_function(own_machine, meet_a_gateway_that_is_down, site)
    assert said.startswith("GATEWAY_DOWN")
