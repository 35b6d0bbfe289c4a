"""The main job told as a story, with real programs, in a state folder of its own.

Every scene runs commands that you could type yourself, shows what they said, and checks that it
is what this project promises; one broken promise and the demo ends with status 1.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path

BIN = Path(sys.executable).parent
SITE = "intranet.corp.internal"
BOLD, DIM, GREEN, RED, PLAIN = (
    ("\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[31m", "\x1b[0m") if sys.stdout.isatty() else [""] * 5
)


class PromiseBroken(Exception):
    """Something did not happen as the story tells it."""


class Story:
    """Runs commands in one environment, prints them, and keeps what was shown for the summary."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.shown: list[tuple[str, str]] = []
        self._environment = {
            name: value
            for name, value in os.environ.items()
            if not name.lower().endswith("_proxy") and not name.startswith("MDX_")
        } | {
            "MDX_HOME": str(home),
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "COLUMNS": "100",
        }

    def scene(self, title: str) -> None:
        print(f"\n{BOLD}{title}{PLAIN}")

    def run(
        self,
        command: Sequence[str],
        *,
        status: int | None = 0,
        says: Sequence[str] = (),
        stdin: str | None = None,
        lines: int = 12,
        quiet: bool = False,
    ) -> str:
        """Run a command; `status` None means any but 0; every text of `says` must be shown."""
        if not quiet:
            print(f"{DIM}$ {PLAIN}{_typed(command)}")
        done = subprocess.run(
            command,
            env=self._environment,
            cwd=self.home,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        output = done.stdout
        if not quiet:
            shown = output.rstrip().splitlines()
            for line in shown[:lines]:
                print(textwrap.indent(line, "    "))
            if len(shown) > lines:
                print(f"    {DIM}… {len(shown) - lines} more lines{PLAIN}")
        right = done.returncode != 0 if status is None else done.returncode == status
        if not right:
            raise PromiseBroken(f"{_typed(command)} ended with status {done.returncode}:\n{output}")
        for text in says:
            if text not in output:
                raise PromiseBroken(f"{_typed(command)} did not say {text!r}:\n{output}")
        return output

    def promise(self, promise: str, seen: str) -> None:
        """One line of the summary: what was promised, and how it showed."""
        self.shown.append((promise, seen))


def main() -> int:
    """Tell the story in a fresh folder, which is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="mdx-demo-") as folder:
        home = Path(folder) / "state"
        home.mkdir(mode=0o700)
        story = Story(home)
        try:
            tell(story)
        except PromiseBroken as broken:
            print(f"\n{RED}Not as promised:{PLAIN} {broken}")
            for log in sorted((home / "log").glob("*.log")):
                print(f"{DIM}--- {log.name}{PLAIN}\n{log.read_text()[-2000:]}")
            return 1
        finally:
            story.run(["mdx", "down"], quiet=True)
    print(f"\n{BOLD}What you saw{PLAIN}")
    width = max(len(promise) for promise, _ in story.shown)
    for promise, seen in story.shown:
        print(f"  {GREEN}✓{PLAIN} {promise.ljust(width)}  {seen}")
    return 0


def tell(story: Story) -> None:
    """All scenes in order."""
    set_the_stage(story)
    through_the_tunnel(story)
    not_around_it(story)
    tickets(story)
    secrets_that_expire(story)
    the_record(story)


def set_the_stage(story: Story) -> None:
    story.scene("1. One machine plays all parts: control, gateway, a private site, a device")
    ports = [f"--{part}-port=0" for part in ("gateway", "control", "site")]
    story.run(["mdx", "up", *ports], lines=20)
    # A short lease for the story's sake, in the policy file as one would edit it.
    config = story.home / "mdx.toml"
    text = config.read_text()
    config.write_text(text.replace("[apps.payroll]", SHORT_APP + "\n[apps.payroll]", 1))
    story.run(["mdx", "policy", "check"])
    status = json.loads(story.run(["mdx", "status", "--json"], quiet=True))
    gateway = status["device"]["gateway"]
    negotiated = f"{gateway['version']}, {gateway['cipher']}, {gateway['group']}"
    print(f"    the gateway negotiated {negotiated}")
    if gateway["version"] != "TLSv1.3" or gateway["group"] != "X25519MLKEM768":
        raise PromiseBroken(f"the gateway negotiated {negotiated}")
    story.promise("the tunnel is TLS 1.3 with a post-quantum group", negotiated)


SHORT_APP = """\
[apps.visitor]
# Like payroll, but its key lives for seconds only.
network_access = "blocked"
key_lifetime = "3s"
"""


def through_the_tunnel(story: Story) -> None:
    story.scene("2. Ordinary programs reach the private site, by name, through payroll's tunnel")
    story.run(
        ["mdx", "run", "payroll", "--", "curl", "-sS", f"https://{SITE}/payroll.json"],
        says=["level 1, pointed"],
    )
    story.promise("curl, unmodified, reaches the private site", f"https://{SITE}/payroll.json")
    clone = ["git", "clone", f"https://{SITE}/git/handbook.git"]
    story.run(["mdx", "run", "payroll", "--", *clone], says=["Cloning into"])
    head = story.run(["git", "-C", "handbook", "log", "--oneline"])
    story.promise("git clones from it", head.splitlines()[0])
    explained = json.loads(story.run(["mdx", "explain", "payroll", SITE, "--json"], quiet=True))
    story.run(["mdx", "explain", "payroll", SITE])
    story.promise("mdx says which rule decided", f"{explained['rule']} ({explained['origin']})")


def not_around_it(story: Story) -> None:
    story.scene("3. Not without mdx, not past the gateway, not to anywhere else")
    story.run(
        ["curl", "-sS", "-m", "5", f"https://{SITE}/"], status=6, says=["Could not resolve host"]
    )
    ports = json.loads((story.home / "allinone.json").read_text())["ports"]
    direct = ["curl", "-sS", "-k", "-m", "5"]
    direct += ["--connect-to", f"{SITE}:443:127.0.0.1:{ports['site']}", f"https://{SITE}/"]
    said = story.run(direct, status=None)
    story.promise("going there without mdx fails", said.strip().splitlines()[-1])
    blocked = ["curl", "-sS", "https://example.com/"]
    said = story.run(["mdx", "run", "--quiet", "payroll", "--", *blocked], status=56)
    story.run(["mdx", "explain", "payroll", "example.com"])
    story.promise("another host is blocked, with the rule", said.strip().splitlines()[-1])


def tickets(story: Story) -> None:
    story.scene("4. A standard curl, none of our code on the connection; and a replayed ticket")
    config = story.run(["mdx", "token", "payroll", "--curl"], quiet=True)
    print(f"{DIM}$ {PLAIN}mdx token payroll --curl > payroll.curl")
    (story.home / "payroll.curl").write_text(config)
    story.run(
        ["curl", "-sS", "--config", "payroll.curl", f"https://{SITE}/payroll.json"],
        says=["salaries"],
    )
    story.promise("a plain curl works with a session token", "curl --config payroll.curl")
    once = story.run(["mdx", "token", "payroll", "--curl", "--once"], quiet=True)
    print(f"{DIM}$ {PLAIN}mdx token payroll --curl --once > once.curl")
    (story.home / "once.curl").write_text(once)
    again = ["curl", "-sS", "--config", "once.curl", f"https://{SITE}/payroll.json"]
    story.run(again, says=["salaries"])
    said = story.run(again, status=56, says=["407"])
    story.promise("the same ticket twice is refused", said.strip().splitlines()[-1])


def secrets_that_expire(story: Story) -> None:
    story.scene("5. A secret in the app's vault, gone when its key's lease ends")
    story.run(["mdx", "unlock", "visitor"])
    print(f"{DIM}$ {PLAIN}printf hunter2 | mdx vault put visitor database")
    story.run(["mdx", "vault", "put", "visitor", "database"], stdin="hunter2", quiet=True)
    story.run(["mdx", "vault", "get", "visitor", "database"], says=["hunter2"])
    print(f"    {DIM}three seconds later …{PLAIN}")
    story.run(["sleep", "3.2"], quiet=True)
    said = story.run(["mdx", "vault", "get", "visitor", "database"], status=77)
    story.promise("after the lease the secret is gone", said.strip().splitlines()[0])
    story.run(["mdx", "unlock", "visitor"])
    story.run(["mdx", "vault", "get", "visitor", "database"], says=["hunter2"])
    story.promise("after unlocking it is back", "under a new key")


def the_record(story: Story) -> None:
    story.scene("6. Everything above is on the record, and the record verifies")
    story.run(["mdx", "audit", "show", "--last", "8"], lines=30)
    story.run(["mdx", "audit", "verify"], lines=20)
    chains = json.loads(story.run(["mdx", "audit", "verify", "--json"], quiet=True))
    count = sum(chain["records"] for chain in chains)
    story.promise("the audit verifies", f"{count} records in {len(chains)} chains")


def _typed(command: Sequence[str]) -> str:
    return " ".join(f"'{word}'" if " " in word else word for word in command)


if __name__ == "__main__":
    if missing := [name for name in ("curl", "git") if shutil.which(name) is None]:
        sys.exit(f"demo: {', '.join(missing)} missing; scripts/set-up says how to install it")
    sys.exit(main())
