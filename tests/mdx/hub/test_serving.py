"""The hub's end of its socket: who is served, what survives a bad client."""

import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from mdx.errors import HubRefused, HubUnreachable, MdxError
from mdx.hub import serving, wire
from mdx.hub.link import HubLink


@asynccontextmanager
async def serving_at(path: Path, handle: serving.Handler) -> AsyncIterator[HubLink]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serving.serve, serving.listen(path), handle)
        yield HubLink(path)
        nursery.cancel_scope.cancel()


async def echo(asked: serving.Asked) -> Any:
    match asked.message["op"]:
        case "refuse":
            raise MdxError("no", hint="ask nicely", exit_code=77)
        case "crash":
            raise RuntimeError("with a secret in it: hunter2")
        case "descriptors":
            taken = asked.take_descriptors(asked.message["count"])
            for descriptor in taken:
                os.close(descriptor)
            return len(taken)
    return asked.connection.pid


async def test_only_its_user_may_open_the_socket(tmp_path: Path) -> None:
    async with serving_at(tmp_path / "s", echo):
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600


async def test_the_asker_is_known_by_its_pid(tmp_path: Path) -> None:
    async with serving_at(tmp_path / "s", echo) as link:
        assert await link.call({"op": "who"}) == os.getpid()


async def test_a_refusal_arrives_whole(tmp_path: Path) -> None:
    async with serving_at(tmp_path / "s", echo) as link:
        with pytest.raises(HubRefused, match="no") as caught:
            await link.call({"op": "refuse"})
        assert (caught.value.hint, caught.value.exit_code) == ("ask nicely", 77)


