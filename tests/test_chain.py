"""The chain on other backbones than the default: from drawn pairs to verified INT8 bundles."""

import pytest

from edgeskin import chain
from edgeskin.data.phantom import write_phantom
from edgeskin.spec.roles import RoleSpec
from edgeskin.spec.train import DataSpec, NetworkSpec, TrainSpec

TARGETS = ("openvino", "onnxruntime")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "size"),
    [("swin_tiny_patch4_window7_224", 224), ("mobilevitv2_050", 128), ("efficientformerv2_s0", 128), ("resnet10t", 96)],
)
def test_cnn_and_transformer_backbones_reach_int8(tmp_path, backbone, size):
    write_phantom(tmp_path / "phantom", 120, 3, 128)
    data = DataSpec(
        name="derm7pt",
        root=str(tmp_path / "phantom"),
        roles=RoleSpec(calibration=0.2, control=0.2, test=0.2),
    )
    spec = TrainSpec(epochs=2, batch_pairs=8, size=size, train_size=96, start_size=96, accelerator="cpu")
    record = chain.train(data, NetworkSpec(backbone=backbone), spec, "scratch", tmp_path / "run")
    assert record.network.backbone == backbone
    for target in TARGETS:
        pytest.importorskip(target)
        bundle = tmp_path / target
        manifest = chain.export(tmp_path / "run", target, bundle, calibration_pairs=16, tuned=False, allow_ungated=True)
        assert manifest.precision == "int8"
        assert chain.tune(bundle, anyway=True).tuning[0].p50_ms
        found = chain.verify(bundle, bootstrap=100)
        assert found.passed
        for mode in ("pair", "dermoscopic"):
            # Trained for some steps only: what counts is that the logits are the network's own.
            assert (found.parity[mode].sqnr_db.value or 0) > 12, (target, mode)
