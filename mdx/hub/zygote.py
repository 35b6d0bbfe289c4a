"""The zygote: a prepared process, without keys, from which each run's agent is forked.

It is started before the hub opens any vault, loads what an agent needs (by importing `mdx.agent`:
trio, TLS, `tunnel`) and then waits. A request brings the run's description and its descriptors;
the fork answers with a pidfd. Importing the same in place would
cost each `mdx run` a quarter of a second.

Never: a key, a thread, an event loop before the fork.
"""

from __future__ import annotations

import array
import gc
import json
import os
import random
import selectors
import signal
import socket
import sys
from typing import Any, NoReturn

from mdx import agent, process

__all__ = ["MAX_REQUEST_BYTES", "main"]

MAX_REQUEST_BYTES = 4 * 1024 * 1024  # a policy with many routes; SO_SNDBUF bounds it in practice


def main() -> None:
    """Serve fork requests on the descriptor named by the one argument, until the hub is gone."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    process.harden()
    gc.collect()
    gc.freeze()  # keep shared pages shared after the fork
    children: dict[int, int] = {}  # pidfd → pid
    with selectors.DefaultSelector() as selector:
        selector.register(channel, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not channel:
                    pidfd = key.fd
                    selector.unregister(pidfd)
                    os.close(pidfd)
                    os.waitpid(children.pop(pidfd), 0)
                elif (pidfd_pid := _serve_request(channel, list(children))) is not None:
                    pidfd, pid = pidfd_pid
                    children[pidfd] = pid
                    selector.register(pidfd, selectors.EVENT_READ)


def _serve_request(channel: socket.socket, open_here: list[int]) -> tuple[int, int] | None:
    descriptors = array.array("i")
    room = socket.CMSG_SPACE(4 * descriptors.itemsize)
    header, ancillary, _, _ = channel.recvmsg(4, room, socket.MSG_CMSG_CLOEXEC)
    if len(header) < 4:
        sys.exit(0)  # the hub is gone; agents live on without us
    body = bytearray()
    while len(body) < int.from_bytes(header, "big"):
        piece = channel.recv(65536)
        if not piece:
            sys.exit(0)
        body += piece
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    pid = os.fork()
    if pid == 0:
        channel.close()
        for pidfd in open_here:
            os.close(pidfd)
        _become_agent(json.loads(body), list(descriptors))
    for descriptor in descriptors:
        os.close(descriptor)
    pidfd = os.pidfd_open(pid)
    passed = array.array("i", [pidfd]).tobytes()
    channel.sendmsg([pid.to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)])
    return pidfd, pid


def _become_agent(spec: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """In the child: nothing of the zygote's loop may run again, whatever happens."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # OpenSSL notices a fork by itself; Python's own generator must be told.
        random.seed()
        status = agent.main(spec, listener=descriptors[0], launcher=descriptors[1])
    except BaseException as error:
        sys.stderr.write(f"agent {spec.get('run')}: {type(error).__name__}\n")
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
