"""Scenario `single`: one query at a time, the next when the last is answered; INT8 and FP32 in turn, A B B A."""

import time

from edgeskin.benchmark.lanes import Measured, Series, Setting, Step, chosen_at_random, warm_up
from edgeskin.spec.bench import Graphs, Route, Warmup
from edgeskin.spec.machine import Energy
from edgeskin.spec.manifest import Mode

LANES: tuple[tuple[Mode, Route], ...] = (
    ("pair", "network"),
    ("pair", "decision"),
    ("dermoscopic", "network"),
    ("dermoscopic", "decision"),
)
WARMUP_SHARE = 0.3  # of the lane's time, at most


def measure(setting: Setting, mode: Mode, route: Route, budget_s: float, step: Step) -> Measured | None:
    """Measure a lane for at most `budget_s` seconds. None if it was interrupted before the first timed round.

    Both graphs get the same input in a round, and take turns to be first: what the second gains from a warm cache,
    each gains half of the time.
    """
    suite, classifiers = setting.suite, setting.classifiers
    ask = setting.ask(mode, route)
    wanted_s = suite.min_seconds / len(LANES)
    begun = timed = ended = time.perf_counter()
    series: dict[Graphs, Series] = {graphs: Series() for graphs in classifiers}
    chosen = chosen_at_random(suite.min_queries)
    warmup: dict[Graphs, Warmup] = {}
    clock = last_clock = None
    energy: Energy | None = None
    number = told = 0
    interrupted = False
    try:
        warmup = warm_up(classifiers, ask, suite, time.monotonic() + WARMUP_SHARE * budget_s)
        clock = setting.clock_mhz()
        timed = ended = time.perf_counter()
        while True:
            enough = number >= suite.min_queries and ended - timed >= wanted_s
            if enough or (number and ended - begun >= budget_s):
                break
            order = list(classifiers) if number % 2 == 0 else list(classifiers)[::-1]
            answers = {}
            for graphs in order:
                answer = ask(classifiers[graphs], number)
                ended = time.perf_counter()
                answers[graphs] = (answer, ended - answer[0] / 1e3)
            for graphs, (answer, at_s) in answers.items():  # a round counts whole or not at all
                series[graphs].add(number, answer, graphs == "core" and number in chosen, at_s)
            number += 1
            if setting.watch.look():  # a progress bar takes longer than everything else between two queries
                step(min(number, suite.min_queries) - told)
                told = min(number, suite.min_queries)
        step(min(number, suite.min_queries) - told)
        last_clock = setting.clock_mhz()
        energy = setting.energy(mode, route)
    except KeyboardInterrupt:
        interrupted = True
    if not series["core"].latencies_ms:
        return None
    return Measured(
        mode,
        route,
        series,
        warmup,
        time.perf_counter() - begun,
        interrupted,
        min_queries=suite.min_queries,
        short_s=wanted_s - (ended - timed),
        energy=energy,
        clock_mhz=(clock, last_clock) if clock and last_clock else None,
    )
