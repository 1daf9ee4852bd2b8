"""The command line where nothing has been made: defaults that its help tells, exit codes, and roots that are none."""

import re
import subprocess
import sys

import pytest
import typer

from edgeskin.cli import app
from edgeskin.spec.roles import RoleSpec
from edgeskin.spec.train import DataSpec, NetworkSpec, TrainSpec
from tests.commands import refused

pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("nncf", reason="needs the extra export")


def test_help_tells_the_defaults_of_the_specs():
    command = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]
    told = {}
    for option in command.params:
        if found := re.search(r"\(([0-9.]+)\)\.$", getattr(option, "help", None) or ""):
            told[option.name] = float(found[1])
    assert len(told) >= 10
    for name, value in told.items():
        kinds = (RoleSpec(), TrainSpec(), NetworkSpec(backbone="x"), DataSpec(name="x", root="x"))
        holders = [
            kind
            for kind in (kinds[:1] if name in ("calibration", "control", "test") else kinds[1:])
            if hasattr(kind, name)
        ]
        assert getattr(holders[0], name) == value, name


class TestRefusals:
    """Each is one line, exit code 2, and leaves nothing half-written."""

    def test_exit_code_and_single_line(self, tmp_path):
        done = subprocess.run(
            [sys.executable, "-m", "edgeskin.cli", "inspect", str(tmp_path / "none")], capture_output=True, text=True
        )
        assert done.returncode == 2
        assert done.stdout == ""
        assert len(done.stderr.strip().splitlines()) == 1
        assert "Traceback" not in done.stderr

    def test_missing_root_and_wrong_layout(self, tmp_path):
        out = tmp_path / "run"
        assert "missing root" in refused("train", "--data", "milk10k", "--root", tmp_path / "x", "--out", out).line()
        assert "layout" in refused("train", "--data", "milk10k", "--root", tmp_path, "--out", out).line()
        assert "did you mean 'milk10k'" in refused("train", "--data", "milk", "--root", tmp_path, "--out", out).line()
        assert not out.exists()
