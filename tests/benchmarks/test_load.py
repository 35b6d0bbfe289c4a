"""The load generator counts what its backend gave, through SOCKS5 too, and tells failures."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from benchmarks import load
from benchmarks.programs import HOST, free_port
from tunnel import Destination, Opened, Relayed, serve_proxy

Driver = Callable[..., load.Driver]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return load.build(tmp_path_factory.mktemp("load"))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def backend(stack: ExitStack, program: Path, tmp_path: Path) -> int:
    return load.serve(stack, program, tmp_path / "backend.log")


@pytest.fixture
def driver(stack: ExitStack, program: Path, tmp_path: Path) -> Driver:
    def make(port: int, *, via: str = "-", host: str = HOST, **options: object) -> load.Driver:
        log = tmp_path / "drive.log"
        command = [program, "drive"]
        return load.Driver(stack, command, via=via, host=host, port=port, log=log, **options)  # type: ignore[arg-type]

    return make


ORDERS = [
    ("bulk", (2, 3_000_000)),
    ("connections", (4, 40)),
    ("requests", (8, 80)),
    ("latency", (20,)),
]


@pytest.mark.parametrize(("kind", "numbers"), ORDERS)
def test_each_order_gives_a_number(
    kind: str, numbers: tuple[int, ...], backend: int, driver: Driver
) -> None:
    assert driver(backend).order(kind, *numbers) > 0


async def test_through_a_proxy_every_stream_and_byte_passes_it(
    backend: int, driver: Driver
) -> None:
    asked: list[str] = []
    carried: list[Relayed] = []

    async def connect(destination: Destination, flow: str) -> Opened:
        asked.append(str(destination))
        return Opened(stream=await trio.open_tcp_stream(HOST, backend))

    async def admit(stream: trio.SocketStream) -> bool:
        return True

    def failed(error: BaseException) -> None:
        raise error

    def ended(flow: str, relayed: Relayed) -> None:
        carried.append(relayed)

    (listener,) = await trio.open_tcp_listeners(0, host=HOST)
    port = listener.socket.getsockname()[1]
    environment = {"ALL_PROXY": f"socks5h://{HOST}:{port}"}
    drive = driver(7, via="env", host="load.corp.internal", environment=environment)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            lambda: serve_proxy(
                listener,
                admit=admit,
                connect=connect,
                malformed=lambda flow, refused: None,
                ended=ended,
                failed=failed,
            )
        )
        await trio.to_thread.run_sync(drive.order, "bulk", 3, 500_000)
        await trio.to_thread.run_sync(drive.order, "connections", 2, 10)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert asked == ["load.corp.internal:7"] * 13
    assert sum(relayed.bytes_down for relayed in carried) == 3 * 500_000 + 10


def test_what_is_not_served_is_an_error_and_the_driver_goes_on(
    backend: int, driver: Driver
) -> None:
    nobody = driver(free_port())
    for kind, numbers in ORDERS:
        with pytest.raises(RuntimeError, match=r"not (opened|served)"):
            nobody.order(kind, *numbers)
    assert driver(backend).order("latency", 1) > 0


@pytest.mark.parametrize("kind", ["nonsense", "bulk", "requests"])
def test_an_order_without_its_numbers_is_refused(kind: str, driver: Driver) -> None:
    with pytest.raises(RuntimeError, match="this order makes no sense"):
        driver(1).order(kind, 1)


def test_a_driver_that_ended_is_told_with_its_last_words(stack: ExitStack, tmp_path: Path) -> None:
    command = ["sh", "-c", "echo mdx: locked >&2"]
    log = tmp_path / "log"
    driver = load.Driver(stack, command, via="-", host=HOST, port=1, log=log)
    os.waitid(os.P_PID, driver.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(RuntimeError, match=r"the driver ended: .*mdx: locked"):
        driver.order("latency", 1)


def test_other_words_are_a_usage_error(program: Path) -> None:
    done = subprocess.run([program, "swim"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "usage: load serve|drive\n"
