from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdx.control.join import JoinCode, new_join_code, parse_join_code, secret_hash
from mdx.errors import MdxError
from tunnel import Refused

PIN = "ab" * 32


@pytest.mark.parametrize("host", ["127.0.0.1", "2001:db8::1", "control.example.org", "a" * 60])
def test_a_code_says_what_it_was_made_of(host: str) -> None:
    code = new_join_code(host=host, port=8443, pin=PIN)
    text = code.text()
    assert text.startswith("mdxj1.")
    assert parse_join_code(text) == code
    assert parse_join_code(f"  {text}\n") == code
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")


def test_every_code_has_a_secret_of_its_own() -> None:
    codes = {new_join_code(host="h", port=1, pin=PIN).secret for _ in range(50)}
    assert len(codes) == 50
    assert {len(secret) for secret in codes} == {16}


def test_the_secret_is_in_no_repr_and_no_error() -> None:
    code = new_join_code(host="h", port=1, pin=PIN)
    assert code.secret.hex() not in repr(code)
    assert repr(code.secret) not in repr(code)
    text = code.text()
    with pytest.raises(MdxError) as caught:
        parse_join_code(text[:-3])
    assert text[6:20] not in str(caught.value) + caught.value.hint


def test_each_changed_or_missing_character_is_found() -> None:
    text = new_join_code(host="control.example.org", port=8443, pin=PIN).text()
    for index in range(len(text)):
        other = "A" if text[index] != "A" else "B"
        for wrong in (text[:index] + other + text[index + 1 :], text[:index]):
            with pytest.raises(MdxError):
                parse_join_code(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mdxj1.",
        "mdxj2.AAAA",
        "mdxj1.AAAA",
        "mdxj1." + "A" * 2000,
        "mdxj1.ä",
        "mdxs1." + "A" * 43,
    ],
)
def test_what_is_no_code_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(MdxError, match="join code") as caught:
        parse_join_code(text)
    assert "mdxj1" in caught.value.hint


def test_a_code_with_a_good_checksum_and_a_bad_address_is_refused() -> None:
    for address in (b"\xff:1", b"0x7f.1:80", b"host", b"host:0", b"a b:1", b"h:1\n"):
        with pytest.raises(MdxError):
            parse_join_code(_code_with_address(address))


def test_a_code_for_no_address_cannot_be_made() -> None:
    for host, port in (("0177.0.0.1", 1), ("h", 0), ("h", 65536), ("", 1)):
        with pytest.raises(Refused):
            new_join_code(host=host, port=port, pin=PIN)


def test_the_hash_of_a_secret_is_not_that_of_another_use() -> None:
    assert secret_hash(b"a" * 16) != secret_hash(b"b" * 16)
    assert len(secret_hash(b"a" * 16)) == 32


@given(st.text(max_size=300) | st.text("ABCxyz019-_", max_size=200).map("mdxj1.".__add__))
def test_any_text_is_a_code_or_an_mdx_error(text: str) -> None:
    try:
        code = parse_join_code(text)
    except MdxError:
        return
    assert isinstance(code, JoinCode)


def _code_with_address(address: bytes) -> str:
    import base64
    import hashlib

    content = b"s" * 16 + bytes.fromhex(PIN) + address
    checksum = hashlib.sha256(b"mdx join code 1 checksum\0" + content).digest()[:4]
    return "mdxj1." + base64.urlsafe_b64encode(checksum + content).rstrip(b"=").decode()
