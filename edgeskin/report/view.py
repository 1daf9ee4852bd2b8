"""Records -> tables of text, the same for the HTML page and its Markdown twin."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from edgeskin.report.inputs import BundleInput, ReportInput
from edgeskin.report.text import (
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
    size_text,
)
from edgeskin.spec.bench import Latency
from edgeskin.spec.manifest import Mode
from edgeskin.spec.result import Compared, Estimate, Parity
from edgeskin.spec.roles import ROLES

T = TypeVar("T")


def label(bundle: BundleInput) -> str:
    """What the bundle's own graphs are called in tables: INT8, or FP32 bundle."""
    return "INT8" if bundle.manifest.precision == "int8" else "FP32 bundle"


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
    verify, bench, target = bundle.verify, bundle.bench, bundle.manifest.task_schema.target
    scored = verify.accuracy.get("pair") if verify else None
    parity = verify.parity.get("pair") if verify else None
    figures = scored.tasks[target.task] if scored else {}
    cold = bench.cold_start if bench else None
    found = [
        ("target", f"{bundle.manifest.target} {bundle.manifest.precision.upper()}"),
        ("gate", gate),
        ("size, FP32 → bundle", sizes(bundle)),
        ("peak memory", size_text(cold.peak_rss_bytes if cold else None)),
        ("Accuracy, clinical + dermoscopic", ""),
        ("macro-F1", _beside(figures.get("macro_f1"))),
        ("balanced accuracy", _beside(figures.get("balanced_accuracy"))),
        (f"{target.title} AUC", _beside(scored.target.get("auc") if scored else None)),
        ("flips", NONE if parity is None else f"{parity.predicted.flipped} of {parity.predicted.of}"),
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


def _beside(found: Compared | None) -> str:
    if found is None or found.bundle.value is None:
        return NONE
    return f"{found.bundle.value:.3f}" + ("" if found.fp32.value is None else f" ({found.fp32.value:.3f})")


def accuracy(bundle: BundleInput) -> Table | None:
    """FP32 beside the bundle and their paired difference, both modes."""
    if bundle.verify is None or not bundle.verify.accuracy:
        return None
    rows: list[tuple[str, ...]] = []
    marked = set()
    schema = bundle.manifest.task_schema
    for mode, found in modes_of(bundle.verify.accuracy):
        marked.add(len(rows))
        rows.append((f"{MODE_TITLES[mode]}, {found.lesions} lesions", "", "", ""))
        for key, title in TARGET_METRICS.items():
            if key in found.target:
                rows.append(_compared(f"{schema.target.title} {title}", found.target[key]))
        for task in sorted(schema.tasks, key=lambda task: task.name != schema.target.task):
            figures = found.tasks.get(task.name, {})
            names = TASK_METRICS if task.name == schema.target.task else {"accuracy": "accuracy"}
            name = (task.title or task.name).lower()
            rows += [_compared(f"{name} {names[key]}", figures[key]) for key in names if key in figures]
    verify = bundle.verify
    note = f"Role {verify.role} of {verify.data or 'the data'}; 95 % bootstrap intervals of {verify.bootstrap} draws."
    note += " A bootstrap draw has a larger calibration error than the sample, so its interval may lie above it."
    columns = ("Metric", "FP32", label(bundle), "Difference, paired")
    return Table("Accuracy", columns, tuple(rows), note, frozenset(marked), key="accuracy")


def _compared(title: str, found: Compared) -> tuple[str, ...]:
    return title, estimate(found.fp32), estimate(found.bundle), estimate(found.difference, signed=True, digits=4)


def differences(bundle: BundleInput) -> list[tuple[str, Estimate]]:
    """Differences of mode pair (else of dermoscopic), for the chart; turned so that right is better."""
    if bundle.verify is None or not bundle.verify.accuracy:
        return []
    mode: Mode = "pair" if "pair" in bundle.verify.accuracy else "dermoscopic"
    found = bundle.verify.accuracy[mode]
    target = bundle.manifest.task_schema.target
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


def flip_table(parity: Mapping[Mode, Parity], title: str, caption: str, key: str) -> Table:
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
    note = f"Logits against FP32: signal to quantisation noise {noise}, largest change of a probability "
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
