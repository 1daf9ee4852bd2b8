"""Scenario `stream`: a camera that does not wait. The newest frame wins, and an answer has an age."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from edgeskin import metrics
from edgeskin.benchmark.lanes import Answer, Measured, Series, Setting, Step, chosen_at_random, warm_up
from edgeskin.spec.bench import Graphs, Route, Stream, Warmup
from edgeskin.spec.machine import Energy
from edgeskin.spec.manifest import Mode

RING = 4  # different examinations, which the camera delivers over and over: drawing would take time from the network
MIN_ANSWERED = 64  # the fewest with a bound of the p90
WARMUP_S = 30.0


@dataclass
class Frames:
    """What became of the camera's frames. Times are seconds since the first exposure."""

    fps: float
    answered: list[int] = field(default_factory=list)
    ages_s: list[float] = field(default_factory=list)  # from the exposure of a frame to its answer
    offered: int = 0  # frames exposed by the time of the last answer, or of the end

    @property
    def dropped(self) -> int:
        """Frames that a newer one replaced before anybody looked at them."""
        return self.offered - len(self.answered)


def run(
    fps: float, count: int, answer: Callable[[int], None], now: Callable[[], float], sleep: Callable[[float], None],
    frames: Frames | None = None, between: Callable[[int], object] = lambda frames: None,
) -> Frames:  # fmt: skip
    """Offer `count` frames at `fps` and have the newest one answered whenever the last answer is there.

    Frame k is exposed at k / fps on a schedule that nothing delays; its age counts from that moment, so that waiting
    is part of it. With nothing new to look at, the next exposure is waited for. It ends when frame `count` would come.

    Args:
        answer: called with the number of a frame; returns when its answer is there.
        frames: filled as it goes, so that an interrupted run keeps what it has.
        between: called after the time of an answer has been taken, with how many frames are done with since the last.

    >>> clock = [0.0]
    >>> def tick(seconds): clock[0] += seconds
    >>> found = run(10, 10, lambda number: tick(0.25), lambda: clock[0], tick)  # every answer takes 2.5 frames
    >>> found.answered, found.dropped, round(found.ages_s[1], 3)
    ([0, 2, 5, 7], 6, 0.3)
    """
    found = Frames(fps) if frames is None else frames
    start = now()
    following = 0
    while following < count:
        since = now() - start
        newest = math.floor(since * fps + 1e-9)
        if newest >= count:  # the camera has stopped: what is left would only grow old
            break
        if newest < following:
            sleep(max(0.0, following / fps - since))
            continue
        answer(newest)
        done = now() - start
        found.ages_s.append(done - newest / fps)
        found.answered.append(newest)
        passed, following = newest + 1 - following, newest + 1
        found.offered = min(count, max(following, math.floor(done * fps + 1e-9) + 1))
        between(passed)
    found.offered = count
    return found


def measure(
    setting: Setting, mode: Mode, route: Route, step: Step, now: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Measured | None:  # fmt: skip
    """Measure a lane; None if it was interrupted before the first answer."""
    spec = setting.suite.stream
    core = setting.classifiers["core"]
    ask = setting.ask(mode, route, hold=RING)
    begun = time.monotonic()
    count = max(1, round(spec.fps * spec.seconds))
    frames = Frames(spec.fps)
    series: dict[Graphs, Series] = {"core": Series()}
    answers: list[tuple[Answer, float]] = []
    warmup: dict[Graphs, Warmup] = {}
    energy: Energy | None = None
    interrupted = False
    untold = 0  # frames that the progress bar does not know of yet

    def answer(number: int) -> None:
        found = ask(core, number % RING)
        answers.append((found, now() - found[0] / 1e3))

    def between(passed: int) -> None:
        nonlocal untold
        untold += passed
        if setting.watch.look():
            step(untold)
            untold = 0

    try:
        warmup = warm_up(setting.core(), lambda one, number: ask(one, number % RING), setting.suite, begun + WARMUP_S)
        with setting.meter.measure() as work:
            run(spec.fps, count, answer, now, sleep, frames, between)
        energy = setting.meter.record(work, examinations=len(frames.answered), idle_w=setting.idle_w)[0]
        step(untold)
    except KeyboardInterrupt:
        interrupted = True
    if not frames.answered:
        return None
    chosen = chosen_at_random(len(frames.answered))
    for index, (number, age_s) in enumerate(zip(frames.answered, frames.ages_s, strict=False)):
        found, at_s = answers[index]
        parts = {**found[2], "waited": max(0.0, 1e3 * age_s - found[0]), "answer": found[0]}
        series["core"].add(number % RING, (1e3 * age_s, found[1], parts), index in chosen, at_s)
    ages = series["core"].latencies_ms
    kept = Stream(
        fps=spec.fps,
        offered=frames.offered,
        answered=len(frames.answered),
        dropped=frames.dropped,
        age_p50_ms=metrics.percentile(ages, 0.5),
        age_p99_ms=metrics.percentile(ages, 0.99),
        age_max_ms=max(ages),
    )
    return Measured(
        mode,
        route,
        series,
        warmup,
        time.monotonic() - begun,
        interrupted,
        scenario="stream",
        min_queries=MIN_ANSWERED,
        stream=kept,
        energy=energy,
    )
