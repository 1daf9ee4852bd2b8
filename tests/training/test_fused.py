"""A network with a fused head: trained, chosen for, and fine-tuned under quantisation."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edgeskin.model.checkpoint import WEIGHTS, load_network
from edgeskin.preprocess import prepare
from edgeskin.spec.qat import QatSpec
from edgeskin.training import train as stage
from edgeskin.training.frames import label_array
from edgeskin.training.operating import choose_fusion


@pytest.fixture(scope="module")
def trained(request_of, tmp_path_factory):
    """Two epochs on drawn pairs: the run, its record and what was asked."""
    folder, request = tmp_path_factory.mktemp("fused") / "run", request_of(ema_decay=0.0)
    request.network = request.network.model_copy(update={"fused_head": True})
    threads = torch.get_num_threads()
    record = stage.train(**vars(request), folder=folder)
    torch.set_num_threads(threads)
    return SimpleNamespace(folder=folder, record=record, request=request)


def test_the_third_row_of_the_control_role_is_chosen_by(trained):
    request, record = trained.request, trained.record
    network, pairs = load_network(trained.folder, record), request.roles["control"]
    frames = np.stack(
        [[prepare(photo, record.preprocess) for photo in (p.clinical or p.dermoscopic, p.dermoscopic)] for p in pairs]
    )
    both, alone = stage.control_logits(network, frames, pairs)
    lone = np.array([p.clinical is None for p in pairs])
    assert both.shape == (len(pairs), 3, record.task_schema.logits)
    assert np.isnan(both[lone, 2]).all()
    assert np.isfinite(both[~lone]).all()
    with torch.inference_mode():
        one = network(torch.from_numpy(frames[~lone][0]), 1).numpy()
    np.testing.assert_allclose(both[~lone][0], one, atol=1e-4)
    labels = label_array(pairs, record.task_schema)
    assert choose_fusion(both, alone, labels, record.task_schema) == record.fusion
    again = choose_fusion(np.tile(both, (2, 1, 1)), np.tile(alone, (2, 1)), np.tile(labels, (2, 1)), record.task_schema)
    assert any(one.temperature_fused != 1 for one in again.values())  # 8 lesions are too few to fit it on, 16 are not
    assert {"control_macro_f1", "control_target_auc"} & set(record.control_metrics)


@pytest.mark.slow
def test_fine_tuning_under_quantisation_takes_the_head_along(trained, tmp_path):
    pytest.importorskip("nncf")
    from edgeskin.training import qat

    spec = QatSpec(
        epochs=3, batch_pairs=6, calibration_pairs=4, workers=0, threads=1, allocator=False, accelerator="cpu",
        weight_bits=2, learning_rate=2e-3,
    )  # fmt: skip
    request = trained.request
    record = qat.qat(trained.folder, trained.record, request.pairset, request.roles, spec, tmp_path / "qat")
    assert (record.network, record.fusion) == (trained.record.network, trained.record.fusion)
    before, after = load_file(trained.folder / WEIGHTS), load_file(tmp_path / "qat" / WEIGHTS)
    assert before.keys() == after.keys()
    assert not torch.equal(before["fused.weight"], after["fused.weight"])
    found = qat.read_qat(tmp_path / "qat")
    assert found.quantised_after < found.quantised_before
