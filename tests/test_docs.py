"""The documentation is true: its commands parse, its examples load, its tables are the code's."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import click
import pytest
from pydantic import BaseModel

from mdx import launcher
from mdx.cli import commands
from mdx.control import admin, ca, enrollment, join, service, sta
from mdx.control.face import MAX_BODY_BYTES, Face
from mdx.gateway import config as gateway_config
from mdx.hub import wire
from mdx.hub.runs import LOOK
from mdx.lease_times import LeaseTimes
from mdx.policy import load
from tunnel import RefusalCode, Refused
from tunnel.gateway_requests import (
    CHECK_PATH,
    ESTABLISHED,
    SESSION_PATH,
    STATUS_PATH,
    Asked,
    asked_destination,
    flow_id,
    json_answer,
    what_is_asked,
)
from tunnel.http_head import MAX_FIELDS, MAX_HEAD_BYTES, parse_head
from tunnel.http_proxy import connect_destination, refusal_answer
from tunnel.limits import Limits

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
}
README, GATEWAY = PAGES["README.md"], PAGES["docs/gateway.md"]
GATEWAY_PROTOCOL = PAGES["docs/gateway-protocol.md"]
CONTROL_PROTOCOL = PAGES["docs/control-protocol.md"]
HUB_PROTOCOL = PAGES["docs/hub-protocol.md"]


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in that language."""
    return re.findall(rf"```{language}\n(.*?)```", page, re.S)


def table(page: str, *header: str) -> list[list[str]]:
    """The rows of the one table with these column names, as the texts of their cells."""
    head = f"| {' | '.join(header)} |\n|{'---|' * len(header)}\n"
    assert page.count(head) == 1, header
    rows = page.partition(head)[2].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def words_in(cell: str) -> set[str]:
    """What stands in back quotes in a cell, without what is in parentheses."""
    return set(re.findall(r"`([^`]+)`", re.sub(r"\([^)]*\)", "", cell)))


# Links and names ----------------------------------------------------------------------------------


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    headings = re.findall(r"^#+ (.+)$", page, re.M)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


LINKS = [
    (page, target)
    for page, text in PAGES.items()
    for target in re.findall(r"\]\(([^)\s]+)\)", text)
    if "://" not in target
]


@pytest.mark.parametrize(("page", "target"), LINKS)
def test_a_relative_link_leads_somewhere(page: str, target: str) -> None:
    path, _, anchor = target.partition("#")
    found = (ROOT / page).parent / path if path else ROOT / page
    assert found.exists()
    if anchor:
        assert anchor in anchors(found.read_text(encoding="utf-8"))


def test_there_are_links() -> None:
    assert len(LINKS) > 5


@pytest.mark.parametrize("page", sorted(PAGES))
def test_a_file_that_is_named_is_there(page: str) -> None:
    named = re.findall(
        r"`((?:vault|tunnel|mdx|docs|tests|scripts|benchmarks)/[\w./-]*)(?:::\w+)?`", PAGES[page]
    )
    assert [path for path in named if not (ROOT / path).exists()] == []
    assert page != "ARCHITECTURE.md" or len(named) > 20


def test_the_changelog_has_its_form() -> None:
    page = PAGES["CHANGELOG.md"]
    assert page.startswith("# Changelog\n")
    versions = page.split("\n## ")[1:]
    assert versions
    for version in versions:
        title = version.partition("\n")[0]
        assert re.fullmatch(r"Unreleased|\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", title), title
        kinds = re.findall(r"^### (.+)$", version, re.M)
        order = ["Security", "Added", "Changed", "Deprecated", "Removed", "Fixed"]
        assert kinds == [kind for kind in order if kind in kinds], title
        assert kinds


# Commands -----------------------------------------------------------------------------------------


def console_commands() -> Iterator[str]:
    """What a reader types after `$ mdx`, without comment, pipe and redirection."""
    for block in blocks(README, "console"):
        for line in re.findall(r"^\$ (?:\.venv/bin/)?mdx (.*)$", block, re.M):
            yield re.split(r"\s+#|\s[|>]", line)[0].strip()


