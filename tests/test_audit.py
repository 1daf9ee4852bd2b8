"""The precision audit on graphs that engines really run in another precision than they are asked to."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeskin import audit, backends, catalog, layers, verify
from edgeskin.backends import Executed
from edgeskin.bundle import Bundle, open_bundle
from edgeskin.errors import EdgeskinError
from edgeskin.layers import Layer
from edgeskin.runtime import load
from edgeskin.spec.audit import ModeAudit
from edgeskin.spec.evidence import Evidence
from edgeskin.spec.manifest import EVIDENCE

TINY = Path(__file__).resolve().parent / "golden" / "tiny-onnxruntime"
# Three convolutions (3 x 3, stride 2) 3 -> 16 -> 32 -> 32 on 32 x 32, and a matrix 32 -> 7.
MACS = {"conv0": 16 * 16 * 16 * 27, "conv1": 8 * 8 * 32 * 144, "conv2": 4 * 4 * 32 * 288, "head": 7 * 32}

COMPILED_HERE = [name for name in backends.NAMES if name != "tensorrt"]  # whose kits are emulated on this machine


def qdq_file(
    path: Path, *, kind: str = "uint8", zero: int = 0, weight_zero: int = 0, plain: tuple[str, ...] = ()
) -> Path:
    """A Q/DQ network. `kind` of the activations; `zero`: zero point of what follows a ReLU; `plain`: layers whose
    weights are left in floating point."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, stored = [], []

    def store(name: str, value: object) -> str:
        if name not in {tensor.name for tensor in stored}:
            stored.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def rounded(name: str, point: int) -> str:
        limits = [store("scale", np.float32(0.05)), store(f"zero_{point}", np.dtype(kind).type(point))]
        nodes.append(helper.make_node("QuantizeLinear", [name, *limits], [f"{name}_q"], name=f"{name}_Q"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", *limits], [f"{name}_dq"], name=f"{name}_DQ"))
        return f"{name}_dq"

    def weight(layer: str, shape: tuple[int, ...]) -> str:
        if layer in plain:
            return store(f"{layer}.weight", rng.normal(scale=0.1, size=shape).astype(np.float32))
        parts = [
            store(f"{layer}.int8", rng.integers(-90, 90, shape).astype(np.int8)),
            store(f"{layer}.scale", np.full(shape[0], 0.01, np.float32)),
            store(f"{layer}.zero", np.full(shape[0], weight_zero, np.int8)),
        ]
        nodes.append(helper.make_node("DequantizeLinear", parts, [f"{layer}.weight"], name=f"{layer}_DQ", axis=0))
        return f"{layer}.weight"

    nodes.append(helper.make_node("Transpose", ["frames"], ["planes"], name="planes", perm=[0, 3, 1, 2]))
    nodes.append(helper.make_node("Cast", ["planes"], ["x0"], name="float", to=TensorProto.FLOAT))
    channels, middle = 3, {"uint8": 128, "int8": 0, "uint16": 1 << 15}[kind]
    for number, wider in enumerate((16, 32, 32)):
        name, given = f"conv{number}", f"x{number}"
        taken = [rounded(given, zero if number else middle), weight(name, (wider, channels, 3, 3))]
        nodes.append(helper.make_node("Conv", taken, [f"y{number}"], name=name, pads=[1] * 4, strides=[2, 2]))
        nodes.append(helper.make_node("Relu", [f"y{number}"], [f"x{number + 1}"], name=f"relu{number}"))
        channels = wider
    axes = store("axes", np.array([2, 3]))
    nodes.append(helper.make_node("ReduceMean", [rounded("x3", zero), axes], ["mean"], name="mean", keepdims=0))
    taken = [rounded("mean", zero), weight("head", (7, 32))]
    nodes.append(helper.make_node("Gemm", taken, ["y4"], name="head", transB=1))
    rounded("y4", middle)
    nodes[-1].output[0] = "logits"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, [1, 32, 32, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 7])],
        stored,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def audited(target: str, folder: Path, **graph: object) -> ModeAudit:
    """Built and opened as a bundle's graph is."""
    backend = backends.get(target)
    source = qdq_file(folder / "graph.onnx", **graph)
    path = folder / target / backend.build(source, folder / target, catalog.recipe(f"{target}-int8"))[0]
    found = audit.audit_session(backend.open(path, threads=1), path)
    assert found.macs == sum(MACS.values())
    return found


