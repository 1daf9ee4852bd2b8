"""The search on a tiny network, through every target's own engine: real quantisation, real sessions."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from edgeskin import backends, catalog
from edgeskin.backends import Session
from edgeskin.data.pairs import Pair
from edgeskin.decide import task_probabilities
from edgeskin.errors import EdgeskinError
from edgeskin.quantize import search as stage
from edgeskin.quantize.trials import STATE, Control, Trials, divergence, effect
from edgeskin.spec.gate import GateSpec, Margin
from edgeskin.spec.manifest import IMAGES, MODES, Manifest
from edgeskin.spec.recipe import Recipe
from edgeskin.spec.schema import ClassSpec, Schema, Target, Task
from edgeskin.spec.train import Fusion, Threshold, Thresholds

HALF = Threshold(value=0.2, rule="a fifth")
DECIDING = Manifest.model_construct(
    task_schema=Schema(
        name="seven",
        tasks=(Task(name="DIAG", classes=tuple(ClassSpec(name=f"C{i}") for i in range(7))),),
        target=Target(task="DIAG", positive=("C1", "C2")),
    ),
    fusion={"DIAG": Fusion(dermoscopic_weight=0.6)},
    thresholds=Thresholds(pair=HALF, dermoscopic=HALF),
)
PERCENTILE = {"quantizer": "qdq", "preset": "performance", "calibrator": "percentile"}
# Converting to OpenVINO's format takes seconds a variant: where many are built it stands among the slow tests.
MANY = pytest.mark.parametrize(
    "target",
    [pytest.param(name, marks=pytest.mark.slow) if name == "openvino" else name for name in backends.NAMES],
    indirect=True,
)
EASY = GateSpec(margins={"auc": Margin(value=1.0, reason="anything goes")}, bootstrap=200)


def recipe(target: str, **changes: object) -> Recipe:
    base = catalog.recipe(f"{target}-int8")
    return base.model_copy(update={"calibration_pairs": 8, "gate": EASY, "inference_precision": "f32", **changes})


def by_count(sessions: Mapping[str, Session], rounds: int) -> Mapping[str, Sequence[float]]:
    """Latencies that say nothing, so that agreement decides: timing is not what these tests are about."""
    return {name: [1.0] * rounds for name in sessions}


@pytest.fixture(params=backends.NAMES)
def target(request: pytest.FixtureRequest) -> str:
    if reason := backends.get(request.param).unsupported():
        pytest.skip(reason)
    return str(request.param)


@pytest.fixture
def make(target: str, onnx_models: dict[int, Path], pairs: list[np.ndarray], tmp_path: Path):
    """Trials on the tiny pair graph, or on both; the network's own answers are the labels of most lesions."""

    def made(
        budget_s: float = 600.0, folder: Path | None = None, gate: GateSpec | None = EASY, both: bool = False
    ) -> Trials:
        session = backends.get("onnxruntime").open(onnx_models[2])
        reference = np.stack([session.run(frames) for frames in pairs])
        truth = reference[:, 1].argmax(-1)
        truth[::5] = (truth[::5] + 1) % 7
        cases = [Pair(f"l{i}", Path("d"), Path("c"), {"DIAG": int(t)}, row=i) for i, t in enumerate(truth)]
        single = backends.get("onnxruntime").open(onnx_models[1])
        control = Control(cases, pairs, reference, np.stack([single.run(frames[-1:]) for frames in pairs]))
        return Trials(
            onnx_models[2], pairs[:8], control, DECIDING, target, folder or tmp_path / "search",
            budget_s=budget_s, threads=1, alone=onnx_models[1] if both else None,
        )  # fmt: skip

    return made


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ways to quantise and four blocks instead of all: what is tried with them does not depend on their number."""
    real = stage.parts
    monkeypatch.setattr(stage, "parts", lambda graph: real(graph)[-4:])
    monkeypatch.setattr(
        stage, "candidates", lambda base, transformer: [base, base.model_copy(update={"name": "p", **PERCENTILE})]
    )


@pytest.mark.slow
def test_every_way_is_tried_and_the_nearest_to_fp32_is_chosen(make, target: str) -> None:
    trials = make(both=True)
    (chosen, *_), found = stage.search(trials, recipe(target), by_count)
    assert found.complete
    whole = [one for one in found.candidates if not one.reverted]
    assert {one.name for one in whole} == {one.name for one in stage.candidates(recipe(target), transformer=True)}
    assert [one.name for one in found.candidates if not one.why_not] == [found.chosen]
    best = next(one for one in found.candidates if one.name == found.chosen)
    assert best.effect.divergence == min(one.effect.divergence for one in found.candidates)
    assert chosen.name == f"{target}-int8"
    assert chosen.keep_fp32 == best.recipe.keep_fp32
    assert sum(one.macs_share for one in found.ranking) == pytest.approx(1.0)  # every block was asked
    gains = [one.gain for one in found.ranking]
    assert gains == sorted(gains, reverse=True)
    assert found.slower_groups
    assert all(value == 1.0 for value in found.slower_groups.values())


@MANY
def test_a_killed_search_goes_on_and_gives_the_same(
    few: None, make, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = stage.search(make(), recipe(target), by_count)
    real, left = Trials.once, [3]

    def dies(self, kind, key, work):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(self, kind, key, work)

    folder = make().folder.parent / "killed"
    monkeypatch.setattr(Trials, "once", dies)
    with pytest.raises(KeyboardInterrupt):
        stage.search(make(folder=folder), recipe(target), by_count)
    monkeypatch.setattr(Trials, "once", real)
    again = make(folder=folder)
    assert again.resumed == 3
    (chosen, *_), found = stage.search(again, recipe(target), by_count)
    assert chosen == whole[0][0]
    assert found.model_copy(update={"spent_s": 0}) == whole[1].model_copy(update={"spent_s": 0})
    # With the budget spent, what is known costs nothing and is used all the same.
    order, known = stage.search(make(budget_s=0.0, folder=folder), recipe(target), by_count)
    assert order == whole[0]
    assert known.complete
    assert known.ranking == found.ranking
    assert known.candidates == found.candidates


def test_a_search_without_time_still_gives_the_recipe_itself(few: None, make, target: str) -> None:
    (chosen, *_), found = stage.search(make(budget_s=0.0), recipe(target), by_count)
    assert not found.complete
    assert [one.name for one in found.candidates] == [f"{target}-int8"]
    assert chosen == recipe(target)
    assert any("the budget ended" in note for note in found.notes)


def test_blocks_are_taken_back_until_the_gate_holds(
    few: None, make, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gate that asks for more agreement than all INT8 reaches, and no more than FP32 has."""
    trials = make()
    session = trials.session(trials.model(recipe(target)), recipe(target))
    asked = effect(DECIDING, trials.control, trials.logits(session, trials.control, int)).divergence / 2

    def strict(self, given, logits):
        found = effect(self.deciding, self.control, logits["pair"]).divergence
        return type("Result", (), {"passed": found <= asked})()

    monkeypatch.setattr(Trials, "gate", strict)
    spec = GateSpec(margins={"auc": Margin(value=0.5, reason="another key")})
    (chosen, *_), found = stage.search(make(), recipe(target, gate=spec), by_count)
    best = next(one for one in found.candidates if one.name == found.chosen)
    assert best.gate == "holds"
    assert best.effect.divergence <= asked
    assert any(one.gate == "fails" for one in found.candidates)
    assert chosen.keep_fp32 == best.recipe.keep_fp32
    assert best.reverted == tuple(stage._paths(chosen))
    failed = next(one for one in found.candidates if one.gate == "fails")
    assert failed.why_not == "the gate fails"


