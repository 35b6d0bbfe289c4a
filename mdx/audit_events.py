"""The events that an audit can hold, and what their fields mean: a closed list.

An event that does not stand here cannot be written. Fields never hold a secret, a ticket, a token
or what an app sends; what a client chose (a host name, a command) is data, whatever is in it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

__all__ = ["EVENTS", "FIELDS", "Event", "check_event"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What happened, who writes it down (`by`), and the fields that it may have."""

    name: str
    by: tuple[str, ...]
    meaning: str
    fields: tuple[str, ...]


FIELDS = {
    "address": "the address that was dialled",
    "app": "the app, or `*` for all of them",
    "bytes_down": "bytes that came back to the app",
    "bytes_up": "bytes that the app sent",
    "chain": "the file name of another chain in the same folder",
    "code": "why, as one word: a `RefusalCode`",
    "command": "the first word of the command",
    "destination": "`host:port`, as the app asked for it",
    "device": "the id of a device",
    "dropped_bytes": "bytes of a record that was never finished",
    "ended": "how a connection ended: by whom, or in which way",
    "expires_at": "until when, in Unix seconds",
    "flaw": "what kept a chain from being anchored",
    "flow": "the id of one connection: the same on the device and at the gateway",
    "gateway": "the name of a gateway",
    "host": "a host name",
    "join_code": "the id of a join code, never the code",
    "key_hash": "SHA-256 of a public key (SubjectPublicKeyInfo)",
    "kind": "the kind of a vault record",
    "last_hash": "the hash of the last record of a chain",
    "last_seq": "the number of the last record of a chain",
    "keeper": "where a vault's root key is kept",
    "left_out": "how many such records were left out since the last one",
    "level": "how strongly a run is confined, 1 to 3",
    "name": "the name of a vault record, or of a service",
    "not_after": "the end of a certificate, in Unix seconds",
    "peer": "the address that a request came from",
    "pid": "a process id on this machine",
    "port": "a port on this machine",
    "reason": "why, in words",
    "role": "the part that a certificate's holder plays",
    "rule": "the rule that decided, and where it stands",
    "run": "the id of a run",
    "seconds": "for how long",
    "serial": "the serial number of a certificate",
    "status": "the HTTP status of an answer",
    "target": "what a request asked for",
    "tenant": "the organisation",
    "ticket": "the id of a ticket, never the ticket",
    "uses": "how often a join code may be used",
    "verb": "what happens to the connection: TUNNEL, DIRECT, PROXY",
}

_WHO = ("tenant", "device", "app", "key_hash", "peer")

