"""`with app.patched():` code that knows only the socket module goes by the routes, and no other."""

# Most functions here run as programs of their own: each imports what it needs, without pytest.
# ruff: noqa: PT017
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.scenarios.conftest import Machine

RunFunction = Callable[..., str]


def use_the_standard_library(site: str) -> None:
    import http.client
    import socket
    import ssl
    import sys
    import urllib.error
    import urllib.request

    import mdx

    asked = []

    def listen(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith("socket.") and site in str(arguments):
            asked.append(event)

    sys.addaudithook(listen)
    originals = [socket.getaddrinfo, socket.gethostbyname, socket.create_connection]
    early = http.client.HTTPSConnection(site)  # holds create_connection already
    app = mdx.App("payroll")
    trusting = ssl.create_default_context(cafile=app.ca_bundle)
    with app.patched():
        with urllib.request.urlopen(f"https://{site}/payroll.json", context=trusting) as answer:
            print(answer.status)
        early._context = trusting  # type: ignore[attr-defined]
        early.request("GET", "/payroll.json")
        print(early.getresponse().status)
        early.close()
        family, kind, protocol, _, address = socket.getaddrinfo(site, "https")[0]
        with socket.socket(family, kind, protocol) as connection:
            connection.settimeout(20)
            connection.connect(address)
            with trusting.wrap_socket(connection, server_hostname=site) as secure:
                secure.sendall(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")
                print(secure.recv(12))
        with (
            trusting.wrap_socket(socket.socket(), server_hostname=site) as secure,
        ):  # TLS first, connected later
            secure.connect((socket.gethostbyname(site), 443))
            print(secure.version())
        with socket.socket(socket.AF_INET6) as connection:
            connection.connect((site, 443))
            print(connection.connect_ex((site, 443)) != 0)
        with socket.socket() as connection:
            print(connection.connect_ex(("example.com", 443)))
        try:
            urllib.request.urlopen("http://example.com/")
        except urllib.error.URLError as error:
            assert isinstance(error.reason, mdx.BlockedByRule)
            print(error.reason.code)
    assert not asked, asked
    assert originals == [socket.getaddrinfo, socket.gethostbyname, socket.create_connection]
    assert "connect" not in vars(socket.socket)


def test_urllib_http_client_and_ssl_work_and_no_name_is_looked_up_here(
    machine: Machine, site: str, run_function: RunFunction
) -> None:
    assert run_function(machine, use_the_standard_library, site).splitlines() == [
        *("200", "200", "b'HTTP/1.1 200'", "TLSv1.3", "True", "13", "BLOCKED_BY_RULE")
    ]


def restore_after_everything(site: str) -> None:
    import socket
    import threading
    from concurrent.futures import ThreadPoolExecutor

    import mdx

    payroll, offline = mdx.App("payroll"), mdx.App("offline")

    def names() -> tuple[object, ...]:
        return (
            *(socket.getaddrinfo, socket.gethostbyname, threading.Thread.start),
            *(vars(socket.socket).get("connect"), ThreadPoolExecutor.submit),
        )

    def code_of() -> str:
        try:
            socket.create_connection((site, 443), timeout=20).close()
        except mdx.ConnectionFailed as error:
            return error.code
        except OSError:
            return "not patched"
        return "connected"

    before = names()
    with payroll.patched():
        assert names() != before
        assert code_of() == "connected"
        try:
            with offline.patched():
                assert code_of() == "BLOCKED_BY_RULE"
                raise KeyError
        except KeyError:
            pass
        assert code_of() == "connected"
        with payroll.patched(), payroll.patched():
            assert code_of() == "connected"
        try:
            with mdx.App("nobody").patched():
                raise AssertionError
        except mdx.ConfigError:
            pass
        assert code_of() == "connected"
    assert names() == before

    def other(ready: threading.Event, go: threading.Event, told: list[str]) -> None:
        ready.set()
        go.wait()
        told.append(code_of())

    # A thread from before is not touched; one that begins inside belongs to the block for good.
    outside: list[str] = []
    inside: list[str] = []
    ready, go = threading.Event(), threading.Event()
    stranger = threading.Thread(target=other, args=[ready, go, outside])
    stranger.start()
    ready.wait()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(code_of).result() == "not patched"
        late = threading.Event()
        with payroll.patched():
            go.set()
            stranger.join()
            assert pool.submit(code_of).result() == "connected"
            child = threading.Thread(target=other, args=[threading.Event(), late, inside])
            child.start()
            with ThreadPoolExecutor(1) as born_inside:
                assert born_inside.submit(code_of).result() == "connected"
        assert pool.submit(code_of).result() == "not patched"
        assert names() != before  # the thread is in it still
        late.set()
        child.join()
    assert (outside, inside) == (["not patched"], ["connected"])
    del child
    assert names() == before

    # A pool that is begun inside and outlives the block: its jobs were in it, its worker is not.
    with ThreadPoolExecutor(1) as pool:
        with payroll.patched():
            assert pool.submit(code_of).result() == "connected"
        assert pool.submit(code_of).result() == "not patched"
        assert names() == before

    # What somebody else put over ours stays, and ours below it does no harm.
    with payroll.patched():
        ours = socket.getaddrinfo
        socket.getaddrinfo = lambda *a, **k: ours(*a, **k)
    assert socket.getaddrinfo is not ours
    assert code_of() == "not patched"
    with payroll.patched():
        assert code_of() == "connected"
    socket.getaddrinfo = ours
    with payroll.patched():
        assert code_of() == "connected"
    assert names() == before
    print("restored")


def test_it_is_scoped_nested_and_restored_also_under_threads(
    machine: Machine, site: str, run_function: RunFunction
) -> None:
    assert run_function(machine, restore_after_everything, site) == "restored\n"


def go_past_it(site: str) -> None:
    import asyncio
    import socket
    from _socket import socket as kernel_socket
    from socket import getaddrinfo as early

    import trio

    import mdx

    app = mdx.App("payroll")
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    waiting = socket.socket()
    waiting.setblocking(False)
    kernel = kernel_socket()
    attempts: list[Callable[[], object]] = [
        lambda: early(site, 443),
        lambda: early("example.com", 443),
        lambda: kernel.connect(("192.0.2.1", 443)),
        lambda: datagrams.connect(("192.0.2.1", 53)),
        lambda: datagrams.sendto(b"x", ("192.0.2.1", 53)),
        lambda: datagrams.sendmsg([b"x"], [], 0, ("192.0.2.1", 53)),
        lambda: waiting.connect((site, 443)),
        lambda: socket.gethostbyaddr("192.0.2.1"),
        lambda: socket.getnameinfo(("192.0.2.1", 80), 0),
        lambda: asyncio.run(asyncio.open_connection(site, 443)),
        lambda: trio.run(trio.open_tcp_stream, site, 443),
    ]
    with app.patched():
        for number, attempt in enumerate(attempts):
            try:
                attempt()
            except mdx.ConnectionFailed as error:
                assert error.code == "UNSUPPORTED"
                continue
            except OSError as error:  # trio tells of all addresses that it tried
                assert isinstance(error.__cause__, ExceptionGroup), (number, error)
                (tried,) = error.__cause__.exceptions
                assert isinstance(tried, mdx.ConnectionFailed), (number, tried)
                continue
            raise AssertionError(number)
        # What stays on this machine is left alone.
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname()).close()
            socket.create_connection(("localhost", server.getsockname()[1])).close()
        datagrams.sendto(b"x", ("127.0.0.1", 9))
        one, other = socket.socketpair()
        one.close()
        other.close()
    for one in (datagrams, waiting):
        one.close()
    kernel.close()
    print("refused")


def test_what_goes_past_it_is_refused(
    machine: Machine, site: str, run_function: RunFunction
) -> None:
    assert run_function(machine, go_past_it, site) == "refused\n"


def wrap_functions(site: str) -> None:
    import asyncio
    import socket
    from collections.abc import Iterator

    import trio

    import mdx

    app = mdx.App("payroll")
    before = socket.getaddrinfo

    @app.wrapped
    def reach(host: str, *, port: int) -> str:
        """Its own."""
        socket.create_connection((host, port), timeout=20).close()
        return "reached"

    @app.wrapped
    async def reach_async(host: str) -> str:
        if trio.lowlevel.in_trio_task():
            await trio.to_thread.run_sync(lambda: reach_plainly(host))
        else:
            await asyncio.to_thread(reach_plainly, host)
            # The executor's own threads are not its children, but its jobs are.
            await asyncio.get_running_loop().run_in_executor(None, reach_plainly, host)
        return "reached"

    def reach_plainly(host: str) -> None:
        socket.create_connection((host, 443), timeout=20).close()

    print(reach(site, port=443), reach.__doc__)
    print(trio.run(reach_async, site))
    print(asyncio.run(reach_async(site)))

    def generator() -> Iterator[int]:
        yield 1

    for wrong in (generator, App := type("App", (), {}), 7):
        try:
            app.wrapped(wrong)  # type: ignore[arg-type]
        except TypeError as error:
            assert "wrapped" in str(error)
            continue
        raise AssertionError(App)
    with trio.fail_after(1) if trio.lowlevel.in_trio_task() else app.patched():
        assert socket.getaddrinfo is not before


def test_functions_can_be_wrapped_sync_and_async(
    machine: Machine, site: str, run_function: RunFunction
) -> None:
    said = run_function(machine, wrap_functions, site)
    assert said.splitlines() == ["reached Its own.", "reached", "reached"]