@MANY
def test_a_slower_block_is_taken_back(few: None, make, target: str) -> None:
    """Timing that calls INT8 slow in the part called `clinical`, and fast elsewhere."""

    def timed(sessions: Mapping[str, Session], rounds: int) -> Mapping[str, Sequence[float]]:
        return {name: [0.5 if "clinical" in name else 1.0] * rounds for name in sessions}

    (chosen, *_), found = stage.search(make(), recipe(target), timed)
    slow = [path for path, value in found.slower_groups.items() if value > stage.SLOWER]
    assert slow
    assert all("clinical" in path for path in slow)
    assert any("clinical" in one for one in chosen.keep_fp32)


def test_a_way_that_cannot_be_built_is_noted_and_the_others_go_on(
    few: None, make, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Trials.model

    def refuses(self, given, *mode):
        if given.calibrator == "percentile":
            raise EdgeskinError("no such thing", got="percentile")
        return real(self, given, *mode)

    monkeypatch.setattr(Trials, "model", refuses)
    _, found = stage.search(make(), recipe(target), by_count)
    assert not any(one.recipe.calibrator == "percentile" for one in found.candidates)
    assert any("percentile" in note and "no such thing" in note for note in found.notes)


def test_a_state_that_is_no_json_is_started_afresh(make, target: str) -> None:
    trials = make()
    trials.effect(recipe(target))
    (trials.folder / STATE).write_text("{half")
    again = make(folder=trials.folder)
    assert again.resumed == 0
    assert again.effect(recipe(target))[0] == trials.effect(recipe(target))[0]


def test_parts_hold_every_product_once(onnx_models: dict[int, Path]) -> None:
    found = stage.parts(onnx_models[2])
    assert sum(part.macs_share for part in found) == pytest.approx(1.0)
    names = [name for part in found for name in part.nodes]
    assert len(names) == len(set(names))


def test_divergence_of_equal_answers_is_zero_and_grows() -> None:
    same = np.array([[0.2, 0.8], [0.5, 0.5]])
    assert divergence(same, same) == 0
    assert divergence(same, same[:, ::-1]) > divergence(same, 0.9 * same + 0.1 * same[:, ::-1]) > 0


KILL = """
    import sys, os, signal
    from pathlib import Path
    from edgeskin.files import write_atomic
    from edgeskin.quantize import trials
    calls = [0]
    real = trials.write_atomic
    def dying(path, data):
        calls[0] += path.name == trials.STATE
        if calls[0] == 2:
            path.with_name(f".{path.name}.half").write_bytes(b"{")
            os.kill(os.getpid(), signal.SIGKILL)
        real(path, data)
    trials.write_atomic = dying
    made = trials.Trials.__new__(trials.Trials)
    made._state, made.folder = {"spent_s": 0.0, "found": {}, "seconds": {}}, Path(sys.argv[1])
    made._before, made._begun = 0.0, 0.0
    made.once("a", 1, lambda: {"x": 1})
    made.once("a", 2, lambda: {"x": 2})
"""


def test_kill_9_in_the_middle_of_writing_keeps_what_was_known(tmp_path: Path) -> None:
    code = textwrap.dedent(KILL)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, env={**os.environ})
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    state = json.loads((tmp_path / STATE).read_text())
    assert list(state["found"].values()) == [{"x": 1}]


