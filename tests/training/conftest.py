import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeskin import out
from edgeskin.data.phantom import write_phantom
from edgeskin.data.registry import load_pairs
from edgeskin.data.roles import assign
from edgeskin.spec.train import DataSpec, NetworkSpec, TrainSpec

# All of these need edgeskin[train].
_NEEDED = ("torch", "timm", "lightning", "scipy")
collect_ignore_glob = [] if all(importlib.util.find_spec(name) for name in _NEEDED) else ["test_*.py"]


@pytest.fixture(autouse=True)
def _one_thread_and_quiet():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    out.configure(quiet=True)
    yield
    out.configure()
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def phantom(tmp_path_factory) -> Path:
    """40 drawn pairs of 32 x 32 pixels."""
    root = tmp_path_factory.mktemp("phantom") / "data"
    out.configure(quiet=True)
    write_phantom(root, 40, seed=3, size=32)
    return root


@pytest.fixture(scope="session")
def request_of(phantom):
    """request_of(epochs=2, ...): what `train` takes for a tiny run on these pairs, as keywords but for the folder.

    `network` holds options of the network.
    """

    def make(backbone="test_efficientnet", weights="scratch", network=None, **options):
        pairset = load_pairs("derm7pt", phantom)
        data = DataSpec(name="derm7pt", root=str(phantom))
        wanted = dict(epochs=2, batch_pairs=6, size=32, start_size=32, workers=0, threads=1, allocator=False)
        return SimpleNamespace(
            pairset=pairset,
            roles=assign(pairset, data.roles),
            data=data,
            network=NetworkSpec(backbone=backbone, attention_dim=16, attention_heads=2, **(network or {})),
            spec=TrainSpec(**{**wanted, "accelerator": "cpu", **options}),
            weights=weights,
        )

    return make
