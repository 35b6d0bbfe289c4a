"""What this kernel offers: what mdx needs today, and what the stronger levels are built from.

Every feature is tried, since a version number says little: distributions switch features off, and
containers forbid them. Numbers of system calls are those of seccomp(2) and landlock(7).
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import socket
from pathlib import Path

from mdx import spawn
from mdx.container.ownership import socket_owner
from mdx.doctor.findings import Finding, bad, ok, warn

__all__ = ["APPARMOR_SWITCH", "check_kernel", "lacking_for_higher_levels"]

APPARMOR_SWITCH = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
_SO_PEERPIDFD = 77
_SECCOMP_CALL = {"x86_64": 317, "aarch64": 277}
_SECCOMP_GET_NOTIF_SIZES = 3
_LANDLOCK_CREATE_RULESET = 444  # the same on every architecture
_LANDLOCK_VERSION = 1
_LATER = "needed from level 2 on, which this version does not reach yet"

# In a process of its own, since it changes what it is: a user namespace, its own network, and in
# there the question that only an administrator may put to nftables (NFT_MSG_GETGEN).
_IN_A_NAMESPACE = """
import ctypes, json, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def unshare(flags):
    if libc.unshare(flags):
        raise OSError(ctypes.get_errno(), "")
found = {"user": False, "network": False, "nft": False}
uid = os.getuid()
try:
    unshare(0x10000000)
    with open("/proc/self/uid_map", "w") as file:
        file.write(f"0 {uid} 1")
    found["user"] = True
    unshare(0x40000000)
    found["network"] = True
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netlink:
        netlink.settimeout(1)
        netlink.send(struct.pack("=IHHIIBBH", 20, 10 << 8 | 16, 1, 1, 0, 0, 0, 0))
        found["nft"] = struct.unpack_from("=IH", netlink.recv(4096))[1] == 10 << 8 | 15
except OSError as error:
    found["error"] = os.strerror(error.errno or 0)
json.dump(found, sys.stdout)
"""


def check_kernel() -> list[Finding]:
    """One finding for each feature."""
    space = _try_namespace()
    return [
        ok("kernel", f"Linux {platform.release()} on {platform.machine()}"),
        _sock_diag(),
        _pidfd(),
        _peer_pidfd(),
        _user_namespaces(space),
        _nft(space),
        _apparmor(APPARMOR_SWITCH),
        _seccomp_notify(),
        _landlock(),
    ]


def lacking_for_higher_levels(findings: list[Finding]) -> list[str]:
    """The names of the features that levels 2 and 3 need and that were not found."""
    wanted = ("user namespaces", "nftables", "seccomp notify", "landlock")
    return [found.name for found in findings if found.name in wanted and found.standing != "ok"]


def _sock_diag() -> Finding:
    """Asks about a connection of our own, exactly as an agent does about each of a run's."""
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), timeout=1) as client,
        ):
            owner = socket_owner(client.getsockname(), server.getsockname())
    except OSError as error:
        why = error.strerror or str(error)
    else:
        if owner is not None and owner.uid == os.getuid():
            return ok("sock_diag", "says which process holds a connection")
        why = "it does not know a connection that was just made"
    return bad(
        "sock_diag",
        f"the kernel does not say who holds a connection: {why}",
        "without it no run can be served; in a container allow NETLINK_SOCK_DIAG (inet_diag)",
    )


def _pidfd() -> Finding:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return bad(
            "pidfd", f"not available: {error.strerror}", "mdx needs Linux 5.4 or newer for it"
        )
    return ok("pidfd", "processes are named for good, not by a number that is used again")


def _peer_pidfd() -> Finding:
    one, other = socket.socketpair()
    with one, other:
        try:
            os.close(one.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD))
        except OSError:
            return warn(
                "SO_PEERPIDFD",
                "not there (Linux 6.5); a launcher is named by its pid for a moment",
                "works without; a newer kernel closes that gap",
            )
    return ok("SO_PEERPIDFD", "the hub knows exactly which process asks")


def _try_namespace() -> dict[str, object]:
    try:
        found = json.loads(spawn.output_of_script(_IN_A_NAMESPACE))
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"untried": True}


def _user_namespaces(space: dict[str, object]) -> Finding:
    name = "user namespaces"
    if space.get("network"):
        by = "tried as root" if os.geteuid() == 0 else "without root"
        return ok(name, f"can be made ({by}), with a network of their own")
    made = "can be made, but give no rights" if space.get("user") else "cannot be made"
    why = "not known, it could not be tried" if "untried" in space else f"{made}: {space['error']}"
    return warn(
        name,
        f"{why}; {_LATER}",
        "nothing to do for level 1; later: sysctl user.max_user_namespaces, or AppArmor (below)",
    )


def _nft(space: dict[str, object]) -> Finding:
    if space.get("nft"):
        return ok("nftables", "answers in a network namespace")
    why = "the kernel has none" if space.get("network") else "cannot be tried without a namespace"
    return warn("nftables", f"{why}; {_LATER}", "nothing to do for level 1")


def _apparmor(switch: Path) -> Finding:
    try:
        restricted = switch.read_text().strip() != "0"
    except OSError:
        return ok("AppArmor", "does not restrict user namespaces here")
    if restricted and os.geteuid() != 0:
        return warn(
            "AppArmor",
            f"user namespaces of ordinary users have no rights; {_LATER}",
            "nothing to do for level 1; later a profile for mdx, not the switch, will do",
        )
    return ok(
        "AppArmor", "does not restrict user namespaces" + ("" if not restricted else " of root")
    )


def _seccomp_notify() -> Finding:
    name = "seccomp notify"
    number = _SECCOMP_CALL.get(platform.machine())
    if number is None:
        return warn(name, f"not known on {platform.machine()}; {_LATER}")
    sizes = (ctypes.c_uint16 * 3)()
    if _system_call(number, _SECCOMP_GET_NOTIF_SIZES, 0, ctypes.byref(sizes)) == 0:
        return ok(name, "system calls can be decided by another process")
    return warn(name, f"not available; {_LATER}", "nothing to do for level 1")


def _landlock() -> Finding:
    version = _system_call(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION)
    if version < 1:
        return warn("landlock", f"not available; {_LATER}", "nothing to do for level 1")
    ports = ", TCP ports too" if version >= 4 else "; TCP ports from ABI 4 (Linux 6.7) on"
    return ok("landlock", f"ABI {version}{ports}")


def _system_call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    return int(libc.syscall(ctypes.c_long(number), *words))
