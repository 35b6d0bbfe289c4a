"""What a running gateway goes by: its configuration and files, exchanged together and whole.

Rules of this file:
- A reload takes all of a changed `gateway.toml` or none of it: what is wrong is said, and the old
  one stays in use.
- Who the gateway is and where it listens and writes does not change while it runs; a file that
  says otherwise is refused with the keys that need a restart.
- Flows that are there already stay as they are: the list decides when a connection is made.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mdx.errors import ConfigError
from mdx.gateway.config import GatewayConfig, load
from mdx.gateway.credentials import Credentials, Loaded
from tunnel import AllowRules, Destination

__all__ = ["Live"]

_FIXED = ("name", "tenant", "listen", "audit", "state")


class Live:
    """`gateway.toml` at `file`, and the files that it names. Raises: ConfigError.

    `clock` is the wall clock in Unix seconds; `log(event, **facts)` is told of files that changed.
    """

    def __init__(self, file: Path, *, clock: Callable[[], float], log: Callable[..., None]) -> None:
        self._file = file
        self._clock = clock
        self._log = log
        self.config, self._credentials, self._rules = self._load()

    def reload(self, taken: Callable[[], None]) -> None:
        """Go by what the file says now. `taken()` is called just before, and may still refuse.

        Raises: ConfigError, and whatever `taken` raises; then nothing has changed.
        """
        config, credentials, rules = self._load()
        changed = [key for key in _FIXED if getattr(config, key) != getattr(self.config, key)]
        if changed:
            raise ConfigError(
                f"{self._file.name}: {', '.join(changed)} cannot change while the gateway runs",
                hint="restart it, or put the old value back",
            )
        taken()
        self.config, self._credentials, self._rules = config, credentials, rules

    def current(self) -> Loaded:
        """Contexts, hosts and control, of the newest files that are of use."""
        return self._credentials.current()

    def allow(self, app: str, destination: Destination) -> str:
        """The rule that lets `app` reach it. Raises: Refused."""
        return self._rules.check(app, destination)

    def _load(self) -> tuple[GatewayConfig, Credentials, AllowRules]:
        config = load(self._file)
        try:
            credentials = Credentials(config, self._file.parent, clock=self._clock, log=self._log)
        except ConfigError as error:
            raise ConfigError(f"{self._file.name}: {error}", hint=error.hint) from None
        return config, credentials, config.allow_rules()
