"""Peers side by side: real worker processes on the tiny bundle, their failures as rows, and the table."""

import importlib
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgeskin import decide, runtime
from edgeskin.bundle import open_bundle
from edgeskin.errors import EdgeskinError
from edgeskin.spec.bench import Warmup

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
TINY = ROOT / "tests" / "golden" / "tiny-onnxruntime"
SMALL = [
    "--rounds=2", "--queries=3", "--settle=1", "--cold-starts=1", "--frame=64x48", "--frames=3", "--calibration=2",
    "--threads=1", "--max-warmup=40",
]  # fmt: skip


@pytest.fixture(scope="module")
def command() -> ModuleType:
    spec = importlib.util.spec_from_file_location("side_by_side", BENCHMARKS / "side_by_side.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # puts benchmarks/ on the path, for `peers`
    return module


@pytest.fixture(scope="module")
def peers(command: ModuleType) -> dict[str, ModuleType]:
    names = ("environments", "measure", "process", "spec", "table", "task")
    return {name: importlib.import_module(f"peers.{name}") for name in names}


@pytest.fixture(scope="module")
def steps() -> ModuleType:
    spec = importlib.util.spec_from_file_location("peer_steps", BENCHMARKS / "peers" / "steps.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def measured(command: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    folder = tmp_path_factory.mktemp("peers")
    path = folder / "new" / "peers.json"
    arguments = ["--bundle", str(TINY), "--peers", "ort_pillow,benchmark_app,torch_eager", *SMALL]
    return command.main([*arguments, "--cache", str(folder / "cache"), "--out", str(path)]), path


def test_one_command_measures_all_and_writes_json_and_table(
    measured: tuple[int, Path], peers: dict[str, ModuleType]
) -> None:
    code, path = measured
    assert code == 0
    result = peers["table"].read(path)
    own, other = result.rows[0], result.rows[1]
    assert [row.name for row in result.rows] == ["edgeskin-onnxruntime", "ort_pillow", "benchmark_app", "torch_eager"]
    assert result.bundles == {"edgeskin-onnxruntime": open_bundle(TINY).sha256}
    for row in (own, other):
        assert row.reason is None
        assert row.network.queries == row.decision.queries == 2 * 3
        assert len(row.decision.rounds_ms) == 2
        assert 0 < row.network.p50_ms < row.decision.p50_ms <= row.decision.max_ms
        assert row.cold_start.total_ms > row.decision.p50_ms
        assert row.cold_start.peak_rss_bytes > 20_000_000
        assert row.versions["onnxruntime"]
    assert own.decision.ratio is None
    assert other.decision.ratio.low <= other.decision.ratio.value <= other.decision.ratio.high
    assert other.agreement.lesions == 24
    assert other.agreement.highest - other.agreement.lowest > 0.5  # else agreement would say nothing
    assert other.agreement.max_probability_difference < 0.3  # INT8 of 4,000 parameters against FP32
    assert other.agreement.same_decision >= 22
    assert other.model_bytes < own.model_bytes * 2
    text = peers["table"].peers_table(path.parent)
    assert text.count("\n| ") == 4  # the header is the first line, the rows follow
    assert "ONNX Runtime FP32, defaults, Pillow | " in text
    assert f"{other.decision.ratio.value:.2f}x [" in text


def test_a_peer_that_cannot_run_is_a_row_with_its_reason(
    measured: tuple[int, Path], peers: dict[str, ModuleType]
) -> None:
    rows = {row.name: row for row in peers["table"].read(measured[1]).rows}
    assert rows["benchmark_app"].reason == "absent: needs a bundle for openvino; pass one with --bundle"
    assert rows["torch_eager"].reason == "absent: needs the training run of this checkpoint; pass --run"
    assert rows["benchmark_app"].network is None
    assert "benchmark_app: absent: needs a bundle" in peers["table"].peers_table(measured[1].parent)


def test_a_result_names_no_path_of_the_machine(measured: tuple[int, Path]) -> None:
    text = measured[1].read_text(encoding="utf-8")
    assert str(ROOT) not in text
    assert str(measured[1].parent) not in text
    assert str(Path.home()) + "/" not in text


def test_the_peers_graph_is_the_checkpoint_behind_its_normalisation(
    measured: tuple[int, Path], steps: ModuleType
) -> None:
    import onnxruntime as ort

    cut = next((measured[1].parent.parent / "cache").glob("work-*/float.onnx"))
    bundle = open_bundle(TINY)
    spec = bundle.manifest.preprocess.to_json()
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    session = ort.InferenceSession(cut, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].type == "tensor(float)"
    images = np.stack([steps.normalise(frame, spec) for frame in frames])
    found = session.run(None, {session.get_inputs()[0].name: images})[0]
    expected = runtime.load(bundle, threads=1, graphs="reference").infer(frames, "pair")
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_peers_decision_is_the_runtimes(peers: dict[str, ModuleType], steps: ModuleType) -> None:
    manifest = open_bundle(TINY).manifest
    rule = peers["task"].decision_rule(manifest)
    for seed in range(5):
        logits = np.random.default_rng(seed).normal(0, 3, (2, manifest.task_schema.logits)).astype(np.float32)
        fused = decide.task_probabilities(logits, manifest.task_schema, manifest.fusion, "pair")
        expected = float(decide.target_probability(fused, manifest.task_schema))
        assert steps.probability(logits, rule) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("height", "width"), [(48, 60), (60, 48), (33, 33), (83, 131)])
def test_peers_crop_what_the_runtime_crops(steps: ModuleType, height: int, width: int) -> None:
    from edgeskin.preprocess import cut

    spec = open_bundle(TINY).manifest.preprocess
    frame = np.arange(height * width * 3, dtype=np.int64).reshape(height, width, 3)
    box = cut(width, height, spec)
    found = steps.crop(frame, spec.to_json())
    assert found.shape[0] == found.shape[1]
    if box.halvings_x == box.halvings_y == 0:  # else up to 2 ** halvings - 1 pixels of a side are left out
        assert (found == frame[box.top : box.bottom, box.left : box.right]).all()
    else:
        assert abs(found.shape[0] - (box.bottom - box.top)) < 2**box.halvings_y
        assert abs(found[0, 0, 0] - frame[box.top, box.left, 0]) <= 3 * 2**box.halvings_y * (width + 1)


PEER = """
import os, sys, time

def build(task, work):
    print("a package that talks")
    (work / "model").write_bytes(b"12345")
    if {build!r} == "fail":
        raise ValueError("no such operator\\nand a long story")
    return [work / "model"]

def open(task, work):
    print("loading ...")
    return Peer()

class Peer:
    asked = 0

    def prepare(self, clinical, dermoscopic):
        return int(clinical[0, 0, 0])

    def network(self, inputs):
        print("a banner")
        Peer.asked += 1
        if {serve!r} == "die" and Peer.asked == 3:
            os._exit(7)
        if {serve!r} == "raise" and Peer.asked == 3:
            raise RuntimeError("out of memory")
        if {serve!r} == "hang":
            time.sleep(60)
        return inputs

    def decide(self, logits):
        return logits / 255
"""


@pytest.fixture
def program(tmp_path: Path, peers: dict[str, ModuleType]) -> Any:
    def make(build: str = "", serve: str = "") -> Any:
        frames = np.zeros((3, 2, 8, 8, 3), np.uint8)
        frames[:, 0] = np.array([10, 20, 30])[:, None, None, None]
        np.save(tmp_path / "frames.npy", frames)
        (tmp_path / "peer.py").write_text(PEER.format(build=build, serve=serve))
        task = {
            "threads": 1,
            "frames": str(tmp_path / "frames.npy"),
            "check": str(tmp_path / "frames.npy"),
            "packages": ["numpy", "nothing"],
        }
        (tmp_path / "task.json").write_text(json.dumps(task))
        return peers["process"].Program(
            "made", Path(sys.executable), tmp_path / "peer.py", tmp_path / "task.json", tmp_path
        )

    return make


def test_a_worker_answers_what_it_is_asked_whatever_packages_print(program: Any, peers: dict[str, ModuleType]) -> None:
    made = program()
    assert made.once("build", 60)["files"] == [str(made.work / "model")]
    worker = peers["process"].Worker(made)
    try:
        assert worker.versions == {"numpy": np.__version__}
        found = worker.ask("decision", [0, 1, 5])
        assert found["probabilities"] == [10 / 255, 20 / 255, 30 / 255]
        assert len(found["ms"]) == 3
        assert min(found["ms"]) > 0
        assert worker.ask("network", [0])["probabilities"] == []
        assert worker.cpu_seconds() > 0
    finally:
        worker.close()
    start = made.once("cold", 60)
    assert start["import_ms"] > 0
    assert start["first_decision_ms"] > 0


@pytest.mark.parametrize(
    ("serve", "told"), [("die", r"ended without an answer \(exit code 7\)"), ("raise", "RuntimeError: out of memory")]
)
def test_a_peer_that_fails_in_a_round_keeps_its_rounds(
    program: Any, peers: dict[str, ModuleType], serve: str, told: str
) -> None:
    measure = peers["measure"]
    spec = peers["spec"].PeerSpec(title="made", about="", weights="random", imports=(), packages=())
    runner = measure.Runner("made", "made", spec, program(serve=serve))
    runner.worker = peers["process"].Worker(runner.program)
    runner.lanes["decision"] = measure.Lane(Warmup(queries=0, stationary=True, change=None))
    plan = measure.Plan(rounds=4, queries=1, settle=0, cold_starts=0)
    assert measure.rounds([runner], plan, lambda *_: None) is False
    assert runner.worker is None
    assert re.search(told, runner.reason)
    assert runner.reason.startswith("failed in round 3")
    found = measure.figures(runner, runner, "decision", 100)
    assert found.queries == 2


def test_a_worker_that_hangs_is_given_up(program: Any, peers: dict[str, ModuleType]) -> None:
    worker = peers["process"].Worker(program(serve="hang"))
    try:
        with pytest.raises(peers["process"].PeerError, match="no answer within 0 s"):
            worker.ask("network", [0], limit_s=0.2)
    finally:
        worker.close(patience_s=0.1)
    assert worker.cpu_seconds() == 0.0  # it is gone


def test_a_build_that_fails_says_why_in_one_line(program: Any, peers: dict[str, ModuleType]) -> None:
    with pytest.raises(peers["process"].PeerError) as caught:
        program(build="fail").once("build", 60)
    assert str(caught.value) == "build: ValueError: no such operator"


def test_ratios_are_of_rounds_that_both_answered(peers: dict[str, ModuleType]) -> None:
    measure = peers["measure"]
    spec = peers["spec"].PeerSpec(title="made", about="", weights="checkpoint", imports=(), packages=())
    base, other = (measure.Runner(name, name, spec) for name in ("base", "other"))
    warmup = Warmup(queries=0, stationary=True, change=None)
    base.lanes["network"] = measure.Lane(warmup, {n: [1.0, 2.0, 9.0] for n in range(6)})
    other.lanes["network"] = measure.Lane(warmup, {0: [6.0], 1: [6.0], 2: [6.0]})
    found = measure.figures(other, base, "network", 200)
    assert found.ratio.value == found.ratio.low == found.ratio.high == 3.0
    base.probabilities, other.probabilities = {0: 0.1, 1: 0.6, 2: 0.6}, {1: 0.7, 2: 0.4}
    same = measure.agreement(other, base, 0.5)
    assert (same.lesions, same.same_decision, same.lowest, same.highest) == (2, 1, 0.6, 0.6)
    assert same.max_probability_difference == pytest.approx(0.2)
    assert measure.agreement(base, base, 0.5) is None


def test_every_round_asks_everybody_once(peers: dict[str, ModuleType]) -> None:
    order = peers["measure"].turn_order
    assert all(sorted(order(number, 5)) == list(range(5)) for number in range(12))
    assert {order(number, 5)[0] for number in range(12)} == set(range(5))


def test_an_idle_worker_that_spins_and_a_busy_machine_do_not_count(
    command: ModuleType, peers: dict[str, ModuleType]
) -> None:
    row = peers["spec"].Row(name="a", title="A", about="", weights="random", idle_cpu_share=0.4)
    assert command.verdict([row], 0.5, partial=True) == [
        "interrupted",
        "other processes used 50% of the processors",
        "A: took 40% of a core while idle",
    ]
    assert command.verdict([row.model_copy(update={"idle_cpu_share": 0.01})], 0.01, partial=False) == []


def test_every_peer_describes_itself_and_has_its_script(peers: dict[str, ModuleType]) -> None:
    environments = peers["environments"]
    page = (BENCHMARKS / "peers" / "README.md").read_text(encoding="utf-8")
    assert len(environments.names()) == 7
    for name in (*environments.names(), "edgeskin_runtime"):
        spec = environments.read(name)
        assert environments.script(name, spec).is_file()
        assert f"`{name}`" in page
        requirements = BENCHMARKS / "peers" / name / "requirements.txt"
        if requirements.is_file():
            lines = requirements.read_text(encoding="utf-8").split()
            assert all("==" in line for line in lines), f"{name}: pin every package, nothing is resolved"


def test_an_environment_is_not_made_unasked(peers: dict[str, ModuleType], tmp_path: Path) -> None:
    spec = peers["spec"].PeerSpec(title="x", about="", weights="random", imports=("no_such_package",), packages=())
    ask = peers["environments"].python_for
    found = ask("nncf_opencv", spec, tmp_path, install=False)
    assert found == "absent: needs no_such_package; pass --install to make its environment"
    assert list(tmp_path.iterdir()) == []
    assert "install edgeskin[all]" in ask("ort_pillow", spec, tmp_path, install=True)
    assert ask("ort_pillow", spec.model_copy(update={"imports": ("numpy",)}), tmp_path, install=False) == Path(
        sys.executable
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--bundle", "nothing"], "no such bundle"),
        (["--bundle", str(TINY), "--peers", "nccf_opencv"], "did you mean 'nncf_opencv'"),
        (["--bundle", str(TINY), "--rounds", "0"], "wrong --rounds: got 0"),
        (["--bundle", str(TINY), "--frame", "1080p"], "wrong --frame"),
        (["--bundle", str(TINY), "--threads", "4096"], "more threads than cores"),
        (["--bundle", str(TINY), "--bundle", str(TINY)], "two bundles for one target"),
    ],
)
def test_wrong_arguments_end_in_one_line(
    command: ModuleType, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert command.main(arguments) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "Traceback" not in said


def test_a_result_of_another_version_is_refused(peers: dict[str, ModuleType], tmp_path: Path) -> None:
    (tmp_path / "peers.json").write_text('{"format": "edgeskin-peers/9"}')
    with pytest.raises(EdgeskinError, match="edgeskin-peers/9"):
        peers["table"].peers_table(tmp_path)
    (tmp_path / "peers.json").write_text("{")
    with pytest.raises(EdgeskinError, match="not a JSON file"):
        peers["table"].peers_table(tmp_path)
    (tmp_path / "peers.json").unlink()
    assert "Not measured yet" in peers["table"].peers_table(tmp_path)
