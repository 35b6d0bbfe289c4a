"""A small mail client that keeps its token in a vault and goes by an app's routes.

with_library.py sign-in < PASSWORD      with_library.py inbox      with_library.py read N
"""

from __future__ import annotations

import sys
from typing import Any

import mdx

SITE = "https://intranet.corp.internal"
RECORD = "mail-token"

app = mdx.App("payroll")


def sign_in() -> None:
    """Trade the password on standard input for a token, which expires in the vault, too."""
    password = sys.stdin.readline().rstrip("\n")
    with app.http() as http:
        answer = http.post(f"{SITE}/mail/login", json={"user": "ada", "password": password})
    given = answer.check().json()
    app.vault.text.put(RECORD, given["token"], kind="token", lifetime_seconds=given["expires_in"])
    print("signed in; the token is in the vault")


def show_inbox() -> None:
    for message in fetch("/mail/inbox")["messages"]:
        print(f"{message['number']}  {message['from']}  {message['subject']}")


def read(number: str) -> None:
    message = fetch(f"/mail/inbox/{int(number)}")
    print(f"From: {message['from']}\nSubject: {message['subject']}\n\n{message['text']}")


def fetch(path: str) -> dict[str, Any]:
    token = app.vault.text[RECORD]
    with app.http() as http:
        answer = http.get(SITE + path, headers={"Authorization": f"Bearer {token}"})
    document: dict[str, Any] = answer.check().json()
    return document


def main() -> int:
    try:
        match sys.argv[1:]:
            case ["sign-in"]:
                sign_in()
            case ["inbox"]:
                show_inbox()
            case ["read", number]:
                read(number)
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except mdx.NoSuchRecord:
        print("mail: not signed in, or the token has expired; run: sign-in", file=sys.stderr)
        return 1
    except mdx.MdxError as error:  # locked, blocked by a rule, the gateway is down …
        print(f"mail: {error}" + (f"; {error.hint}" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
