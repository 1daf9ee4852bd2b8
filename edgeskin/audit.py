"""Precision audit: which layers of a compiled model really run in INT8, against what its file asks for.

Engines fall back silently: a layer whose neighbours do not fit an INT8 kernel runs in floating point without a word,
right in its numbers and slow. What is compiled is read from the engine, what is asked for from the file, and the two
are joined by name. Every product of the file is counted once; what the engine does not own up to is not INT8.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeskin.backends import FP32, INT8, Executed, Session
from edgeskin.bundle import Bundle
from edgeskin.errors import EdgeskinError
from edgeskin.layers import Layer, read_file
from edgeskin.runtime import Classifier, load
from edgeskin.spec.audit import AuditLayer, AuditResult, ModeAudit
from edgeskin.spec.manifest import MODES, Mode

UNKNOWN = "unknown"
_NAMED = 4  # layers that a message names


def audit_bundle(bundle: Bundle, *, threads: int = 0) -> AuditResult:
    """Audit both core graphs as they are compiled on this machine: `audit_model` of a bundle that is not loaded yet."""
    return audit_model(load(bundle, threads=threads))


def audit_model(model: Classifier) -> AuditResult:
    """Audit both core graphs of a loaded bundle against the floor of its recipe.

    Where the package that reads the file is not installed, the plan is the one that the bundle's own audit recorded
    when it was made.

    Raises:
        EdgeskinError: the engine is not there, or nothing here tells what the file asks for.
    """
    modes: dict[Mode, ModeAudit] = {}
    for mode in MODES:
        modes[mode] = join(_plan(model.bundle, mode), *model.session(mode).executed_layers())
    return check(modes, model.manifest.recipe.int8_macs_floor, model.session("pair").describe())


def audit_session(session: Session, file: Path) -> ModeAudit:
    """Audit one opened graph against the file that it was opened from.

    Raises:
        EdgeskinError: the file cannot be read here (see `layers.read_file`).
    """
    return join(read_file(file), *session.executed_layers())


def check(modes: Mapping[Mode, ModeAudit], floor: float, engine: Mapping[str, str]) -> AuditResult:
    """Hold the audited graphs against the least share of products that must run in INT8 (0 for FP32)."""
    low = {mode: found for mode, found in modes.items() if found.int8_share < floor}
    why = "; ".join(_why(mode, found, floor) for mode, found in low.items())
    return AuditResult(engine=dict(engine), floor=floor, passed=not low, why=why, modes=dict(modes))


def refuse(result: AuditResult) -> None:
    """Raise for an audit that did not pass.

    Raises:
        EdgeskinError: fewer products run in INT8 than the recipe's floor.
    """
    if not result.passed:
        raise EdgeskinError(
            "silent FP32: the compiled model runs less in INT8 than the recipe asks",
            got=result.why,
            possible=f"{result.floor:.0%} of the multiply-accumulates or more",
            fix="quantise these layers so that the engine fuses them, or lower int8_macs_floor in the recipe",
        )


def join(planned: Sequence[Layer], executed: Sequence[Executed], reorders: int) -> ModeAudit:
    """Find for each of the file's layers the compiled one that does its work, and count its products there.

    >>> plan = [Layer(("conv",), 900, True, 0, 0), Layer(("head",), 100, True, 0, 0)]
    >>> ran = [Executed("conv_1", ("conv", "relu"), "Convolution", "int8", True, 8)]
    >>> ran += [Executed("head", ("head",), "MatMul", "fp32", True, 8)]
    >>> found = join(plan, ran, 2)
    >>> found.int8_share, found.fell_back
    (0.9, ('head',))
    """
    work = [layer for layer in planned if layer.macs]
    doers = _match(work, executed)
    groups: dict[tuple[int, str], list[Layer]] = defaultdict(list)
    for layer, doer in zip(work, doers, strict=True):
        groups[doer, INT8 if layer.int8 else FP32].append(layer)
    layers: list[AuditLayer] = []
    for place, one in enumerate(executed):
        for word in (INT8, FP32):
            if made := groups.get((place, word)):
                # A kernel with several products inside (attention) has one precision of its own, that of its inputs:
                # the products that the file leaves in floating point stay there. Engines differ in whether they count
                # it as a layer that multiplies; that it does products of both kinds gives it away as well.
                several = not one.multiplies or (place, INT8) in groups
                ran = FP32 if one.precision == INT8 and word == FP32 and several else one.precision
                layers.append(_record(made, one.name, one.kind, word, ran))
        if one.multiplies and not any((place, word) in groups for word in (INT8, FP32)):
            layers.append(_record([], one.name, one.kind, "", one.precision))
    for word in (INT8, FP32):
        layers += [_record([lost], lost.names[0], "", word, UNKNOWN) for lost in groups.get((-1, word), [])]
    return ModeAudit(
        layers=tuple(layers),
        macs=sum(layer.macs for layer in layers),
        int8_macs=sum(layer.macs for layer in layers if layer.executed == INT8),
        planned_int8_macs=sum(layer.macs for layer in layers if layer.planned == INT8),
        reorders=reorders,
        fell_back=tuple(n for one in layers if one.planned == INT8 and one.executed != INT8 for n in one.origin),
        unasked=tuple(n for one in layers if one.planned == FP32 and one.executed == INT8 for n in one.origin),
    )


def _record(made: Sequence[Layer], name: str, kind: str, planned: str, executed: str) -> AuditLayer:
    origin = tuple(dict.fromkeys(layer.names[0] for layer in made))
    macs = sum(layer.macs for layer in made)
    return AuditLayer(name=name, origin=origin, kind=kind, macs=macs, planned=planned, executed=executed)


def _match(work: Sequence[Layer], executed: Sequence[Executed]) -> list[int]:
    """For each of the file's layers the place of the compiled one that does its work; -1 where none is found.

    Layers that multiply are asked first, by name. What is left over on both sides is paired by size, in order. Only
    then are others asked, which may hold products inside: after a fusion they too bear names of what they took over.
    """
    places = [place for place, one in enumerate(executed) if one.multiplies]
    by_name: dict[str, int] = {}
    for place in places:
        one = executed[place]
        for name in (one.name, *one.origin):
            by_name.setdefault(name, place)
    trimmed: dict[str, int] = {}
    for name, place in by_name.items():
        for shorter in _stems(name):
            trimmed.setdefault(shorter, place)
    found = [next((t[n] for t in (by_name, trimmed) for n in layer.names if n in t), -1) for layer in work]
    left = [place for place in places if place not in found]
    for index, layer in enumerate(work):
        if found[index] < 0:
            same = next((place for place in left if layer.output and executed[place].output == layer.output), -1)
            if same >= 0:
                left.remove(same)
                found[index] = same
    for place, one in enumerate(executed):
        if not one.multiplies:
            for index, layer in enumerate(work):
                if found[index] < 0 and set(layer.names) & set(one.origin):
                    found[index] = place
    return found


def _stems(name: str) -> list[str]:
    """Names that an optimiser may have lengthened to this one.

    >>> _stems("stem/conv/WithoutBiases"), _stems("matmul_original")
    (['stem/conv', 'stem'], ['matmul'])
    """
    parts = name.split("/")
    stems = ["/".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]
    plain = name.removesuffix("_original")
    return [stem for stem in stems if stem] + ([plain] if plain != name else [])


def layers_of(recorded: Sequence[AuditLayer]) -> list[Layer]:
    """What an earlier audit noted about a file: what it asks for, layer by layer."""
    return [
        Layer(layer.origin, layer.macs, layer.planned == INT8, weights=0, moved=0) for layer in recorded if layer.macs
    ]


def _plan(bundle: Bundle, mode: Mode) -> list[Layer]:
    path = bundle.path(bundle.manifest.graphs[mode].file)
    try:
        return read_file(path)
    except EdgeskinError:
        evidence = bundle.evidence()  # a lean bundle travels without it
        recorded = evidence.audit if evidence else None
        if recorded is None or mode not in recorded.modes:
            raise
    return layers_of(recorded.modes[mode].layers)


def _why(mode: Mode, found: ModeAudit, floor: float) -> str:
    names = [*found.fell_back[:_NAMED], "..."] if len(found.fell_back) > _NAMED else list(found.fell_back)
    fell = f"{len(found.fell_back)} layers planned as INT8 do not run so: {', '.join(names)}"
    if not names:
        fell = f"the file asks for INT8 in {_share(found.planned_int8_macs, found.macs)} of them alone"
    return (
        f"{mode}: {_share(found.int8_macs, found.macs)} of the multiply-accumulates run in INT8, "
        f"below the floor of {floor:.1%}; {fell}"
    )


def _share(part: int, whole: int) -> str:
    return f"{part / whole if whole else 0.0:.1%}"
