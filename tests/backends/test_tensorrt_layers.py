"""What TensorRT prints of its layers, read: JSON of three generations, and a block of a builder's log."""

import json

import pytest

from edgeskin import audit
from edgeskin.backends import Executed
from edgeskin.backends._tensorrt_layers import from_json, from_log
from edgeskin.errors import EdgeskinError
from edgeskin.layers import Layer
from tests.backends.tensorrt_layer_files import FILES, JSONS, LOG

INT8_KERNEL, FP16_KERNEL = "sm80_xmma_gemm_i8f16_i8i32_f32_tn_n", "sm80_xmma_gemm_f16f16_f16f16_f16_nn_n"


def multiplying(layers: list[Executed]) -> dict[str, str]:
    """Precision of each layer that multiplies, by the last node of the file in it that does."""
    made = {}
    for layer in layers:
        if layer.multiplies:
            products = [
                name for name in layer.origin if name.startswith(("node_Conv", "node_M", "node_mat", "node_lin"))
            ]
            made[products[-1]] = layer.precision
    return made


def layer(kind: str = "CaskConvolution", **fields: object) -> dict[str, object]:
    """A record of the JSON: an INT8 convolution, with other fields where they are given."""
    tensor = {"Dimensions": [1, 8, 4, 4], "Format/Datatype": "Int8"}
    base = {
        "Name": "conv",
        "LayerType": kind,
        "Inputs": [{"Name": "x", **tensor}],
        "Outputs": [{"Name": "y", **tensor}],
    }
    return {**base, "Weights": {"Type": "Int8", "Count": 64}, **fields}


def tensors(*types: str, dims: tuple[int, ...] = (1, 8, 4, 4)) -> list[dict[str, object]]:
    return [{"Name": f"t{n}", "Dimensions": list(dims), "Format/Datatype": text} for n, text in enumerate(types)]


def one(**fields: object) -> Executed:
    (made,), reformats = from_json(json.dumps({"Layers": [layer(**fields)], "Bindings": []}))
    assert reformats == 0
    return made


# The three generations


def test_8_6_names_nodes_in_the_layer_alone() -> None:
    layers, reformats = from_json(JSONS["8.6"])
    assert multiplying(layers) == {
        "node_Conv_1097": "int8",
        "node_Conv_1004": "int8",
        "node_Conv_1006": "fp32",  # its pairs were not fused
        "node_Conv_1017": "int8",  # with the other branch of a residual
        "node_linear_8": "int8",
    }
    assert reformats == 3  # quantise, dequantise, copy
    assert layers[0].origin == ("conv_stem.weight", "conv_stem.weight_QuantizeLinear", "node_Conv_1097", "n4")
    assert layers[-1].origin[-1] == "clinical.bias"  # an unnamed layer of TensorRT's own is no node
    foreign = next(one for one in layers if one.kind == "Myelin")
    assert foreign.origin == ("node_transpose", "node_MatMul_703/MatMulAddFusion")
    assert (foreign.precision, foreign.multiplies) == ("fp32", False)
    assert "NoOp" not in {one.kind for one in layers}


def test_10_3_names_nodes_in_the_metadata_and_tells_no_constants_of_myelin() -> None:
    layers, reformats = from_json(JSONS["10.3"])
    assert multiplying(layers) == {
        "node_Conv_1097": "int8",
        "node_Conv_1006": "fp16",
        "node_Conv_1017": "int8",  # a residual in FP16 is added, not multiplied
        "node_MatMul_403/MatMulAddFusion": "int8",  # by its kernel's name
        "node_matmul_1": "int8",
        "node_MatMul_454/MatMulAddFusion": "fp16",
    }
    assert reformats == 2  # Reformat, and a kernel of Myelin's that only moves
    assert [one.kind for one in layers][-3:] == ["kgen attention", "fusion gemm", "kgen"]
    assert layers[2].origin == ("node_Conv_1017", "hardtanh_5_DequantizeLinear", "node_add")
    assert layers[2].output == 2 * 24 * 56 * 56
    # A small product as multiply and sum: an Int8 input alone proves nothing.
    assert layers[-1] == Executed(
        "__myl_CastMulSum_myl0_6", ("node_linear_8", "slice_9_DequantizeLinear"), "kgen", "fp32", False, 12
    )


def test_10_13_parts_type_and_layout_and_lists_constants() -> None:
    layers, reformats = from_json(JSONS["10.13"])
    assert multiplying(layers) == {
        "node_Conv_1097": "int8",
        "node_Conv_1004": "fp16",  # Int8 goes in, but weights stayed Half
        "node_Conv_1017": "int8",
        "node_MatMul_403/MatMulAddFusion": "int8",  # its alpha and beta are scalars in floating point
        "node_matmul_1": "fp16",  # query and key in Int8, value in Half
        "node_linear_8": "int8",
    }
    assert reformats == 1  # a kernel that only quantises; the first one adds as well
    assert "wait" not in {one.kind for one in layers}
    assert layers[1].output == 2 * 32 * 112 * 112


