"""Engines through a program in the place of trtexec: it takes its flags, and answers with ONNX Runtime."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeskin import backends
from edgeskin.engine.maker import Limits
from edgeskin.engine.program import Asked, Program
from edgeskin.errors import EdgeskinError
from edgeskin.spec.manifest import Compatibility, Mode

Graphs = dict[str, dict[Mode, Path]]
BOARD = Compatibility(device="jetson-orin-nano", arch="aarch64", sm="8.7", tensorrt="10.3.0", gpu="Orin", driver="12.6")
# A build keeps the graph as its "engine"; a question is answered from it, in the files and words that trtexec writes.
BODY = """
import json, pathlib, sys
import numpy as np

flags = dict(part.partition("=")[::2] for part in sys.argv[1:])
print("&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # " + " ".join(sys.argv))
if "--onnx" in flags:
    assert "--stronglyTyped" in flags and flags["--profilingVerbosity"] == "detailed"
    data = pathlib.Path(flags["--onnx"]).read_bytes()
    if b"refuse" in data[:20]:
        print("[11/20/2025-08:32:51] [E] Failed to parse onnx file")
        sys.exit(1)
    pathlib.Path(flags["--saveEngine"]).write_bytes(data)
    tensor = {"Name": "x", "Dimensions": [1, 16, 16, 16], "Format/Datatype": "Int8"}
    layer = {
        "Name": "block", "LayerType": "CaskConvolution", "Inputs": [tensor], "Outputs": [tensor],
        "Weights": {"Type": "Int8", "Count": 2304}, "TacticName": "sm80_xmma_fprop", "Metadata": "[ONNX Layer: block]",
    }
    pathlib.Path(flags["--exportLayerInfo"]).write_text(json.dumps({"Layers": [layer], "Bindings": []}))
    cache = pathlib.Path(flags["--timingCacheFile"])
    cache.write_bytes((cache.read_bytes() if cache.is_file() else b"") + b"timed")
elif "--exportOutput" in flags:
    import onnx
    import onnxruntime as ort
    from edgeskin.backends._tensorrt_graph import widened

    graph = widened(onnx.load_model_from_string(pathlib.Path(flags["--loadEngine"]).read_bytes()))
    name, _, given = flags["--loadInputs"].partition(":")
    shape = [size.dim_value for size in graph.graph.input[0].type.tensor_type.shape.dim]
    frames = np.fromfile(given, np.uint8).reshape(shape)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    logits = session.run(None, {name: frames})[0]
    made = {"name": "logits", "dimensions": "x".join(map(str, logits.shape)), "values": logits.ravel().tolist()}
    pathlib.Path(flags["--exportOutput"]).write_text(json.dumps([made]))
else:
    print("[I] === Performance summary ===")
    print("[I] Latency: min = 1.1 ms, max = 2.5 ms, mean = 1.3 ms, median = 1.25 ms, percentile(99%) = 2.0 ms")
    print("[I] GPU Compute Time: min = 0.7 ms, max = 2.0 ms, mean = 0.83 ms, median = 0.8125 ms, p(99%) = 1 ms")
    print("[I] H2D Latency: min = 0.01 ms, max = 0.1 ms, mean = 0.02 ms, median = 0.015 ms")
