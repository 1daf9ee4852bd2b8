"""Results as tables for people. Everything goes through `out`, which says nothing in JSON mode."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeskin import out, show_figures
from edgeskin.errors import EdgeskinError
from edgeskin.examinations import classify_all, read_examinations
from edgeskin.runtime import Classifier, Result
from edgeskin.show_figures import estimate
from edgeskin.spec.evidence import Evidence
from edgeskin.spec.manifest import Manifest
from edgeskin.spec.result import Flips, VerifyResult
from edgeskin.spec.search import Candidate


def result(found: Result, manifest: Manifest) -> None:
    """One lesion: the decision first, then the classes of each task."""
    for line in quality(found.quality, found.assessable):
        out.line(line)
    if (decision := found.decision) is None:
        out.line("no class and no decision: take the image again")
        out.line(manifest.research_use)
        return
    verdict = "refer" if decision.refer else "below the threshold"
    out.line(f"P({decision.title}) {decision.probability:.3f}, threshold {decision.threshold:.3f}: {verdict}")
    if manifest.phantom:
        out.line("the network was trained on drawn images: this says nothing about a real lesion")
    if found.score is not None and (scored := manifest.task_schema.score):
        reached = ", ".join(f">= {t} {'reached' if t in found.score_reached else 'not'}" for t in scored.thresholds)
        out.line(f"{scored.title} {found.score} ({reached})")
    rows = []
    for task, classes in found.probabilities.items():
        ranked = sorted(classes.items(), key=lambda item: -item[1])[:3]
        rows.append((task, found.predicted[task], "  ".join(f"{name} {p:.3f}" for name, p in ranked)))
    out.table(f"mode {found.mode}", ["task", "class", "most probable"], rows, words=True)
    out.line("  ".join(f"{name} {value:.1f} ms" for name, value in found.timings_ms.items()))
    out.line(manifest.research_use)


def quality(flags: Mapping[str, Sequence[str]], assessable: bool) -> list[str]:
    """What is wrong with the images, a line for each; a flag that does not fail is told all the same.

    >>> quality({"clinical": (), "dermoscopic": ("dark", "blurred")}, False)
    ['not assessable: dermoscopic image dark, blurred']
    >>> quality({"clinical": ("swapped",), "dermoscopic": ("swapped",)}, False)
    ['not assessable: both images swapped']
    >>> quality({"dermoscopic": ("vignette",)}, True)
    ['note: dermoscopic image vignette']
    """
    flagged = {f"{kind} image": ", ".join(found) for kind, found in flags.items() if found}
    if len(flagged) == 2 and len(set(flagged.values())) == 1:
        flagged = {"both images": next(iter(flagged.values()))}
    return [f"{'note' if assessable else 'not assessable'}: {which} {what}" for which, what in flagged.items()]


def many(model: Classifier, pairs: Path, lines: Path | None) -> None:
    """A row a lesion. Raises EdgeskinError at the end if any lesion could not be classified."""
    schema = model.manifest.task_schema
    rows = list(classify_all(model, read_examinations(pairs), lines))
    out.result(rows)
    read = [row for row in rows if "error" not in row]
    good = [row for row in read if row["assessable"]]
    if len(read) <= 50 and not lines:
        score = [schema.score.title] if schema.score else []
        nothing = ["-"] * (2 + len(score))
        shown = [
            (
                row["lesion_id"],
                row["mode"],
                row["predicted"][schema.target.task],
                f"{row['decision']['probability']:.3f}",
                *([str(row["score"])] if schema.score else []),
                "refer" if row["decision"]["refer"] else "-",
            )
            if row["assessable"]
            else (row["lesion_id"], row["mode"], *nothing, "; ".join(quality(row["quality"], False)))
            for row in read
        ]
        out.table("", ["lesion", "mode", schema.target.task, f"P({schema.target.title})", *score, "decision"], shown)
    referred = sum(row["decision"]["refer"] for row in good)
    out.line(f"{len(good)} lesions classified, {referred} at or above the threshold for {schema.target.title}")
    if len(good) < len(read):
        out.line(f"{len(read) - len(good)} not assessable: take these images again")
    if lines:
        out.line(f"answers: {lines}")
    if failed := [row for row in rows if "error" in row]:
        raise EdgeskinError(
            f"{len(failed)} of {len(rows)} lesions could not be classified",
            got=f"{failed[0]['lesion_id']}: {failed[0]['error']}",
            fix="mend these images and run again",
            details=[f"{row['lesion_id']}: {row['error']}" for row in failed],
        )


def bundle(summary: Mapping[str, Any]) -> None:
    """What is in a bundle."""
    where = summary["thresholds"]["pair"]
    sizes = summary["size_bytes"]
    rows = [
        *_kind(summary),
        ("target", f"{summary['target']} {summary['precision']}"),
        ("network", f"{_network(summary['network'])}, {summary['parameters'] / 1e6:.2f} M parameters"),
        ("input", summary["input"]),
        ("schema", f"{summary['schema']}: " + ", ".join(f"{t} ({len(c)})" for t, c in summary["tasks"].items())),
        ("decision", f"{summary['decision']} >= {where['value']:.4f} ({where['rule']})"),
        ("size", ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sizes.items())),
        ("roles", ", ".join(f"{role} {r['lesions']} ({r['sha256'][:8]})" for role, r in summary["roles"].items())),
        ("calibration", f"{summary['provenance']['calibration_pairs']} pairs"),
        ("data", ("DRAWN IMAGES, not lesions: " if summary["phantom"] else "") + summary["data"]["name"]),
        ("gate", f"{summary['gated']['status'].upper()}: {summary['gated']['why']}"),
        ("golden cases", len(summary["golden"])),
        ("made", f"{summary['provenance']['created']}, {summary['provenance']['machine']}"),
        ("sha256", summary["sha256"][:16]),
        ("signature", _signature(summary["signature"])),
        ("use", summary["research_use"]),
    ]
    rows += [
        (f"tuned to {one['processor']}", f"{one['threads']} of {one['cores']} cores, {one['precision_hint']}")
        for one in summary["tuning"]
    ]
    out.table(f"bundle {summary['name']}", ["", "value"], [(name, value) for name, value in rows], words=True)


def _network(spec: Mapping[str, Any]) -> str:
    """Backbone, and where the two images meet.

    >>> _network({"backbone": "resnet50", "attention_stages": [-2, -1], "fused_head": True})
    'resnet50, attention after stages -2 and -1, fused head'
    """
    stages = " and ".join(map(str, spec["attention_stages"]))
    parts = [spec["backbone"], f"attention after stages {stages}" if stages else "no attention"]
    parts += ["two encoders"] if spec.get("encoders") == "separate" else []
    parts += ["fused head"] if spec.get("fused_head") else []
    return ", ".join(parts)


def _kind(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of a bundle for TensorRT: whether it is a kit or an engine, and for what."""
    bound = summary["compatibility"]
    if bound is None:
        return []
    around = [f"SM {bound['sm']}", bound["arch"]]
    around += [f"{name} {bound[key]}" for name, key in (("CUDA", "cuda"), ("JetPack", "jetpack")) if bound[key]]
    if summary["stage"] == "kit":
        where = f"build kit for {bound['device']}, TensorRT {bound['tensorrt']}"
        return [
            ("kind", f"{where}; no engine yet, `edgeskin build` makes it on the device"),
            ("for", ", ".join(around)),
        ]
    around += [] if bound["dla_core"] is None else [f"DLA core {bound['dla_core']}"]
    return [
        ("kind", f"engine for {bound['gpu'] or bound['device']}, TensorRT {bound['tensorrt']}"),
        ("bound to", ", ".join([bound["device"], *around])),
    ]


