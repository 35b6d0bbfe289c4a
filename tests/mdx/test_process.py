import os
import subprocess
import sys

from mdx.process import start_time

HARDENED = """
import ctypes, sys
from mdx.process import harden
harden()
PR_GET_DUMPABLE = 3
print(ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), flush=True)
sys.stdin.read()
"""


def test_start_time_tells_a_reused_pid_apart() -> None:
    mine = start_time(os.getpid())

    assert mine is not None
    assert mine == start_time(os.getpid())
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        begun = start_time(child.pid)
        assert begun is not None
        assert begun >= mine
        child.communicate(b"\n")
    assert start_time(child.pid) is None


def test_a_hardened_process_leaves_no_core_and_hides_its_memory() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HARDENED], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert (
            child.stdout.readline() == b"0\n"
        )  # not even its own user may ptrace it or read its memory
        with open(f"/proc/{child.pid}/limits") as file:
            core = next(line for line in file if line.startswith("Max core file size"))
        assert core.split()[4:6] == ["0", "0"]
        child.communicate()
