"""The two clocks are the system's, and the boot is named."""

from __future__ import annotations

import time
import uuid

from vault.clock import now


def test_now_lies_between_two_readings_of_the_systems_clocks() -> None:
    before = time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)
    instant = now()
    after = time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before[0] <= instant.wall <= after[0]
    assert before[1] <= instant.boot <= after[1]


def test_the_boot_has_a_name_that_stays() -> None:
    assert now().boot_id == now().boot_id
    assert str(uuid.UUID(now().boot_id)) == now().boot_id
