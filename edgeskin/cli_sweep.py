"""The command `edgeskin sweep`."""

from pathlib import Path
from typing import Annotated

import typer

from edgeskin import out
from edgeskin.cli_options import Json


def add_commands(app: typer.Typer) -> None:
    """Enter the command beside those of the program itself."""
    app.command("sweep")(sweep)


def sweep(
    suite: Annotated[str, typer.Argument(help="A sweep: a name or a .toml.", metavar="SUITE")],
    root: Annotated[Path, typer.Option(help="Where the suite's data lies.")],
    folder: Annotated[Path, typer.Option("--out", help="Folder of the runs; run it again to go on.")],
    data: Annotated[str, typer.Option(help="Data set, if not the suite's: milk10k, derm7pt or csv.")] = "",
    results: Annotated[Path | None, typer.Option(help="Also write the result as JSON to this file.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="This variant alone; may be repeated.")] = None,
    seeds: Annotated[int, typer.Option(help="So many of the suite's seeds, from the first; 0: all.", min=0)] = 0,
    jobs: Annotated[int, typer.Option(help="Runs side by side; 0: as many as there are cores for.", min=0)] = 0,
    threads: Annotated[int, typer.Option(help="Threads of each run.", min=1)] = 1,
    ray: Annotated[str, typer.Option(help="Address of a Ray cluster; empty: this machine.")] = "",
    json: Json = False,
) -> None:
    """Train and judge every variant of a suite with every seed, side by side, into one table."""
    from edgeskin import catalog
    from edgeskin.files import pretty_json, write_atomic
    from edgeskin.report import sweep as shown
    from edgeskin.report.forest import forest
    from edgeskin.sweeping.sweep import result_file
    from edgeskin.sweeping.sweep import sweep as run

    out.configure(json_output=json)
    whole = catalog.sweep(suite)
    if data:
        base = whole.base.model_copy(update={"data": whole.base.data.model_copy(update={"name": data})})
        whole = whole.model_copy(update={"base": base})
    plan = whole.reduced(only or (), seeds)
    found = run(plan, str(root), folder, whole=whole, at_once=jobs, threads=threads, address=ray)
    record = result_file(folder, plan, whole)
    table, plot = (record.with_suffix(kind) for kind in (".md", ".svg"))
    write_atomic(table, shown.markdown(found))
    write_atomic(plot, forest(found))
    if results:
        write_atomic(results, pretty_json(found.to_json()))
    out.result(found.to_json())
    out.table(found.suite.title or found.suite.name, shown.brief_columns(found), shown.brief_rows(found))
    if found.answers:
        titles = ("claim", "verdict", "seeds", "difference, with the seeds")
        out.table("claims", titles, shown.brief_answers(found), words=True)
    if failed := shown.failures(found):
        out.table("runs without a result", ("variant", "seed", "why"), failed, words=True)
    for told in shown.gaps(found):
        out.line(told)
    out.line(shown.conditions(found))
    out.line(f"{record} holds every figure, {table.name} beside it the tables, {plot.name} the plot")
