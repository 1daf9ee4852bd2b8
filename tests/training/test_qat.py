import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edgeskin import catalog
from edgeskin.data.roles import Roles
from edgeskin.errors import EdgeskinError
from edgeskin.files import sha256_file
from edgeskin.model import loss
from edgeskin.model.attention import Exchange
from edgeskin.model.checkpoint import RECORD, WEIGHTS, load_network, read_record
from edgeskin.model.network import PairNetwork
from edgeskin.model.weights import create_encoder
from edgeskin.preprocess import prepare
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.qat import QAT, QatSpec
from edgeskin.spec.train import NetworkSpec
from edgeskin.training import qat as stage
from edgeskin.training import train as training
from edgeskin.training.fakequant import (
    RoundedActivation,
    RoundedWeight,
    fake_quantised,
    is_transformer,
)
from edgeskin.training.qat import Distiller

pytest.importorskip("nncf")

HOOKS = "__nncf_hooks"  # where NNCF keeps its modules
SCHEMA = catalog.schema("milk10k5")


class Killed(BaseException):
    """Ends a run where a kill would."""


def spec_of(**options) -> QatSpec:
    return QatSpec(
        **{"epochs": 6, "batch_pairs": 6, "calibration_pairs": 4, "workers": 0, "threads": 1, "allocator": False,
           "accelerator": "cpu", "weight_bits": 2, "learning_rate": 2e-3, **options}
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(request_of, tmp_path_factory):
    """A run to start from: its folder, record, and the data."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    threads = torch.get_num_threads()
    request = request_of(epochs=20, learning_rate=3e-3)
    record = training.train(**vars(request), folder=folder)
    torch.set_num_threads(threads)
    return SimpleNamespace(folder=folder, record=record, pairset=request.pairset, roles=request.roles)


def tune(trained, folder: Path, **options):
    return stage.qat(trained.folder, trained.record, trained.pairset, trained.roles, spec_of(**options), folder)


@pytest.fixture(scope="module")
def whole(trained, tmp_path_factory):
    """An uninterrupted fine-tuning at 2 bits a weight: (folder, record)."""
    folder = tmp_path_factory.mktemp("qat") / "run"
    threads = torch.get_num_threads()
    record = tune(trained, folder)
    torch.set_num_threads(threads)
    return folder, record


def calibration(trained):
    chosen = [p for p in trained.roles["calibration"] if p.clinical is not None]
    prepared = trained.record.preprocess
    return [np.stack([prepare(p.clinical, prepared), prepare(p.dermoscopic, prepared)]) for p in chosen]


def network_of(backbone: str, size: int) -> PairNetwork:
    torch.manual_seed(0)
    spec = NetworkSpec(backbone=backbone, attention_dim=16, attention_heads=2)
    preprocess = Preprocess(height=size, width=size, mean=(0.5,) * 3, std=(0.5,) * 3)
    network = PairNetwork(create_encoder(spec, size), spec, SCHEMA, preprocess).eval()
    for module in network.modules():  # the exchange must do something
        if isinstance(module, Exchange):
            torch.nn.init.normal_(module.gate)
    return network


def drawn(size: int, count: int = 2) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 2, size, size, 3), dtype=np.uint8))


def test_what_it_leaves(trained, whole):
    """A plain checkpoint: same names and shapes, moved weights, frozen statistics, the teacher's operating point."""
    folder, record = whole
    assert sorted(p.name for p in folder.iterdir()) == sorted([RECORD, WEIGHTS, QAT, "logs", "run.json"])
    assert read_record(folder) == record
    before, after = load_file(trained.folder / WEIGHTS), load_file(folder / WEIGHTS)
    assert {n: v.shape for n, v in before.items()} == {n: v.shape for n, v in after.items()}
    statistics = [name for name in before if "running_" in name or "num_batches" in name]
    assert statistics
    assert all(torch.equal(before[name], after[name]) for name in statistics)
    learnt = [n for n, v in before.items() if n not in statistics and v.is_floating_point()]
    moved = [name for name in learnt if not torch.equal(before[name], after[name])]
    assert len(moved) > 0.9 * len(learnt)
    kept = ("network", "data", "train", "task_schema", "preprocess", "fusion", "thresholds", "roles", "lesion_hashes",
            "phantom", "parameters")  # fmt: skip
    assert all(getattr(record, name) == getattr(trained.record, name) for name in kept)
    network = load_network(folder, record)
    assert not [m for m in network.modules() if isinstance(m, RoundedWeight | RoundedActivation)]
    assert not [name for name, _ in network.named_modules() if name.startswith(HOOKS)]


def test_the_record_beside_it(trained, whole):
    folder, _ = whole
    found = stage.read_qat(folder)
    assert found.tuned.epochs == 6
    assert found.tuned.learning_rate == spec_of().learning_rate
    assert found.tuned.teacher_sha256 == sha256_file(trained.folder / RECORD)
    assert found.tuned.checkpoint_sha256 == sha256_file(folder / RECORD)
    assert found.tuned.control_divergence > 0


def test_what_it_answers_comes_closer_to_the_teacher(trained, whole):
    """On held-out phantoms, at 2 bits a weight, computed here from the two checkpoints alone."""
    folder, record = whole
    frames = torch.from_numpy(np.concatenate(
        [np.stack([prepare(p.clinical, record.preprocess) for p in trained.roles["test"]]),
         np.stack([prepare(p.dermoscopic, record.preprocess) for p in trained.roles["test"]])]
    ))  # fmt: skip
    half = len(frames) // 2
    teacher = load_network(trained.folder, trained.record)
    slices = list(record.task_schema.slices().values())

    def distance(network: PairNetwork) -> float:
        coarse = fake_quantised(network, calibration(trained), weight_bits=2)
        with torch.inference_mode():
            return float(stage.divergence(coarse(frames, half), teacher(frames, half), slices))

    before, after = distance(teacher), distance(load_network(folder, record))
    assert after < 0.75 * before
    found = stage.read_qat(folder)
    assert found.quantised_after < 0.75 * found.quantised_before


def test_a_finished_one_is_not_redone(trained, whole, monkeypatch):
    folder, record = whole
    monkeypatch.setattr(stage, "_tune", lambda *_: pytest.fail("trained again"))
    assert tune(trained, folder) == record


def test_other_settings_in_the_same_folder_are_refused(trained, whole):
    with pytest.raises(EdgeskinError, match=r"another run is in this folder.*differs in qat.; fix"):
        tune(trained, whole[0], seed=1)


def test_a_record_that_is_not_of_the_checkpoint_is_refused(whole, tmp_path):
    with pytest.raises(EdgeskinError, match="no finished fine-tuning"):
        stage.read_qat(tmp_path)
    (tmp_path / QAT).write_text("{")
    with pytest.raises(EdgeskinError, match="damaged record"):
        stage.read_qat(tmp_path)
    (tmp_path / QAT).write_text((whole[0] / QAT).read_text())
    (tmp_path / RECORD).write_text("another")
    with pytest.raises(EdgeskinError, match="of another checkpoint"):
        stage.read_qat(tmp_path)


def test_data_that_changed_is_refused(trained, tmp_path):
    other = Roles({**trained.roles.pairs, "control": trained.roles["control"][1:]})
    with pytest.raises(EdgeskinError, match="the data changed since the training"):
        stage.qat(trained.folder, trained.record, trained.pairset, other, spec_of(), tmp_path)


def test_the_teacher_is_not_written_over(trained):
    before = sha256_file(trained.folder / WEIGHTS)
    with pytest.raises(EdgeskinError, match="would replace its teacher"):
        tune(trained, trained.folder)
    assert sha256_file(trained.folder / WEIGHTS) == before


def test_interrupted_again_and_again(trained, whole, tmp_path, monkeypatch):
    """In the last epoch, before the checkpoint is written, and between it and qat.json: the same result as at once."""
    step, seen = Distiller.training_step, []

    def cut(self, batch, index):
        seen.append(self.current_epoch)
        if self.current_epoch == 5 and index == 1:
            raise Killed
        return step(self, batch, index)

    def count(self, batch, index):
        seen.append(self.current_epoch)
        return step(self, batch, index)

    def killed(*_, **__):
        raise Killed

    for name, value in [((Distiller, "training_step"), cut), ((stage, "save_checkpoint"), killed),
                        ((stage, "QatRecord"), killed)]:  # fmt: skip
        seen.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Distiller, "training_step", count)
            patch.setattr(*name, value)
            with pytest.raises(Killed):
                tune(trained, tmp_path)
        assert not (tmp_path / QAT).exists()
        assert set(seen) == {"training_step": {0, 1, 2, 3, 4, 5}, "save_checkpoint": {5}, "QatRecord": set()}[name[1]]
        with pytest.raises(EdgeskinError, match="no finished fine-tuning"):
            stage.read_qat(tmp_path)
    monkeypatch.setattr(Distiller, "training_step", lambda *_: pytest.fail("trained again"))
    assert tune(trained, tmp_path).weights_sha256 == whole[1].weights_sha256
    found, expected = stage.read_qat(tmp_path), stage.read_qat(whole[0])
    assert (found.quantised_before, found.quantised_after) == (expected.quantised_before, expected.quantised_after)
    assert found.tuned.control_divergence == expected.tuned.control_divergence


