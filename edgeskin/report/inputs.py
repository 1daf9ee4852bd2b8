"""What a report is made of: records of other stages, never their code."""

import csv
import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_serializer

from edgeskin.errors import EdgeskinError
from edgeskin.spec.base import Spec
from edgeskin.spec.bench import BenchResult
from edgeskin.spec.evidence import Evidence
from edgeskin.spec.explanation import Explained
from edgeskin.spec.manifest import Manifest, Mode
from edgeskin.spec.result import VerifyResult

FORMAT: Literal["edgeskin-report/1"] = "edgeskin-report/1"


class Answer(Spec):
    """What both models say of one lesion in one mode. Classes by their titles; P(target), e.g. of melanoma."""

    fp32: str
    bundle: str
    p_fp32: float | None = None
    p_bundle: float | None = None


class Thumbnail(Spec):
    """A lesion as small pictures: JPEG as base64 (see thumbnails.thumbnail), "" where there is none."""

    clinical: str = Field(default="", pattern=r"^[A-Za-z0-9+/]*={0,2}$")
    dermoscopic: str = Field(default="", pattern=r"^[A-Za-z0-9+/]*={0,2}$")
    truth: str = ""  # title of the true class; "" = unlabelled
    answers: dict[Mode, Answer] = Field(default_factory=dict)


class BundleInput(Spec):
    """One bundle with what was found about it.

    `thumbnails`: short hash of a lesion -> its pictures. They are shown on the page and nowhere else: images of
    patients must not spread, so they are no part of the record as JSON, nor of the Markdown.
    """

    manifest: Manifest
    sha256: str
    verify: VerifyResult | None = None
    bench: BenchResult | None = None
    evidence: Evidence | None = None
    thumbnails: dict[str, Thumbnail] = Field(default_factory=dict, exclude=True, repr=False)


class ReportInput(Spec):
    """Everything a report shows. `training`: a row each epoch, column -> value.

    `explained` loses its pictures on the way to JSON, as thumbnails do.
    """

    format: Literal["edgeskin-report/1"] = FORMAT
    title: str
    bundles: tuple[BundleInput, ...] = Field(min_length=1)
    training: tuple[dict[str, float], ...] = ()
    explained: tuple[Explained, ...] = ()
    commands: tuple[str, ...] = ()
    created: str = ""  # ISO 8601

    @property
    def phantom(self) -> bool:
        """Whether any bundle was made on drawn images."""
        return any(bundle.manifest.phantom for bundle in self.bundles)

    @property
    def pictured(self) -> bool:
        """Whether the page holds images of the data set."""
        explained = (lesion for record in self.explained for lesion in record.lesions)
        return any(bundle.thumbnails for bundle in self.bundles) or any(lesion.pictures for lesion in explained)

    @field_serializer("explained")
    def _without_pictures(self, explained: tuple[Explained, ...]) -> list[dict[str, Any]]:
        return [record.bare().to_json() for record in explained]


def complete(given: ReportInput) -> ReportInput:
    """Take the verify record that travels in a bench record where a bundle has none of its own."""
    bundles = tuple(
        bundle.model_copy(update={"verify": bundle.bench.verify})
        if bundle.verify is None and bundle.bench is not None and bundle.bench.verify is not None
        else bundle
        for bundle in given.bundles
    )
    return given.model_copy(update={"bundles": bundles})


def check(given: ReportInput) -> None:
    """Refuse figures of another artefact than the one they stand beside.

    Raises:
        EdgeskinError: a verify or bench record carries another bundle's hash.
    """
    for bundle in given.bundles:
        for kind, record in (("verify", bundle.verify), ("bench", bundle.bench)):
            if record is not None and record.bundle_sha256 != bundle.sha256:
                raise EdgeskinError(
                    f"the {kind} result is of another bundle than {bundle.manifest.name}",
                    got=record.bundle_sha256[:12],
                    possible=bundle.sha256[:12],
                    fix=f"run `edgeskin {kind}` on this bundle again",
                )
        if bundle.evidence is not None and bundle.evidence.bundle != bundle.manifest.name:
            raise EdgeskinError(
                f"the evidence is of another bundle than {bundle.manifest.name}",
                got=bundle.evidence.bundle,
                possible=bundle.manifest.name,
                fix="give each bundle the evidence that lies in it",
            )


def check_explained(given: ReportInput) -> None:
    """Refuse explanations by a network that none of the bundles was made from; of one made by `export --qat`, that is
    the network fine-tuned for it.

    Raises:
        EdgeskinError: a record names another checkpoint.
    """
    known = {bundle.manifest.provenance.checkpoint_sha256 for bundle in given.bundles}
    for record in given.explained:
        if record.checkpoint_sha256 not in known:
            raise EdgeskinError(
                f"the explanations are by another network ({record.run})",
                got=f"checkpoint {record.checkpoint_sha256[:12]}",
                possible=sorted(name[:12] for name in known),
                fix="`edgeskin explain RUN --bundle BUNDLE` explains the network that BUNDLE was made from",
            )


def read_training(path: Path) -> tuple[dict[str, float], ...]:
    """Rows of a trainer's metrics.csv, one an epoch: what its loggers wrote in several rows is joined.

    Raises:
        EdgeskinError: no such file, or no column `epoch`.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            if "epoch" not in (reader.fieldnames or ()):
                raise EdgeskinError(
                    "not a training log", got=str(path), possible="a CSV with a column epoch", fix="pass metrics.csv"
                )
            epochs: dict[float, dict[str, float]] = {}
            for row in reader:
                found = {name: float(text) for name, text in row.items() if name and text}
                if "epoch" in found:
                    epochs.setdefault(found["epoch"], {}).update(found)
    except FileNotFoundError:
        raise EdgeskinError("no such file", got=str(path), fix="check the path") from None
    except ValueError as error:
        raise EdgeskinError(
            "not a training log", got=f"{path}: {error}", fix="pass the trainer's metrics.csv"
        ) from error
    finite = ({name: value for name, value in row.items() if math.isfinite(value)} for row in epochs.values())
    return tuple(sorted(finite, key=lambda row: row["epoch"]))
