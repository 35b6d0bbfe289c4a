"""Certificates by their days left. Each is renewed by mdx itself when a third of its life is left,
so one that is nearer to its end says that renewal does not work."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from mdx.doctor.findings import Finding, bad, ok, warn
from mdx.private_files import read_file

__all__ = ["check_certificate_file", "check_end", "ends_at"]

DAY = 86400.0


def check_end(
    name: str, not_after: float, now: float, *, do: str, soon_seconds: float = 9 * DAY
) -> Finding:
    """A certificate that ends at `not_after`; `do` helps when it was not renewed in time."""
    left = not_after - now
    if left <= 0:
        return bad(name, f"ended {-left / DAY:.1f} days ago", do)
    text = f"{left / DAY:.0f} days left" if left >= 2 * DAY else f"{left / 3600:.0f} hours left"
    if left < soon_seconds:
        return warn(name, f"{text}; it should have been renewed by now", do)
    return ok(name, text)


def check_certificate_file(name: str, path: Path, now: float, *, do: str) -> Finding:
    """The first certificate of a PEM file."""
    try:
        pem = read_file(path)
    except OSError as error:
        return bad(name, f"{path}: {error.strerror}", "see that you may read it, and no link")
    if pem is None:
        return bad(name, f"{path} is not there", do)
    try:
        return check_end(name, ends_at(pem), now, do=do)
    except ValueError:
        return bad(name, f"{path} holds no certificate", do)


def ends_at(pem: bytes) -> float:
    """When the first certificate ends, in Unix seconds. Raises: ValueError."""
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()
