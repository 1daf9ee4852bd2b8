"""keep_fp32: labels of nodes, patterns that match, patterns that do not."""

import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeskin.errors import EdgeskinError
from edgeskin.quantize.nodes import kept, labels, same_origin

LABELS = {
    "node_Conv_1": "network.encoder.conv_stem/Conv/node_Conv_1",
    "node_Conv_2": "network.encoder.blocks.0.0.conv_dw/Conv/node_Conv_2",
    "node_softmax": "network.encoder.blocks.4.attention/Softmax/node_softmax",
}


def test_labels_take_the_weight_before_the_exporters_note():
    import numpy as np

    weight = numpy_helper.from_array(np.zeros((1, 1, 1, 1), np.float32), "encoder.conv_stem.weight")
    conv = helper.make_node("Conv", ["x", "encoder.conv_stem.weight"], ["y"], name="c")
    relu = helper.make_node("Relu", ["y"], ["z"], name="r")
    bare = helper.make_node("Relu", ["z"], ["out"], name="b")
    for node in (conv, relu):
        note = node.metadata_props.add()
        note.key, note.value = "pkg.torch.onnx.name_scopes", "['', 'encoder', 'encoder.bn1', 'op']"
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [conv, relu, bare],
        "g",
        [value("x", TensorProto.FLOAT, [1, 1, 1, 1])],
        [value("out", TensorProto.FLOAT, [1, 1, 1, 1])],
        [weight],
    )
    found = labels(helper.make_model(graph))
    assert found == {"c": "encoder.conv_stem/Conv/c", "r": "encoder.bn1/Relu/r", "b": "encoder.bn1/Relu/b"}


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ([], set()),
        (["conv_stem"], {"node_Conv_1"}),
        (["/Conv/"], {"node_Conv_1", "node_Conv_2"}),
        ([r"blocks\.0\.", "Softmax"], {"node_Conv_2", "node_softmax"}),
    ],
)
def test_patterns_are_searched_in_labels(patterns, names):
    assert kept(patterns, LABELS) == names


@pytest.mark.parametrize(
    ("pattern", "near"), [("conv_sten", "conv_stem"), ("Softmaks", "Softmax"), (r"blocks\.0\.0\.conv_dv", "conv_dw")]
)
def test_a_pattern_without_a_match_names_what_is_near(pattern, near):
    with pytest.raises(EdgeskinError, match="keep_fp32 matches no node") as caught:
        kept([pattern], LABELS)
    assert caught.value.got == pattern
    assert any(near in str(word) for word in caught.value.possible or [])
    assert kept([pattern], LABELS, required=False) == set()


def test_a_broken_expression_is_named():
    with pytest.raises(EdgeskinError, match=r"not a regular expression in keep_fp32: got '\(: "):
        kept(["("], LABELS)


def test_same_origin_follows_optimisers_names():
    assert same_origin("node_Conv_1/WithoutBiases", {"node_Conv_1"})
    assert not same_origin("node_Conv_12", {"node_Conv_1"})