def find_command(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command of these words, and what is left of them."""
    command: click.Command = commands
    while isinstance(command, click.Group) and words:
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, words
        command, words = found, words[1:]
    return command, words


@pytest.mark.parametrize("line", sorted(set(console_commands())))
def test_a_command_of_the_readme_parses(line: str) -> None:
    words = shlex.split(line)
    if words[0] == "run":
        assert launcher.parse(words[1:]).command
        return
    command, rest = find_command(words)
    assert not isinstance(command, click.Group)
    command.make_context(words[0], rest)  # raises UsageError


def test_the_readme_has_commands() -> None:
    assert len(set(console_commands())) >= 10


# These pages name labels that begin with "mdx", too.
FORMATS = {"docs/vault-format.md", "docs/audit-format.md", "docs/control-protocol.md"}
SPOKEN = sorted(
    {
        (page, " ".join(text.replace("\\|", "|").split()))
        for page, whole in PAGES.items()
        if page not in FORMATS
        for text in re.findall(r"`mdx ([a-z][^`]*)`", whole)
    }
)


@pytest.mark.parametrize(("page", "text"), SPOKEN)
def test_a_command_that_is_spoken_of_exists_with_its_options(page: str, text: str) -> None:
    first, *rest = text.split()
    path = [first]
    command, _ = find_command(path)
    while isinstance(command, click.Group) and rest:
        choices = rest.pop(0).split("|")
        for choice in choices:
            find_command([*path, choice])
        path.append(choices[0])
        command, _ = find_command(path)
    known = {option for parameter in command.params for option in parameter.opts}
    for word in rest:
        if word == "--":
            break
        if (option := word.strip("[],").partition("=")[0]).startswith("--"):
            assert option in known or (first == "run" and option in launcher.USAGE), text


def test_every_command_is_in_the_readmes_table() -> None:
    listed = " ".join(cell for cell, _ in table(README.replace("\\|", "/"), "command", "does"))
    for name in commands.list_commands(click.Context(commands)):
        assert re.search(rf"\b{name}\b", listed), name


# mdx.toml and gateway.toml ------------------------------------------------------------------------


@pytest.mark.parametrize("text", blocks(README, "toml"))
def test_the_readmes_policy_is_right(tmp_path: Path, text: str) -> None:
    (tmp_path / "corp-ca.pem").write_text("")
    path = tmp_path / "mdx.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    assert "payroll" in load(path).apps


def test_the_gateways_example_is_right(tmp_path: Path) -> None:
    (text,) = blocks(GATEWAY, "toml")
    path = tmp_path / "gateway.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    config = gateway_config.load(path)
    assert [host.tls for host in config.hosts] == ["gateway", "none"]
    rules = config.allow_rules()
    for host in config.hosts:
        rules.check("payroll", host.destination)
    with pytest.raises(Refused):
        rules.check("mail", config.hosts[0].destination)


def test_the_gateways_page_has_every_key_with_its_default() -> None:
    defaults: dict[str, str] = {}
    for row in table(GATEWAY, "key", "default", "meaning"):
        defaults |= dict.fromkeys(words_in(row[0]), row[1])
    tables: dict[str, type[BaseModel]] = {
        "listen.": gateway_config.Listen,
        "control.": gateway_config.ControlAddress,
        "hosts.": gateway_config.HostEntry,
        "allow.": gateway_config.AllowEntry,
    }
    expected = {}
    tables[""] = gateway_config.GatewayConfig
    for prefix, model in tables.items():
        for name, field in model.model_fields.items():
            if f"{name}." in tables and not prefix:
                continue
            value = field.get_default()
            shown = "none" if value is None else f"`{json.dumps(value, default=str)}`"
            expected[prefix + name] = "needed" if field.is_required() else shown
    assert defaults == expected


# The gateway's protocol ---------------------------------------------------------------------------


def test_the_refusals_are_those_of_the_code() -> None:
    rows = table(GATEWAY_PROTOCOL, "Mdx-Refused", "HTTP", "SOCKS", "when")
    assert [row[:3] for row in rows] == [
        [f"`{code.value}`", str(code.http_status), str(code.socks_reply)] for code in RefusalCode
    ]
    assert all(row[3] for row in rows)


def test_the_caps_are_those_of_the_code() -> None:
    rows = table(GATEWAY_PROTOCOL, "what", "how many")
    found = {what.split("`")[1]: many for what, many in rows}
    limits = Limits()
    assert found == {field.name: f"{getattr(limits, field.name):,g}" for field in fields(limits)}
    assert f"more than {MAX_HEAD_BYTES:,} bytes or {MAX_FIELDS} fields" in GATEWAY_PROTOCOL


def example(start: str) -> bytes:
    """The bytes of the one example that starts so, with real line ends."""
    found = [block for block in blocks(GATEWAY_PROTOCOL, "text") if block.startswith(start)]
    assert len(found) == 1, start
    return found[0].encode().replace(b"\n", b"\r\n")


REQUESTS = {
    Asked.SESSION: f"POST {SESSION_PATH} ",
    Asked.CHECK: f"POST {CHECK_PATH} ",
    Asked.STATUS: f"GET {STATUS_PATH} ",
    Asked.FLOW: "CONNECT ",
}


@pytest.mark.parametrize("asked", Asked)
def test_each_request_has_an_example_that_the_gateway_understands(asked: Asked) -> None:
    raw = example(REQUESTS[asked])
    request = raw[: raw.index(b"\r\n\r\n") + 4]
    head = parse_head(request)
    assert what_is_asked(head) is asked
    if asked is Asked.FLOW:
        assert str(connect_destination(head)) == "git.corp.internal:443"
        assert flow_id(head) == "0123456789abcdef"
        assert raw.removeprefix(request) == ESTABLISHED
    if asked is Asked.CHECK:
        assert str(asked_destination(head)) == "git.corp.internal:443"


@pytest.mark.parametrize("asked", [Asked.SESSION, Asked.CHECK])
def test_an_examples_answer_is_the_gateways(asked: Asked) -> None:
    shown = example(REQUESTS[asked]).partition(b"\r\n\r\n")[2].replace(b"SECRET", b"A" * 43)
    fields = json.loads(shown.partition(b"\r\n\r\n")[2])
    assert shown.rstrip() == json_answer(fields).rstrip()


def test_the_example_of_a_refusal_is_the_gateways() -> None:
    refused = refusal_answer(Refused(RefusalCode.NOT_ALLOWED, "RULE", "HINT"))
    assert example("HTTP/1.1 403").rstrip() == refused.rstrip()


# Control's protocol -------------------------------------------------------------------------------


NOTHING = cast(Any, None)  # what routes are made of when none of them is asked


def routes_of(face: Face) -> dict[str, set[str]]:
    """The names of the fields of each request that a face answers."""
    return {
        f"{method} {target}": set(route.fields) for (method, target), route in face._routes.items()
    }


def test_the_device_api_is_the_codes() -> None:
    face = service.device_face(
        NOTHING, NOTHING, control={}, gateway={}, record=NOTHING, clock=NOTHING
    )
    rows = table(CONTROL_PROTOCOL, "request", "fields", "who", "answer")
    assert {row[0].strip("`"): words_in(row[1]) for row in rows} == routes_of(face)


def test_the_administrators_face_is_the_codes() -> None:
    face = admin.admin_face(NOTHING, control={}, pin="", record=NOTHING, clock=NOTHING)
    rows = table(CONTROL_PROTOCOL, "request", "fields", "answer")
    assert {row[0].strip("`"): words_in(row[1]) for row in rows} == routes_of(face)


def test_the_numbers_of_control_are_the_codes() -> None:
    for text in (
        f"at most {MAX_BODY_BYTES // 1024} KiB",
        f"root ({ca.ROOT_SECONDS // ca.YEAR} years)",
        f"issuing authorities ({ca.ISSUING_SECONDS // ca.YEAR} years)",
        f"| client | {ca.DEVICE_SECONDS // ca.DAY} days |",
        f"| client | {ca.APP_SECONDS // ca.HOUR} hours,",
        f"| client, server | {ca.SERVICE_SECONDS // ca.DAY} days |",
        f"| server | {ca.SERVICE_SECONDS // ca.DAY} days |",
        f"lives {sta.TICKET_SECONDS:g} s",
        f"{sta.MAX_LIVING_TICKETS} unused tickets",
        f"at most {join.MAX_CODE_CHARACTERS} characters",
        f"1 to {enrollment.MAX_JOIN_CODE_USES:,} devices",
        f"at most {enrollment.MAX_JOIN_CODE_SECONDS / ca.DAY:g} days; a refused",
    ):
        assert text in CONTROL_PROTOCOL, text


def test_a_join_code_made_by_the_page_is_one() -> None:
    secret, pin = bytes(range(16)), bytes(range(32))
    content = secret + pin + b"[fd12::5]:8443"
    checksum = hashlib.sha256(b"mdx join code 1 checksum\0" + content).digest()[:4]
    text = "mdxj1." + base64.urlsafe_b64encode(checksum + content).decode().rstrip("=")
    parsed = join.parse_join_code(text)
    assert (parsed.host, parsed.port) == ("fd12::5", 8443)
    assert (parsed.secret, parsed.pin) == (secret, pin.hex())
    assert parsed.text() == text
    assert join.secret_hash(secret) == hashlib.sha256(b"mdx join code 1\0" + secret).digest()


# The hub's protocol -------------------------------------------------------------------------------

HUB = {
    path.name: ast.parse(path.read_text(encoding="utf-8"))
    for path in (ROOT / "mdx" / "hub").glob("*.py")
}


def operations() -> set[str]:
    """The keys of the hub's table of operations."""
    for node in ast.walk(HUB["hub.py"]):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Attribute)
            and node.target.attr == "_operations"
            and isinstance(node.value, ast.Dict)
        ):
            return {str(ast.literal_eval(key)) for key in node.value.keys if key is not None}
    raise AssertionError("the hub has no table of operations")