def test_the_audit_names_what_fell_back() -> None:
    nodes = ["node_Conv_1097", "node_Conv_1004", "node_Conv_1017", "node_MatMul_403/MatMulAddFusion", "node_linear_8"]
    plan = [Layer((name,), 100, True, 0, 0) for name in nodes]
    layers, reformats = from_json(JSONS["10.13"])
    found = audit.join(plan, layers, reformats)
    assert (found.fell_back, found.unasked, found.reorders) == (("node_Conv_1004",), (), 1)
    assert found.int8_share == 0.8
    with pytest.raises(EdgeskinError, match="silent FP32"):
        audit.refuse(audit.check({"pair": found}, 0.9, {"backend": "tensorrt"}))


def test_an_opaque_layer_never_passes_for_int8_in_the_audit() -> None:
    everything = {"Inputs": tensors("Int8"), "Outputs": tensors("Int8"), "Weights": {}}
    made = one(kind="Myelin", Name="{ForeignNode[first...last]}", **everything)
    plan = [Layer((name,), 100, True, 0, 0) for name in ("first", "inner", "last")]
    found = audit.join(plan, [made], 0)
    # Named ones are known to run in it, in what is not told; of one between nothing is known at all.
    assert {layer.executed for layer in found.layers} == {"fp32", "unknown"}
    assert found.int8_share == 0.0
    assert set(found.fell_back) == {"first", "inner", "last"}


def test_a_dla_is_int8_where_all_its_ends_are() -> None:
    name = "{ForeignNode[conv0...conv9]}"
    ends = {"Weights": {}, "Outputs": tensors("Int8"), "Name": name}
    assert one(kind="DLA", Inputs=tensors("Int8"), **ends).precision == "int8"
    assert one(kind="DLA", Inputs=tensors("Half"), **ends).precision == "fp16"
    assert not one(kind="DLA", Inputs=tensors("Int8"), **ends).multiplies


def test_a_product_left_in_floating_point_within_int8_attention_stays_there() -> None:
    plan = [Layer(("node_matmul",), 60, True, 0, 0), Layer(("node_matmul_1",), 40, False, 0, 0)]
    layers, _ = from_json(JSONS["10.3"])
    found = audit.join(plan, [one for one in layers if one.kind == "kgen attention"], 0)
    assert (found.int8_macs, found.fell_back, found.unasked) == (60, (), ())


# The rule for one product


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Int8", "int8"),
        ("CHW32 | Int8", "int8"),
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
        ("Row major Int8 format", "int8"),
        ("Half", "fp16"),
        ("HWC8 | FP16", "fp16"),
        ("Channel major FP16 format where channel % 8 == 0", "fp16"),
        ("Two wide channel vectorized row major FP16 format", "fp16"),
        ("Float", "fp32"),
        ("Row major linear FP32", "fp32"),
        ("BFloat16", "bf16"),
        ("Row major linear BF16 format", "bf16"),
    ],
)
def test_words_for_types_of_every_version(text: str, word: str) -> None:
    weights = {"int8": "Int8", "fp16": "Half", "fp32": "Float", "bf16": "BFloat16"}[word]
    assert one(Inputs=tensors(text), Weights={"Type": weights, "Count": 64}).precision == word
    # The other factor in floating point, or the other way round: no INT8.
    assert one(Inputs=tensors(text), Weights={"Type": "Half", "Count": 64}).precision in {"fp16", word} - {"int8"}


@pytest.mark.parametrize(
    ("given", "weights", "kernel", "word"),
    [
        ("Int8", "Int8", "", "int8"),
        ("Int8", "Half", "", "fp16"),
        ("Int8", "Float", "", "fp32"),
        ("Half", "Int8", "", "fp16"),  # weights stored small, products in floating point
        ("Half", "Float", "", "fp32"),
        ("UInt8", "Int8", "", "fp16"),  # no INT8 kernel of ours takes these; what goes out is Half
        ("Int8", "Int8", FP16_KERNEL, "fp16"),  # the kernel says otherwise
        ("N/A due to dynamic shapes", "Int8", INT8_KERNEL, "int8"),
        ("N/A due to dynamic shapes", "Int8", "", "fp16"),
        ("Half", "Half", INT8_KERNEL, "fp16"),
        ("Float", "Float", "sm80_xmma_gemm_f32f32_tf32f32_f32_nn_n", "fp32"),
    ],
)
def test_int8_is_what_has_both_factors_so(given: str, weights: str, kernel: str, word: str) -> None:
    made = one(
        Inputs=tensors(given), Outputs=tensors("Half"), Weights={"Type": weights, "Count": 64}, TacticName=kernel
    )
    assert (made.precision, made.multiplies) == (word, True)


