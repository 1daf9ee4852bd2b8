"""Distillation: what it minimises, which teachers it takes, and that a run with one resumes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from edgeskin import catalog
from edgeskin.data.roles import Roles
from edgeskin.errors import EdgeskinError
from edgeskin.model.checkpoint import load_network, read_record
from edgeskin.model.loss import BiasedLoss
from edgeskin.model.network import PairNetwork
from edgeskin.model.weights import create_encoder
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.train import NetworkSpec, TrainSpec
from edgeskin.training import train as stage
from edgeskin.training.module import PairTrainer
from edgeskin.training.teacher import Student, read_teacher

SCHEMA = catalog.schema("milk10k5")


def network_of(backbone="test_efficientnet", side=32, seed=0, sure=0.0, **options) -> PairNetwork:
    """A random network; `sure` is how far apart its answers to the classes are, in nats."""
    torch.manual_seed(seed)
    spec = NetworkSpec(backbone=backbone, attention_dim=16, attention_heads=2, dropout=0, drop_path=0, **options)
    preprocess = Preprocess(height=side, width=side, mean=(0.5,) * 3, std=(0.5,) * 3)
    network = PairNetwork(create_encoder(spec, side), spec, SCHEMA, preprocess)
    with torch.no_grad():
        for name in ("clinical", "dermoscopic", "fused"):
            if hasattr(network, name):
                getattr(network, name).bias.add_(sure * torch.randn(SCHEMA.logits))
    return network


def student_of(network, teacher, **options) -> Student:
    spec = TrainSpec(label_smoothing=0, logit_adjustment=0, **options)
    return Student(network, teacher, BiasedLoss(SCHEMA, {"DIAG": [5] * 5}, spec), SCHEMA, spec, 10)


def images(count, side=32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)


def softmax(values):
    raised = np.exp(values - values.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def test_the_loss_by_hand():
    """(1 - d) (L_d + a L_c) + d T^2 (KL_d + a KL_c), each a mean over the rows of its branch."""
    student, teacher = network_of(seed=1, sure=2).eval(), network_of("test_resnet", seed=2, sure=2).eval()
    module = student_of(student, teacher, distillation=0.3, distillation_temperature=3.0, clinical_weight=0.25)
    frames, rows, labels = images(5), torch.tensor([0, 2]), torch.tensor([[1], [4], [0]])  # 2 clinical, 3 dermoscopic
    with torch.no_grad():
        found = module.objective(frames, labels, 2, rows).item()
        given, wanted = student(frames, 2, rows).numpy(), teacher(frames, 2, rows).numpy()
    told, taught = [], []
    for part, truth in ((slice(2, 5), labels[:, 0]), (slice(0, 2), labels[rows, 0])):
        told.append(-np.log(softmax(given[part])[np.arange(len(truth)), truth]).mean())
        p, q = softmax(wanted[part] / 3), softmax(given[part] / 3)
        taught.append((p * np.log(p / q)).sum(1).mean() * 9)
    assert taught[0] > 0.01
    expected = 0.7 * (told[0] + 0.25 * told[1]) + 0.3 * (taught[0] + 0.25 * taught[1])
    assert found == pytest.approx(expected, rel=1e-4)


def test_all_or_nothing():
    """d = 1 and the teacher's own answers cost nothing; d = 0 is the plain loss."""
    network = network_of(sure=2).eval()
    frames, labels = images(6), torch.tensor([[0], [1], [2]])
    with torch.no_grad():
        same = student_of(network, network, distillation=1.0).objective(frames, labels, 3, None)
        other = student_of(network, network_of(seed=5, sure=2), distillation=0.0)
        assert same.item() == pytest.approx(0, abs=1e-5)
        assert torch.equal(other.objective(frames, labels, 3, None), other.loss(network(frames, 3), labels, 3, None))


