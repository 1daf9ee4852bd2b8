"""The runtime in C, cross-compiled for 64-bit ARM and run under qemu, beside the same sources on this processor."""

import csv
import fcntl
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeskin import catalog, preprocess
from edgeskin.data.phantom import write_phantom
from edgeskin.spec.preprocess import Preprocess

ROOT = Path(__file__).resolve().parents[2]
RUNTIME = ROOT / "devices" / "runtime"
MADE = Path(os.environ.get("EDGESKIN_AARCH64") or ROOT / "build" / "aarch64")  # where sysroot.sh puts things
RIGHT = "cortex-a76"  # the processor that qemu plays; it has what OpenVINO's INT8 needs, and no SVE
WRONG = "max"  # has SVE2: OpenVINO's INT8 answers wrongly there, and says nothing
OK, SELFTEST_FAILED = 0, 13
LIMIT_MS = 600_000  # of a self-test under qemu

cross = pytest.mark.skipif(
    shutil.which("cmake") is None or shutil.which("aarch64-linux-gnu-g++") is None or platform.machine() == "aarch64",
    reason="needs cmake and g++-aarch64-linux-gnu on another processor",
)
emulated = pytest.mark.skipif(
    shutil.which("qemu-aarch64") is None or not (MADE / "openvino" / ".complete").is_file(),
    reason="needs qemu-user, and what devices/runtime/cross/sysroot.sh makes",
)


def run(*command: object, seconds: float = 900, env: dict[str, str] | None = None) -> SimpleNamespace:
    """A program that is to end by itself; its exit status and what it printed."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=seconds, check=False, env=os.environ | (env or {})
    )
    return SimpleNamespace(status=done.returncode, out=done.stdout, err=done.stderr)


@dataclass(frozen=True)
class Machine:
    """A processor: the build folder for it, what comes before a program's name, and OpenVINO's libraries."""

    folder: Path
    engine: Path | None
    before: tuple[object, ...] = ()

    def build(self, target: str) -> Path:
        done = run("cmake", "--build", self.folder, "--parallel", "2", "--target", target)
        assert done.status == 0, done.out[-6000:] + done.err[-6000:]
        return self.folder / target

    def run(self, program: str, *words: object) -> SimpleNamespace:
        return run(*self.before, self.build(program), *words)

    def as_cpu(self, name: str) -> "Machine":
        return Machine(self.folder, self.engine, tuple(name if word == RIGHT else word for word in self.before))


def configured(name: str, *options: object) -> Path:
    """The build folder of that name, kept from run to run. Call it under the lock."""
    folder = MADE / name
    ninja = ["-G", "Ninja"] if shutil.which("ninja") and not (folder / "CMakeCache.txt").is_file() else []
    done = run("cmake", "-S", Path(__file__).parent / "aarch64", "-B", folder, *ninja, *options)
    if done.status and "fix: apt-get install" in done.err:
        pytest.skip("needs libyuv-dev libsodium-dev nlohmann-json3-dev")
    assert done.status == 0, done.out + done.err
    return folder


@pytest.fixture(scope="module")
def machines() -> Iterator[list[Machine]]:
    """This processor and an emulated ARM, one test process at a time."""

    found = importlib.util.find_spec("openvino")
    package = Path(found.submodule_search_locations[0]) if found and found.submodule_search_locations else None
    with (MADE / ".tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        here = configured("here", f"-DOpenVINO_DIR={package / 'cmake' if package else ''}")
        arm = configured(
            "arm",
            f"-DCMAKE_TOOLCHAIN_FILE={RUNTIME / 'cmake' / 'raspberry-pi.cmake'}",
            f"-DEDGESKIN_SYSROOT={MADE / 'sysroot'}",
            "-DEDGESKIN_TESTS=ON",
        )
        qemu = ("qemu-aarch64", "-cpu", RIGHT, "-L", MADE / "sysroot")
        engine = package / "libs" if package else None
        yield [Machine(here, engine), Machine(arm, MADE / "openvino" / "libs", qemu)]


# --- the same pixels ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """An image as bytes, and the frame to make of it."""

    numbers: tuple[int, ...]  # format, width, height, stride, colour
    pixels: NDArray[np.uint8]
    spec: Preprocess

    def packed(self) -> bytes:
        crop = int(self.spec.fit == "crop")
        numbers = (*self.numbers, self.spec.width, self.spec.height, self.spec.border_px, crop, self.pixels.size)
        return np.array(numbers, "<i4").tobytes() + self.pixels.tobytes()


def jobs() -> list[Job]:
    """Every pixel format at sizes from tiny to large: odd, narrow, with gaps between rows, cropped and stretched."""
    rng = np.random.default_rng(0)
    found = []
    sizes = [(33, 32), (64, 64), (65, 130), (223, 225), (640, 480), (641, 479), (1000, 37), (1920, 1080)]
    for number, (width, height) in enumerate(sizes):
        for kind, bytes_a_pixel in ((1, 3), (2, 3), (3, 4), (5, 1), (6, 2)):
            w, h = (width & ~1, height & ~1) if kind >= 5 else (width, height)
            stride = w * bytes_a_pixel + (0, 5, 64)[number % 3]
            rows = h + h // 2 if kind == 5 else h
            smooth = rng.integers(0, 256, (rows // 8 + 1, stride // 8 + 1)).repeat(8, 0).repeat(8, 1)[:rows, :stride]
            pixels = np.clip(smooth + rng.integers(-40, 41, (rows, stride)), 0, 255).astype(np.uint8)
            side = (32, 64, 224)[(number + kind) % 3]
            spec = Preprocess(
                height=side,
                width=side if kind != 2 else side + 16,
                fit="stretch" if number % 2 else "crop",
                border_px=3 if number == 4 else 0,
                mean=(0.5,) * 3,
                std=(0.5,) * 3,
            )
            found.append(Job((kind, w, h, stride, number % 3 if kind >= 5 else 0), pixels, spec))
    return found


@cross
@emulated
def test_frames_are_the_same_bit_for_bit(
    machines: list[Machine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NEON's frames, those of this processor's instructions, and for RGB those of Python."""
    wanted = jobs()
    (tmp_path / "in").write_bytes(b"".join(job.packed() for job in wanted))
    made = []
    for number, machine in enumerate(machines):
        done = machine.run("frames", tmp_path / "in", tmp_path / f"out-{number}")
        assert done.status == 0, done.err
        made.append((tmp_path / f"out-{number}").read_bytes())
    monkeypatch.setattr(preprocess, "_opencv", lambda: None)
    at = 0
    for job in wanted:
        kind, width, height, stride, _ = job.numbers
        end = at + 3 * job.spec.width * job.spec.height
        assert made[0][at:end] == made[1][at:end], job.numbers
        if kind <= 3:
            deep = 4 if kind == 3 else 3
            rows = job.pixels.reshape(height, stride)[:, : width * deep].reshape(height, width, deep)
            photo = np.ascontiguousarray(rows[..., [2, 1, 0]] if kind == 2 else rows[..., :3])
            assert preprocess.prepare(photo, job.spec).tobytes() == made[1][at:end], job.numbers
        at = end
    assert at == len(made[0]) == len(made[1])


