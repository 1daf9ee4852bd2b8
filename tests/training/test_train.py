import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import SingleDeviceStrategy

from edgeskin.errors import EdgeskinError
from edgeskin.files import sha256_file
from edgeskin.model.checkpoint import RECORD, WEIGHTS, load_network, read_record
from edgeskin.model.loss import BiasedLoss
from edgeskin.model.network import PairNetwork
from edgeskin.model.weights import create_encoder
from edgeskin.preprocess import prepare
from edgeskin.training import train as stage
from edgeskin.training.callbacks import Resumable, _Average
from edgeskin.training.module import PairTrainer
from edgeskin.training.request import clean


def run(request, folder: Path):
    return stage.train(**vars(request), folder=folder)


def logged(folder: Path) -> list[dict[str, str]]:
    """The table of the epochs."""
    return list(csv.DictReader((folder / "logs" / "csv" / "metrics.csv").read_text().splitlines()))


class Killed(BaseException):
    """Ends a run where a kill would."""


@pytest.fixture(scope="module")
def whole(request_of, tmp_path_factory):
    """An uninterrupted run: (folder, record)."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    threads = torch.get_num_threads()
    record = run(request_of(), folder)
    torch.set_num_threads(threads)
    return folder, record


def test_what_a_run_leaves(whole, request_of):
    folder, record = whole
    request = request_of()
    assert read_record(folder) == record
    assert sorted(p.name for p in folder.iterdir()) == [RECORD, WEIGHTS, "logs", "run.json"]
    assert record.weights_source == "random (asked for)"
    assert record.phantom
    assert record.train == request.spec
    assert record.network == request.network
    assert record.data == request.data
    assert record.roles == request.roles.records()
    assert record.lesion_hashes == request.roles.lesion_hashes()
    assert set(record.fusion) == {task.name for task in request.pairset.schema.tasks}
    assert all(f.dermoscopic_weight >= 0.5 for f in record.fusion.values())
    assert {"control_macro_f1", "control_balanced_accuracy", "control_target_auc", "loss"} <= set(
        record.control_metrics
    )
    assert (record.preprocess.height, record.preprocess.width) == (32, 32)
    assert "torch" in record.versions


def test_logs_can_be_read(whole):
    folder, _ = whole
    rows = logged(folder)
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert all(np.isfinite(float(row[name])) for row in rows for name in ("loss", "control_macro_f1"))
    assert list((folder / "logs" / "tb").glob("events.*"))


def test_thresholds_hold_on_the_control_role(whole, request_of):
    """The stored weights, put to the control role once more, find the 90 % that the record promises."""
    folder, record = whole
    request = request_of()
    pairs = request.roles["control"]
    frames = np.stack([[prepare(p.clinical or p.dermoscopic, record.preprocess) for p in pairs],
                       [prepare(p.dermoscopic, record.preprocess) for p in pairs]], axis=1)  # fmt: skip
    both, alone = stage.control_logits(load_network(folder, record), frames, pairs)
    assert np.isnan(both[[p.clinical is None for p in pairs], 0]).all()
    assert np.isfinite(both[:, 1]).all()
    from edgeskin.training.frames import label_array
    from edgeskin.training.operating import choose_fusion, choose_thresholds, control_metrics

    labels = label_array(pairs, request.pairset.schema)
    fusion = choose_fusion(both, alone, labels, request.pairset.schema)
    assert fusion == record.fusion
    again = choose_thresholds(both, alone, labels, request.pairset.schema, fusion)
    assert again == record.thresholds
    figures = control_metrics(both, alone, labels, request.pairset.schema, fusion, {})
    assert record.control_metrics == figures | {"loss": record.control_metrics["loss"]}
    assert record.thresholds.pair.control_sensitivity >= 0.9
    assert record.thresholds.dermoscopic.control_sensitivity >= 0.9


def test_a_finished_run_is_not_redone(whole, request_of, monkeypatch):
    folder, record = whole
    monkeypatch.setattr(stage, "_fit", lambda *_: pytest.fail("trained again"))
    assert run(request_of(), folder) == record


@pytest.mark.parametrize(
    ("change", "named"),
    [({"seed": 1}, "train"), ({"weights": ""}, "weights"), ({"backbone": "test_resnet"}, "network")],
)
def test_other_settings_in_the_same_folder_are_refused(whole, request_of, change, named):
    folder, _ = whole
    before = sha256_file(folder / WEIGHTS)
    with pytest.raises(EdgeskinError, match=f"another run is in this folder.*differs in {named}.; fix"):
        run(request_of(**change), folder)
    assert sha256_file(folder / WEIGHTS) == before


def test_a_damaged_run_record_is_refused(request_of, tmp_path):
    for content in (b"{", b"[]", b"\xff\xfe"):
        (tmp_path / "run.json").write_bytes(content)
        with pytest.raises(EdgeskinError, match="another run is in this folder"):
            run(request_of(), tmp_path)


def test_equal_seeds_give_equal_weights_whatever_the_workers(whole, request_of, tmp_path):
    _, record = whole
    assert run(request_of(workers=1), tmp_path / "one").weights_sha256 == record.weights_sha256
    assert run(request_of(seed=1), tmp_path / "other").weights_sha256 != record.weights_sha256


@pytest.mark.parametrize("decay", [0.995, 0.0])
def test_interrupted_after_the_last_epoch(request_of, tmp_path, monkeypatch, decay):
    """Between the last epoch and the checkpoint: the resume has nothing to train and still keeps the average."""
    request = request_of(batch_pairs=2, ema_decay=decay)
    expected = run(request, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(stage, "control_logits", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            run(request, tmp_path / "cut")
    with pytest.raises(EdgeskinError, match="not finished"):
        read_record(tmp_path / "cut")
    assert (tmp_path / "cut" / "last.ckpt").is_file()
    resumed = run(request, tmp_path / "cut")
    assert resumed.weights_sha256 == expected.weights_sha256
    assert resumed.control_metrics == expected.control_metrics
    assert logged(tmp_path / "cut") == logged(tmp_path / "whole")
    assert not (tmp_path / "cut" / "last.ckpt").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_interrupted_within_an_epoch(whole, request_of, tmp_path, monkeypatch, workers):
    """In the second epoch: the resume starts that epoch again and ends with the same weights.

    Also where workers fetch: they draw before the trainer has told the sampler which epoch it is.
    """
    _, record = whole
    step, seen = PairTrainer.training_step, []

    def cut(self, batch, index):
        if self.current_epoch == 1 and index == 1:
            raise Killed
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(PairTrainer, "training_step", cut)
        with pytest.raises(Killed):
            run(request_of(workers=workers), tmp_path)

    def count(self, batch, index):
        seen.append(self.current_epoch)
        return step(self, batch, index)

    monkeypatch.setattr(PairTrainer, "training_step", count)
    resumed = run(request_of(workers=workers), tmp_path)
    assert set(seen) == {1}  # the first epoch is not trained again
    assert logged(tmp_path) == logged(whole[0])  # and still in the table
    assert resumed.weights_sha256 == record.weights_sha256
    assert resumed.control_metrics == record.control_metrics
    assert resumed.thresholds == record.thresholds


_CHILD = """
import os, signal, sys
from pathlib import Path
from edgeskin.data.registry import load_pairs
from edgeskin.data.roles import assign
from edgeskin.spec.train import DataSpec, NetworkSpec, TrainSpec
from edgeskin.training.module import PairTrainer
from edgeskin.training.train import train

