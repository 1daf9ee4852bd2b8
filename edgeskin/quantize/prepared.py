"""A graph made ready for a quantiser of ONNX: constants folded, normalisations in the convolutions, shapes known."""

import tempfile
from collections.abc import Collection
from importlib import metadata
from pathlib import Path
from typing import Any

from edgeskin.backends import broken
from edgeskin.errors import EdgeskinError
from edgeskin.files import canonical_json, sha256_bytes, sha256_file, staged_file
from edgeskin.quantize.graph import load, opset, settle_names
from edgeskin.quiet import quiet

_OPSET = 13  # the first that knows scales a channel
_FORMAT = 1  # of what is kept in a folder; raise it when the same key would give other numbers


def key_of(*parts: object) -> str:
    """What stands for these parts in the name of a file that is kept: 16 hex digits."""
    return sha256_bytes(canonical_json([_FORMAT, metadata.version("onnxruntime"), *parts]).encode())[:16]


def prepared(model: Path, folder: Path) -> Path:
    """The graph in `folder`, ready: the file that is there, else a new one.

    Raises:
        EdgeskinError: another kind of ONNX file, or one too old for quantised layers.
    """
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = folder / f"prepared-{key_of(sha256_file(model))}.onnx"
    if path.is_file():
        return path
    graph = load(model)
    used = opset(graph)
    if used < _OPSET:
        raise EdgeskinError(
            "the ONNX file is too old to hold quantised layers",
            got=f"{model.name}, opset {used}",
            possible=f"opset {_OPSET} or newer",
            fix="export it anew",
        )
    with tempfile.TemporaryDirectory() as scratch, quiet():
        named, ready = Path(scratch) / "named.onnx", Path(scratch) / "ready.onnx"
        onnx.save(graph, named)
        try:
            quant_pre_process(named, ready, skip_symbolic_shape=True)
        except Exception as error:
            if isinstance(error, RuntimeError) or type(error).__module__.startswith(("onnx", "google")):
                raise broken(model, error) from error
            raise
        graph = onnx.shape_inference.infer_shapes(onnx.load(ready))
    settle_names(graph)
    with staged_file(path) as staged:
        staged.write_bytes(graph.SerializeToString(deterministic=True))
    return path


def floats_at(graph: Any, operations: Collection[str]) -> list[str]:
    """Floating point tensors that go into or come out of these operators, in the order of execution."""
    from onnx import TensorProto

    known = (*graph.graph.value_info, *graph.graph.input, *graph.graph.output)
    floating = {v.name for v in known if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    floating -= {tensor.name for tensor in graph.graph.initializer}
    touched = [n for node in graph.graph.node if node.op_type in operations for n in (*node.input, *node.output)]
    return [name for name in dict.fromkeys(touched) if name in floating]