@pytest.mark.parametrize(
    ("taught", "teaching", "clinical"),
    [
        ({}, {"encoders": "separate", "attention": "separate"}, 3),
        ({}, {"fused_head": True}, 3),
        ({"fused_head": True}, {}, 3),
        ({"fused_head": True}, {"fused_head": True, "encoders": "separate"}, 3),
        ({"modalities": "dermoscopic"}, {}, 0),
        ({"modalities": "clinical"}, {"modalities": "clinical"}, 3),
    ],
)
def test_teachers_of_another_kind_are_followed(taught, teaching, clinical):
    """A student that only follows comes near any teacher; the teacher stays as it is."""
    student, teacher = network_of(seed=3, **taught).eval(), network_of(seed=4, sure=2, **teaching)
    module = student_of(student, teacher, distillation=1.0)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    frames = images({"dermoscopic": 3, "clinical": 3}.get(taught.get("modalities", ""), 6))
    labels = torch.zeros(3, 1, dtype=torch.int64)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.003)
    losses = []
    for _ in range(25):
        loss = module.objective(frames, labels, clinical, None)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[0] > 0.05
    assert min(losses[-5:]) < 0.5 * losses[0]
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not any("teacher" in name for name in module.state_dict())


def test_a_teacher_of_one_size_is_shown_that_size():
    """A windowed Transformer of 64 px sees the student's frames of 32 px enlarged, and none of 64 px changed."""
    teacher = network_of("test_coatnet", side=64)
    module = student_of(network_of(), teacher)
    seen = module._shown(images(4))
    assert (tuple(seen.shape), seen.dtype) == ((4, 64, 64, 3), torch.uint8)
    flat = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 32, 32, 3) * 60
    assert torch.equal(module._shown(flat)[:, ::2, ::2], flat)  # a flat frame keeps its grey level
    halves = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    halves[:, :, 16:] = 200
    enlarged = module._shown(halves)[0, :, :, 0]
    assert (enlarged[:, :31] == 0).all()
    assert (enlarged[:, 33:] == 200).all()
    whole = images(2, 64)
    assert module._shown(whole) is whole
    any_size = student_of(network_of(), network_of(side=64))
    small = images(2)
    assert any_size._shown(small) is small
    labels = torch.zeros(2, 1, dtype=torch.int64)
    assert torch.isfinite(module.objective(images(4), labels, 2, None))


def run(request, folder: Path):
    return stage.train(**vars(request), folder=folder)


