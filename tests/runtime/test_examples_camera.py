"""The camera example on files of frames: its answers against Python's, what it refuses, what it tells systemd."""

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.runtime.examples import photo, python, run


def yuv(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """BT.601, limited range: Y at full size, U and V at half the width."""
    plain = rgb.astype(float)
    matrix = np.array([[65.738, 129.057, 25.064], [-37.945, -74.494, 112.439], [112.439, -94.154, -18.285]]) / 256
    planes = plain @ matrix.T + np.array([16, 128, 128])
    half = planes.reshape(rgb.shape[0], -1, 2, 3).mean(2)
    found = [planes[..., 0], half[..., 1], half[..., 2]]
    y, u, v = (np.clip(np.rint(plane), 0, 255).astype(np.uint8) for plane in found)
    return y, u, v


def as_yuyv(rgb: NDArray[np.uint8]) -> bytes:
    y, u, v = yuv(rgb)
    return np.stack([y[:, ::2], u, y[:, 1::2], v], -1).tobytes()


def as_nv12(rgb: NDArray[np.uint8]) -> bytes:
    y, u, v = yuv(rgb)
    u, v = (plane.reshape(-1, 2, plane.shape[1]).mean(1).astype(np.uint8) for plane in (u, v))
    return y.tobytes() + np.stack([u, v], -1).tobytes()


FORMATS = {"rgb": lambda rgb: rgb.tobytes(), "yuyv": as_yuyv, "nv12": as_nv12}


@pytest.mark.parametrize("form", FORMATS)
def test_the_camera_reads_a_file_of_frames(
    form: str, runtime_build: Path, backend_path: Path, tiny_openvino: Path, tmp_path: Path
) -> None:
    frames = [photo(640, 480, seed, mole) for seed, mole in enumerate((0.25, 0.4, 0.05))]
    (tmp_path / "frames").write_bytes(b"".join(FORMATS[form](frame) for frame in frames))
    wanted = [python(tiny_openvino, dermoscopic=frame) for frame in frames]
    done = run(
        runtime_build / "camera", tiny_openvino, "--file", tmp_path / "frames", "--size", "640x480", "--format", form,
        EDGESKIN_BACKEND_PATH=str(backend_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.startswith("self-test passed: 2 golden cases")
    assert [line.split()[:2] for line in rest] == [["frame", "1"], ["frame", "2"], ["frame", "3"]]
    for line, answer in zip(rest, wanted, strict=True):
        told = float(re.search(r"melanoma (\d\.\d+)", line)[1])  # type: ignore[index]
        assert told == pytest.approx(answer.decision.probability, abs=0.002 if form == "rgb" else 0.1)
        assert (" refer " in line) == answer.decision.refer


def test_two_cameras_give_a_pair(
    runtime_build: Path, backend_path: Path, tiny_openvino: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    seen, around = photo(640, 480), photo(640, 480, 1, 0.1)
    (tmp_path / "seen").write_bytes(seen.tobytes() * 2)
    (tmp_path / "around").write_bytes(around.tobytes())
    done = run(
        runtime_build / "camera", tiny_openvino, "--file", tmp_path / "seen", "--clinical-file", tmp_path / "around",
        "--size", "640x480", "--format", "rgb", "--loop", "--frames", "5", EDGESKIN_BACKEND_PATH=str(backend_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = python(tiny_openvino, dermoscopic=seen, clinical=around)
    lines = done.stdout.splitlines()[1:]
    assert len(lines) == 5
    for line in lines:
        assert f"melanoma {answer.decision.probability:.2f}" in line
        assert f"DIAG={answer.predicted['DIAG']} " in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--file", "frames"), "does not hold whole frames"),
        (("--file", "frames", "--size", "640x481", "--format", "rgb"), "does not hold whole frames"),
        (("--file", "none"), "cannot be opened"),
        (("--file", "empty"), "does not hold whole frames"),
        (("--device", "/dev/null"), "is no camera"),
        (("--device", "frames"), "is no camera"),
    ],
)
def test_a_source_without_frames_is_said_in_one_line(
    arguments: tuple[str, ...], said: str, runtime_build: Path, tiny_openvino: Path, tmp_path: Path
) -> None:
    (tmp_path / "frames").write_bytes(photo(640, 480).tobytes())
    (tmp_path / "empty").write_bytes(b"")
    words = [str(tmp_path / word) if word in ("frames", "empty", "none") else word for word in arguments]
    done = run(runtime_build / "camera", tiny_openvino, *words)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--device", "/dev/video0", "--size", "640"),
        ("--device", "/dev/video0", "--size", "640x"),
        ("--device", "/dev/video0", "--size", "0x480"),
        ("--device", "/dev/video0", "--format", "grey"),
        ("--device", "/dev/video0", "--frames", "0"),
        ("--device", "/dev/video0", "--frames", "1e3"),
        ("--device",),
        ("--device", "/dev/video0", "second-bundle"),
    ],
)
def test_the_camera_refuses_wrong_options(arguments: tuple[str, ...], runtime_build: Path) -> None:
    done = run(runtime_build / "camera", "bundle", *arguments)
    assert done.returncode == 2
    assert "usage:" in done.stderr


class Systemd:
    """A socket that hears what a service tells systemd."""

    def __init__(self, path: str) -> None:
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + path[1:] if path.startswith("@") else path)
        self._socket.settimeout(60)
        self.name = path

    def hear(self, wanted: str) -> None:
        while wanted not in self.heard:
            self.heard += self._socket.recv(4096).decode().splitlines()

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_tells_systemd_and_ends_on_a_signal(
    abstract: bool, runtime_build: Path, backend_path: Path, tiny_openvino: Path, tmp_path: Path
) -> None:
    (tmp_path / "frames").write_bytes(photo(640, 480).tobytes())
    systemd = Systemd(f"@edgeskin-test-{os.getpid()}" if abstract else str(tmp_path / "notify"))
    words = [runtime_build / "camera", tiny_openvino, "--file", tmp_path / "frames", "--size", "640x480"]
    environment = {**os.environ, "NOTIFY_SOCKET": systemd.name, "EDGESKIN_BACKEND_PATH": str(backend_path)}
    process = subprocess.Popen(
        [str(word) for word in (*words, "--format", "rgb", "--loop")],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment,
    )  # fmt: skip
    try:
        systemd.hear("WATCHDOG=1")
        assert systemd.heard[0] == "READY=1"
        process.send_signal(signal.SIGTERM)
        # It may write faster than we read, and waits then: read on until it ends.
        reader = threading.Thread(target=systemd.hear, args=("STOPPING=1",))
        reader.start()
        assert process.wait(60) == 0
        reader.join(60)
        assert systemd.heard[-1] == "STOPPING=1"
    finally:
        process.kill()
        process.communicate()
        systemd.close()


def test_a_service_whose_bundle_is_refused_is_never_ready(
    runtime_build: Path, backend_path: Path, tiny_openvino: Path, tmp_path: Path
) -> None:
    (tmp_path / "frames").write_bytes(photo(640, 480).tobytes())
    spoilt = Path(shutil.copytree(tiny_openvino, tmp_path / "spoilt"))
    graph = spoilt / "model" / "dermoscopic.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    systemd = Systemd(str(tmp_path / "notify"))
    done = run(
        runtime_build / "camera", spoilt, "--file", tmp_path / "frames", "--size", "640x480", "--format", "rgb",
        NOTIFY_SOCKET=systemd.name, EDGESKIN_BACKEND_PATH=str(backend_path),
    )  # fmt: skip
    assert done.returncode == 2
    assert "dermoscopic.onnx" in done.stderr
    systemd.hear("STOPPING=1")
    assert systemd.heard == ["STOPPING=1"]
    systemd.close()