def test_weights_that_are_not_told_are_not_int8_without_the_kernels_word() -> None:
    bare = {
        "kind": "gemm",
        "Inputs": tensors("Int8", dims=(4, 8)),
        "Outputs": tensors("Half", dims=(4, 8)),
        "Weights": {},
    }
    assert one(**bare).precision == "fp16"
    assert one(**bare, TacticName=INT8_KERNEL).precision == "int8"
    assert one(**bare, TacticName=FP16_KERNEL).precision == "fp16"


def test_factors_are_found_among_other_inputs_in_any_order() -> None:
    residual, weights = tensors("Half", dims=(98, 320)), tensors("Int8", dims=(64, 320))
    given, outputs = tensors("Int8", dims=(98, 64)), tensors("Half", dims=(98, 320))
    for inputs in (given + weights + residual, residual + given + weights, weights + residual + given):
        assert one(kind="gemm", Inputs=inputs, Outputs=outputs, Weights={}).precision == "int8"
    floating = tensors("Half", dims=(64, 320))
    assert one(kind="gemm", Inputs=given + residual + floating, Outputs=outputs, Weights={}).precision == "fp16"
    # A filter that is an input, count 0 of its own; the residual has the output's shape.
    dynamic = tensors("Int8") + tensors("Half", dims=(8, 8, 3, 3)) + tensors("Int8")
    assert one(Inputs=dynamic, Weights={"Type": "Int8", "Count": 0}).precision == "fp16"


@pytest.mark.parametrize(
    ("kind", "multiplies"),
    [
        ("CaskConvolution", True),
        ("CaskGemmConvolution", True),
        ("CaskFlattenConvolution", True),
        ("FusedConvActConvolution", True),
        ("ConvActPool", True),
        ("CaskDeconvolutionV2", True),
        ("correlation", True),
        ("gemm", True),
        ("MatrixMultiply", True),
        ("CaskGemmMatrixMultiply", True),
        ("CudaPooling", False),
        ("PointWiseV2", False),
        ("Converter", False),
        ("Shuffle", False),
        ("kgen", False),
    ],
)
def test_which_layers_multiply(kind: str, multiplies: bool) -> None:
    assert one(kind=kind).multiplies == multiplies


def test_a_pooling_fused_in_renames_the_weights() -> None:
    fused = {"Weights": None, "ConvWeights": {"Type": "Int8", "Count": 9408}}
    assert one(kind="ConvActPool", **fused).precision == "int8"


@pytest.mark.parametrize("kind", ["signal", "wait", "NoOp", "Constant", "shape_call", "ShapeHostToDevice"])
def test_what_computes_nothing_is_left_out(kind: str) -> None:
    assert from_json(json.dumps({"Layers": [layer(kind=kind)]})) == ([], 0)


@pytest.mark.parametrize(
    ("kind", "name", "reformats"),
    [
        ("Reformat", "conv_DequantizeLinear", 1),
        ("Cast", "cast", 1),
        ("kgen", "__myl_Move_myl0_3", 1),
        ("kgen", "__myl_CastTran_myl0_3", 1),
        ("kgen", "__myl_MulMinMaxRounCast_myl0_3", 1),
        ("kgen", "__myl_ReshTranMulMaxMinRounCastMove_myl3_0", 1),
        ("kgen", "__myl_MulAddMulMinMaxRounCast_myl0_3", 0),
        ("kgen", "__myl_MulSum_myl0_3", 0),
        ("kgen", "__myl_MoveConc_myl0_3", 0),
    ],
)
def test_reformats_only_convert(kind: str, name: str, reformats: int) -> None:
    layers, counted = from_json(json.dumps({"Layers": [layer(kind=kind, Name=name)]}))
    assert (counted, len(layers)) == (reformats, 1 - reformats)


def test_names_are_parted_as_versions_join_them() -> None:
    assert one(Name="a + PWN(PWN(b/Sigmoid), b/Mul)").origin == ("a", "b/Sigmoid", "b/Mul")
    assert one(Name="/m.0/conv + /m.0/act || /m.1/conv").origin == ("/m.0/conv", "/m.0/act", "/m.1/conv")
    assert one(kind="gemm", Name="q/MatMul+k/MatMul_myl0_9").origin == ("q/MatMul", "k/MatMul")
    assert one(kind="kgen", Name="__myl_AddMul_myl0_9").origin == ()
    for joint in ("\x1e", "\x1f", ""):
        assert one(Metadata=f"[ONNX Layer: a[0]]{joint}[ONNX Layer: b + c]").origin == ("a[0]", "b + c")


# The log


