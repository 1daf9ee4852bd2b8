"""Estimates: the arithmetic, what rules, what is lacking, and what may stand beside them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeskin import catalog, doctor
from edgeskin.benchmark import roofline
from edgeskin.bundle import open_bundle
from edgeskin.spec.bench import BenchResult
from edgeskin.spec.device import Device, LayerCounts

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "tiny-onnxruntime"
RESULT = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "milk10k-openvino-bench.json"
Tree = Callable[[str], Path]


def counts(**given: Any) -> LayerCounts:
    plain = dict(
        mode="pair", layers=60, int8_macs=768_000_000, fp32_macs=0, weight_bytes=3_400_000, activation_bytes=13_600_000
    )
    return LayerCounts.model_validate(plain | given)


def device(**given: Any) -> Device:
    """Raspberry Pi 5's figures: 307.2 G products a second in INT8, 76.8 G in FP32, 17 GB/s."""
    plain: dict[str, Any] = dict(name="x", title="X", arch="aarch64", targets=("onnxruntime",), bandwidth_gb_s=17)
    plain |= dict(cpu_cores=4, cpu_ghz=2.4, int8_macs_per_cycle=32, fp32_macs_per_cycle=8)
    return Device.model_validate(plain | given)


@pytest.mark.parametrize(
    ("asked", "bound", "total"),
    [
        ({}, "compute", 2.5 + 0.18),
        ({"fp32_macs": 76_800_000}, "compute", 3.5 + 0.18),
        ({"activation_bytes": 81_600_000}, "memory", 5.0 + 0.18),
        ({"layers": 2000}, "launch", 2.5 + 6.0),
    ],
)
def test_the_largest_part_rules(asked: dict[str, int], bound: str, total: float) -> None:
    found = roofline.from_counts(counts(**asked), device(), "cpu")
    assert found.kind == "estimate"
    assert found.bound == bound
    assert found.total_ms == pytest.approx(total)
    assert found.reason == ""


def test_a_gpu_counts_dense_operations_two_a_product() -> None:
    board = device(targets=("tensorrt", "onnxruntime"), gpu_int8_dense_tops=1.536, fp32_tflops=0.1, sm="8.7")
    found = roofline.from_counts(counts(fp32_macs=5_000_000), board, "gpu")
    assert found.compute_ms == pytest.approx(1.0 + 0.1)
    assert found.launch_ms == pytest.approx(0.3)
    assert found.targets == ("tensorrt",)
    half = roofline.from_counts(counts(fp32_macs=5_000_000), board.model_copy(update={"fp16_dense_tops": 1.0}), "gpu")
    assert half.compute_ms == pytest.approx(1.0 + 0.01)


def test_what_a_profile_lacks_is_named() -> None:
    found = roofline.from_counts(counts(), device(cpu_ghz=None), "cpu")
    assert (found.total_ms, found.compute_ms, found.bound) == (None, None, None)
    assert found.memory_ms == pytest.approx(1.0)
    assert found.reason == "the profile has no cpu_ghz"
    found = roofline.from_counts(counts(), device(bandwidth_gb_s=None), "cpu")
    assert found.memory_ms is None
    assert found.total_ms == pytest.approx(2.68)
    assert found.reason == "the profile has no bandwidth_gb_s"
    found = roofline.from_counts(counts(), device(fp32_macs_per_cycle=None), "cpu")
    assert (found.total_ms, found.reason) == (pytest.approx(2.68), ""), "no floating point, no need of its figure"
    found = roofline.from_counts(counts(), device(unverified=("cpu_ghz", "sm")), "cpu")
    assert found.unverified == ("cpu_ghz",)


@given(st.integers(1, 10**10), st.integers(0, 10**9), st.integers(0, 10**9), st.integers(1, 500), st.floats(1.01, 8.0))
def test_a_better_board_is_never_slower(int8: int, fp32: int, moved: int, layers: int, better: float) -> None:
    asked = counts(int8_macs=int8, fp32_macs=fp32, activation_bytes=moved, layers=layers)
    base = roofline.from_counts(asked, device(), "cpu").total_ms
    assert base is not None
    for name in ("cpu_ghz", "bandwidth_gb_s", "int8_macs_per_cycle"):
        faster = roofline.from_counts(asked, device(**{name: getattr(device(), name) * better}), "cpu").total_ms
        assert faster is not None
        assert faster <= base


