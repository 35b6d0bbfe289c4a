"""Which destinations each app may reach through a gateway. What is not listed is refused.

The gateway's own list, beside and not instead of the routes of the device: it guards the network
also against a device that has fallen into other hands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tunnel.destinations import Destination
from tunnel.errors import BadRule, RefusalCode, Refused
from tunnel.identity import is_identity_name
from tunnel.patterns import Pattern

__all__ = ["AllowRules"]


class AllowRules:
    """Patterns for each app. Raises: BadRule for what cannot be the name of an app."""

    def __init__(self, rules: Mapping[str, Sequence[Pattern]]) -> None:
        for app in rules:
            if not is_identity_name(app):
                raise BadRule(f"{app!a} cannot be the name of an app")
        self._rules = {app: tuple(patterns) for app, patterns in rules.items()}

    @classmethod
    def parse(cls, texts: Mapping[str, Sequence[str]]) -> AllowRules:
        """From patterns as `tunnel.patterns` spells them. Raises: BadRule."""
        return cls({app: [Pattern.parse(text) for text in of] for app, of in texts.items()})

    def check(self, app: str, destination: Destination) -> str:
        """The first rule that allows it, as text. Raises: Refused (NOT_ALLOWED)."""
        for pattern in self._rules.get(app, ()):
            if pattern.matches(destination):
                return f"allow {app} to {pattern.text}"
        raise Refused(
            RefusalCode.NOT_ALLOWED,
            f"the gateway's allow list does not let {app} reach {destination}",
            "whoever runs the gateway can allow it",
        )
