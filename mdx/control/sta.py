"""The ticket authority (STA): opaque tickets, each good for one session, redeemed once.

A ticket is bound to device, app, the key of the run's certificate and gateway, lives 100 seconds,
and is redeemed by one atomic statement that has all of those as conditions.

A ticket shown with a wrong binding is refused and *stays good for its owner*. It was stolen, and
that is written to the audit, but it is worth nothing without the private key of the certificate
it is bound to, nor can 256 random bits be searched for. To burn it would win nothing, and
would hand the thief a way to keep its owner out.

What is refused is refused in the same words whatever was wrong. The audit has the reason, and the
ticket's id: the first 16 hexadecimal digits of its hash, which a gateway knows as well.
Never: a ticket, or more than its hash, in the store, an exception or the audit.
"""

from __future__ import annotations

from collections.abc import Callable

from mdx.control.errors import RequestRefused
from mdx.control.store import Store, TicketBinding
from tunnel import BadTicket, new_ticket, parse_ticket

__all__ = ["TICKET_SECONDS", "Record", "TicketAuthority"]

TICKET_SECONDS = 100.0
MAX_LIVING_TICKETS = 256  # of one device; a run needs one at a time

Record = Callable[..., None]
"""Writes an audit record (event, fields); what cannot be recorded must not happen."""


class TicketAuthority:
    """Issues and redeems tickets under `name`. Calls block on the store."""

    def __init__(self, store: Store, *, name: str, record: Record) -> None:
        self._store = store
        self._name = name
        self._record = record

    def issue(self, bound: TicketBinding, now: float) -> str:
        """A ticket for that device, app, key and gateway.

        Raises: RequestRefused for a device that may not have one; StoreFailed; AuditUnwritable.
        """
        ticket = new_ticket(self._name)
        hash_ = parse_ticket(ticket).hash
        with self._store.transaction():
            if not self._store.is_in_good_standing(bound.device):
                raise RequestRefused("this device is not enrolled, or was revoked", status=403)
            if self._store.living_tickets(bound.device, now) >= MAX_LIVING_TICKETS:
                raise RequestRefused(
                    f"this device holds {MAX_LIVING_TICKETS} unused tickets",
                    status=429,
                    hint=f"they expire within {TICKET_SECONDS:g} s",
                )
            self._store.see_device(bound.device, now)
            self._store.add_ticket(hash_, bound, expires_at=now + TICKET_SECONDS, now=now)
            self._record("ticket.issued", ticket=_id(hash_), **_fields(bound))
        return ticket

    def redeem(self, ticket: str, bound: TicketBinding, now: float) -> str:
        """Redeem a ticket that was shown with this binding; returns its id for the audit.

        Raises: RequestRefused; StoreFailed; AuditUnwritable (then it was not redeemed).
        """
        try:
            parsed = parse_ticket(ticket)
        except BadTicket:
            self._record("ticket.refused", ticket="", reason="not a ticket", **_fields(bound))
            raise _refused() from None
        with self._store.transaction():
            redeemed = self._store.redeem_ticket(parsed.hash, bound, now)
            if redeemed:
                self._record("ticket.redeemed", ticket=_id(parsed.hash), **_fields(bound))
            else:
                reason = self._store.explain_ticket(parsed.hash, bound, now)
                self._record(
                    "ticket.refused", ticket=_id(parsed.hash), reason=reason, **_fields(bound)
                )
        if not redeemed:
            raise _refused()
        return _id(parsed.hash)


def _refused() -> RequestRefused:
    return RequestRefused("the ticket is not good", status=403, hint="get a new one", recorded=True)


def _id(hash_: bytes) -> str:
    return hash_.hex()[:16]


def _fields(bound: TicketBinding) -> dict[str, str]:
    return {
        "device": bound.device,
        "app": bound.app,
        "key_hash": bound.key_hash,
        "gateway": bound.gateway,
    }
