"""All models of a report beside one another: latency against the target's AUC, sizes, memory, energy."""

from collections.abc import Sequence

from edgeskin.report import view
from edgeskin.report.figures import Point
from edgeskin.report.inputs import BundleInput, ReportInput
from edgeskin.report.text import NONE, Table, estimate, ms, size_text
from edgeskin.report.view import label, pair_bytes
from edgeskin.spec.bench import Graphs, Lane, Latency, Route
from edgeskin.spec.result import Compared, Estimate


def target_title(given: ReportInput) -> str:
    """What the AUC is of: the target of the first bundle's schema."""
    return given.bundles[0].manifest.task_schema.target.title


def _auc(bundle: BundleInput) -> Compared | None:
    found, _ = view.scored(bundle)
    return found.target.get("auc") if found else None


def _lane(bundle: BundleInput, route: Route) -> Lane | None:
    return bundle.bench.lane("pair", route) if bundle.bench else None


def points(given: ReportInput, route: Route) -> list[Point]:
    """Every bundle and its FP32 reference for which both the latency of that route and the AUC are known."""
    found = []
    for index, bundle in enumerate(given.bundles):
        lane, auc = _lane(bundle, route), _auc(bundle)
        if lane is None or auc is None:
            continue
        models: list[tuple[str, Latency | None, Estimate, bool]] = [
            (label(bundle), lane.core, auc.bundle, False),
            ("FP32", lane.reference, auc.fp32, True),
        ]
        for title, latency, scored, reference in models:
            own_fp32 = reference and bundle.manifest.precision == "fp32"  # twice the same network
            if latency is not None and scored.value is not None and not own_fp32:
                name = f"{bundle.manifest.name} {title}"
                found.append(Point(name, index, latency.p50_ms, latency.p90_ms, scored, reference))
    return found


def table(given: ReportInput) -> Table:
    """A row each model: the bundle as it is shipped, and its FP32 reference in the same run."""
    rows: list[tuple[str, ...]] = []
    for bundle in given.bundles:
        network, decision, auc = _lane(bundle, "network"), _lane(bundle, "decision"), _auc(bundle)
        reference_bytes, own_bytes = pair_bytes(bundle)
        cold = bundle.bench.cold_start if bundle.bench else None
        energy = decision.energy.per_examination_mj if decision and decision.energy else None
        rows.append(
            (
                f"{bundle.manifest.name} {label(bundle)}",
                bundle.manifest.target,
                *_latencies(network, decision, "core"),
                NONE if auc is None else estimate(auc.bundle),
                size_text(own_bytes),
                size_text(cold.peak_rss_bytes if cold else None),
                NONE if energy is None else f"{energy:.4g}",
                _counts(bundle),
            )
        )
        if bundle.manifest.precision != "fp32":
            rows.append(
                (
                    f"{bundle.manifest.name} FP32",
                    bundle.manifest.target,
                    *_latencies(network, decision, "reference"),
                    NONE if auc is None else estimate(auc.fp32),
                    size_text(reference_bytes),
                    NONE,
                    NONE,
                    _counts(bundle),
                )
            )
    auc_title = f"{target_title(given)} AUC"
    figures = ("network p50", "decision p50", "decision p99", auc_title, "size", "peak memory", "mJ", "valid")
    note = "Clinical + dermoscopic, milliseconds. Network: prepared frames in, logits out. Decision: camera frames in, "
    note += "decision out. mJ: energy of a decision, idling subtracted. Valid: whether the latencies count."
    if differing := conditions(given.bundles):
        note += f" Not measured alike: {', '.join(differing)}; these latencies do not compare."
    return Table("Models", ("Model", "target", *figures), tuple(rows), note, key="models")


def _latencies(network: Lane | None, decision: Lane | None, graphs: Graphs) -> tuple[str, str, str]:
    quick, whole = (None if lane is None else getattr(lane, graphs) for lane in (network, decision))
    return (
        ms(quick.p50_ms if quick else None),
        ms(whole.p50_ms if whole else None),
        ms(whole.p99_ms if whole else None),
    )


def _counts(bundle: BundleInput) -> str:
    return NONE if bundle.bench is None else "yes" if bundle.bench.validity.valid else "no"


def conditions(bundles: Sequence[BundleInput]) -> tuple[str, ...]:
    """Conditions in which the measured bundles of a report differ, in words."""
    measured = [bundle.bench for bundle in bundles if bundle.bench is not None]
    looked: dict[str, set[object]] = {
        "processor": {bench.environment.cpu_model for bench in measured},
        "board": {bench.environment.board for bench in measured},
        "threads": {bench.environment.threads for bench in measured},
        "cores": {bench.environment.cores_usable for bench in measured},
        "frequency governor": {bench.environment.governor for bench in measured},
        "power mode": {bench.environment.power_mode for bench in measured},
        "camera frame": {(bench.suite.frame_height, bench.suite.frame_width) for bench in measured},
    }
    return tuple(name for name, values in looked.items() if len(values) > 1)
