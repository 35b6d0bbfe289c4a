"""The vault against a plain model: any order of calls, clock turns and reopenings, opened twice."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from vault import Instant, KeyExpired, KeyFile, Locked, NoSuchRecord, Vault

SCOPES = st.sampled_from(["app:a", "app:b", "none:hub"])
NAMES = st.sampled_from(["x", "y", "z"])
WHICH = st.integers(0, 1)
SOAK = bool(os.environ.get("MDX_SOAK"))


class VaultMachine(RuleBasedStateMachine):
    """Two vault objects on one store; `values`, `ends` and `time` are what should be true.

    `time` is the time that may be reckoned with at least: wall clock or what was counted, whichever
    is later. The store is asked at once after each turn, so both always know of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp())
        self.keeper: Any = KeyFile(self.home / "key")
        self.wall, self.boot, self.boots = 1e9, 100.0, 0
        self.time = self.wall
        self.values: dict[tuple[str, str], bytes] = {}
        self.ends: dict[str, float | str] = {}  # by scope: until when, or why not
        first = Vault.create(self.home / "vault", self.keeper, clock=self.clock)
        self.vaults = [first, self.opened()]

    def clock(self) -> Instant:
        return Instant(wall=self.wall, boot=self.boot, boot_id=str(self.boots))

    def opened(self) -> Vault:
        return Vault.open_(self.home / "vault", self.keeper, clock=self.clock)

    def teardown(self) -> None:
        for vault in self.vaults:
            vault.close()
        shutil.rmtree(self.home)

    def turned(self) -> None:
        self.time = max(self.time, self.wall)
        for scope, end in self.ends.items():
            if not isinstance(end, str) and self.time >= end:
                self.ends[scope] = "expired"
        for vault in self.vaults:
            vault.status()

    @rule(seconds=st.integers(1, 40))
    def pass_(self, seconds: int) -> None:
        self.wall += seconds
        self.boot += seconds
        self.time += seconds
        self.turned()

    @rule(seconds=st.integers(-1000, 20))
    def set_clock(self, seconds: int) -> None:
        self.wall += seconds
        self.turned()

    @rule(which=WHICH)
    def reopen(self, which: int) -> None:
        self.vaults[which].close()
        self.vaults[which] = self.opened()

    @rule(which=WHICH, scope=SCOPES, lifetime=st.none() | st.integers(1, 100))
    def lease(self, which: int, scope: str, lifetime: int | None) -> None:
        lease = self.vaults[which].lease(scope, lifetime_seconds=lifetime)
        self.ends[scope] = math.inf if lifetime is None else self.time + lifetime
        assert lease.seconds_left == lifetime

    @rule(which=WHICH, scope=SCOPES)
    def lock(self, which: int, scope: str) -> None:
        self.vaults[which].lock(scope)
        self.ends[scope] = "locked"

    @rule(which=WHICH, scope=SCOPES, name=NAMES, value=st.binary(min_size=1, max_size=40))
    def put(self, which: int, scope: str, name: str, value: bytes) -> None:
        if self.may(which, scope):
            self.vaults[which].put(scope, name, value)
            self.values[scope, name] = value

    @rule(which=WHICH, scope=SCOPES, name=NAMES)
    def remove(self, which: int, scope: str, name: str) -> None:
        if self.may(which, scope):
            try:
                self.vaults[which].remove(scope, name)
                removed = True
            except NoSuchRecord:
                removed = False
            assert removed == (self.values.pop((scope, name), None) is not None)

    @rule(which=WHICH, scope=SCOPES)
    def read(self, which: int, scope: str) -> None:
        if self.may(which, scope):
            vault = self.vaults[which]
            expected = {name: value for (of, name), value in self.values.items() if of == scope}
            names = [info.name for info in vault.list_(scope)]
            assert names == sorted(expected)
            assert {name: vault.get(scope, name).value for name in names} == expected

    @invariant()
    def counts(self) -> None:
        assert self.vaults[0].status().records == len(self.values)

    def may(self, which: int, scope: str) -> bool:
        """Whether the scope has a living lease; the vault must say the same."""
        end = self.ends.get(scope, "locked")
        try:
            self.vaults[which].require_lease(scope)
            said = ""
        except Locked:
            said = "locked"
        except KeyExpired:
            said = "expired"
        assert said == (end if isinstance(end, str) else "")
        return not said


TestModel = VaultMachine.TestCase
TestModel.settings = settings(
    max_examples=300 if SOAK else 15,
    stateful_step_count=60 if SOAK else 30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
