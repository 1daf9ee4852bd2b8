"""Records -> tables of text, the same for the HTML page and its Markdown twin."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from edgeskin import compared
from edgeskin.report.inputs import BundleInput, ReportInput
from edgeskin.report.text import (
    EVERY_LESION,
    LOWER_IS_BETTER,
    MODE_TITLES,
    NONE,
    ROUTE_TITLES,
    TARGET_METRICS,
    TASK_METRICS,
    Table,
    estimate,
    ms,
    parameters,
    ratio,
    remarks,
    size_text,
)
from edgeskin.spec.bench import Latency
from edgeskin.spec.manifest import Mode
from edgeskin.spec.result import Accuracy, Compared, Estimate, Parity
from edgeskin.spec.roles import ROLES
from edgeskin.spec.schema import Schema

T = TypeVar("T")
EMULATED = "emulated"


def label(bundle: BundleInput) -> str:
    """What the bundle's own graphs are called in tables: INT8, FP32 bundle, INT8 emulated of a build kit."""
    precision = bundle.manifest.precision.upper()
    if bundle.manifest.stage == "kit":
        return f"{precision} {EMULATED}"
    return "FP32 bundle" if precision == "FP32" else precision


def gate_label(bundle: BundleInput) -> str:
    """Whose answers the gate held against FP32's: an engine's, if it was asked the lesions, else its kit's."""
    proof, precision = bundle.evidence, bundle.manifest.precision.upper()
    if bundle.manifest.stage == "kit":
        return label(bundle)
    if proof is None or proof.engine is None:
        return "INT8"
    if proof.engine.nearness:
        return f"{precision} engine"
    return f"{'INT8' if proof.speed else precision} {EMULATED}"


def emulated_gate(bundle: BundleInput) -> bool:
    """Whether the gate is of an emulation."""
    return gate_label(bundle).endswith(EMULATED)


def scored(bundle: BundleInput) -> tuple[Accuracy | None, Parity | None]:
    """Figures with both images: of the verification, else of a kit's emulation on the role test."""
    if bundle.verify is not None and bundle.verify.accuracy:  # not of golden cases alone
        return bundle.verify.accuracy.get("pair"), bundle.verify.parity.get("pair")
    kit = bundle.evidence.kit if bundle.evidence is not None and bundle.manifest.stage == "kit" else None
    for one in kit.emulated if kit else ():
        if one.role == "test":
            return one.accuracy.get("pair"), one.parity.get("pair")
    return None, None


def pair_bytes(bundle: BundleInput) -> tuple[int, int]:
    """Size of the pair's FP32 graph and of the bundle's, weights included."""
    manifest = bundle.manifest
    found = []
    for graph in (manifest.reference["pair"], manifest.graphs["pair"]):
        stem = graph.file.rpartition(".")[0] + "."  # .xml + .bin, .onnx + .data
        found.append(sum(entry.size_bytes for name, entry in manifest.files.items() if name.startswith(stem)))
    return found[0], found[1]


def sizes(bundle: BundleInput) -> str:
    """Both sizes of the pair's graph as text."""
    return " → ".join(size_text(size) for size in pair_bytes(bundle))


def modes_of(found: Mapping[Mode, T]) -> list[tuple[Mode, T]]:
    """Entries in the order of MODE_TITLES, whatever order a JSON file had them in."""
    return [(mode, found[mode]) for mode in MODE_TITLES if mode in found]


def summary(given: ReportInput, gate: Callable[[BundleInput], str], loud: str) -> Table:
    """One column a bundle: what a reader wants first. The FP32 figure of the same run stands in brackets.

    Args:
        gate: what is said of a bundle's gate; `loud` of it must not be overlooked.
    """
    columns = [_summary(bundle, gate(bundle)) for bundle in given.bundles]
    rows = tuple((row[0][0], *(text for _, text in row)) for row in zip(*columns, strict=True))
    marked = frozenset(index for index, (_, text) in enumerate(columns[0]) if not text)
    note = "In brackets: the FP32 network of the same checkpoint, in the same run. Flips: lesions whose diagnosis "
    note += "differs from the FP32 network's. Speed: FP32 median over the bundle's, with its 95 % interval."
    return Table(
        "Summary", ("", *(bundle.manifest.name for bundle in given.bundles)), rows, note, marked, loud=frozenset({loud})
    )


