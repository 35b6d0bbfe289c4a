"""How a gateway learns of revocations, with a control that says what a test wants."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from mdx.control.client import ControlClient, ControlUnreachable
from mdx.gateway.revoking import Nudge, follow_revocations
from tunnel import Revocations


class Control(ControlClient):
    """Answers with what `says` holds; an error is raised, None takes for ever."""

    def __init__(self) -> None:
        self.says: frozenset[str] | Exception | None = frozenset()
        self.asked = 0

    async def revocations(self) -> frozenset[str]:
        self.asked += 1
        await trio.lowlevel.checkpoint()
        if self.says is None:
            await trio.sleep_forever()
        if isinstance(self.says, Exception):
            raise self.says
        return self.says or frozenset()


class Following:
    """A running `follow_revocations` and what it wrote into the log."""

    def __init__(self) -> None:
        self.control, self.revoked, self.nudge = Control(), Revocations(), Nudge()
        self.log: list[tuple[str, dict[str, Any]]] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                follow_revocations,
                lambda: self.control,
                self.revoked,
                lambda event, **facts: self.log.append((event, facts)),
                self.nudge,
            )
            yield
            nursery.cancel_scope.cancel()

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.log]


async def test_it_asks_every_few_seconds(autojump_clock: trio.testing.MockClock) -> None:
    following = Following()
    async with following.running():
        await trio.sleep(4)
        assert following.control.asked == 1
        following.control.says = frozenset({"d1"})
        await trio.sleep(2)
        assert "d1" in following.revoked
        await trio.sleep(20)
    assert following.log == [("device.revoked", {"device": "d1"})]  # said once


async def test_a_nudge_ends_the_pause(autojump_clock: trio.testing.MockClock) -> None:
    following = Following()
    async with following.running():
        await trio.sleep(1)
        following.control.says = frozenset({"d1"})
        following.nudge.give()
        await trio.sleep(0.1)
        assert "d1" in following.revoked


async def test_a_silent_control_changes_nothing_and_is_said_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    following = Following()
    following.control.says = frozenset({"d1"})
    async with following.running():
        await trio.sleep(1)
        for silence in (ControlUnreachable("gone"), None):
            following.control.says = silence
            await trio.sleep(60)
            assert "d1" in following.revoked
        following.control.says = frozenset({"d1", "d2"})
        await trio.sleep(20)
        assert "d2" in following.revoked
    assert following.events == [
        "device.revoked",
        "revocations.not_known",
        "revocations.known_again",
        "device.revoked",
    ]