root, folder, data, network, spec = sys.argv[1:]
step = PairTrainer.training_step

def killed(self, batch, index):
    if self.current_epoch == 1 and index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, index)

PairTrainer.training_step = killed
pairs, data = load_pairs("derm7pt", Path(root)), DataSpec.model_validate_json(data)
train(pairs, assign(pairs, data.roles), data, NetworkSpec.model_validate_json(network),
      TrainSpec.model_validate_json(spec), "scratch", Path(folder))
"""


@pytest.mark.slow
def test_killed_within_an_epoch(whole, request_of, phantom, tmp_path):
    """The same with a real SIGKILL, in a process of its own."""
    _, record = whole
    request = request_of()
    texts = [s.model_dump_json() for s in (request.data, request.network, request.spec)]
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(phantom), str(tmp_path / "run"), *texts],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert run(request, tmp_path / "run").weights_sha256 == record.weights_sha256


def test_a_polite_kill_is_no_success(request_of, tmp_path, monkeypatch):
    """SIGTERM, as `timeout` and batch queues send it: an error, not a quiet end with status 0."""
    step = PairTrainer.training_step

    def asked_to_end(self, batch, index):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, index)

    monkeypatch.setattr(PairTrainer, "training_step", asked_to_end)
    with pytest.raises(EdgeskinError, match=r"stopped by a signal: got 'SIGTERM'; fix: run it again"):
        run(request_of(), tmp_path)
    with pytest.raises(EdgeskinError, match="not finished"):
        read_record(tmp_path)


def test_a_kill_while_the_state_is_written_costs_one_epoch(whole, request_of, tmp_path, monkeypatch):
    """A half-written state has another name: the resume starts from the one before, or from the beginning."""
    _, record = whole
    (tmp_path / "run.json").write_text((whole[0] / "run.json").read_text())
    (tmp_path / "last.partial").write_bytes(b"half a state")
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "frames-0123.partial").write_bytes(b"half the frames")
    assert run(request_of(), tmp_path).weights_sha256 == record.weights_sha256
    assert sorted(p.name for p in tmp_path.iterdir()) == [RECORD, WEIGHTS, "logs", "run.json"]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_state(whole, request_of, tmp_path, monkeypatch):
    """The last finished epoch stays; when the cause is gone the run goes on from it."""
    _, record = whole
    forward, calls = BiasedLoss.forward, []

    def spoilt(self, *given):
        calls.append(1)
        loss = forward(self, *given)
        return loss * float("nan") if len(calls) == 4 else loss

    monkeypatch.setattr(BiasedLoss, "forward", spoilt)
    batches = len(request_of().roles["train"]) // 6
    assert batches == 2  # so the fourth loss is of the second epoch's second batch
    said = "loss is not finite: got 'nan in epoch 2, batch 2; the state after epoch 1 is kept'; fix: train with a lower"
    with pytest.raises(EdgeskinError, match=said):
        run(request_of(), tmp_path)
    assert (tmp_path / "last.ckpt").is_file()
    assert not (tmp_path / RECORD).exists()
    monkeypatch.setattr(BiasedLoss, "forward", forward)
    assert run(request_of(), tmp_path).weights_sha256 == record.weights_sha256


def test_the_bar_is_closed_after_an_error(request_of, tmp_path, monkeypatch):
    from edgeskin.training import callbacks

    closed = []
    bar = callbacks.ShowProgress

    class Watched(bar):
        def on_train_start(self, *given):
            super().on_train_start(*given)
            self._stack.callback(lambda: closed.append(1))

    monkeypatch.setattr(callbacks, "ShowProgress", Watched)
    monkeypatch.setattr(BiasedLoss, "forward", lambda *_: torch.tensor(float("inf"), requires_grad=True))
    with pytest.raises(EdgeskinError, match="not finite: got 'inf in epoch 1, batch 1'; fix: train with a lower"):
        run(request_of(), tmp_path)
    assert closed == [1]
    assert not (tmp_path / "last.ckpt").exists()


def test_a_backbone_of_one_size_trains_at_that_size(request_of, tmp_path):
    """A windowed Transformer takes the size it was made for alone: no smaller frames at the start."""
    record = run(request_of("test_coatnet", epochs=1, size=64, start_size=32, batch_pairs=8), tmp_path)
    assert record.train.start_size == record.train.size == 64
    assert json.loads((tmp_path / "run.json").read_text())["train"]["start_size"] == 32


def test_a_folder_that_cannot_be_written(request_of, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(EdgeskinError, match="a file stands where a folder is needed"):
        run(request_of(), tmp_path / "file")


@pytest.mark.parametrize("spoilt", ["weight", "running_var"])
def test_weights_that_are_not_finite_do_not_replace_the_state(whole, request_of, tmp_path, monkeypatch, spoilt):
    """In the second epoch's last step, after which no loss would tell: the state of the first epoch stays."""
    saved = Resumable.on_train_epoch_end

    def spoil(self, trainer, module):
        if trainer.current_epoch == 1:
            name = next(name for name in module.state_dict() if name.endswith(spoilt))
            value = module.state_dict()[name]
            value[(0,) * value.ndim] = float("nan")
        saved(self, trainer, module)

    with monkeypatch.context() as patch:
        patch.setattr(Resumable, "on_train_epoch_end", spoil)
        with pytest.raises(EdgeskinError, match=r"weights are not finite: got 'after epoch 2'; fix: .* lower"):
            run(request_of(), tmp_path)
    assert torch.load(tmp_path / "last.ckpt", weights_only=False)["epoch"] == 0
    assert not (tmp_path / RECORD).exists()
    assert run(request_of(), tmp_path).weights_sha256 == whole[1].weights_sha256


