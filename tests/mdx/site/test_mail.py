"""The mailbox: a sign-in that opens it, and what does not."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from mdx.site import mail
from mdx.site.pages import Seen, answer
from tunnel import Negotiated, Request, Response

NEGOTIATED = Negotiated(version="TLSv1.3", cipher="x", group="y", alpn=None)
SEEN = Seen(site="intranet", gateway="gateway", outer=NEGOTIATED, inner=NEGOTIATED)


def ask(method: str, target: str, *, token: str = "", document: Any = None) -> Response:
    headers = (("authorization", f"Bearer {token}"),) if token else ()
    body = b"" if document is None else json.dumps(document).encode()
    return answer(Request(method=method, target=target, headers=headers, body=body), SEEN)


def sign_in() -> str:
    user, password = mail.ACCOUNT
    response = ask("POST", "/mail/login", document={"user": user, "password": password})
    assert response.status == 200
    token: str = json.loads(response.body)["token"]
    return token


def test_a_sign_in_opens_the_mailbox() -> None:
    token = sign_in()
    inbox = json.loads(ask("GET", "/mail/inbox", token=token).body)
    assert inbox["user"] == "ada"
    number = inbox["messages"][0]["number"]
    assert "moth" not in json.loads(ask("GET", f"/mail/inbox/{number}", token=token).body)["text"]
    assert ask("GET", "/mail/inbox/99", token=token).status == 404


@pytest.mark.parametrize("target", ["/mail/inbox", "/mail/inbox/1", "/mail/", "/mail/nothing"])
@pytest.mark.parametrize(
    "token", ["", "x", "é", base64.b64encode(b"ada:9999999999" + bytes(32)).decode(), "A" * 4000]
)
def test_without_a_token_of_ours_nothing_is_shown(target: str, token: str) -> None:
    response = ask("GET", target, token=token)
    assert response.status == 401
    assert ("WWW-Authenticate", 'Bearer realm="mail"') in response.headers


def test_a_token_that_was_changed_is_none() -> None:
    raw = base64.urlsafe_b64decode(sign_in())
    later = base64.urlsafe_b64encode(raw.replace(b"ada:1", b"ada:2")).decode()
    assert ask("GET", "/mail/inbox", token=later).status == 401


def test_a_token_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "TOKEN_SECONDS", -1.0)
    assert ask("GET", "/mail/inbox", token=sign_in()).status == 401


@pytest.mark.parametrize(
    ("document", "status"),
    [
        ({"user": "ada", "password": "wrong"}, 403),
        ({"user": "eve", "password": mail.ACCOUNT[1]}, 403),
        ({"user": "ada"}, 400),
        (["ada"], 400),
        ({"user": "\ud800", "password": ""}, 403),
        (None, 400),
    ],
)
def test_another_sign_in_gets_no_token(document: Any, status: int) -> None:
    response = ask("POST", "/mail/login", document=document)
    assert response.status == status
    assert b"token" not in response.body


def test_methods() -> None:
    assert ask("GET", "/mail/login").status == 405
    assert ask("DELETE", "/mail/inbox", token=sign_in()).status == 405
