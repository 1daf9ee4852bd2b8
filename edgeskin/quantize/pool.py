"""Several threads over one sequence, results in order, memory for a few of them."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from edgeskin.backends import usable_cores

_T = TypeVar("_T")
_R = TypeVar("_R")
_MOST = 8  # threads: each holds one examination's tensors


def in_order(work: Callable[[_T], _R], items: Iterable[_T]) -> Iterator[_R]:
    """Results of `work` in the order of `items`, never more than a few ahead of who takes them.

    >>> list(in_order(abs, [-2, 3, -1]))
    [2, 3, 1]
    """
    threads = min(usable_cores(), _MOST)
    waiting: deque[Future[_R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for left in waiting:
                left.cancel()
