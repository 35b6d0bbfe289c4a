"""The vault and the leases of this device: sealed until a sign-in, and again when time is up.

The hub alone opens the store. Signing in gives each app a lease with a new app key; at its end
the key is dropped, running agents are told, and by policy the lease is renewed (`unattended`),
the command is stopped or only cut off. All vault calls run in a thread: fsync and Argon2id take
their time, and other requests go on meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import trio

from mdx.errors import HubRefused, MdxError
from mdx.folders import Folders
from mdx.lease_times import LeaseTimes
from vault import (
    Keeper,
    KeeperKind,
    KeyExpired,
    KeyFile,
    Keyring,
    Lease,
    Locked,
    OpenFailed,
    Passphrase,
    Vault,
    keyring_name,
    now,
    vault_kind,
)

__all__ = ["HUB_SCOPE", "Leases", "app_scope"]

HUB_SCOPE = "none:hub"
# When a lease is offered for renewal: with this much left, or this part of it, if that is less.
RENEW_SECONDS, RENEW_PART = 60.0, 0.2
LOOK_SECONDS = 10.0  # how late an end can be noticed after the machine slept; reads check exactly

T = TypeVar("T")


def app_scope(app: str) -> str:
    """The scope that seals the records of `app`."""
    return f"app:{app}"


@dataclass(slots=True)
class _Held:
    """A living lease, watched. It is offered for renewal once, when little of it is left."""

    epoch: int
    times: LeaseTimes
    renew_at_left: float
    offered: bool = False


class Leases:
    """Opens the vault, gives leases, and sees them end.

    `due(app)` is awaited shortly before the lease of an app is over, `ended(app, reason)` when it
    is. Neither may raise.
    """

    def __init__(
        self,
        folders: Folders,
        *,
        due: Callable[[str], Awaitable[None]],
        ended: Callable[[str, str], Awaitable[None]],
    ) -> None:
        self._folders = folders
        self._due = due
        self._ended = ended
        self._vault: Vault | None = None
        self._opening = trio.Lock()
        self._changing = trio.Lock()  # what was read of a lease and what is held of it stay one
        self._held: dict[str, _Held] = {}  # by app
        self._over_here: dict[str, str] = {}  # why an app's lease ended, as long as it is ended
        self._changed = trio.Event()
        self._unsettled: set[str] = set()  # apps whose lease ends as soon as the vault is opened
        self._unsettled_all = False

    # The vault ------------------------------------------------------------------------------

    async def create(self, keeper: str, *, passphrase: bytes | None, backend: str | None) -> None:
        """Make the vault of this device. Raises: VaultError, e.g. when there is one already."""
        made = _keeper(self._folders, keeper, passphrase=passphrase, backend=backend)
        async with self._opening:
            created = await _in_thread(lambda: Vault.create(self._folders.vault, made))
            await _in_thread(lambda: _hold_hub_scope(created))
            self._vault = created

    async def open_(self, passphrase: bytes | None = None) -> None:
        """Open the vault unless it is; with a passphrase, check it even then.

        Raises: HubRefused when there is none, or when it needs a passphrase.
        """
        async with self._opening:
            if self._vault is not None and passphrase is None:
                return
            opened = await _in_thread(lambda: self._open(passphrase))
            if self._vault is not None:
                await _in_thread(opened.close)  # it was only to check the passphrase
                return
            await _in_thread(lambda: self._settle(opened))
            await _in_thread(lambda: _hold_hub_scope(opened))
            self._vault = opened

    def _settle(self, opened: Vault) -> None:
        """End what was locked while nobody could open the vault to write it down."""
        if self._unsettled_all:
            opened.lock_all()
        for app in self._unsettled:
            opened.lock(app_scope(app))
        self._unsettled_all = False
        self._unsettled.clear()

    async def _shut(self) -> bool:
        """Whether the vault cannot be opened without its user, e.g. by a hub that is new."""
        return self._vault is None and await self.needs_passphrase()

    def _open(self, passphrase: bytes | None) -> Vault:
        kind = vault_kind(self._folders.vault)
        if kind is None:
            raise HubRefused(
                "there is no vault yet",
                hint="run: mdx up (all on one machine), or mdx vault init",
                exit_code=78,
            )
        asks = "passphrase" if kind is KeeperKind.PASSPHRASE else ""
        if asks and passphrase is None:
            raise HubRefused(
                "the vault is locked", hint="run: mdx unlock", exit_code=77, needs=asks
            )
        keeper = _keeper(
            self._folders,
            kind,
            passphrase=passphrase,
            backend=keyring_name(self._folders.vault),
        )
        try:
            return Vault.open_(self._folders.vault, keeper)
        except OpenFailed:
            raise HubRefused(
                "the vault does not open" + (" with this passphrase" if asks else ""),
                exit_code=77,
                needs=asks,
            ) from None

    async def needs_passphrase(self) -> bool:
        """Whether a sign-in to this vault takes its passphrase."""
        return await _in_thread(lambda: vault_kind(self._folders.vault)) is KeeperKind.PASSPHRASE

    async def status(self) -> dict[str, Any]:
        """The vault as `mdx vault status` shows it; no secret, and nothing is opened for it."""
        kind = await _in_thread(lambda: vault_kind(self._folders.vault))
        facts: dict[str, Any] = {
            "folder": str(self._folders.vault),
            "keeper": kind and kind.value,
            "kept_by": kind and kind.value,
            "open": self._vault is not None,
        }
        if self._vault is not None:
            facts |= await self.call(_status_facts)
        return facts

    def close(self) -> None:
        """Drop every key; the leases in the store stay as they are."""
        if self._vault is not None:
            self._vault.close()
            self._vault = None
        self._held.clear()

    async def call(self, use: Callable[[Vault], T]) -> T:
        """`use(vault)` in a thread. Raises: HubRefused when it is not open; VaultError."""
        await self.open_()
        vault = self._opened()
        return await _in_thread(lambda: use(vault))

    def _opened(self) -> Vault:
        if self._vault is None:
            raise MdxError("the vault is closed", exit_code=77)
        return self._vault

    # Leases ---------------------------------------------------------------------------------

    async def grant(self, app: str, lifetime_seconds: float) -> Lease:
        """A new lease for `app`, under a new app key. The vault must be open."""
        async with self._changing:
            lease = await self.call(
                lambda vault: vault.lease(app_scope(app), lifetime_seconds=lifetime_seconds)
            )
            self._hold(app, lease)
        return lease

    async def current(self, app: str) -> Lease:
        """The living lease of `app`.

        Raises: HubRefused, whose `needs` is `passphrase`, `unlock` where somebody locked it, or
        `consent` where time alone ended it (which a policy may give in advance).
        """
        try:
            async with self._changing:
                lease = await self.call(lambda vault: vault.require_lease(app_scope(app)))
                self._hold(app, lease)
        except KeyExpired as error:
            at = _clock_time(error.expired_at)
            raise _locked(app, f"key expired at {at}", kind="KeyExpired") from None
        except Locked as error:
            needs = "unlock" if error.by_user else "consent"
            raise _locked(app, "locked", needs=needs) from None
        except HubRefused as refused:
            if refused.needs:
                raise _locked(app, "the vault is locked", needs=refused.needs) from None
            raise
        return lease

    async def state(self, app: str) -> LeaseTimes | str | None:
        """For an agent: the lease's times, or why there is none.

        None when that cannot be known, because the vault has not been opened since the hub
        started: then what the agent knows still stands.
        """
        try:
            return LeaseTimes.of(await self.current(app))
        except HubRefused as refused:
            if refused.needs == "passphrase":
                return self._over_here.get(app)
            return str(refused)

    async def knows(self, app: str) -> bool:
        """Whether `app` is known to have had a lease here."""
        if await self._shut():
            return False
        scopes = await self.call(lambda vault: [lease.scope for lease in vault.status().leases])
        return app_scope(app) in scopes

    async def lock(self, app: str) -> None:
        """End the lease of `app` now; in the store when the vault is opened, if it is shut."""
        async with self._changing:
            if await self._shut():
                self._unsettled.add(app)
            else:
                await self.call(lambda vault: vault.lock(app_scope(app)))
            self._forget(app, "locked")
        await self._ended(app, "locked")

    async def logout(self, running: Iterable[str]) -> list[str]:
        """End every lease and drop the root key. Returns the apps whose lease ended.

        Where the vault is shut nobody knows them but their runs: then it is the apps in `running`.
        """
        async with self._changing:
            if await self._shut():
                living = sorted(set(running))
                self._unsettled_all = True
            else:
                living = await self.call(_living_apps)
                await self.call(lambda vault: vault.lock_all())
            self.close()
            for app in living:
                self._forget(app, "locked")
        for app in living:
            await self._ended(app, "locked")
        return living

    async def watch(self) -> None:
        """See leases end, until cancelled."""
        while True:
            self._changed = trio.Event()
            wait = LOOK_SECONDS
            for app, held in list(self._held.items()):
                left = held.times.left()
                if left <= 0:
                    self._forget(app, "key expired")
                    await self._ended(app, "expired")
                elif left <= held.renew_at_left and not held.offered:
                    held.offered = True
                    await self._due(app)
                wait = min(wait, left if held.offered else left - held.renew_at_left)
            with trio.move_on_after(max(wait, 0)):
                await self._changed.wait()

    def _hold(self, app: str, lease: Lease) -> None:
        held = self._held.get(app)
        if held is not None and held.epoch == lease.epoch:
            return
        lifetime = math.inf
        if lease.not_after is not None:
            lifetime = lease.not_after - lease.granted_at.wall
        self._held[app] = _Held(
            epoch=lease.epoch,
            times=LeaseTimes.of(lease),
            renew_at_left=min(RENEW_SECONDS, lifetime * RENEW_PART),
        )
        self._over_here.pop(app, None)
        self._changed.set()

    def _forget(self, app: str, why: str) -> None:
        self._held.pop(app, None)
        self._over_here[app] = f"{app}: {why} at {_clock_time(now().wall)}"


def _keeper(
    folders: Folders, kind: str, *, passphrase: bytes | None, backend: str | None
) -> Keeper:
    match kind:
        case KeeperKind.KEY_FILE:
            return KeyFile(folders.key_file)
        case KeeperKind.PASSPHRASE if passphrase is not None:
            return Passphrase(passphrase)
        case KeeperKind.PASSPHRASE:
            raise HubRefused("this keeper needs a passphrase", exit_code=77, needs="passphrase")
        case KeeperKind.KEYRING if backend is not None:
            return Keyring(backend)
        case KeeperKind.KEYRING:
            raise HubRefused("name the keyring back end", hint="mdx vault init --help", exit_code=2)
    raise HubRefused(
        f"{kind!r} is not a keeper that the hub can use",
        hint="use one of: keyfile, passphrase, keyring",
        exit_code=78,
    )


def _hold_hub_scope(vault: Vault) -> None:
    """The hub's own records (the device key) are held by the root key, so without an end."""
    if vault.current_lease(HUB_SCOPE) is None:
        vault.lease(HUB_SCOPE, lifetime_seconds=None)


def _status_facts(vault: Vault) -> dict[str, Any]:
    status = vault.status()
    return {
        "kept_by": status.kept_by,
        "rollback_noticed": status.rollback_noticed,
        "records": status.records,
        "seen_ahead_seconds": status.seen_ahead_seconds,
        "leases": [
            {
                "scope": lease.scope,
                "epoch": lease.epoch,
                "state": lease.ended.value if lease.ended else "unlocked",
                "seconds_left": None if lease.ended else lease.seconds_left,
            }
            for lease in status.leases
        ],
    }


def _living_apps(vault: Vault) -> list[str]:
    scopes = [lease.scope for lease in vault.status().leases if not lease.ended]
    return [scope.removeprefix("app:") for scope in scopes if scope.startswith("app:")]


def _locked(app: str, why: str, *, needs: str = "consent", kind: str = "Locked") -> HubRefused:
    return HubRefused(
        f"{app}: {why}", hint=f"run: mdx unlock {app}", exit_code=77, needs=needs, kind=kind
    )


def _clock_time(at: float) -> str:
    """HH:MM in local time, as a person reads it; `at` in Unix seconds."""
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%H:%M")


async def _in_thread(work: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(work)
