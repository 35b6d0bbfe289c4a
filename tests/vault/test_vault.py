"""The vault's promises, one by one, to who uses it properly. Attacks are in test_attacks."""

from __future__ import annotations

import gc
import resource
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from vault import (
    AlreadyExists,
    BadStore,
    Caller,
    Ended,
    Instant,
    InvalidRecord,
    InvalidScope,
    KeeperKind,
    KeeperRefused,
    KeyExpired,
    KeyFile,
    Kind,
    Locked,
    LoosePermissions,
    NoSuchRecord,
    NoSuchVault,
    OpenFailed,
    Passphrase,
    RecordExpired,
    RecordInfo,
    StoreFull,
    Vault,
    VaultClosed,
    keyring_name,
    vault_kind,
)
from vault.keys import Key

Raw = Callable[[], AbstractContextManager[sqlite3.Connection]]
Reopen = Callable[[], Vault]


# Records ----------------------------------------------------------------------------------------


def test_what_was_put_is_got_with_all_about_it(vault: Vault, clock: Any) -> None:
    put = vault.put("app:payroll", "db", b"hunter2", kind=Kind.PASSWORD, expires_at=clock.wall + 50)
    record = vault.get("app:payroll", "db")
    assert (record.value, record.info) == (b"hunter2", put)
    assert (put.scope, put.name, put.kind, put.size_bytes) == (
        "app:payroll",
        "db",
        Kind.PASSWORD,
        7,
    )
    assert (put.written_at, put.expires_at) == (clock.wall, clock.wall + 50)


@pytest.mark.parametrize("size", [1, 16 * 1024 - 1, 16 * 1024, 1024 * 1024])
def test_any_value_up_to_a_mebibyte(vault: Vault, size: int) -> None:
    vault.put("app:payroll", "n", b"\0" * size)
    assert vault.get("app:payroll", "n").value == b"\0" * size


def test_a_new_value_takes_the_old_ones_place_with_a_higher_version(vault: Vault) -> None:
    first = vault.put("app:payroll", "n", b"one")
    second = vault.put("app:payroll", "n", b"two")
    assert vault.get("app:payroll", "n").value == b"two"
    assert second.version > first.version
    assert vault.list_("app:payroll") == [second]


def test_a_version_is_not_used_again_after_a_removal(vault: Vault) -> None:
    first = vault.put("app:payroll", "n", b"one")
    vault.remove("app:payroll", "n")
    assert vault.put("app:payroll", "n", b"two").version > first.version


def test_the_list_has_every_record_of_the_scope_by_name(vault: Vault) -> None:
    vault.lease("app:other", lifetime_seconds=10)
    infos = [vault.put("app:payroll", name, b"v") for name in ("b", "ä", "a", "B")]
    vault.put("app:other", "theirs", b"v")
    assert vault.list_("app:payroll") == sorted(infos, key=lambda info: info.name)
    assert [info.name for info in vault.list_("app:other")] == ["theirs"]


def test_what_was_removed_is_gone(vault: Vault, reopen: Reopen) -> None:
    vault.put("app:payroll", "n", b"v")
    vault.remove("app:payroll", "n")
    with reopen() as again:
        for use in (again.get, again.remove):
            with pytest.raises(NoSuchRecord, match="'n'"):
                use("app:payroll", "n")
        assert again.list_("app:payroll") == []


def test_scopes_do_not_see_each_others_records(vault: Vault) -> None:
    vault.lease("group:payroll", lifetime_seconds=10)
    vault.put("app:payroll", "n", b"mine")
    with pytest.raises(NoSuchRecord):
        vault.get("group:payroll", "n")


def test_a_record_past_its_own_expiry_is_not_handed_out(vault: Vault, clock: Any) -> None:
    vault.put("app:payroll", "n", b"v", expires_at=clock.wall + 10)
    clock.pass_(9.9)
    assert vault.get("app:payroll", "n").value == b"v"
    clock.pass_(0.1)
    with pytest.raises(RecordExpired):
        vault.get("app:payroll", "n")
    clock.set_back(1000)
    with pytest.raises(RecordExpired):
        vault.get("app:payroll", "n")
    assert [info.name for info in vault.list_("app:payroll")] == ["n"]
    vault.remove("app:payroll", "n")


