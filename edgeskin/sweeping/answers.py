"""What a run leaves of its test role: logits of every reading, labels, and what it took to get them; one file."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskin.errors import EdgeskinError
from edgeskin.files import canonical_json, staged_file
from edgeskin.spec.sweep import Reading
from edgeskin.spec.train import Fusion

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Answers:
    """Logits of one run on the lesions of the test role that have both images, or on all if none has both.

    `pair` [N, 2, K], or [N, 3, K] with a fused head; `dermoscopic` and `clinical` [N, K]: that image alone. What the
    network cannot do is absent. `lesions`: short hashes of their ids; `groups`: those of the patients, else the same.
    """

    key: str
    pair: Logits | None
    dermoscopic: Logits | None
    clinical: Logits | None
    labels: NDArray[np.int64]  # [N, tasks], -1 unlabelled
    lesions: tuple[str, ...]
    groups: tuple[str, ...]
    fusion: Mapping[str, Fusion]  # by task, as chosen on the control role
    parameters: int
    macs: Mapping[Reading, int]
    left_out: int  # lesions of the role that lack an image
    seconds: float | None  # of training and evaluation; None: it ran in pieces
    machine: str
    facts: Mapping[str, Any] = field(default_factory=dict)  # versions, weights_source ...


_ARRAYS = ("pair", "dermoscopic", "clinical", "labels")


def write(path: Path, found: Answers) -> None:
    """Write under a temporary name, then rename."""
    arrays = {name: value for name in _ARRAYS if (value := getattr(found, name)) is not None}
    told = {
        "key": found.key,
        "lesions": list(found.lesions),
        "groups": list(found.groups),
        "fusion": {task: one.to_json() for task, one in found.fusion.items()},
        "parameters": found.parameters,
        "macs": dict(found.macs),
        "left_out": found.left_out,
        "seconds": found.seconds,
        "machine": found.machine,
        "facts": dict(found.facts),
    }
    with staged_file(path) as staged, staged.open("wb") as handle:
        np.savez_compressed(handle, told=np.array(canonical_json(told)), **arrays)


def read(path: Path) -> Answers:
    """The reverse. Raises EdgeskinError for a file that is none of ours."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            told = json.loads(str(stored["told"]))
            given: dict[str, Any] = {name: stored[name] for name in _ARRAYS if name in stored}
        fusion = {task: Fusion.parse(one, str(path)) for task, one in told["fusion"].items()}
        named = {"fusion": fusion, "lesions": tuple(told["lesions"]), "groups": tuple(told["groups"])}
        return Answers(**{"pair": None, "dermoscopic": None, "clinical": None, **given, **told, **named})
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise EdgeskinError("not the answers of a run", got=f"{path}: {error}", fix="delete the file") from error
