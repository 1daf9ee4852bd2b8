"""An idle gap before every examination: what lies before the gap, what after it, and what the first query costs."""

import time
from pathlib import Path

import numpy as np
import pytest

from edgeskin import runtime
from edgeskin.benchmark import lanes, sparse
from edgeskin.benchmark.camera import Camera
from edgeskin.benchmark.clocks import Watch
from edgeskin.spec.suite import SparseSpec, Suite

TINY = Path(__file__).resolve().parents[1] / "golden" / "tiny-onnxruntime"
SUITE = Suite(name="t", min_warmup=10, max_warmup=12, sparse=SparseSpec(gap_s=7, queries=5), bootstrap=100)
EVENTS: list[str] = []


class SlowToWake(runtime.Classifier):
    """A real classifier whose first inference after a gap takes 20 ms longer, as a core with an idle clock does."""

    asleep = False

    def infer(self, frames, mode):  # type: ignore[no-untyped-def]
        EVENTS.append("infer")
        if SlowToWake.asleep:
            SlowToWake.asleep = False
            time.sleep(0.02)
        return super().infer(frames, mode)

    def prepare(self, photo):  # type: ignore[no-untyped-def]
        EVENTS.append("prepare")
        return super().prepare(photo)


def gap(seconds: float) -> None:
    EVENTS.append(f"gap {seconds:g}")
    SlowToWake.asleep = True


def setting() -> lanes.Setting:
    EVENTS.clear()
    SlowToWake.asleep = False
    bundle = runtime.load(TINY, threads=1).bundle
    scenes = {"network": Camera(64, 64), "decision": Camera(96, 128)}
    return lanes.Setting({"core": SlowToWake(bundle, threads=1)}, scenes, SUITE, 1, Watch())


def test_the_first_query_after_a_gap_is_what_counts_and_what_it_costs_is_told():
    pytest.importorskip("onnxruntime")
    found = sparse.measure(setting(), "pair", "network", lambda *_, **__: None, sleep=gap)
    assert found is not None
    assert not found.interrupted
    assert len(found.series["core"].latencies_ms) == 5
    assert min(found.series["core"].latencies_ms) > 20
    assert found.first_query is not None
    assert found.first_query.value > 2  # the queries right behind it take a fraction of that
    lane = lanes.summarise(found, lanes.same_outputs(found, runtime.load(TINY, threads=1), Camera(64, 64)), SUITE)
    assert (lane.scenario, lane.gap_s, lane.core.queries) == ("sparse", 7, 5)
    assert lane.same_outputs is not None
    assert lane.same_outputs.identical == 5
    assert lane.series is not None
    assert len(lane.series.core_ms) == 5


def test_nothing_is_drawn_between_a_gap_and_its_query():
    pytest.importorskip("onnxruntime")
    assert sparse.measure(setting(), "pair", "network", lambda *_, **__: None, sleep=gap) is not None
    places = [index for index, event in enumerate(EVENTS) if event == "gap 7"]
    assert len(places) == 5
    for place in places:
        assert EVENTS[place + 1 : place + 5] == ["infer"] * 4  # the first and three behind it
        assert EVENTS[place - 1] == "prepare"


@pytest.mark.parametrize("route", ["network", "decision"])
def test_ctrl_c_in_the_third_gap_keeps_two_queries(route):
    pytest.importorskip("onnxruntime")
    gaps = iter([gap, gap])

    def sleep(seconds: float) -> None:
        if (one := next(gaps, None)) is None:
            raise KeyboardInterrupt
        one(seconds)

    found = sparse.measure(setting(), "pair", route, lambda *_, **__: None, sleep=sleep)
    assert found is not None
    assert found.interrupted
    assert len(found.series["core"].latencies_ms) == 2
    lane = lanes.summarise(found, None, SUITE)
    assert f"sparse pair {route}: interrupted" in lane.validity.reasons
    assert np.isfinite(lane.core.p50_ms)


def test_ctrl_c_before_the_first_query_leaves_nothing():
    pytest.importorskip("onnxruntime")

    def sleep(seconds: float) -> None:
        raise KeyboardInterrupt

    assert sparse.measure(setting(), "pair", "network", lambda *_, **__: None, sleep=sleep) is None