print("&&&& PASSED TensorRT.trtexec [TensorRT v100300]")
"""


def program(folder: Path, body: str = BODY) -> Program:
    path = folder / "bin" / "trtexec"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\n{body}")
    path.chmod(0o755)
    return Program(path, BOARD, folder / "cache" / "timing.bin", (16, 16, 5))


def asked(folder: Path, body: str) -> Asked:
    """An engine that a program of that body is asked about."""
    plan = folder / "pair-int8-0.plan"
    plan.write_bytes(b"engine")
    session = program(folder, body).open(plan)
    assert isinstance(session, Asked)
    return session


@pytest.mark.parametrize(("mode", "images"), [("pair", 2), ("dermoscopic", 1)])
def test_an_engine_is_built_asked_and_timed(
    graphs: Graphs, frames: list[np.ndarray], tmp_path: Path, mode: Mode, images: int
) -> None:
    maker, graph, plan = program(tmp_path), graphs["int8"][mode], tmp_path / "work" / f"{mode}-int8-0.plan"
    steps: list[int] = []
    maker.build(graph, plan, Limits(256 << 20), steps.append)
    assert plan.read_bytes() == graph.read_bytes()
    assert 90 <= sum(steps) <= 100
    assert "RUNNING TensorRT.trtexec" in plan.with_suffix(".log").read_text()
    session = maker.open(plan)
    expected = backends.get("tensorrt").open(graph, threads=1)
    for pair in frames[:2]:
        np.testing.assert_allclose(session.run(pair[-images:]), expected.run(pair[-images:]), atol=1e-5)
    assert (session.images, session.height, session.width, session.logits) == (images, 16, 16, 5)
    assert session.describe()["version"] == "10.3.0 (trtexec)"
    assert session.describe()["device"] == "Orin"
    assert isinstance(session, Asked)
    assert session.p50_ms() == 0.8125
    (layer,), reformats = session.executed_layers()
    assert (layer.name, layer.precision, layer.multiplies, reformats) == ("block", "int8", True, 0)


def test_what_was_timed_is_kept_and_used_again(graphs: Graphs, tmp_path: Path) -> None:
    first = program(tmp_path)
    first.build(graphs["int8"]["pair"], tmp_path / "a.plan", Limits(1 << 20), lambda _: None)
    assert not first.used_cache
    assert first.cache.read_bytes() == b"timed"
    second = program(tmp_path)
    second.build(graphs["fp16"]["pair"], tmp_path / "b.plan", Limits(1 << 20), lambda _: None)
    assert second.used_cache
    assert second.cache.read_bytes() == b"timedtimed"


def test_a_build_that_fails_leaves_its_log_alone(tmp_path: Path) -> None:
    graph, plan = tmp_path / "bad.onnx", tmp_path / "work" / "pair.plan"
    graph.write_bytes(b"refuse me")
    with pytest.raises(EdgeskinError, match="Failed to parse onnx file"):
        program(tmp_path).build(graph, plan, Limits(1 << 20), lambda _: None)
    assert [path.name for path in plan.parent.iterdir()] == ["pair.log"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("import sys; print('[E] Error[1]: deserialisation failed'); sys.exit(1)", "deserialisation failed"),
        ("import sys; sys.exit(3)", "exit status 3"),
        ("print('PASSED')", "trtexec gave no logits"),
    ],
)
def test_a_question_that_fails_is_one_line(tmp_path: Path, body: str, told: str) -> None:
    with pytest.raises(EdgeskinError) as caught:
        asked(tmp_path, body).run(np.zeros((2, 16, 16, 3), np.uint8))
    assert told in caught.value.line()
    assert "\n" not in caught.value.line()


@pytest.mark.parametrize(
    "answer",
    [
        "not json",
        "[]",
        '[{"name": "other", "values": [1]}]',
        '[{"name": "logits", "values": [1, 2, 3]}]',
        '{"logits": 1}',
        '[{"name": "logits"}]',
    ],
)
def test_an_answer_of_another_form_is_refused(tmp_path: Path, answer: str) -> None:
    body = "import sys\nout = next(part for part in sys.argv if part.startswith('--exportOutput='))[15:]\n"
    body += f"open(out, 'w').write({answer!r})"
    with pytest.raises(EdgeskinError, match="trtexec gave no logits"):
        asked(tmp_path, body).run(np.zeros((2, 16, 16, 3), np.uint8))


def test_a_program_without_a_median_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgeskinError, match="no median"):
        asked(tmp_path, "print('[I] Latency: median = 3 ms')").p50_ms()


def test_a_program_that_is_gone_is_named(tmp_path: Path) -> None:
    session = asked(tmp_path, "")
    (tmp_path / "bin" / "trtexec").unlink()
    with pytest.raises(EdgeskinError, match="trtexec cannot run the engine"):
        session.p50_ms()


def test_an_engine_without_its_layers_is_one_line(tmp_path: Path) -> None:
    session = asked(tmp_path, "")
    with pytest.raises(EdgeskinError, match="layer"):
        session.executed_layers()
    (tmp_path / "pair-int8-0.layers.json").write_text(json.dumps({"Layers": ["block", "head"]}))
    with pytest.raises(EdgeskinError, match="verbosity"):
        session.executed_layers()


def test_a_fused_head_gives_a_pair_three_rows(tmp_path: Path) -> None:
    body = """
import json, pathlib, sys

flags = dict(part.partition("=")[::2] for part in sys.argv[1:])
rows = 3 if pathlib.Path(flags["--loadEngine"]).name.startswith("pair") else 1
made = [{"name": "logits", "values": [float(n) for n in range(rows * 5)]}]
pathlib.Path(flags["--exportOutput"]).write_text(json.dumps(made))
"""
    made = program(tmp_path, body)
    maker = Program(made.program, made.compatibility, made.cache, made.shape, pair_rows=3)
    for name, images, rows in (("pair-int8-0.plan", 2, 3), ("dermoscopic-int8-0.plan", 1, 1)):
        session = maker.open(tmp_path / name)
        assert (session.images, session.rows) == (images, rows)
        found = session.run(np.zeros((images, 16, 16, 3), np.uint8))
        np.testing.assert_array_equal(found, np.arange(rows * 5, dtype=np.float32).reshape(rows, 5))
