import json
import platform
import subprocess
import sys

import pytest

from edgeskin.training.allocator import keep_memory

# Page faults of twenty times 32 MiB taken, touched and given back, in a process of its own: the setting stays.
_CHILD = """
import ctypes, json, resource, sys
from edgeskin.training.allocator import keep_memory
taken = keep_memory() if sys.argv[1] == "yes" else None
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
size = 32 << 20
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    block = libc.malloc(size)
    for offset in range(0, size, 4096):
        ctypes.c_char.from_address(block + offset).value = b"x"
    libc.free(block)
print(json.dumps([taken, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before]))
"""


def child(keep: str):
    done = subprocess.run([sys.executable, "-c", _CHILD, keep], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_large_blocks_are_kept():
    (taken, kept), (_, given_back) = child("yes"), child("no")
    assert taken is True
    assert kept < given_back / 4


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_memory() is False


def test_a_c_library_without_mallopt(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("edgeskin.training.allocator.ctypes.CDLL", lambda _: object())
    assert keep_memory() is False
