"""The gateway's sessions: which token speaks for which app on which device, and until when.

Rules of this file:
- A table holds hashes of tokens only, and a token is found by its hash: how long a look-up takes
  says nothing about a secret.
- A token works only with the key of the certificate for which it was granted. A renewed certificate
  of the same key may use it; another one may not, though it be of the same app.
- Two timers, and the first to elapse wins: idle (no flow, and no new one for so long) and forced.
- A device at its cap loses the session that was idle longest, never another device's.

Pure: `now` is any clock that does not run backwards. Nothing here survives a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tunnel.errors import BadTicket, RefusalCode, Refused
from tunnel.identity import Identity
from tunnel.tickets import new_session_token, session_token_hash

__all__ = ["Granted", "Session", "Sessions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """A new session's token, which is not kept, and how long it lives at most."""

    token: str = field(repr=False)
    expires_in: float


@dataclass(slots=True, kw_only=True, eq=False)
class Session:
    """One session. `ends_at` is the forced timer's; `idle_since` counts while `flows` is zero."""

    tenant: str
    device: str
    app: str
    key_hash: str
    idle_seconds: float
    ends_at: float
    idle_since: float
    flows: int = 0

    def is_over(self, now: float) -> bool:
        """Whether a timer has elapsed."""
        idle = not self.flows and now >= self.idle_since + self.idle_seconds
        return idle or now >= self.ends_at

    @contextmanager
    def flow(self, clock: Callable[[], float]) -> Iterator[None]:
        """For as long as the block runs the session is not idle."""
        self.flows += 1
        try:
            yield
        finally:
            self.flows -= 1
            self.idle_since = clock()


class Sessions:
    """The table of one gateway. `per_device` is how many sessions a device may have."""

    def __init__(self, *, per_device: int) -> None:
        self._per_device = per_device
        self._by_hash: dict[bytes, Session] = {}
        self._of_device: dict[tuple[str, str], set[bytes]] = {}

    def __len__(self) -> int:
        return len(self._by_hash)

    def grant(
        self, identity: Identity, now: float, *, idle_seconds: float, forced_seconds: float
    ) -> Granted:
        """A new session for the app of this certificate.

        Raises: Refused (OVERLOADED) when every session that the device may have is in use;
        ValueError for an identity that is no app's.
        """
        if identity.device is None or identity.app is None:
            raise ValueError("a session is an app's")
        self._make_room(identity.tenant, identity.device, now)
        token = new_session_token()
        self._by_hash[key := session_token_hash(token)] = Session(
            tenant=identity.tenant,
            device=identity.device,
            app=identity.app,
            key_hash=identity.key_hash,
            idle_seconds=idle_seconds,
            ends_at=now + forced_seconds,
            idle_since=now,
        )
        self._of_device.setdefault((identity.tenant, identity.device), set()).add(key)
        return Granted(token=token, expires_in=forced_seconds)

    def check(self, token: str, identity: Identity, now: float) -> Session:
        """The session of this token, if it is this certificate's and not over.

        Raises: Refused (NOT_AUTHENTICATED).
        """
        try:
            key = session_token_hash(token)
        except BadTicket as error:
            raise _unusable(str(error)) from None
        session = self._by_hash.get(key)
        if session is None:
            raise _unusable("the session token is not known here, or its time is over")
        if session.is_over(now):
            self._forget(key)
            raise _unusable("the session token is not known here, or its time is over")
        held = (session.tenant, session.device, session.app, session.key_hash)
        if held != (identity.tenant, identity.device, identity.app, identity.key_hash):
            raise _unusable("the session token was granted to another certificate")
        session.idle_since = now
        return session

    def revoke(self, token: str) -> None:
        """Forget this token's session. Raises: KeyError when there is none."""
        self._forget(session_token_hash(token))

    def expire(self, now: float) -> None:
        """Forget the sessions whose time is over."""
        for key in [key for key, session in self._by_hash.items() if session.is_over(now)]:
            self._forget(key)

    def _make_room(self, tenant: str, device: str, now: float) -> None:
        keys = self._of_device.get((tenant, device), set())
        for key in [key for key in keys if self._by_hash[key].is_over(now)]:
            self._forget(key)
        if len(keys) < self._per_device:
            return
        idle = [key for key in keys if not self._by_hash[key].flows]
        if not idle:
            raise Refused(
                RefusalCode.OVERLOADED,
                f"the device has {len(keys)} sessions, and all are in use",
                "end a run",
            )
        self._forget(min(idle, key=lambda key: self._by_hash[key].idle_since))

    def _forget(self, key: bytes) -> None:
        session = self._by_hash.pop(key)
        of_device = self._of_device[session.tenant, session.device]
        of_device.discard(key)
        if not of_device:
            del self._of_device[session.tenant, session.device]


def _unusable(rule: str) -> Refused:
    return Refused(RefusalCode.NOT_AUTHENTICATED, rule, "redeem a new ticket")
