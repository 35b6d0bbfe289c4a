"""The state survives its encoding; another form is refused."""

from __future__ import annotations

import json

import pytest

from vault.clock import Instant
from vault.errors import BadStore
from vault.leases import Ended, Lease
from vault.state import State, decode_state, encode_state

SEEN = Instant(wall=1.5, boot=2.25, boot_id="b")
STATE = State(
    generation=7,
    seen=SEEN,
    leases={
        "app:a": Lease(scope="app:a", epoch=3, granted_at=SEEN, not_after=9.5),
        "app:ü": Lease(scope="app:ü", epoch=1, granted_at=SEEN, not_after=None, ended=Ended.LOCKED),
        "none:hub": Lease(
            scope="none:hub", epoch=2, granted_at=SEEN, not_after=2.0, ended=Ended.EXPIRED
        ),
    },
    trees={"app:a": bytes(range(32))},
)


def test_the_state_survives() -> None:
    assert decode_state(encode_state(STATE)) == STATE
    assert decode_state(encode_state(State(generation=1, seen=SEEN))).leases == {}


@pytest.mark.parametrize(
    "change",
    [
        {"leases": {"app:a": {}}},
        {"leases": []},
        {"seen": {"wall": 1}},
        {"trees": {"app:a": "not hex"}},
        {"trees": None},
    ],
)
def test_another_form_is_refused(change: dict[str, object]) -> None:
    document = json.loads(encode_state(STATE)) | change
    with pytest.raises(BadStore):
        decode_state(json.dumps(document).encode())


@pytest.mark.parametrize("missing", ["generation", "seen", "leases", "trees"])
def test_every_field_is_needed(missing: str) -> None:
    document = json.loads(encode_state(STATE))
    del document[missing]
    with pytest.raises(BadStore):
        decode_state(json.dumps(document).encode())