_ALL = (
    # The hub: runs and leases
    Event(name="hub.started", by=("hub",), meaning="The hub serves.", fields=("pid",)),
    Event(
        name="hub.stopped",
        by=("hub",),
        meaning="The hub ended as it should.",
        fields=("pid",),
    ),
    Event(
        name="run.started",
        by=("hub",),
        meaning="A command is about to start.",
        fields=("app", "run", "level", "command", "pid"),
    ),
    Event(
        name="run.refused",
        by=("hub",),
        meaning="A command was not started.",
        fields=("app", "reason"),
    ),
    Event(
        name="run.stopping",
        by=("hub",),
        meaning="Somebody asked to stop a run.",
        fields=("app", "run", "pid"),
    ),
    Event(name="run.ended", by=("hub",), meaning="A command ended.", fields=("app", "run")),
    Event(
        name="run.reloaded",
        by=("hub",),
        meaning="A standing agent is about to go by its policy as it is now.",
        fields=("app", "run", "pid"),
    ),
    Event(
        name="agent.died",
        by=("hub",),
        meaning="A run's agent ended before its command.",
        fields=("app", "run", "pid"),
    ),
    Event(
        name="agent.replaced",
        by=("hub",),
        meaning="A run has a new agent.",
        fields=("app", "run", "pid"),
    ),
    Event(
        name="lease.granted",
        by=("hub",),
        meaning="An app is about to get a lease.",
        fields=("app", "seconds"),
    ),
    Event(
        name="lease.ended",
        by=("hub",),
        meaning="An app's lease is over.",
        fields=("app", "reason"),
    ),
    Event(name="lease.locked", by=("hub",), meaning="An app was locked.", fields=("app",)),
    # The hub: vault, tickets, device
    Event(
        name="vault.created",
        by=("hub",),
        meaning="This device's vault is about to be made.",
        fields=("keeper",),
    ),
    Event(
        name="unlock.refused",
        by=("hub",),
        meaning="Somebody tried to sign in and could not.",
        fields=("app", "reason", "pid"),
    ),
    Event(
        name="device.joining",
        by=("hub",),
        meaning="The hub is about to enroll this device with a join code.",
        fields=("pid",),
    ),
    Event(
        name="vault.put",
        by=("hub",),
        meaning="A record is about to be written.",
        fields=("app", "name", "kind", "pid"),
    ),
    Event(
        name="vault.get",
        by=("hub",),
        meaning="A record is about to be read.",
        fields=("app", "name", "pid"),
    ),
    Event(
        name="vault.list",
        by=("hub",),
        meaning="An app's record names are about to be read.",
        fields=("app", "pid"),
    ),
    Event(
        name="vault.remove",
        by=("hub",),
        meaning="A record is about to be removed.",
        fields=("app", "name", "pid"),
    ),
    Event(
        name="vault.refused",
        by=("hub",),
        meaning="The vault was not opened for an app.",
        fields=("app", "name", "reason", "pid"),
    ),
    Event(
        name="ticket.requested",
        by=("hub",),
        meaning="The hub is about to ask for a ticket.",
        fields=("app", "run"),
    ),
    # Agents and gateways: one connection each
    Event(
        name="connection.refused",
        by=("agent", "gateway"),
        meaning="A connection was closed before it could ask for anything.",
        fields=(*_WHO, "reason", "code", "port", "left_out"),
    ),
    Event(
        name="flow.allowed",
        by=("agent", "gateway"),
        meaning="A connection is about to be dialled.",
        fields=(*_WHO, "flow", "destination", "verb", "address", "rule", "ticket"),
    ),
    Event(
        name="flow.refused",
        by=("agent", "gateway"),
        meaning="A connection was refused.",
        fields=(*_WHO, "flow", "destination", "code", "rule", "address", "ticket"),
    ),
    Event(
        name="flow.checked",
        by=("gateway",),
        meaning="A device asked what would become of a connection; none was made.",
        fields=(*_WHO, "destination", "verb", "code", "rule"),
    ),
    Event(
        name="flow.ended",
        by=("agent", "gateway"),
        meaning="A connection ended.",
        fields=(*_WHO, "flow", "destination", "bytes_up", "bytes_down", "ended", "seconds"),
    ),
    Event(
        name="session.granted",
        by=("gateway",),
        meaning="A ticket was redeemed, and a session is about to begin.",
        fields=(*_WHO, "ticket", "seconds"),
    ),
    Event(
        name="session.refused",
        by=("gateway",),
        meaning="No session was given.",
        fields=(*_WHO, "ticket", "code", "rule", "reason"),
    ),
    Event(
        name="gateway.started",
        by=("gateway",),
        meaning="The gateway serves.",
        fields=("name", "pid", "port"),
    ),
    Event(
        name="gateway.reloaded",
        by=("gateway",),
        meaning="The gateway is about to go by a changed gateway.toml.",
        fields=("name", "pid"),
    ),
    Event(
        name="gateway.stopped",
        by=("gateway",),
        meaning="The gateway ended as it should.",
        fields=("name", "pid"),
    ),
    # Control
    Event(
        name="control.started",
        by=("control",),
        meaning="Control serves.",
        fields=("tenant", "pid", "port"),
    ),
    Event(
        name="control.stopped",
        by=("control",),
        meaning="Control ended as it should.",
        fields=("tenant", "pid"),
    ),
    Event(
        name="join_code.created",
        by=("control",),
        meaning="A join code is about to be handed out.",
        fields=("tenant", "join_code", "name", "uses", "expires_at", "seconds"),
    ),
    Event(
        name="join_code.removed",
        by=("control",),
        meaning="A join code is about to be worth nothing.",
        fields=("tenant", "join_code"),
    ),
    Event(
        name="device.enrolled",
        by=("control", "hub"),
        meaning="A device has an identity.",
        fields=("tenant", "device", "name", "join_code", "key_hash", "serial", "not_after", "peer"),
    ),
    Event(
        name="device.left",
        by=("control", "hub"),
        meaning="A device gives its identity up.",
        fields=("tenant", "device", "reason"),
    ),
    Event(
        name="device.revoked",
        by=("control",),
        meaning="A device is about to lose all that it may do.",
        fields=("tenant", "device"),
    ),
    Event(
        name="gateway.enrolled",
        by=("control",),
        meaning="A gateway is about to get its certificate.",
        fields=("tenant", "name", "host", "key_hash", "serial", "not_after"),
    ),
    Event(
        name="certificate.issued",
        by=("control",),
        meaning="A certificate is about to be handed out.",
        fields=(*_WHO, "role", "name", "serial", "not_after"),
    ),
    Event(
        name="ticket.issued",
        by=("control",),
        meaning="A ticket is about to be handed out.",
        fields=(*_WHO, "ticket", "gateway", "seconds", "expires_at"),
    ),
    Event(
        name="ticket.redeemed",
        by=("control",),
        meaning="A ticket was redeemed; it is used up.",
        fields=(*_WHO, "ticket", "gateway"),
    ),
    Event(
        name="ticket.refused",
        by=("control",),
        meaning="A ticket was not issued, or not redeemed.",
        fields=(*_WHO, "ticket", "gateway", "reason", "code"),
    ),
    Event(
        name="request.refused",
        by=("control",),
        meaning="A request to control was refused.",
        fields=(*_WHO, "target", "status", "role", "name", "reason", "left_out"),
    ),
    # The chains themselves
    Event(
        name="audit.anchored",
        by=("hub",),
        meaning="How far another chain had come.",
        fields=("chain", "last_seq", "last_hash", "flaw"),
    ),
    Event(
        name="audit.recovered",
        by=("hub", "agent", "gateway", "control"),
        meaning="The writer died while it wrote; what was not finished was dropped.",
        fields=("dropped_bytes",),
    ),
)

EVENTS = {event.name: event for event in _ALL}


def check_event(name: str, fields: Collection[str]) -> None:
    """Raises: ValueError for an event or a field that the catalogue does not have."""
    event = EVENTS.get(name)
    if event is None:
        raise ValueError(f"{name!a} is not an audit event")
    if unknown := sorted(set(fields) - set(event.fields)):
        raise ValueError(f"{name} has no field {', '.join(unknown)}; it has {event.fields}")
