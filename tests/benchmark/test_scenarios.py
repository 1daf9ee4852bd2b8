"""The benchmark on the tiny bundle through the real engine: complete, interrupted, out of time, refused."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeskin import catalog, runtime
from edgeskin.benchmark import clocks, energy, lanes, offline, scenarios, sensors, sparse, stream
from edgeskin.benchmark.camera import Camera
from edgeskin.benchmark.clocks import Watch
from edgeskin.bundle import open_bundle
from edgeskin.errors import EdgeskinError
from edgeskin.files import pretty_json
from edgeskin.spec.bench import BenchResult, Route
from edgeskin.spec.machine import Sensors
from edgeskin.spec.manifest import Manifest, Mode
from edgeskin.spec.suite import OfflineSpec, SparseSpec, StreamSpec, Suite
from edgeskin.verify import verify_golden

TINY = Path(__file__).resolve().parents[1] / "golden" / "tiny-onnxruntime"
SUITE = Suite(
    name="tiny", min_warmup=10, max_warmup=20, min_queries=12, min_seconds=0, max_seconds=60, frame_height=96,
    frame_width=128, cold_starts=1, bootstrap=100,
)  # fmt: skip


# one reading, for tests that move the clocks of the cores themselves
sensors_read = Sensors(peak_rss_bytes=None, cpu_mhz=(), thermal_c={}, load_1min=None, absent={})


@pytest.fixture(scope="module")
def result() -> BenchResult:
    pytest.importorskip("onnxruntime")
    return scenarios.run(TINY, SUITE, threads=1, verify=verify_golden(open_bundle(TINY), threads=1))


def test_four_lanes_each_with_its_reference_and_ratio(result: BenchResult) -> None:
    assert [(lane.mode, lane.route) for lane in result.lanes] == list(scenarios.LANES)
    for lane in result.lanes:
        assert lane.core.queries == 12
        assert lane.reference is not None
        assert lane.reference.queries == 12
        assert lane.ratio is not None
        assert lane.ratio.low <= lane.ratio.value <= lane.ratio.high
        assert 0 < lane.core.p50_ms <= lane.core.p90_ms <= lane.core.p99_ms <= lane.core.max_ms
        assert lane.core.bounds[0].value_ms is None  # 12 queries bound no p90


def test_timed_outputs_equal_a_plain_run(result: BenchResult) -> None:
    for lane in result.lanes:
        assert lane.same_outputs is not None
        assert lane.same_outputs.compared == 12
        assert lane.same_outputs.same
    assert result.lane("pair", "decision") is not None


def test_a_decision_is_longer_than_its_parts(result: BenchResult) -> None:
    lane = result.lane("pair", "decision")
    assert lane is not None
    parts = lane.parts_ms["core"]
    assert set(parts) == {"prepare", "quality", "infer", "decide", "total"}
    assert lane.core.max_ms >= parts["total"] > 0


def test_cold_start_is_timed_in_a_new_process(result: BenchResult) -> None:
    cold = result.cold_start
    assert cold is not None
    assert cold.runs == 1
    assert cold.process_ms > cold.import_ms + cold.load_ms + cold.first_decision_ms
    assert (cold.peak_rss_bytes or 0) > 20_000_000


def test_result_carries_bundle_suite_conditions_and_verification(result: BenchResult) -> None:
    bundle = open_bundle(TINY)
    assert result.bundle_sha256 == bundle.sha256
    assert result.verify is not None
    assert result.verify.bundle_sha256 == bundle.sha256
    assert result.suite == SUITE
    assert result.environment.threads == 1
    assert result.environment.backend["backend"] == "onnxruntime"
    assert result.phantom
    assert result.core_bytes["pair"] == bundle.path(bundle.manifest.graphs["pair"].file).stat().st_size
    assert not result.partial


def test_result_survives_json(result: BenchResult) -> None:
    text = pretty_json(result.to_json())
    assert BenchResult.parse(json.loads(text), "text") == result
    assert str(TINY.parent) not in text
    assert str(Path.home()) + "/" not in text


def test_a_verify_result_of_another_bundle_is_refused() -> None:
    pytest.importorskip("onnxruntime")
    foreign = verify_golden(open_bundle(TINY), threads=1).model_copy(update={"bundle_sha256": "0" * 64})
    with pytest.raises(EdgeskinError, match="another bundle"):
        scenarios.run(TINY, SUITE, verify=foreign)


class Interrupting(runtime.Classifier):
    """A real classifier during whose n-th inference Ctrl-C is pressed."""

    left = 10**9

    def infer(self, frames, mode):  # type: ignore[no-untyped-def]
        Interrupting.left -= 1
        if Interrupting.left < 0:
            raise KeyboardInterrupt
        return super().infer(frames, mode)


@pytest.mark.parametrize(("after", "kept"), [(60, 1), (75, 2), (120, 3)])
def test_ctrl_c_keeps_what_was_measured(monkeypatch: pytest.MonkeyPatch, after: int, kept: int) -> None:
    pytest.importorskip("onnxruntime")
    suite = SUITE.model_copy(update={"max_warmup": 10, "max_seconds": 60.0})
    real = runtime.load

    def load(*arguments, **options):  # type: ignore[no-untyped-def]
        first = real(*arguments, **options)
        return Interrupting(first.bundle, threads=1, graphs=options.get("graphs", "core"))

    def plain_again(*arguments, **options):  # type: ignore[no-untyped-def]
        Interrupting.left = 10**9
        return same(*arguments, **options)

    same = lanes.same_outputs
    monkeypatch.setattr(runtime, "load", load)
    monkeypatch.setattr(lanes, "same_outputs", plain_again)
    Interrupting.left = after  # a lane takes 2 * (10 + 12) = 44 inferences
    found = scenarios.run(TINY, suite, threads=1)
    assert found.partial
    assert not found.validity.valid
    assert found.cold_start is None
    assert len(found.lanes) == kept
    assert found.lanes[0].core.queries == 12
    if kept > 1:  # 60 falls into the warm-up of the second lane, of which nothing is left
        assert 0 < found.lanes[-1].core.queries < 12
    assert any("interrupted" in reason for reason in found.validity.reasons)


def test_ctrl_c_before_anything_was_measured_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    real = runtime.load
    monkeypatch.setattr(
        runtime, "load", lambda *a, **o: Interrupting(real(*a, **o).bundle, graphs=o.get("graphs", "core"))
    )
    Interrupting.left = 3
    with pytest.raises(EdgeskinError, match="before anything was measured"):
        scenarios.run(TINY, SUITE, threads=1)


def test_time_ends_a_lane_and_the_result_says_so() -> None:
    pytest.importorskip("onnxruntime")
    suite = SUITE.model_copy(update={"min_queries": 10**6, "max_seconds": 1.2, "cold_starts": 0})
    found = scenarios.run(TINY, suite, threads=1)
    assert all(1 <= lane.core.queries < 10**6 for lane in found.lanes)
    assert not found.validity.valid
    assert any("queries of at least 1000000" in reason for reason in found.validity.reasons)


def test_other_outputs_in_the_timed_run_are_found() -> None:
    pytest.importorskip("onnxruntime")
    camera = Camera(64, 64)
    plain = runtime.load(TINY, threads=1)

    def plain_of(number: int) -> NDArray[np.float64]:
        return lanes.ask_network(camera, "pair")(plain, number)[1]

    logits = plain_of(7)
    measured = lanes.Measured(
        "pair", "network", {"core": lanes.Series([1.0], {}, {6: plain_of(6), 7: logits})}, {}, 1.0, interrupted=False
    )
    same = lanes.same_outputs(measured, plain, camera)
    assert same is not None
    assert same.same
    assert same.identical == 2
    measured.series["core"].kept[7] = logits + 0.01
    other = lanes.same_outputs(measured, plain, camera)
    assert other is not None
    assert not other.same
    assert other.max_difference == pytest.approx(0.01, abs=1e-5)  # logits are float32
    measured.series["core"].kept[7] = np.full_like(logits, np.nan)
    broken = lanes.same_outputs(measured, plain, camera)
    assert broken is not None
    assert not broken.same


def test_both_graphs_get_the_same_frames_and_every_query_others() -> None:
    camera = Camera(48, 64)
    seen = {number: camera.pair(number)[1].tobytes() for number in range(20)}
    assert len(set(seen.values())) == 20
    assert camera.pair(3)[1].tobytes() == seen[3]
    assert Camera(48, 64).pair(3)[1].tobytes() == seen[3]


ALL = SUITE.model_copy(
    update={
        "scenarios": ("single", "sparse", "stream", "offline"),
        "cold_starts": 0,
        "max_warmup": 10,
        "sparse": SparseSpec(gap_s=0.01, queries=9),
        "stream": StreamSpec(fps=100, seconds=0.3),
        "offline": OfflineSpec(seconds=0.1, in_flight=(1, 2)),
    }
)


@pytest.fixture(scope="module")
def every() -> BenchResult:
    pytest.importorskip("onnxruntime")
    return scenarios.run(TINY, ALL, threads=2)


def test_every_scenario_has_both_routes(every: BenchResult) -> None:
    found = [(lane.scenario, lane.mode, lane.route) for lane in every.lanes]
    assert found == [(name, *lane) for name in ALL.scenarios for lane in scenarios.PLAN[name]]
    for name in ("sparse", "stream", "offline"):
        for route in ("network", "decision"):
            assert every.lane("pair", route, name) is not None  # type: ignore[arg-type]
    assert not every.partial
    assert all(lane.same_outputs is not None and lane.same_outputs.same for lane in every.lanes)


def test_a_lane_carries_what_its_scenario_is_about(every: BenchResult) -> None:
    for lane in every.lanes:
        assert (lane.reference is not None) == (lane.scenario == "single")
        assert (lane.gap_s, lane.first_query is None) == ((0.01, False) if lane.scenario == "sparse" else (None, True))
        assert (lane.stream is not None) == (lane.scenario == "stream")
        assert [one.in_flight for one in lane.offline] == ([1, 2] if lane.scenario == "offline" else [])
        assert lane.series is not None
        assert lane.core.queries >= len(lane.series.core_ms) > 0
        assert list(lane.series.at_s) == sorted(lane.series.at_s)
        assert lane.series.at_s[0] == 0
        assert max(lane.series.core_ms) == pytest.approx(lane.core.max_ms, abs=1e-4)
        assert len(lane.series.reference_ms) == (len(lane.series.core_ms) if lane.reference else 0)


def test_every_scenario_survives_json(every: BenchResult) -> None:
    assert BenchResult.parse(json.loads(pretty_json(every.to_json())), "text") == every


def test_a_meter_that_is_not_there_is_named_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(energy, "find", lambda: energy.Meter(reason="no RAPL in /sys/class/powercap"))
    found = scenarios.run(TINY, SUITE.model_copy(update={"cold_starts": 0}), threads=1)
    assert found.sensors_before.absent["energy"] == "no RAPL in /sys/class/powercap"
    assert all(lane.energy is None for lane in found.lanes)


def test_energy_is_of_the_bundle_s_own_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")

    class Tally:
        """A counter that says 7 W."""

        samples, missed = 0, 0

        def __init__(self) -> None:
            self.at: list[float] = []

        def add(self, at_s: float) -> None:
            self.at.append(at_s)
            self.samples += 1

        def joules(self) -> dict[str, float]:
            return {"package-0": 7 * (self.at[-1] - self.at[0])}

    meter = energy.Meter("rapl", total=("package-0",), period_s=10, tally=Tally)
    asked: list[str] = []

    class Noted(runtime.Classifier):
        def infer(self, frames, mode):  # type: ignore[no-untyped-def]
            asked.append(self.graphs)
            return super().infer(frames, mode)

    bundle = open_bundle(TINY)
    both: dict[str, runtime.Classifier] = {g: Noted(bundle, threads=1, graphs=g) for g in ("core", "reference")}  # type: ignore[arg-type]
    suite = SUITE.model_copy(update={"max_seconds": 2.0})
    setting = lanes.Setting(both, {"network": Camera(64, 64)}, suite, 1, Watch(), meter, idle_w=5.0)  # type: ignore[arg-type]
    found = setting.energy("pair", "network")
    assert found is not None
    assert set(asked) == {"core"}
    assert found.examinations == len(asked)
    assert found.per_examination_mj == pytest.approx(1000 * 2 * found.seconds / len(asked), rel=1e-6)
    assert lanes.Setting(both, {}, suite, 1, Watch()).energy("pair", "network") is None  # type: ignore[arg-type]


@pytest.mark.parametrize(("scenario", "before"), [("sparse", 4), ("stream", 6), ("offline", 8)])
def test_ctrl_c_in_a_scenario_keeps_the_lanes_before_it(
    monkeypatch: pytest.MonkeyPatch, scenario: str, before: int
) -> None:
    pytest.importorskip("onnxruntime")
    module = {"sparse": sparse, "stream": stream, "offline": offline}[scenario]
    real = module.measure

    def interrupted(setting: lanes.Setting, mode: Mode, route: Route, *rest: Any) -> lanes.Measured | None:
        found = real(setting, mode, route, *rest)
        if found is not None and route == "decision":
            found.interrupted = True
        return found

    monkeypatch.setattr(module, "measure", interrupted)
    found = scenarios.run(TINY, ALL, threads=1)
    assert found.partial
    assert len(found.lanes) == before + 2
    assert f"{scenario} pair decision: interrupted" in found.validity.reasons
    assert f"interrupted after {before + 2} of 10 lanes" in found.validity.reasons


def test_a_clock_that_jumps_makes_the_run_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    began = time.perf_counter()

    def jumping() -> float:
        now = time.perf_counter()
        return now + (30.0 if now - began > 0.1 else 0.0)

    monkeypatch.setattr(clocks, "machine_clocks", lambda: {"perf_counter": time.perf_counter, "monotonic": jumping})
    found = scenarios.run(TINY, SUITE.model_copy(update={"cold_starts": 0}), threads=1)
    assert not found.validity.valid
    assert any(reason.startswith("clocks disagree: perf_counter counted") for reason in found.validity.reasons)
    assert len(found.lanes) == 4
    assert not found.partial


def test_a_processor_that_slows_under_load_makes_its_lane_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    readings = iter([(2400.0, 2400.0)] * 2 + [(2400.0, 2400.0), (1900.0, 800.0)] + [(1900.0, 1900.0)] * 100)
    monkeypatch.setattr(lanes.sensors, "cpu_mhz", lambda: (next(readings), ""))
    monkeypatch.setattr(sensors, "read", lambda: sensors_read)
    found = scenarios.run(TINY, SUITE.model_copy(update={"cold_starts": 0}), threads=1)
    told = [reason for reason in found.validity.reasons if "throttled" in reason]
    assert told == ["pair decision: throttled, the clock fell from 2400 to 1900 MHz under load"]
    assert found.lanes[0].clock_mhz == (2400.0, 2400.0)
    assert found.lanes[1].clock_mhz == (2400.0, 1900.0)
    assert not found.validity.valid


def test_a_fall_that_creeps_from_lane_to_lane_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    clock = iter([2400.0, 2300.0, 2300.0, 2200.0, 2200.0, 2100.0, 2100.0, 2000.0])
    monkeypatch.setattr(lanes.sensors, "cpu_mhz", lambda: ((next(clock),), ""))
    monkeypatch.setattr(sensors, "read", lambda: sensors_read)
    found = scenarios.run(TINY, SUITE.model_copy(update={"cold_starts": 0}), threads=1)
    assert "the whole run: throttled, the clock fell from 2400 to 2000 MHz under load" in found.validity.reasons


def test_graph_size_counts_every_file_of_its_name() -> None:
    manifest = open_bundle(TINY).manifest
    entry = manifest.files["model/pair.onnx"]
    weights = {**manifest.files, "model/pair.onnx.data": entry, "model/pairs.onnx": entry}
    assert scenarios.graph_bytes(Manifest.model_construct(files=weights), "model/pair.onnx") == 2 * entry.size_bytes


@pytest.mark.parametrize("name", ["quick", "standard", "official"])
def test_shipped_suites_are_valid_and_known(name: str) -> None:
    suite = catalog.suite(name)
    assert suite.name == name
    assert name in catalog.suite_names()
    assert suite.min_queries >= (64 if name == "quick" else 662)
    assert {"single", "stream", "offline"} <= set(suite.scenarios)
    assert suite.stream.fps * suite.stream.seconds >= 64  # enough for a bound of the p90
    assert suite.sparse.queries >= 16  # fewer show no drift
    if name == "official":
        assert suite.min_seconds / len(scenarios.LANES) >= 600  # LoadGen's rule, for each lane