def test_what_is_no_scope_or_record_is_refused(vault: Vault) -> None:
    for call in (
        lambda: vault.lease("payroll", lifetime_seconds=1),
        lambda: vault.lock("payroll"),
        lambda: vault.require_lease("payroll"),
        lambda: vault.put("payroll", "n", b"v"),
        lambda: vault.get("payroll", "n"),
        lambda: vault.list_("payroll"),
        lambda: vault.remove("payroll", "n"),
    ):
        with pytest.raises(InvalidScope):
            call()
    for call in (
        lambda: vault.put("app:payroll", "", b"v"),
        lambda: vault.put("app:payroll", "n", b""),
        lambda: vault.get("app:payroll", "\n"),
        lambda: vault.remove("app:payroll", "\n"),
    ):
        with pytest.raises(InvalidRecord):
            call()


# Leases -----------------------------------------------------------------------------------------


def uses(vault: Vault, scope: str) -> list[Callable[[], object]]:
    return [
        lambda: vault.get(scope, "n"),
        lambda: vault.put(scope, "n", b"v"),
        lambda: vault.list_(scope),
        lambda: vault.remove(scope, "n"),
        lambda: vault.require_lease(scope),
    ]


def test_nothing_goes_without_a_lease(vault: Vault) -> None:
    for use in uses(vault, "app:never"):
        with pytest.raises(Locked) as refused:
            use()
        assert not refused.value.by_user
    assert vault.current_lease("app:never") is None


def test_a_lease_says_how_long_it_lives(vault: Vault, clock: Any) -> None:
    lease = vault.lease("app:a", lifetime_seconds=60)
    assert (lease.scope, lease.epoch, lease.ended) == ("app:a", 1, None)
    assert (lease.not_after, lease.seconds_left) == (clock.wall + 60, 60)
    clock.pass_(20)
    assert vault.require_lease("app:a").seconds_left == 40
    assert vault.current_lease("app:a") == vault.require_lease("app:a")
    assert vault.lease("none:hub", lifetime_seconds=None).seconds_left is None


def test_every_use_is_refused_from_the_instant_of_expiry(vault: Vault, clock: Any) -> None:
    vault.put("app:payroll", "n", b"v")
    clock.pass_(99.9)
    assert vault.get("app:payroll", "n").value == b"v"
    clock.pass_(0.1)
    for use in uses(vault, "app:payroll"):
        with pytest.raises(KeyExpired) as expired:
            use()
        assert expired.value.expired_at == clock.wall
    assert vault.current_lease("app:payroll") is None


def test_an_expired_lease_stays_expired_whatever_the_clock_says(
    vault: Vault, clock: Any, reopen: Reopen
) -> None:
    clock.pass_(100)
    with pytest.raises(KeyExpired):
        vault.require_lease("app:payroll")
    clock.set_back(10_000)
    with pytest.raises(KeyExpired):
        vault.require_lease("app:payroll")
    clock.reboot()
    with reopen() as again, pytest.raises(KeyExpired):
        again.require_lease("app:payroll")


def test_a_clock_set_back_between_two_processes_gains_nothing(
    vault: Vault, clock: Any, reopen: Reopen
) -> None:
    clock.pass_(60)
    vault.put("app:payroll", "n", b"v")
    vault.close()
    clock.set_back(100_000)
    clock.pass_(39.9)
    with reopen() as again:
        assert again.get("app:payroll", "n").value == b"v"
        clock.pass_(0.1)
        with pytest.raises(KeyExpired):
            again.get("app:payroll", "n")


def test_reads_alone_keep_the_highest_time_seen_up_to_a_minute(
    folder: Path, keeper: KeyFile, clock: Any
) -> None:
    with Vault.create(folder, keeper, clock=clock) as vault:
        vault.lease("app:a", lifetime_seconds=1000)
        vault.put("app:a", "n", b"v")
        for _ in range(19):
            clock.pass_(50)
            vault.get("app:a", "n")
    clock.set_back(100_000)
    clock.reboot()
    clock.pass_(110)
    with Vault.open_(folder, keeper, clock=clock) as again, pytest.raises(KeyExpired):
        again.get("app:a", "n")


