"""Records -> tables of text, the same for the HTML page and its Markdown twin."""

from collections.abc import Sequence
from dataclasses import dataclass

from edgeskin.report.inputs import BundleInput, ReportInput
from edgeskin.spec.bench import BenchResult, Latency, Ratio
from edgeskin.spec.manifest import Mode
from edgeskin.spec.result import Compared, Estimate

NONE = "–"
MODE_TITLES: dict[Mode, str] = {"pair": "clinical + dermoscopic", "dermoscopic": "dermoscopic alone"}
ROUTE_TITLES = {"network": "network only", "decision": "camera frames to decision"}
TASK_METRICS = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro-F1"}
TARGET_METRICS = {"auc": "AUC", "sensitivity": "sensitivity", "specificity": "specificity", "ece": "calibration error"}
LOWER_IS_BETTER = {"ece"}


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text; `marked` rows head a group, `note` stands below it."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    marked: frozenset[int] = frozenset()


def ms(value: float | None) -> str:
    """Milliseconds with three significant digits.

    >>> ms(7.2149), ms(0.0512), ms(123.4), ms(1234.5), ms(None)
    ('7.21', '0.0512', '123', '1234', '–')
    """
    if value is None:
        return NONE
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value < 10 else f"{value:.1f}"


def megabytes(size: int | None) -> str:
    """Bytes as MB (10^6).

    >>> megabytes(3_412_000)
    '3.41 MB'
    """
    return NONE if size is None else f"{size / 1e6:.3g} MB"


def estimate(found: Estimate, *, signed: bool = False, digits: int = 3) -> str:
    """A figure with its interval in brackets.

    >>> estimate(Estimate(value=0.5, low=0.46, high=0.54)), estimate(Estimate(reason="no lesion"))
    ('0.500 [0.460, 0.540]', '–')
    """
    if found.value is None:
        return NONE
    sign = "+" if signed else ""
    text = f"{found.value:{sign}.{digits}f}"
    if found.low is not None and found.high is not None:
        text += f" [{found.low:{sign}.{digits}f}, {found.high:{sign}.{digits}f}]"
    return text


def ratio(found: Ratio | None) -> str:
    """How much faster than FP32: the inverse of the ratio, with its interval.

    >>> ratio(Ratio(value=0.5, low=0.4, high=0.625))
    '2.00x [1.60, 2.50]'
    """
    return NONE if found is None else f"{1 / found.value:.2f}x [{1 / found.high:.2f}, {1 / found.low:.2f}]"


def label(bundle: BundleInput) -> str:
    """What the bundle's own graphs are called in tables: INT8, or FP32 bundle."""
    return "INT8" if bundle.manifest.precision == "int8" else "FP32 bundle"


def graph_size(bundle: BundleInput, *, reference: bool = False) -> int:
    """Bytes of the files of the pair's graph, whatever their ending."""
    graphs = bundle.manifest.reference if reference else bundle.manifest.graphs
    if "pair" not in graphs:
        return 0
    stem = graphs["pair"].file.rpartition(".")[0] + "."
    return sum(entry.size_bytes for name, entry in bundle.manifest.files.items() if name.startswith(stem))


def sizes(bundle: BundleInput) -> str:
    """Size of the FP32 graph and of the bundle's.

    A bundle without a reference shows its own alone.
    """
    reference = graph_size(bundle, reference=True)
    own = megabytes(graph_size(bundle))
    return f"{megabytes(reference)} → {own}" if reference else own


def target_auc(bundle: BundleInput) -> Compared | None:
    """The target's AUC in mode pair, else dermoscopic."""
    if bundle.verify is None:
        return None
    for mode in MODE_TITLES:
        if mode in bundle.verify.accuracy and "auc" in bundle.verify.accuracy[mode].target:
            return bundle.verify.accuracy[mode].target["auc"]
    return None