_CHILD = """
import os, signal, sys
from pathlib import Path
from edgeskin.data.registry import load_pairs
from edgeskin.data.roles import assign
from edgeskin.model.checkpoint import read_record
from edgeskin.spec.qat import QatSpec
from edgeskin.training.qat import Distiller, qat

run, folder, root, spec = sys.argv[1:]
step = Distiller.training_step

def killed(self, batch, index):
    if self.current_epoch == 1 and index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, index)

Distiller.training_step = killed
record, pairs = read_record(Path(run)), load_pairs("derm7pt", Path(root))
qat(Path(run), record, pairs, assign(pairs, record.data.roles), QatSpec.model_validate_json(spec), Path(folder))
"""


@pytest.mark.slow
def test_killed_within_an_epoch(trained, whole, phantom, tmp_path):
    """The same with a real SIGKILL, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(trained.folder), str(tmp_path / "run"), str(phantom),
         spec_of().model_dump_json()],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert tune(trained, tmp_path / "run").weights_sha256 == whole[1].weights_sha256


def test_a_loss_that_is_not_finite_names_its_batch(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(loss, "divergence", lambda logits, *_: logits.sum() * float("nan"))
    with pytest.raises(EdgeskinError, match=r"not finite: got 'nan in epoch 1, batch 1'; fix: .* without --qat"):
        tune(trained, tmp_path)
    assert not (tmp_path / RECORD).exists()


def test_part_of_the_pairs_and_labels_beside_the_teacher(trained, tmp_path):
    record = tune(trained, tmp_path, epochs=1, pairs=7, label_weight=0.5, temperature=2.0, weight_bits=8)
    assert stage.read_qat(tmp_path).spec.pairs == 7
    assert np.isfinite(record.control_metrics["loss"])
    request = json.loads((tmp_path / "run.json").read_text())
    assert request["qat"]["label_weight"] == 0.5


def test_rounding_a_weight_before_its_batch_norm_is_folded_is_rounding_it_after():
    """Greatest error 1 step, and that only where a weight lies on the edge between two steps."""
    torch.manual_seed(0)
    weight = torch.randn(16, 8, 3, 3) * torch.logspace(-3, 2, 16).view(-1, 1, 1, 1)
    factor = (torch.randn(16) * torch.logspace(2, -2, 16)).view(-1, 1, 1, 1)  # gamma / sqrt(variance), of either sign
    grid = RoundedWeight(0)
    before, after = grid(weight) * factor, grid(weight * factor)
    step = (weight * factor).abs().amax((1, 2, 3), keepdim=True) / 127
    assert ((before - after).abs() < 1e-3 * step).float().mean() > 0.999
    assert ((before - after).abs() / step).max() < 1.001
    torch.testing.assert_close((after / step).round(), after / step, atol=1e-3, rtol=0)
    assert len((after[0] / step[0]).round().unique()) > 30


def test_the_grids():
    """Values by hand: weights of 127 steps a channel, activations clipped at their range, gradients inside it."""
    weight = torch.tensor([[127.0, 0.4, 0.6], [-1.0, 0.5, 0.0]], requires_grad=True)
    rounded = RoundedWeight(0)(weight)
    torch.testing.assert_close(rounded, torch.tensor([[127.0, 0.0, 1.0], [-1.0, 64 / 127, 0.0]]))
    rounded.sum().backward()
    assert torch.equal(weight.grad, torch.ones(2, 3))
    assert torch.equal(RoundedWeight(0)(torch.zeros(2, 3)), torch.zeros(2, 3))
    assert len(RoundedWeight(0, bits=3)(torch.linspace(-1, 1, 100)[None]).unique()) == 7

    x = torch.tensor([-1.0, 0.26, 0.74, 9.0, 200.0], requires_grad=True)
    y = RoundedActivation(0.5, 0, 255)(x)
    assert y.tolist() == [0.0, 0.5, 0.5, 9.0, 127.5]
    y.sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-128, 127)])
def test_rounding_is_that_of_torch(low, high):
    """Numbers and gradients of torch's own, slower operators."""
    torch.manual_seed(0)
    scale = 0.037
    x, weight = 6 * torch.randn(10_000), torch.randn(8, 4, 3, 3)
    for value, ours, theirs in [
        (x, RoundedActivation(scale, low, high),
         lambda v: torch.fake_quantize_per_tensor_affine(v, scale, 0, low, high)),
        (weight, RoundedWeight(0), lambda v: torch.fake_quantize_per_channel_affine(
            v, v.detach().abs().amax((1, 2, 3)) / 127, torch.zeros(8, dtype=torch.int32), 0, -127, 127)),
    ]:  # fmt: skip
        given, wanted = (value.clone().requires_grad_() for _ in range(2))
        a, b = ours(given), theirs(wanted)
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
        push = torch.randn_like(value)
        a.backward(push)
        b.backward(push)
        assert torch.equal(given.grad, wanted.grad)
    assert (RoundedActivation(scale, low, high)(x) != x.clamp(low * scale, high * scale)).float().mean() > 0.3