def test_a_renewal_is_a_new_epoch_that_opens_what_was_there(
    vault: Vault, clock: Any, reopen: Reopen
) -> None:
    vault.put("app:payroll", "n", b"old")
    clock.pass_(1000)
    for epoch in (2, 3, 4):
        assert vault.lease("app:payroll", lifetime_seconds=10).epoch == epoch
        assert vault.get("app:payroll", "n").value == b"old"
    with reopen() as again:
        assert again.get("app:payroll", "n").value == b"old"


def test_an_impossible_lifetime_changes_nothing(vault: Vault) -> None:
    before = vault.status()
    with pytest.raises(ValueError, match="lifetime"):
        vault.lease("app:payroll", lifetime_seconds=0)
    assert vault.status() == before


def test_locking_ends_a_lease_until_the_next(vault: Vault, reopen: Reopen) -> None:
    vault.put("app:payroll", "n", b"v")
    vault.lock("app:payroll")
    for use in uses(vault, "app:payroll"):
        with pytest.raises(Locked) as refused:
            use()
        assert refused.value.by_user
    with reopen() as again, pytest.raises(Locked) as refused:
        again.get("app:payroll", "n")
    assert refused.value.by_user
    vault.lease("app:payroll", lifetime_seconds=10)
    assert vault.get("app:payroll", "n").value == b"v"


def test_locking_one_scope_leaves_the_others(vault: Vault) -> None:
    vault.lease("app:other", lifetime_seconds=10)
    vault.lock("app:payroll")
    vault.lock("app:never-leased")
    assert vault.current_lease("app:other")
    vault.lock_all()
    assert vault.current_lease("app:other") is None


def test_a_lease_that_lives_is_there_after_reopening(vault: Vault, reopen: Reopen) -> None:
    vault.put("app:payroll", "n", b"v")
    vault.close()
    with reopen() as again:
        assert again.get("app:payroll", "n").value == b"v"
        again.put("app:payroll", "n", b"w")
    with reopen() as again:
        assert again.get("app:payroll", "n").value == b"w"


def test_two_open_vaults_see_each_others_leases_locks_and_records(
    vault: Vault, reopen: Reopen
) -> None:
    with reopen() as other:
        vault.put("app:payroll", "n", b"one")
        assert other.get("app:payroll", "n").value == b"one"
        other.lease("app:payroll", lifetime_seconds=10)
        other.put("app:payroll", "n", b"two")
        assert vault.get("app:payroll", "n").value == b"two"
        assert vault.require_lease("app:payroll").epoch == 2
        other.lock("app:payroll")
        with pytest.raises(Locked):
            vault.get("app:payroll", "n")


# Keys in memory ---------------------------------------------------------------------------------


def keys_in_memory(scope: str) -> list[str]:
    gc.collect()
    return [item.id for item in gc.get_objects() if isinstance(item, Key) and scope in item.id]


def test_keys_are_in_memory_only_while_the_lease_lives(vault: Vault, clock: Any) -> None:
    for end in (
        lambda: vault.lock("app:unique"),
        vault.lock_all,
        lambda: (clock.pass_(10), vault.status()),
        vault.close,
    ):
        vault.lease("app:unique", lifetime_seconds=10)
        vault.put("app:unique", "n", b"v")
        assert keys_in_memory("app:unique")
        end()
        assert keys_in_memory("app:unique") == []


def test_names_that_were_read_are_in_memory_only_while_the_lease_lives(vault: Vault) -> None:
    def infos_in_memory() -> list[RecordInfo]:
        gc.collect()
        return [
            item
            for item in gc.get_objects()
            if isinstance(item, RecordInfo) and item.scope == "app:unique"
        ]

    vault.lease("app:unique", lifetime_seconds=10)
    vault.put("app:unique", "n", b"v")
    vault.get("app:unique", "n")
    assert infos_in_memory()
    vault.lock("app:unique")
    assert infos_in_memory() == []


def test_an_idle_process_drops_its_keys_too(folder: Path, keeper: KeyFile) -> None:
    with Vault.create(folder, keeper) as vault:  # by the real clock
        vault.lease("app:idle", lifetime_seconds=1)
        alarm = vault._alarm.timer
        assert alarm is not None
        assert keys_in_memory("app:idle")
        alarm.join(10)
        assert keys_in_memory("app:idle") == []


