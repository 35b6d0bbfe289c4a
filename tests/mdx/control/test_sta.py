from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mdx.control.errors import RequestRefused
from mdx.control.sta import MAX_LIVING_TICKETS, TicketAuthority
from mdx.control.store import Store, TicketBinding
from mdx.errors import AuditUnwritable
from tunnel import ticket_hash

NOW = 1_800_000_000.0
BOUND = TicketBinding(device="d1", app="payroll", key_hash="ab" * 32, gateway="gateway")


class Records(list[tuple[str, dict[str, Any]]]):
    def __call__(self, event: str, **fields: Any) -> None:
        self.append((event, fields))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "control.db")
    with opened.transaction():
        opened.add_device("d1", NOW)
        opened.add_device("d2", NOW)
    yield opened
    opened.close()


@pytest.fixture
def records() -> Records:
    return Records()


@pytest.fixture
def tickets(store: Store, records: Records) -> TicketAuthority:
    return TicketAuthority(store, name="control", record=records)


def test_a_ticket_is_redeemed_once(tickets: TicketAuthority, records: Records) -> None:
    ticket = tickets.issue(BOUND, NOW)
    assert ticket.startswith("mdx1.control.")
    ticket_id = tickets.redeem(ticket, BOUND, NOW + 99)
    assert ticket_id == ticket_hash(ticket).hex()[:16]
    with pytest.raises(RequestRefused) as caught:
        tickets.redeem(ticket, BOUND, NOW + 99)
    assert caught.value.status == 403
    assert [(name, fields["ticket"]) for name, fields in records] == [
        ("ticket.issued", ticket_id),
        ("ticket.redeemed", ticket_id),
        ("ticket.refused", ticket_id),
    ]
    assert records[-1][1]["reason"] == "redeemed before"


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        (replace(BOUND, device="d2"), "bound to another device"),
        (replace(BOUND, app="mail"), "bound to another app"),
        (replace(BOUND, key_hash="cd" * 32), "bound to another key"),
        (replace(BOUND, gateway="other"), "bound to another gateway"),
    ],
)
def test_a_stolen_ticket_neither_opens_nor_locks_out_its_owner(
    tickets: TicketAuthority, records: Records, shown: TicketBinding, reason: str
) -> None:
    ticket = tickets.issue(BOUND, NOW)
    for _ in range(3):
        with pytest.raises(RequestRefused):
            tickets.redeem(ticket, shown, NOW)
    assert records[-1][0] == "ticket.refused"
    assert records[-1][1]["reason"] == reason
    tickets.redeem(ticket, BOUND, NOW)


def test_a_ticket_expires(tickets: TicketAuthority, records: Records) -> None:
    ticket = tickets.issue(BOUND, NOW)
    with pytest.raises(RequestRefused):
        tickets.redeem(ticket, BOUND, NOW + 100)
    assert records[-1][1]["reason"] == "expired"


def test_all_refusals_read_the_same(tickets: TicketAuthority) -> None:
    ticket = tickets.issue(BOUND, NOW)
    used = tickets.issue(BOUND, NOW)
    tickets.redeem(used, BOUND, NOW)
    said = set()
    for text, shown, at in (
        (ticket, replace(BOUND, device="d2"), NOW),
        (ticket, BOUND, NOW + 200),
        (used, BOUND, NOW),
        ("mdx1.control." + "A" * 43, BOUND, NOW),
        ("garbage", BOUND, NOW),
        ("\ud800", BOUND, NOW),
    ):
        with pytest.raises(RequestRefused) as caught:
            tickets.redeem(text, shown, at)
        said.add((str(caught.value), caught.value.hint, caught.value.status))
    assert len(said) == 1


