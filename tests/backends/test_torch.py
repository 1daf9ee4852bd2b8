import importlib.util

import numpy as np
import pytest

from edgeskin import catalog
from edgeskin.errors import EdgeskinError
from edgeskin.spec.train import Checkpoint, DataSpec, Fusion, NetworkSpec, Threshold, Thresholds, TrainSpec

_NEEDED = ("torch", "timm", "onnxscript", "onnxruntime")
pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in _NEEDED), reason="needs edgeskin[export]"
)


def save_run(folder, backbone="test_efficientnet", gates=0.5, side=32):
    """A checkpoint of a tiny network with open gates; its record and itself."""
    import torch

    from edgeskin.model.checkpoint import read_record, save_checkpoint
    from edgeskin.model.network import PairNetwork
    from edgeskin.model.weights import create_encoder
    from edgeskin.spec.preprocess import Preprocess

    torch.manual_seed(1)
    spec = NetworkSpec(backbone=backbone, attention_dim=16, attention_heads=2)
    preprocess = Preprocess(height=side, width=side, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    schema = catalog.schema("milk10k5")
    network = PairNetwork(create_encoder(spec, side), spec, schema, preprocess)
    for name, value in network.named_parameters():
        if name.endswith(".gate"):
            torch.nn.init.normal_(value, std=gates)
    threshold = Threshold(value=0.4, rule="by hand")
    record = Checkpoint(
        created="2026-01-01T00:00:00Z",
        network=spec,
        data=DataSpec(name="drawn", root="."),
        train=TrainSpec(size=side, start_size=side),
        task_schema=schema,
        preprocess=preprocess,
        fusion={task.name: Fusion(dermoscopic_weight=0.7) for task in schema.tasks},
        thresholds=Thresholds(pair=threshold, dermoscopic=threshold),
        roles={},
        lesion_hashes={},
        phantom=True,
        parameters=sum(p.numel() for p in network.parameters()),
        weights_sha256="",
        weights_source="random",
        control_metrics={},
        versions={},
        git_revision="",
    )
    save_checkpoint(folder, network.eval(), record)
    return read_record(folder), network


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    from edgeskin.backends import torch as backend

    folder = tmp_path_factory.mktemp("export")
    record, network = save_run(folder / "run")
    return folder, record, network, backend.build(folder / "run", record, folder, opset=20)


def session_of(path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(("mode", "images"), [("pair", 2), ("dermoscopic", 1)])
def test_graphs_say_what_torch_says(exported, mode, images):
    """With open gates, on frames the export has not seen: noise, black and white."""
    import torch

    _, _, network, files = exported
    session = session_of(files[mode])
    rng = np.random.default_rng(9)
    shape = (images, 32, 32, 3)
    for frames in (rng.integers(0, 256, shape, np.uint8), np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)):
        with torch.inference_mode():
            expected = network(torch.from_numpy(frames), images - 1).numpy()
        given = session.run(["logits"], {"frames": frames})[0]
        assert given.shape == (images, 5)
        assert given.dtype == np.float32
        np.testing.assert_allclose(given, expected, rtol=1e-3, atol=1e-4)


def test_the_exchange_is_in_the_pair_graph(exported):
    """The dermoscopic logits of a pair depend on its clinical image, and are not those of the image alone."""
    _, _, _, files = exported
    pair, alone = session_of(files["pair"]), session_of(files["dermoscopic"])
    frames = np.random.default_rng(2).integers(0, 256, (2, 32, 32, 3), np.uint8)
    changed = np.stack([255 - frames[0], frames[1]])
    first, second = (pair.run(None, {"frames": f})[0][1] for f in (frames, changed))
    lone = alone.run(None, {"frames": frames[1:]})[0][0]
    assert np.abs(first - second).max() > 1e-3
    assert np.abs(first - lone).max() > 1e-3


def test_inputs_outputs_and_opset(exported):
    import onnx

    _, _, _, files = exported
    for mode, images in (("pair", 2), ("dermoscopic", 1)):
        session = session_of(files[mode])
        (given,), (answer,) = session.get_inputs(), session.get_outputs()
        assert (given.name, given.type, given.shape) == ("frames", "tensor(uint8)", [images, 32, 32, 3])
        assert (answer.name, answer.type, answer.shape) == ("logits", "tensor(float)", [images, 5])
        model = onnx.load(files[mode])
        onnx.checker.check_model(model, full_check=True)
        assert {o.domain: o.version for o in model.opset_import}[""] == 20


def test_equal_checkpoints_give_equal_bytes_without_paths_or_talk(exported, tmp_path, capfd):
    from edgeskin.backends import torch as backend

    folder, record, _, files = exported
    again = backend.build(folder / "run", record, tmp_path, opset=20)
    assert tuple(capfd.readouterr()) == ("", "")
    for mode, path in files.items():
        assert again[mode].read_bytes() == path.read_bytes()
        content = path.read_bytes()
        assert b"site-packages" not in content
        assert b".py" not in content
        assert str(folder).encode() not in content


@pytest.mark.parametrize("spoil", [lambda x: x + 1, lambda x: x * np.nan, lambda x: x[:1]])
def test_a_graph_that_says_something_else_is_refused(exported, spoil):
    """As an exporter would that gets an operator wrong: the check compares with what torch gives."""
    from edgeskin.backends import torch as backend

    _, _, _, files = exported
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    expected = session_of(files["pair"]).run(None, {"frames": frames})[0]
    backend._check(files["pair"], frames, expected, "pair")
    with pytest.raises(EdgeskinError, match="the exported pair graph does not give what torch gives"):
        backend._check(files["pair"], frames, spoil(expected), "pair")


@pytest.mark.slow
def test_a_transformer_with_channels_last_maps(tmp_path):
    from edgeskin.backends import torch as backend

    record, _ = save_run(tmp_path / "run", backbone="test_mambaout")
    assert set(backend.build(tmp_path / "run", record, tmp_path, opset=20)) == {"pair", "dermoscopic"}


def test_missing_packages_are_named(monkeypatch, tmp_path, exported):
    from edgeskin.backends import torch as backend

    assert backend.unsupported() is None
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "edgeskin.backends.torch.importlib.util.find_spec", lambda n: None if n == "onnxscript" else found(n)
    )
    assert "onnxscript" in backend.unsupported()
    with pytest.raises(EdgeskinError, match=r"cannot export.*onnxscript.*edgeskin\[export\]"):
        backend.build(tmp_path, exported[1], tmp_path, opset=20)
