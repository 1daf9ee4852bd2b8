"""The published schemas are those of the code, and the results in the repository satisfy them."""

import json
from pathlib import Path
from typing import Any

import pytest

from edgeskin.files import pretty_json
from edgeskin.spec.base import Spec
from edgeskin.spec.published import FOLDER, PUBLISHED, json_schema

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
WRITE = """\
from edgeskin.files import pretty_json; from edgeskin.spec.published import *
for name, kind in PUBLISHED.items(): (FOLDER / name).write_text(pretty_json(json_schema(kind)))"""


@pytest.mark.parametrize(("name", "kind"), PUBLISHED.items())
def test_the_published_json_schema_is_current(name: str, kind: type[Spec]) -> None:
    assert (FOLDER / name).read_text() == pretty_json(json_schema(kind)), f"write it again:\n{WRITE}"


def misfits(value: Any, rule: dict[str, Any], root: dict[str, Any], where: str = "$") -> list[str]:
    """Where a value breaks the part of JSON Schema that our schemas use; an unknown keyword is an error."""
    if "$ref" in rule:
        return misfits(value, root["$defs"][rule["$ref"].rsplit("/", 1)[1]], root, where)
    if "anyOf" in rule:
        tried = [misfits(value, option, root, where) for option in rule["anyOf"]]
        return [] if not all(tried) else min(tried, key=len)
    known = {"type", "properties", "required", "additionalProperties", "items", "prefixItems", "enum", "const"}
    known |= {"title", "description", "default", "minimum", "exclusiveMinimum", "maximum", "propertyNames"}
    known |= {
        "exclusiveMaximum",
        "minItems",
        "maxItems",
        "minLength",
        "minProperties",
        "pattern",
        "$defs",
        "$schema",
        "$id",
    }
    assert set(rule) <= known, f"{where}: teach this test the keywords {sorted(set(rule) - known)}"
    types = {"object": dict, "array": list, "string": str, "integer": int, "number": int | float, "boolean": bool}
    wanted = rule.get("type")
    fits = value is None if wanted == "null" else wanted is None or isinstance(value, types[wanted])
    if not fits or (isinstance(value, bool) and wanted in ("integer", "number")):
        return [f"{where}: {value!r} is no {wanted}"]
    found = []
    if ("const" in rule and value != rule["const"]) or ("enum" in rule and value not in rule["enum"]):
        found.append(f"{where}: {value!r}")
    if isinstance(value, dict):
        found += [f"{where}: too few"] if len(value) < rule.get("minProperties", 0) else []
        fields, others = rule.get("properties", {}), rule.get("additionalProperties", True)
        found += [f"{where}: no {name}" for name in rule.get("required", ()) if name not in value]
        for name, inner in value.items():
            if name not in fields and others is False:
                found.append(f"{where}: {name} is unknown")
            elif name in fields or isinstance(others, dict):
                found += misfits(inner, fields.get(name, others), root, f"{where}.{name}")
    if isinstance(value, list) and "items" in rule:
        found += [
            fault for i, inner in enumerate(value) for fault in misfits(inner, rule["items"], root, f"{where}[{i}]")
        ]
    return found


@pytest.mark.parametrize(("name", "kind"), PUBLISHED.items())
def test_results_in_the_repository_satisfy_it(name: str, kind: type[Spec]) -> None:
    schema = json.loads((FOLDER / name).read_text())
    wanted = kind.model_fields["format"].default
    found = {path: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    paths = [path for path, data in found.items() if isinstance(data, dict) and data.get("format") == wanted]
    assert paths
    for path in paths:
        data = found[path]
        assert kind.parse(data, str(path))
        assert misfits(data, schema, schema) == []
        assert misfits({**data, "format": "x", "odd": 1}, schema, schema) == ["$.format: 'x'", "$: odd is unknown"]
        needed = schema["required"][0]
        assert misfits({k: v for k, v in data.items() if k != needed}, schema, schema) == [f"$: no {needed}"]


def test_the_readme_names_every_schema() -> None:
    text = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    assert [name for name in PUBLISHED if f"`{name}`" not in text] == []
