"""From a kit to a sealed bundle. The "engines" are the kit's own graphs in ONNX Runtime: real numbers, no TensorRT."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from edgeskin import chain, golden, kits, nearness, sealing
from edgeskin import tensorrt_here as here
from edgeskin.backends import Executed, Session
from edgeskin.backends._emulation import Emulation
from edgeskin.bundle import pack
from edgeskin.data.phantom import write_phantom
from edgeskin.engine import maker as makers
from edgeskin.engine.maker import Limits
from edgeskin.engine.memory import Available
from edgeskin.errors import EdgeskinError
from edgeskin.files import pretty_json, sha256_bytes, sha256_file, write_atomic
from edgeskin.layers import read_file
from edgeskin.opening import Bundle, open_bundle
from edgeskin.sealing import Options
from edgeskin.spec.evidence import Evidence
from edgeskin.spec.manifest import MODES, Compatibility, Manifest, Mode

BOARD = Compatibility(
    device="jetson-orin-nano", arch="aarch64", sm="8.7", tensorrt="10.3.0", cuda="12.6", jetpack="6.1 to 6.2.2",
    gpu="Orin", driver="12.6",
)  # fmt: skip
ROOM = Available(8 << 30)
TWO = Options(rebuilds=2)
Spoil = Callable[[ModelProto, str], None]


class Compiled(Emulation):
    """A graph in the place of an engine. `slow`: what is to take longer; `lost`: layers that it ran in FP16."""

    def __init__(self, plan: Path, slow: bool, lost: tuple[str, ...]) -> None:
        super().__init__(plan, 1)
        self._plan, self._slow, self._lost = plan, slow, lost

    def _infer(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        if self._slow:
            time.sleep(0.05)
        return super()._infer(frames)

    def executed_layers(self) -> tuple[list[Executed], int]:
        graph = self._plan.with_suffix(".onnx")
        shutil.copyfile(self._plan, graph)
        found = []
        for layer in read_file(graph):
            whole = layer.int8 and layer.names[0] not in self._lost and "all" not in self._lost
            precision = "int8" if whole else "fp16"
            found.append(Executed(layer.names[0], layer.names, "CaskConvolution", precision, True, layer.output))
        graph.unlink()
        return found, 3


@dataclass
class GraphMaker:
    """Copies a graph where an engine is to be, after `spoil` changed it; counts what it builds."""

    spoil: Spoil = lambda model, name: None
    slow: str = "fp16"  # precision that is to take longer
    lost: tuple[str, ...] = ()
    kill_at: int = 0  # the build that is killed
    cases: int = 6
    used_cache: bool = False
    name: Literal["tensorrt", "trtexec"] = "tensorrt"
    compatibility: Compatibility = BOARD
    built: list[tuple[str, Limits]] = field(default_factory=list)

    def build(self, graph: Path, plan: Path, limits: Limits, step: Callable[[int], object]) -> None:
        if self.kill_at and len(self.built) + 1 == self.kill_at:
            plan.write_bytes(graph.read_bytes()[:1000])  # worse than what a kill can leave, as plans come whole
            raise KeyboardInterrupt
        model = onnx.load(graph)
        self.spoil(model, plan.stem)
        write_atomic(plan, model.SerializeToString())
        self.built.append((plan.stem, limits))
        step(99)

    def open(self, plan: Path) -> Session:
        return Compiled(plan, self.slow in plan.stem, self.lost)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.built]


def shifted(model: ModelProto, by: float = 0.0, times: float = 1.0) -> None:
    """Logits of a graph, times and plus a number."""
    (output,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = ["before" if name == output.name else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.array(times, np.float32), "times"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(by, np.float32), "by"))
    model.graph.node.append(helper.make_node("Mul", ["before", "times"], ["scaled"], name="times"))
    model.graph.node.append(helper.make_node("Add", ["scaled", "by"], [output.name], name="by"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Few rounds of timing, and a cache for each test: what a failed build leaves would be taken up."""
    monkeypatch.setenv("EDGESKIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sealing, "_ROUNDS", 12)
    monkeypatch.setattr(sealing, "_TIMED_ONCE", 3)


@pytest.fixture(scope="module")
def kit(tiny_kit: Path) -> Bundle:
    return open_bundle(tiny_kit)


def seal(kit: Bundle, folder: Path, maker: GraphMaker, options: Options = TWO, **more: Any) -> Manifest:
    return sealing.build(kit, folder, maker, more.pop("memory", ROOM), options, **more)


def refused(kit: Bundle, folder: Path, maker: GraphMaker, options: Options = TWO, **more: Any) -> str:
    """The error of a build that fails, and that it left no bundle and nothing beside it."""
    with pytest.raises(EdgeskinError) as caught:
        seal(kit, folder, maker, options, **more)
    assert "\n" not in caught.value.line()
    assert not folder.exists()
    assert not list(folder.parent.glob(f".{folder.name}*"))
    return caught.value.line()


def proof(folder: Path) -> Evidence:
    found = open_bundle(folder).evidence()
    assert found is not None
    assert found.engine is not None
    return found


def edited(kit: Bundle, out: Path, change: Callable[[dict[str, Any]], None]) -> Bundle:
    """A kit whose manifest was changed and sealed again, as if it had been made so."""
    shutil.copytree(kit.root, out)
    plain = json.loads((out / "manifest.json").read_text())
    change(plain)
    text = pretty_json(plain)
    (out / "manifest.json").write_text(text)
    (out / "manifest.sha256").write_text(f"{sha256_bytes(text.encode())}  manifest.json\n")
    return open_bundle(out)


def test_a_kit_becomes_a_sealed_bundle_of_engines(kit: Bundle, tmp_path: Path) -> None:
    maker = GraphMaker()
    manifest = seal(kit, tmp_path / "b", maker)
    before = kit.manifest
    assert (manifest.stage, manifest.target, manifest.precision) == ("ready", "tensorrt", "int8")
    assert manifest.compatibility == BOARD
    assert (manifest.fp16, manifest.answers_file, manifest.name) == ({}, "", "b")
    assert {entry.file for entry in manifest.graphs.values()} == {"model/pair.plan", "model/dermoscopic.plan"}
    assert {entry.precision for entry in manifest.reference.values()} == {"fp32"}
    for same in ("thresholds", "fusion", "task_schema", "preprocess", "roles", "recipe", "data", "parameters"):
        assert getattr(manifest, same) == getattr(before, same)
    assert manifest.provenance.calibration_sha256 == before.provenance.calibration_sha256
    assert manifest.provenance.checkpoint_sha256 == before.provenance.checkpoint_sha256
    assert manifest.provenance.versions["tensorrt"] == "10.3.0"
    assert manifest.gated.status == "passed"
    assert manifest.gated.why.startswith("emulated, without the engine: ")
    bundle = open_bundle(tmp_path / "b")
    assert bundle.lesion_hashes() == kit.lesion_hashes()
    evidence = proof(tmp_path / "b")
    engine = evidence.engine
    assert engine is not None
    assert (engine.kit_sha256, engine.maker, engine.timing_cache) == (kit.sha256, "tensorrt", "new")
    assert evidence.audit is not None
    assert evidence.audit.passed
    assert evidence.speed is not None
    assert evidence.speed.int8_is_faster
    assert set(evidence.speed.p50_ms) == {"int8, engine", "fp16, engine"}
    assert evidence.kit is not None, "what was known of the kit travels on"
    assert engine.nearness == engine.dla_fallback == ()
    for mode in MODES:
        assert bundle.path(manifest.graphs[mode].file).read_bytes()
        assert len(engine.rebuilds[mode]) == 2
        assert all(one.max_abs_difference < 1e-4 and one.flips == 0 for one in engine.rebuilds[mode])
    words = ["int8-0", "int8-1"]
    assert maker.names == [f"{m}-{w}" for m in MODES for w in words] + [
        f"{m}-{w}" for w in ("fp16", "fp32") for m in MODES
    ]
    assert not list((tmp_path / "cache" / "tensorrt" / "builds").iterdir()), "nothing of the work is left"


def test_golden_cases_are_the_engines_own_answers(kit: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seal(kit, tmp_path / "b", GraphMaker(spoil=lambda model, name: shifted(model, 0.01) if "int8" in name else None))
    bundle = open_bundle(tmp_path / "b")
    assert len(bundle.manifest.golden) == 8
    drawn, emulated = kits.read_drawn(kit.path(kits.DRAWN))
    for case in bundle.manifest.golden:
        frames, logits = bundle.golden(case)
        number = int(case.name.rpartition("-")[2])
        assert number < 6
        np.testing.assert_array_equal(frames, drawn[number][-len(frames) :])
        np.testing.assert_allclose(logits, emulated[case.mode][number] + 0.01, atol=1e-4)
    # On the board TensorRT opens the plans; here the same session as above stands in for it.
    monkeypatch.setattr("edgeskin.backends.tensorrt._Engine", lambda path: Compiled(path, False, ()))
    monkeypatch.setattr(here, "here", lambda: BOARD)
    found = chain.golden_only(tmp_path / "b", threads=1)
    assert found.passed
    assert all(one.max_abs_error < 1e-4 for one in found.golden)
    assert found.audit is not None
    assert found.audit.passed


def test_the_build_nearest_to_the_emulation_is_kept(kit: Bundle, tmp_path: Path) -> None:
    off = {"0": 0.2, "1": 0.01, "2": 0.1}

    def spoil(model: ModelProto, name: str) -> None:
        if "int8" in name:
            shifted(model, off[name[-1]])

    maker = GraphMaker(spoil)
    seal(kit, tmp_path / "b", maker, Options(rebuilds=3))
    engine = proof(tmp_path / "b").engine
    assert engine is not None
    for mode in MODES:
        table = engine.rebuilds[mode]
        assert [round(one.max_abs_difference, 3) for one in table] == [0.2, 0.01, 0.1]
        assert [one.chosen for one in table] == [False, True, False]
        assert len({one.sha256 for one in table}) == 3
        assert [one.cases for one in table] == [6, 6, 6]
        kept = tmp_path / "b" / "model" / f"{mode}.plan"
        assert sha256_file(kept) == table[1].sha256
        assert kept.stat().st_size == table[1].size_bytes
        assert all(one.seconds >= 0 and one.p50_ms > 0 for one in table)


def test_a_build_that_flips_no_decision_comes_before_a_nearer_one(
    kit: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sealing, "_SQNR_DB", -100.0
    )  # the order is asked here: on its own the chosen one is too far off

    def spoil(model: ModelProto, name: str) -> None:
        if "int8-1" in name:
            shifted(model, 0.4)
        elif "int8" in name:
            shifted(model, times=-1.0)

    seal(kit, tmp_path / "b", GraphMaker(spoil))
    engine = proof(tmp_path / "b").engine
    assert engine is not None
    for mode in MODES:
        first, second = engine.rebuilds[mode]
        assert first.flips > second.flips == 0
        assert second.chosen


def test_a_build_without_finite_numbers_is_left_out(
    kit: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def spoil(model: ModelProto, name: str) -> None:
        if "int8-0" in name:
            shifted(model, float("nan"))

    seal(kit, tmp_path / "b", GraphMaker(spoil))
    assert "build 1 of the pair graph gives numbers that are not finite" in capsys.readouterr().err
    engine = proof(tmp_path / "b").engine
    assert engine is not None
    assert [len(engine.rebuilds[mode]) for mode in MODES] == [1, 1]
    line = refused(kit, tmp_path / "c", GraphMaker(spoil), Options(rebuilds=1))
    assert "numbers that are not finite" in line
    assert "--rebuilds" in line


@pytest.mark.parametrize(("change", "told"), [({"times": -1.0}, "-6.0 dB"), ({"by": 0.7}, "logits off by 0.7,")])
def test_an_engine_that_answers_otherwise_is_refused(
    kit: Bundle, tmp_path: Path, change: dict[str, float], told: str
) -> None:
    maker = GraphMaker(lambda model, name: shifted(model, **change) if "int8" in name else None)
    line = refused(kit, tmp_path / "b", maker)
    assert "the pair engine does not decide as its kit" in line
    assert "logits within 0.5, 10 dB or more" in line
    assert told in line
    assert "dermoscopic-int8-0" not in maker.names, "nothing more is built"


def test_a_killed_build_is_taken_up(kit: Bundle, tmp_path: Path) -> None:
    maker = GraphMaker(kill_at=4)
    with pytest.raises(KeyboardInterrupt):
        seal(kit, tmp_path / "b", maker)
    assert maker.names == ["pair-int8-0", "pair-int8-1", "dermoscopic-int8-0"]
    assert not (tmp_path / "b").exists()
    work = next((tmp_path / "cache" / "tensorrt" / "builds").iterdir())
    spoilt = work / "pair-int8-1.plan"
    spoilt.write_bytes(spoilt.read_bytes()[:-1])
    again = GraphMaker()
    seal(kit, tmp_path / "b", again)
    assert again.names[:2] == ["pair-int8-1", "dermoscopic-int8-1"], "a plan that is not whole, and the one killed"
    assert len(again.names) == 2 + 4
    engine = proof(tmp_path / "b").engine
    assert engine is not None
    assert all(len(engine.rebuilds[mode]) == 2 for mode in MODES)


@pytest.mark.parametrize(
    "other",
    [
        {"compatibility": BOARD.model_copy(update={"driver": "12.7"})},
        {"name": "trtexec"},
        {"options": Options(rebuilds=1, workspace_mb=100)},
    ],
)
def test_what_another_machine_maker_or_choice_built_is_not_taken_up(
    kit: Bundle, tmp_path: Path, other: dict[str, Any]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        seal(kit, tmp_path / "b", GraphMaker(kill_at=2), Options(rebuilds=1))
    options = other.pop("options", Options(rebuilds=1))
    maker = GraphMaker(**other, kill_at=2)
    with pytest.raises(KeyboardInterrupt):
        seal(kit, tmp_path / "b", maker, options)
    assert maker.names == ["pair-int8-0"]


def test_int8_that_is_not_faster_is_not_shipped(kit: Bundle, tmp_path: Path) -> None:
    manifest = seal(kit, tmp_path / "b", GraphMaker(slow="int8"))
    assert (manifest.precision, manifest.recipe.precision, manifest.recipe.gate) == ("fp16", "fp16", None)
    assert {entry.precision for entry in manifest.graphs.values()} == {"fp16"}
    assert manifest.gated.status == "not needed"
    assert "times as long as fp16" in manifest.gated.why
    evidence = proof(tmp_path / "b")
    assert evidence.speed is not None
    assert not evidence.speed.int8_is_faster
    assert evidence.speed.ratio.value is not None
    assert evidence.speed.ratio.value > 1
    assert (evidence.audit, evidence.gate) == (None, None), "they were of INT8"
    assert {case.tolerance for case in manifest.golden} == {golden.TOLERANCE["fp16"]}
    half = {mode: kit.path(entry.file) for mode, entry in kit.manifest.fp16.items()}
    for mode in MODES:
        assert onnx.load(tmp_path / "b" / manifest.graphs[mode].file) == onnx.load(half[mode])


def test_an_fp16_engine_that_answers_otherwise_is_not_shipped_instead(kit: Bundle, tmp_path: Path) -> None:
    maker = GraphMaker(lambda model, name: shifted(model, times=-1.0) if "fp16" in name else None, slow="int8")
    assert "does not decide as its kit" in refused(kit, tmp_path / "b", maker)


@pytest.mark.parametrize("lost", [("all",), None])
def test_layers_that_silently_left_int8_fail_the_build(
    kit: Bundle, tmp_path: Path, lost: tuple[str, ...] | None
) -> None:
    if lost is None:  # the largest layers alone, down to three quarters of the products
        layers = sorted(
            (x for x in read_file(kit.path(kit.manifest.graphs["pair"].file)) if x.int8), key=lambda x: -x.macs
        )
        lost = tuple(layer.names[0] for layer in layers[: len(layers) // 2])
    maker = GraphMaker(lost=lost)
    line = refused(kit, tmp_path / "b", maker)
    assert "silent FP32" in line
    assert "layers planned as INT8 do not run so" in line
    assert not [name for name in maker.names if name.endswith(("fp16", "fp32"))]


def test_a_kit_that_does_not_say_what_calibrated_it_is_refused(kit: Bundle, tmp_path: Path) -> None:
    bare = edited(kit, tmp_path / "kit", lambda plain: plain["provenance"].update(calibration_sha256=""))
    maker = GraphMaker()
    line = refused(bare, tmp_path / "b", maker)
    assert "calibrated" in line
    assert maker.names == []


def test_a_lean_kit_lacks_what_proves_it(kit: Bundle, tmp_path: Path) -> None:
    lean = open_bundle(pack(kit.root, tmp_path / "kit.zip", lean=True))
    maker = GraphMaker()
    assert "packed with --lean" in refused(lean, tmp_path / "b", maker)
    whole = open_bundle(pack(kit.root, tmp_path / "whole.zip"))
    assert whole.sha256 == kit.sha256
    assert maker.names == []


def test_an_engine_is_no_kit(kit: Bundle, tmp_path: Path) -> None:
    seal(kit, tmp_path / "b", GraphMaker(), Options(rebuilds=1))
    made, maker = open_bundle(tmp_path / "b"), GraphMaker()
    assert "not a build kit" in refused(made, tmp_path / "c", maker)
    with pytest.raises(EdgeskinError, match="not a build kit"):
        chain.build(tmp_path / "b", tmp_path / "c")
    assert maker.names == []


@pytest.mark.parametrize("name", ["model/pair.onnx", "fp16/dermoscopic.onnx", "reference/drawn.npz", "evidence.json"])
def test_an_edited_kit_is_refused_before_anything_else(kit: Bundle, tmp_path: Path, name: str) -> None:
    shutil.copytree(kit.root, tmp_path / "kit")
    path = tmp_path / "kit" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(EdgeskinError, match=f"tampered or damaged bundle .*{name}: SHA-256"):
        chain.build(tmp_path / "kit", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_too_little_memory_is_refused_before_anything_is_built(kit: Bundle, tmp_path: Path) -> None:
    maker = GraphMaker()
    line = refused(kit, tmp_path / "b", maker, memory=Available(900 << 20, swap_bytes=0, zram=True))
    assert "not enough memory to build the engine" in line
    assert "0.9 GB free" in line
    assert "zram adds none" in line
    assert maker.names == []


def test_the_workspace_is_the_one_asked_for_or_estimated(kit: Bundle, tmp_path: Path) -> None:
    maker = GraphMaker()
    seal(kit, tmp_path / "b", maker, Options(rebuilds=1, workspace_mb=100))
    assert {limits for _, limits in maker.built} == {Limits(100 << 20)}
    engine = proof(tmp_path / "b").engine
    assert engine is not None
    for one in engine.memory.values():
        assert one.workspace_bytes == 100 << 20
        assert one.available_bytes == ROOM.memory_bytes >= one.needed_bytes
    chosen = GraphMaker()
    seal(kit, tmp_path / "c", chosen, Options(rebuilds=1), memory=Available(3 << 30))
    assert all(64 << 20 <= limits.workspace_bytes <= 1 << 30 for _, limits in chosen.built)


def test_what_dla_leaves_to_the_gpu_is_counted(kit: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = GraphMaker()
    options = Options(rebuilds=1, dla_core=1)
    line = refused(kit, tmp_path / "b", maker, options)
    assert "nothing of this network runs on the DLA" in line
    real = Compiled.executed_layers

    def most_on_dla(self: Compiled) -> tuple[list[Executed], int]:
        layers, reorders = real(self)
        kinds = ["DLA"] * (len(layers) - 2) + ["CaskGemm"] * 2
        made = [
            Executed(x.name, x.origin, kind, x.precision, x.multiplies, x.output)
            for x, kind in zip(layers, kinds, strict=True)
        ]
        return made, reorders

    monkeypatch.setattr(Compiled, "executed_layers", most_on_dla)
    again = GraphMaker()
    manifest = seal(kit, tmp_path / "b", again, options)
    assert manifest.compatibility == BOARD.model_copy(update={"dla_core": 1})
    engine = proof(tmp_path / "b").engine
    assert engine is not None
    assert 2 <= len(engine.dla_fallback) <= 4
    cores = {name.rpartition("-")[2]: limits.dla_core for name, limits in maker.built + again.built}
    assert (cores["0"], cores["fp16"], cores["fp32"]) == (1, 1, None), "DLA has no FP32"


def ask(kit: Bundle, **more: Any) -> sealing.Ask:
    return partial(nearness.put_to_lesions, kit, **{"root": "", "allow_ungated": False, **more})


def test_the_gate_is_put_to_the_engine_where_the_lesions_are(kit: Bundle, tmp_path: Path) -> None:
    manifest = seal(kit, tmp_path / "b", GraphMaker(), Options(rebuilds=1), put_to_lesions=ask(kit))
    assert manifest.gated.status == "passed"
    assert manifest.gated.why.startswith("on the engine: ")
    evidence = proof(tmp_path / "b")
    assert evidence.gate is not None
    assert evidence.gate.passed
    assert evidence.gate.lesions == kit.manifest.roles["control"].lesions
    engine = evidence.engine
    assert engine is not None
    assert [one.role for one in engine.nearness] == ["control", "test"]
    for one in engine.nearness:
        assert one.lesions == kit.manifest.roles[one.role].lesions
        for mode in MODES:  # the engine is the emulation here
            assert one.parity[mode].max_abs_probability_difference < 1e-5
            assert one.parity[mode].predicted.flipped == one.parity[mode].referral.flipped == 0


def test_an_engine_that_lies_off_the_emulation_is_seen(kit: Bundle, tmp_path: Path) -> None:
    sessions: dict[Mode, Session] = {}
    for mode in MODES:
        model = onnx.load(kit.path(kit.manifest.graphs[mode].file))
        shifted(model, times=1.05)
        onnx.save(model, tmp_path / f"{mode}.plan")
        sessions[mode] = Compiled(tmp_path / f"{mode}.plan", False, ())
    _, checked, near = nearness.put_to_lesions(kit, sessions, tmp_path, root="", allow_ungated=True)
    assert checked is not None
    assert [one.role for one in near] == ["control", "test"]
    for one in near:
        for parity in one.parity.values():
            assert 1e-5 < parity.max_abs_probability_difference < 0.1
            assert parity.sqnr_db.value == pytest.approx(-20 * np.log10(0.05), abs=0.5)


def strict(plain: dict[str, Any]) -> None:
    """A gate that no rounded network holds: not the least more of calibration error."""
    plain["recipe"]["gate"]["margins"] = {"ece": {"value": 0.0, "reason": "a gate that cannot hold"}}


def test_a_gate_that_the_engine_does_not_hold_ends_the_build(kit: Bundle, tmp_path: Path) -> None:
    hard = edited(kit, tmp_path / "kit", strict)
    line = refused(hard, tmp_path / "b", GraphMaker(), Options(rebuilds=1), put_to_lesions=ask(hard))
    assert "ece" in line
    again = GraphMaker()
    manifest = seal(hard, tmp_path / "b", again, Options(rebuilds=1), put_to_lesions=ask(hard, allow_ungated=True))
    assert again.names == [], "the engines were built before"
    assert manifest.gated.status == "ungated"
    assert "on the engine" in manifest.gated.why
    evidence = proof(tmp_path / "b")
    assert evidence.gate is not None
    assert not evidence.gate.passed


def test_lesions_of_another_collection_are_refused(kit: Bundle, tmp_path: Path) -> None:
    write_phantom(tmp_path / "other", 120, 6, 64)
    asked = ask(kit, root=str(tmp_path / "other"))
    line = refused(kit, tmp_path / "b", GraphMaker(), Options(rebuilds=1), put_to_lesions=asked)
    assert "these lesions are not the ones the bundle was made with" in line


def test_what_is_no_bundle_is_not_overwritten(kit: Bundle, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("mine")
    with pytest.raises(EdgeskinError, match="the output exists and is no bundle"):
        seal(kit, tmp_path / "b", GraphMaker(), Options(rebuilds=1))
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["mine.txt"]


@pytest.fixture
def on_the_board(monkeypatch: pytest.MonkeyPatch) -> GraphMaker:
    """`chain.build` as on the board, with the maker of this file."""
    maker = GraphMaker()
    monkeypatch.setattr(makers, "find", lambda manifest, program=False: maker)
    monkeypatch.setattr("edgeskin.engine.memory.here", lambda: ROOM)
    return maker


def test_a_second_build_has_nothing_to_do(
    kit: Bundle, tmp_path: Path, on_the_board: GraphMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "b"
    first = chain.build(kit.root, out, Options(rebuilds=1))
    assert first.gated.why.startswith("on the engine"), "the data lies where the training found it"
    built = len(on_the_board.built)
    assert chain.build(kit.root, out, Options(rebuilds=1)) == first
    assert "nothing to do" in capsys.readouterr().err
    assert len(on_the_board.built) == built
    assert sealing.is_built(kit, out, BOARD, TWO)
    assert not sealing.is_built(kit, out, BOARD.model_copy(update={"driver": "12.7"}), TWO)
    assert not sealing.is_built(kit, out, BOARD, Options(dla_core=0))
    assert not sealing.is_built(kit, tmp_path / "none", BOARD, TWO)
    other = edited(kit, tmp_path / "other", lambda plain: plain.update(name="other"))
    assert not sealing.is_built(other, out, BOARD, TWO)
    (out / "model" / "pair.plan").write_bytes(b"damaged")
    assert not sealing.is_built(kit, out, BOARD, TWO)
    chain.build(kit.root, out, Options(rebuilds=1))
    assert len(on_the_board.built) == 2 * built
    assert open_bundle(out).manifest.stage == "ready"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"tensorrt": "10.16.2", "jetpack": "7.2 to 7.2.1"}, ["another TensorRT", "10.16.2 here", "--jetpack 7.2"]),
        ({"tensorrt": "8.6.2"}, ["another TensorRT", "install JetPack 6.1 to 6.2.2"]),
        ({"sm": "11.0", "device": "jetson-thor"}, ["another GPU architecture", "SM 8.7", "--device jetson-thor"]),
        ({"arch": "x86_64", "device": "this machine"}, ["another architecture", "aarch64 (jetson-orin-nano)"]),
    ],
)
def test_a_kit_for_another_machine_is_refused(
    kit: Bundle, tmp_path: Path, on_the_board: GraphMaker, change: dict[str, str], told: list[str]
) -> None:
    on_the_board.compatibility = BOARD.model_copy(update=change)
    with pytest.raises(EdgeskinError) as caught:
        chain.build(kit.root, tmp_path / "b")
    assert all(word in caught.value.line() for word in told)
    assert on_the_board.names == []


def test_without_the_data_the_gate_stays_the_emulations(
    kit: Bundle, tmp_path: Path, on_the_board: GraphMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    away = edited(kit, tmp_path / "kit", lambda plain: plain["data"].update(root="/not/here"))
    manifest = chain.build(away.root, tmp_path / "b", Options(rebuilds=1))
    assert manifest.gated.why.startswith("emulated, without the engine")
    assert "pass --root" in capsys.readouterr().err
    there = chain.build(away.root, tmp_path / "c", Options(rebuilds=1), root=kit.manifest.data.root)
    assert there.gated.why.startswith("on the engine")
