"""TensorRT's kits and engines -> parts of a section: what a kit was shown to do, and how an engine was built.

Three things are kept apart in words: the emulation of a kit on the CPU, the check by a sibling builder, and an engine.
"""

from collections.abc import Sequence

from edgeskin.report import figures, precision, view
from edgeskin.report.inputs import BundleInput
from edgeskin.report.parts import Figure, Part, State
from edgeskin.report.text import MODE_TITLES, Table, duration, ms, sentences, size_text
from edgeskin.spec.engine import Emulated, EngineEvidence, KitEvidence, MemoryEstimate, Sibling
from edgeskin.spec.manifest import Compatibility, Manifest, Mode

NO_ENGINE = "no engine yet; to build it, on the device: edgeskin build KIT --out BUNDLE"
SIBLING = "a check by a sibling builder, not an engine for the device"
MAKERS = {"tensorrt": "TensorRT's Python package", "trtexec": "trtexec, TensorRT's own program"}
CACHES = {"new": "new: every kernel was timed for this build", "used": "used: kernels timed in an earlier build"}
EMULATION = (
    "ONNX Runtime on the CPU, without optimisations: it rounds half to even and clamps where the graph says, as "
    "TensorRT defines it. An emulation, not an engine: single answers of an engine may differ."
)


def bound_to(found: Compatibility) -> tuple[tuple[str, str], ...]:
    """What an engine needs around it, by name; what is not known is left out."""
    core = "" if found.dla_core is None else str(found.dla_core)
    rows = (
        ("device", f"{found.device}, {found.arch}"),
        ("GPU", found.gpu),
        ("compute capability", f"SM {found.sm}"),
        ("TensorRT", found.tensorrt),
        ("JetPack", found.jetpack),
        ("CUDA", found.cuda),
        ("driver", f"for CUDA up to {found.driver}" if found.driver else ""),
        ("DLA core", core),
    )
    return tuple(row for row in rows if row[1])


def states(bundle: BundleInput) -> list[State]:
    """Lines at the top of the section: what this is, before anything is said of how good it is."""
    manifest, proof = bundle.manifest, bundle.evidence
    bound = manifest.compatibility
    if bound is None:
        return []
    where = f"{bound.gpu or bound.device}, TensorRT {bound.tensorrt}, SM {bound.sm}"
    if manifest.stage == "kit":
        found = [State(f"Build kit for {where}: {NO_ENGINE}", None)]
        sibling = proof.kit.sibling if proof is not None and proof.kit is not None else None
        if sibling is not None:
            said = f"MACs in INT8 as {sibling.builder} compiles it for SM {sibling.sm}: {_shares(sibling)}; {SIBLING}"
            found.append(State(said, not any(graph.audit.fell_back for graph in sibling.modes.values())))
        return found
    engine = proof.engine if proof is not None else None
    found = [State(f"Engine, built on and bound to {where}", None)]
    if engine is not None and engine.dla_fallback:
        found.append(State(f"DLA left {_layers(len(engine.dla_fallback))} to the GPU", False))
    return found


def _shares(sibling: Sibling) -> str:
    found = view.modes_of(sibling.modes)
    return ", ".join(f"{graph.audit.int8_share:.1%} {MODE_TITLES[mode]}" for mode, graph in found)


def _layers(count: int) -> str:
    return f"{count} layer{'s' if count != 1 else ''}"


def head(bundle: BundleInput) -> Part | None:
    """What the bundle is for, or bound to; None where it is not TensorRT's."""
    if bundle.manifest.compatibility is None:
        return None
    proof = bundle.evidence
    if bundle.manifest.stage == "kit":
        return _kit(bundle.manifest, proof.kit if proof is not None else None)
    return _engine(bundle.manifest.compatibility, proof.engine if proof is not None else None)


def parts(bundle: BundleInput) -> list[Part]:
    """The rest of what is known: how an engine was built, or what a kit was shown to do."""
    proof = bundle.evidence
    if proof is not None and proof.engine is not None:
        return _built(bundle, proof.engine)
    return _shown(bundle, proof.kit) if proof is not None and proof.kit is not None else []