def fields_read() -> set[str]:
    """The fields of requests that the hub looks at, in whichever way it does."""
    text = "\n".join(ast.unparse(module) for module in HUB.values())
    return set(re.findall(r"message(?:\[|\.get\(|, )'(\w+)'", text)) - {"op"}


def test_the_operations_are_the_hubs() -> None:
    rows = table(HUB_PROTOCOL, "op", "fields", "result")
    assert {row[0].split("`")[1] for row in rows} == operations()


def test_every_field_that_the_hub_reads_is_on_the_page() -> None:
    read = fields_read()
    one_of_each = "environ passphrase minimum_level listen run csr value code"
    assert set(one_of_each.split()) <= read
    cells = [row[1] for row in table(HUB_PROTOCOL, "op", "fields", "result")]
    shown = set(re.findall(r"`(\w+)`", " ".join(cells))) | {"config", "environ"}
    assert read - shown == set()
    assert all(f"`{name}`" in HUB_PROTOCOL for name in (*read, *launcher.CONFIG_VARIABLES))


def test_the_frames_are_as_the_page_says() -> None:
    assert f"at most {wire.MAX_FRAME_BYTES:,}." in HUB_PROTOCOL
    assert f"at most {wire.MAX_DESCRIPTORS})" in HUB_PROTOCOL
    body = b'{"op":"ps"}'
    assert wire.encode({"op": "ps"}) == len(body).to_bytes(4, "big") + body
    event, answers = blocks(HUB_PROTOCOL, "text")[1:3]
    assert json.loads(event) == LOOK
    lease, ended = (json.loads(line) for line in answers.splitlines())
    assert LeaseTimes(**lease["lease"]).facts() == lease["lease"]
    assert list(ended) == ["ended"]