async def test_what_fails_inside_tells_nobody_what_it_held(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving_at(tmp_path / "s", echo) as link:
        with pytest.raises(HubRefused, match="RuntimeError") as caught:
            await link.call({"op": "crash"})
        assert await link.call({"op": "who"}) == os.getpid()  # and serves on
    logged = capsys.readouterr().err
    assert "RuntimeError at" in logged
    assert "hunter2" not in logged + str(caught.value)


@pytest.mark.parametrize("count", [0, 1])
async def test_descriptors_that_nobody_took_are_closed(tmp_path: Path, count: int) -> None:
    reading, writing = os.pipe()
    async with serving_at(tmp_path / "s", echo):
        with wire.connect(tmp_path / "s") as connection:
            request = {"op": "descriptors" if count else "who", "count": count}
            await trio.to_thread.run_sync(wire.call, connection, request, [writing])
            os.close(writing)
            os.set_blocking(reading, False)
            # every copy of the writing end is gone: the end of the pipe, not "try again"
            assert os.read(reading, 1) == b""
    os.close(reading)


async def test_the_wrong_number_of_descriptors_is_refused(tmp_path: Path) -> None:
    async with serving_at(tmp_path / "s", echo) as link:
        with pytest.raises(HubRefused, match="0 descriptors came; 2 are needed"):
            await link.call({"op": "descriptors", "count": 2})


@pytest.mark.parametrize(
    "garbage", [b"\xff\xff\xff\xff", b"\0\0\0\x02[]", b"\0\0\0\x03{{{", b"\0\0\0\x09half", b"\0"]
)
async def test_garbage_ends_its_own_connection_only(tmp_path: Path, garbage: bytes) -> None:
    async with serving_at(tmp_path / "s", echo) as link:
        stream = await trio.open_unix_socket(os.fspath(tmp_path / "s"))
        await stream.send_all(garbage)
        await stream.send_eof()
        with trio.fail_after(5):
            assert await stream.receive_some() == b""
        await stream.aclose()
        assert await link.call({"op": "who"}) == os.getpid()


async def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(os.fspath(tmp_path / "s"))
    async with serving_at(tmp_path / "s", echo) as link:
        assert await link.call({"op": "who"}) == os.getpid()


async def test_a_follower_looks_at_once_and_whenever_it_is_told(tmp_path: Path) -> None:
    looks = 0
    attached: list[serving.Connection] = []

    async def attach(asked: serving.Asked) -> None:
        for descriptor in asked.take_descriptors(1):
            os.close(descriptor)
        attached.append(asked.connection)

    async with serving_at(tmp_path / "s", attach) as link, trio.open_nursery() as nursery:

        async def look() -> None:
            nonlocal looks
            looks += 1
            if looks == 3:
                nursery.cancel_scope.cancel()
            else:
                assert await attached[0].tell({"event": "look"})

        nursery.start_soon(link.follow, {"op": "attach"}, look, [0])
    assert looks == 3


async def test_who_cannot_be_told_is_closed(tmp_path: Path) -> None:
    asked: list[serving.Asked] = []

    async def keep(request: serving.Asked) -> None:
        asked.append(request)

    async with serving_at(tmp_path / "s", keep) as link:
        await link.call({"op": "keep"})
        await trio.testing.wait_all_tasks_blocked()
        assert not await asked[0].connection.tell({"event": "look"})


async def test_descriptors_of_a_bad_frame_are_closed(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    async with serving_at(tmp_path / "s", echo) as link:
        for frame in (b"\0\0\0\x03{{{", b"\xff\xff\xff\xff", b"\0\0\0\x09half"):
            with wire.connect(tmp_path / "s") as connection:
                socket.send_fds(connection, [frame], [writing])
        with wire.connect(tmp_path / "s") as connection:  # more of them than are ever needed
            for _ in range(3):
                socket.send_fds(connection, [b"\0"], [writing] * 4)
        os.close(writing)
        assert await link.call({"op": "who"}) == os.getpid()
        with trio.fail_after(5):
            await trio.lowlevel.wait_readable(reading)  # the end: no copy is left anywhere
    os.close(reading)


async def test_nobody_at_the_socket(tmp_path: Path) -> None:
    with pytest.raises(HubUnreachable, match="no hub answers"):
        await HubLink(tmp_path / "s").call({"op": "who"})


async def test_a_slow_frame_is_closed(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Once it has begun; who has not yet may wait as long as it likes."""
    async with serving_at(tmp_path / "s", echo) as link:
        stream = await trio.open_unix_socket(os.fspath(tmp_path / "s"))
        with trio.move_on_after(10 * serving.FRAME_SECONDS) as waiting:
            await stream.receive_some()
        assert waiting.cancelled_caught

        begun_at = trio.current_time()
        await stream.send_all(b"\0")
        with trio.move_on_after(10 * serving.FRAME_SECONDS) as waiting:
            assert await stream.receive_some() == b""
        assert not waiting.cancelled_caught
        assert trio.current_time() - begun_at == pytest.approx(serving.FRAME_SECONDS, abs=1)
        await stream.aclose()
        assert await link.call({"op": "who"}) == os.getpid()


async def test_a_frame_in_slow_pieces_is_closed(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Its time counts from its first byte, not from its last."""
    async with serving_at(tmp_path / "s", echo):
        stream = await trio.open_unix_socket(os.fspath(tmp_path / "s"))
        begun_at = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            await send_slowly(stream, wire.encode({"op": "who", "text": "x" * 1000}))
        assert trio.current_time() - begun_at < 2 * serving.FRAME_SECONDS
        await stream.aclose()


async def send_slowly(stream: trio.SocketStream, frame: bytes) -> None:
    for byte in frame:
        await stream.send_all(bytes([byte]))
        await trio.sleep(serving.FRAME_SECONDS / 4)


async def test_who_takes_no_answers_is_closed(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async def much(asked: serving.Asked) -> str:
        return "x" * 3_000_000

    async with serving_at(tmp_path / "s", much):
        stream = await trio.open_unix_socket(os.fspath(tmp_path / "s"))
        await stream.send_all(wire.encode({"op": "much"}))
        await trio.sleep(2 * serving.TELL_SECONDS)
        taken = 0
        with trio.fail_after(5):
            while piece := await stream.receive_some():
                taken += len(piece)
        assert taken < 3_000_000
        await stream.aclose()


async def test_too_many_connections_are_refused_and_those_there_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "MAX_CONNECTIONS", 3)
    async with serving_at(tmp_path / "s", echo) as link, trio.open_nursery():
        streams = [await trio.open_unix_socket(os.fspath(tmp_path / "s")) for _ in range(3)]
        await trio.testing.wait_all_tasks_blocked(0.01)
        for _ in range(5):
            with pytest.raises(HubUnreachable):
                await link.call({"op": "who"})

        await streams[0].send_all(wire.encode({"op": "who"}))
        assert await streams[0].receive_some() == wire.encode({"ok": os.getpid()})
        await streams[1].aclose()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert await link.call({"op": "who"}) == os.getpid()
        for stream in streams:
            await stream.aclose()