# --- the same answers ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What es_classify said of one lesion."""

    status: int
    images: int
    assessable: int
    refer: int
    target: float
    threshold: float
    predicted: list[int]
    probabilities: NDArray[np.float64]
    logits: NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """What tests/runtime/aarch64/answers.c printed."""

    selftest: int
    cases: int
    failed: int
    error: float
    lesions: list[Answer]
    err: str


def answers(machine: Machine, bundle: Path, *images: object) -> Answers:
    done = machine.run("answers", bundle, machine.engine, LIMIT_MS, *images)
    assert done.status == 0, done.out + done.err
    _opened, tested, *lines = done.out.splitlines()
    words = tested.split()
    lesions = []
    for line in lines:
        head, predicted, probabilities, logits = re.split(" predicted| probabilities| logits", line)
        named = dict(zip(*[iter(head.split())] * 2, strict=True))
        lesions.append(
            Answer(
                *(int(named[key]) for key in ("lesion", "images", "assessable", "refer")),
                *(float(named[key]) for key in ("target", "threshold")),
                [int(word) for word in predicted.split()],
                *(np.array([float(word) for word in part.split()]) for part in (probabilities, logits)),
            )
        )
    return Answers(int(words[1]), int(words[3]), int(words[5]), float(words[7]), lesions, done.err)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path | str]:
    """Drawn lesions as PPM files, in the order that `answers` takes: pairs, then dermoscopic images alone."""
    folder = tmp_path_factory.mktemp("pictures")
    write_phantom(folder / "phantom", 12, 3, 200)
    with (folder / "phantom" / "meta" / "meta.csv").open() as file:
        rows = list(csv.DictReader(file))
    found: list[Path | str] = []
    for row in rows:
        for kind in ("clinic", "derm"):
            target = folder / f"{row['case_num']}-{kind}.ppm"
            Image.open(folder / "phantom" / "images" / row[kind]).convert("RGB").save(target)
            found.append(target)
    return found + [word for derm in found[1:12:2] for word in ("-", derm)]