@pytest.fixture(scope="module")
def taught(request_of, tmp_path_factory):
    """(folder of a teacher, of 2 epochs and two encoders; its record)."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    return folder, run(request_of(network={"encoders": "separate"}), folder)


@pytest.fixture(scope="module")
def whole(request_of, taught, tmp_path_factory):
    """An uninterrupted distillation: (folder, record)."""
    folder = tmp_path_factory.mktemp("student") / "run"
    return folder, run(request_of(teacher=str(taught[0])), folder)


def test_a_distilled_run_names_its_teacher(whole, taught, request_of):
    folder, record = whole
    assert record.teacher_sha256 == taught[1].weights_sha256 == read_record(folder).teacher_sha256
    assert json.loads((folder / "run.json").read_text())["teacher_sha256"] == record.teacher_sha256
    assert record.parameters < taught[1].parameters
    assert taught[1].teacher_sha256 == ""
    assert run(request_of(teacher=str(taught[0])), folder) == record  # finished before


def test_a_finished_run_outlives_its_teacher(taught, request_of, tmp_path):
    gone = shutil.copytree(taught[0], tmp_path / "teacher")
    record = run(request_of(teacher=str(gone), epochs=1), tmp_path / "student")
    shutil.rmtree(gone)
    assert run(request_of(teacher=str(gone), epochs=1), tmp_path / "student") == record


def test_another_teacher_in_the_same_folder_is_another_run(whole, taught, request_of, tmp_path):
    folder = tmp_path / "student"
    shutil.copytree(whole[0], folder)
    moved = tmp_path / "teacher"
    shutil.copytree(taught[0], moved)
    other = request_of(teacher=str(moved))
    with pytest.raises(EdgeskinError, match=r"another run.*differs in train'; fix"):  # another path
        run(other, folder)
    stored = json.loads((folder / "run.json").read_text())
    stored["train"]["teacher"] = str(moved)
    (folder / "run.json").write_text(json.dumps(stored))
    assert run(other, folder).teacher_sha256 == taught[1].weights_sha256
    shutil.copytree(whole[0], moved, dirs_exist_ok=True)  # another network takes the teacher's place
    with pytest.raises(EdgeskinError, match=r"another run.*differs in teacher_sha256'; fix"):
        run(other, folder)


class Killed(BaseException):
    """Ends a run where a kill would."""


def test_a_killed_distillation_resumes(whole, taught, request_of, tmp_path, monkeypatch):
    step = PairTrainer.training_step

    def cut(self, batch, index):
        if self.current_epoch == 1 and index == 1:
            raise Killed
        return step(self, batch, index)

    request = request_of(teacher=str(taught[0]))
    with monkeypatch.context() as patch:
        patch.setattr(PairTrainer, "training_step", cut)
        with pytest.raises(Killed):
            run(request, tmp_path)
    assert (tmp_path / "last.ckpt").is_file()
    resumed = run(request, tmp_path)
    assert resumed.weights_sha256 == whole[1].weights_sha256
    assert resumed.control_metrics == whole[1].control_metrics


def test_the_teacher_is_beside_what_trains_and_is_not_copied_with_it():
    """Averaging copies what trains; a second teacher would take its memory for nothing."""
    teacher = network_of("test_resnet", seed=2)
    module = student_of(network_of(seed=1), teacher)
    average = AveragedModel(module, use_buffers=True).module
    assert average.network is not module.network
    assert average.teacher is module.teacher is teacher
    assert not teacher.training
    assert not any(value.requires_grad for value in teacher.parameters())
    owned = {id(value) for value in teacher.parameters()}
    assert not any(id(value) in owned for value in module.parameters())
    assert {name.partition(".")[0] for name in module.state_dict()} == {"network", "loss"}


def test_a_loss_that_is_not_finite_stops_a_distillation_too(taught, request_of, tmp_path, monkeypatch):
    follow, calls = BiasedLoss.follow, []

    def spoilt(self, *given):
        calls.append(1)
        return follow(self, *given) * (float("inf") if len(calls) == 3 else 1)

    monkeypatch.setattr(BiasedLoss, "follow", spoilt)
    with pytest.raises(EdgeskinError, match="loss is not finite: got 'inf in epoch 2, batch 1; the state"):
        run(request_of(teacher=str(taught[0])), tmp_path)
    assert (tmp_path / "last.ckpt").is_file()


def test_a_student_comes_nearer_to_its_teacher(taught, request_of, tmp_path):
    """On lesions that neither trained on: following alone against labels alone, the same seed and steps."""
    request = request_of()
    pairs, schema = request.roles["control"], request.pairset.schema
    from edgeskin.preprocess import prepare
    from edgeskin.training.qat import logits_divergence

    preprocess = taught[1].preprocess
    frames = np.stack(
        [[prepare(p.clinical or p.dermoscopic, preprocess), prepare(p.dermoscopic, preprocess)] for p in pairs]
    )
    wanted = stage.control_logits(load_network(*taught), frames, pairs)
    away = {}
    for share in (0.0, 1.0):
        folder = tmp_path / str(share)
        options = dict(epochs=6, ema_decay=0.0, learning_rate=0.003, modality_dropout=0.0)
        record = run(request_of(teacher=str(taught[0]), distillation=share, **options), folder)
        away[share] = logits_divergence(
            stage.control_logits(load_network(folder, record), frames, pairs), wanted, schema
        )
    assert away[1.0] < 0.5 * away[0.0]


def test_teachers_that_do_not_fit(taught, request_of, tmp_path):
    request = request_of()
    schema, roles = request.pairset.schema, request.roles
    fits = NetworkSpec(backbone="test_efficientnet")
    assert not read_teacher(taught[0], fits, schema, roles).training
    with pytest.raises(EdgeskinError, match=r"another schema: got 'spc with 24 .*milk10k5 with 5.*same --schema"):
        read_teacher(taught[0], fits, SCHEMA, roles)
    clinical = fits.model_copy(update={"modalities": "clinical"})
    with pytest.raises(EdgeskinError, match="a teacher of both images for a network of clinical'; possible: clinical"):
        read_teacher(taught[0], clinical, schema, roles)
    with pytest.raises(EdgeskinError, match="no checkpoint"):
        read_teacher(tmp_path, fits, schema, roles)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(EdgeskinError, match="the run is not finished"):
        run(request_of(teacher=str(tmp_path)), tmp_path / "student")
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize("role", ["calibration", "control", "test"])
def test_a_teacher_that_saw_what_judges_the_student_is_refused(taught, request_of, role):
    """Other roles: lesions that the teacher trained on are now to choose thresholds, or to be the test."""
    request = request_of()
    roles = Roles({**request.roles.pairs, "train": request.roles[role], role: request.roles["train"]})
    with pytest.raises(EdgeskinError, match=rf"was trained on lesions of this training's {role} role.*same roles"):
        read_teacher(taught[0], request.network, request.pairset.schema, roles)