@pytest.mark.parametrize("target", COMPILED_HERE)
def test_what_fits_the_engine_runs_as_planned(target: str, tmp_path: Path) -> None:
    found = audited(target, tmp_path)
    assert found.int8_macs == found.planned_int8_macs == found.macs
    assert (found.fell_back, found.unasked) == ((), ())
    assert found.reorders > 0
    assert sorted(layer.macs for layer in found.layers) == sorted(MACS.values())
    result = audit.check({"dermoscopic": found}, 0.8, {"backend": target})
    assert (result.passed, result.why) == (True, "")
    audit.refuse(result)


@pytest.mark.parametrize("target", COMPILED_HERE)
def test_a_layer_whose_pairs_are_taken_away_is_planned_in_fp32_and_runs_so(target: str, tmp_path: Path) -> None:
    found = audited(target, tmp_path, plain=("conv1",))
    one = next(layer for layer in found.layers if any(name.startswith("conv1") for name in layer.origin))
    assert (one.planned, one.executed, one.macs) == ("fp32", "fp32", MACS["conv1"])
    assert found.planned_int8_macs == found.int8_macs == found.macs - MACS["conv1"]
    assert found.fell_back == ()
    result = audit.check({"dermoscopic": found}, 0.9, {})
    assert not result.passed
    share = f"{1 - MACS['conv1'] / found.macs:.1%}"
    assert result.why == (
        f"dermoscopic: {share} of the multiply-accumulates run in INT8, below the floor of 90.0%; "
        f"the file asks for INT8 in {share} of them alone"
    )


# What each engine silently runs in FP32, though the file asks for INT8:
SILENT = [
    # a zero point in the middle behind a ReLU, which then cannot vanish into the rounding
    ("onnxruntime", {"zero": 128}, ("conv0", "conv1", "conv2")),
    # the same with signed values, the form that TensorRT takes
    ("onnxruntime", {"kind": "int8"}, ("conv0", "conv1", "conv2")),
    # weights that are not symmetric
    ("openvino", {"weight_zero": 3}, ("conv0", "conv1", "conv2")),
]


@pytest.mark.parametrize(("target", "graph", "layers_"), SILENT)
def test_silent_fp32_is_caught(target: str, graph: dict[str, object], layers_: tuple[str, ...], tmp_path: Path) -> None:
    found = audited(target, tmp_path, **graph)
    assert found.planned_int8_macs == found.macs
    assert set(layers_) <= set(found.fell_back)
    assert found.int8_share < 0.01
    result = audit.check({"dermoscopic": found}, catalog.recipe(f"{target}-int8").int8_macs_floor, {})
    assert not result.passed
    assert f"{len(found.fell_back)} layers planned as INT8 do not run so: conv0" in result.why
    with pytest.raises(EdgeskinError, match=r"silent FP32.*below the floor of 80\.0%.*conv0.*possible: 80% of the"):
        audit.refuse(result)


def test_sixteen_bits_are_not_int8(tmp_path: Path) -> None:
    found = audited("onnxruntime", tmp_path, kind="uint16")
    assert (found.planned_int8_macs, found.int8_macs) == (0, 0)
    assert not audit.check({"pair": found}, 0.8, {}).passed
    assert audit.check({"pair": found}, 0.0, {}).passed, "a recipe in FP32 asks for nothing"


def test_a_session_without_optimisations_runs_nothing_in_int8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    plain = onnxruntime.SessionOptions

    def unoptimised() -> object:
        options = plain()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return options

    monkeypatch.setattr(onnxruntime, "SessionOptions", unoptimised)
    found = audited("onnxruntime", tmp_path)
    assert (found.planned_int8_macs, found.int8_macs) == (found.macs, 0)
    assert found.fell_back == ("conv0", "conv1", "conv2", "head")


def test_a_bundle_is_audited_in_both_modes() -> None:
    bundle = open_bundle(TINY)
    found = audit.audit_bundle(bundle, threads=1)
    assert found.passed
    assert set(found.modes) == {"pair", "dermoscopic"}
    for mode, one in found.modes.items():
        counted = layers.count_file(bundle.path(bundle.manifest.graphs[mode].file), mode)
        assert one.macs == counted.int8_macs + counted.fp32_macs
        assert one.int8_share > 0.99
    assert found.engine["backend"] == "onnxruntime"
    reference = bundle.manifest.model_copy(update={"graphs": bundle.manifest.reference})
    assert {m.int8_macs for m in audit.audit_bundle(Bundle(TINY, reference, "", lean=False)).modes.values()} == {0}