def before(bundle: BundleInput) -> list[Part]:
    """Of an engine: what its kit was shown to do, for whoever wants to compare."""
    proof = bundle.evidence
    if proof is None or proof.engine is None or proof.kit is None:
        return []
    return [_before(bundle, proof.kit, proof.engine)]


def _kit(manifest: Manifest, kit: KitEvidence | None) -> Part:
    assert manifest.compatibility is not None  # the caller has looked
    rows = [("stage", f"build kit: {NO_ENGINE}"), *bound_to(manifest.compatibility)]
    if kit is None:
        return Part("Build kit", (Table("Build kit", ("", ""), tuple(rows)),), notes=("Its evidence is not there.",))
    rows.append(("linter", _linted(kit)))
    asked = f"not asked: {kit.sibling_why_not}"
    if kit.sibling is not None:
        asked = f"{kit.sibling.builder}, for SM {kit.sibling.sm}: {SIBLING}"
    rows.append(("sibling builder", asked))
    return Part("Build kit", (Table("Build kit", ("", ""), tuple(rows)), _asked(kit)))


def _linted(kit: KitEvidence) -> str:
    nodes = " and ".join(f"{count} nodes ({MODE_TITLES[mode]})" for mode, count in view.modes_of(kit.nodes))
    return f"rules of TensorRT {kit.linted_for}: nothing found in {nodes}"


def _asked(kit: KitEvidence) -> Table:
    """What the graphs ask for; nothing of it is executed yet."""
    planned = view.modes_of(kit.planned)
    macs = {mode: sum(layer.macs for layer in layers) for mode, layers in planned}
    int8 = {mode: sum(layer.macs for layer in layers if layer.planned == "int8") for mode, layers in planned}
    needs = [one for _, one in view.modes_of(kit.needs)]
    rows = (
        ("MACs", *(f"{macs[mode] / 1e6:,.1f} M" for mode, _ in planned)),
        ("layers that multiply", *(str(len(layers)) for _, layers in planned)),
        ("planned as INT8, share of the MACs", *(precision.share(int8[mode], macs[mode]) for mode, _ in planned)),
        ("FP32 graph: weights", *(size_text(one.weights_bytes) for one in needs)),
        ("FP32 graph: its largest weight", *(size_text(one.largest_weight_bytes) for one in needs)),
        ("FP32 graph: tensors that live together", *(size_text(one.activation_bytes) for one in needs)),
    )
    note = "Planned: what the graphs ask for, not what runs. Memory: of the largest graph that a device builds, "
    note += "an estimate from the graph; a build takes a multiple of it and CUDA's own share, which edgeskin build "
    note += "holds against the free memory of the device before it starts."
    return Table("What the graphs ask for", ("", *(MODE_TITLES[mode] for mode, _ in planned)), rows, note)


def _sibling(sibling: Sibling) -> tuple[Table, Table | None]:
    """What the sibling builder compiled, and its layers that are not INT8."""
    found = view.modes_of(sibling.modes)
    audits = [(mode, graph.audit) for mode, graph in found]
    rows = (
        ("layers that it would run", *(str(graph.layers) for _, graph in found)),
        ("reformats among them", *(str(one.reorders) for _, one in audits)),
        ("planned as INT8, share of the MACs", *(precision.share(a.planned_int8_macs, a.macs) for _, a in audits)),
        ("compiled as INT8, share of the MACs", *(precision.share(a.int8_macs, a.macs) for _, a in audits)),
        ("layers that fell back", *(str(len(one.fell_back)) for _, one in audits)),
    )
    note = f"{sibling.builder} on the CPU, for GPUs of SM {sibling.sm}: {SIBLING}. Nothing of it ran: what it takes, "
    note += "TensorRT is likely to take, and what it fuses hints at what TensorRT fuses."
    columns = ("As the sibling would compile it", *(MODE_TITLES[mode] for mode, _ in found))
    return Table("Sibling builder", columns, rows, note), precision.not_int8(
        audits, "Layers that the sibling builder would not run in INT8", "sibling-not-int8"
    )


