"""TensorRT's kits and engines as tables for people: what a kit was shown to do, and how an engine was built."""

from edgeskin import out
from edgeskin.compared import shown
from edgeskin.engine import memory
from edgeskin.report.engine import CACHES, MAKERS, NO_ENGINE, SIBLING, bound_to
from edgeskin.report.text import size_text
from edgeskin.show import flips
from edgeskin.show_figures import estimate
from edgeskin.spec.engine import EngineEvidence, KitEvidence, MemoryEstimate
from edgeskin.spec.evidence import Evidence
from edgeskin.spec.manifest import MODES, Mode
from edgeskin.spec.result import Accuracy, Parity


def evidence(found: Evidence) -> None:
    """Whatever of TensorRT is in the evidence: how an engine was built, or what a kit was shown to do."""
    if found.engine is not None:
        engine(found.engine)
    elif found.kit is not None:
        kit(found.kit)
        out.line(f"this is a build kit: {NO_ENGINE}")


def kit(found: KitEvidence) -> None:
    """Linter, plan, emulation, sibling builder and memory: everything that is known before a device sees the kit."""
    out.line(f"linter, rules of TensorRT {found.linted_for}: nothing found in {_each(found.nodes)} nodes")
    for mode in MODES:
        if layers := found.planned.get(mode):
            macs = sum(layer.macs for layer in layers)
            int8 = sum(layer.macs for layer in layers if layer.planned == "int8")
            out.line(f"plan {mode}: {int8 / macs if macs else 0:.1%} of the products in INT8, {len(layers)} layers")
    for role in found.emulated:
        for mode in MODES:
            if mode in role.accuracy:
                title = f"emulated on the CPU, mode {mode}, {role.lesions} lesions of role {role.role}"
                _accuracy(title, role.accuracy[mode], role.parity.get(mode))
    sibling(found)
    if found.needs:
        needed = [memory.estimate(one, memory.Available(0)) for one in found.needs.values()]
        least = max(one.needed_bytes for one in needed)
        out.line(f"memory: a build takes {size_text(least)} or more of a board whose GPU shares it, an estimate")


def sibling(found: KitEvidence) -> None:
    """What a builder for other GPUs made of the kit, called what it is; or why none was asked."""
    if found.sibling is None:
        out.line(f"sibling builder: not asked: {found.sibling_why_not}")
        return
    for mode in MODES:
        if graph := found.sibling.modes.get(mode):
            one = graph.audit
            fell = f"; fell back: {', '.join(one.fell_back)}" if one.fell_back else ""
            out.line(
                f"sibling builder {mode}: {one.int8_share:.1%} of the products in INT8, {graph.layers} layers, "
                f"{one.reorders} of them reformats{fell}"
            )
    out.line(f"{found.sibling.builder} for SM {found.sibling.sm}: {SIBLING}; nothing of it ran")


def engine(found: EngineEvidence) -> None:
    """What it is bound to, how it was built, what it needed, and how near the emulation came."""
    rows = [*bound_to(found.compatibility), ("built with", MAKERS[found.maker])]
    rows += [("timing cache", CACHES[found.timing_cache]), ("kit sha256", found.kit_sha256[:16])]
    out.table("engine", ["", "value"], rows, words=True)
    for mode in MODES:
        if builds := found.rebuilds.get(mode):
            out.table(
                f"builds of the {mode} engine, against the emulation on drawn cases",
                ["build", "s", "size", "sha256", "max difference", "flips", "p50 ms", ""],
                [
                    (str(number), f"{one.seconds:.0f}", size_text(one.size_bytes), one.sha256[:12],
                     f"{one.max_abs_difference:.3g}", f"{one.flips} of {one.cases}", f"{one.p50_ms:.3f}",
                     "nearest" if one.chosen else "")
                    for number, one in enumerate(builds, 1)
                ],
            )  # fmt: skip
    for mode in MODES:
        if mode in found.memory:
            out.line(f"memory for the {mode} build, an estimate: {_memory(found.memory[mode])}")
    if found.dla_fallback:
        out.line(f"layers that DLA left to the GPU, {len(found.dla_fallback)}: {', '.join(found.dla_fallback)}")
    for role in found.nearness:
        for mode in MODES:
            if mode in role.parity:
                one = role.parity[mode]
                where = f"engine against emulation, {mode}, role {role.role}"
                out.line(f"{where}: flips of the class {flips(one.predicted)}; of referral {flips(one.referral)}")
    for text in found.notes:
        out.line(f"note: {text}")


def _accuracy(title: str, found: Accuracy, parity: Parity | None) -> None:
    named = [(f"{task} {name}", one) for task, figures in found.tasks.items() for name, one in figures.items()]
    named += [(f"target {name}", shown(name, one)) for name, one in found.target.items()]
    rows = [
        (name, estimate(one.fp32), estimate(one.bundle), estimate(one.difference, signed=True)) for name, one in named
    ]
    out.table(title, ["metric (95 % interval)", "FP32", "emulated", "difference"], rows)
    if parity is not None:
        out.line(f"flips of the class:  {flips(parity.predicted)}")
        out.line(f"flips of referral:   {flips(parity.referral)}")


def _memory(found: MemoryEstimate) -> str:
    swap = f", {size_text(found.swap_bytes)} swap on disk" if found.swap_bytes else ""
    zram = ", zram adds none" if found.zram else ""
    return (
        f"{size_text(found.needed_bytes)} needed, of it {size_text(found.workspace_bytes)} workspace; "
        f"{size_text(found.available_bytes)} free{swap}{zram}"
    )


def _each(found: dict[Mode, int]) -> str:
    return ", ".join(f"{found[mode]} ({mode})" for mode in MODES if mode in found)
