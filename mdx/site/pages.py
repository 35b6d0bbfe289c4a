"""What the site shows: a greeting, a payroll, bytes in any number, and the company's handbook.

    /                       text: a greeting, and what the site saw of the connection
    /payroll.json           figures that nobody outside should see
    /big/N                  N bytes, always the same ones, streamed
    /git/handbook.git/…     a git repository to clone
    /mail/…                 a mailbox behind a sign-in (see mdx.site.mail)

Rules of this file:
- A page exists under exactly one spelling of its path. Nothing is decoded or normalised and no file
  is opened by name, so there is no traversal to guard against: `..` and `%2e` are names of nothing.
- Only GET and HEAD, but for signing in; a query is ignored (git sends one).
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cache

import trio

from mdx.site.mail import MAIL_ROOT, answer_mail
from mdx.site.repository import handbook
from tunnel import Negotiated, Request, Response

__all__ = ["MAX_BIG_BYTES", "Seen", "answer", "big_block"]

MAX_BIG_BYTES = 10 * 1024**3
BLOCK_BYTES = 256 * 1024
GIT_ROOT = "/git/handbook.git/"

_BIG = re.compile(r"/big/(0|[1-9][0-9]{0,10})", re.ASCII)
_PAYROLL = {
    "company": "Corp",
    "month": "2025-06",
    "currency": "EUR",
    "salaries": [
        {"name": "Ada", "team": "engines", "gross": 8100},
        {"name": "Grace", "team": "compilers", "gross": 8400},
        {"name": "Radia", "team": "networks", "gross": 8300},
    ],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the site saw of a connection: the gateway's name, and both layers of TLS."""

    site: str
    gateway: str
    outer: Negotiated
    inner: Negotiated


def answer(request: Request, seen: Seen) -> Response:
    """The page that was asked for, or a refusal."""
    path = request.target.partition("?")[0]
    if path.startswith(MAIL_ROOT):
        return answer_mail(request, path)
    if request.method not in ("GET", "HEAD"):
        allow = (("Allow", "GET, HEAD"),)
        return _text(405, f"{request.method} is not allowed here\n", headers=allow)
    if path == "/":
        return _text(200, _greeting(request, seen))
    if path == "/payroll.json":
        body = json.dumps(_PAYROLL, indent=2).encode() + b"\n"
        return Response(status=200, body=body)
    if big := _BIG.fullmatch(path):
        return _big(int(big[1]))
    if path.startswith(GIT_ROOT):
        content = _git_files().get(path.removeprefix(GIT_ROOT))
        if content is not None:
            return _git_file(path, content)
    return _text(404, "there is no such page; try /, /payroll.json or /big/1000000\n")


def big_block(index: int) -> bytes:
    """The block of /big at `index` × 256 KiB: its index in 8 bytes, then a pattern.

    Any piece of the stream that is lost, repeated or moved thus changes the whole.
    """
    return index.to_bytes(8, "big") + _PATTERN


_PATTERN = bytes(number * number * 31 % 251 for number in range(BLOCK_BYTES - 8))


def _greeting(request: Request, seen: Seen) -> str:
    return (
        f"Welcome to {seen.site}.\n"
        f"\n"
        f"You came by way of the gateway {seen.gateway!a}; nobody else gets in.\n"
        f"gateway to site: {_facts(seen.outer)}\n"
        f"you to site:     {_facts(seen.inner)}\n"
        f"you asked for:   {request.header('host')!a} {request.target[:200]!a}\n"
        f"with:            {(request.header('user-agent') or 'no user agent')[:200]!a}\n"
    )


def _facts(negotiated: Negotiated) -> str:
    return f"{negotiated.version}, {negotiated.cipher}, {negotiated.group}"


def _big(size: int) -> Response:
    if size > MAX_BIG_BYTES:
        return _text(404, f"at most {MAX_BIG_BYTES} bytes are served\n")

    async def blocks() -> AsyncIterator[bytes]:
        whole, rest = divmod(size, BLOCK_BYTES)
        for index in range(whole):
            yield big_block(index)
            await trio.lowlevel.checkpoint()
        if rest:
            yield big_block(whole)[:rest]

    return Response(status=200, stream=blocks, length=size, content_type="application/octet-stream")


@cache
def _git_files() -> dict[str, bytes]:
    return handbook()


def _git_file(path: str, content: bytes) -> Response:
    # git takes a server for a "smart" one by the type of info/refs: text is the dumb protocol's.
    loose = path.startswith(GIT_ROOT + "objects/") and not path.endswith("/packs")
    kind = "application/x-git-loose-object" if loose else "text/plain; charset=utf-8"
    return Response(status=200, body=content, content_type=kind)


def _text(status: int, text: str, *, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    return Response(
        status=status,
        body=text.encode(),
        content_type="text/plain; charset=utf-8",
        headers=headers,
    )
