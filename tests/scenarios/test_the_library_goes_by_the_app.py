"""`import mdx`: secrets, streams and HTTP of an app, from a program's own code."""

# Most functions here run as programs of their own: each imports what it needs, without pytest.
# ruff: noqa: PT017
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.scenarios.conftest import Machine

RunFunction = Callable[..., str]


def use_the_vault() -> None:
    import mdx

    vault = mdx.App("payroll").vault
    vault["lib-key"] = b"\x00\xff"
    vault.text["lib-word"] = "hünter2"
    assert vault["lib-key"] == b"\x00\xff"
    assert vault.text["lib-word"] == "hünter2"
    assert {"lib-key", "lib-word"} <= set(vault)
    assert len(vault) == len(list(vault))
    vault.put("lib-gone", b"x", kind="token", lifetime_seconds=0.05)
    assert vault.fact("lib-key").size_bytes == 2
    for kind in (mdx.NoSuchRecord, KeyError, mdx.MdxError):
        try:
            vault["lib-none"]
        except kind as error:
            assert "'lib-none'" in str(error)
    assert vault.get("lib-none") is None
    try:
        vault.text["lib-key"]
    except mdx.MdxError as error:
        assert "ff" not in str(error)
        assert error.__cause__ is error.__context__ is None
    else:
        raise AssertionError("bytes that are no text were read as text")
    for wrong in ("text", None, bytearray(b"x")):
        try:
            vault["lib-key"] = wrong  # type: ignore[assignment]
        except TypeError:
            continue
        raise AssertionError("a value that is not bytes was taken")
    assert "hünter2" not in f"{vault!r} {vault.text!r} {vars(mdx.App('payroll'))!r}"
    del vault["lib-key"]
    assert "lib-key" not in vault
    print(vault.text.pop("lib-word"))


def wait_for_a_record_to_expire() -> None:
    import threading

    import mdx

    vault = mdx.App("payroll").vault
    vault.put("lib-brief", b"x", lifetime_seconds=0.3)
    threading.Event().wait(0.4)
    try:
        vault["lib-brief"]
    except mdx.RecordExpired:
        print("expired", "lib-brief" in vault, "lib-brief" in list(vault))
    del vault["lib-brief"]


def test_records_are_a_mapping(machine: Machine, run_function: RunFunction) -> None:
    assert run_function(machine, use_the_vault) == "hünter2\n"


def test_a_record_of_a_limited_life_is_gone_by_itself(
    machine: Machine, run_function: RunFunction
) -> None:
    assert run_function(machine, wait_for_a_record_to_expire) == "expired False False\n"


def test_records_are_those_of_the_command_line(machine: Machine, run_function: RunFunction) -> None:
    machine.mdx("vault", "put", "payroll", "lib-cli", stdin="by hand")

    def read() -> None:
        import mdx

        print(mdx.App("payroll").vault.text.pop("lib-cli"))

    assert run_function(machine, read) == "by hand\n"


def catch_refusals(site: str) -> None:
    import errno

    import mdx

    app, visitor = mdx.App("payroll"), mdx.App("visitor")
    cases = [
        (app, "example.com", mdx.BlockedByRule, "BLOCKED_BY_RULE", errno.EACCES),
        (app, "none.corp.internal", mdx.ConnectionFailed, "NAME_NOT_FOUND", errno.EHOSTUNREACH),
        (app, "no host", mdx.ConnectionFailed, "BAD_DESTINATION", errno.ECONNREFUSED),
        (app, "a\r\nHost: b", mdx.ConnectionFailed, "BAD_DESTINATION", errno.ECONNREFUSED),
        (visitor, site, mdx.BlockedByRule, "NOT_ALLOWED", errno.EACCES),
    ]
    for one, host, kind, code, number in cases:
        try:
            one.open_connection(host, 443)
        except OSError as error:
            assert type(error) is kind, (host, error)
            assert isinstance(error, mdx.ConnectionFailed)
            assert (error.code, error.errno) == (code, number), (host, error)
        else:
            raise AssertionError(host)
    try:
        app.open_connection("example.com", 443)
    except mdx.BlockedByRule as error:
        print(error)
        print(error.hint)
    try:
        mdx.App("nobody").vault["x"]
    except mdx.ConfigError as error:
        print(error.hint.partition(" ")[0])


def test_a_refusal_says_which_rule_and_what_to_do(
    machine: Machine, site: str, run_function: RunFunction
) -> None:
    said, hint, apps = run_function(machine, catch_refusals, site).splitlines()
    assert said.startswith("example.com:443: BLOCK * (mdx.toml:")
    assert hint == "mdx explain payroll example.com:443"
    assert apps == "its"


def test_a_locked_app_says_so(own_machine: Machine, run_function: RunFunction) -> None:
    own_machine.mdx("lock", "payroll")

    def use() -> None:
        import mdx

        app = mdx.App("payroll")
        for use in (lambda: app.vault["x"], lambda: app.open_connection("x.corp.internal", 1)):
            try:
                use()
            except mdx.Locked as error:
                print(f"{error}; {error.hint}")

    line = "payroll: locked; run: mdx unlock payroll\n"
    assert run_function(own_machine, use) == line * 2


