"""Decoded frames that several trainings read."""

from pathlib import Path

from edgeskin.data.roles import Roles
from edgeskin.model.weights import create_encoder
from edgeskin.spec.train import NetworkSpec, TrainSpec
from edgeskin.training.frames import finer, stored_frames
from edgeskin.training.train import preprocess_for


def share_frames(network: NetworkSpec, train: TrainSpec, border_px: int, roles: Roles, folder: Path) -> None:
    """Decode what a training and its evaluation on the test role read into `folder`, unless it is there.

    Raises:
        EdgeskinError: there is no such backbone.
    """
    preprocess = preprocess_for(create_encoder(network, train.size), train.size, border_px)
    stored_frames(roles["train"], finer(preprocess), folder, "decoding train")
    stored_frames(roles["control"], preprocess, folder, "decoding control")
    stored_frames(roles["test"], preprocess, folder, "decoding test")
