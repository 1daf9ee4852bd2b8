"""The pair network and its kin, as they are built of a real backbone, through every engine that runs on a CPU."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeskin import backends, catalog, metrics
from edgeskin.quantize import ptq
from edgeskin.spec.manifest import IMAGES, MODES, Mode
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.recipe import Recipe
from edgeskin.spec.train import NetworkSpec

pytest.importorskip("timm", reason="needs edgeskin[train]")
pytest.importorskip("onnxscript", reason="needs edgeskin[export]")
SIDE = 32
SCHEMA = catalog.schema("milk10k5")
KINDS: dict[str, dict[str, object]] = {
    "fused head": {"fused_head": True},
    "two encoders, attention a direction": {"encoders": "separate", "attention": "separate"},
    "two encoders": {"encoders": "separate"},
    "attention a direction": {"attention": "separate"},
    "two encoders, late fusion": {"encoders": "separate", "attention_stages": (), "fused_head": True},
}
TARGETS = ("onnxruntime", "openvino")
LEAST_DB = 8  # of weights never trained: the shared network has 12 to 20, and so have these


FIRST = list(KINDS)[:2]
OTHERS = [pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind not in FIRST]


@pytest.fixture(scope="module", params=[*FIRST, *OTHERS])
def built(request, pairs, tmp_path_factory) -> tuple[torch.nn.Module, dict[Mode, Path]]:
    """A network with open gates and settled batch norms, and its FP32 graphs."""
    from edgeskin.backends import torch as exporter
    from edgeskin.model.network import PairNetwork
    from edgeskin.model.weights import create_encoder

    torch.manual_seed(4)
    spec = NetworkSpec(
        backbone="test_efficientnet",
        attention_dim=16,
        attention_heads=2,
        dropout=0,
        drop_path=0,
        **KINDS[request.param],
    )
    preprocess = Preprocess(height=SIDE, width=SIDE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    network = PairNetwork(create_encoder(spec, SIDE), spec, SCHEMA, preprocess)
    for name, value in network.named_parameters():
        if name.endswith(".gate"):
            torch.nn.init.constant_(value, 0.5)
        if name.split(".")[0] in ("clinical", "dermoscopic", "fused"):
            torch.nn.init.normal_(value, std=0.5)  # classes far enough apart that a changed answer means something
    batch = torch.from_numpy(np.concatenate([np.stack(pairs)[:, 0], np.stack(pairs)[:, 1]]))
    with torch.no_grad():
        for _ in range(10):
            network.train()(batch, len(pairs))
    network.eval()
    return network, exporter.build_network(network, preprocess, tmp_path_factory.mktemp("networks"), opset=20)


def expected(network: torch.nn.Module, frames: list[NDArray[np.uint8]], mode: Mode) -> NDArray[np.float32]:
    with torch.inference_mode():
        return np.stack([network(torch.from_numpy(f[-IMAGES[mode] :]), IMAGES[mode] - 1).numpy() for f in frames])


def asked(path: Path, target: str, frames: list[NDArray[np.uint8]], mode: Mode) -> NDArray[np.float32]:
    session = backends.get(target).open(path, threads=1)
    rows = (session.rows, session.logits)
    found = np.stack([session.run(f[-IMAGES[mode] :]) for f in frames])
    assert found.shape[1:] == rows
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_in_fp32_every_engine_says_what_torch_says(target, built, pairs, tmp_path):
    pytest.importorskip(target)
    network, graphs = built
    recipe = Recipe(name="fp32", target=target, precision="fp32")
    for mode in MODES:
        name = backends.get(target).build(graphs[mode], tmp_path, recipe, stem=mode)[0]
        found, wanted = asked(tmp_path / name, target, pairs[:6], mode), expected(network, pairs[:6], mode)
        assert found.shape == wanted.shape == (6, network.spec.pair_rows if mode == "pair" else 1, SCHEMA.logits)
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())
        assert np.ptp(wanted, axis=0).max() > 0.5  # else any answer would do


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_in_int8_every_engine_stays_near_fp32(target, built, pairs, tmp_path):
    pytest.importorskip(target)
    pytest.importorskip("nncf" if target == "openvino" else "onnx")
    network, graphs = built
    recipe = catalog.recipe(f"{target}-int8").model_copy(update={"calibration_pairs": 16})
    for mode in MODES:
        quantised = ptq.quantize(graphs[mode], pairs, recipe, tmp_path / "quantised")
        name = backends.get(target).build(quantised, tmp_path / "built", recipe, stem=mode)[0]
        found, wanted = asked(tmp_path / "built" / name, target, pairs, mode), expected(network, pairs, mode)
        assert found.shape == wanted.shape
        for row in range(wanted.shape[1]):  # each head by itself
            assert metrics.sqnr_db(wanted[:, row], found[:, row]) > LEAST_DB
        session = backends.get(target).open(tmp_path / "built" / name, threads=1)
        assert session.executed_precisions().get("int8", 0) > 10
