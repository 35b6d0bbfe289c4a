"""Session tokens: whose they are, and when they end. Times are plain numbers here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tunnel.errors import RefusalCode, Refused
from tunnel.identity import Identity, Role
from tunnel.sessions import Sessions

IDLE, FORCED = 100.0, 1000.0
WHO = Identity(
    tenant="acme",
    role=Role.APP,
    device="d1",
    app="payroll",
    key_hash="a" * 64,
    serial="1",
    not_after=1e9,
)


def grant(sessions: Sessions, who: Identity = WHO, now: float = 0) -> str:
    """A token with the timers of this file."""
    return sessions.grant(who, now, idle_seconds=IDLE, forced_seconds=FORCED).token


def code_of(sessions: Sessions, token: str, who: Identity = WHO, now: float = 0) -> RefusalCode:
    """How a token is refused."""
    with pytest.raises(Refused) as caught:
        sessions.check(token, who, now)
    assert token not in str(caught.value)
    return caught.value.code


def test_token_works_for_its_certificate_only() -> None:
    sessions = Sessions(per_device=8)
    token = grant(sessions)
    assert sessions.check(token, WHO, 1).app == "payroll"
    sessions.check(token, replace(WHO, serial="2", not_after=2e9), 1)  # renewed, same key
    for other in (
        replace(WHO, tenant="other"),
        replace(WHO, device="d2"),
        replace(WHO, app="mail"),
        replace(WHO, key_hash="b" * 64),
    ):
        assert code_of(sessions, token, other) is RefusalCode.NOT_AUTHENTICATED


def test_unknown_and_odd_tokens() -> None:
    sessions = Sessions(per_device=8)
    strange = grant(Sessions(per_device=8))
    for token in (strange, "", "mdxs1.", strange + "A", strange.upper()):
        with pytest.raises(Refused) as caught:
            sessions.check(token, WHO, 0)
        assert caught.value.code is RefusalCode.NOT_AUTHENTICATED


def test_idle_timer_begins_anew_with_each_use() -> None:
    sessions = Sessions(per_device=8)
    token = grant(sessions)
    for now in (99, 198, 297):
        sessions.check(token, WHO, now)
    assert code_of(sessions, token, now=397) is RefusalCode.NOT_AUTHENTICATED
    assert code_of(sessions, token, now=300) is RefusalCode.NOT_AUTHENTICATED  # and is forgotten


def test_wrong_certificate_does_not_keep_a_session_alive() -> None:
    sessions = Sessions(per_device=8)
    token = grant(sessions)
    code_of(sessions, token, replace(WHO, key_hash="b" * 64), now=99)
    assert code_of(sessions, token, now=100) is RefusalCode.NOT_AUTHENTICATED


def test_forced_timer_ends_a_busy_session() -> None:
    sessions = Sessions(per_device=8)
    token = grant(sessions)
    session = sessions.check(token, WHO, 1)
    with session.flow(lambda: 999.0):
        sessions.check(token, WHO, 999)
        assert code_of(sessions, token, now=1000) is RefusalCode.NOT_AUTHENTICATED


def test_open_flow_is_use() -> None:
    sessions = Sessions(per_device=8)
    token = grant(sessions)
    session = sessions.check(token, WHO, 1)
    with session.flow(lambda: 500.0):
        sessions.expire(400)
        assert len(sessions) == 1
    sessions.expire(599)
    assert len(sessions) == 1
    sessions.expire(600)
    assert len(sessions) == 0


def test_device_at_its_cap_loses_its_longest_unused_session() -> None:
    sessions = Sessions(per_device=2)
    other = grant(sessions, replace(WHO, device="d2"))
    first, second = grant(sessions, now=0), grant(sessions, now=1)
    sessions.check(first, WHO, 2)
    third = grant(sessions, now=3)
    assert code_of(sessions, second, now=3) is RefusalCode.NOT_AUTHENTICATED
    sessions.check(first, WHO, 3)
    sessions.check(third, WHO, 3)
    sessions.check(other, replace(WHO, device="d2"), 3)


def test_sessions_in_use_are_not_taken_away() -> None:
    sessions = Sessions(per_device=1)
    session = sessions.check(grant(sessions), WHO, 0)
    with session.flow(lambda: 1.0), pytest.raises(Refused) as caught:
        grant(sessions)
    assert caught.value.code is RefusalCode.OVERLOADED
    grant(sessions, now=1)


def test_sessions_that_are_over_make_room_first() -> None:
    sessions = Sessions(per_device=2)
    session = sessions.check(grant(sessions, now=0), WHO, 0)
    grant(sessions, now=50)
    with session.flow(lambda: 200.0):
        grant(sessions, now=150)  # the second is over; the first is in use
    assert len(sessions) == 2


def test_revoked_token_is_unknown() -> None:
    sessions = Sessions(per_device=2)
    token = grant(sessions)
    sessions.revoke(token)
    assert code_of(sessions, token) is RefusalCode.NOT_AUTHENTICATED
    assert len(sessions) == 0


def test_no_secret_is_kept_or_shown() -> None:
    sessions = Sessions(per_device=2)
    granted = sessions.grant(WHO, 0, idle_seconds=IDLE, forced_seconds=FORCED)
    assert granted.token not in repr(granted)
    assert granted.token not in repr(vars(sessions))


def test_only_an_app_has_sessions() -> None:
    device = replace(WHO, role=Role.DEVICE, app=None)
    with pytest.raises(ValueError, match="an app's"):
        grant(Sessions(per_device=1), device)