def agree(here: Answers, arm: Answers, bundle: Path, tie: float) -> None:
    """Both processors pass the self-test and decide alike; logits within the bundle's own tolerance.

    tie: a decision may differ where it hangs on less than this much of a probability.
    """
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert (here.selftest, arm.selftest) == (OK, OK), here.err + arm.err
    assert here.cases == arm.cases == len(manifest["golden"])
    tolerance = max(case["tolerance"] for case in manifest["golden"])
    assert len(here.lesions) == len(arm.lesions) == 18
    assert sum(one.assessable for one in here.lesions) >= 9, "most pictures can be assessed"
    assert len({one.target for one in here.lesions}) > 4, "the lesions are not all alike"
    for one, other in zip(here.lesions, arm.lesions, strict=True):
        assert one.status == other.status == OK
        assert (one.images, one.assessable, one.threshold) == (other.images, other.assessable, other.threshold)
        if not one.assessable:
            continue
        assert len(one.logits) == len(other.logits) == one.images * len(one.probabilities) > 0
        assert np.abs(one.logits - other.logits).max() <= tolerance
        assert one.refer == other.refer or abs(one.target - one.threshold) < tie
        at = 0
        for task, mine, others in zip(manifest["task_schema"]["tasks"], one.predicted, other.predicted, strict=True):
            assert mine == others or one.probabilities[at + mine] - one.probabilities[at + others] < tie
            at += len(task["classes"])


@cross
@emulated
@pytest.mark.slow
def test_both_processors_decide_alike(machines: list[Machine], tiny_openvino: Path, pictures: list[Path | str]) -> None:
    here, arm = (answers(machine, tiny_openvino, *pictures) for machine in machines)
    agree(here, arm, tiny_openvino, tie=1e-4)


@cross
@emulated
@pytest.mark.slow
def test_the_self_test_finds_an_engine_that_answers_wrongly_without_an_error(
    machines: list[Machine], tiny_openvino: Path, pictures: list[Path | str]
) -> None:
    """On a processor with SVE2 this OpenVINO's INT8 gives other logits and no error: the safe state is the only one."""
    found = answers(machines[1].as_cpu(WRONG), tiny_openvino, *pictures)
    assert found.selftest == SELFTEST_FAILED
    assert found.failed == found.cases == 4
    assert found.error > 10  # of a tolerance of 0.25: wrong, not inaccurate
    assert "logits differ by" in found.err
    assert "fix:" in found.err
    assert len(found.lesions) == 18
    for one in found.lesions:
        assert one.status == SELFTEST_FAILED
        assert (one.images, one.assessable, one.refer, one.target) == (0, 0, 0, 0)
        assert set(one.predicted) == {0}
        assert one.probabilities.size == one.logits.size == 0


@cross
@emulated
@pytest.mark.slow
def test_a_trained_bundle_decides_alike(
    machines: list[Machine], tiny_run: Path, tmp_path: Path, pictures: list[Path | str]
) -> None:
    """The usual bundle: NNCF's INT8 in OpenVINO's own format."""
    from edgeskin import chain

    plain = catalog.recipe("openvino-int8").to_json() | {"gate": None, "calibration_pairs": 8}
    recipe = tmp_path / "tiny.toml"
    recipe.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in plain.items() if value is not None))
    chain.export(tiny_run, "openvino", tmp_path / "bundle", recipe=str(recipe), tuned=False, allow_ungated=True)
    here, arm = (answers(machine, tmp_path / "bundle", *pictures) for machine in machines)
    agree(here, arm, tmp_path / "bundle", tie=0.05)


@cross
@emulated
@pytest.mark.slow
def test_the_unit_tests_pass_on_arm(machines: list[Machine], tiny_openvino: Path) -> None:
    arm = machines[1]
    arm.build("edgeskin_tests")
    env = {
        "EDGESKIN_TEST_OPENVINO_BUNDLE": str(tiny_openvino),
        "EDGESKIN_TEST_OPENVINO_LIBRARIES": str(arm.engine),
    }
    done = run("ctest", "--test-dir", arm.folder, "--output-on-failure", "--parallel", 2, env=env, seconds=3600)
    assert done.status == 0, done.out[-8000:]
    assert "No tests were found" not in done.out + done.err


# --- what the library needs of a board ----------------------------------------------------------------------------


@cross
@emulated
@pytest.mark.slow
def test_the_library_starts_on_a_board_with_ubuntu_22_04(machines: list[Machine]) -> None:
    """JetPack 6: glibc 2.35, GCC 12's libstdc++. A newer symbol would keep the library from being loaded at all."""
    arm = machines[1]
    arm.build("edgeskin")
    told = run("aarch64-linux-gnu-readelf", "-hV", arm.folder / "runtime" / "libedgeskin.so").out
    assert re.search(r"Machine:\s+AArch64", told)
    for name, newest in (("GLIBC", (2, 35)), ("GLIBCXX", (3, 4, 30)), ("CXXABI", (1, 3, 13))):
        needed = {tuple(int(n) for n in found.split(".")) for found in re.findall(rf"\b{name}_([0-9.]+)", told)}
        assert needed, name
        assert max(needed) <= newest
