"""Keep glibc from giving large tensors back to the system at every training step.

By default each large tensor is mapped and unmapped on its own, and page faults slow a training step on the CPU:
by what factor depends on the machine (benchmarks/training_allocator.py; its result is beside it).
"""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # glibc, malloc.h
_FOREVER = 2**31 - 1


def keep_memory() -> bool:
    """Serve all sizes from the heap, never trim it, one arena. Call it before the first tensor.

    Returns:
        True if glibc took it; False on systems without glibc's mallopt, where nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl
        return False
    # One arena: the backward pass runs in another thread, whose own arena could not grow beyond 64 MiB.
    taken = [mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, _FOREVER), mallopt(_M_ARENA_MAX, 1)]
    return all(taken)
