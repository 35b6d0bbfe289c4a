"""The alarm rings once, for whom it was set last."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import pytest

from vault import alarm as alarm_module
from vault.alarm import Alarm


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> tuple[Alarm, list[int]]:
    monkeypatch.setattr(alarm_module, "FLOOR_SECONDS", 0.01)
    rung: list[int] = []
    return Alarm(lambda: rung.append(1)), rung


def started(use: Callable[[], object]) -> list[threading.Thread]:
    before = set(threading.enumerate())
    use()
    return [thread for thread in threading.enumerate() if thread not in before]


def test_it_rings_once_even_when_the_time_has_passed(made: tuple[Alarm, list[int]]) -> None:
    alarm, rung = made
    (thread,) = started(lambda: alarm.set_(-5))
    assert thread.daemon  # a process does not wait for it
    thread.join(10)
    assert rung == [1]


def test_setting_it_again_takes_the_place_of_before(made: tuple[Alarm, list[int]]) -> None:
    alarm, rung = made
    (first,) = started(lambda: alarm.set_(3600))
    (second,) = started(lambda: alarm.set_(0))
    first.join(10)
    second.join(10)
    assert rung == [1]


@pytest.mark.parametrize("seconds", [math.inf, threading.TIMEOUT_MAX])
def test_there_is_no_thread_for_an_age(made: tuple[Alarm, list[int]], seconds: float) -> None:
    alarm, _ = made
    assert started(lambda: alarm.set_(seconds)) == []


def test_stopped_it_does_not_ring(made: tuple[Alarm, list[int]]) -> None:
    alarm, rung = made
    (thread,) = started(lambda: alarm.set_(3600))
    alarm.stop()
    alarm.stop()
    thread.join(10)
    assert rung == []