def summary(given: ReportInput) -> Table:
    """One row a bundle: what a reader wants first."""
    rows = []
    for bundle in given.bundles:
        auc, bench = target_auc(bundle), bundle.bench
        task = bundle.manifest.task_schema.target.task
        scored = bundle.verify.accuracy.get("pair") if bundle.verify else None
        parity = bundle.verify.parity.get("pair") if bundle.verify else None
        network = bench.lane("pair", "network") if bench else None
        decision = bench.lane("pair", "decision") if bench else None
        f1 = scored.tasks[task]["macro_f1"] if scored else None
        rows.append(
            (
                bundle.manifest.name,
                f"{bundle.manifest.target} {bundle.manifest.precision.upper()}",
                sizes(bundle),
                NONE if f1 is None else f"{_value(f1.bundle)} ({_value(f1.fp32)})",
                NONE if auc is None else f"{_value(auc.bundle)} ({_value(auc.fp32)})",
                NONE if parity is None else f"{parity.predicted.flipped} of {parity.predicted.of}",
                NONE if network is None else f"{ms(network.core.p50_ms)} / {ms(network.core.p99_ms)}",
                NONE if decision is None else f"{ms(decision.core.p50_ms)} / {ms(decision.core.p99_ms)}",
                ratio(network.ratio if network else None),
            )
        )
    title = given.bundles[0].manifest.task_schema.target.title
    columns = (
        "Bundle", "Target", "Size FP32 → bundle", "Macro-F1 (FP32)", f"AUC {title} (FP32)", "Flips",
        "Network p50 / p99, ms", "Frames to decision p50 / p99, ms", "Faster than FP32",
    )  # fmt: skip
    return Table("Summary", columns, tuple(rows), "Flips: lesions whose diagnosis differs from the FP32 network's.")


def _value(found: Estimate) -> str:
    return NONE if found.value is None else f"{found.value:.3f}"


def accuracy(bundle: BundleInput) -> Table | None:
    """FP32 beside the bundle and their paired difference, both modes."""
    if bundle.verify is None or not bundle.verify.accuracy:
        return None
    rows: list[tuple[str, ...]] = []
    marked = set()
    target = bundle.manifest.task_schema.target
    for mode, found in bundle.verify.accuracy.items():
        marked.add(len(rows))
        rows.append((f"{MODE_TITLES[mode]}, {found.lesions} lesions", "", "", ""))
        for task, figures in found.tasks.items():
            names = TASK_METRICS if task == target.task else {"accuracy": "accuracy"}
            rows += [_compared(f"{task} {names[key]}", figures[key]) for key in names if key in figures]
        for key, title in TARGET_METRICS.items():
            if key in found.target:
                rows.append(_compared(f"{target.title} {title}", found.target[key]))
    verify = bundle.verify
    note = f"Role {verify.role} of {verify.data or 'the data'}; 95 % bootstrap intervals of {verify.bootstrap} draws."
    columns = ("", "FP32", label(bundle), "Difference, paired")
    return Table("Accuracy", columns, tuple(rows), note, frozenset(marked))


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
    rows = []
    for mode, found in bundle.verify.parity.items():
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
    pair = bundle.verify.parity.get("pair") or next(iter(bundle.verify.parity.values()))
    noise = NONE if pair.sqnr_db.value is None else f"{pair.sqnr_db.value:.1f} dB"
    note = f"Logits against FP32: signal to quantisation noise {noise}, largest change of a probability "
    note += f"{pair.max_abs_probability_difference:.3f}."
    columns = ("Decisions that flip", "Lesions", "Share, 95 % Wilson", f"To {title}", f"From {title}")
    return Table("Flips against FP32", columns, tuple(rows), note)


def latencies(bundle: BundleInput, bench: BenchResult) -> Table:
    """Percentiles of every lane, the bundle above its reference."""
    rows: list[tuple[str, ...]] = []
    marked = set()
    for lane in bench.lanes:
        marked.add(len(rows))
        faster = ratio(lane.ratio)
        title = f"{MODE_TITLES[lane.mode]}, {ROUTE_TITLES[lane.route]}"
        rows.append((title if lane.ratio is None else f"{title}: {faster} faster", *[""] * 7))
        rows.append(_percentiles(label(bundle), lane.core))
        if lane.reference is not None:
            rows.append(_percentiles("FP32", lane.reference))
    columns = ("Milliseconds", "p50", "p90", "p95", "p99", "max", "p99 bound", "queries")
    note = (
        "p99 bound: with 99 % confidence the p99 lies at or below it (early stopping as in MLPerf LoadGen); it needs "
        f"{bench.lanes[0].core.bounds[-1].needs} queries. Speed-up: ratio of medians, with its 95 % bootstrap interval."
    )
    return Table("Latency", columns, tuple(rows), note, frozenset(marked))


def _percentiles(title: str, found: Latency) -> tuple[str, ...]:
    values = (found.p50_ms, found.p90_ms, found.p95_ms, found.p99_ms, found.max_ms, found.bounds[-1].value_ms)
    return (title, *(ms(value) for value in values), str(found.queries))


