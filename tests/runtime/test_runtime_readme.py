"""The commands of devices/runtime/README.md, as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.runtime.conftest import ROOT, SOURCE

# What this machine may lack or has done: packages of the system, a camera, a program that serves until it is ended, and
# the build itself, which the fixture makes by the same two commands.
LEFT_OUT = ("sudo apt-get", "pip install", "cmake -S", "ninja -C", "build/runtime/update serve", "--device /dev/video0")


def commands() -> list[str]:
    """Every command of the page's sh blocks, lines that go on joined, comments gone."""
    text = (SOURCE / "README.md").read_text(encoding="utf-8")
    found = []
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        joined = re.sub(r"\s*\\\n\s*", " ", block)
        found += [re.sub(r"\s{2,}#.*", "", line).strip() for line in joined.splitlines() if line.strip()]
    return found


def test_the_page_has_commands_of_every_kind() -> None:
    first = {line.split()[0] for line in commands()}
    assert {"cmake", "ninja", "cc", "build/runtime/classify", "build/runtime/camera", "build/runtime/update"} <= first
    assert all(any(part in line for line in commands()) for part in LEFT_OUT)


@pytest.fixture
def place(tmp_path: Path, runtime_build: Path, tiny_openvino: Path) -> Path:
    """A folder in which every path that the page names is there."""
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "runtime").symlink_to(runtime_build)
    (tmp_path / "devices").symlink_to(ROOT / "devices")
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "milk-ov").symlink_to(tiny_openvino)
    (tmp_path / "NEW_BUNDLE").symlink_to(tiny_openvino)
    (tmp_path / "mine.c").write_text("#include <edgeskin.h>\nint main(void) { return !ES_LIBRARY_FITS(); }\n")
    rng = np.random.default_rng(4)
    y, x = np.mgrid[-360:360, -640:640]
    for name, radius in (("dermoscopic", 280), ("clinical", 120)):
        colour = np.where((np.hypot(x, y) < radius)[..., None], (105, 70, 60), (205, 165, 145))
        photo = (colour + rng.integers(-14, 15, (720, 1280, 1)) + 6 * ((x // 16 + y // 16) % 2)[..., None]).astype(
            np.uint8
        )
        for ending in ("ppm", "jpg"):
            Image.fromarray(photo).save(tmp_path / f"{name}.{ending}")
        nv12 = np.concatenate([photo[..., 1], np.full((360, 1280), 128, np.uint8)])
        (tmp_path / "frames.yuv").write_bytes(nv12.tobytes())
    return tmp_path


def test_its_commands_run(place: Path, backend_path: Path) -> None:
    environment = {
        **os.environ,
        "OPENVINO": str(backend_path.parent),
        "EDGESKIN_BACKEND_PATH": str(backend_path),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    ran = []
    for line in commands():
        if any(part in line for part in LEFT_OUT):
            continue
        if line.startswith("build/runtime/update back"):  # there is something to go back to after a second update
            again = ["build/runtime/update", "install", "STATE", "NEW_BUNDLE"]
            subprocess.run(again, cwd=place, env=environment, check=True, capture_output=True)
        done = subprocess.run(
            ["bash", "-c", line], cwd=place, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        ran.append(line.split()[0])
    assert len(ran) >= 6
    assert (place / "mine").is_file()
    assert (place / "STATE" / "current").is_symlink()
