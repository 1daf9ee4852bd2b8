"""Engines built and asked through the program trtexec: for a board without TensorRT's Python package."""

import json
import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeskin.backends import Executed, Session
from edgeskin.backends._tensorrt_layers import from_json
from edgeskin.engine import trtexec
from edgeskin.engine.maker import Limits, Step
from edgeskin.errors import EdgeskinError
from edgeskin.spec.manifest import Compatibility

_MEDIAN = re.compile(r"GPU Compute Time:.*?median = ([\d.]+) ms")
_TIMEOUT_S = 300.0


@dataclass
class Program:
    """Builds with trtexec. What the compiled layers are it writes beside each engine."""

    program: Path
    compatibility: Compatibility
    cache: Path
    shape: tuple[int, int, int]  # height, width of the frames; number of logits
    pair_rows: int = 2  # of logits that a pair is given
    used_cache: bool = field(default=False, init=False)
    name: Literal["tensorrt", "trtexec"] = field(default="trtexec", init=False)
    cases: int = field(default=6, init=False)  # each question starts the program anew, which takes seconds

    def build(self, graph: Path, plan: Path, limits: Limits, step: Step) -> None:
        """Write the engine, whole or not at all.

        Raises:
            EdgeskinError: trtexec fails; its log lies beside the engine.
        """
        self.used_cache |= self.cache.is_file()
        command = trtexec.command(
            self.compatibility.tensorrt,
            graph,
            plan,
            workspace_mb=max(1, limits.workspace_bytes >> 20),
            layer_info=_layers(plan),
            timing_cache=self.cache,
            dla_core=limits.dla_core,
            program=self.program,
        )
        trtexec.run(command, plan.with_suffix(".log"))
        step(99)

    def open(self, plan: Path) -> Session:
        """An engine that is asked through the program."""
        images, rows = (2, self.pair_rows) if plan.name.startswith("pair") else (1, 1)
        return Asked(self.program, plan, (images, rows), self.shape, self.compatibility)


class Asked(Session):
    """One engine; every question runs trtexec once."""

    def __init__(
        self, program: Path, plan: Path, sizes: tuple[int, int], shape: tuple[int, int, int], machine: Compatibility
    ) -> None:
        self._program, self._plan, self._machine = program, plan, machine
        (self.images, self.rows), (self.height, self.width, self.logits) = sizes, shape

    def _infer(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        with tempfile.TemporaryDirectory() as folder:
            given, got = Path(folder) / "frames.bin", Path(folder) / "logits.json"
            given.write_bytes(frames.tobytes())
            self._run([f"--loadInputs=frames:{given}", f"--exportOutput={got}", "--iterations=1", "--duration=0"])
            try:
                found = {one["name"]: one["values"] for one in json.loads(got.read_text(encoding="utf-8"))}
                return np.array(found["logits"], np.float32).reshape(self.rows, self.logits)
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise EdgeskinError(
                    "trtexec gave no logits", got=f"{type(error).__name__}: {error}", fix="check the engine's outputs"
                ) from error

    def p50_ms(self) -> float:
        """Median time of the GPU for one examination, as the program measures it over three seconds."""
        said = self._run(["--duration=3", "--warmUp=500", "--useCudaGraph"])
        found = _MEDIAN.search(said)
        if found is None:
            raise EdgeskinError("trtexec told no median of its times", got=str(self._plan), fix="read what it prints")
        return float(found[1])

    def _run(self, flags: list[str]) -> str:
        command = [str(self._program), f"--loadEngine={self._plan}", *flags]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EdgeskinError("trtexec cannot run the engine", got=str(error)[:200]) from error
        said = done.stdout + done.stderr
        if done.returncode:
            first = next((line for line in said.splitlines() if "[E]" in line), f"exit status {done.returncode}")
            raise EdgeskinError("trtexec cannot run the engine", got=first[:240], fix="build it again on this machine")
        return said

    def describe(self) -> dict[str, str]:
        return {
            "backend": "tensorrt",
            "version": f"{self._machine.tensorrt} (trtexec)",
            "device": self._machine.gpu,
            "threads": "1",
            "precision_hint": "default",
        }

    def executed_layers(self) -> tuple[list[Executed], int]:
        try:
            text = _layers(self._plan).read_text(encoding="utf-8")
        except OSError as error:
            raise EdgeskinError(
                "trtexec's list of layers is gone", got=str(_layers(self._plan)), fix="build the kit again"
            ) from error
        return from_json(text)


def _layers(plan: Path) -> Path:
    return plan.with_suffix(".layers.json")
