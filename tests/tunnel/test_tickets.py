"""Tickets and tokens: one form each, hashes, and credentials around them."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunnel.errors import BadTicket
from tunnel.tickets import (
    TokenKind,
    new_session_token,
    new_ticket,
    parse_proxy_authorization,
    parse_session_token,
    parse_ticket,
    session_token_hash,
    ticket_hash,
)

EXAMPLES = 20_000 if os.environ.get("MDX_SOAK") else 300
SECRET = "A" * 43
TICKET = f"mdx1.sta.{SECRET}"
TOKEN = f"mdxs1.{SECRET}"


def basic(text: str) -> str:
    """The credentials of RFC 7617."""
    return "Basic " + base64.b64encode(text.encode()).decode("ascii")


def test_new_ones_are_fresh_and_well_formed() -> None:
    tickets = {new_ticket("sta-1") for _ in range(50)}
    tokens = {new_session_token() for _ in range(50)}
    assert len(tickets | tokens) == 100
    for ticket in tickets:
        parsed = parse_ticket(ticket)
        assert parsed.authority == "sta-1"
        assert parsed.hash == hashlib.sha256(ticket.encode()).digest() == ticket_hash(ticket)
    for token in tokens:
        assert parse_session_token(token) == token
        assert session_token_hash(token) == hashlib.sha256(token.encode()).digest()


@pytest.mark.parametrize("authority", ["", "A", "a.b", "-a", "a b", "a" * 64, "ü", "a\n"])
def test_an_authority_has_a_plain_name(authority: str) -> None:
    with pytest.raises(ValueError, match="cannot name"):
        new_ticket(authority)


ODD = ["", " ", "mdx1", "mdx1..x", SECRET, f"mdx2.sta.{SECRET}", f"MDX1.sta.{SECRET}"]
ODD += [f"mdx1.sta.{SECRET}=", f"mdx1.sta.{SECRET} ", f"mdx1.sta.{SECRET}\n", f" mdx1.sta.{SECRET}"]
ODD += [
    f"mdx1.sta.{'A' * 42}",
    f"mdx1.sta.{'A' * 44}",
    f"mdx1.sta.{'A' * 42}B",
    f"mdx1.STA.{SECRET}",
]
ODD += [f"mdx1.sta.{'A' * 42}+", f"mdxs1.{'A' * 42}B", f"mdxs1.sta.{SECRET}", f"mdx1.{SECRET}"]


@pytest.mark.parametrize("text", [*ODD, TOKEN])
def test_texts_that_are_no_ticket(text: str) -> None:
    for parse in (parse_ticket, ticket_hash):
        with pytest.raises(BadTicket) as caught:
            parse(text)
        assert "AAAA" not in str(caught.value)


@pytest.mark.parametrize("text", [*ODD, TICKET])
def test_texts_that_are_no_session_token(text: str) -> None:
    for parse in (parse_session_token, session_token_hash):
        with pytest.raises(BadTicket) as caught:
            parse(text)
        assert "AAAA" not in str(caught.value)


@pytest.mark.parametrize(
    ("token", "kind"), [(TICKET, TokenKind.TICKET), (TOKEN, TokenKind.SESSION)]
)
@pytest.mark.parametrize(
    ("spell", "app"),
    [
        (lambda token: f"Bearer {token}", None),
        (lambda token: f"bEARER {token}", None),
        (lambda token: basic(f"payroll:{token}"), "payroll"),
        (lambda token: basic(f"payroll:{token}").replace("Basic", "BASIC"), "payroll"),
    ],
)
def test_credentials(
    spell: Callable[[str], str], app: str | None, token: str, kind: TokenKind
) -> None:
    credentials = parse_proxy_authorization(spell(token))
    assert (credentials.app, credentials.kind, credentials.token) == (app, kind, token)
    assert "AAAA" not in repr(credentials)
    assert "AAAA" not in repr(parse_ticket(TICKET))


NOT_CANONICAL = base64.b64encode(f"payroll:{TOKEN}".encode()).decode("ascii")


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Bearer  {TOKEN}",
        f"Bearer {TOKEN} ",
        f"Bearer\t{TOKEN}",
        f"Bearer {TOKEN}, Basic x",
        TOKEN,
        f"Digest {TOKEN}",
        f"Bearer {SECRET}",
        basic(TOKEN),
        basic(f":{TOKEN}"),
        basic(f"Payroll:{TOKEN}"),
        basic(f"pay roll:{TOKEN}"),
        basic("payroll:"),
        basic("payroll"),
        basic(f"payroll:{TOKEN}:"),
        basic(f"payroll:{TOKEN}\n"),
        basic(f"pay\0roll:{TOKEN}"),
        basic(f"päyroll:{TOKEN}"),
        "Basic !!!!",
        "Basic ====",
        "Basic " + NOT_CANONICAL.rstrip("=") + "====",
        "Basic " + NOT_CANONICAL[:8] + "\n" + NOT_CANONICAL[8:],
        "Basic _-_-",
        "Bearer " + "x" * 600,
    ],
)
def test_credentials_that_are_refused_without_quoting_them(value: str) -> None:
    with pytest.raises(BadTicket) as caught:
        parse_proxy_authorization(value)
    error: BaseException | None = caught.value
    while error is not None:  # nor in what a traceback would show
        assert "AAAA" not in str(error)
        error = error.__cause__ or error.__context__


def test_a_secret_has_one_spelling_in_basic_too() -> None:
    padded = base64.b64encode(f"payroll1:{TOKEN}".encode()).decode("ascii")
    assert padded.endswith("=")
    body = padded.rstrip("=")
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    spare = last[last.index(body[-1]) + 1]  # the same bytes to a lenient decoder
    other = body[:-1] + spare + padded[len(body) :]
    assert base64.b64decode(other) == base64.b64decode(padded)
    assert parse_proxy_authorization(f"Basic {padded}").app == "payroll1"
    with pytest.raises(BadTicket):
        parse_proxy_authorization(f"Basic {other}")


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    value=st.text(max_size=120)
    | st.binary(max_size=80).map(lambda b: f"Basic {base64.b64encode(b).decode()}")
)
def test_any_text_is_credentials_or_a_bad_ticket(value: str) -> None:
    try:
        credentials = parse_proxy_authorization(value)
    except BadTicket:
        return
    assert credentials.token in value or credentials.app is not None


@settings(max_examples=EXAMPLES, deadline=None)
@given(at=st.integers(0, len(TICKET) - 1), character=st.characters())
def test_a_ticket_with_one_other_character_is_another_ticket_or_none(
    at: int, character: str
) -> None:
    changed = TICKET[:at] + character + TICKET[at + 1 :]
    try:
        hash_ = ticket_hash(changed)
    except BadTicket:
        return
    assert (hash_ == ticket_hash(TICKET)) == (changed == TICKET)
