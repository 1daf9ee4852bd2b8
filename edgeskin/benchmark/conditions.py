"""Under which conditions two results were measured, which of them differ, and what question that leaves open."""

from collections.abc import Mapping
from typing import Any

from edgeskin.spec.bench import BenchResult
from edgeskin.spec.comparison import Difference, Kind, Question

# Fields of the environment record that are no condition, and why.
NOT_CONDITIONS = {
    "absent": "it says why another field is null",
    "backend": "looked at key by key",
    "git_revision": "a commit may touch a document only; named in a remark",
    "measured": "the date",
    "versions": "only what runs a bundle counts",
}
# Fields of a suite that leave the latency of a query as it is.
NOT_ASKED = {"name", "note", "threads", "bootstrap", "accuracy_lesions", "cold_starts"}
SETTINGS = {"threads", "governor", "power_mode", "turbo"}
GPU_SOFTWARE = {"cuda", "tensorrt"}  # runs the bundles of target tensorrt, and no others
WORTH_KNOWING = ("cpu_model", "board", "governor", "turbo", "memory_bytes")  # on every machine there is
RUNS_A_BUNDLE = {"edgeskin", "numpy", "opencv", "pillow"}  # and the engine of the target
ENGINES = {"openvino", "onnxruntime"}  # by their Python packages
BUNDLE = ("bundle_sha256", "target", "precision", "phantom", "backbone", "parameters", "input_height", "input_width")
MEMORY_SHARE = 0.01  # the kernel keeps a little more or less for itself at every start

_QUESTIONS: Mapping[frozenset[Kind], Question] = {
    frozenset(): "again",
    frozenset({"bundle"}): "bundles",
    frozenset({"machine"}): "machines",
    frozenset({"machine", "setting"}): "machines",  # a board comes with its cores, governor and power modes
    frozenset({"setting"}): "settings",
    frozenset({"software"}): "software",
}


def differences(a: BenchResult, b: BenchResult) -> tuple[Difference, ...]:
    """Every condition in which the two results differ. A field that a later record adds counts as one of them."""
    found: list[Difference] = []

    def look(kind: Kind, name: str, one: Any, other: Any) -> None:
        if one != other:
            found.append(Difference(kind=kind, name=name, a=_text(one), b=_text(other)))

    for name in BUNDLE:
        look("bundle", name, getattr(a, name), getattr(b, name))
    for name in type(a.suite).model_fields:
        if name not in NOT_ASKED:
            look("suite", name, getattr(a.suite, name), getattr(b.suite, name))
    # A lean bundle is asked without its reference in between, so its caches stay warmer.
    look("suite", "reference in turn", _interleaved(a), _interleaved(b))
    for name in type(a.environment).model_fields:
        one, other = getattr(a.environment, name), getattr(b.environment, name)
        if name in NOT_CONDITIONS or (name == "memory_bytes" and _about_equal(one, other)):
            continue
        if name not in GPU_SOFTWARE:
            look("setting" if name in SETTINGS else "machine", name, one, other)
        elif "tensorrt" in (a.target, b.target):
            look("software", name, one, other)
    counts = RUNS_A_BUNDLE | ({a.target, b.target} & ENGINES)
    for name in sorted(counts):
        look("software", name, a.environment.versions.get(name), b.environment.versions.get(name))
    # How the engine was opened is the bundle's own word, as long as the bundles are two.
    kind: Kind = "setting" if a.bundle_sha256 == b.bundle_sha256 else "bundle"
    for name in sorted(
        (a.environment.backend.keys() | b.environment.backend.keys()) - {"backend", "version", "threads"}
    ):
        look(kind, f"engine {name}", a.environment.backend.get(name), b.environment.backend.get(name))
    return tuple(found)


def question(found: tuple[Difference, ...]) -> Question:
    """What the ratio of two results answers, by the kinds of condition in which they differ.

    >>> def of(*kinds): return question(tuple(Difference(kind=k, name="x", a="1", b="2") for k in kinds))
    >>> of(), of("bundle", "bundle"), of("machine", "setting"), of("bundle", "machine"), of("suite")
    ('again', 'bundles', 'machines', 'mixed', 'mixed')
    """
    return _QUESTIONS.get(frozenset(one.kind for one in found), "mixed")


def objections(a: BenchResult, b: BenchResult, found: tuple[Difference, ...]) -> tuple[str, ...]:
    """Why the two do not compare: results that do not count, and conditions that answer no single question."""
    reasons = []
    for label, one in (("A", a), ("B", b)):
        if one.partial:
            reasons.append(f"{label} is partial")
        if not one.validity.valid:
            reasons.append(f"{label} is not valid ({', '.join(one.validity.reasons) or 'no reason given'})")
    if question(found) == "mixed":
        reasons.append("conditions differ: " + ", ".join(f"{d.name} {d.a} / {d.b}" for d in found))
    return tuple(reasons)


def unknown(a: BenchResult, b: BenchResult) -> tuple[str, ...]:
    """Conditions that are null on both sides, so that nobody can say whether they were equal."""
    return tuple(name for name in WORTH_KNOWING if {getattr(r.environment, name) for r in (a, b)} == {None})


def machine(result: BenchResult) -> str:
    """The machine in a few words: its board if that has a name, and its processor."""
    env = result.environment
    return ", ".join(part for part in (env.board, env.cpu_model or env.arch) if part)


def _interleaved(result: BenchResult) -> bool:
    return any(lane.reference is not None for lane in result.lanes)


def _about_equal(one: int | None, other: int | None) -> bool:
    if one is None or other is None:
        return one == other
    return abs(one - other) <= MEMORY_SHARE * max(one, other)


def _text(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple | set | frozenset):
        return "+".join(str(item) for item in value) or "none"
    if isinstance(value, str) and len(value) == 64:
        return value[:12]
    return str(value)
