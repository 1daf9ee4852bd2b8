"""The camera example against a driver that is part of the program: what it negotiates, and which frames it takes."""

import os
import re
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[1] / "devices" / "runtime"
YUYV, NV12 = 6, 5
BT601, BT709, JPEG = 0, 1, 2


@pytest.fixture(scope="module")
def program(runtime_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """examples/camera.c, whose calls of open, ioctl, poll and es_classify go through fake_camera.c."""
    folder = tmp_path_factory.mktemp("camera")
    common = ["-std=c99", "-U_FORTIFY_SOURCE", "-Wall", "-Wextra", "-Werror", "-I", SOURCE / "include", "-c"]
    objects = []
    for source, macro in (
        (SOURCE / "examples" / "camera.c", "-D_POSIX_C_SOURCE=200809L"),
        (HERE / "fake_camera.c", "-DFAKE"),
    ):
        objects.append(folder / f"{source.stem}.o")
        compile_(*common, macro, source, "-o", objects[-1])
    wrapped = [f"-Wl,--wrap={name}" for name in ("open", "ioctl", "poll", "es_classify")]
    linked = ["-L", runtime_library.parent, "-ledgeskin", f"-Wl,-rpath,{runtime_library.parent}"]
    compile_(*objects, *wrapped, *linked, "-o", folder / "camera")
    return folder / "camera"


def compile_(*words: object) -> None:
    done = subprocess.run(["cc", *map(str, words)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


class Watched:
    """What a run of the program said and classified."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code = done.returncode
        self.printed = [line for line in done.stdout.splitlines() if line.startswith("frame")]
        self.frames = [int(number) for number in re.findall(r"^classified (\d+):", done.stderr, flags=re.MULTILINE)]
        self.kinds = set(re.findall(r"^classified \d+: (.*)$", done.stderr, flags=re.MULTILINE))
        lines = [line for line in done.stderr.splitlines() if not line.startswith(("classified", "camera: info:"))]
        self.errors = lines


@pytest.fixture
def watch(program: Path, tiny_openvino: Path, backend_path: Path):
    def run(*arguments: object, **settings: object) -> Watched:
        words = [program, tiny_openvino, "--device", "/dev/fake", "--backend-path", backend_path, *arguments]
        environment = {**os.environ, **{name: str(value) for name, value in settings.items()}}
        return Watched(
            subprocess.run(
                [str(word) for word in words], capture_output=True, text=True, timeout=120, check=False, env=environment
            )
        )

    return run


def kind(form: int, stride: int, colour: int) -> set[str]:
    return {f"format {form}, 320x240, stride {stride}, colour {colour}"}


def test_frames_come_one_after_another(watch) -> None:
    seen = watch("--frames", 6)
    assert (seen.code, seen.errors) == (0, [])
    assert seen.frames == [0, 1, 2, 3, 4, 5]
    assert len(seen.printed) == 6
    assert seen.kinds == kind(YUYV, 704, BT601)


def test_a_slow_reader_sees_the_newest_frame(watch) -> None:
    seen = watch("--frames", 5, BURST=2)
    assert (seen.code, seen.errors) == (0, [])
    assert seen.frames == [1, 3, 5, 7, 9]


@pytest.mark.parametrize("burst", [3, 4, 9])
def test_frames_that_waited_too_long_are_not_shown(burst: int, watch) -> None:
    """Where every buffer is full, younger frames were dropped: the next one that comes is the present."""
    seen = watch("--frames", 4, BURST=burst)
    assert (seen.code, seen.errors) == (0, [])
    assert seen.frames == [burst + turn * (burst + 1) for turn in range(4)]


def test_broken_frames_are_left_out(watch) -> None:
    seen = watch("--frames", 6, BROKEN=3)
    assert (seen.code, seen.errors) == (0, [])
    assert seen.frames == [1, 2, 4, 5, 7, 8]


@pytest.mark.parametrize(
    ("asked", "offered", "form"),
    [
        ("yuyv", "YUYV NV12", YUYV),
        ("nv12", "YUYV NV12", NV12),
        ("yuyv", "NV12", NV12),
        ("nv12", "YUYV", YUYV),
        ("rgb", "YUYV", YUYV),
    ],
)
def test_the_other_format_is_taken_where_the_one_is_not_offered(asked: str, offered: str, form: int, watch) -> None:
    seen = watch("--frames", 1, "--format", asked, FORMATS=offered)
    assert (seen.code, seen.errors) == (0, [])
    assert seen.kinds == kind(form, 704 if form == YUYV else 384, BT601)


@pytest.mark.parametrize(
    ("colours", "meant"),
    [(1, BT601), (3, BT709), (7, JPEG)],  # SMPTE170M, REC709, JPEG
)
def test_colours_are_those_of_the_driver(colours: int, meant: int, watch) -> None:
    assert watch("--frames", 1, COLOURS=colours).kinds == kind(YUYV, 704, meant)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"FORMATS": "MJPG"}, "neither YUYV nor NV12"),
        ({"CARD": 0x04000000}, "cannot stream single-plane video"),  # streaming, but nothing to capture
        ({"CARD": 0x00000001}, "cannot stream single-plane video"),  # to be read, not streamed
    ],
)
def test_a_camera_that_cannot_is_said_in_one_line(settings: dict[str, object], said: str, watch) -> None:
    seen = watch(**settings)
    assert seen.code == 1
    assert len(seen.errors) == 1
    assert said in seen.errors[0]
    assert seen.frames == []


def test_a_camera_that_is_pulled_out_ends_the_service(watch) -> None:
    seen = watch(UNPLUG=4)
    assert seen.code == 1  # systemd starts it again
    assert len(seen.errors) == 1
    assert "gives no frames; got: No such device" in seen.errors[0]
    assert seen.frames == [0, 1, 2, 3]
