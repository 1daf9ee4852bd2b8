"""Several examinations in flight: each classifier with its thread, counted and stopped together."""

import threading
from pathlib import Path

import numpy as np
import pytest

from edgeskin import runtime
from edgeskin.benchmark import lanes, offline
from edgeskin.benchmark.camera import Camera
from edgeskin.benchmark.clocks import Watch
from edgeskin.errors import EdgeskinError
from edgeskin.spec.suite import OfflineSpec, Suite

TINY = Path(__file__).resolve().parents[1] / "golden" / "tiny-onnxruntime"
SUITE = Suite(name="t", min_warmup=10, max_warmup=20, offline=OfflineSpec(seconds=0.2, in_flight=(1, 3)))


def setting() -> lanes.Setting:
    scenes = {"network": Camera(64, 64), "decision": Camera(96, 128)}
    return lanes.Setting({"core": runtime.load(TINY, threads=2)}, scenes, SUITE, 2, Watch())


@pytest.mark.parametrize("route", ["network", "decision"])
def test_a_sweep_through_the_real_engine(route):
    pytest.importorskip("onnxruntime")
    opened: list[int] = []

    def open_core(threads: int) -> runtime.Classifier:
        opened.append(threads)
        return runtime.load(TINY, threads=threads)

    here = setting()
    found = offline.measure(here, "pair", route, lambda *_, **__: None, open_core)
    assert found is not None
    assert opened == [2, 1, 1, 1]  # one with both threads, then three with one each
    assert [one.in_flight for one in found.offline] == [1, 3]
    assert [one.threads for one in found.offline] == [2, 1]
    for one in found.offline:
        assert one.queries
        assert one.seconds is not None
        assert one.per_second == pytest.approx(one.queries / one.seconds, rel=1e-2)
        assert one.seconds >= 0.15
    best = max(found.offline, key=lambda one: one.per_second)
    assert len(found.series["core"].latencies_ms) == best.queries
    plain = runtime.load(TINY, threads=found.threads)
    same = lanes.same_outputs(found, plain, here.scenes[route])
    assert same is not None
    assert same.same
    lane = lanes.summarise(found, same, SUITE)
    assert lane.scenario == "offline"
    assert lane.series is not None
    assert list(lane.series.at_s) == sorted(lane.series.at_s)


class Meeting:
    """An ask that returns only while as many others are within it: proof that they are in flight together."""

    def __init__(self, count: int) -> None:
        self.barrier = threading.Barrier(count)
        self.asked = 0

    def draw(self, classifier: object, number: int) -> None:
        pass

    def __call__(self, classifier: object, number: int) -> lanes.Answer:
        self.barrier.wait(timeout=10)
        self.asked += 1
        return 1.0, np.zeros(1), {}


def test_they_are_in_flight_together():
    meeting = Meeting(3)
    clock = iter(x / 100 for x in range(10**6))  # every look at the clock takes 10 ms
    found = offline.sweep([None] * 3, meeting, seconds=0, warmup=(4, 4), threads=1, now=lambda: next(clock))  # type: ignore[list-item]
    assert meeting.asked >= 3 * 4
    assert not found.interrupted


class Failing(Meeting):
    """Answers at once until the n-th question."""

    def __init__(self, after: int, error: BaseException) -> None:
        super().__init__(1)
        self.after, self.error = after, error

    def __call__(self, classifier: object, number: int) -> lanes.Answer:
        self.asked += 1
        if self.asked > self.after:
            raise self.error
        return 1.0, np.zeros(1), {}


@pytest.mark.parametrize("after", [2, 200])  # in the warm-up, and after it
def test_an_error_in_a_thread_ends_all_and_is_told(after):
    failing = Failing(after, EdgeskinError("the engine gave logits that are not finite"))
    before = threading.active_count()
    with pytest.raises(EdgeskinError, match="not finite"):
        offline.sweep([None] * 2, failing, seconds=60, warmup=(20, 40), threads=1)  # type: ignore[list-item]
    assert threading.active_count() == before


def test_ctrl_c_keeps_what_came_back():
    found = offline.sweep([None] * 2, Failing(500, KeyboardInterrupt()), seconds=60, warmup=(20, 40), threads=1)  # type: ignore[list-item]
    assert found.interrupted
    assert found.put
    assert found.throughput().per_second > 0


def test_ctrl_c_in_the_second_sweep_keeps_the_first():
    pytest.importorskip("onnxruntime")
    opened = iter(range(1))

    def open_core(threads: int) -> runtime.Classifier:
        if next(opened, None) is None:
            raise KeyboardInterrupt
        return runtime.load(TINY, threads=threads)

    found = offline.measure(setting(), "pair", "network", lambda *_, **__: None, open_core)
    assert found is not None
    assert found.interrupted
    assert [one.in_flight for one in found.offline] == [1]
    assert "offline pair network: interrupted" in lanes.summarise(found, None, SUITE).validity.reasons
