"""The pages, asked for without a network."""

from __future__ import annotations

import json

import pytest

from mdx.site.pages import BLOCK_BYTES, MAX_BIG_BYTES, Seen, answer, big_block
from mdx.site.repository import handbook
from tunnel import Negotiated, Request

NEGOTIATED = Negotiated(
    version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", group="X25519MLKEM768", alpn=None
)
SEEN = Seen(site="intranet", gateway="gateway", outer=NEGOTIATED, inner=NEGOTIATED)


@pytest.mark.parametrize(
    "target",
    [
        "",
        "*",
        "//",
        "/.",
        "/./",
        "/payroll.json/",
        "/Payroll.json",
        "/payroll%2ejson",
        "http://intranet/",
        "/big/",
        "/big/-1",
        "/big/+1",
        "/big/01",
        "/big/1_0",
        "/big/٣",
        "/big/1e3",
        f"/big/{MAX_BIG_BYTES + 1}",
        "/big/99999999999999999999",
        "/git/handbook.git",
        "/git/handbook.git/",
        "/git/handbook.git/objects",
        "/git/handbook.git/../payroll.json",
        "/git/handbook.git/../../../../../../etc/passwd",
        "/git/handbook.git/%2e%2e/%2e%2e/etc/passwd",
        "/git/handbook.git//HEAD",
        "/git/handbook.git/./HEAD",
        "/git/handbook.git/HEAD/",
        "/git/handbook.git/HEAD%00",
        "/git/other.git/HEAD",
    ],
)
def test_what_is_no_page_is_404(target: str) -> None:
    assert answer(Request(method="GET", target=target), SEEN).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "get"])
def test_only_reading_is_allowed(method: str) -> None:
    response = answer(Request(method=method, target="/"), SEEN)
    assert response.status == 405
    assert ("Allow", "GET, HEAD") in response.headers


def test_payroll_is_json() -> None:
    response = answer(Request(method="GET", target="/payroll.json?x"), SEEN)
    assert response.content_type == "application/json"
    assert {"name", "team", "gross"} == set(json.loads(response.body)["salaries"][0])


def test_every_file_of_the_repository_is_served_as_it_is() -> None:
    for name, content in handbook().items():
        response = answer(Request(method="GET", target=f"/git/handbook.git/{name}"), SEEN)
        assert (response.status, response.body) == (200, content)


def test_git_is_told_that_the_protocol_is_the_dumb_one() -> None:
    target = "/git/handbook.git/info/refs?service=git-upload-pack"
    assert "git-upload-pack" not in answer(Request(method="GET", target=target), SEEN).content_type


def test_a_client_cannot_put_lines_or_colours_into_the_greeting() -> None:
    headers = (("host", "intranet"), ("user-agent", "a\x1b[31m\r\nb" + "c" * 1000))
    request = Request(method="GET", target="/", headers=headers)
    text = answer(request, SEEN).body.decode()
    assert "\x1b" not in text
    assert len(text) < 1000


async def test_big_is_streamed_in_blocks_that_differ() -> None:
    response = answer(Request(method="GET", target=f"/big/{3 * BLOCK_BYTES + 5}"), SEEN)
    assert response.stream is not None
    pieces = [piece async for piece in response.stream()]
    assert [len(piece) for piece in pieces] == [BLOCK_BYTES] * 3 + [5]
    assert response.length == 3 * BLOCK_BYTES + 5
    assert len(set(pieces)) == 4
    assert pieces[1] == big_block(1)
