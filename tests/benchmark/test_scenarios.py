"""The benchmark on the tiny bundle through the real engine: complete, interrupted, out of time, refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeskin import catalog, runtime
from edgeskin.benchmark import coldstart, lanes, scenarios
from edgeskin.benchmark.camera import Camera
from edgeskin.bundle import open_bundle
from edgeskin.errors import EdgeskinError
from edgeskin.files import pretty_json
from edgeskin.spec.bench import BenchResult
from edgeskin.spec.manifest import Manifest
from edgeskin.spec.suite import Suite
from edgeskin.verify import verify_golden

TINY = Path(__file__).resolve().parents[1] / "golden" / "tiny-onnxruntime"
SUITE = Suite(
    name="tiny", min_warmup=10, max_warmup=20, min_queries=12, min_seconds=0, max_seconds=60, frame_height=96,
    frame_width=128, cold_starts=1, bootstrap=100,
)  # fmt: skip


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
    assert set(parts) == {"prepare", "infer", "decide", "total"}
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
    assert other.max_difference == pytest.approx(0.01)
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


def test_a_cold_start_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(EdgeskinError, match="no such bundle"):
        coldstart.measure(tmp_path / "nothing", threads=1, height=64, width=64, runs=1)


def test_graph_size_counts_every_file_of_its_name() -> None:
    manifest = open_bundle(TINY).manifest
    entry = manifest.files["model/pair.onnx"]
    weights = {**manifest.files, "model/pair.onnx.data": entry, "model/pairs.onnx": entry}
    assert scenarios.graph_bytes(Manifest.model_construct(files=weights), "model/pair.onnx") == 2 * entry.size_bytes


@pytest.mark.parametrize("name", ["quick", "standard"])
def test_shipped_suites_are_valid_and_known(name: str) -> None:
    suite = catalog.suite(name)
    assert suite.name == name
    assert name in catalog.suite_names()
    assert suite.min_queries >= (662 if name == "standard" else 64)