def _shown(bundle: BundleInput, kit: KitEvidence) -> list[Part]:
    """Of a kit: its emulation, the role test first, and what the sibling builder made of it."""
    found = []
    if kit.emulated:
        open_, folded = _emulated(bundle, kit.emulated, "")
        own, last = view.label(bundle), kit.emulated[-1]
        label = f"Emulation, role {last.role}"
        chart = figures.difference_chart(label, view.difference_rows(bundle.manifest.task_schema, last.accuracy), own)
        drawn = () if chart is None else (Figure(f"{label}: difference with its interval", chart),)
        found.append(Part("Emulation", open_, drawn, folded=folded, notes=(EMULATION,)))
    if kit.sibling is not None:
        table, other = _sibling(kit.sibling)
        notes = ("Every layer that multiplies would run in INT8.",) if other is None else ()
        folded = (other,) if other is not None and len(other.rows) > precision.FEW else ()
        here = (table, other) if other is not None and not folded else (table,)
        found.append(Part("Sibling builder", here, folded=folded, notes=notes))
    return found


def _before(bundle: BundleInput, kit: KitEvidence, engine: EngineEvidence) -> Part:
    open_, folded = _emulated(bundle, kit.emulated, "Kit, ")
    tables = [*open_, *folded]
    notes = [EMULATION] if tables else []
    if kit.sibling is not None:
        tables += [table for table in _sibling(kit.sibling) if table is not None]
    else:
        notes.append(f"No sibling builder was asked: {kit.sibling_why_not}.")
    rows = (("linter", _linted(kit)), ("kit SHA-256", engine.kit_sha256))
    overall = Table("The kit, before it was built", ("", ""), rows)
    return Part("The kit, before it was built", (overall,), folded=tuple(tables), notes=tuple(notes))


def _emulated(
    bundle: BundleInput, found: Sequence[Emulated], before: str
) -> tuple[tuple[Table, ...], tuple[Table, ...]]:
    """Accuracy and flips of every role: those of the last one, which nothing was chosen on, and those of the others."""
    schema = bundle.manifest.task_schema
    made: list[tuple[Table, ...]] = []
    for one in found:
        caption = f"{before}{'emulated' if before else 'Emulated'}: role {one.role}, {one.lesions} lesions"
        note = "95 % bootstrap intervals, the difference by paired draws."
        own = f"{_kit_precision(bundle)} {view.EMULATED}"
        table = view.accuracy_table(schema, one.accuracy, own, caption, f"emulated-{one.role}", note)
        flips = view.flip_table(
            one.parity, schema.target.title, f"{caption}: flips against FP32", f"emulated-flips-{one.role}"
        )
        made.append((table, flips) if one.parity else (table,))
    return made[-1] if made else (), tuple(table for tables in made[:-1] for table in tables)


def _kit_precision(bundle: BundleInput) -> str:
    """What the kit was in: INT8, also where its engine was slower and FP16 is shipped."""
    return "INT8" if _slower(bundle) else bundle.manifest.precision.upper()


def _slower(bundle: BundleInput) -> bool:
    """Whether the INT8 engine was built and not shipped."""
    speed = bundle.evidence.speed if bundle.evidence is not None else None
    return speed is not None and bundle.manifest.precision != "int8"