def asking(bundle: Bundle, floor: float) -> Bundle:
    recipe = bundle.manifest.recipe.model_copy(update={"int8_macs_floor": floor})
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"recipe": recipe}))


def test_verification_says_what_runs_here() -> None:
    bundle = asking(open_bundle(TINY), 0.8)
    found = verify.verify_golden(bundle, threads=1)
    assert found.audit is not None
    assert found.audit.passed
    assert not any("FP32" in note for note in found.notes)
    wrong = bundle.manifest.model_copy(update={"graphs": bundle.manifest.reference})
    found = verify.verify_golden(replace(bundle, manifest=wrong), threads=1)
    assert found.audit is not None
    assert not found.audit.passed
    assert any(note.startswith("silent FP32 on this machine: pair: 0.0% of") for note in found.notes)


def test_a_device_without_the_package_that_reads_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the plan from the audit that the bundle carries, or says that it cannot tell."""
    bundle = open_bundle(TINY)
    here = audit.audit_bundle(bundle, threads=1)
    monkeypatch.setattr(layers, "find_spec", lambda name: None)
    with pytest.raises(EdgeskinError, match="the package 'onnx' is not installed"):
        audit.audit_bundle(bundle, threads=1)
    found = verify.verify_golden(bundle, threads=1)
    assert found.audit is None
    assert any("precision not audited: the package 'onnx' is not installed" in note for note in found.notes)
    (tmp_path / EVIDENCE).write_text(json.dumps(Evidence(bundle="x", audit=here).to_json()), encoding="utf-8")
    for folder in ("model", "golden"):
        (tmp_path / folder).symlink_to(TINY / folder)
    manifest = bundle.manifest.model_copy(update={"evidence_file": EVIDENCE})
    assert audit.audit_model(load(Bundle(tmp_path, manifest, "", lean=True), threads=1)) == here
    (tmp_path / EVIDENCE).unlink()  # as `pack --lean` leaves it
    with pytest.raises(EdgeskinError, match="the package 'onnx' is not installed"):
        audit.audit_bundle(Bundle(tmp_path, manifest, "", lean=True), threads=1)


NAMES = st.sampled_from(["a", "b", "c", "a/b", "b_original", "d"])
PLANS = st.lists(st.builds(Layer, st.tuples(NAMES), st.integers(0, 99), st.booleans(), st.just(0), st.just(0)))
RUNS = st.lists(
    st.builds(
        Executed,
        NAMES,
        st.tuples(NAMES),
        st.sampled_from(["Convolution", "Subgraph"]),
        st.sampled_from(["int8", "fp32", "bf16"]),
        st.booleans(),
        st.integers(0, 2),
    )
)


@given(PLANS, RUNS)
def test_every_product_is_counted_once_whatever_the_engine_calls_it(plan: list[Layer], ran: list[Executed]) -> None:
    found = audit.join(plan, ran, 0)
    assert found.macs == sum(layer.macs for layer in plan)
    assert found.planned_int8_macs == sum(layer.macs for layer in plan if layer.int8)
    assert found.int8_macs <= found.macs
    assert not any(one.multiplies for one in ran) or found.layers
    if not any(one.precision == "int8" for one in ran):
        assert found.int8_macs == 0


def test_an_attention_kernel_holds_products_of_both_kinds() -> None:
    """As OpenVINO compiles it: names of the products are among those of a kernel that does not bear their kind."""
    plan = [Layer(("sdpa",), 60, True, 0, 0), Layer(("sdpa",), 40, False, 0, 0), Layer(("lost",), 9, True, 0, 0)]
    ran = [Executed("fused", ("softmax", "sdpa"), "Subgraph", "int8", multiplies=False, output=8)]
    found = audit.join(plan, ran, 0)
    assert [(layer.kind, layer.macs, layer.executed) for layer in found.layers] == [
        ("Subgraph", 60, "int8"),
        ("Subgraph", 40, "fp32"),
        ("", 9, audit.UNKNOWN),
    ]
    assert found.fell_back == ("lost",)


def test_layers_that_run_in_int8_unasked_are_named() -> None:
    plan = [Layer(("kept",), 60, False, 0, 0)]
    found = audit.join(plan, [Executed("kept_token_3", ("kept",), "QLinearConv", "int8", True, 8)], 0)
    assert found.unasked == ("kept",)
    assert found.int8_macs == 60
