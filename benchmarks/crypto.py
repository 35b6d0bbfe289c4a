"""AES-256-GCM by size and by shape: raw, as the vault's records, as a file.

- raw: `cryptography`'s AESGCM, one key, a fresh nonce for each message, beside `openssl speed` (a
  loop in C without nonces and allocations, but the system's library, which may be an older one
  than that within `cryptography`) and Fernet (AES-128-CBC with HMAC: the usual choice in Python).
- record: sealing and opening of a record's value as the vault does it, without its store.
- file: the same sealing as a stream of pieces, from file to file, beside age (X25519 recipient,
  ChaCha20-Poly1305) as a program.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from time import perf_counter

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.figures import OURS, TURNS, Figure, measure
from benchmarks.programs import Missing, find
from benchmarks.stage import Stage
from vault.keys import new_key
from vault.sealing import open_, seal

__all__ = ["BENCHMARKS"]

TURN_SECONDS = 0.2
SIZES = {"64": 64, "1k": 1024, "16k": 16 * 1024, "1m": 1024 * 1024}
RECORD_SIZES = {"64": 64, "1k": 1024, "64k": 64 * 1024}
FILE_BYTES = 64 * 1024 * 1024
PIECE_BYTES = 1024 * 1024
CONTEXT = b"benchmark"


def raw(size: int, label: str, stage: Stage) -> Figure:
    """One message of `size` bytes."""
    aead, fernet, data = AESGCM(os.urandom(32)), Fernet(Fernet.generate_key()), os.urandom(size)
    contenders: dict[str, Callable[[], float]] = {
        OURS: lambda: _rate(size, lambda: aead.encrypt(os.urandom(12), data, CONTEXT)),
        "fernet": lambda: _rate(size, lambda: fernet.encrypt(data)),
    }
    try:
        contenders["openssl"] = partial(_openssl_speed, find("openssl"), size)
    except Missing as why:
        stage.left_out.append(str(why))
    words = f"AES-256-GCM of `cryptography`, {size} bytes at a time"
    return Figure.of(f"crypto.raw_{label}", words, "GB/s", "higher", measure(TURNS, contenders))


def record(size: int, label: str, stage: Stage) -> Figure:
    """A record's value, sealed and opened again: both passes count."""
    key, fernet, data = new_key("benchmark"), Fernet(Fernet.generate_key()), os.urandom(size)
    medians = measure(
        TURNS,
        {
            OURS: lambda: _rate(2 * size, lambda: open_(key, CONTEXT, seal(key, CONTEXT, data))),
            "fernet": lambda: _rate(2 * size, lambda: fernet.decrypt(fernet.encrypt(data))),
        },
    )
    words = f"a record of {size} bytes sealed and opened (Cobblestone-256), no store"
    return Figure.of(f"crypto.record_{label}", words, "GB/s", "higher", medians)


def file_seal(stage: Stage) -> Figure:
    """A file sealed into another."""
    plain, sealed = stage.folder / "plain", stage.folder / "sealed"
    _make_plain(plain)
    secret = os.urandom(32)
    contenders = {OURS: lambda: _timed_file(lambda: _seal_file(secret, plain, sealed))}
    contenders |= _age(stage, lambda age, keys, recipient: [
        age, "-r", recipient, "-o", str(stage.folder / "sealed.age"), str(plain),
    ])  # fmt: skip
    words = "64 MiB from file to file, sealed (Cobblestone-256)"
    return Figure.of("crypto.file_seal", words, "GB/s", "higher", measure(TURNS, contenders))


def file_open(stage: Stage) -> Figure:
    """A sealed file opened into another."""
    plain, sealed, opened = (stage.folder / name for name in ("plain", "sealed", "opened"))
    _make_plain(plain)
    secret = os.urandom(32)
    _seal_file(secret, plain, sealed)
    contenders = {OURS: lambda: _timed_file(lambda: _open_file(secret, sealed, opened))}
    contenders |= _age(stage, lambda age, keys, recipient: [
        age, "-d", "-i", str(keys), "-o", str(opened), str(_aged(age, recipient, plain)),
    ])  # fmt: skip
    words = "64 MiB from file to file, opened (Cobblestone-256)"
    return Figure.of("crypto.file_open", words, "GB/s", "higher", measure(TURNS, contenders))


BENCHMARKS: Mapping[str, Callable[[Stage], Figure]] = {
    **{f"crypto.raw_{label}": partial(raw, size, label) for label, size in SIZES.items()},
    **{
        f"crypto.record_{label}": partial(record, size, label)
        for label, size in RECORD_SIZES.items()
    },
    "crypto.file_seal": file_seal,
    "crypto.file_open": file_open,
}


def _rate(size: int, once: Callable[[], object]) -> float:
    """GB/s of `once`, which works through `size` bytes, over one turn."""
    count, begun = 0, perf_counter()
    while (seconds := perf_counter() - begun) < TURN_SECONDS:
        for _ in range(8):
            once()
        count += 8
    return size * count / seconds / 1e9


def _openssl_speed(openssl: str, size: int) -> float:
    command = [openssl, "speed", "-elapsed", "-mr", "-seconds", "1", "-bytes", str(size)]
    command += ["-evp", "aes-256-gcm"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"^\+F:\d+:AES-256-GCM:([\d.]+)", said, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"openssl speed said nothing that is known: {said[-200:]}")
    return float(found[1]) / 1e9


def _make_plain(plain: Path) -> None:
    if not plain.exists():
        plain.write_bytes(os.urandom(PIECE_BYTES) * (FILE_BYTES // PIECE_BYTES))


def _timed_file(once: Callable[[], object]) -> float:
    begun = perf_counter()
    once()
    return FILE_BYTES / (perf_counter() - begun) / 1e9


def _seal_file(secret: bytes, source: Path, target: Path) -> None:
    encryptor = Cobblestone256Encryptor(secret, CONTEXT)
    with source.open("rb") as reading, target.open("wb") as writing:
        while piece := reading.read(PIECE_BYTES):
            writing.write(encryptor.update(piece))
        writing.write(encryptor.finalize())


def _open_file(secret: bytes, source: Path, target: Path) -> None:
    decryptor = Cobblestone256Decryptor(secret, CONTEXT)
    with source.open("rb") as reading, target.open("wb") as writing:
        while piece := reading.read(PIECE_BYTES):
            writing.write(decryptor.update(piece))
        writing.write(decryptor.finalize())


def _age(
    stage: Stage, command: Callable[[str, Path, str], list[str]]
) -> dict[str, Callable[[], float]]:
    """age as a contender, with a key pair of its own; nothing when it is not there."""
    try:
        age, keygen = find("age"), find("age-keygen")
    except Missing as why:
        stage.left_out.append(str(why))
        return {}
    keys = stage.folder / "age.keys"
    keys.unlink(missing_ok=True)
    done = subprocess.run([keygen, "-o", keys], check=True, capture_output=True, text=True)
    words = command(age, keys, done.stderr.split()[-1])
    return {"age": lambda: _timed_file(lambda: subprocess.run(words, check=True))}


def _aged(age: str, recipient: str, plain: Path) -> Path:
    sealed = plain.with_suffix(".age")
    subprocess.run([age, "-r", recipient, "-o", sealed, plain], check=True)
    return sealed