def device(bench: BenchResult) -> Table:
    """Cold start, memory, and where the time of a decision goes."""
    rows = []
    if bench.cold_start is not None:
        cold = bench.cold_start
        rows += [
            ("new process: import", f"{ms(cold.import_ms)} ms"),
            ("new process: open and verify the bundle", f"{ms(cold.load_ms)} ms"),
            ("new process: compile and first decision", f"{ms(cold.first_decision_ms)} ms"),
            ("new process: all of it, interpreter included", f"{ms(cold.process_ms)} ms"),
            ("peak memory of that process", megabytes(cold.peak_rss_bytes)),
        ]
    decision = bench.lane("pair", "decision")
    parts = decision.parts_ms.get("core", {}) if decision else {}
    rows += [
        (f"a decision: {name}", f"{ms(parts[name])} ms") for name in ("prepare", "infer", "decide") if name in parts
    ]
    rows.append(
        ("network input", f"{bench.input_height} x {bench.input_width}, {bench.parameters / 1e6:.2f} M parameters")
    )
    rows.append(("camera frame", f"{bench.suite.frame_height} x {bench.suite.frame_width}"))
    same = [lane.same_outputs for lane in bench.lanes if lane.same_outputs]
    if same:
        equal, compared = sum(one.identical for one in same), sum(one.compared for one in same)
        rows.append(("outputs kept in the timed run that equal a plain run bit by bit", f"{equal} of {compared}"))
    return Table("On this machine", ("", ""), tuple(rows))


def environment(bench: BenchResult) -> Table:
    """What it was measured on."""
    found = bench.environment
    absent = found.absent
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items() if version)
    missing = ", ".join(name for name, version in found.versions.items() if not version)
    memory = megabytes(found.memory_bytes)
    if found.memory_limit_bytes is not None:
        memory += f", limit {megabytes(found.memory_limit_bytes)}"
    rows = [
        ("processor", _or(found.cpu_model, absent, "cpu_model")),
        ("features", ", ".join(found.cpu_features) or NONE),
        ("board", _or(found.board, absent, "board")),
        ("cores usable / online; threads", f"{found.cores_usable} / {found.cores_online}; {found.threads}"),
        ("processor quota", _or(found.cpu_quota_cores, absent, "cpu_quota_cores")),
        ("frequency governor", _or(found.governor, absent, "governor")),
        (
            "memory",
            memory if found.memory_limit_bytes is None else f"{memory}, limit {megabytes(found.memory_limit_bytes)}",
        ),
        ("system", f"{found.os or NONE}, kernel {found.kernel}, {found.arch}"),
        ("python", found.python),
        ("packages", versions + (f"; not installed: {missing}" if missing else "")),
        ("engine", ", ".join(f"{name} {value}" for name, value in found.backend.items()) or NONE),
        ("revision", _or(found.git_revision, absent, "git_revision")),
        ("temperature after", _thermal(bench)),
        ("load by other processes", NONE if bench.others_cpu_share is None else f"{bench.others_cpu_share:.0%}"),
        ("suite", f"{bench.suite.name}: {bench.suite.note}" if bench.suite.note else bench.suite.name),
        ("measured", found.measured),
    ]
    return Table("Environment", ("", ""), tuple(rows))


def _or(value: object, absent: dict[str, str], name: str) -> str:
    return str(value) if value is not None else f"not known ({absent.get(name, 'no reason recorded')})"


def _thermal(bench: BenchResult) -> str:
    zones = bench.sensors_after.thermal_c
    if not zones:
        return f"not known ({bench.sensors_after.absent.get('thermal_c', 'no reason recorded')})"
    return ", ".join(f"{name} {value:.1f} °C" for name, value in zones.items())


def roles(bundles: Sequence[BundleInput]) -> Table:
    """The roles of the lesions with the hash of each list; bundles of one checkpoint share them."""
    rows = []
    seen = set()
    for bundle in bundles:
        for role, record in bundle.manifest.roles.items():
            if (role, record.sha256) not in seen:
                seen.add((role, record.sha256))
                rows.append((role, str(record.lesions), record.sha256))
    return Table("Roles", ("Role", "Lesions", "SHA-256 of the sorted lesion ids"), tuple(rows), "Disjoint by lesion.")


def provenance(bundle: BundleInput) -> Table:
    """Where a bundle came from."""
    manifest, source = bundle.manifest, bundle.manifest.provenance
    rows = (
        ("bundle SHA-256", bundle.sha256),
        ("checkpoint SHA-256", source.checkpoint_sha256),
        ("made", f"{source.created} at revision {source.git_revision or NONE}"),
        ("network", f"{manifest.network.backbone}, {manifest.parameters / 1e6:.2f} M parameters"),
        (
            "recipe",
            f"{manifest.recipe.name}: {manifest.recipe.quantizer}, {source.calibration_pairs} calibration pairs",
        ),
        ("schema", manifest.task_schema.title or manifest.task_schema.name),
    )
    return Table("Provenance", ("", ""), rows)