def _signature(found: Mapping[str, Any]) -> str:
    if found["status"] == "signed":
        return f"signed by key {found['key']}, not verified here; `edgeskin verify-signature` does"
    return str(found["status"])


def evidence(found: Evidence) -> None:
    """The gate line by line, what really runs in INT8, what a search tried, and the speed."""
    if found.search:
        tried = found.search.candidates
        planned = all(one.p50_ms is None for one in tried) and any(one.planned_cost is not None for one in tried)
        rows = [
            (one.name, f"{one.effect.divergence:.5f}", one.effect.class_flips, one.effect.target_flips, one.gate,
             _cost(one, planned), one.why_not or "CHOSEN")
            for one in tried
        ]  # fmt: skip
        columns = [
            "tried",
            "divergence",
            "flips",
            "of target",
            "gate",
            "planned cost, an estimate" if planned else "p50 ms",
            "",
        ]
        out.table(f"search, {found.search.spent_s:.0f} s of {found.search.budget_s:.0f} s", columns, rows)
    emulated = found.kit is not None and not (found.engine is not None and found.engine.nearness)
    own, where = ("emulated", ", emulated on the CPU") if emulated else ("bundle", "")
    if found.gate:
        overall = [check for check in found.gate.checks if not check.group]
        out.table(
            f"gate: {found.gate.lesions} lesions of role {found.gate.role}{where}",
            ["mode, metric (95 % interval)", "FP32", own, "difference", "margin", "verdict"],
            [
                (f"{c.mode} {c.metric}", estimate(c.fp32), estimate(c.bundle), estimate(c.difference, signed=True),
                 f"{c.margin:g}", c.verdict)
                for c in overall
            ],
        )  # fmt: skip
        groups = [check for check in found.gate.checks if check.group]
        worse = [f"{c.mode} {c.metric} of {c.group}" for c in groups if c.verdict == "fails"]
        out.line(f"sub-groups: {len(groups)} comparisons, shown to be worse: {', '.join(worse) or 'none'}")
    if found.audit:
        for mode, graph in found.audit.modes.items():
            fell = f"; fell back: {', '.join(graph.fell_back)}" if graph.fell_back else ""
            out.line(
                f"audit {mode}: {graph.int8_share:.1%} of the products run in INT8 "
                f"(planned {graph.planned_int8_macs / graph.macs:.1%}), {graph.reorders} conversions{fell}"
            )
    if found.speed:
        times = ", ".join(
            f"{name.replace(', engine', ' engine')} {value:.2f} ms" for name, value in found.speed.p50_ms.items()
        )
        out.line(f"speed: {times}; INT8 over higher precision {estimate(found.speed.ratio)}")


