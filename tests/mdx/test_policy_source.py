"""Lines of keys: found for every key of any TOML text, and never by guessing."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdx.policy_source import KeyPath, Source, line_of_error, locate, path_text, shown

TEXT = '''\
# a comment with [apps.no] and key = 1
"top" = 1

[apps.payroll]
network_access = "tunneled" # = not a key
routes = [
    { tunnel = "*.corp.internal:443" },  # ] } "
    { block = "x # y", reason = 'it "is"' },

    { direct = """
a = 1
""" }, { block = "b" },
]
a.b."c.d" = { e = [[1, 2], [
  3]] }
'''
TEXT += "long = '''\n[x]\n'''\nafter = 2024-01-01 10:00:00\n"


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 2),
        (("apps",), 4),
        (("apps", "payroll"), 4),
        (("apps", "payroll", "network_access"), 5),
        (("apps", "payroll", "routes"), 6),
        (("apps", "payroll", "routes", 0), 7),
        (("apps", "payroll", "routes", 1, "reason"), 8),
        (("apps", "payroll", "routes", 2), 10),
        (("apps", "payroll", "routes", 3, "block"), 12),
        (("apps", "payroll", "a", "b", "c.d", "e", 1, 0), 15),
        (("apps", "payroll", "long"), 16),
        (("apps", "payroll", "after"), 19),
    ],
)
def test_keys_and_elements_have_their_lines(path: KeyPath, line: int) -> None:
    assert locate(TEXT)[path] == line
    assert locate(TEXT.replace("\n", "\r\n"))[path] == line


def test_arrays_of_tables_are_counted() -> None:
    found = locate("[[a]]\nb = 1\n[[a]]\n[[a.c]]\nd = 1\n[a.e]\n[[a]]\nb = 2\n")
    assert found["a", 0, "b"] == 2
    assert found["a", 1, "c", 0, "d"] == 5
    assert found["a", 1, "e"] == 6
    assert found["a", 2, "b"] == 8


def test_a_header_says_more_than_a_mention_before() -> None:
    found = locate("[a.b]\nc = 1\n[a]\nd = 1\n")
    assert (found["a",], found["a", "b"], found["a", "d"]) == (3, 1, 4)


@pytest.mark.parametrize("mark", ["'", '"'])
@pytest.mark.parametrize("inside", ["", "x", "\n[x]\n", "{}", "{}{}", "{}{}x", "x{}", "x{}{}"])
def test_long_strings_may_hold_and_end_with_quotes(mark: str, inside: str) -> None:
    text = f"a = {mark * 3}{inside.format(mark, mark)}{mark * 3}\nb = 1\n"
    assert set(tomllib.loads(text)) == {"a", "b"}
    assert locate(text)["b",] == text.count("\n")


def test_a_key_without_a_line_has_that_of_what_is_around_it() -> None:
    source = Source("mdx.toml", {("apps",): 1, ("apps", "payroll"): 3})
    assert source.origin(("apps", "payroll", "routes", 2)) == "mdx.toml:3 apps.payroll.routes[2]"
    assert source.origin(("other",)) == "mdx.toml other"
    assert Source().origin(("apps", "payroll")) == "apps.payroll"


def test_paths_and_values_are_printable() -> None:
    assert path_text(("apps", "a b\n", "c", 0, 1)) == 'apps."a b\\n".c[0][1]'
    assert shown("\x1b[2J\x7f\u202e") == '"\\u001b[2J\\u007f\\u202e"'
    assert shown("x" * 1000) == '"' + "x" * 56 + "..."
    assert shown(True) == "true"
    assert shown({"a": 1}) == "a table"
    assert shown([1]) == "an array"
    assert shown(tomllib.loads("a = 2024-01-01")["a"]) == '"2024-01-01"'


@pytest.mark.parametrize(
    ("text", "line"),
    [("a = 1\nb = on\n", 2), ("a = [\n1,\n", 3), ("\n\n[a", 3), ("a = 1\na = 2\n", 2)],
)
def test_the_line_of_a_syntax_error(text: str, line: int) -> None:
    with pytest.raises(tomllib.TOMLDecodeError) as caught:
        tomllib.loads(text)
    assert line_of_error(caught.value, text) == line


# Any TOML text ------------------------------------------------------------------------------------

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=6)
scalars = st.one_of(st.integers(-9, 99), st.booleans(), st.floats(-9, 9), words)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=12,
)
documents = st.dictionaries(words, values, max_size=5)


class Writer:
    """Writes a document in one of the many ways that TOML has."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw

    def one_of(self, *choices: str) -> str:
        return self.draw(st.sampled_from(choices))

    def key(self, key: str) -> str:
        bare = key.isascii() and key.replace("_", "a").replace("-", "a").isalnum()
        return key if bare and self.draw(st.booleans()) else self.quoted(key)

    def quoted(self, text: str) -> str:
        if text.isprintable() and "'" not in text and self.draw(st.booleans()):
            return f"'{text}'"
        return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")

    def value(self, value: Any) -> str:
        blank = self.one_of("", " ", "\n", " # ] } ,\n ", "\n\n")
        match value:
            case bool():
                return str(value).lower()
            case int() | float():
                return repr(value)
            case str():
                if "\\" not in value and '"' not in value and value.isprintable():
                    return self.one_of(self.quoted(value), f'"""\n{value}\n"""')
                return self.quoted(value)
            case list():
                inner = "".join(f"{blank}{self.value(item)}{blank}," for item in value)
                return f"[{inner}{blank}]"
            case dict():
                pairs = [f" {self.key(name)} = {self.value(item)} " for name, item in value.items()]
                return "{" + ",".join(pairs) + "}"
        raise AssertionError(value)

    def document(self, document: dict[str, Any]) -> str:
        plain, tables = [], []
        for name, value in document.items():
            key = self.key(name)
            if isinstance(value, dict) and self.draw(st.booleans()):
                tables.append(f"[ {key} ]# x\n{self.lines(value)}")
            elif (
                isinstance(value, list)
                and value
                and all(isinstance(item, dict) for item in value)
                and self.draw(st.booleans())
            ):
                tables.extend(f"[[{key}]]\n{self.lines(item)}" for item in value)
            else:
                plain.append(f"{key} = {self.value(value)}\n")
        return "".join(plain) + "\n".join(tables)

    def lines(self, table: dict[str, Any]) -> str:
        return "".join(f"{self.key(name)}={self.value(item)}\n" for name, item in table.items())


@st.composite
def texts(draw: st.DrawFn) -> str:
    return Writer(draw).document(draw(documents))


def paths_in(value: Any, path: KeyPath = ()) -> set[KeyPath]:
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = {path} if path else set()
    for key, item in inner:
        here = (*path, key)
        found |= paths_in(item, here) if isinstance(item, dict | list) else {here}
    return found


@given(texts())
def test_every_key_is_found_and_no_other(text: str) -> None:
    found = locate(text)
    assert set(found) == paths_in(tomllib.loads(text))
    lines = text.split("\n")
    for path, line in found.items():
        if isinstance(path[-1], str):
            written = lines[line - 1]
            assert (
                path[-1] in written
                or json.dumps(path[-1], ensure_ascii=False)[1:-1].replace("\x7f", "\\u007f")
                in written
            )


@given(st.text() | st.text(alphabet="[]{}=,.\"'#\n ab1\\"))
def test_any_text_is_walked_to_an_end(text: str) -> None:
    lines = text.count("\n") + 1
    assert all(1 <= line <= lines for line in locate(text).values())


def test_deep_nesting_is_walked_to_an_end() -> None:
    assert locate("a = 1\nb = " + "[" * 100_000)["a",] == 1
