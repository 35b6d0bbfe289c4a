"""A call after a while, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Alarm"]

FLOOR_SECONDS = 0.1  # between two looks, when an end cannot be written down


class Alarm:
    """Calls `ring` once, some time after it was set last. Must not keep its owner alive by it."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self.timer: threading.Timer | None = None

    def set_(self, seconds: float) -> None:
        """Ring after `seconds`, instead of when it was set to; not at all after an age."""
        self.stop()
        if seconds < threading.TIMEOUT_MAX:
            self.timer = threading.Timer(max(FLOOR_SECONDS, seconds), self._ring)
            self.timer.daemon = True
            self.timer.start()

    def stop(self) -> None:
        """Do not ring."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