@pytest.fixture(scope="module", params=[("test_efficientnet", 32), ("test_coatnet", 64)], ids=lambda p: p[0])
def both(request):
    """A network, the same fake-quantised, and its size."""
    backbone, size = request.param
    network = network_of(backbone, size)
    return network, fake_quantised(network, drawn(size, 3)), size


def test_every_product_has_a_rounded_weight(both):
    """Only squeeze-and-excitation is left alone: NNCF keeps its few products in floating point on every target."""
    network, rounded, _ = both
    assert set(rounded.state_dict()) == set(network.state_dict())
    assert not hasattr(network, HOOKS)  # what was made is a copy
    hooks = dict(rounded.get_submodule(HOOKS).named_modules())
    weights = {n.split(".")[1].rsplit("/", 2)[0] for n, m in hooks.items() if isinstance(m, RoundedWeight)}
    expected = {
        name.replace(".", "/")
        for name, module in network.named_modules(remove_duplicate=False)
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear) and ".se." not in name
    }
    assert weights == expected
    assert len([m for m in hooks.values() if isinstance(m, RoundedActivation)]) > len(expected) / 2
    assert not [m for m in hooks.values() if type(m).__module__.startswith("nncf.torch.quantization")]
    assert not [name for name in hooks if "layer_norm" in name and name.startswith("pre_")]


