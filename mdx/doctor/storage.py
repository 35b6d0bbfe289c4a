"""Folders, disk, audit and configuration: what stands on this machine's file systems."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from mdx.audit import verify
from mdx.doctor.findings import Finding, bad, ok, warn
from mdx.errors import MdxError
from mdx.folders import Folders
from mdx.policy import find_config, load_found, user_config

__all__ = [
    "check_audit",
    "check_configuration",
    "check_disk",
    "check_folders",
    "state_folders",
]

LEVEL_REACHED = 1
LITTLE_BYTES = 64 * 1024 * 1024  # a busy day of audit
SOME_BYTES = 512 * 1024 * 1024
MEBIBYTE = 1024 * 1024


def state_folders(folders: Folders) -> list[Path]:
    """Those of this device that must be its user's alone."""
    return [
        folders.home,
        folders.run,
        folders.runs,
        folders.log,
        folders.audit,
        folders.vault,
        folders.trust,
    ]


def check_folders(paths: Iterable[Path]) -> list[Finding]:
    """One finding for each folder that is wrong, or one for all of them."""
    name, wrong, looked = "folders", [], 0
    for path in paths:
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            continue  # made when it is needed
        except OSError as error:
            wrong.append(bad(name, f"{path}: {error.strerror}", "see that you may enter it"))
            continue
        looked += 1
        mode = stat.S_IMODE(found.st_mode)
        if not stat.S_ISDIR(found.st_mode):
            wrong.append(bad(name, f"{path} is not a folder", "links are not followed: move it"))
        elif found.st_uid != os.getuid():
            wrong.append(bad(name, f"{path} belongs to uid {found.st_uid}", "run mdx as that user"))
        elif mode & 0o077:
            wrong.append(
                bad(name, f"{path} has mode {mode:04o}; others could get in", f"chmod 700 {path}")
            )
    if wrong:
        return wrong
    if not looked:
        return [warn(name, "there is no state yet", "mdx up (all on one machine), mdx join CODE")]
    return [ok(name, f"{looked} folders, yours alone")]


def check_disk(path: Path) -> Finding:
    """Room on the file system of `path`: what cannot be recorded is not done."""
    name = "disk"
    try:
        found = os.statvfs(path)
    except OSError as error:
        return warn(name, f"{path}: {error.strerror}", "it is made by mdx up")
    free = found.f_bavail * found.f_frsize
    text = f"{free // MEBIBYTE} MiB free for {path}"
    if free < LITTLE_BYTES or (found.f_files and not found.f_favail):
        return bad(name, text, "make room: what cannot be written to the audit is refused")
    if free < SOME_BYTES:
        return warn(name, text, "make room soon: the audit grows")
    return ok(name, text)


def check_audit(folder: Path) -> list[Finding]:
    """Every chain, as `mdx audit verify` does."""
    name = "audit"
    if not folder.is_dir():
        return [warn(name, "nothing was recorded yet")]
    try:
        reports = verify(folder)
    except MdxError as error:
        return [bad(name, str(error), error.hint)]
    wrong = [
        bad(
            name,
            f"{report.path.name}: {report.problems[0]}",
            "mdx audit verify tells all; find out who changed it",
        )
        for report in reports
        if report.problems
    ]
    records = sum(report.records for report in reports)
    return wrong or [ok(name, f"{len(reports)} chains with {records} records, whole")]


def check_configuration(config: Path | None, environ: Mapping[str, str]) -> list[Finding]:
    """mdx.toml, and whether an app demands more than can be done."""
    name = "configuration"
    try:
        if find_config(config, environ) is None:
            return [
                warn(
                    name,
                    "there is no mdx.toml yet, so there is no app",
                    f"mdx up writes one; yours goes to {user_config(environ)}",
                )
            ]
        found = load_found(config, environ)
    except MdxError as error:
        lines = str(error).splitlines() or [""]
        more = f" (and {len(lines) - 1} more)" if lines[1:] else ""
        return [bad(name, lines[0] + more, error.hint or "mdx policy check tells all")]
    apps = ", ".join(sorted(found.apps)) or "none"
    findings = [ok(name, f"{found.path} (apps: {apps})")]
    for app, policy in found.apps.items():
        if policy.minimum_level > LEVEL_REACHED:
            findings.append(
                bad(
                    "minimum level",
                    f"{app} demands level {policy.minimum_level}, this version reaches "
                    f"{LEVEL_REACHED}: mdx run {app} is refused",
                    f"apps.{app}.minimum_level = 1, if proxy variables are enough for it",
                )
            )
        if policy.ca_file is not None and not os.access(policy.ca_file, os.R_OK):
            findings.append(
                bad(
                    "ca_file",
                    f"{app}: {policy.ca_file} cannot be read",
                    f"put the certificates there, or change apps.{app}.ca_file",
                )
            )
    return findings