def _engine(bound: Compatibility, engine: EngineEvidence | None) -> Part:
    rows = list(bound_to(bound))
    if engine is None:
        return Part(
            "Engine", (Table("Engine", ("", ""), tuple(rows)),), notes=("How it was built is not recorded here.",)
        )
    rows = [*bound_to(engine.compatibility.model_copy(update={"dla_core": bound.dla_core}))]
    rows += [
        ("built with", MAKERS[engine.maker]),
        ("timing cache", CACHES[engine.timing_cache]),
        ("kit SHA-256", engine.kit_sha256),
    ]
    if bound.dla_core is not None:
        rows.append(("left to the GPU by DLA", _layers(len(engine.dla_fallback))))
    note = "It loads there alone: on this GPU, with this version of TensorRT."
    fell = Table(
        "Layers that DLA left to the GPU", ("Layer",), tuple((name,) for name in engine.dla_fallback), key="dla"
    )
    overall = Table("Engine", ("", ""), tuple(rows), note)
    return Part("Engine", (overall,), folded=(fell,) if fell.rows else (), notes=sentences(engine.notes))


def _built(bundle: BundleInput, engine: EngineEvidence) -> list[Part]:
    own, title = bundle.manifest.precision.upper(), bundle.manifest.task_schema.target.title
    kit = _kit_precision(bundle)
    found = []
    if engine.rebuilds:
        found.append(Part("Builds of the engine", (_rebuilds(bundle, engine),), notes=_unshipped(bundle)))
    if engine.nearness:
        tables = tuple(
            view.flip_table(
                one.parity,
                title,
                f"{own} engine against the {kit} emulation: role {one.role}, {one.lesions} lesions",
                f"nearness-{one.role}",
                against="the emulation's",
            )
            for one in engine.nearness
        )
        found.append(Part("Nearness to the emulation", tables))
    if engine.memory:
        found.append(Part("Memory for the build", (_memory(view.modes_of(engine.memory)),)))
    return found


def _unshipped(bundle: BundleInput) -> tuple[str, ...]:
    own = bundle.manifest.precision.upper()
    return (f"These are INT8 engines, which were not shipped: the bundle runs in {own}.",) if _slower(bundle) else ()


def _rebuilds(bundle: BundleInput, engine: EngineEvidence) -> Table:
    rows: list[tuple[str, ...]] = []
    marked = set()
    kept = "nearest, not shipped" if _slower(bundle) else "chosen"
    columns = ("Build", "time", "size", "SHA-256", "max difference", "flips", "p50, ms", "")
    for mode, builds in view.modes_of(engine.rebuilds):
        marked.add(len(rows))
        rows.append((MODE_TITLES[mode], *[""] * (len(columns) - 1)))
        for number, one in enumerate(builds, 1):
            figured = (f"{one.max_abs_difference:.3g}", f"{one.flips} of {one.cases}", ms(one.p50_ms))
            told = (duration(one.seconds), size_text(one.size_bytes), one.sha256[:12])
            rows.append((f"{_kit_precision(bundle)} {number}", *told, *figured, kept if one.chosen else ""))
    note = "No two builds need be equal. Max difference: the largest of a logit from the emulation's, on drawn cases; "
    note += "flips: of these cases, those with a decision that differs from the emulation's. The fewest flips count "
    note += "first, then the least difference. p50: median of this engine alone."
    return Table("Builds of the engine", columns, tuple(rows), note, frozenset(marked), key="rebuilds")


def _memory(found: Sequence[tuple[Mode, MemoryEstimate]]) -> Table:
    rows = (
        ("weights and their copies", *(size_text(one.weights_bytes) for _, one in found)),
        ("tensors that live together", *(size_text(one.activation_bytes) for _, one in found)),
        ("workspace, the cap that the builder was given", *(size_text(one.workspace_bytes) for _, one in found)),
        ("CUDA, libraries, kernels", *(size_text(one.overhead_bytes) for _, one in found)),
        ("needed in all", *(size_text(one.needed_bytes) for _, one in found)),
        ("free before the build", *(size_text(one.available_bytes) for _, one in found)),
        ("free swap on disk", *(size_text(one.swap_bytes) if one.swap_bytes else "none" for _, one in found)),
        ("compressed swap (zram), which adds none", *("yes" if one.zram else "no" for _, one in found)),
    )
    note = "Estimates, made before the build: a builder does not say beforehand what it will take."
    return Table("Memory for the build", ("Estimate", *(MODE_TITLES[mode] for mode, _ in found)), rows, note)
