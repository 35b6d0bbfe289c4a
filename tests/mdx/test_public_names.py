"""What `import mdx` offers, and that nobody pays for it who does not use it."""

from __future__ import annotations

import subprocess
import sys

import pytest

import mdx
from mdx import errors


def test_all_public_names_are_there_and_no_other() -> None:
    for name in mdx.__all__:
        assert getattr(mdx, name).__name__ == name
        assert name in dir(mdx)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        mdx.Nothing  # noqa: B018


def test_every_error_of_the_library_is_one_of_ours() -> None:
    for name in mdx.__all__:
        if name != "App":
            assert issubclass(getattr(errors, name), errors.MdxError)
    assert issubclass(mdx.NoSuchRecord, KeyError)
    assert issubclass(mdx.LeaseEnded, mdx.Locked)
    for kind in (mdx.BlockedByRule, mdx.GatewayDown, mdx.LeaseEnded, mdx.ConnectionCut):
        assert issubclass(kind, mdx.ConnectionFailed)
        assert issubclass(kind, OSError)
        made = kind("what", hint="do", code="CODE", errno=13)
        assert (str(made), made.hint, made.code, made.errno) == ("what", "do", "CODE", 13)
    assert str(mdx.NoSuchRecord("no 'x'")) == "no 'x'"


def test_the_package_itself_loads_nothing() -> None:
    program = "import sys; before = set(sys.modules); import mdx; print(set(sys.modules) - before)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in eval(done.stdout)}  # noqa: S307 — a set of names
    assert not loaded & {"trio", "vault", "tunnel", "click", "json", "socket", "asyncio"}