def test_another_processes_lock_drops_the_keys_at_the_next_use(
    vault: Vault, reopen: Reopen
) -> None:
    vault.lease("app:unique", lifetime_seconds=10)
    with reopen() as other:
        other.lock("app:unique")
    vault.status()
    assert keys_in_memory("app:unique") == []


def test_closing_drops_the_root_key_and_is_final(vault: Vault) -> None:
    before = len(keys_in_memory("root"))
    vault.close()
    vault.close()
    assert len(keys_in_memory("root")) == before - 1
    for use in (*uses(vault, "app:payroll"), vault.status, vault.lock_all):
        with pytest.raises(VaultClosed):
            use()


def test_an_open_vault_keeps_no_passphrase(folder: Path) -> None:
    with Vault.create(folder, Passphrase(b"correct horse battery")) as vault:
        keepers = [item for item in gc.get_objects() if isinstance(item, Passphrase)]
        assert b"correct horse battery" not in [keeper.passphrase for keeper in keepers]
        assert not vault.status().rollback_noticed
    assert vault_kind(folder) is KeeperKind.PASSPHRASE
    with pytest.raises(OpenFailed):
        Vault.open_(folder, Passphrase(b"correct horse batterie"))
    with Vault.open_(folder, Passphrase(b"correct horse battery")) as again:
        assert again.status().generation >= 1


# The old epochs ---------------------------------------------------------------------------------


def test_old_epochs_end_as_their_records_move_on(vault: Vault, raw: Raw) -> None:
    def epochs() -> list[tuple[int, int]]:
        with raw() as connection:
            found = connection.execute("SELECT epoch, wrapped_by FROM epochs ORDER BY epoch")
            return [(row[0], row[1]) for row in found]

    for n in range(70):
        vault.put("app:payroll", f"n{n}", b"v")
    vault.lease("app:payroll", lifetime_seconds=10)  # moves 64 of them
    assert epochs() == [(1, 2), (2, 0)]
    vault.lease("app:payroll", lifetime_seconds=10)
    assert epochs() == [(2, 3), (3, 0)]
    vault.lease("app:payroll", lifetime_seconds=10)
    assert epochs() == [(3, 4), (4, 0)]
    assert all(vault.get("app:payroll", f"n{n}").value == b"v" for n in range(70))


def test_moving_on_changes_neither_value_nor_description(vault: Vault) -> None:
    info = vault.put("app:payroll", "n", b"v", kind=Kind.TOKEN)
    vault.lease("app:payroll", lifetime_seconds=10)
    assert vault.get("app:payroll", "n").info == info


def test_a_put_moves_some_of_the_others(vault: Vault, raw: Raw) -> None:
    def left() -> int:
        with raw() as connection:
            found: int = connection.execute(
                "SELECT count(*) FROM records WHERE epoch = 1"
            ).fetchone()[0]
            return found

    for n in range(70):
        vault.put("app:payroll", f"n{n}", b"v")
    vault.lease("app:payroll", lifetime_seconds=10)
    assert left() == 6
    vault.put("app:payroll", "other", b"v")
    assert left() == 2


# Making and opening -----------------------------------------------------------------------------


def test_a_vault_is_made_once(vault: Vault, folder: Path, keeper: KeyFile) -> None:
    with pytest.raises(AlreadyExists):
        Vault.create(folder, keeper)
    assert vault.current_lease("app:payroll")


def test_the_folder_is_made_for_us_alone(vault: Vault, folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o750)
    with pytest.raises(LoosePermissions):
        vault_kind(folder)


def test_no_vault_is_made_where_others_could_look(tmp_path: Path, caller: Caller) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    loose.chmod(0o755)
    with pytest.raises(LoosePermissions):
        Vault.create(loose, caller)
    (tmp_path / "file").touch()
    with pytest.raises(LoosePermissions):
        Vault.create(tmp_path / "file", caller)
    with pytest.raises(BadStore):
        Vault.create(tmp_path / "file" / "vault", caller)


