import importlib.util

import pytest

from edgeskin import catalog
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.train import NetworkSpec

SIDE = 32
# All of these need edgeskin[train].
collect_ignore_glob = [] if importlib.util.find_spec("torch") and importlib.util.find_spec("timm") else ["test_*.py"]


@pytest.fixture(autouse=True)
def _one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def build():
    """build(backbone, gates, stages=..., encoder=...): a tiny network in evaluation mode, its gates open if asked."""
    import torch

    from edgeskin.model.network import PairNetwork
    from edgeskin.model.weights import create_encoder

    def make(backbone="test_efficientnet", gates=0.0, *, stages=(-2, -1), side=SIDE, encoder=None, seed=0):
        torch.manual_seed(seed)
        spec = NetworkSpec(backbone=backbone, attention_stages=stages, attention_dim=16, attention_heads=2)
        encoder = encoder if encoder is not None else create_encoder(spec, side)
        preprocess = Preprocess(height=side, width=side, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
        network = PairNetwork(encoder, spec, catalog.schema("milk10k5"), preprocess)
        for name, value in network.named_parameters():
            if name.endswith(".gate"):
                torch.nn.init.constant_(value, gates)
        return network.eval()

    return make


@pytest.fixture
def frames():
    """frames(n): n unlike uint8 frames [n, 32, 32, 3]."""
    import torch

    def make(count, side=SIDE, seed=1):
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)

    return make
