"""One table of FP32, PTQ, searched and QAT for several trained networks: size, latency, accuracy, flips, gate.

    python benchmarks/int8_proof.py runs/lite0 runs/mnv4 --work runs/proof --out benchmarks/results/int8.json

For each run and target the bundles are exported (what is there already is not done again), then every model of the run,
and `nncf.quantize` with its defaults on the same network and pairs, scores the test role of the run's data, and all are
timed in turns in one process. Bundles are written whatever the gate says; the table says what it said.
"""

import argparse
import json
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskin import backends, chain, decide, metrics, out, provenance
from edgeskin.backends import Session
from edgeskin.benchmark.statistics import ratio
from edgeskin.benchmark.turns import in_turns
from edgeskin.data.pairs import Pair, evenly
from edgeskin.errors import EdgeskinError
from edgeskin.files import pretty_json, write_atomic
from edgeskin.model.checkpoint import read_record
from edgeskin.opening import Bundle, open_bundle
from edgeskin.preprocess import prepare
from edgeskin.spec.duration import seconds
from edgeskin.spec.manifest import Manifest
from edgeskin.spec.qat import QatSpec

FORMAT = "edgeskin-int8-proof/1"
ROUNDS = 150
TARGETS = ("openvino", "onnxruntime")
PEER = "nncf defaults"


@dataclass
class Model:
    """One way to run a network."""

    target: str
    way: str  # FP32, PTQ, searched, QAT, nncf defaults
    path: Path
    hint: str
    gate: str = ""
    why: str = ""

    def open(self) -> Session:
        """A session with all cores."""
        return backends.get(self.target).open(self.path, precision_hint=self.hint)

    @property
    def size(self) -> int:
        """Size of the graph's files."""
        return sum(len(data) for data in self._files())

    @property
    def deflated(self) -> int:
        """The same after zlib, as in an update sent to a device."""
        return sum(len(zlib.compress(data)) for data in self._files())

    def _files(self) -> list[bytes]:
        return [file.read_bytes() for file in sorted(self.path.parent.glob(f"{self.path.stem}.*"))]


Bundles = dict[tuple[str, str], Bundle]  # by target and way


def exported(run: Path, work: Path, budget: str, qat: QatSpec | None, pairs: int) -> tuple[Bundles, dict[str, str]]:
    """Bundles, and why others could not be built."""
    ways: dict[str, dict[str, Any]] = {"PTQ": {}}
    if budget:
        ways["searched"] = {"budget_s": seconds(budget)}
    if qat:
        ways["QAT"] = {"qat": qat}
    found, refused = {}, {}
    for target in TARGETS:
        for way, options in ways.items():
            bundle = work / f"{run.name}-{target}-{way.lower()}"
            out.note(f"{run.name}, {target}, {way}")
            try:
                chain.export(run, target, bundle, tuned=False, allow_ungated=True, calibration_pairs=pairs, **options)
            except EdgeskinError as error:
                out.note(f"not built: {error.line()}")
                refused[f"{target} {way}"] = error.line()
                continue
            found[target, way] = open_bundle(bundle)
    return found, refused


def peer(run: Path, work: Path, pairs: int) -> Path:
    """What `nncf.quantize` with its defaults makes of the same FP32 graph and the same calibration pairs."""
    from edgeskin.backends import openvino as target

    place = work / f"{run.name}-nncf"
    if (place / "pair.xml").is_file():
        return place / "pair.xml"
    graph = sorted(run.glob("onnx-*/pair.onnx"), key=lambda path: path.stat().st_mtime)[-1]
    frames = [stacked(pair, read_record(run).preprocess) for pair in calibration(run)[:pairs]]
    with target.signal_stack_kept():
        import nncf

        model = nncf.quantize(target.convert_model(graph), nncf.Dataset(frames), subset_size=len(frames))
    target.save(model, place, "pair")
    return place / "pair.xml"


def calibration(run: Path) -> list[Pair]:
    """Calibration pairs with both images."""
    _, roles = chain.load_roles(read_record(run).data)
    return [pair for pair in roles["calibration"] if pair.clinical is not None]


