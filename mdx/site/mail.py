"""The site's mailbox, for examples/mail: sign in for a token, then read.

    POST /mail/login        {"user", "password"} → {"token", "expires_in"}
    GET  /mail/inbox        Authorization: Bearer TOKEN → {"user", "messages": [{"number", …}]}
    GET  /mail/inbox/N      the same → {"number", "from", "subject", "text"}

Sample data: the account stands below for everybody to read. A token holds user and end and is
signed with a key that this process made when it began, so that nothing is kept here.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
import secrets
from typing import Any

from tunnel import Request, Response, error_response
from vault import now

__all__ = ["ACCOUNT", "MAIL_ROOT", "TOKEN_SECONDS", "answer_mail"]

MAIL_ROOT = "/mail/"
TOKEN_SECONDS = 3600.0
ACCOUNT = ("ada", "analytical engine")

_KEY = secrets.token_bytes(32)
_MESSAGE = re.compile(r"/mail/inbox/([1-9][0-9]{0,3})", re.ASCII)
_MESSAGES = (
    {
        "from": "grace@corp.internal",
        "subject": "The moth",
        "text": "I have taped it into the log book. You would laugh.",
    },
    {
        "from": "radia@corp.internal",
        "subject": "Spanning tree",
        "text": "I think that I shall never see a graph more lovely than a tree.",
    },
)


def answer_mail(request: Request, path: str) -> Response:
    """The answer to a request for `path`, which begins with MAIL_ROOT."""
    if path == "/mail/login":
        return _log_in(request) if request.method == "POST" else _not_allowed("POST")
    if request.method not in ("GET", "HEAD"):
        return _not_allowed("GET, HEAD")
    user = _signed_in(request.header("authorization") or "")
    if user is None:
        refused = error_response(401, "sign in first", "POST /mail/login")
        challenge = (("WWW-Authenticate", 'Bearer realm="mail"'),)
        return Response(status=401, body=refused.body, headers=challenge)
    if path == "/mail/inbox":
        listed = [
            {"number": number, "from": message["from"], "subject": message["subject"]}
            for number, message in enumerate(_MESSAGES, start=1)
        ]
        return _document({"user": user, "messages": listed})
    if (named := _MESSAGE.fullmatch(path)) and int(named[1]) <= len(_MESSAGES):
        number = int(named[1])
        return _document({"number": number} | _MESSAGES[number - 1])
    return error_response(404, "there is no such message", "GET /mail/inbox lists them")


def _log_in(request: Request) -> Response:
    try:
        asked = json.loads(request.body)
        given = (str(asked["user"]), str(asked["password"]))
    except (ValueError, LookupError, TypeError, RecursionError):
        return error_response(400, "a JSON object with user and password is expected")
    same = [
        hmac.compare_digest(one.encode("utf-8", "replace"), other.encode())
        for one, other in zip(given, ACCOUNT, strict=True)
    ]
    if not all(same):
        return error_response(403, "user or password is wrong")
    ends_at = int(now().wall + TOKEN_SECONDS)
    said = f"{ACCOUNT[0]}:{ends_at}".encode()
    token = base64.urlsafe_b64encode(said + _signature(said)).decode()
    return _document({"token": token, "expires_in": int(TOKEN_SECONDS)})


def _signed_in(authorization: str) -> str | None:
    """Who the token was given to; None for one that is not ours or over."""
    try:
        token = base64.b64decode(authorization.removeprefix("Bearer "), b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    said, signature = token[:-32], token[-32:]
    if not hmac.compare_digest(signature, _signature(said)):
        return None
    user, _, ends_at = said.decode("ascii").partition(":")
    return user if now().wall < int(ends_at) else None


def _signature(said: bytes) -> bytes:
    return hmac.digest(_KEY, said, "sha256")


def _document(value: dict[str, Any]) -> Response:
    headers = (("Cache-Control", "no-store"),)
    return Response(status=200, body=json.dumps(value).encode() + b"\n", headers=headers)


def _not_allowed(allow: str) -> Response:
    refused = error_response(405, f"only {allow} is allowed here")
    return Response(status=405, body=refused.body, headers=(("Allow", allow),))
