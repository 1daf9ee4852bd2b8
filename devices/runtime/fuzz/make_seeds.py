"""Write the seeds of fuzz_manifest and fuzz_bundle again, out of the tiny bundle: python make_seeds.py"""

import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
TINY = HERE.parents[2] / "tests" / "golden" / "tiny-onnxruntime"
RESEAL, SIGN, KEY, REQUIRE = 1, 2, 4, 8
FILE, FOLDER, LINK, PIPE = range(4)
Entry = tuple[int, str, bytes]


def small_manifest() -> dict[str, Any]:
    """The tiny bundle's manifest with two tasks and no words for people: a fuzzer wants it short."""
    made: dict[str, Any] = json.loads((TINY / "manifest.json").read_text())
    schema = made["task_schema"]
    schema["tasks"] = schema["tasks"][1:3]
    for task in schema["tasks"]:
        task["classes"] = [{"name": c["name"], "points": c["points"]} for c in task["classes"]]
    schema["target"] = {"task": "PN", "positive": ["ATP"], "title": "melanoma"}
    made["fusion"] = {task["name"]: made["fusion"][task["name"]] for task in schema["tasks"]}
    for key in ("network", "data", "roles", "parameters", "research_use"):
        del made[key]
    made["provenance"] = {"versions": {"onnxruntime": "1.32.0"}}
    made["recipe"] = {key: made["recipe"][key] for key in ("target", "precision", "inference_precision")}
    made["golden"] = [made["golden"][0], made["golden"][2]]
    used = {g["file"] for part in ("graphs", "reference") for g in made[part].values()}
    used |= {c["file"] for c in made["golden"]} | {made["lesion_hashes_file"]}
    made["files"] = {name: entry for name, entry in made["files"].items() if name in used}
    return made


def rich_manifest() -> dict[str, Any]:
    """All that may be left out is there."""
    made = small_manifest()
    made["stage"], made["evidence_file"] = "ready", "lesions.json"
    made["tuning"] = [{"processor": "A", "cores": 4, "threads": 2, "precision_hint": "bf16"}]
    made["fallback"] = [{"target": "openvino", "graphs": "core"}, {"target": "onnxruntime", "graphs": "reference"}]
    made["quality"] = {"dark_luma": 60, "swapped_weights": [1, -2, 3, 4, 5, 6, 7, 8], "swapped_threshold": -5,
                       "fails": ["empty", "vignette"]}  # fmt: skip
    return made


def engine_manifest() -> dict[str, Any]:
    """Of an engine for TensorRT."""
    made = small_manifest()
    made["target"] = made["recipe"]["target"] = "tensorrt"
    made["compatibility"] = {"device": "jetson", "arch": "aarch64", "sm": "8.7", "tensorrt": "10.3.0"}
    return made


def golden(images: int, classes: int) -> bytes:
    """A golden case of some 600 bytes."""
    file = io.BytesIO()
    frames = np.arange(images * 2 * 3 * 3, dtype=np.uint8).reshape(images, 2, 3, 3)
    np.savez(
        file, frames=frames, logits=np.linspace(-2, 2, images * classes, dtype=np.float32).reshape(images, classes)
    )
    return file.getvalue()


def compact(manifest: dict[str, Any]) -> bytes:
    """JSON without spaces."""
    return json.dumps(manifest, separators=(",", ":")).encode()


def folder(manifest: dict[str, Any]) -> list[Entry]:
    """Every file of a bundle with that manifest. Its hashes are left for the fuzzer to mend."""
    contents = {name: f"graph {name}".encode() for name in manifest["files"]}
    contents["lesions.json"] = b"{}"
    for case in manifest["golden"]:
        contents[case["file"]] = golden(2 if case["mode"] == "pair" else 1, 5)
    return [(FILE, "manifest.json", compact(manifest)), *((FILE, name, data) for name, data in contents.items())]


def packed(choices: int, entries: list[Entry]) -> bytes:
    """An input as fuzz_bundle.cpp reads it."""
    made = bytes([choices])
    for kind, name, content in entries:
        made += bytes([kind, len(name)]) + name.encode() + len(content).to_bytes(2, "little") + content
    return made


def seeds() -> dict[str, bytes]:
    """Path below fuzz/seeds -> bytes."""
    small, rich, engine = small_manifest(), rich_manifest(), engine_manifest()
    twice = compact(small).replace(b'"phantom":true', b'"phantom":true,"phantom":false')
    kit, newer = copy.deepcopy(engine), copy.deepcopy(small)
    kit["stage"], newer["format_version"] = "kit", 2
    whole = folder(small)
    lean = [entry for entry in whole if not entry[1].startswith("reference/")]
    linked = [(LINK, name, b"/etc/hosts") if name == "lesions.json" else (kind, name, data)
              for kind, name, data in whole]  # fmt: skip
    return {
        "fuzz_manifest/tiny": (TINY / "manifest.json").read_bytes(),
        "fuzz_manifest/small": compact(small),
        "fuzz_manifest/rich": compact(rich),
        "fuzz_manifest/engine": compact(engine),
        "fuzz_manifest/kit": compact(kit),
        "fuzz_manifest/newer": compact(newer),
        "fuzz_manifest/twice": twice,
        "fuzz_bundle/whole": packed(RESEAL, whole),
        "fuzz_bundle/signed": packed(RESEAL | SIGN | KEY | REQUIRE, whole),
        "fuzz_bundle/unsigned": packed(RESEAL | KEY, whole),
        "fuzz_bundle/unsealed": packed(0, [*whole, (FILE, "manifest.sha256", b"0" * 64 + b"  manifest.json\n")]),
        "fuzz_bundle/lean": packed(RESEAL, lean),
        "fuzz_bundle/rich": packed(RESEAL, folder(rich)),
        "fuzz_bundle/linked": packed(RESEAL, linked),
        "fuzz_bundle/pipe": packed(RESEAL, [*whole, (PIPE, "model/pipe", b"")]),
        "fuzz_bundle/folders": packed(RESEAL, [*whole, (FOLDER, "a/b/c", b""), (FILE, "a/x", b"unlisted")]),
    }


def main() -> None:
    """Write them all."""
    for name, data in seeds().items():
        path = HERE / "seeds" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


if __name__ == "__main__":
    main()