def _cost(one: Candidate, planned: bool) -> str:
    cost = one.planned_cost if planned else one.p50_ms
    return "-" if cost is None else f"{cost:.3f}" if planned else f"{cost:.2f}"


def tuning(found: Sequence[Mapping[str, Any]]) -> None:
    """What was measured for each processor, and what was chosen."""
    for one in found:
        out.table(
            f"{one['processor']}, {one['cores']} cores, {one['engine']}",
            ["one examination", "median in ms"],
            [(name, f"{value:.3f}") for name, value in one["p50_ms"].items()],
        )
        out.line(f"chosen: {one['threads']} threads, {one['precision_hint']}")


def verify(found: VerifyResult) -> None:
    """Accuracy FP32 beside INT8, flips, golden cases, remarks."""
    backend = str(found.engine.get("backend", ""))  # of a build kit: "emulation of tensorrt"
    emulated = backend.startswith("emulation")
    own = found.precision.upper() + (" emulated" if emulated else "")
    for mode, accuracy in found.accuracy.items():
        title = f"mode {mode}, {accuracy.lesions} lesions of role {found.role} ({found.data})"
        show_figures.accuracy(accuracy, title, own)
        if parity := found.parity.get(mode):
            out.line(f"flips of the class:  {flips(parity.predicted)}")
            out.line(f"flips of referral:   {flips(parity.referral)}")
            out.line(f"SQNR of the logits:  {estimate(parity.sqnr_db)} dB")
    if every := found.every_lesion:
        title = f"every lesion by the images it has, {every.lesions} of role {found.role} ({found.data})"
        without = f"{every.without_clinical} without a clinical image"
        show_figures.every_lesion(every, f"{title}, {without}", own)
    where = f"in the {backend} on this CPU" if emulated else "on this machine"
    good = sum(case.passed for case in found.golden)
    out.line(f"golden cases: {good} of {len(found.golden)} hold {where}")
    for remark in found.notes:
        out.line(f"note: {remark}")


def flips(found: Flips) -> str:
    """Lesions that are decided otherwise: how many, their share with its interval, and in which direction."""
    share = f"{found.share:.2%} ({found.low:.2%} to {found.high:.2%})"
    return f"{found.flipped} of {found.of}, {share}; to target {found.to_target}, from target {found.from_target}"


def data(summary: Mapping[str, Any]) -> None:
    """Counts of a collection, flattened."""
    rows: list[tuple[str, object]] = []

    def flatten(name: str, value: object) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                flatten(f"{name} {key}".strip(), inner)
        else:
            rows.append((name, value))

    flatten("", summary)
    out.table("every image and label reads", ["", "value"], rows)
