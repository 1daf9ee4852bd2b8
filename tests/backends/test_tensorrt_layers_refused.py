"""What tells no layers of TensorRT, or is cut off or damaged: refused in one line, by nothing but our own error."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeskin.backends import Executed
from edgeskin.backends._tensorrt_layers import from_json, from_log
from edgeskin.errors import EdgeskinError
from tests.backends.tensorrt_layer_files import JSONS, LOG

Read = tuple[list[Executed], int]


@pytest.mark.parametrize(
    "text",
    [
        '{"Layers": ["conv + relu", "head"], "Bindings": ["frames"]}',
        '{"Layers": [{"Name": "conv + relu"}]}',
        '{"Layers": []}',
        "{}",
        "[]",
        "null",
    ],
)
def test_without_details_the_cure_is_named(text: str) -> None:
    with pytest.raises(EdgeskinError, match="build with detailed profiling verbosity"):
        from_json(text)


@pytest.mark.parametrize("block", ["conv + relu\nhead", "Layer(CaskConvolution): conv, Tactic: 0x1, x[Int8(1)] -> y"])
def test_a_log_that_names_layers_only_is_refused(block: str) -> None:
    for before in ("", LOG):  # even behind an engine that was told in full
        with pytest.raises(EdgeskinError, match="build with detailed profiling verbosity"):
            from_log(f"{before}[V] [TRT] Engine Layer Information:\n{block}\n".split("\n"))


def test_a_log_without_a_block_is_refused() -> None:
    for lines in ([], ["[I] Engine generation completed in 0.7 seconds."], LOG.replace("Layers:", "").split("\n")):
        with pytest.raises(EdgeskinError, match="without layer information"):
            from_log(lines)


def test_a_log_that_is_cut_off_is_refused() -> None:
    line = next(line for line in LOG.split("\n") if line.startswith("Name: node_Conv_1097"))
    for part in ("LayerType", "Dimensions: [32", "Outputs: [", "TacticName"):
        with pytest.raises(EdgeskinError, match=r"cut off|unreadable"):
            from_log(["Layers:", line[: line.index(part) + 4]])


@pytest.mark.parametrize("name", JSONS)
def test_a_json_that_is_cut_off_is_refused(name: str) -> None:
    for end in range(0, len(JSONS[name]) - 3, 97):
        with pytest.raises(EdgeskinError):
            from_json(JSONS[name][:end])


def read_or_refused(read: Callable[[str], Read], text: str) -> Read:
    """What was read; nothing where it was refused in one line. Any other error goes on."""
    try:
        return read(text)
    except EdgeskinError as error:
        told = str(error)
    assert "\n" not in told
    return [], 0


ODD = st.sampled_from([None, True, -1, 0, 1.5, 10**30, "", "Int8", "[ONNX Layer: ", [], ["x"], [[]], {}, {"Type": []}])


@given(st.sampled_from(sorted(JSONS)), st.data())
def test_changed_json_is_read_or_refused(name: str, data: st.DataObject) -> None:
    made = json.loads(JSONS[name])
    here = made
    while data.draw(st.integers(0, 9)) and isinstance(here, dict | list) and here:
        key = data.draw(st.sampled_from(sorted(here) if isinstance(here, dict) else range(len(here))))
        if isinstance(here[key], dict | list) and here[key] and data.draw(st.integers(0, 3)):
            here = here[key]
            continue
        here[key] = data.draw(ODD)
        break
    layers, reformats = read_or_refused(from_json, json.dumps(made))
    assert reformats >= 0
    assert {one.precision for one in layers} <= {"int8", "fp32", "bf16", "fp16"}
    assert all(type(one.output) is int and one.output >= 0 for one in layers)


@given(st.sampled_from([*JSONS.values(), LOG]), st.data())
def test_damaged_text_is_read_or_refused(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = start + data.draw(st.integers(0, 60))
    put = data.draw(
        st.text(max_size=12) | st.sampled_from(["{", "}]", "[", " }, { ", ", ", "Name: ", "\x1e", "\n", "9" * 30])
    )
    damaged = text[:start] + put + text[end:]
    for read in (from_json, lambda text: from_log(text.split("\n")), lambda text: from_log([text])):
        layers, _ = read_or_refused(read, damaged)
        assert all(one.output >= 0 for one in layers)


@given(st.text(max_size=200))
def test_any_text_is_refused_in_one_line(text: str) -> None:
    for read in (
        from_json,
        lambda text: from_log(["Layers:", text]),
        lambda text: from_log([f"Layers:\nName: {text}"]),
    ):
        with pytest.raises(EdgeskinError) as raised:
            read(text)
        assert "\n" not in str(raised.value)