def stacked(pair: Pair, how: Any) -> NDArray[np.uint8]:
    """Frames uint8 [2, H, W, 3] of a pair."""
    assert pair.clinical is not None
    return np.stack([prepare(pair.clinical, how), prepare(pair.dermoscopic, how)])


def models(bundles: Bundles, nncf_file: Path) -> list[Model]:
    """FP32 of both engines, every bundle, and the peer."""
    found: list[Model] = []
    for (target, way), bundle in bundles.items():
        manifest = bundle.manifest
        if not any(one.target == target and one.way == "FP32" for one in found):
            file = bundle.path(manifest.reference["pair"].file)
            hints = ("f32", "bf16") if target == "openvino" else ("f32",)
            found += [Model(target, "FP32" if hint == "f32" else "BF16", file, hint) for hint in hints]
        gate = manifest.gated
        file = bundle.path(manifest.graphs["pair"].file)
        found.append(Model(target, way, file, manifest.recipe.precision_hint, gate.status, gate.why))
        if manifest.recipe.inference_precision == "auto":
            found.append(Model(target, f"{way}, rest BF16", file, "bf16", "", ""))
    found.append(Model("openvino", PEER, nncf_file, "default"))
    return found


def scored(found: list[Model], manifest: Manifest, pairs: list[Pair]) -> dict[int, dict[str, Any]]:
    """Figures of each model on the test role, and flips against FP32 of its own engine."""
    schema, target = manifest.task_schema, manifest.task_schema.target
    sessions = [one.open() for one in found]
    logits = [np.zeros((len(pairs), 2, schema.logits), np.float32) for _ in found]
    for number, pair in enumerate(out.track(pairs, "test role")):
        frames = stacked(pair, manifest.preprocess)
        for session, kept in zip(sessions, logits, strict=True):
            kept[number] = session.run(frames)
    truth = np.array([pair.labels[target.task] for pair in pairs])
    positive = np.isin(truth, schema.target_indices())
    any_target = positive.any() and not positive.all()
    figures: dict[int, dict[str, Any]] = {}
    answers = [decide.task_probabilities(x, schema, manifest.fusion, "pair") for x in logits]
    for index, one in enumerate(found):
        plain = next(i for i, other in enumerate(found) if other.target == one.target and other.way == "FP32")
        mine, theirs = answers[index][target.task], answers[plain][target.task]
        chosen, before = mine.argmax(-1), theirs.argmax(-1)
        inside = [np.isin(x, schema.target_indices()) for x in (chosen, before)]
        flips, moved = int((chosen != before).sum()), int((inside[0] != inside[1]).sum())
        figures[index] = {
            "macro_f1": metrics.macro_f1(truth, chosen, mine.shape[1]),
            "balanced_accuracy": metrics.balanced_accuracy(truth, chosen, mine.shape[1]),
            "target_auc": metrics.auc(positive, decide.target_probability(answers[index], schema))
            if any_target
            else None,
            "class_flips": flips,
            "class_flips_interval": metrics.wilson_interval(flips, len(pairs)),
            "target_flips": moved,
            "target_flips_interval": metrics.wilson_interval(moved, len(pairs)),
            "sqnr_db": None if index == plain else metrics.sqnr_db(logits[plain], logits[index]),
            "lesions": len(pairs),
            "target_lesions": int(positive.sum()),
        }
    return figures


def timed(found: list[Model]) -> dict[int, list[float]]:
    """Latencies of all models, in turns."""
    return in_turns({index: one.open() for index, one in enumerate(found)}, ROUNDS)


