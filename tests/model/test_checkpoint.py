import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgeskin import catalog
from edgeskin.errors import EdgeskinError
from edgeskin.files import sha256_file
from edgeskin.model.attention import Exchange
from edgeskin.model.checkpoint import RECORD, WEIGHTS, load_network, read_record, save_checkpoint
from edgeskin.spec.train import Checkpoint, DataSpec, Fusion, Threshold, Thresholds, TrainSpec


@pytest.fixture
def run(tmp_path, build):
    """A saved network with open gates: (folder, network)."""
    network = build(gates=0.3, seed=5)
    schema = catalog.schema("milk10k5")
    threshold = Threshold(value=0.4, rule="by hand")
    record = Checkpoint(
        created="2026-01-01T00:00:00Z",
        network=network.spec,
        data=DataSpec(name="drawn", root="."),
        train=TrainSpec(size=32, start_size=32),
        task_schema=schema,
        preprocess={"height": 32, "width": 32, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)},
        fusion={task.name: Fusion(dermoscopic_weight=0.7) for task in schema.tasks},
        thresholds=Thresholds(pair=threshold, dermoscopic=threshold),
        roles={},
        lesion_hashes={},
        phantom=True,
        parameters=sum(p.numel() for p in network.parameters()),
        weights_sha256="",
        weights_source="random",
        control_metrics={},
        versions={"timm": "1.0.0"},
        git_revision="",
    )
    save_checkpoint(tmp_path, network, record)
    return tmp_path, network


def test_round_trip(run, frames):
    folder, network = run
    record = read_record(folder)
    assert record.weights_sha256 == sha256_file(folder / WEIGHTS)
    again = load_network(folder, record)
    assert not again.training
    images = frames(4)
    with torch.inference_mode():
        assert torch.equal(again(images, 2), network(images, 2))
        assert torch.equal(again(images, 0), network(images, 0))


def test_shared_attention_is_stored_once_and_shared_again(run):
    folder, network = run
    stored = load_file(folder / WEIGHTS)
    assert len([name for name in stored if name.endswith("attention.query.weight")]) == 1
    assert len([name for name in network.state_dict() if name.endswith("attention.query.weight")]) == 2
    parameters = sum(v.numel() for name, v in stored.items() if name in dict(network.named_parameters()))
    assert parameters == read_record(folder).parameters
    again = load_network(folder, read_record(folder))
    first, second = (m.attention for m in again.modules() if isinstance(m, Exchange))
    assert first is second


def test_equal_networks_give_equal_bytes(run, tmp_path_factory):
    folder, network = run
    other = tmp_path_factory.mktemp("other")
    save_checkpoint(other, network, read_record(folder))
    assert (other / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    assert (other / RECORD).read_bytes() == (folder / RECORD).read_bytes()


def test_missing_and_unfinished_runs(tmp_path):
    with pytest.raises(EdgeskinError, match=r"no checkpoint.*--out of a training"):
        read_record(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(EdgeskinError, match=r"the run is not finished.*resumes"):
        read_record(tmp_path)


def test_truncated_changed_or_missing_weights(run):
    folder, _ = run
    weights = folder / WEIGHTS
    whole = weights.read_bytes()
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    for broken in (whole[:-1], b"", bytes(flipped)):
        weights.write_bytes(broken)
        with pytest.raises(EdgeskinError, match="truncated or changed checkpoint"):
            read_record(folder)
    weights.unlink()
    with pytest.raises(EdgeskinError, match="weights are missing"):
        read_record(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[: len(text) // 2], "truncated checkpoint record"),
        (lambda text: "", "truncated checkpoint record"),
        (lambda text: text.replace('"parameters"', '"paramters"'), "paramters|parameters"),
        (lambda text: text.replace('"dermoscopic_weight": 0.7', '"dermoscopic_weight": 7'), "dermoscopic_weight"),
        (lambda text: text.replace('"format_version": 1', '"format_version": 2'), "format_version"),
    ],
)
def test_changed_record(run, change, said):
    path = run[0] / RECORD
    before = path.read_text()
    assert change(before) != before
    path.write_text(change(before))
    with pytest.raises(EdgeskinError, match=said):
        read_record(run[0])


def test_a_record_that_is_not_text(run):
    (run[0] / RECORD).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(EdgeskinError, match="truncated checkpoint record"):
        read_record(run[0])


def test_weights_of_another_network_are_told(run):
    """As after a change of timm's names: the hash holds, the names do not."""
    folder, _ = run
    state = load_file(folder / WEIGHTS)
    state["encoder.stem.weight"] = state.pop("encoder.conv_stem.weight")
    save_file(state, folder / WEIGHTS)
    record = json.loads((folder / RECORD).read_text()) | {"weights_sha256": sha256_file(folder / WEIGHTS)}
    (folder / RECORD).write_text(json.dumps(record))
    with pytest.raises(EdgeskinError, match=r"does not fit its network.*first encoder.conv_stem.weight.*timm.*1\.0\.0"):
        load_network(folder, read_record(folder))
