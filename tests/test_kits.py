"""A whole build kit of a tiny network: what lies in it, what is known of it, and what is refused."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from typer.testing import CliRunner

from edgeskin import backends, chain, golden, kits, runtime
from edgeskin.cli import app
from edgeskin.data.roles import role_hash, short_hash
from edgeskin.engine import sibling
from edgeskin.errors import EdgeskinError
from edgeskin.files import sha256_file
from edgeskin.opening import Bundle, open_bundle
from edgeskin.quantize.graph import load
from edgeskin.quantize.lint import lint
from edgeskin.spec.engine import KitEvidence
from edgeskin.spec.manifest import IMAGES, MODES, Manifest

ORIN = "jetson-orin-nano"


@pytest.fixture(scope="module")
def kit(tiny_kit: Path) -> Bundle:
    return open_bundle(tiny_kit)


@pytest.fixture(scope="module")
def known(kit: Bundle) -> KitEvidence:
    evidence = kit.evidence()
    assert evidence is not None
    assert evidence.kit is not None
    return evidence.kit


def export(run: Path, out: Path, **options: str) -> Manifest:
    return chain.export(run, "tensorrt", out, **{"device": ORIN, "jetpack": "6.2", **options})  # type: ignore[arg-type]


def stored_types(path: Path) -> set[int]:
    """Types of the stored tensors that a layer multiplies by."""
    graph = onnx.load(path).graph
    factors = {node.input[1] for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")}
    return {tensor.data_type for tensor in graph.initializer if tensor.name in factors}


def test_the_manifest_says_what_the_kit_is_and_for_what(kit: Bundle) -> None:
    manifest = kit.manifest
    assert (manifest.stage, manifest.target, manifest.precision) == ("kit", "tensorrt", "int8")
    bound = manifest.compatibility
    assert bound is not None
    assert (bound.device, bound.arch, bound.sm, bound.tensorrt) == (ORIN, "aarch64", "8.7", "10.3.0")
    assert (bound.jetpack, bound.cuda) == ("6.1 to 6.2.2", "12.6")
    assert (bound.gpu, bound.driver, bound.dla_core) == ("", "", None), "no machine was seen yet"
    assert manifest.gated.status == "passed"
    assert re.fullmatch("[0-9a-f]{64}", manifest.provenance.calibration_sha256)
    assert manifest.provenance.calibration_pairs == 8
    assert not manifest.tuning


def test_every_graph_is_typed_as_it_is_to_run(kit: Bundle) -> None:
    manifest = kit.manifest
    for mode in MODES:
        int8, half, plain = (entries[mode] for entries in (manifest.graphs, manifest.fp16, manifest.reference))
        assert (int8.precision, half.precision, plain.precision) == ("int8", "fp16", "fp32")
        assert int8.images == half.images == plain.images == IMAGES[mode]
        assert stored_types(kit.path(half.file)) == {TensorProto.FLOAT16}
        assert stored_types(kit.path(plain.file)) == {TensorProto.FLOAT}
        assert TensorProto.FLOAT not in stored_types(kit.path(int8.file)), "FP16 where it is not INT8"
        graph = onnx.load(kit.path(int8.file)).graph
        stored = {tensor.name: tensor for tensor in graph.initializer}
        rounding = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
        assert {stored[node.input[1]].data_type for node in rounding} == {TensorProto.FLOAT16}
        assert all(not np.any(numpy_helper.to_array(stored[node.input[2]])) for node in rounding), "zero points are 0"


def test_the_graphs_pass_the_linter_and_keep_nothing_of_the_exporter(kit: Bundle) -> None:
    for entries in (kit.manifest.graphs, kit.manifest.fp16, kit.manifest.reference):
        for entry in entries.values():
            assert lint(load(kit.path(entry.file)), "10.3.0") == ()
            nodes = onnx.load(kit.path(entry.file)).graph.node
            assert not any(node.doc_string or node.metadata_props for node in nodes)


def test_the_evidence_tells_plan_needs_and_emulation(kit: Bundle, known: KitEvidence, tiny_run: Path) -> None:
    assert known.linted_for == "10.3.0"
    for mode in MODES:
        assert known.nodes[mode] == len(onnx.load(kit.path(kit.manifest.graphs[mode].file)).graph.node)
        planned = known.planned[mode]
        assert {layer.executed for layer in planned} == {"unknown"}, "nothing has run yet"
        products = sum(layer.macs for layer in planned)
        assert sum(layer.macs for layer in planned if layer.planned == "int8") / products > 0.8
        weights = onnx.load(kit.path(kit.manifest.reference[mode].file)).graph.initializer
        assert known.needs[mode].weights_bytes == sum(numpy_helper.to_array(tensor).nbytes for tensor in weights)
        assert known.needs[mode].activation_bytes > 64 * 64 * 3 * 4 * IMAGES[mode]
    assert [one.role for one in known.emulated] == ["control", "test"]
    data = json.loads((tiny_run / "checkpoint.json").read_text())["data"]
    assert data["root"] == kit.manifest.data.root
    for one in known.emulated:
        record = kit.manifest.roles[one.role]
        assert (one.role_sha256, one.lesions) == (record.sha256, record.lesions)
        assert set(one.parity) == set(one.accuracy) == set(MODES)
        assert all(0 < found.max_abs_probability_difference < 0.5 for found in one.parity.values())


def test_a_sibling_accepted_the_graphs_or_the_reason_is_told(known: KitEvidence) -> None:
    if known.sibling is None:
        assert known.sibling_why_not
        assert known.sibling_why_not == sibling.unsupported()
        return
    assert known.sibling_why_not == ""
    assert known.sibling.builder.startswith("tensorrt-rtx ")
    for mode, graph in known.sibling.modes.items():
        assert graph.audit.planned_int8_macs == sum(x.macs for x in known.planned[mode] if x.planned == "int8")
        assert graph.audit.int8_share > 0.8


def test_answers_and_drawn_frames_are_those_of_the_graphs(kit: Bundle) -> None:
    frames, drawn = kits.read_drawn(kit.path(kits.DRAWN))
    height, width = kit.manifest.preprocess.height, kit.manifest.preprocess.width
    assert frames.shape == (golden.DRAWN, 2, height, width, 3)
    assert frames.dtype == np.uint8
    answers = kits.read_answers(kit.path(kits.ANSWERS))
    assert set(answers) == {"control", "test"}
    hashes = kit.lesion_hashes()
    for role, kept in answers.items():
        assert set(kept.lesions) == set(hashes[role])
        assert len(set(kept.lesions)) == len(kept.lesions) == kit.manifest.roles[role].lesions
        for mode in MODES:
            shape = (len(kept.lesions), IMAGES[mode], kit.manifest.task_schema.logits)
            assert kept.fp32[mode].shape == kept.emulated[mode].shape == shape
            assert np.isfinite(kept.fp32["dermoscopic"]).all()
            assert not np.array_equal(kept.fp32[mode], kept.emulated[mode])
    for mode in MODES:
        session = backends.get("tensorrt").open(kit.path(kit.manifest.graphs[mode].file), threads=1)
        np.testing.assert_allclose(golden.asked(session, frames[:4], mode), drawn[mode][:4], atol=1e-4)


def test_golden_cases_hold_in_the_emulation(kit: Bundle) -> None:
    outcomes = runtime.load(kit, threads=1, emulated=True).self_test()
    assert len(outcomes) == 8
    assert all(one.passed and one.max_abs_error < 1e-4 for one in outcomes)
    assert {case.tolerance for case in kit.manifest.golden} == {golden.TOLERANCE["int8"]}


def test_nothing_in_the_kit_names_a_lesion_or_a_path(kit: Bundle, tiny_run: Path) -> None:
    """The root of the data is told in the manifest, as in every bundle, and nowhere else."""
    root = Path(kit.manifest.data.root)
    names = {path.stem.encode() for path in root.rglob("*.[jJ][pP][gG]")}
    assert len(names) > 100
    for path in sorted(kit.root.rglob("*")):
        if path.is_dir():
            continue
        held = path.read_bytes()
        if path.name == "manifest.json":
            held = held.replace(json.dumps(str(root)).encode(), b"")
        for secret in (str(tiny_run), str(root), str(Path.home()), str(Path.cwd()), "site-packages"):
            assert secret.encode() not in held, f"{path.name} holds {secret}"
        assert not [name for name in names if name in held], path.name
    listed = json.loads(kit.path(kit.manifest.lesion_hashes_file).read_text())
    kept = [lesion for one in kits.read_answers(kit.path(kits.ANSWERS)).values() for lesion in one.lesions]
    assert all(
        re.fullmatch("[0-9a-f]{16}", lesion) for lesion in [*kept, *(x for role in listed.values() for x in role)]
    )


def test_roles_are_hashed_as_the_evidence_says(kit: Bundle, known: KitEvidence) -> None:
    from edgeskin.data import registry
    from edgeskin.data.roles import assign

    source = kit.manifest.data
    roles = assign(
        registry.load_pairs(source.name, Path(source.root), source.schema_name, source.border_px), source.roles
    )
    answers = kits.read_answers(kit.path(kits.ANSWERS))
    for one in known.emulated:
        pairs = roles["control" if one.role == "control" else "test"]
        assert role_hash(pair.lesion_id for pair in pairs) == one.role_sha256
        assert list(answers[one.role].lesions) == [short_hash(pair.lesion_id) for pair in pairs]


def test_a_second_export_has_nothing_to_do(
    tiny_run: Path, kit: Bundle, kit_recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in kit.root.rglob("*")}
    again = export(tiny_run, kit.root, recipe=kit_recipe)
    assert again == kit.manifest
    assert "nothing to do" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in kit.root.rglob("*")} == before


def test_verify_emulates_a_kit_and_says_so(kit: Bundle) -> None:
    found = chain.verify(kit.root, bootstrap=50, threads=1)
    assert found.passed
    assert any("a build kit, emulated on the CPU" in note for note in found.notes)
    assert found.engine["backend"] == "emulation of tensorrt"
    assert found.audit is None
    only = chain.golden_only(kit.root, threads=1)
    assert only.passed
    assert any("emulated" in note for note in only.notes)


@pytest.mark.parametrize("command", ["run", "bench"])
def test_a_kit_is_not_run_and_not_measured(kit: Bundle, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "verify", lambda *_, **__: pytest.fail("minutes are spent before the refusal"))
    image = next(Path(kit.manifest.data.root).rglob("*.jpg"))
    extra = ["--dermoscopic", str(image)] if command == "run" else []
    with pytest.raises(EdgeskinError, match="this is a build kit, not yet an engine") as caught:
        CliRunner().invoke(app, [command, str(kit.root), *extra], catch_exceptions=False)
    assert "edgeskin build" in caught.value.line()


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_kits_that_are_not_quantised(tiny_run: Path, tmp_path: Path, precision: str) -> None:
    manifest = export(tiny_run, tmp_path / "kit", recipe=f"tensorrt-{precision}")
    assert (manifest.stage, manifest.precision, manifest.fp16) == ("kit", precision, {})
    assert manifest.gated.status == "not needed"
    assert precision.upper() in manifest.gated.why
    assert manifest.provenance.calibration_sha256 == ""
    kit = open_bundle(tmp_path / "kit")
    evidence = kit.evidence()
    assert evidence is not None
    assert evidence.kit is not None
    assert (evidence.gate, evidence.audit, evidence.speed) == (None, None, None)
    for mode in MODES:
        assert {layer.planned for layer in evidence.kit.planned[mode]} == {"fp32"}
        path = kit.path(manifest.graphs[mode].file)
        assert stored_types(path) == {TensorProto.FLOAT16 if precision == "fp16" else TensorProto.FLOAT}
        assert lint(load(path), "10.3.0") == ()
        worst = max(one.parity[mode].max_abs_probability_difference for one in evidence.kit.emulated)
        assert worst < (0.02 if precision == "fp16" else 1e-4)
    assert all(one.passed for one in runtime.load(kit, threads=1, emulated=True).self_test())
    assert {case.tolerance for case in manifest.golden} == {golden.TOLERANCE[manifest.precision]}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--device", "jetson-orin-nao"], ["unknown device", "did you mean 'jetson-orin-nano'?"]),
        (["--device", "raspberry-pi-5"], ["raspberry-pi-5 runs", "not tensorrt"]),
        (["--device", ORIN, "--jetpack", "5.1"], ["TensorRT 8.5.2", "needs 10.3", "--jetpack"]),
        (["--device", ORIN, "--jetpack", "9"], ["unknown JetPack", "6.1 to 6.2.2"]),
        (["--device", "jetson-xavier-nx"], ["TensorRT 8.5.2", "onnxruntime"]),
        (["--device", ORIN, "--target", "onnxruntime", "--jetpack", "6.2"], ["--jetpack is for target tensorrt"]),
        (["--device", ORIN, "--recipe", "onnxruntime-int8"], ["the recipe is for another target"]),
    ],
)
def test_a_device_that_cannot_be_is_refused_in_one_line(
    tiny_run: Path, tmp_path: Path, given: list[str], told: list[str]
) -> None:
    target = [] if "--target" in given else ["--target", "tensorrt"]
    command = ["export", str(tiny_run), *target, *given, "--out", str(tmp_path / "kit")]
    with pytest.raises(EdgeskinError) as caught:  # which the command line prints as one line, exit code 2
        CliRunner().invoke(app, command, catch_exceptions=False)
    assert "\n" not in caught.value.line()
    assert all(word in caught.value.line() for word in told)
    assert list(tmp_path.iterdir()) == []


def test_without_a_device_a_gpu_is_needed(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeskin.backends._cuda.unsupported", lambda: "no NVIDIA driver on this machine")
    with pytest.raises(EdgeskinError) as caught:
        chain.export(tiny_run, "tensorrt", tmp_path / "kit")
    line = caught.value.line()
    assert "needs to know the device" in line
    assert "no --device, and no NVIDIA driver on this machine" in line
    assert ORIN in line
    assert not (tmp_path / "kit").exists()


def louder(path: Path, out: Path, factor: float) -> Path:
    """The graph with the weights of its first convolution multiplied."""
    model = onnx.load(path)
    name = next(node.input[1] for node in model.graph.node if node.op_type == "Conv")
    tensor = next(t for t in model.graph.initializer if t.name == name)
    value = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((value * value.dtype.type(factor)).astype(value.dtype), name))
    onnx.save(model, out)
    return out


def test_activations_that_fp16_cannot_hold_are_refused(kit: Bundle, tmp_path: Path) -> None:
    frames, _ = kits.read_drawn(kit.path(kits.DRAWN))
    half = {mode: kit.path(entry.file) for mode, entry in kit.manifest.fp16.items()}
    kits.refuse_overflow(half, frames)
    spoilt = half | {"dermoscopic": louder(half["dermoscopic"], tmp_path / "loud.onnx", 60_000)}
    assert np.isfinite(numpy_helper.to_array(onnx.load(tmp_path / "loud.onnx").graph.initializer[0])).all()
    with pytest.raises(EdgeskinError, match="the dermoscopic graph overflows in FP16") as caught:
        kits.refuse_overflow(spoilt, frames)
    assert "65504" in caught.value.line()
    plain = {mode: kit.path(entry.file) for mode, entry in kit.manifest.reference.items()}
    kits.refuse_overflow(plain | {"pair": louder(plain["pair"], tmp_path / "fp32.onnx", 60_000)}, frames)


@pytest.mark.parametrize(("factor", "why"), [(1e5, "overflows in FP16"), (1e9, "constants that FP16 cannot hold")])
def test_a_network_too_loud_for_fp16_is_no_kit(tiny_run: Path, tmp_path: Path, factor: float, why: str) -> None:
    from safetensors.torch import load_file, save_file

    loud = tmp_path / "run"
    shutil.copytree(tiny_run, loud, ignore=shutil.ignore_patterns("onnx-*", "prepared", "work-*"))
    weights = load_file(loud / "checkpoint.safetensors")
    name = next(key for key in weights if key.endswith("conv_stem.weight"))
    weights[name] = weights[name] * factor
    save_file(weights, loud / "checkpoint.safetensors")
    record = json.loads((loud / "checkpoint.json").read_text())
    record["weights_sha256"] = sha256_file(loud / "checkpoint.safetensors")
    (loud / "checkpoint.json").write_text(json.dumps(record))
    with pytest.raises(EdgeskinError, match=why):
        export(loud, tmp_path / "kit", recipe="tensorrt-fp16")
    assert not (tmp_path / "kit").exists()
    assert not list(loud.glob("work-*"))
