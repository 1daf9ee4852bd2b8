"""A kit's graph on the CPU: ONNX Runtime rounds as the Q/DQ nodes say, and as TensorRT defines it.

An emulation: round half to even, clamp to [-128, 127], as in TensorRT; on the GPU sums are kept in INT32, what follows
a layer is fused with it and held in FP16, so single numbers differ. Its latency says nothing about a device.
"""

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskin.backends import Executed, Port, Session, broken
from edgeskin.backends._tensorrt_graph import widened
from edgeskin.errors import EdgeskinError

BACKEND = "emulation of tensorrt"
_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


class Emulation(Session):
    """A strongly typed graph in ONNX Runtime on the CPU, every Q/DQ node executed as such."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnx
        import onnxruntime as ort
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

        self._threads = threads
        try:
            graph = onnx.load(path)
        except DecodeError as error:
            raise broken(path, error) from error
        rounds = any(node.op_type == "QuantizeLinear" for node in graph.graph.node)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if rounds:  # every optimisation may move a rounding: already the basic ones quantise biases
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session: Any = ort.InferenceSession(
                widened(graph).SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            if type(error).__module__.startswith("onnxruntime"):
                raise broken(path, error) from error
            raise
        ports = [[_port(p) for p in side] for side in (self._session.get_inputs(), self._session.get_outputs())]
        self._bind(path, *ports)

    def _infer(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self._session.run(None, {"frames": frames})[0]
        return logits

    def describe(self) -> dict[str, str]:
        return {
            "backend": BACKEND,
            "version": f"onnxruntime {metadata.version('onnxruntime')}",
            "device": "CPU",
            "threads": str(self._threads),
            "precision_hint": "f32",
        }

    def executed_layers(self) -> tuple[list[Executed], int]:
        raise EdgeskinError(
            "an emulation has no compiled layers",
            got="a build kit",
            fix="build its engine with `edgeskin build`, which audits it",
        )


def _port(port: Any) -> Port:
    return Port(port.name, _DTYPES.get(port.type, port.type), [s if isinstance(s, int) else None for s in port.shape])