def _summary(bundle: BundleInput, gate: str) -> list[tuple[str, str]]:
    """Title and text of each row; a title without text heads a group."""
    bench, target = bundle.bench, bundle.manifest.task_schema.target
    found_here, parity = scored(bundle)
    told = f", {EMULATED}" if bundle.manifest.stage == "kit" else ""
    figures = found_here.tasks[target.task] if found_here else {}
    cold = bench.cold_start if bench else None
    kit = ", build kit" if bundle.manifest.stage == "kit" else ""
    found = [
        ("target", f"{bundle.manifest.target} {bundle.manifest.precision.upper()}{kit}"),
        ("gate", gate),
        ("size, FP32 → bundle", sizes(bundle)),
        ("peak memory", size_text(cold.peak_rss_bytes if cold else None)),
        ("Accuracy, clinical + dermoscopic", ""),
        ("macro-F1", _beside(figures.get("macro_f1"), told)),
        ("balanced accuracy", _beside(figures.get("balanced_accuracy"), told)),
        (f"{target.title} AUC", _beside(found_here.target.get("auc") if found_here else None, told)),
        ("flips", NONE if parity is None else f"{parity.predicted.flipped} of {parity.predicted.of}{told}"),
    ]
    for route, title in ROUTE_TITLES.items():
        lane = bench.lane("pair", route) if bench else None
        reference = lane.reference if lane else None
        found += [
            (f"{title[0].upper()}{title[1:]}, ms: p50 / p90 / p99 / max", ""),
            ("bundle", NONE if lane is None else _four(lane.core)),
            ("FP32", NONE if reference is None else _four(reference)),
            ("speed", ratio(lane.ratio if lane else None)),
        ]
    return found


def _four(found: Latency) -> str:
    return " / ".join(ms(value) for value in (found.p50_ms, found.p90_ms, found.p99_ms, found.max_ms))


def _beside(found: Compared | None, told: str) -> str:
    if found is None or found.bundle.value is None:
        return NONE
    return f"{found.bundle.value:.3f}" + ("" if found.fp32.value is None else f" ({found.fp32.value:.3f})") + told


def accuracy(bundle: BundleInput) -> Table | None:
    """FP32 beside the bundle and their paired difference, both modes."""
    if bundle.verify is None or not bundle.verify.accuracy:
        return None
    verify = bundle.verify
    note = f"Role {verify.role} of {verify.data or 'the data'}; 95 % bootstrap intervals of {verify.bootstrap} draws."
    schema = bundle.manifest.task_schema
    table = accuracy_table(schema, verify.accuracy, label(bundle), "Accuracy", "accuracy", note)
    if (every := verify.every_lesion) is None:
        return table
    rows = [(f"{EVERY_LESION}, {every.lesions} lesions", "", "", "")]
    rows += [_compared(f"{(t.title or t.name).lower()} accuracy", every.accuracy[t.name]) for t in schema.tasks]
    rows.append(_compared(f"mean accuracy of {len(schema.tasks)} tasks", every.literature.average_accuracy))
    return replace(table, rows=(*table.rows, *rows), marked=table.marked | {len(table.rows)})


def accuracy_table(
    schema: Schema, scores: Mapping[Mode, Accuracy], own: str, caption: str, key: str, note: str
) -> Table:
    """Figures of each mode, FP32 beside `own`, and their paired difference."""
    rows: list[tuple[str, ...]] = []
    marked = set()
    shown: list[tuple[str, str, Compared]] = []
    for mode, found in modes_of(scores):
        marked.add(len(rows))
        rows.append((f"{MODE_TITLES[mode]}, {found.lesions} lesions", "", "", ""))
        for metric, title in TARGET_METRICS.items():
            if metric in found.target:
                value = compared.shown(metric, found.target[metric])
                rows.append(_compared(f"{schema.target.title} {title}", value))
                shown.append((f"{schema.target.title} {title}", MODE_TITLES[mode], value))
        for task in sorted(schema.tasks, key=lambda task: task.name != schema.target.task):
            figures = found.tasks.get(task.name, {})
            names = TASK_METRICS if task.name == schema.target.task else {"accuracy": "accuracy"}
            name = (task.title or task.name).lower()
            rows += [_compared(f"{name} {names[metric]}", figures[metric]) for metric in names if metric in figures]
            shown += [(f"{name} {names[m]}", MODE_TITLES[mode], figures[m]) for m in names if m in figures]
        if found.literature is not None:
            rows.append(_compared(f"mean accuracy of {len(found.tasks)} tasks", found.literature.average_accuracy))
            shown.append(("mean accuracy", MODE_TITLES[mode], found.literature.average_accuracy))
    columns = ("Metric", "FP32", own, "Difference, paired")
    return Table(caption, columns, tuple(rows), f"{note} {remarks(shown)}".strip(), frozenset(marked), key=key)


