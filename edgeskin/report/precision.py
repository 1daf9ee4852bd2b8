"""Audit of what a compiled graph runs in -> its part of the page: shares, map, layers that are not INT8."""

from collections.abc import Sequence

from edgeskin.report import proof_charts, view
from edgeskin.report.inputs import BundleInput
from edgeskin.report.parts import Figure, Part
from edgeskin.report.text import MODE_TITLES, NONE, Table
from edgeskin.spec.audit import AuditResult, ModeAudit
from edgeskin.spec.manifest import Mode

FEW = 12  # rows that are shown without a click
UNSHIPPED = "This is of the INT8 build, which was not shipped."


def part(bundle: BundleInput, audit: AuditResult) -> Part:
    """What runs in INT8, against what the file asks for."""
    modes = view.modes_of(audit.modes)
    here = bundle.verify.audit if bundle.verify is not None else None
    conversions = "reformats" if audit.engine.get("backend") == "tensorrt" else "reorders"  # each engine's own word
    columns = ["As compiled"] + [MODE_TITLES[mode] for mode, _ in modes]
    rows: list[tuple[str, ...]] = [
        ("MACs", *(f"{found.macs / 1e6:,.1f} M" for _, found in modes)),
        ("layers that multiply", *(str(len(found.layers)) for _, found in modes)),
        ("planned as INT8", *(share(found.planned_int8_macs, found.macs) for _, found in modes)),
        ("run in INT8", *(share(found.int8_macs, found.macs) for _, found in modes)),
        ("floor of the recipe", *(f"{audit.floor:.1%}" for _ in modes)),
        ("layers that fell back", *(str(len(found.fell_back)) for _, found in modes)),
        (conversions, *(str(found.reorders) for _, found in modes)),
    ]
    if here is not None:
        shares = [f"{here.modes[mode].int8_share:.2%}" if mode in here.modes else NONE for mode, _ in modes]
        rows.append(("run in INT8 where it was verified", *shares))
    engine = ", ".join(f"{key} {value}" for key, value in sorted(audit.engine.items()))
    note = (
        f"Shares are of the multiply-accumulates (MACs). {conversions.capitalize()} only convert a layout or a type. "
    )
    note += f"Engine: {engine}."
    drawn = [
        Figure(f"Precision map, {MODE_TITLES[mode]}: {found.int8_share:.1%} in INT8", chart)
        for mode, found in modes
        for chart in [proof_charts.precision_map(f"Precision map, {MODE_TITLES[mode]}", found)]
        if chart is not None
    ]
    other = not_int8(modes)
    few = other is not None and len(other.rows) <= FEW
    notes = [UNSHIPPED] if bundle.manifest.precision == "fp32" else []
    notes += [] if audit.passed else [f"Too little runs in INT8: {audit.why}."]
    notes += [] if other is not None else ["Every layer that multiplies runs in INT8."]
    if here is not None and not here.passed:
        notes.append(f"Where it was verified: {here.why}.")
    overall = Table("Precision of the graph", tuple(columns), tuple(rows), note)
    return Part(
        "Precision of the graph",
        tables=(overall, other) if other is not None and few else (overall,),
        figures=tuple(drawn),
        folded=(other,) if other is not None and not few else (),
        notes=tuple(notes),
    )


def share(part: int, whole: int) -> str:
    """A share of the products: what is small is not nothing.

    >>> share(1, 3), share(1, 100_000), share(0, 3), share(0, 0)
    ('33.33%', '<0.01%', '0.00%', '–')
    """
    if not whole:
        return NONE
    return "<0.01%" if 0 < part / whole < 0.00005 else f"{part / whole:.2%}"


def not_int8(
    modes: Sequence[tuple[Mode, ModeAudit]], caption: str = "Layers that are not INT8", key: str = "not-int8"
) -> Table | None:
    """Layers that multiply and are not INT8, the largest first; None without any."""
    rows = []
    for mode, found in modes:
        for layer in sorted(found.layers, key=lambda layer: -layer.macs):
            if layer.executed != "int8":
                name = ", ".join(layer.origin[:3]) or layer.name
                more = f" and {len(layer.origin) - 3} more" if len(layer.origin) > 3 else ""
                planned = proof_charts.PRECISIONS.get(layer.planned, layer.planned) or NONE
                if (layer.planned, layer.executed) == ("fp32", "fp16"):  # a plan knows INT8 and the rest
                    planned = "floating point"
                runs = proof_charts.precision(layer) + (", fell back" if proof_charts.fell_back(layer) else "")
                rows.append(
                    (name + more, MODE_TITLES[mode], layer.kind or NONE, share(layer.macs, found.macs), planned, runs)
                )
    if not rows:
        return None
    columns = ("Not in INT8", "mode", "kind", "share of MACs", "planned", "runs in")
    return Table(caption, columns, tuple(rows), key=key)
