"""Which runs a sweep consists of, where each lies, and which of them are finished."""

import functools
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeskin import __version__
from edgeskin.data.pairs import Pair
from edgeskin.data.roles import Roles
from edgeskin.errors import EdgeskinError
from edgeskin.files import canonical_json, sha256_bytes, sha256_file
from edgeskin.spec.schema import Schema
from edgeskin.spec.sweep import MACHINE, SweepSpec, Variant
from edgeskin.spec.train import DataSpec, NetworkSpec, TrainSpec

FRAMES = "frames"  # folder of the decoded frames that all runs read
ANSWERS = "test.npz"  # its presence says that a run is finished


@dataclass(frozen=True, slots=True)
class Job:
    """One run: what to train, and where."""

    variant: str
    seed: int
    key: str  # hash of everything that makes its figures
    folder: Path
    frames: Path
    data: DataSpec
    network: NetworkSpec
    train: TrainSpec
    weights: str
    threads: int

    @property
    def name(self) -> str:
        """As in messages: the folder's own name."""
        return self.folder.name

    @property
    def answers(self) -> Path:
        """The file of its logits on the test role."""
        return self.folder / ANSWERS

    def to_json(self) -> dict[str, Any]:
        """Plain data, for another process."""
        return asdict(self) | {
            "folder": str(self.folder),
            "frames": str(self.frames),
            "data": self.data.to_json(),
            "network": self.network.to_json(),
            "train": self.train.to_json(),
        }

    @classmethod
    def parse(cls, given: dict[str, Any]) -> "Job":
        """The reverse of `to_json`."""
        return cls(
            **{
                **given,
                "folder": Path(given["folder"]),
                "frames": Path(given["frames"]),
                "data": DataSpec.parse(given["data"], "job"),
                "network": NetworkSpec.parse(given["network"], "job"),
                "train": TrainSpec.parse(given["train"], "job"),
            }
        )


def jobs(suite: SweepSpec, data: DataSpec, roles: Roles, schema: Schema, folder: Path, threads: int = 1) -> list[Job]:
    """All runs of a sweep: every variant's first seed, then every one's second ..., so that a table is early whole."""
    common = {
        "data": {k: v for k, v in data.to_json().items() if k != "root"},
        "schema": schema.to_json(),
        "lesions": {role: _hash(pairs) for role, pairs in roles.pairs.items()},
        "version": __version__,
    }
    weights_of, teacher_of = functools.cache(_weights), functools.cache(_teacher)  # variants share files
    found = []
    for variant in suite.variant:
        trained = suite.trained(variant, 0)[1]
        weights = suite.base.weights if variant.weights is None else variant.weights
        key = {**common, "weights": weights_of(weights), "teacher": teacher_of(trained.teacher)}
        for place, seed in enumerate(variant.seeds or suite.seeds):
            found.append((place, _job(suite, variant, seed, data, weights, key, folder, threads)))
    return [job for _, job in sorted(found, key=lambda one: one[0])]


def _hash(pairs: tuple[Pair, ...]) -> str:
    """Of what a role says of its lesions, in order: ids, patients, labels, and whether there is a clinical image."""
    told = [[p.lesion_id, p.patient_id, p.clinical is not None, dict(p.labels)] for p in pairs]
    return sha256_bytes(canonical_json(told).encode())


def _weights(given: str) -> str:
    """The content of a file of weights; what is none as it is: the run itself refuses it."""
    return sha256_file(Path(given)) if given and Path(given).is_file() else given


def _teacher(given: str) -> str:
    """The weights of a trained network; what is none as it is."""
    if given:
        from edgeskin.model.checkpoint import read_record

        with suppress(EdgeskinError):
            return read_record(Path(given)).weights_sha256
    return given


def _job(
    suite: SweepSpec, variant: Variant, seed: int, data: DataSpec, weights: str, common: Mapping[str, Any],
    folder: Path, threads: int,
) -> Job:  # fmt: skip
    network, train = suite.trained(variant, seed)
    left_out = {*MACHINE, "teacher"}  # a teacher counts by its weights
    key = {
        **common,
        "network": network.to_json(),
        "train": {k: v for k, v in train.to_json().items() if k not in left_out},
    }
    return Job(
        variant=variant.name,
        seed=seed,
        key=sha256_bytes(canonical_json(key).encode())[:16],
        folder=folder / f"{variant.name}-s{seed}",
        frames=folder / FRAMES,
        data=data,
        network=network,
        train=train.model_copy(update={"threads": 0}),  # the process as a whole gets its threads
        weights=weights,
        threads=threads,
    )


def is_finished(job: Job) -> bool:
    """Whether the run has its answers.

    Raises:
        EdgeskinError: the folder holds the answers of another run.
    """
    if not job.answers.is_file():
        return False
    from edgeskin.sweeping.answers import read

    found = read(job.answers)
    if found.key != job.key:
        raise EdgeskinError(
            "another run is in this folder",
            got=f"{job.folder}, of other data, classes, weights, another plan or another version of edgeskin",
            fix="choose another --out, or delete the folder",
        )
    return True