def test_a_revoked_device_has_no_tickets(
    tickets: TicketAuthority, store: Store, records: Records
) -> None:
    ticket = tickets.issue(BOUND, NOW)
    with store.transaction():
        assert store.revoke_device("d1", NOW)
        assert not store.revoke_device("d1", NOW)
    with pytest.raises(RequestRefused):
        tickets.redeem(ticket, BOUND, NOW)
    assert records[-1][1]["reason"] == "its device is revoked"
    with pytest.raises(RequestRefused, match="revoked"):
        tickets.issue(BOUND, NOW)


def test_an_unknown_device_gets_no_ticket(tickets: TicketAuthority) -> None:
    with pytest.raises(RequestRefused):
        tickets.issue(replace(BOUND, device="d3"), NOW)


def test_a_device_cannot_fill_the_store(tickets: TicketAuthority) -> None:
    for _ in range(MAX_LIVING_TICKETS):
        tickets.issue(BOUND, NOW)
    with pytest.raises(RequestRefused) as caught:
        tickets.issue(BOUND, NOW)
    assert caught.value.status == 429
    tickets.issue(replace(BOUND, device="d2"), NOW)
    tickets.issue(BOUND, NOW + 101)


def test_what_cannot_be_recorded_does_not_happen(store: Store) -> None:
    full = False

    def record(event: str, **fields: Any) -> None:
        if full:
            raise AuditUnwritable("full")

    tickets = TicketAuthority(store, name="control", record=record)
    ticket = tickets.issue(BOUND, NOW)
    full = True
    with pytest.raises(AuditUnwritable):
        tickets.issue(BOUND, NOW)
    with pytest.raises(AuditUnwritable):
        tickets.redeem(ticket, BOUND, NOW)
    full = False
    with store.transaction():
        assert store.living_tickets("d1", NOW) == 1
    tickets.redeem(ticket, BOUND, NOW)


def test_of_many_threads_one_redeems(tickets: TicketAuthority) -> None:
    for _ in range(5):
        assert _winners(tickets, tickets.issue(BOUND, NOW), threads=8) == 1


def _winners(tickets: TicketAuthority, ticket: str, *, threads: int) -> int:
    barrier = threading.Barrier(threads)
    won: list[str] = []

    def race() -> None:
        barrier.wait()
        try:
            won.append(tickets.redeem(ticket, BOUND, NOW))
        except RequestRefused:
            return

    running = [threading.Thread(target=race) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return len(won)


def _race(path: Path, tickets: list[str], barrier: Any, results: Any) -> None:
    store = Store(path)
    authority = TicketAuthority(store, name="control", record=lambda event, **fields: None)
    won = 0
    for ticket in tickets:
        barrier.wait()
        try:
            authority.redeem(ticket, BOUND, NOW)
        except RequestRefused:
            continue
        won += 1
    store.close()
    results.put(won)


def test_of_several_processes_one_redeems(
    tmp_path: Path, tickets: TicketAuthority, spawn: Callable[..., list[int]]
) -> None:
    texts = [tickets.issue(BOUND, NOW) for _ in range(20)]
    won = spawn(_race, tmp_path / "control.db", texts)
    assert sum(won) == len(texts)


@pytest.fixture
def spawn() -> Callable[..., list[int]]:
    """Run `target(*arguments, barrier, results)` in two processes; what each put."""

    def run(target: Callable[..., None], *arguments: Any) -> list[int]:
        context = multiprocessing.get_context("fork")
        barrier, results = context.Barrier(2), context.SimpleQueue()
        processes = [
            context.Process(target=target, args=(*arguments, barrier, results)) for _ in range(2)
        ]
        for process in processes:
            process.start()
        won = [results.get() for _ in processes]
        for process in processes:
            process.join()
        return won

    return run


def test_the_database_holds_a_hash_and_no_ticket(tmp_path: Path, tickets: TicketAuthority) -> None:
    ticket = tickets.issue(BOUND, NOW)
    secret = ticket.rpartition(".")[2].encode()
    content = b"".join(path.read_bytes() for path in tmp_path.glob("control.db*"))
    assert ticket_hash(ticket) in content
    assert secret not in content
    assert secret[:12] not in content
