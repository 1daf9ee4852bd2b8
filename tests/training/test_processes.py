"""Processes that train together: the same steps as one, one that speaks, and an end for all when one dies."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeskin import catalog, env
from edgeskin.data.phantom import write_phantom
from edgeskin.data.registry import load_pairs
from edgeskin.data.roles import assign
from edgeskin.errors import EdgeskinError
from edgeskin.model.checkpoint import load_network, read_record
from edgeskin.model.network import PairNetwork
from edgeskin.model.weights import create_encoder
from edgeskin.preprocess import prepare
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.train import DataSpec, NetworkSpec, TrainSpec
from edgeskin.training import frames as dealing
from edgeskin.training import train as stage
from edgeskin.training.frames import EpochSampler, deal
from edgeskin.training.processes import accelerator, joined, nodes, partners, synchronised


@given(st.integers(1, 300), st.integers(2, 40), st.integers(1, 5), st.integers(1, 4))
def test_a_step_takes_the_same_pairs_however_it_is_split(count, batch, accumulate, devices):
    """Batch by batch of all processes together: the order of one process with the whole step as its batch."""
    spec = TrainSpec(batch_pairs=batch, accumulate=accumulate, devices=devices)
    if count < devices:
        with pytest.raises(EdgeskinError, match=f"fewer training pairs than processes: got '{count} for {devices}'"):
            deal(count, spec)
        return
    found = deal(count, spec)
    step = found.batch * found.accumulate * devices
    assert 0 < step <= count
    assert found.batches % found.accumulate == 0
    steps = found.batches // found.accumulate
    assert steps == count // step  # every step that there are pairs for, and no smaller one
    assert found.batch == batch or batch * devices > count
    order = list(_sampler(count, count, 0, 1))
    parts = [list(_sampler(count, found.batch * found.batches, rank, devices)) for rank in range(devices)]
    assert all(len(part) == found.batch * found.batches for part in parts)
    for number in range(steps):
        own = slice(number * found.batch * found.accumulate, (number + 1) * found.batch * found.accumulate)
        dealt = sorted(key for part in parts for key in part[own])
        assert dealt == sorted(order[number * step : (number + 1) * step])


def _sampler(count: int, length: int, rank: int, processes: int) -> list[int]:
    sampler = EpochSampler(count, 3, length)
    sampler.set_epoch(2)
    before, dealing._processes = dealing._processes, lambda: (rank, processes)
    try:
        return list(sampler)
    finally:
        dealing._processes = before


@pytest.fixture
def torchrun(monkeypatch):
    """torchrun(rank, processes, here): the environment of a process that torchrun started."""

    def make(rank=0, processes=2, here=2):
        values = dict(RANK=rank, LOCAL_RANK=rank % here, WORLD_SIZE=processes, LOCAL_WORLD_SIZE=here)
        for name, value in {**values, "TORCHELASTIC_RUN_ID": "none"}.items():
            monkeypatch.setenv(name, str(value))

    return make


def test_torchrun_decides_how_many_train(torchrun):
    spec = TrainSpec(accelerator="cpu")
    assert joined(spec) == spec
    assert (nodes(spec), nodes(TrainSpec(devices=3)), env.rank()) == ((1, 1), (3, 1), 0)
    torchrun(rank=3, processes=4, here=2)
    assert joined(spec).devices == joined(joined(spec)).devices == 4
    assert (nodes(joined(spec)), env.rank()) == ((2, 2), 3)
    with pytest.raises(EdgeskinError, match="another number of processes than --devices: got '4 for --devices 3'"):
        joined(TrainSpec(accelerator="cpu", devices=3))


def test_processes_of_lightning_know_their_number(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert env.rank() == 1
    assert env.torchrun() is None


def test_gpus_that_are_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EdgeskinError, match=r"torch finds no GPU: got '--accelerator gpu.*possible: auto or cpu"):
        joined(TrainSpec(accelerator="gpu"))
    assert accelerator(TrainSpec()) == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert accelerator(TrainSpec()) == accelerator(joined(TrainSpec(accelerator="gpu"))) == "gpu"
    with pytest.raises(EdgeskinError, match="more processes than GPUs: got '2 on 1'"):
        joined(TrainSpec(devices=2))


def test_a_lost_partner_is_told_in_one_line():
    said = "another process of this training ended: got 'Connection closed by peer"
    with pytest.raises(EdgeskinError, match=said), partners():
        raise RuntimeError("[/x/gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:26051")
    with pytest.raises(RuntimeError, match="size mismatch"), partners():  # anything else stays what it is
        raise RuntimeError("size mismatch")


def test_batch_norm_over_all_gpus_keeps_its_activations(monkeypatch):
    """timm's batch norm holds an activation, which torch's own conversion would drop."""
    spec = NetworkSpec(backbone="test_efficientnet", attention_dim=16, attention_heads=2)
    preprocess = Preprocess(height=32, width=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    torch.manual_seed(0)
    plain = PairNetwork(create_encoder(spec, 32), spec, catalog.schema("milk10k5"), preprocess).eval()
    frames = torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8)
    with torch.inference_mode():
        expected = plain(frames, 3)
    names = list(plain.state_dict())
    assert synchronised(plain, TrainSpec(devices=2, accelerator="cpu")) is plain
    assert not any(isinstance(part, torch.nn.SyncBatchNorm) for part in plain.modules())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert synchronised(plain, TrainSpec()) is plain
    norms = sum(isinstance(part, torch.nn.BatchNorm2d) for part in plain.modules())
    made = synchronised(plain, TrainSpec(devices=2))
    assert sum(isinstance(part, torch.nn.SyncBatchNorm) for part in made.modules()) == norms > 0
    assert list(made.state_dict()) == names
    with torch.inference_mode():
        assert torch.equal(made(frames, 3), expected)


RECIPE = """
name = "still"
weights = "scratch"
[data]
name = "derm7pt"
[network]
backbone = "test_convnext"
attention_dim = 16
attention_heads = 2
dropout = 0
drop_path = 0
[train]
epochs = 2
size = 32
train_size = 32
start_size = 32
workers = 0
threads = 1
modality_dropout = 0
class_weighting = "inverse"
accelerator = "cpu"
"""

# What hurts one of the processes in the second epoch; the options of `edgeskin` follow.
HURT = """
import os, signal
from edgeskin import cli, env
from edgeskin.model.loss import BiasedLoss
from edgeskin.training.module import PairTrainer