def test_a_graph_of_the_dermoscopic_image_alone_has_to_hold_the_gate_too(make, target: str) -> None:
    trials, asked = make(both=True), recipe(target)
    found, holds = trials.effect(asked)
    assert holds
    both = {
        mode: trials.logits(trials.session(trials.model(asked, mode), asked), trials.control, int) for mode in MODES
    }
    assert {mode: logits.shape[1] for mode, logits in both.items()} == IMAGES
    schema = DECIDING.task_schema
    alone = divergence(*(task_probabilities(x, schema, DECIDING.fusion, "dermoscopic")["DIAG"]
                         for x in (trials.control.alone, both["dermoscopic"])))  # fmt: skip
    pair = effect(DECIDING, trials.control, both["pair"]).divergence
    assert found.divergence == pytest.approx((pair + alone) / 2)
    turned = both | {"dermoscopic": -both["dermoscopic"]}  # the pair graph is as good as before
    spec = GateSpec(margins={"auc": Margin(value=0.3, reason="less than turned around")}, bootstrap=200)
    assert trials.gate(recipe(target, gate=spec), both).passed
    result = trials.gate(recipe(target, gate=spec), turned)
    assert result is not None
    assert not result.passed
    assert {check.mode for check in result.checks if check.verdict == "fails"} == {"dermoscopic"}