def _compared(title: str, found: Compared) -> tuple[str, str, str, str]:
    return title, estimate(found.fp32), estimate(found.bundle), estimate(found.difference, signed=True, digits=4)


def differences(bundle: BundleInput) -> list[tuple[str, Estimate]]:
    """Differences of mode pair (else of dermoscopic), for the chart; turned so that right is better."""
    if bundle.verify is None or not bundle.verify.accuracy:
        return []
    return difference_rows(bundle.manifest.task_schema, bundle.verify.accuracy)


def difference_rows(schema: Schema, scores: Mapping[Mode, Accuracy]) -> list[tuple[str, Estimate]]:
    """Rows of a chart of differences, as `differences` gives them."""
    mode: Mode = "pair" if "pair" in scores else "dermoscopic"
    found, target = scores[mode], schema.target
    rows = [(TASK_METRICS[k], found.tasks[target.task][k].difference) for k in TASK_METRICS]
    rows += [
        (f"{target.title} {title}", found.target[key].difference)
        for key, title in TARGET_METRICS.items()
        if key in found.target and key not in LOWER_IS_BETTER
    ]
    return rows


def flips(bundle: BundleInput) -> Table | None:
    """Decisions that differ between FP32 and the bundle, and how far the numbers are apart."""
    if bundle.verify is None or not bundle.verify.parity:
        return None
    title = bundle.manifest.task_schema.target.title
    return flip_table(bundle.verify.parity, title, "Flips against FP32", "flips")


def flip_table(parity: Mapping[Mode, Parity], title: str, caption: str, key: str, against: str = "FP32") -> Table:
    """Flips of each mode with their Wilson intervals; `title` is the target's."""
    rows = []
    for mode, found in modes_of(parity):
        for what, counted in (("diagnosis", found.predicted), (f"referral for {title}", found.referral)):
            rows.append(
                (
                    f"{MODE_TITLES[mode]}: {what}",
                    f"{counted.flipped} of {counted.of}",
                    f"{counted.share:.1%} [{counted.low:.1%}, {counted.high:.1%}]",
                    str(counted.to_target),
                    str(counted.from_target),
                )
            )
    pair = parity.get("pair") or next(iter(parity.values()))
    noise = NONE if pair.sqnr_db.value is None else f"{pair.sqnr_db.value:.1f} dB"
    note = f"Logits against {against}: signal to quantisation noise {noise}, largest change of a probability "
    note += f"{pair.max_abs_probability_difference:.3f}."
    columns = ("Decisions that flip", "Lesions", "Share, 95 % Wilson", f"To {title}", f"From {title}")
    return Table(caption, columns, tuple(rows), note, key=key)


def roles(bundles: Sequence[BundleInput]) -> Table:
    """The roles of the lesions with the hash of each list; bundles of one checkpoint share them."""
    rows = []
    seen = set()
    for bundle in bundles:
        for role in sorted(bundle.manifest.roles, key=lambda name: ROLES.index(name) if name in ROLES else len(ROLES)):
            record = bundle.manifest.roles[role]
            if (role, record.sha256) not in seen:
                seen.add((role, record.sha256))
                rows.append((role, str(record.lesions), record.sha256))
    return Table(
        "Roles",
        ("Role", "Lesions", "SHA-256 of the sorted lesion ids"),
        tuple(rows),
        "Disjoint by lesion.",
        key="roles",
    )


def provenance(bundle: BundleInput) -> Table:
    """Where a bundle came from."""
    manifest, source = bundle.manifest, bundle.manifest.provenance
    rows = (
        ("bundle SHA-256", bundle.sha256),
        ("checkpoint SHA-256", source.checkpoint_sha256),
        ("made", f"{source.created} at revision {source.git_revision or NONE}"),
        ("network", f"{manifest.network.backbone}, {parameters(manifest.parameters)}"),
        (
            "recipe",
            f"{manifest.recipe.name}: {manifest.recipe.quantizer}, {source.calibration_pairs} calibration pairs",
        ),
        ("schema", manifest.task_schema.title or manifest.task_schema.name),
    )
    return Table("Provenance", ("", ""), rows)