kind, victim = os.environ["HURT"].split(":")
step, forward = PairTrainer.training_step, BiasedLoss.forward
mine, calls = env.rank() == int(victim), []

def hurt(self, batch, index):
    loss = step(self, batch, index)
    if mine and kind == "kill" and (self.current_epoch, index) == (1, 1):
        os.kill(os.getpid(), signal.SIGKILL)
    return loss

def spoilt(self, *given):
    calls.append(1)
    return forward(self, *given) * (float("nan") if mine and kind == "nan" and len(calls) == 4 else 1)

PairTrainer.training_step, BiasedLoss.forward = hurt, spoilt
cli.main()
"""


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """together(folder, options, torchrun=False, hurt=""): `edgeskin train` as it is typed -> finished process."""
    home = tmp_path_factory.mktemp("together")
    write_phantom(home / "phantom", 60, seed=5, size=32)  # no training pair lacks its clinical image
    (home / "still.toml").write_text(RECIPE)
    (home / "hurt.py").write_text(HURT)

    def make(folder: Path, *options: str, torchrun: bool = False, hurt: str = "") -> "subprocess.CompletedProcess[str]":
        program = [str(home / "hurt.py")] if hurt else ["-m", "edgeskin.cli"]
        start = ["-m", "torch.distributed.run", "--nproc-per-node", "2"] if torchrun else []
        asked = ["--root", str(home / "phantom"), "--recipe", str(home / "still.toml"), "--out", str(folder), "--json"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HURT": hurt}
        command = [sys.executable, *start, *program, "train", *asked, *options]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=600)

    make.home = home
    return make


@pytest.fixture(scope="module")
def alone(together, tmp_path_factory):
    """(folder, record) of a training in one process with 8 pairs in a batch."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    recipe = catalog.training_recipe(str(together.home / "still.toml"))
    data = DataSpec(name="derm7pt", root=str(together.home / "phantom"))
    pairset = load_pairs("derm7pt", Path(data.root))
    roles = assign(pairset, data.roles)
    assert all(pair.clinical is not None for pair in roles["train"])
    spec = recipe.train.model_copy(update={"batch_pairs": 8})
    return folder, stage.train(pairset, roles, data, recipe.network, spec, "scratch", folder)