def echo_backwards() -> None:
    """Talk to a server that answers only once it has seen our end: all four ways."""
    import asyncio
    import socket
    import threading
    from pathlib import Path

    import trio

    import mdx

    app = mdx.App("direct")
    listener = socket.create_server(("127.0.0.9", 0))
    host, port = listener.getsockname()

    def serve() -> None:
        for _ in range(3):
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as file:
                connection.sendall(b"> ")  # before anything was asked
                connection.sendall(file.read()[::-1])

    server = threading.Thread(target=serve)
    server.start()

    with app.open_connection(host, port) as connection:
        connection.sendall(b"sync")
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as file:
            print(file.read().decode())

    async def by_trio() -> None:
        async with await app.connect(host, port) as stream:
            await stream.send_all(b"trio")
            await stream.send_eof()
            received = b""
            while piece := await stream.receive_some():
                received += piece
            print(received.decode())

    async def by_asyncio() -> None:
        reader, writer = await app.aio.open_connection(host, port)
        writer.write(b"asyncio")
        writer.write_eof()
        print((await reader.read()).decode())
        writer.close()
        await writer.wait_closed()
        try:
            await app.connect(host, port)
        except mdx.MdxError as error:
            print(error.hint.partition(";")[0])

    trio.run(by_trio)
    asyncio.run(by_asyncio())
    server.join()
    listener.close()
    assert not [line for line in Path("/proc/self/net/tcp").read_text().split() if line == "x"]


def test_streams_half_close_under_every_kind_of_program(
    machine: Machine, run_function: RunFunction
) -> None:
    assert run_function(machine, echo_backwards).splitlines() == [
        "> cnys",
        "> oirt",
        "> oicnysa",
        "asyncio: await app.aio.open_connection(…)",
    ]


def fetch_by_http(site: str) -> None:
    import asyncio

    import trio

    import mdx

    app = mdx.App("payroll")
    url = f"https://{site}"
    with app.http() as http:
        answer = http.get(f"{url}/payroll.json").check()
        assert answer.header("Content-Type") == "application/json"
        print(answer.json()["company"], answer)
        assert http.get(f"{url}/").text.startswith("Welcome")
        assert http.request("HEAD", f"{url}/big/1000").body == b""
        try:
            http.get(f"{url}/nothing").check()
        except mdx.BadStatus as error:
            print(error.status)
        try:
            http.get(f"{url}/big/2000", max_bytes=1999)
        except mdx.ConnectionFailed as error:
            print(error.code)
        assert len(http.get(f"{url}/big/2000", max_bytes=2000).body) == 2000
        with http.stream("GET", f"{url}/big/3000000") as download:
            print(sum(map(len, download)))
        with http.stream("GET", f"{url}/big/3000000") as download:
            next(iter(download))  # and no more
        try:
            http.get("https://example.com/")
        except mdx.BlockedByRule as error:
            print(error.code)
        for wrong in ("ftp://x/", "https://a:b@c/", "https://", "/x", "https://no host/"):
            try:
                http.get(wrong)
            except ValueError as error:
                assert "a:b" not in str(error)
                continue
            raise AssertionError(wrong)

    async def fetch() -> None:
        async with app.http() as http:
            print((await http.get(f"{url}/payroll.json")).check().json()["company"])
            async with http.stream("GET", f"{url}/big/300000") as download:
                print(sum([len(piece) async for piece in download]))
            try:
                await http.post(f"{url}/mail/login", json={"user": "ada"})
                await http.get("https://example.com/")
            except mdx.BlockedByRule as error:
                print(error.code)

    trio.run(fetch)
    asyncio.run(fetch())


def test_http_under_every_kind_of_program(
    machine: Machine, site: str, run_function: RunFunction
) -> None:
    same = ["Corp", "300000", "BLOCKED_BY_RULE"]
    assert run_function(machine, fetch_by_http, site).splitlines() == [
        "Corp Response(status=200)",
        *("404", "TOO_LARGE", "3000000", "BLOCKED_BY_RULE"),
        *same,
        *same,
    ]


def meet_a_server_that_is_not_trusted() -> None:
    import socket
    import ssl
    import threading

    import trustme

    import mdx

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.9").configure_cert(context)
    listener = socket.create_server(("127.0.0.9", 0))
    port = listener.getsockname()[1]
    heard = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            try:
                context.wrap_socket(connection, server_side=True).close()
            except OSError as error:
                heard.append(error)
        plain, _ = listener.accept()
        with plain:
            plain.recv(9)
            plain.sendall(b"not HTTP\r\n\r\n")

    server = threading.Thread(target=serve)
    server.start()
    with mdx.App("direct").http() as http:
        for scheme in ("https", "http"):
            try:
                http.get(f"{scheme}://127.0.0.9:{port}/", headers={"Authorization": "canary"})
            except mdx.ConnectionFailed as error:
                print(error.code)
    server.join()
    listener.close()
    assert heard


