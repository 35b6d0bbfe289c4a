"""Expiry, locks and sign-in, as an app and its user meet them."""

from __future__ import annotations

import os
import select
import signal
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

    from tests.scenarios.conftest import Machine

PASSPHRASE = "correct horse battery staple"


def wait_for_end(machine: Machine, app: str) -> None:
    """Until the hub has written that the lease is over."""
    seen = len([r for r in machine.records("lease.ended") if r["fields"]["app"] == app])
    with machine.start("sleep", "3.2") as sleeping:  # the lease lasts three seconds
        sleeping.wait()
    ended = [r for r in machine.records("lease.ended") if r["fields"]["app"] == app]
    assert len(ended) >= max(seen, 1)


def test_a_secret_is_gone_when_its_lease_ends_and_back_after_unlock(machine: Machine) -> None:
    machine.mdx("unlock", "short")
    machine.mdx("vault", "put", "short", "db", stdin="hunter2\n")
    assert machine.mdx("vault", "get", "short", "db").stdout == "hunter2"

    wait_for_end(machine, "short")
    done = machine.mdx("vault", "get", "short", "db", status=77)
    assert done.stdout == ""
    assert "short: key expired at" in done.stderr
    assert "run: mdx unlock short" in done.stderr

    machine.mdx("unlock", "short")
    assert machine.mdx("vault", "get", "short", "db").stdout == "hunter2"


def test_a_run_of_an_expired_app_ends_at_once_with_one_line(machine: Machine) -> None:
    machine.mdx("unlock", "short")
    machine.mdx("lock", "short")
    done = machine.mdx("run", "short", "--", "true", status=125)

    assert done.stderr == "mdx: short: locked; run: mdx unlock short\n"


def test_under_cut_the_program_goes_on_without_its_tunnel(own_machine: Machine, site: str) -> None:
    """A download that is under way is reset, not quietly ended; new connections are refused."""
    gateway = own_machine.home / "gateway" / "gateway.toml"
    gateway.write_text(
        gateway.read_text() + '\n[[allow]]\napp = "short"\nto = ["*.corp.internal"]\n'
    )
    own_machine.down()
    own_machine.mdx("up")
    script = (
        f"curl -sS --limit-rate 500k https://{site}/big/100000000 -o /dev/null; echo status $?;"
        f"curl -sS -w %{{http_connect}} https://{site}/; echo; echo goes on"
    )
    own_machine.mdx("unlock", "short")
    done = own_machine.run("mdx", "run", "--quiet", "short", "--", "sh", "-c", script)

    assert done.returncode == 0
    first, *rest = done.stdout.splitlines()
    assert first.startswith("status ")
    assert first != "status 0"
    assert rest == ["403", "goes on"]


def test_under_stop_the_command_is_ended(machine: Machine) -> None:
    machine.mdx("unlock", "stopped")
    with machine.start("mdx", "run", "--quiet", "stopped", "--", "sleep", "60") as run:
        assert run.wait(timeout=20) == -signal.SIGTERM


def test_an_unattended_app_is_renewed_without_anybody(machine: Machine) -> None:
    machine.mdx("unlock", "robot")
    machine.mdx("vault", "put", "robot", "key", stdin="k")
    with machine.start("sleep", "1.5") as sleeping:
        sleeping.wait()
    assert machine.mdx("vault", "get", "robot", "key").stdout == "k"


def test_but_not_when_its_user_locked_it(machine: Machine) -> None:
    machine.mdx("lock", "robot")
    assert "robot: locked" in machine.mdx("run", "robot", "--", "true", status=125).stderr
    machine.mdx("unlock", "robot")


