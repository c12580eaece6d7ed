"""The allocator of a server: one heap for all its threads."""

import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, sys, threading
from server.memory import use_one_arena

if "one" in sys.argv:
    use_one_arena()
together = threading.Barrier(4)

def allocate():
    together.wait()
    kept = [bytearray(2000) for _ in range(200)]
    together.wait()

threads = [threading.Thread(target=allocate) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
library = ctypes.CDLL(None)
library.malloc_info(0, ctypes.c_void_p.in_dll(library, "stdout"))
library.fflush(None)
"""


def heaps(*words: str) -> int:
    """How many heaps four threads have used."""
    command = [sys.executable, "-c", SCRIPT, *words]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return told.count("<heap ")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_all_threads_share_one_heap() -> None:
    assert heaps() > 1, "nothing to mend: another allocator is in use"
    assert heaps("one") == 1
