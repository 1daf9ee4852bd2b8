"""A camera that does not wait: which frames are answered, which are dropped, and how old an answer is."""

import itertools
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeskin import runtime
from edgeskin.benchmark import lanes, stream
from edgeskin.benchmark.camera import Camera
from edgeskin.benchmark.clocks import Watch
from edgeskin.benchmark.energy import Meter
from edgeskin.spec.suite import StreamSpec, Suite

TINY = Path(__file__).resolve().parents[1] / "golden" / "tiny-onnxruntime"


class Hand:
    """A clock that moves when somebody works or sleeps."""

    def __init__(self) -> None:
        self.at = 100.0

    def now(self) -> float:
        return self.at

    def spend(self, seconds: float) -> None:
        assert seconds >= 0
        self.at += seconds


def stream_of(fps: float, count: int, service_s: float) -> stream.Frames:
    hand = Hand()
    return stream.run(fps, count, lambda number: hand.spend(service_s), hand.now, hand.spend)


def test_a_network_faster_than_the_camera_answers_every_frame_at_once():
    found = stream_of(30, 90, 0.010)
    assert found.answered == list(range(90))
    assert found.dropped == 0
    assert found.ages_s == pytest.approx([0.010] * 90)


def test_a_slow_network_takes_the_newest_frame_and_counts_the_others_as_dropped():
    found = stream_of(10, 20, 0.25)  # two and a half frames an answer
    assert found.answered == [0, 2, 5, 7, 10, 12, 15, 17]
    assert found.offered == 20
    assert found.dropped == 12
    assert found.ages_s == pytest.approx([0.25, 0.30] * 4)  # every other one had waited for 50 ms


def test_one_slow_answer_makes_the_next_frame_old_but_not_those_after_it():
    hand = Hand()
    services = {3: 0.095}
    found = stream.run(100, 40, lambda number: hand.spend(services.get(number, 0.004)), hand.now, hand.spend)
    assert found.answered[:6] == [0, 1, 2, 3, 12, 13]  # no queue builds up behind it
    assert found.dropped == 8
    assert found.ages_s[3] == pytest.approx(0.095)
    assert found.ages_s[4] == pytest.approx(0.004 + 0.005)
    assert found.ages_s[5] == pytest.approx(0.004)


@given(fps=st.floats(1, 240), count=st.integers(1, 300), service_s=st.floats(0.0005, 0.5))
@settings(max_examples=80, deadline=None)
def test_every_frame_is_answered_or_dropped_and_none_before_its_exposure(fps, count, service_s):
    found = stream_of(fps, count, service_s)
    assert found.offered == count == len(found.answered) + found.dropped
    assert found.answered == sorted(set(found.answered))
    assert len(found.ages_s) == len(found.answered)
    assert min(found.ages_s) >= service_s - 1e-6
    assert max(found.ages_s) <= service_s + 1 / fps + 1e-6  # it waits for less than one frame, as older ones go
    gaps = [b - a for a, b in itertools.pairwise(found.answered)]
    assert max(gaps, default=1) <= math.ceil(service_s * fps + 1e-6) + 1


def test_an_interrupted_stream_keeps_what_it_has():
    hand = Hand()
    found = stream.Frames(10)

    def answer(number: int) -> None:
        hand.spend(0.25)
        if number >= 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream.run(10, 100, answer, hand.now, hand.spend, found)
    assert found.answered == [0, 2, 5]
    assert found.offered == 8  # exposed by the time of the last answer: 0.0 s to 0.7 s
    assert found.dropped == 5


def test_frames_done_with_are_told_as_they_go():
    hand = Hand()
    told: list[int] = []
    stream.run(10, 20, lambda number: hand.spend(0.25), hand.now, hand.spend, between=told.append)
    assert sum(told) == 18  # frames 18 and 19 are newer than the last one answered
    assert max(told) == 3


class Tally:
    """A sensor that always says 5 W, on a clock of seconds."""

    samples, missed = 0, 0

    def __init__(self) -> None:
        self.at: list[float] = []

    def add(self, at_s: float) -> None:
        self.at.append(at_s)
        self.samples += 1

    def joules(self) -> dict[str, float]:
        return {"package-0": 5.0 * (self.at[-1] - self.at[0])}


def test_a_lane_through_the_real_engine():
    pytest.importorskip("onnxruntime")
    suite = Suite(name="t", min_warmup=10, max_warmup=20, stream=StreamSpec(fps=60, seconds=1))
    meter = Meter("rapl", total=("package-0",), period_s=10, tally=Tally)
    core = runtime.load(TINY, threads=1)
    setting = lanes.Setting({"core": core}, {"decision": Camera(96, 128)}, suite, 1, Watch(), meter, idle_w=2.0)
    steps: list[int] = []
    found = stream.measure(setting, "pair", "decision", lambda n=1, **_: steps.append(n))
    assert found is not None
    assert found.stream is not None
    assert found.stream.offered == 60
    assert found.stream.answered + found.stream.dropped == 60
    assert found.stream.age_p50_ms <= found.stream.age_p99_ms <= found.stream.age_max_ms
    assert sum(steps) <= 60
    parts = found.series["core"].parts_ms
    for age, answer, waited in zip(found.series["core"].latencies_ms, parts["answer"], parts["waited"], strict=True):
        assert age == pytest.approx(answer + waited)
    same = lanes.same_outputs(found, runtime.load(TINY, threads=1), Camera(96, 128))
    assert same is not None
    assert same.same
    assert found.energy is not None
    assert found.energy.examinations == found.stream.answered
    assert found.energy.per_examination_mj == pytest.approx(
        1000 * 3.0 * found.energy.seconds / found.stream.answered, rel=1e-3
    )
    lane = lanes.summarise(found, same, suite)
    assert lane.scenario == "stream"
    assert lane.core.p50_ms == lane.stream.age_p50_ms  # type: ignore[union-attr]
    if found.stream.answered < 64:
        assert f"stream pair decision bundle: {found.stream.answered} queries of at least 64" in lane.validity.reasons
