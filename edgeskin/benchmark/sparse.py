"""Scenario `sparse`: an idle gap before every examination, and what the first query after it costs."""

import time
from collections.abc import Callable

import numpy as np

from edgeskin.benchmark import statistics
from edgeskin.benchmark.lanes import Measured, Series, Setting, Step, chosen_at_random, warm_up
from edgeskin.spec.bench import Graphs, Route, Warmup
from edgeskin.spec.manifest import Mode

FOLLOWERS = 3  # queries right behind the first one of a round; their median is what a busy machine takes
_BEHIND = 500_000  # they are numbered from here
WARMUP_S = 30.0


def measure(
    setting: Setting, mode: Mode, route: Route, step: Step, sleep: Callable[[float], None] = time.sleep
) -> Measured | None:
    """Measure a lane; None if it was interrupted before the first timed query.

    The frames of all queries of a round are drawn before its gap: drawing would wake the clocks. Only the first query
    of a round is the lane's latency.
    """
    spec = setting.suite.sparse
    core = setting.classifiers["core"]
    ask = setting.ask(mode, route, hold=1 + FOLLOWERS)
    begun = time.monotonic()
    series: dict[Graphs, Series] = {"core": Series()}
    behind: list[float] = []
    chosen = chosen_at_random(spec.queries)
    warmup: dict[Graphs, Warmup] = {}
    interrupted = False
    try:
        warmup = warm_up(setting.core(), ask, setting.suite, begun + WARMUP_S)
        for number in range(spec.queries):
            followers = [_BEHIND + FOLLOWERS * number + i for i in range(FOLLOWERS)]
            for one in (number, *followers):
                ask.draw(core, one)
            sleep(spec.gap_s)
            first = ask(core, number)
            at_s = time.perf_counter() - first[0] / 1e3
            next_ms = float(np.median([ask(core, one)[0] for one in followers]))
            series["core"].add(number, first, number in chosen, at_s)  # a round counts whole or not at all
            behind.append(next_ms)
            setting.watch.look()
            step()
    except KeyboardInterrupt:
        interrupted = True
    found = series["core"].latencies_ms
    if not found:
        return None
    return Measured(
        mode,
        route,
        series,
        warmup,
        time.monotonic() - begun,
        interrupted,
        scenario="sparse",
        min_queries=spec.queries,
        gap_s=spec.gap_s,
        first_query=statistics.ratio(found[: len(behind)], behind, repeats=setting.suite.bootstrap),
    )
