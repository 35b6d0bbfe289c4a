"""The vault's state: one sealed row that everything else hangs on.

It holds what must not be replayed piece by piece: the generation (which counts every write), the
highest time seen, every scope's lease, and the root of every scope's tree (`vault.tree`), which
covers that scope's rows. An old copy of any part of the database then contradicts the current
state, and an old copy of the state has an old generation.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from vault.clock import Instant
from vault.errors import BadStore
from vault.leases import Ended, Lease

__all__ = ["State", "decode_state", "encode_state"]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """`seen` is the highest time ever seen; `leases` and `trees` have every scope ever leased."""

    generation: int
    seen: Instant
    leases: dict[str, Lease] = field(default_factory=dict)
    trees: dict[str, bytes] = field(default_factory=dict)


def encode_state(state: State) -> bytes:
    """The bytes to seal: JSON."""
    document = {
        "generation": state.generation,
        "seen": _instant_fields(state.seen),
        "leases": {
            scope: {
                "epoch": lease.epoch,
                "granted_at": _instant_fields(lease.granted_at),
                "not_after": lease.not_after,
                "ended": lease.ended,
            }
            for scope, lease in state.leases.items()
        },
        "trees": {scope: root.hex() for scope, root in state.trees.items()},
    }
    return json.dumps(document, separators=(",", ":")).encode()


def decode_state(encoded: bytes) -> State:
    """The state again. The bytes were sealed by us, so a fault means another format.

    Raises: BadStore.
    """
    try:
        document = json.loads(encoded.decode())
        return State(
            generation=document["generation"],
            seen=Instant(**document["seen"]),
            leases={
                scope: Lease(
                    scope=scope,
                    epoch=fields["epoch"],
                    granted_at=Instant(**fields["granted_at"]),
                    not_after=fields["not_after"],
                    ended=Ended(fields["ended"]) if fields["ended"] else None,
                )
                for scope, fields in document["leases"].items()
            },
            trees={scope: bytes.fromhex(root) for scope, root in document["trees"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadStore("the vault's state has a form that this version does not know") from error


def _instant_fields(instant: Instant) -> dict[str, Any]:
    return {"wall": instant.wall, "boot": instant.boot, "boot_id": instant.boot_id}
