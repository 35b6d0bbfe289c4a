"""A small mail client of the standard library alone. It has never heard of mdx.

plain.py sign-in < PASSWORD > TOKEN     plain.py inbox < TOKEN     plain.py read N < TOKEN
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from typing import Any

SITE = "https://intranet.corp.internal"


def fetch(path: str, *, token: str = "", document: object = None) -> dict[str, Any]:
    request = urllib.request.Request(SITE + path)  # noqa: S310 — SITE is https
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    if document is not None:
        request.add_header("Content-Type", "application/json")
        request.data = json.dumps(document).encode()
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        given: dict[str, Any] = json.load(answer)
    return given


def main() -> int:
    try:
        match sys.argv[1:]:
            case ["sign-in"]:
                password = sys.stdin.readline().rstrip("\n")
                given = fetch("/mail/login", document={"user": "ada", "password": password})
                print(given["token"])
            case ["inbox"]:
                for message in fetch("/mail/inbox", token=sys.stdin.readline().strip())["messages"]:
                    print(f"{message['number']}  {message['from']}  {message['subject']}")
            case ["read", number]:
                message = fetch(f"/mail/inbox/{int(number)}", token=sys.stdin.readline().strip())
                print(f"From: {message['from']}\nSubject: {message['subject']}\n")
                print(message["text"])
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except urllib.error.URLError as error:
        print(f"mail: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
