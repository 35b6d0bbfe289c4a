"""Refusals: each has its answers, and says what decided."""

from __future__ import annotations

import pytest

from tunnel import errors
from tunnel.errors import RefusalCode, Refused, TunnelError


@pytest.mark.parametrize("code", list(RefusalCode))
def test_every_code_has_its_answers(code: RefusalCode) -> None:
    assert 1 <= code.socks_reply <= 8  # RFC 1928, section 6
    assert code.http_status in (400, 403, 407, 500, 501, 502, 503, 504)
    assert code.value == code.name  # the name is on the wire
    assert RefusalCode[code.value] is code


def test_codes_with_equal_answers_are_no_aliases() -> None:
    assert len(list(RefusalCode)) == len(RefusalCode.__members__) == 17


def test_text_of_a_refusal() -> None:
    refused = Refused(RefusalCode.BLOCKED_BY_RULE, "BLOCK * (mdx.toml:3)", "ask the owner")
    assert str(refused) == "BLOCKED_BY_RULE: BLOCK * (mdx.toml:3) (ask the owner)"
    assert str(Refused(RefusalCode.MALFORMED, "rule")) == "MALFORMED: rule"
    assert (refused.code, refused.hint) == (RefusalCode.BLOCKED_BY_RULE, "ask the owner")


def test_everything_raised_on_purpose_has_one_base() -> None:
    for name in errors.__all__:
        kind = getattr(errors, name)
        if issubclass(kind, Exception):
            assert issubclass(kind, TunnelError)