def test_where_there_is_no_vault(folder: Path, caller: Caller) -> None:
    assert vault_kind(folder) is None
    assert keyring_name(folder) is None
    with pytest.raises(NoSuchVault):
        Vault.open_(folder, caller)


def test_a_vault_says_which_keeper_it_needs(vault: Vault, folder: Path, caller: Caller) -> None:
    assert vault_kind(folder) is KeeperKind.KEY_FILE
    assert keyring_name(folder) is None
    with pytest.raises(BadStore, match="keyfile"):
        Vault.open_(folder, caller)


def test_another_key_does_not_open_it(folder: Path, caller: Caller) -> None:
    Vault.create(folder, caller).close()
    with pytest.raises(OpenFailed):
        Vault.open_(folder, Caller(b"another key, also 32 bytes long!"))


def test_without_its_key_file_it_stays_shut(vault: Vault, keeper: KeyFile, reopen: Reopen) -> None:
    keeper.path.unlink()
    with pytest.raises(KeeperRefused):
        reopen()


def test_the_status_tells_what_may_be_told(vault: Vault, folder: Path, clock: Any) -> None:
    vault.put("app:payroll", "n", b"v")
    vault.lease("app:b", lifetime_seconds=10)
    vault.lock("app:b")
    clock.pass_(100)
    status = vault.status()
    assert (status.folder, status.keeper, status.records) == (folder, KeeperKind.KEY_FILE, 1)
    assert status.rollback_noticed
    assert status.kept_by.startswith("key file ")
    assert [(lease.scope, lease.ended) for lease in status.leases] == [
        ("app:b", Ended.LOCKED),
        ("app:payroll", Ended.EXPIRED),
    ]


def test_the_status_tells_how_far_the_clock_was_set_back(vault: Vault, clock: Any) -> None:
    assert vault.status().seen_ahead_seconds == 0
    clock.set_back(3600)
    assert vault.status().seen_ahead_seconds == 3600
    clock.pass_(3600)
    assert vault.status().seen_ahead_seconds == 3600
    clock.wall += 7200
    assert vault.status().seen_ahead_seconds == 0


# Threads, and a full disk -----------------------------------------------------------------------


def test_any_thread_may_call(vault: Vault) -> None:
    def work(n: int) -> bytes:
        vault.put("app:payroll", f"n{n % 5}", b"v%d" % n)
        vault.list_("app:payroll")
        return vault.get("app:payroll", f"n{n % 5}").value

    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(work, range(40)))
    assert all(value.startswith(b"v") for value in values)
    assert vault.status().records == 5


def test_a_full_disk_leaves_the_old_value_and_a_lease_still_ends(vault: Vault, clock: Any) -> None:
    vault.put("app:payroll", "n", b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, before[1]))
    try:
        with pytest.raises(StoreFull):
            vault.put("app:payroll", "n", bytes(512 * 1024))
        assert vault.get("app:payroll", "n").value == b"old"
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
        clock.pass_(99)
        assert vault.get("app:payroll", "n").value == b"old"
        clock.pass_(1)
        for _ in range(2):
            with pytest.raises(KeyExpired):
                vault.get("app:payroll", "n")
        clock.set_back(90)
        with pytest.raises(KeyExpired):
            vault.get("app:payroll", "n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    vault.lease("app:payroll", lifetime_seconds=10)
    assert vault.get("app:payroll", "n").value == b"old"


def test_the_clock_is_the_callers(folder: Path, caller: Caller) -> None:
    asked = []

    def clock() -> Instant:
        asked.append(1)
        return Instant(wall=1e9, boot=1.0, boot_id="b")

    with Vault.create(folder, caller, clock=clock) as vault:
        lease = vault.lease("app:a", lifetime_seconds=10)
    assert asked
    assert lease.not_after == 1e9 + 10


def test_a_scope_that_never_had_a_lease_can_be_locked(tmp_path: Path) -> None:
    with Vault.create(tmp_path / "vault", Caller(bytes(range(32)))) as vault:
        vault.lock("app:never")

        with pytest.raises(Locked) as caught:
            vault.require_lease("app:never")
        assert caught.value.by_user
        vault.lease("app:never", lifetime_seconds=60)
        vault.put("app:never", "name", b"value")
        assert vault.get("app:never", "name").value == b"value"
