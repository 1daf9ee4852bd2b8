"""Scenario `offline`: examinations a second with several in flight.

The graphs have a fixed batch of one examination, so that "in flight" is several classifiers, each with a thread that
asks and a share of the cores.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from edgeskin import metrics
from edgeskin.benchmark import statistics
from edgeskin.benchmark.lanes import Answer, Ask, Measured, Series, Setting, Step, chosen_at_random
from edgeskin.runtime import Classifier
from edgeskin.spec.bench import Route, Throughput, Warmup
from edgeskin.spec.manifest import Mode

RING = 4  # different examinations, all drawn beforehand and put over and over
WARMUP_S = 10.0  # at most
MIN_QUERIES = 64  # for each number in flight
Put = tuple[int, float, Answer]  # number, start by time.perf_counter(), answer


@dataclass
class Sweep:
    """What came back with one number in flight."""

    in_flight: int
    threads: int
    seconds: float = 0.0
    put: list[Put] = field(default_factory=list)
    warmup: Warmup = field(default_factory=lambda: Warmup(queries=0, stationary=False, change=None))
    interrupted: bool = False

    def throughput(self) -> Throughput:
        """The record of it."""
        return Throughput(
            in_flight=self.in_flight,
            threads=self.threads,
            queries=len(self.put),
            seconds=round(self.seconds, 4),
            per_second=len(self.put) / self.seconds,
            p50_ms=metrics.percentile([answer[0] for _, _, answer in self.put], 0.5),
        )


def share(threads: int, in_flight: int) -> int:
    """Threads of each of `in_flight` classifiers; at least one, so that more than the cores there are share them.

    >>> [share(4, n) for n in (1, 2, 3, 4, 8)]
    [4, 2, 1, 1, 1]
    """
    return max(1, threads // in_flight)


def sweep(
    classifiers: list[Classifier], ask: Ask, *, seconds: float, warmup: tuple[int, int], threads: int,
    now: Callable[[], float] = time.perf_counter,
) -> Sweep:  # fmt: skip
    """Keep every classifier busy for `seconds`, each from a thread of its own; all begin together.

    Before that all are busy until every one is stationary, with at least and at most `warmup` queries each.

    The last queries are waited for: throughput is all answers over the time to the last one.

    Raises:
        EdgeskinError: what a classifier raised; the other threads end first.
    """
    found = Sweep(len(classifiers), threads)
    faults: list[BaseException] = []
    stop = threading.Event()
    start = [0.0]
    ends = [0.0] * len(classifiers)
    for number in range(RING):
        ask.draw(classifiers[0], number)

    def begin() -> None:
        start[0] = now()

    gate = threading.Barrier(len(classifiers), action=begin)
    shares: list[list[Put]] = [[] for _ in classifiers]
    warm: list[list[float]] = [[] for _ in classifiers]
    settled = [False] * len(classifiers)
    window = max(5, warmup[0] // 2)
    until = now() + WARMUP_S

    def work(index: int) -> None:
        try:
            classifier = classifiers[index]
            while not (stop.is_set() or all(settled) or len(warm[index]) >= warmup[1] or now() > until):
                warm[index].append(ask(classifier, (index + len(warm[index])) % RING)[0])
                enough = len(warm[index]) >= warmup[0]
                settled[index] = settled[index] or (enough and statistics.is_stationary(warm[index], window))
            gate.wait()
            number = index
            while not stop.is_set() and now() - start[0] < seconds:
                answer = ask(classifier, number % RING)
                ends[index] = now()
                shares[index].append((number % RING, ends[index] - answer[0] / 1e3, answer))
                number += len(classifiers)
        except threading.BrokenBarrierError:
            pass  # another thread failed and says why
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            faults.append(error)
            stop.set()
            gate.abort()

    workers = [threading.Thread(target=work, args=(index,), name=f"in-flight-{index}") for index in range(len(ends))]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    except KeyboardInterrupt:
        found.interrupted = True
        stop.set()
        for worker in workers:
            if worker.ident is not None:
                worker.join()
    for fault in faults:
        if not isinstance(fault, KeyboardInterrupt):
            raise fault
        found.interrupted = True
    found.put = sorted((one for part in shares for one in part), key=lambda one: one[1])
    found.seconds = max(ends) - start[0] if found.put else 0.0
    changes = [statistics.warmup_change(part, window) for part in warm]
    known = [change for change in changes if change is not None]
    found.warmup = Warmup(
        queries=sum(len(part) for part in warm), stationary=all(settled), change=max(known, key=abs, default=None)
    )
    return found


def measure(
    setting: Setting, mode: Mode, route: Route, step: Step, open_core: Callable[[int], Classifier]
) -> Measured | None:
    """Measure a lane: each number in flight for the suite's time. None if it was interrupted before the first answer.

    Args:
        open_core: the bundle's own graphs, loaded anew for so many threads.
    """
    spec, suite = setting.suite.offline, setting.suite
    begun = time.monotonic()
    sweeps: list[Sweep] = []
    clocks: list[float | None] = []
    interrupted = False
    try:
        for count in spec.in_flight:
            threads = share(setting.threads, count)
            one = sweep(
                [open_core(threads) for _ in range(count)],
                setting.ask(mode, route, hold=RING),
                seconds=spec.seconds,
                warmup=(suite.min_warmup, suite.max_warmup),
                threads=threads,
            )
            if one.put:
                sweeps.append(one)
            clocks.append(setting.clock_mhz())
            setting.watch.look()
            step()
            if one.interrupted:
                interrupted = True
                break
    except KeyboardInterrupt:
        interrupted = True
    if not sweeps:
        return None
    best = max(sweeps, key=lambda one: len(one.put) / one.seconds)
    return Measured(
        mode,
        route,
        {"core": _series(best)},
        {"core": best.warmup},
        time.monotonic() - begun,
        interrupted,
        scenario="offline",
        min_queries=MIN_QUERIES,
        clock_mhz=(clocks[0], clocks[-1]) if clocks and clocks[0] and clocks[-1] else None,
        threads=best.threads,
        offline=tuple(one.throughput() for one in sweeps),
    )


def _series(best: Sweep) -> Series:
    series = Series()
    chosen = chosen_at_random(len(best.put))
    for index, (number, at_s, answer) in enumerate(best.put):
        series.add(number, answer, index in chosen, at_s)
    return series