def test_answers_that_are_not_finite_make_no_checkpoint(request_of, tmp_path, monkeypatch):
    """Finite weights whose logits overflow after the last step: an error of ours, for one lesion among the others."""
    forward = PairNetwork.forward

    def overflow(self, frames, clinical, rows=None):
        logits = forward(self, frames, clinical, rows)
        if torch.is_inference_mode_enabled() and not clinical:  # dermoscopic images alone: after the training
            logits = logits.clone()
            logits[2, 0] = float("inf")
        return logits

    monkeypatch.setattr(PairNetwork, "forward", overflow)
    with pytest.raises(
        EdgeskinError,
        match=r"answers to the control role are not finite: got '1 of 8 lesions'; fix: .* lower",
    ):
        run(request_of(epochs=1), tmp_path)
    assert not (tmp_path / RECORD).exists()
    assert not (tmp_path / WEIGHTS).exists()


def test_another_machine_goes_on_with_a_killed_run(whole, request_of, phantom, tmp_path, monkeypatch):
    """Other workers, threads, device option and path to the data: the same run."""
    step = PairTrainer.training_step

    def cut(self, batch, index):
        if self.current_epoch == 1:
            raise Killed
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(PairTrainer, "training_step", cut)
        with pytest.raises(Killed):
            run(request_of(), tmp_path)
    moved = request_of(workers=1, threads=0, accelerator="auto" if not torch.cuda.is_available() else "cpu")
    moved.data = moved.data.model_copy(update={"root": str(phantom / ".." / phantom.name)})
    found = run(moved, tmp_path)
    assert found.weights_sha256 == whole[1].weights_sha256
    assert found.data.root == moved.data.root
    with pytest.raises(EdgeskinError, match=r"another run.*differs in train'; fix"):
        run(request_of(devices=2), tmp_path)  # of them a step takes twice as many pairs


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"backbone": "no_such_net"}, "unknown backbone"),
        ({"network": {"attention_stages": (-9,)}}, "unknown attention stage"),
        ({"weights": "no-such.pth"}, "no such weights file"),
        ({"teacher": "no-such-run"}, "no checkpoint"),
    ],
)
def test_a_refused_command_leaves_the_folder_free(request_of, tmp_path, change, said):
    with pytest.raises(EdgeskinError, match=said):
        run(request_of(**change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_images_are_looked_at_once_all_else_is_right(request_of, tmp_path):
    looked = []

    def check():
        looked.append((tmp_path / "run").exists())

    with pytest.raises(EdgeskinError, match="unknown backbone"):
        stage.train(**vars(request_of("no_such_net")), folder=tmp_path / "run", check=check)
    assert looked == []
    stage.train(**vars(request_of(epochs=1)), folder=tmp_path / "run", check=check)
    stage.train(**vars(request_of(epochs=1)), folder=tmp_path / "run", check=check)  # finished before
    assert looked == [False]


def test_first_weights_are_known_by_their_bytes(request_of, tmp_path):
    """Another file under the same name is another run; a file that is gone does not hide a finished one."""
    encoder = create_encoder(request_of().network, 32)
    file = tmp_path / "first.pth"
    torch.save(encoder.state_dict(), file)
    request = request_of(weights=str(file), epochs=1)
    record = run(request, tmp_path / "run")
    (tmp_path / "run" / "last.ckpt").write_bytes(b"left by a kill after the checkpoint")
    (tmp_path / "run" / "frames").mkdir()
    file.rename(tmp_path / "away.pth")
    assert run(request, tmp_path / "run") == record
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [RECORD, WEIGHTS, "logs", "run.json"]
    torch.save({name: value * 2 for name, value in encoder.state_dict().items()}, file)
    with pytest.raises(EdgeskinError, match=r"another run.*differs in weights_file_sha256'; fix"):
        run(request, tmp_path / "run")


@pytest.mark.parametrize(
    "kind",
    ["cpu", pytest.param("gpu", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))],
)
def test_the_average_lies_where_the_network_does(request_of, tmp_path, monkeypatch, kind):
    """On a GPU in half precision, with clipped gradients; the average is made while the network is on the CPU still."""
    devices = []

    def watched(self, trainer, module, *given):
        assert self._average_model.n_averaged.device == module.device
        devices.append((module.device.type, {value.device for value in self._average_model.module.parameters()}))
        WeightAveraging.on_train_batch_end(self, trainer, module, *given)

    monkeypatch.setattr(_Average, "on_train_batch_end", watched, raising=False)
    record = run(request_of(accelerator=kind), tmp_path)
    assert len(devices) == 4
    for place, found in devices:
        assert place == {"cpu": "cpu", "gpu": "cuda"}[kind]
        assert {device.type for device in found} == {place}
    assert np.isfinite(record.control_metrics["loss"])
    assert read_record(tmp_path) == record


def test_states_are_renamed_into_place(tmp_path):
    class Trainer:
        is_global_zero = True
        current_epoch, global_step = 0, 7
        callback_metrics = {"loss": torch.tensor(0.5)}
        strategy = SingleDeviceStrategy()

        def save_checkpoint(self, path, weights_only):
            assert path.name == "last.partial"
            path.write_bytes(b"state")

    kept = Resumable(tmp_path)
    assert kept.found() is None
    kept.on_train_epoch_end(Trainer(), torch.nn.Linear(2, 2))
    assert kept.found() == str(tmp_path / "last.ckpt")
    assert kept.metrics == {"loss": 0.5}
    assert kept.state_dict() == {"rows": [{"epoch": 0, "step": 7, "loss": 0.5}]}
    assert logged(tmp_path) == [{"epoch": "0", "loss": "0.5", "step": "7"}]
    clean(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]
