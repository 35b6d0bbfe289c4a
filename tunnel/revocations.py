"""Which devices a gateway serves no longer, although their certificates are still good by date."""

from __future__ import annotations

from collections.abc import Iterable

import trio

__all__ = ["Revocations"]


class Revocations:
    """A set of device ids that can be exchanged while a gateway serves.

    `device in revocations` is asked for each connection; `changed()` wakes whoever cuts those
    that are there already.
    """

    def __init__(self, devices: Iterable[str] = ()) -> None:
        self._devices = frozenset(devices)
        self._changed = trio.Event()

    def __contains__(self, device: object) -> bool:
        return device in self._devices

    def __len__(self) -> int:
        return len(self._devices)

    def replace(self, devices: Iterable[str]) -> frozenset[str]:
        """Go by this set from now on; returns the devices that are new in it."""
        devices = frozenset(devices)
        new = devices - self._devices
        self._devices = devices
        if new:
            self._changed.set()
            self._changed = trio.Event()
        return new

    async def changed(self) -> None:
        """Wait until a device is added."""
        await self._changed.wait()
