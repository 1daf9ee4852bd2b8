"""JSON Schemas of result files, published beside the specs as <name>.schema.json for readers in other languages."""

from pathlib import Path
from typing import Any

from edgeskin.spec.base import Spec
from edgeskin.spec.bench import BenchResult
from edgeskin.spec.evidence import Evidence
from edgeskin.spec.explanation import Explained
from edgeskin.spec.result import VerifyResult
from edgeskin.spec.sweep_result import SweepResult

PUBLISHED: dict[str, type[Spec]] = {
    "bench.schema.json": BenchResult,
    "evidence.schema.json": Evidence,
    "explained.schema.json": Explained,
    "sweep.schema.json": SweepResult,
    "verify.schema.json": VerifyResult,
}
FOLDER = Path(__file__).parent


def json_schema(kind: type[Spec]) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a result file; its `$id` is the file's own `format`.

    >>> json_schema(VerifyResult)["$id"]
    'edgeskin-verify/1'
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": kind.model_fields["format"].default,
        **kind.model_json_schema(),
    }