def test_a_real_block_of_the_sibling_builder() -> None:
    layers, reformats = from_log(LOG.splitlines(keepends=True))
    assert multiplying(layers) == {
        "node_Conv_1097": "int8",
        "node_Conv_1081": "int8",
        "node_MatMul_684/MatMulAddFusion": "int8",
        "node_matmul_3": "int8",
        "node_MatMul_703/MatMulAddFusion": "int8",
        "node_linear_8": "int8",
    }
    assert reformats == 0  # its casts are all fused with arithmetic
    assert {one.kind for one in layers} == {"kgen", "runtime_function", "correlation", "gemm", "kgen attention"}
    assert (
        next(one.output for one in layers if "node_Conv_1097" in one.origin[:1] and one.multiplies) == 2 * 32 * 112**2
    )
    assert layers[0].origin == ("node__to_copy", "node_permute", "mul_1_QuantizeLinear", "node_sub")
    attention = next(one for one in layers if one.kind == "kgen attention")
    assert {"node_matmul_2", "node_matmul_3", "node_softmax_1"} <= set(attention.origin)


def test_what_the_sibling_builder_silently_left_unfused() -> None:
    """Its graph had weights of one convolution per input channel, and no pair in front of another."""
    layers, reformats = from_log((FILES / "fallback.log").read_text(encoding="utf-8").split("\n"))
    ran = multiplying(layers)
    # Weights come in as a second input, a residual as a third.
    assert (ran["node_Conv_1006"], ran["node_Conv_1075"]) == ("fp16", "fp16")
    assert set(ran.values()) == {"int8", "fp16"}
    assert reformats == 4  # weights dequantised at run time, and the results quantised again, for each
    plan = [Layer((name,), 1, True, 0, 0) for name in ran]
    assert set(audit.join(plan, layers, reformats).fell_back) == {"node_Conv_1006", "node_Conv_1075"}


def test_weights_that_stay_half_in_the_log_are_a_fallback() -> None:
    marked = LOG.replace("[32,4,3,3], Strides: [36,1,12,4], StrideOrder: [3,0,2,1], Datatype: Int8", "@")
    assert marked.count("@") == 1
    changed = marked.replace("@", "[32,4,3,3], Strides: [36,1,12,4], StrideOrder: [3,0,2,1], Datatype: Half")
    assert multiplying(from_log([changed])[0])["node_Conv_1097"] == "fp16"


def test_a_line_of_trtexec_reads_as_its_json_does() -> None:
    head = "[11/01/2024-10:32:57] [V] [TRT] Layers:\n"
    tensor = "Location: Device, Dimensions: [2,144,56,56], Format/Datatype: Row major Int8 format"
    other = (
        "Location: Device, Dimensions: [2,24,56,56], Format/Datatype: Channel major FP16 format where channel %% 8 == 0"
    )
    line = (
        f"Name: conv + add, LayerType: CaskConvolution, "
        f"Inputs: [ {{ Name: x [0], {tensor} }}, {{ Name: z, {other} }}], "
        f"Outputs: [ {{ Name: y, {other} }}], ParameterType: Convolution, Kernel: [1,1], "
        'Weights: {"Type": "%s", "Count": %d}, Bias: {"Type": "Float", "Count": 24}, HasResidual: 1, '
        "TacticName: , TacticValue: 0x0000000000020341, StreamId: 0, "
        "Metadata: [ONNX Layer: conv]\x1e[ONNX Layer: add]\n"
    )
    for kind, count, word in (("Int8", 3456, "int8"), ("Half", 3456, "fp16"), ("Int8", 0, "fp16")):
        layers, _ = from_log([head + line % (kind, count) + "\nBindings:\nframes\nlogits\n"])
        assert layers == [Executed("conv + add", ("conv", "add"), "CaskConvolution", word, True, 2 * 24 * 56 * 56)]


def test_other_lines_and_other_engines_do_not_disturb() -> None:
    expected = from_log([LOG])
    noise = [
        "[I] [TRT] Name: x, LayerType: nothing",
        "Layer: conv Host Persistent: 1 bytes",
        "",
        "Bindings:",
        "[V] a: [b",
    ]
    assert from_log([*noise, *LOG.split("\n"), *noise]) == expected
    block = LOG[LOG.index("[Severity.VERBOSE] Layers:") : LOG.index("I/O Tensors")].split("\n")
    first = [block[0], *block[2:4]]
    assert from_log(first) != expected
    assert from_log([*first, *noise, *LOG.split("\n")]) == expected  # the newest engine counts
    assert from_log([line + "\r" for line in LOG.split("\n")]) == expected
    spaced = [line for one in block for line in (one, "")]
    assert from_log(["Engine Layer Information:", *spaced]) == expected
    prefixed = [f"[01/02/2026-10:32:57] [V] [TRT] {line}" for line in block]
    assert from_log(prefixed) == expected
