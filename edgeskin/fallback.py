"""Another engine for a bundle, for devices on which the one of its target is missing: tried here before it is named."""

from pathlib import Path

from edgeskin import backends
from edgeskin.bundle import reseal
from edgeskin.errors import EdgeskinError, unknown
from edgeskin.opening import Bundle, open_bundle
from edgeskin.runtime import Classifier, GoldenOutcome, refuse_kit
from edgeskin.spec.manifest import Fallback, Manifest

READS = {"openvino": (".xml", ".onnx"), "onnxruntime": (".onnx",)}


def add(path: Path, target: str) -> tuple[Manifest, list[GoldenOutcome]]:
    """Name `target` last in the bundle's order of fall-backs, once it has answered every golden case here.

    The core graphs are given to it where it reads their format, else the FP32 reference. So is the target itself, for
    processors on which it cannot load INT8.

    Raises:
        EdgeskinError: no such engine or not installed, it reads none of the bundle's graphs, it is named already, or a
            golden case fails: logits beyond their tolerance or another decision.
    """
    bundle = open_bundle(path)
    refuse_kit(bundle)
    if target not in READS:
        raise unknown("fall-back", target, tuple(READS))
    if any(other.target == target for other in bundle.manifest.fallback):
        raise EdgeskinError("the bundle runs by this engine already", got=target, fix="name another engine")
    if reason := backends.get(target).unsupported():
        raise EdgeskinError(f"{target} cannot be tried here", got=reason, fix="install it, and add the fall-back then")
    other = Fallback.model_validate({"target": target, "graphs": _readable(bundle, target)})
    outcomes = Classifier(bundle, graphs=other.graphs, fallback=other).self_test()
    if failed := [outcome for outcome in outcomes if not outcome.passed]:
        worst = max(failed, key=lambda outcome: outcome.max_abs_error)
        raise EdgeskinError(
            f"{target} does not answer this bundle's golden cases as {bundle.manifest.target} does",
            got=f"{len(failed)} of {len(outcomes)} cases; {worst.name}: logits differ by {worst.max_abs_error:.3g}",
            possible=f"{worst.tolerance:g} and equal decisions",
            fix=f"export a bundle of its own: edgeskin export CHECKPOINT --target {target}",
        )
    return reseal(path, {"fallback": (*bundle.manifest.fallback, other)}, bundle), outcomes


def _readable(bundle: Bundle, target: str) -> str:
    manifest = bundle.manifest
    choices = {"core": manifest.graphs, "reference": manifest.reference}
    if target == manifest.target:
        del choices["core"]
    for name, graphs in choices.items():
        readable = all(Path(graph.file).suffix in READS[target] for graph in graphs.values())
        if readable and not (name == "reference" and bundle.lean):
            return name
    formats = sorted({Path(g.file).suffix for g in (*manifest.graphs.values(), *manifest.reference.values())})
    raise EdgeskinError(
        f"{target} reads none of the bundle's graphs",
        got=", ".join(formats) + (", packed without its reference" if bundle.lean else ""),
        possible=", ".join(READS[target]),
        fix=f"export a bundle for it: edgeskin export CHECKPOINT --target {target}",
    )
