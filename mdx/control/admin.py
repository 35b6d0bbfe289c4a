"""Control's administrator face: HTTP on a Unix socket, for the user that control runs as.

    POST /v1/join-codes            {uses, lifetime_seconds, …}  → {code, id, expires_at}
    GET  /v1/join-codes                                         → {join_codes: [{id, name, …}]}
    POST /v1/join-code-removals    {id}                         → {}
    POST /v1/gateway-certificates  {name, host, csr}            → {certificate, ca, not_after}
    GET  /v1/devices                                            → {devices: [{id, name, …}]}
    POST /v1/revocations           {device}                     → {}
    GET  /v1/status                                             → {name, tenant, host, port, pin}

The socket has mode 0600 and the kernel says who is at the other end: being that user is the right.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import trio

from mdx.control.enrollment import Enrollment
from mdx.control.face import MAX_BODY_BYTES, Answer, Caller, Face, Fields, Route
from mdx.control.sta import Record
from mdx.errors import MdxError
from mdx.hub.wire import peer_of
from mdx.json_log import Log
from tunnel import serve_requests

__all__ = ["AdminRefused", "AdminUnreachable", "admin_call", "admin_face", "serve_admin"]

ANSWER_SECONDS = 30.0
MAX_ANSWER_BYTES = 4 * 1024 * 1024  # the list of 10,000 devices is about 1 MB


class AdminUnreachable(MdxError):
    """No control service of this user answers at the socket."""


class AdminRefused(MdxError):
    """Control said no. `status` is its HTTP status."""

    def __init__(self, message: str, *, hint: str = "", status: int) -> None:
        super().__init__(message, hint=hint)
        self.status = status


def admin_face(
    enrollment: Enrollment,
    *,
    control: Mapping[str, Any],
    pin: str,
    record: Record,
    clock: Callable[[], float],
) -> Face:
    """The routes above. `control` is {"host", "port", "name"}, `pin` the root's fingerprint."""

    def join_code(caller: Caller, fields: Fields) -> Answer:
        joining = enrollment.new_join_code(
            uses=fields["uses"],
            lifetime_seconds=fields["lifetime_seconds"],
            now=clock(),
            name=fields.get("name", ""),
            is_key=fields.get("is_key", False),
            tags=fields.get("tags", {}),
        )
        return {"code": joining.code, "id": joining.id, "expires_at": joining.expires_at}

    def join_codes(caller: Caller, fields: Fields) -> Answer:
        return {
            "join_codes": [
                {
                    "id": entry.id,
                    "name": entry.name,
                    "is_key": entry.is_key,
                    "tags": entry.tags,
                    "uses": entry.uses,
                    "uses_left": entry.uses_left,
                    "created_at": entry.created_at,
                    "expires_at": entry.expires_at,
                }
                for entry in enrollment.join_codes(clock())
            ]
        }

    def remove_join_code(caller: Caller, fields: Fields) -> Answer:
        enrollment.remove_join_code(fields["id"], clock())
        return {}

    def gateway_certificate(caller: Caller, fields: Fields) -> Answer:
        issued = enrollment.gateway_certificate(
            name=fields["name"], host=fields["host"], csr=fields["csr"], now=clock()
        )
        return {
            "certificate": issued.pem,
            "ca": enrollment.root_pem,
            "not_after": issued.not_after,
        }

    def devices(caller: Caller, fields: Fields) -> Answer:
        return {
            "devices": [
                {
                    "id": device.id,
                    "name": device.name,
                    "tags": device.tags,
                    "join_code": device.join_code,
                    "enrolled_at": device.enrolled_at,
                    "seen_at": device.seen_at,
                    "revoked_at": device.revoked_at,
                    "left": device.left,
                }
                for device in enrollment.devices()
            ]
        }

    def revoke(caller: Caller, fields: Fields) -> Answer:
        enrollment.revoke(fields["device"], clock())
        return {}

    def status(caller: Caller, fields: Fields) -> Answer:
        return {**control, "tenant": enrollment.tenant, "pin": pin, "ca": enrollment.root_pem}

    routes = {
        ("POST", "/v1/join-codes"): Route(
            answer=join_code,
            fields={"uses": int, "lifetime_seconds": float},
            optional={"name": str, "is_key": bool, "tags": dict},
        ),
        ("GET", "/v1/join-codes"): Route(answer=join_codes),
        ("POST", "/v1/join-code-removals"): Route(answer=remove_join_code, fields={"id": str}),
        ("POST", "/v1/gateway-certificates"): Route(
            answer=gateway_certificate, fields={"name": str, "host": str, "csr": str}
        ),
        ("GET", "/v1/devices"): Route(answer=devices),
        ("POST", "/v1/revocations"): Route(answer=revoke, fields={"device": str}),
        ("GET", "/v1/status"): Route(answer=status),
    }
    return Face(routes, record=record)


async def serve_admin(listener: trio.SocketListener, face: Face, log: Log) -> None:
    """Serve the administrator until cancelled."""

    async def serve_one(stream: trio.SocketStream) -> None:
        try:
            pid, uid = peer_of(stream.socket)
            if uid != os.getuid():
                log("admin.refused", uid=uid, pid=pid)
                await trio.aclose_forcefully(stream)
                return
            caller = Caller(facts={"name": f"uid {uid}"})
            await serve_requests(
                stream,
                lambda request: face.answer(caller, request),
                max_body_bytes=MAX_BODY_BYTES,
            )
        except Exception as error:  # one bad connection never ends the service
            log("admin.failed", error=type(error).__name__)
            await trio.aclose_forcefully(stream)

    await trio.serve_listeners(serve_one, [listener])


def admin_call(
    path: Path, method: str, target: str, body: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Ask the control service whose socket is at `path`, and wait for the answer.

    Raises: AdminUnreachable, AdminRefused.
    """
    connection = _UnixConnection(path)
    headers = {"Connection": "close"}
    try:
        content = None if body is None else json.dumps(body).encode()
        connection.request(method, target, body=content, headers=headers)
        answer = connection.getresponse()
        value = json.loads(answer.read(MAX_ANSWER_BYTES))
        if not isinstance(value, dict):
            raise ValueError
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise AdminUnreachable(
            f"control does not answer at {path}: {str(error) or type(error).__name__}",
            hint="start it: mdx gateway run (mdx up on an all-in-one machine)",
        ) from None
    finally:
        connection.close()
    if answer.status != 200:
        said = value.get("error") or {}
        raise AdminRefused(
            str(said.get("message", f"status {answer.status}")),
            hint=str(said.get("hint", "")),
            status=answer.status,
        )
    return value


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("control")  # for the field Host; nothing is looked up
        self._path = path

    def connect(self) -> None:
        """Connect. Raises: OSError, also when somebody else listens there."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            connection.settimeout(ANSWER_SECONDS)
            connection.connect(os.fspath(self._path))
            _, uid = peer_of(connection)
            if uid != os.getuid():
                raise PermissionError(f"it runs as uid {uid}, not as you")
        except BaseException:
            connection.close()
            raise
        self.sock = connection
