"""What explains: a trained run, or what `export --qat` fine-tuned in it, and the thresholds that judge its images."""

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from edgeskin import out, provenance
from edgeskin.errors import EdgeskinError, missing_extra, unknown
from edgeskin.files import sha256_file
from edgeskin.opening import open_bundle
from edgeskin.spec.explanation import METHOD, METHODS, STAGE
from edgeskin.spec.manifest import MANIFEST, Manifest
from edgeskin.spec.quality import Quality
from edgeskin.spec.schema import Task
from edgeskin.spec.train import Checkpoint

if TYPE_CHECKING:
    from edgeskin.model.saliency import Explainer


@dataclass(frozen=True, slots=True)
class Asked:
    """What to explain, and how."""

    task: str = ""  # "" = the target's
    chosen: str = ""  # class by name or title; "" = the most probable one
    method: str = METHOD
    stage: int = STAGE  # of the encoder's feature pyramid
    bundle: Path | None = None  # made from the run: its quality gate judges the images


@dataclass(frozen=True, slots=True)
class Opened:
    """A network that explains. `quality`: of the bundle; the defaults, without one, cannot tell exchanged images."""

    run: Path
    identity: str  # sha256 of checkpoint.json
    record: Checkpoint
    explainer: "Explainer"
    task: Task
    chosen: int | None
    asked: Asked
    bundle: str  # its name, "" = none
    quality: Quality
    versions: dict[str, str]

    @property
    def titles(self) -> dict[str, str]:
        """Class name -> its title."""
        return {one.name: one.title or one.name for one in self.task.classes}

    @property
    def name(self) -> str:
        """The run's folder; of a network fine-tuned in it, both folders."""
        parts = self.run.resolve().parts
        return "/".join(parts[-2:]) if parts[-1].startswith("qat-") else parts[-1]


def open_run(run: Path, asked: Asked) -> Opened:
    """Load the network of a run; with a bundle the one that the bundle was made from.

    Raises:
        EdgeskinError: no trained run, a bundle in its place or one of another run, an unknown task, class, method or
            stage, a network without maps.
    """
    if asked.method not in METHODS:
        raise unknown("method", asked.method, METHODS)
    if run.suffix == ".zip" or (run / MANIFEST).is_file():
        origin = open_bundle(run).manifest.provenance.checkpoint_sha256
        raise EdgeskinError(
            "a bundle has no gradients to explain with",
            got=str(run),
            possible="the --out of a training",
            fix=f"`edgeskin explain RUN --bundle {run}` with the run it was exported from; the SHA-256 of the "
            f"checkpoint.json there, or in its qat-* folder, is {origin}",
        )
    try:
        import captum  # noqa: F401 - (with torch, which it needs: told before a network is loaded for nothing)
    except ImportError:
        raise missing_extra("captum", "explain") from None
    from edgeskin.model.checkpoint import RECORD, load_network, read_record
    from edgeskin.model.saliency import Explainer

    made: Manifest | None = None
    if asked.bundle is not None:
        made = open_bundle(asked.bundle).manifest
        run = _source(run, asked.bundle, made.provenance.checkpoint_sha256)
        if not any(made.quality.swapped_weights):
            out.note(f"the quality gate of {asked.bundle} cannot tell exchanged images")
    record = read_record(run)
    schema = record.task_schema
    names = [task.name for task in schema.tasks]
    if asked.task and asked.task not in names:
        raise unknown("task", asked.task, names)
    task = schema.task(asked.task or schema.target.task)
    chosen = _class_number(task, asked.chosen) if asked.chosen else None
    if record.network.modalities == "clinical":
        raise EdgeskinError(
            "a network for clinical images alone decides nothing to explain",
            got=str(run),
            possible="networks for both images, or for dermoscopic ones",
            fix="pass another run",
        )
    if record.network.modalities == "dermoscopic":
        out.note("this network sees dermoscopic images alone; clinical ones are left out")
    return Opened(
        run=run,
        identity=sha256_file(run / RECORD),
        record=record,
        explainer=Explainer(
            load_network(run, record), record, next(m for m in METHODS if m == asked.method), asked.stage
        ),
        task=task,
        chosen=chosen,
        asked=asked,
        bundle=made.name if made else "",
        quality=made.quality if made else Quality(),
        versions=provenance.versions() | {"captum": metadata.version("captum")},
    )


def _source(run: Path, bundle: Path, origin: str) -> Path:
    """The run, or the qat-* folder in it, whose checkpoint a bundle was made from."""
    from edgeskin.model.checkpoint import RECORD

    folders = [one for one in (run, *sorted(run.glob("qat-*"))) if (one / RECORD).is_file()]
    known = {sha256_file(one / RECORD): one for one in folders}
    if origin in known or not known:  # that there is no checkpoint is told when it is read
        found = known.get(origin, run)
        if found != run:
            out.note(f"{bundle} was fine-tuned under quantisation: explaining {found}")
        return found
    raise EdgeskinError(
        "the bundle was made from another network",
        got=f"{bundle}, of checkpoint {origin[:12]}",
        possible=[f"{identity[:12]} in {folder}" for identity, folder in known.items()],
        fix="pass the run that it was exported from",
    )


def _class_number(task: Task, wanted: str) -> int:
    """A class by its name or title, in any case of letters."""
    for number, one in enumerate(task.classes):
        if wanted.lower() in (one.name.lower(), one.title.lower()):
            return number
    raise unknown(f"class of task {task.name}", wanted, task.class_names)
