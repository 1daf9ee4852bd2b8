"""FP32 ONNX graphs that come in: read, told from other models, every node with a name."""

from pathlib import Path
from typing import Any

from edgeskin.backends import broken, require_file
from edgeskin.errors import EdgeskinError

MULTIPLYING = ("Conv", "Gemm", "MatMul")


def load(model: Path) -> Any:
    """The onnx.ModelProto of a file whose nodes all have names of their own.

    Raises:
        EdgeskinError: no such file, or not an ONNX model.
    """
    require_file(model, (".onnx",))
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        graph = onnx.load(model)
        onnx.checker.check_model(graph)
    except (DecodeError, onnx.checker.ValidationError, FileNotFoundError) as error:  # external weights may be absent
        raise broken(model, error) from error
    settle_names(graph)
    _refuse_broken_weights(graph)
    return graph


def attribute(node: Any, name: str, default: int) -> int:
    """An integer attribute of an onnx.NodeProto."""
    return next((int(one.i) for one in node.attribute if one.name == name), default)


def opset(model: Any) -> int:
    """Version of the standard operators that an onnx.ModelProto uses; 0 if it names none."""
    return next((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def interface(graph: Any, model: Path) -> tuple[int, int, int, int]:
    """Shape of the input [images, H, W, 3] of an onnx.ModelProto that is one of ours.

    Raises:
        EdgeskinError: other names, types or shapes than input `frames` uint8 [1 or 2, H, W, 3], output `logits`.
    """
    from onnx import TensorProto

    constants = {tensor.name for tensor in graph.graph.initializer}  # old files list them among the inputs
    inputs = [port for port in graph.graph.input if port.name not in constants]
    outputs = list(graph.graph.output)
    shape = _sizes(inputs[0]) if inputs else []
    kinds = [(port.name, port.type.tensor_type.elem_type) for port in (*inputs, *outputs)]
    ours = kinds == [("frames", TensorProto.UINT8), ("logits", TensorProto.FLOAT)]
    if not ours or len(shape) != 4 or shape[0] not in (1, 2) or shape[3] != 3 or 0 in shape:
        raise EdgeskinError(
            f"{model.name} is not a model that can be quantised here",
            got="; ".join(f"{port.name} {_kind(port)} {_written(port)}" for port in (*inputs, *outputs)),
            possible="input frames uint8 [1 or 2, H, W, 3], output logits float32, the input's sizes fixed",
            fix="export it with `edgeskin export`",
        )
    return (shape[0], shape[1], shape[2], shape[3])


def settle_names(model: Any) -> bool:
    """Give every node of an onnx.ModelProto a name of its own, in place; returns whether any lacked one.

    Other exporters may leave names out, or use one twice; what a layer is kept or corrected by is its name.
    """
    taken: set[str] = set()
    changed = False
    names = {node.name for node in model.graph.node}
    for place, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            plain = node.name or f"{node.op_type}_{place}"
            node.name = next(n for n in (plain, *(f"{plain}_{i}" for i in range(len(names) + 2))) if n not in names)
            names.add(node.name)
            changed = True
        taken.add(node.name)
    return changed


def _sizes(port: Any) -> list[int]:
    """Sizes of a port; 0 where one is open."""
    return [size.dim_value for size in port.type.tensor_type.shape.dim]


def _kind(port: Any) -> str:
    from onnx import TensorProto

    return str(TensorProto.DataType.Name(port.type.tensor_type.elem_type)).lower()


def _written(port: Any) -> str:
    return str([size.dim_param or size.dim_value or "?" for size in port.type.tensor_type.shape.dim]).replace("'", "")


def is_transformer(model: Any) -> bool:
    """Whether matrix products outnumber convolutions in an onnx.ModelProto: the backbone is a Transformer."""
    kinds = [node.op_type for node in model.graph.node]
    return kinds.count("MatMul") + kinds.count("Gemm") > kinds.count("Conv")


def _refuse_broken_weights(graph: Any) -> None:
    import numpy as np
    from onnx import TensorProto, numpy_helper

    weights = {n: node.name for node in graph.graph.node if node.op_type in MULTIPLYING for n in node.input[1:]}
    for tensor in graph.graph.initializer:
        if tensor.name not in weights or tensor.data_type != TensorProto.FLOAT:
            continue
        if not np.isfinite(numpy_helper.to_array(tensor)).all():
            raise EdgeskinError(
                "a weight is not a finite number",
                got=f"{tensor.name} of {weights[tensor.name]}",
                fix="the training diverged: train again with a lower learning rate",
            )