def answers(folder: Path) -> "torch.Tensor":
    """Logits of the control role's images."""
    record = read_record(folder)
    pairs = assign(load_pairs("derm7pt", Path(record.data.root)), record.data.roles)["control"]
    shown = [prepare(path, record.preprocess) for p in pairs for path in (p.clinical or p.dermoscopic, p.dermoscopic)]
    frames = torch.from_numpy(np.stack(shown))
    with torch.inference_mode():
        logits: torch.Tensor = load_network(folder, record)(torch.cat([frames[::2], frames[1::2]]), len(pairs))
    return logits


@pytest.mark.slow
@pytest.mark.parametrize("torchrun", [False, True])
def test_two_processes_train_as_one(together, alone, tmp_path, torchrun):
    """2 x 4 pairs over gloo, against 8 in one process: the same answers but for rounding."""
    options = ["--batch-pairs", "4"] if torchrun else ["--batch-pairs", "4", "--devices", "2"]
    done = together(tmp_path / "run", *options, torchrun=torchrun)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)  # one process alone prints
    assert told["train"]["devices"] == 2
    assert told == read_record(tmp_path / "run").to_json()
    assert done.stderr.count("epoch 2/2: loss") == 1
    assert done.stderr.count("decoding train") <= 1
    torch.testing.assert_close(answers(tmp_path / "run"), answers(alone[0]), rtol=1e-4, atol=1e-5)
    for name, value in alone[1].control_metrics.items():
        assert told["control_metrics"][name] == pytest.approx(value, abs=1e-4)
    again = together(tmp_path / "run", *options, torchrun=torchrun)
    assert (again.returncode, json.loads(again.stdout)) == (0, told)
    assert again.stderr.count("finished before") == 1


@pytest.mark.slow
@pytest.mark.parametrize(("torchrun", "victim"), [(True, 0), (True, 1), (False, 1)])
def test_a_killed_process_ends_the_run_which_resumes(together, alone, tmp_path, torchrun, victim):
    options = ["--batch-pairs", "4"] if torchrun else ["--batch-pairs", "4", "--devices", "2"]
    cut = together(tmp_path / "run", *options, torchrun=torchrun, hurt=f"kill:{victim}")
    assert cut.returncode != 0
    assert (tmp_path / "run" / "last.ckpt").is_file()
    assert not (tmp_path / "run" / "checkpoint.json").exists()
    if not torchrun:
        assert "edgeskin: another process of this training ended" in cut.stderr
    done = together(tmp_path / "run", *options, torchrun=torchrun)
    assert done.returncode == 0, done.stderr
    assert "resuming after epoch 1 of 2" in done.stderr
    torch.testing.assert_close(answers(tmp_path / "run"), answers(alone[0]), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_ends_all(together, tmp_path):
    """Each says so itself: none waits for gradients of one that has gone."""
    done = together(tmp_path / "run", "--batch-pairs", "4", "--devices", "2", hurt="nan:1")
    assert done.returncode == 2, done.stderr
    assert "edgeskin: the training loss is not finite: got 'that of another process in epoch 2, batch 2;" in done.stderr
    assert "edgeskin, process 2: the training loss is not finite: got 'nan in epoch 2, batch 2;" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "run" / "last.ckpt").is_file()
