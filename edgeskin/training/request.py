"""What a run was asked for (run.json): whether a folder holds that run, and what only its resume needs."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgeskin.errors import EdgeskinError
from edgeskin.files import sha256_file
from edgeskin.spec.base import Spec
from edgeskin.spec.sweep import MACHINE
from edgeskin.spec.train import DataSpec, NetworkSpec, TrainSpec

RUN = "run.json"
LAST = "last.ckpt"  # the state after the last finished epoch
FRAMES = "frames"  # folder of the decoded images
# How a machine does the work, not what the work is. The number of processes stays: a step takes `batch_pairs` of each.
_MACHINE = tuple(name for name in MACHINE if name != "devices")
_FILES = ("teacher_sha256", "weights_file_sha256")  # of files that a finished run can do without


def same_run(folder: Path, request: dict[str, Any]) -> bool:
    """Whether the folder holds this very run. Raises if it holds another one.

    A killed run may go on with other workers or threads, on another device, and with its data at another place: the
    roles, which the request holds too, say whether they are the same lesions.
    """
    path = folder / RUN
    if not path.is_file():
        return False
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        found = None
    asked = _asked(request)
    given = _asked(_with_defaults(found)) if isinstance(found, dict) else {}
    # A file that is gone, or that an earlier version did not look at, has no hash to compare.
    changed = [key for key in asked if given.get(key) != asked[key] and (key not in _FILES or key in given)]
    if changed:
        raise EdgeskinError(
            "another run is in this folder",
            got=f"{folder}, which differs in {', '.join(changed)}",
            fix="choose another --out, or delete the folder",
        )
    return True


def hash_if_there(name: str, path: str) -> dict[str, str]:
    """{name: SHA-256 of the file}; nothing where there is no such file."""
    return {name: sha256_file(Path(path))} if path and Path(path).is_file() else {}


def clean(folder: Path) -> None:
    """Remove what only a resume needs."""
    for name in (LAST, Path(LAST).with_suffix(".partial")):
        (folder / name).unlink(missing_ok=True)
    frames = folder / FRAMES
    if frames.is_dir():
        for file in frames.iterdir():
            file.unlink()
        frames.rmdir()


def _asked(request: dict[str, Any]) -> dict[str, Any]:
    """The request without what the result does not hang on."""
    left_out = {"train": _MACHINE, "qat": _MACHINE, "data": ("root",)}
    return {
        key: {k: v for k, v in value.items() if k not in left_out[key]}
        if key in left_out and isinstance(value, dict)
        else value
        for key, value in request.items()
    }


def _with_defaults(request: dict[str, Any]) -> dict[str, Any]:
    """An earlier request with the options that came after it, which had their defaults then."""
    kinds: dict[str, type[Spec]] = {"data": DataSpec, "network": NetworkSpec, "train": TrainSpec}
    whole = dict(request)
    for key in kinds.keys() & request.keys():
        with suppress(EdgeskinError):
            whole[key] = kinds[key].parse(request[key], key).to_json()
    return whole
