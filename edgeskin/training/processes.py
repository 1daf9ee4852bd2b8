"""Processes that train together: started by torchrun, or by Lightning for `--devices N`."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from edgeskin import env
from edgeskin.errors import EdgeskinError
from edgeskin.spec.train import TrainSpec


def joined(train: TrainSpec) -> TrainSpec:
    """The options with what torchrun decides: how many processes train. Without torchrun as they are.

    Raises:
        EdgeskinError: a GPU is asked for that is not here, or torchrun started another number of processes.
    """
    group = env.torchrun()
    if group and train.devices not in (1, group.processes):
        raise EdgeskinError(
            "torchrun started another number of processes than --devices",
            got=f"{group.processes} for --devices {train.devices}",
            fix="leave --devices out: torchrun decides",
        )
    if group:
        train = train.model_copy(update={"devices": group.processes})
    here = group.processes_here if group else train.devices
    if train.accelerator == "gpu" and not torch.cuda.is_available():
        raise EdgeskinError(
            "torch finds no GPU", got=f"--accelerator gpu, torch {torch.__version__}", possible="auto or cpu"
        )
    if accelerator(train) == "gpu" and here > torch.cuda.device_count():
        raise EdgeskinError(
            "more processes than GPUs", got=f"{here} on {torch.cuda.device_count()}", fix="--accelerator cpu, or fewer"
        )
    return train


def accelerator(train: TrainSpec) -> str:
    """`gpu` or `cpu`."""
    if train.accelerator == "auto":
        return "gpu" if torch.cuda.is_available() else "cpu"
    return train.accelerator


def nodes(train: TrainSpec) -> tuple[int, int]:
    """(processes on this machine, machines) that train together."""
    group = env.torchrun()
    return (group.processes_here, group.processes // group.processes_here) if group else (train.devices, 1)


def synchronised(network: nn.Module, train: TrainSpec) -> nn.Module:
    """The network with batch norm over the images of all processes, on GPUs; torch has none for the CPU.

    timm's own conversion, since torch's would drop the activation that timm's batch norm holds.
    """
    if train.devices == 1 or accelerator(train) != "gpu":
        return network
    from timm.layers import convert_sync_batchnorm

    converted: nn.Module = convert_sync_batchnorm(network)
    return converted


@contextmanager
def partners() -> Iterator[None]:
    """Say in one line that another process of the training died: only its own message says why.

    Raises:
        EdgeskinError: the connection to another process broke.
    """
    try:
        yield
    except RuntimeError as error:
        known = getattr(torch.distributed, "DistError", ())
        if not isinstance(error, known) and "gloo" not in str(error) and "Connection" not in str(error):
            raise
        raise EdgeskinError(
            "another process of this training ended",
            got=str(error).splitlines()[0].rpartition("] ")[2].partition(". ")[0][:120],
            fix="see its message; the same command run again resumes after the last finished epoch",
        ) from error
