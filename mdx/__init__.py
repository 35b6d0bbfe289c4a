"""Any process in a vault and a tunnel of its own: the library's public names.

    import mdx

    app = mdx.App("payroll")
    password = app.vault.text["database"]

They are loaded on first use (PEP 562): every `mdx run` imports this package, and pays for nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own, without the 9 ms that importing it takes
if TYPE_CHECKING:
    from mdx.app import App
    from mdx.errors import (
        BadStatus,
        BlockedByRule,
        ConfigError,
        ConnectionCut,
        ConnectionFailed,
        GatewayDown,
        HubUnreachable,
        KeyExpired,
        LeaseEnded,
        Locked,
        MdxError,
        NoSuchRecord,
        RecordExpired,
        RunFailed,
    )

__all__ = [
    "App",
    "BadStatus",
    "BlockedByRule",
    "ConfigError",
    "ConnectionCut",
    "ConnectionFailed",
    "GatewayDown",
    "HubUnreachable",
    "KeyExpired",
    "LeaseEnded",
    "Locked",
    "MdxError",
    "NoSuchRecord",
    "RecordExpired",
    "RunFailed",
]


def __getattr__(name: str) -> object:
    """A public name, loaded from its module on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module("mdx.app" if name == "App" else "mdx.errors"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
