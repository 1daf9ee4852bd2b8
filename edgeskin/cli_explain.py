"""The command `edgeskin explain`."""

from pathlib import Path
from typing import Annotated

import typer

from edgeskin import out
from edgeskin.cli_options import Json, Seed
from edgeskin.errors import EdgeskinError
from edgeskin.spec.explanation import CAUTION, FP32, METHOD, STAGE, UNASKED, Deletion, Explained, Randomised
from edgeskin.spec.result import Estimate


def add_commands(app: typer.Typer) -> None:
    """Enter the command beside those of the program itself."""
    app.command("explain")(explain)


def explain(
    run: Annotated[Path, typer.Argument(help="The --out of a training.", metavar="RUN")],
    file: Annotated[Path, typer.Option("--out", help="A .png; with --pairs a folder; with --role a .json.")],
    dermoscopic: Annotated[Path | None, typer.Option(help="Dermoscopic image.")] = None,
    clinical: Annotated[Path | None, typer.Option(help="Clinical image of the same lesion.")] = None,
    pairs: Annotated[Path | None, typer.Option(help="Many: a CSV or a folder of pairs.")] = None,
    role: Annotated[str, typer.Option(help="Lesions of a role of the run's data: test, control ...")] = "",
    task: Annotated[str, typer.Option(help="Task; empty: the one with the class that is decided on.")] = "",
    chosen: Annotated[str, typer.Option("--class", help="Class by name; empty: the most probable one.")] = "",
    method: Annotated[str, typer.Option(help="hirescam or gradcam.")] = METHOD,
    stage: Annotated[int, typer.Option(help="Stage of the encoder whose features are read; -1 is the last.")] = STAGE,
    lesions: Annotated[int, typer.Option(help="With --role: how many with pictures.", min=0)] = 8,
    checked: Annotated[int, typer.Option(help="With --role: on how many the maps are checked.", min=0)] = 60,
    bundle: Annotated[
        Path | None,
        typer.Option(help="Made from the run: its quality gate judges the images, its network is explained."),
    ] = None,
    root: Annotated[str, typer.Option(help="With --role: where the data lies now, if it was moved.")] = "",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Show where in each image the evidence of a class lies, and check how far such maps may be believed."""
    from edgeskin.explain.opened import Asked
    from edgeskin.explain.run import many, of_role, one
    from edgeskin.files import pretty_json, write_atomic

    out.configure(json_output=json)
    asked = Asked(task=task, chosen=chosen, method=method, stage=stage, bundle=bundle)
    ways = [bool(dermoscopic or clinical), pairs is not None, bool(role)]
    if sum(ways) != 1:
        raise EdgeskinError(
            "one lesion, many, or a role",
            got=f"{sum(ways)} of them",
            possible="--dermoscopic with or without --clinical, --pairs, --role",
            fix="name one",
        )
    if pairs:
        found = many(run, pairs, file, asked)
    elif role:
        if file.suffix.lower() != ".json":
            raise EdgeskinError("with --role the result is a JSON", got=str(file), fix="pass --out NAME.json")
        found = of_role(run, role, asked, shown=lesions, checked=checked, root=root, seed=seed)
        write_atomic(file, pretty_json(found.to_json()))
    elif dermoscopic is None:
        raise EdgeskinError(
            "a dermoscopic image is needed", got="a clinical image alone", fix="pass --dermoscopic FILE as well"
        )
    else:
        found = one(run, dermoscopic, clinical, file, asked)
    out.result(found.bare().to_json())
    _show(found)
    out.line(str(file))
    if found.failed:
        lesion, why = next(iter(found.failed.items()))
        raise EdgeskinError(
            f"{len(found.failed)} of {len(found.failed) + len(found.lesions)} lesions could not be explained",
            got=f"{lesion}: {why}",
            fix="mend these images and run again",
            details=[f"{lesion}: {why}" for lesion, why in found.failed.items()],
        )


def _show(found: Explained) -> None:
    rows = []
    for one_found in found.lesions:
        share = one_found.share or {}
        cells = [f"{share[kind]:.0%}" if kind in share else "–" for kind in ("clinical", "dermoscopic")]
        remark = "" if one_found.assessable else "not assessable"
        rows.append((one_found.lesion, one_found.explained, f"{one_found.probability:.3f}", *cells, remark))
    if rows:
        title = f"{found.method} at {found.stage}, {found.grid[0]} x {found.grid[1]} places"
        out.table(title, ["lesion", "class", "P", "saliency clinical", "dermoscopic", ""], rows)
    if any(one_found.unasked for one_found in found.lesions):
        out.line(UNASKED)
    if found.deletion and found.randomised:
        _show_checks(found.deletion, found.randomised, found.chosen or "the most probable class")
    out.line(CAUTION)
    out.line(FP32)


def _show_checks(deletion: Deletion, randomised: Randomised, what: str) -> None:
    said = [
        (f"the {deletion.share:.0%} most salient pixels", deletion.salient),
        ("random patches of as many", deletion.random),
        ("a disc of as many in the middle", deletion.middle),
        ("salient minus random", deletion.over_random),
        ("salient minus the middle", deletion.over_middle),
    ]
    rows = [(name, *_interval(estimate)) for name, estimate in said]
    title = f"Fall of the probability of {what}, {deletion.probability:.3f}, without ... ({deletion.lesions} lesions)"
    out.table(title, ["", "mean", "95 % interval"], rows)
    value, interval = _interval(randomised.correlation)
    size, _ = _interval(randomised.magnitude)
    told = f"rank correlation with maps of {randomised.networks} networks with random weights: {value} {interval}"
    out.line(f"{told}, absolute {size}")


def _interval(found: Estimate) -> tuple[str, str]:
    if found.value is None:
        return "–", found.reason
    if found.low is None or found.high is None:
        return f"{found.value:+.3f}", found.reason
    return f"{found.value:+.3f}", f"[{found.low:+.3f}, {found.high:+.3f}]"
