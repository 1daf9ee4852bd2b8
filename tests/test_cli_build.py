"""`edgeskin build` on a machine that cannot build: one line, exit code 2, nothing written."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgeskin.cli import app
from edgeskin.engine import trtexec
from edgeskin.errors import EdgeskinError


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeskin.backends._cuda.unsupported", lambda: "no NVIDIA driver on this machine")
    monkeypatch.setattr(trtexec, "find", lambda: None)


def refused(*arguments: object) -> str:
    with pytest.raises(EdgeskinError) as caught:
        CliRunner().invoke(app, ["build", *map(str, arguments)], catch_exceptions=False)
    assert "\n" not in caught.value.line()
    return caught.value.line()


def test_a_kit_needs_a_gpu(tiny_kit: Path, tmp_path: Path) -> None:
    line = refused(tiny_kit, "--out", tmp_path / "b")
    assert line.startswith("no engine can be built here")
    assert "no NVIDIA driver" in line
    assert list(tmp_path.iterdir()) == []


def test_trtexec_has_to_be_there(tiny_kit: Path, tmp_path: Path) -> None:
    line = refused(tiny_kit, "--out", tmp_path / "b", "--trtexec")
    assert line.startswith("trtexec is not here")
    assert "/usr/src/tensorrt/bin/trtexec" in line


def test_a_board_without_dla_is_told_before_a_gpu_is_looked_for(tiny_kit: Path, tmp_path: Path) -> None:
    assert "device jetson-orin-nano has no DLA: got '--dla 0'" in refused(tiny_kit, "--out", tmp_path / "b", "--dla", 0)


def test_an_unknown_dla_core_names_those_that_there_are(tiny_run: Path, kit_recipe: str, tmp_path: Path) -> None:
    from edgeskin import chain

    orin = {"device": "jetson-agx-orin", "jetpack": "6.2", "recipe": "tensorrt-fp32"}
    chain.export(tiny_run, "tensorrt", tmp_path / "kit", **orin)  # type: ignore[arg-type]
    assert "no such DLA core: got 7; possible: 0, 1" in refused(tmp_path / "kit", "--out", tmp_path / "b", "--dla", 7)
    assert "no engine can be built here" in refused(tmp_path / "kit", "--out", tmp_path / "b", "--dla", 1)


@pytest.mark.parametrize("what", ["run", "nothing", "file"])
def test_what_is_no_kit(tiny_run: Path, tmp_path: Path, what: str) -> None:
    (tmp_path / "file").write_text("no bundle")
    path = tiny_run if what == "run" else tmp_path / what
    line = refused(path, "--out", tmp_path / "b")
    assert "bundle" in line
    assert str(path) in line


def test_the_process_ends_with_2_and_one_line(tiny_kit: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgeskin.cli", "build", str(tiny_kit), "--out", str(tmp_path / "b"), "--dla", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("edgeskin: device jetson-orin-nano has no DLA")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
