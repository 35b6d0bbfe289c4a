"""What all tests share: how many examples property tests try, and what needs root
or a browser."""

from __future__ import annotations

import os
import shutil

import pytest
from hypothesis import settings

settings.register_profile("short", max_examples=100, deadline=None)
settings.register_profile("soak", max_examples=20_000, deadline=None)
settings.load_profile("soak" if os.environ.get("MDX_SOAK") else "short")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, and count, what only root can do (act as another user) and what needs Chromium
    where there is none."""
    left_out = [
        marker
        for marker, there in (("browser", shutil.which("chromium")), ("root", os.geteuid() == 0))
        if not there
    ]
    needing = [item for item in items if any(map(item.get_closest_marker, left_out))]
    if needing:
        config.hook.pytest_deselected(items=needing)
        items[:] = [item for item in items if item not in needing]
