"""Where the home secret lives, and what a file or header made by somebody else may not do."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from vault.errors import BadStore, KeeperRefused, LoosePermissions
from vault.keepers import Argon2Parameters, Caller, Keeper, KeyFile, Passphrase
from vault.private_files import create_private

VAULT = bytes(range(16))
GOOD = {"kdf": "argon2id", "memory_kib": 65536, "passes": 3, "lanes": 4, "salt": "00" * 16}


def test_a_key_file_is_made_once_and_used_again(keeper: KeyFile) -> None:
    secret, parameters = keeper.make(VAULT)
    assert (len(secret), parameters) == (32, b"")
    assert keeper.fetch(VAULT, b"") == keeper.make(b"another vault...")[0] == secret
    assert stat.S_IMODE(keeper.path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:-1],
        lambda content: content + b"\n",
        lambda content: content.replace(b"mdx-key-file-1", b"mdx-key-file-2"),
        lambda content: content[:20] + b"!" + content[21:],
        lambda content: content[:20] + b"+" + content[21:],
        lambda content: content[:-2] + b"_\n" if content[-2:-1] != b"_" else content[:-2] + b"-\n",
        lambda content: b"",
    ],
)
def test_a_malformed_key_file_is_refused_without_its_content(keeper: KeyFile, change: Any) -> None:
    keeper.make(VAULT)
    content = keeper.path.read_bytes()
    keeper.path.write_bytes(change(content))
    with pytest.raises(KeeperRefused) as refused:
        keeper.fetch(VAULT, b"")
    assert content[15:30].decode() not in str(refused.value)


def test_a_missing_key_file_is_a_sentence(keeper: KeyFile) -> None:
    with pytest.raises(KeeperRefused, match="No such file") as refused:
        keeper.fetch(VAULT, b"")
    assert refused.value.hint


def test_a_key_file_that_others_can_read_is_refused(keeper: KeyFile) -> None:
    keeper.make(VAULT)
    keeper.path.chmod(0o640)
    with pytest.raises(LoosePermissions):
        keeper.fetch(VAULT, b"")
    with pytest.raises(LoosePermissions):
        keeper.make(VAULT)


def test_a_key_file_is_not_followed_through_a_link(tmp_path: Path) -> None:
    KeyFile(tmp_path / "real").make(VAULT)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(LoosePermissions):
        KeyFile(tmp_path / "link").fetch(VAULT, b"")


def test_a_key_file_keeps_a_note_for_each_vault(keeper: KeyFile) -> None:
    assert keeper.holds_notes
    assert keeper.read_note(VAULT) is None
    for note in (b"first", b"second"):
        keeper.write_note(VAULT, note)
        assert keeper.read_note(VAULT) == note
    assert keeper.read_note(b"another vault...") is None


def test_no_place_for_a_key_file_is_a_sentence(tmp_path: Path) -> None:
    nowhere = KeyFile(tmp_path / "no" / "folder")
    with pytest.raises(KeeperRefused):
        nowhere.make(VAULT)
    with pytest.raises(KeeperRefused):
        nowhere.write_note(VAULT, b"note")
    create_private(tmp_path / "file", b"")
    with pytest.raises(KeeperRefused):
        KeyFile(tmp_path / "file" / "key").read_note(VAULT)


def test_a_passphrase_gives_the_same_secret_again_by_the_parameters_it_wrote() -> None:
    secret, parameters = Passphrase(b"correct horse").make(VAULT)
    document = json.loads(parameters)
    assert document | {"salt": ""} == GOOD | {"salt": ""}
    assert Passphrase(b"correct horse").fetch(VAULT, parameters) == secret
    assert Passphrase(b"correct horsf").fetch(VAULT, parameters) != secret


@pytest.mark.parametrize(
    "change",
    [
        {"memory_kib": 65535},
        {"memory_kib": 1024 * 1024 + 1},
        {"passes": 2},
        {"passes": 17},
        {"lanes": 3},
        {"lanes": 17},
        {"lanes": 4.0},
        {"lanes": "4"},
        {"passes": True},
        {"kdf": "argon2i"},
        {"salt": "00" * 15},
        {"salt": "xx" * 16},
        {"salt": None},
        {"more": 1},
    ],
)
def test_parameters_below_the_floor_above_the_cap_or_odd_are_refused_before_any_work(
    change: dict[str, Any],
) -> None:
    with pytest.raises(BadStore):
        Passphrase(b"p").fetch(VAULT, json.dumps(GOOD | change).encode())


@pytest.mark.parametrize("parameters", [b"", b"[]", b"null", b"\xff", b"{}"])
def test_parameters_of_no_known_form_are_refused(parameters: bytes) -> None:
    with pytest.raises(BadStore):
        Passphrase(b"p").fetch(VAULT, parameters)


def test_costs_below_the_floor_cannot_be_asked_for_a_new_vault() -> None:
    with pytest.raises(ValueError, match="memory_kib"):
        Argon2Parameters(memory_kib=1024)


def test_what_is_no_secret_is_refused() -> None:
    with pytest.raises(KeeperRefused):
        Passphrase(b"")
    for length in (0, 16, 31, 33):
        with pytest.raises(KeeperRefused):
            Caller(bytes(length))


def test_a_callers_key_is_the_home_secret() -> None:
    assert Caller(b"k" * 32).make(VAULT) == (b"k" * 32, b"")
    assert Caller(b"k" * 32).fetch(VAULT, b"") == b"k" * 32


@pytest.mark.parametrize("made", ["keyfile", "caller"])
def test_parameters_where_none_belong_are_refused(keeper: KeyFile, made: str) -> None:
    keeper.make(VAULT)
    chosen: Keeper = keeper if made == "keyfile" else Caller(b"k" * 32)
    with pytest.raises(BadStore):
        chosen.fetch(VAULT, b"{}")


@pytest.mark.parametrize("chosen", [Passphrase(b"hunter2"), Caller(b"hunter2!" * 4)])
def test_a_keeper_without_a_place_says_so_and_shows_no_secret(chosen: Keeper) -> None:
    assert not chosen.holds_notes
    chosen.write_note(VAULT, b"note")
    assert chosen.read_note(VAULT) is None
    assert "hunter2" not in f"{chosen!r} {chosen.describe()}"