def test_lock_resets_a_download_and_refuses_secrets(machine: Machine, site: str) -> None:
    machine.mdx("vault", "put", "payroll", "x", stdin="x")
    download = machine.home / "download"
    url = f"https://{site}/big/100000000"
    curl = ["curl", "-sS", "--limit-rate", "200k", "-o", str(download), url]
    with machine.start("mdx", "run", "--quiet", "payroll", "--", *curl) as run:
        machine.until(
            lambda: bool(machine.json("ps")) and download.exists() and download.stat().st_size > 0
        )
        assert run.poll() is None

        machine.mdx("lock", "payroll")

        _, said = run.communicate(timeout=20)
    assert run.returncode in (18, 35, 56), said  # curl: cut off, in words that depend on its TLS
    assert 0 < download.stat().st_size < 100_000_000
    assert "payroll: locked" in machine.mdx("vault", "get", "payroll", "x", status=77).stderr
    machine.mdx("unlock", "payroll")
    machine.mdx("vault", "remove", "payroll", "x")
    download.unlink()


def test_a_hub_that_was_stopped_meanwhile_finds_the_key_expired(own_machine: Machine) -> None:
    """SIGSTOP keeps timers from running; expiry is checked at use, by clocks that went on."""
    own_machine.mdx("unlock", "short")
    own_machine.mdx("vault", "put", "short", "db", stdin="hunter2")
    pid = own_machine.json("status")["hub"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    with own_machine.start("sleep", "3.2") as sleeping:
        sleeping.wait()
    os.kill(pid, signal.SIGCONT)

    done = own_machine.mdx("vault", "get", "short", "db", status=77)
    assert done.stdout == ""


def test_a_restarted_hub_finds_expired_what_expired_meanwhile(own_machine: Machine) -> None:
    own_machine.mdx("unlock", "short")
    own_machine.mdx("vault", "put", "short", "db", stdin="hunter2")
    pidfd = os.pidfd_open(own_machine.json("status")["hub"]["pid"])
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert select.select([pidfd], [], [], 10)[0]
    os.close(pidfd)
    with own_machine.start("sleep", "3.2") as sleeping:
        sleeping.wait()

    assert "expired" in own_machine.mdx("vault", "get", "short", "db", status=77).stderr


def test_logout_locks_everything(own_machine: Machine) -> None:
    own_machine.mdx("vault", "put", "payroll", "x", stdin="x")
    assert "payroll" in own_machine.mdx("logout").stdout

    own_machine.mdx("vault", "get", "payroll", "x", status=77)
    own_machine.mdx("login")
    assert own_machine.mdx("vault", "get", "payroll", "x").stdout == "x"


def test_a_passphrase_is_asked_for_and_nothing_opens_without(
    passphrase_machine: Machine,
) -> None:
    machine = passphrase_machine
    done = machine.mdx("vault", "get", "payroll", "x", status=77)
    assert "locked" in done.stderr
    unlock = ["unlock", "payroll", "--passphrase-file", "/dev/stdin"]
    done = machine.mdx(*unlock, status=77, stdin="no")
    assert "does not open with this passphrase" in done.stderr

    machine.mdx(*unlock, stdin=PASSPHRASE)

    machine.mdx("vault", "put", "payroll", "x", stdin="x")
    assert machine.mdx("vault", "get", "payroll", "x").stdout == "x"
    machine.mdx("logout")
    machine.mdx("vault", "get", "payroll", "x", status=77)


def test_nothing_in_the_state_folder_is_open_to_others(machine: Machine) -> None:
    for folder, names, files in os.walk(machine.home):
        for name in [*names, *files]:
            mode = os.lstat(os.path.join(folder, name)).st_mode
            if not stat.S_ISLNK(mode) and "cloned" not in folder and folder != str(machine.home):
                assert not mode & 0o077, os.path.join(folder, name)


def test_no_secret_is_in_a_log_or_argv(machine: Machine) -> None:
    machine.mdx("vault", "put", "payroll", "canary", stdin="CANARY-7351-VALUE")
    machine.mdx("vault", "get", "payroll", "canary")
    found: subprocess.CompletedProcess[str] = machine.run(
        "grep", "-rlE", "CANARY-7351-VALUE|mdxs1[.]|mdx1[.]sta", str(machine.home / "log"),
        str(machine.home / "audit"), str(machine.home / "vault"), str(machine.home / "control"),
    )  # fmt: skip
    assert found.stdout == ""
    machine.mdx("vault", "remove", "payroll", "canary")