@pytest.mark.parametrize("name", catalog.device_names())
def test_every_profile_gives_an_estimate_or_its_reason(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESKIN_CACHE", str(tmp_path))
    board, bundle = catalog.device(name), open_bundle(GOLDEN)
    found = roofline.estimates(bundle, board)
    assert {target for guess in found for target in guess.targets} == set(board.targets)
    for guess in found:
        assert (guess.total_ms is None) == (guess.bound is None)
        assert guess.total_ms is not None or "the profile has no" in guess.reason
    assert roofline.estimate(bundle, board).unit == "cpu", "the bundle's own target runs on it"


def bench(**environment: Any) -> BenchResult:
    result = BenchResult.model_validate_json(RESULT.read_text(encoding="utf-8"))
    return result.model_copy(update={"environment": result.environment.model_copy(update=environment)})


def test_a_measurement_stands_beside_its_own_board_alone() -> None:
    pi = catalog.device("raspberry-pi-5")
    guess = roofline.from_counts(counts(), pi, "cpu")
    there = bench(board="Raspberry Pi 5 Model B Rev 1.0", cpu_model=None, arch="aarch64", threads=4)
    found = roofline.beside(guess, there)
    lane = there.lane("pair", "network")
    assert lane is not None
    assert found.measured_p50_ms == lane.core.p50_ms
    assert found.reached == pytest.approx((guess.total_ms or 0) / lane.core.p50_ms)
    two = roofline.beside(guess, bench(board="Raspberry Pi 5", cpu_model=None, arch="aarch64", threads=2))
    assert two.reason == "measured with 2 threads, estimated for 4 cores"
    other = roofline.beside(guess, bench(board=None, cpu_model="AMD EPYC", arch="x86_64"))
    assert (other.measured_p50_ms, other.reached) == (None, None)
    assert other.reason == "measured on AMD EPYC, not on raspberry-pi-5"


def test_a_measurement_of_the_cpu_says_nothing_of_the_gpu() -> None:
    nano = catalog.device("jetson-orin-nano")
    guess = roofline.from_counts(counts(), nano, "gpu")
    found = roofline.beside(guess, bench(board="NVIDIA Jetson Orin Nano Developer Kit", cpu_model=None, arch="aarch64"))
    assert found.measured_p50_ms is None
    assert found.reason == "measured with openvino, which does not run on the gpu here"
    alone = roofline.from_counts(counts(mode="dermoscopic"), catalog.device("raspberry-pi-5"), "cpu")
    there = bench(board="Raspberry Pi 5 Model B Rev 1.0", cpu_model=None, arch="aarch64")
    kept = tuple(lane for lane in there.lanes if lane.mode == "pair")
    found = roofline.beside(alone, there.model_copy(update={"lanes": kept}))
    assert found.reason == "mode dermoscopic was not measured"


def test_this_computer_counts_cores_not_threads(sysfs: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    root = sysfs("intel-laptop")
    read = doctor.read_machine(root)
    machine = doctor.Machine("x86_64", read.processor, "", read.flags, 4)
    monkeypatch.setattr(roofline, "read_machine", lambda root=root: machine)
    found = roofline.this_computer(root)
    assert (found.cpu_cores, found.cpu_ghz, found.int8_macs_per_cycle, found.fp32_macs_per_cycle) == (2, 3.8, 64, 16)
    assert roofline.this_computer(root, threads=1).cpu_cores == 1
    assert set(found.unverified) >= {"cpu_ghz", "int8_macs_per_cycle"}


def test_a_run_of_this_computer_stands_beside_its_estimate() -> None:
    own = doctor.read_machine()
    guess = roofline.from_counts(counts(), roofline.this_computer(), "cpu")
    found = roofline.beside(guess, bench(cpu_model=own.processor or None, board=own.board or None, arch=own.arch))
    assert found.measured_p50_ms is not None or not (own.processor or own.board)
    other = roofline.beside(guess, bench(cpu_model="Another Processor", board=None, arch=own.arch))
    assert other.measured_p50_ms is None