def test_every_form_of_a_batch_is_rounded_a_little(both):
    """Pairs, dermoscopic images alone, lesions that lack their clinical image: near FP32, but not FP32."""
    network, rounded, size = both
    frames = torch.from_numpy(np.concatenate(drawn(size, 3)))
    with torch.no_grad():
        for count, clinical, rows in [(6, 3, None), (3, 0, None), (5, 2, torch.tensor([0, 2])), (2, 1, None)]:
            exact, near = network(frames[:count], clinical, rows), rounded(frames[:count], clinical, rows)
            assert 0 < (near - exact).abs().max() < 0.2 * exact.std()


def trains_a_step(rounded: PairNetwork, size: int) -> None:
    """Gradients reach every parameter and move it."""
    before = {name: value.clone() for name, value in rounded.state_dict().items()}
    optimizer = torch.optim.SGD(rounded.parameters(), lr=1e-2)
    rounded(torch.from_numpy(drawn(size, 1)[0]), 1).square().sum().backward()
    lacking = [n for n, p in rounded.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not lacking
    optimizer.step()
    still = [n for n, p in rounded.named_parameters() if p.grad.abs().sum() > 0 and torch.equal(before[n], p)]
    assert len(still) < 0.1 * len(before)
    rounded.load_state_dict(before)


def test_convolutions_and_attention_train_a_step(both):
    _, rounded, size = both
    trains_a_step(rounded, size)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "size", "transformer"),
    [
        ("tf_efficientnet_lite0", 64, False),
        ("mobilenetv4_conv_small", 64, False),
        ("resnet50", 64, False),
        ("convnext_tiny", 64, True),
        ("swin_tiny_patch4_window7_224", 224, True),
    ],
)
def test_the_backbones_of_the_field_train_a_step(backbone, size, transformer):
    network = network_of(backbone, size)
    assert is_transformer(network) == transformer
    trains_a_step(fake_quantised(network, drawn(size, 1)), size)


def test_activations_that_are_not_finite_are_an_error():
    network = network_of("test_efficientnet", 32)
    with torch.no_grad():
        network.encoder.conv_stem.weight.mul_(float("inf"))
    with pytest.raises(EdgeskinError, match="activations are not finite"):
        fake_quantised(network, drawn(32))


def test_no_calibration_pairs_is_an_error():
    with pytest.raises(EdgeskinError, match="no calibration pairs"):
        fake_quantised(network_of("test_efficientnet", 32), [])


def test_divergence_is_none_for_equal_answers_and_grows_with_the_distance():
    torch.manual_seed(0)
    wanted, change = torch.randn(9, 5), torch.randn(9, 5)
    slices = [slice(0, 2), slice(2, 5)]
    found = [float(stage.divergence(wanted + f * change, wanted, slices)) for f in (0.0, 0.1, 0.5, 1.0)]
    assert abs(found[0]) < 1e-6
    assert found == sorted(found)
    shifted = wanted + torch.tensor([3.0, 3.0, -1.0, -1.0, -1.0])  # softmax does not see it
    assert abs(float(stage.divergence(shifted, wanted, slices))) < 1e-6
