"""Several sessions asked in turn, so that whatever slows the machine slows them all."""

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from edgeskin.backends import Session

K = TypeVar("K")


def in_turns(
    sessions: Mapping[K, Session], rounds: int, warm_up: int = 10, step: Callable[[int], None] = lambda _: None
) -> dict[K, list[float]]:
    """Latencies in milliseconds of each session, one a round; every round starts with another one.

    Args:
        sessions: all of the same input shape; each gets the same drawn frames.
        step: called once a round, those that warm up included.
    """
    generator = np.random.default_rng(0)
    first = next(iter(sessions.values()))
    spent: dict[K, list[float]] = {name: [] for name in sessions}
    for number in range(warm_up + rounds):
        frames = generator.integers(0, 256, (first.images, first.height, first.width, 3), np.uint8)
        begin = number % len(sessions)
        for name in (*list(sessions)[begin:], *list(sessions)[:begin]):
            start = time.perf_counter_ns()
            sessions[name].run(frames)
            if number >= warm_up:
                spent[name].append((time.perf_counter_ns() - start) / 1e6)
        step(1)
    return spent
