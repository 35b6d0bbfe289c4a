"""The gateway's allow list: default deny, each app for itself."""

from __future__ import annotations

import pytest

from tunnel.allow_rules import AllowRules
from tunnel.destinations import parse_destination
from tunnel.errors import BadRule, RefusalCode, Refused

RULES = AllowRules.parse({"payroll": ["*.corp.test:443", "10.0.0.0/8:80"], "mail": []})


@pytest.mark.parametrize(
    ("to", "rule"),
    [
        ("a.corp.test:443", "allow payroll to *.corp.test:443"),
        ("10.1.2.3:80", "allow payroll to 10.0.0.0/8:80"),
        ("[::ffff:10.1.2.3]:80", "allow payroll to 10.0.0.0/8:80"),
    ],
)
def test_allowed(to: str, rule: str) -> None:
    assert RULES.check("payroll", parse_destination(to)) == rule


@pytest.mark.parametrize(
    ("app", "to"),
    [
        ("payroll", "corp.test:443"),
        ("payroll", "a.corp.test:444"),
        ("payroll", "11.0.0.1:80"),
        ("mail", "a.corp.test:443"),
        ("unknown", "a.corp.test:443"),
        ("", "a.corp.test:443"),
    ],
)
def test_default_deny(app: str, to: str) -> None:
    with pytest.raises(Refused) as caught:
        RULES.check(app, parse_destination(to))
    assert caught.value.code is RefusalCode.NOT_ALLOWED


def test_bad_rules() -> None:
    bad: list[dict[str, list[str]]] = [
        {"Payroll": ["*"]},
        {"a/b": []},
        {"payroll": ["10.0.0.1/8"]},
    ]
    for rules in bad:
        with pytest.raises(BadRule):
            AllowRules.parse(rules)
