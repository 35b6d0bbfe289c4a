"""Why a destination goes where it goes, as plain text for people and plain data for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass

__all__ = ["MAX_STEPS", "Explanation", "Step"]

MAX_STEPS = 100  # more is for nobody to read; how many were left out is said


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A rule that was considered first, and why it did not decide."""

    rule: str
    origin: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The verdict (`verb`), the rule behind it, and what would change it.

    `guard` is set when the address guard refused what the rule allowed; `address` when the name
    had been looked up.
    """

    destination: str
    address: str | None
    verb: str
    rule: str
    origin: str
    reason: str
    guard: str
    steps: tuple[Step, ...]
    steps_left_out: int
    change: str

    def to_dict(self) -> dict[str, object]:
        """Data for JSON."""
        return asdict(self)