def test_a_server_that_is_not_trusted_hears_no_request(
    machine: Machine, run_function: RunFunction
) -> None:
    assert run_function(machine, meet_a_server_that_is_not_trusted) == "TLS_FAILED\nBAD_ANSWER\n"


def lose_patience() -> None:
    import asyncio
    import socket

    import trio

    import mdx

    app = mdx.App("direct")
    silent = socket.create_server(("127.0.0.9", 0))  # the kernel accepts, nobody answers
    url = f"http://127.0.0.9:{silent.getsockname()[1]}/"

    async def fetch() -> None:
        async with app.http() as http:
            try:
                await http.get(url, timeout_seconds=0.2)
            except mdx.ConnectionFailed as error:
                print(error.code)

    async def give_up() -> None:
        async with app.http() as http:
            try:
                await asyncio.wait_for(http.get(url), 0.2)
            except TimeoutError:
                print("given up")
        try:
            await asyncio.wait_for(app.aio.open_connection("127.0.0.9", 1), 1e-6)
        except TimeoutError:
            print("given up")

    with app.http() as http:
        try:
            http.get(url, timeout_seconds=0.2)
        except mdx.ConnectionFailed as error:
            print(error.code)
    trio.run(fetch)
    asyncio.run(fetch())
    asyncio.run(give_up())
    silent.close()


def test_a_silent_server_is_waited_for_no_longer_than_was_said(
    machine: Machine, run_function: RunFunction
) -> None:
    said = run_function(machine, lose_patience).splitlines()
    assert said == ["TIMED_OUT"] * 3 + ["given up"] * 2


def show_itself(site: str) -> None:
    import json
    import os
    import subprocess

    import mdx

    mdx.App("payroll").open_connection(site, 443).close()
    shown = subprocess.run(["mdx", "ps", "--json"], capture_output=True, check=True)
    (run,) = [one for one in json.loads(shown.stdout) if one["pid"] == os.getpid()]
    print(run["app"], run["run"])


def test_it_is_a_run_like_any_other(machine: Machine, site: str, run_function: RunFunction) -> None:
    app, run = run_function(machine, show_itself, site).split()
    assert app == "payroll"
    (started,) = [r for r in machine.records("run.started") if r["fields"]["run"] == run]
    assert (started["fields"]["app"], started["fields"]["command"]) == (app, "-c")
    flows = [r for r in machine.records("flow.allowed") if r["writer"] == f"agent:{run}"]
    assert flows[0]["fields"]["destination"] == f"{site}:443"


def use_it_after_fork(site: str) -> None:
    import os
    import select

    import mdx

    app = mdx.App("payroll")
    app.open_connection(site, 443).close()
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        app.open_connection(site, 443).close()
        grandchild = os.fork()
        if grandchild == 0:  # goes on when its parent has gone, as a daemon does
            parent = os.pidfd_open(os.getppid())
            os.write(tell, b".")
            select.select([parent], [], [])
            app.open_connection(site, 443).close()
            assert len(app.vault) >= 0
            os.write(tell, b"ok")
            os._exit(0)
        assert os.read(told, 1) == b"."
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    os.close(tell)
    print(os.read(told, 2).decode())


def test_forked_children_go_on_with_it(
    machine: Machine, site: str, run_function: RunFunction
) -> None:
    """The child by its parent's run; an orphan, which the agent refuses, by one of its own."""
    before = len(machine.records("run.started"))
    assert run_function(machine, use_it_after_fork, site) == "ok\n"
    assert len(machine.records("run.started")) == before + 2


def start_curl(site: str) -> None:
    import subprocess

    import mdx

    environment = mdx.App("payroll").environment()
    command = ["curl", "-sS", f"https://{site}/payroll.json"]
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    print(b"Corp" in done.stdout)


def test_programs_that_it_starts_are_pointed_as_by_mdx_run(
    machine: Machine, site: str, run_function: RunFunction
) -> None:
    assert run_function(machine, start_curl, site) == "True\n"


def share_one_run(site: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    import mdx

    def use(_: int) -> None:
        mdx.App("payroll").open_connection(site, 443).close()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(use, range(32)))


def test_threads_share_one_run_and_it_ends_with_the_process(
    machine: Machine, site: str, run_function: RunFunction
) -> None:
    before = len(machine.records("run.started"))
    run_function(machine, share_one_run, site)
    assert len(machine.records("run.started")) == before + 1


def test_importing_it_is_cheap(machine: Machine, run_function: RunFunction) -> None:
    def look() -> None:
        import sys

        import mdx

        app = mdx.App("payroll")
        heavy = {"trio", "httpcore", "cryptography", "OpenSSL", "pydantic", "asyncio", "h11"}
        print(sorted(heavy & set(sys.modules)), app)

    assert run_function(machine, look) == "[] <mdx.App 'payroll'>\n"
