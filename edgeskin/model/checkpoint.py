"""A trained network on disk: checkpoint.safetensors and checkpoint.json."""

import json
from pathlib import Path

import torch

from edgeskin.errors import EdgeskinError
from edgeskin.files import pretty_json, sha256_bytes, sha256_file, write_atomic
from edgeskin.model.network import PairNetwork
from edgeskin.model.weights import create_encoder
from edgeskin.spec.train import Checkpoint

WEIGHTS, RECORD = "checkpoint.safetensors", "checkpoint.json"


def weights_bytes(network: PairNetwork) -> bytes:
    """The network's state as safetensors; the shared attention is stored once."""
    from safetensors.torch import save

    state: dict[str, torch.Tensor] = {}
    seen: dict[int, str] = {}
    for name, value in network.state_dict().items():
        if value.data_ptr() in seen and value.numel():
            continue
        seen[value.data_ptr()] = name
        state[name] = value.detach().cpu().contiguous()
    return save(state)


def save_checkpoint(folder: Path, network: PairNetwork, record: Checkpoint) -> None:
    """Write weights, then the record that names their hash: a record on disk means a whole checkpoint."""
    payload = weights_bytes(network)
    write_atomic(folder / WEIGHTS, payload)
    complete = record.model_copy(update={"weights_sha256": sha256_bytes(payload)})
    write_atomic(folder / RECORD, pretty_json(complete.to_json()))


def read_record(run: Path) -> Checkpoint:
    """checkpoint.json of a run, checked against its weights.

    Raises:
        EdgeskinError: no run, an unfinished run, a truncated or changed checkpoint.
    """
    path = run / RECORD
    if not path.is_file():
        unfinished = (run / "run.json").is_file()
        raise EdgeskinError(
            "the run is not finished" if unfinished else "no checkpoint",
            got=str(run),
            fix="run the same `edgeskin train` command again, it resumes"
            if unfinished
            else "pass the --out of a training",
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise EdgeskinError("truncated checkpoint record", got=f"{path}: {error}", fix="train again") from error
    record = Checkpoint.parse(data, str(path))
    weights = run / WEIGHTS
    if not weights.is_file():
        raise EdgeskinError("the checkpoint's weights are missing", got=str(weights), fix="train again")
    if sha256_file(weights) != record.weights_sha256:
        raise EdgeskinError("truncated or changed checkpoint", got=str(weights), fix="restore the file or train again")
    return record


def load_network(run: Path, record: Checkpoint) -> PairNetwork:
    """The trained network, in evaluation mode."""
    from safetensors.torch import load_file

    encoder = create_encoder(record.network, record.preprocess.height)
    network = PairNetwork(encoder, record.network, record.task_schema, record.preprocess)
    state = load_file(run / WEIGHTS)
    # Stages share one attention module: its tensors are stored under the first stage's name only.
    own = network.state_dict()
    first = {value.data_ptr(): name for name, value in reversed(own.items()) if value.numel()}
    stored = {name: name if name in state else first.get(value.data_ptr(), name) for name, value in own.items()}
    lacking = [name for name, source in stored.items() if source not in state or state[source].shape != own[name].shape]
    if lacking:
        raise EdgeskinError(
            "the checkpoint does not fit its network",
            got=f"{run}: {len(lacking)} of {len(own)} tensors missing or of another shape, first {lacking[0]}",
            fix=f"install the timm it was trained with ({record.versions.get('timm', 'unknown')}), or train again",
        )
    network.load_state_dict({name: state[source] for name, source in stored.items()})
    return network.eval()