def measure(run: Path, work: Path, budget: str, qat: QatSpec | None, pairs: int, lesions: int) -> dict[str, Any]:
    """Everything about one run."""
    bundles, refused = exported(run, work, budget, qat, pairs)
    manifest = next(iter(bundles.values())).manifest
    found = models(bundles, peer(run, work, pairs))
    _, roles = chain.load_roles(manifest.data)
    unseen = [pair for pair in roles["test"] if pair.clinical is not None]
    if 0 < lesions < len(unseen):  # evenly, as a role may be sorted by class
        unseen = [unseen[i] for i in evenly(len(unseen), lesions)]
    figures = scored(found, manifest, unseen)
    spent = timed(found)
    fp32 = [i for i, one in enumerate(found) if one.way == "FP32"]
    best = min(fp32, key=lambda i: median(spent[i]))
    size, deflated = min(found[i].size for i in fp32), min(found[i].deflated for i in fp32)
    rows = []
    for index, one in enumerate(found):
        against = ratio(spent[index], spent[best], repeats=1000)
        rows.append(
            {
                "target": one.target,
                "way": one.way,
                "precision_hint": one.hint,
                "bytes": one.size,
                "size_ratio": one.size / size,
                "deflated_ratio": one.deflated / deflated,
                "p50_ms": median(spent[index]),
                "latency_ratio": {"value": against.value, "low": against.low, "high": against.high},
                "gate": one.gate,
                "gate_why": one.why,
                **figures[index],
            }
        )
    return {
        "run": run.name,
        "backbone": manifest.network.backbone,
        "parameters": manifest.parameters,
        "size_px": manifest.preprocess.height,
        "training": read_record(run).train.to_json(),
        "weights_source": read_record(run).weights_source,
        "roles": {role: record.lesions for role, record in manifest.roles.items()},
        "calibration_pairs": manifest.provenance.calibration_pairs,
        "fastest_fp32": f"{found[best].target} {found[best].hint}",
        "searches": {
            target: {
                "spent_s": evidence.search.spent_s,
                "complete": evidence.search.complete,
                "chosen": evidence.search.chosen,
                "kept_fp32": list(bundle.manifest.recipe.keep_fp32),
            }
            for (target, way), bundle in bundles.items()
            if way == "searched" and (evidence := bundle.evidence()) and evidence.search
        },
        "qat": next(
            (
                {**evidence.qat.to_json(), "options": qat.to_json()}
                for (_, way), bundle in bundles.items()
                if qat and way == "QAT" and (evidence := bundle.evidence()) and evidence.qat
            ),
            None,
        ),
        "not_built": refused,
        "models": rows,
    }


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/proof"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", default="10m", help="of each search; empty: no search")
    parser.add_argument("--qat-epochs", type=int, default=0, help="0: no QAT")
    parser.add_argument("--qat-pairs", type=int, default=0, help="of the train role; 0: all")
    parser.add_argument("--calibration-pairs", type=int, default=300)
    parser.add_argument("--lesions", type=int, default=0, help="of the test role, evenly drawn; 0: all")
    given = parser.parse_args()
    qat = QatSpec(epochs=given.qat_epochs, pairs=given.qat_pairs) if given.qat_epochs else None
    given.work.mkdir(parents=True, exist_ok=True)
    done = json.loads(given.out.read_text()) if given.out.is_file() else {"networks": []}
    networks = {one["run"]: one for one in done["networks"]}
    for run in given.runs:
        found = measure(run, given.work, given.budget, qat, given.calibration_pairs, given.lesions)
        networks[run.name] = {"command": "python benchmarks/int8_proof.py " + " ".join(sys.argv[1:]), **found}
        record = {
            "format": FORMAT,
            "processor": provenance.processor(),
            "cores": backends.usable_cores(),
            "versions": provenance.versions(),
            "rounds": ROUNDS,
            "measured": provenance.now(),
            "networks": list(networks.values()),
        }
        write_atomic(given.out, pretty_json(record))
        show(networks[run.name])
    return 0


def show_auc(row: dict[str, Any]) -> str:
    """The AUC, or a dash where no lesion, or every one, is of the target."""
    return "-" if row["target_auc"] is None else f"{row['target_auc']:.3f}"


def show(found: dict[str, Any]) -> None:
    """A row a model."""
    out.table(
        f"{found['backbone']}, test role",
        ["way", "MB", "p50 ms", "ratio", "macro-F1", "bal. acc.", "AUC", "flips", "target", "gate"],
        [
            (
                f"{row['target']} {row['way']}", f"{row['bytes'] / 1e6:.1f}", f"{row['p50_ms']:.2f}",
                f"{row['latency_ratio']['value']:.2f}", f"{row['macro_f1']:.3f}", f"{row['balanced_accuracy']:.3f}",
                show_auc(row), row["class_flips"], row["target_flips"], row["gate"],
            )
            for row in found["models"]
        ],
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
