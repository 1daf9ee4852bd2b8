"""TensorRT for RTX, which builds on the CPU, and tiny strongly typed graphs to build."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgeskin import backends, catalog
from edgeskin.engine import sibling
from edgeskin.quantize.ptq import quantize
from edgeskin.spec.manifest import MODES, Mode

SIZE, LOGITS, CHANNELS = 16, 5, 16
Edit = Callable[[ModelProto], None]


@pytest.fixture(scope="session")
def rtx() -> ModuleType:
    """The module of TensorRT for RTX; tests/conftest.py says where from."""
    if reason := sibling.unsupported():
        pytest.skip(f"{reason}, or make .venv/.bindings")
    try:
        return import_module(sibling.PACKAGE)
    except (ImportError, OSError) as error:  # its libraries are of another system
        pytest.skip(f"TensorRT for RTX cannot be loaded: {error}")


def network(images: int) -> ModelProto:
    """uint8 [images, 16, 16, 3] -> float32 [images, 5]: two convolutions with a residual addition, a head."""
    rng = np.random.default_rng(5)
    stored: list[TensorProto] = []
    nodes: list[NodeProto] = []

    def keep(name: str, value: np.ndarray) -> str:
        stored.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def weight(name: str, *shape: int) -> str:
        return keep(name, rng.normal(0, float(np.prod(shape[1:])) ** -0.5, shape))

    def node(kind: str, inputs: list[str], name: str, out: str = "", **more: object) -> str:
        nodes.append(helper.make_node(kind, inputs, [out or f"{name}.out"], name=name, **more))
        return nodes[-1].output[0]

    x = node("Transpose", ["frames"], "turn", perm=[0, 3, 1, 2])
    x = node("Cast", [x], "cast", to=TensorProto.FLOAT)
    x = node("Sub", [x, keep("mean", np.array(127.5))], "centre")
    x = node("Mul", [x, keep("factor", np.array(1 / 127.5))], "scale")
    x = node("Conv", [x, weight("w1", CHANNELS, 3, 3, 3), weight("b1", CHANNELS)], "stem", pads=[1, 1, 1, 1])
    skip = node("Relu", [x], "relu")
    x = node("Conv", [skip, weight("w2", CHANNELS, CHANNELS, 3, 3), weight("b2", CHANNELS)], "block", pads=[1, 1, 1, 1])
    x = node("Relu", [node("Add", [x, skip], "add")], "after")
    x = node("Flatten", [node("GlobalAveragePool", [x], "pool")], "flat")
    node("Gemm", [x, weight("w3", LOGITS, CHANNELS), weight("b3", LOGITS)], "head", "logits", transB=1)
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, [images, SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [images, LOGITS])],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="session")
def frames() -> list[np.ndarray]:
    """Pairs, uint8 [2, 16, 16, 3], each of a light of its own."""
    rng = np.random.default_rng(11)
    light = [rng.normal(rng.uniform(60, 200), 40, (2, SIZE, SIZE, 3)) for _ in range(16)]
    return [np.clip(one, 0, 255).astype(np.uint8) for one in light]


@pytest.fixture(scope="session")
def graphs(frames: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[Mode, Path]]:
    """Graphs as a kit holds them, by precision: "int8" through the recipe tensorrt-int8, "fp16", "fp32"."""
    folder = tmp_path_factory.mktemp("graphs")
    found: dict[str, dict[Mode, Path]] = {"int8": {}, "fp16": {}, "fp32": {}}
    build = backends.get("tensorrt").build
    for mode, images in zip(MODES, (2, 1), strict=True):
        plain = folder / f"{mode}.onnx"
        onnx.save(network(images), plain)
        for precision, files in found.items():
            plan = catalog.recipe(f"tensorrt-{precision}")
            source = plain
            if precision == "int8":
                plan = plan.model_copy(update={"calibration_pairs": 8})
                source = quantize(plain, frames, plan, folder / "quantized")
            files[mode] = folder / precision / build(source, folder / precision, plan, stem=mode)[0]
    return found


@pytest.fixture
def spoilt(graphs: dict[str, dict[Mode, Path]], tmp_path: Path) -> Callable[[Edit], Path]:
    """The INT8 graph of one image after an edit, as a file."""

    def make(edit: Edit) -> Path:
        model = onnx.load(graphs["int8"]["dermoscopic"])
        edit(model)
        path = tmp_path / "spoilt.onnx"
        onnx.save(model, path)
        return path

    return make
