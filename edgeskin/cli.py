"""The command line: parse, call, print. Nothing heavy is imported until a command needs it."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgeskin import out
from edgeskin.cli_data import data_app
from edgeskin.cli_embed import add_commands as add_embed_commands
from edgeskin.cli_explain import add_commands as add_explain_commands
from edgeskin.cli_keys import add_commands as add_key_commands
from edgeskin.cli_models import add_commands as add_models_commands
from edgeskin.cli_options import BundlePath, Json, Out, SchemaName, Seed, Threads
from edgeskin.cli_sweep import add_commands as add_sweep_commands
from edgeskin.cli_train import add_commands as add_train_commands
from edgeskin.errors import EdgeskinError

app = typer.Typer(
    name="edgeskin",
    help="From paired skin-lesion images to a verified INT8 classifier on an edge device. Research use only.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
add_train_commands(app)


def main() -> None:
    """Entry point: errors are one line on stderr and exit code 2."""
    try:
        app()
    except EdgeskinError as error:
        out.error(error)
        sys.exit(2)
    except KeyboardInterrupt:
        out.note("interrupted; run the same command again to go on")
        sys.exit(130)


@app.callback(invoke_without_command=True)
def start(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """From paired skin-lesion images to a verified INT8 classifier on an edge device. Research use only."""
    if version:
        from edgeskin import __version__

        out.raw(__version__)
        raise typer.Exit


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="The --out of a training.", metavar="RUN")],
    target: Annotated[str, typer.Option(help="openvino, onnxruntime or tensorrt.")],
    bundle: Annotated[Path, typer.Option("--out", help="Folder of the bundle.")],
    recipe: Annotated[str, typer.Option(help="Recipe: a name or a .toml; empty: TARGET-int8.")] = "",
    device: Annotated[str, typer.Option(help="Device profile that the bundle is for; tensorrt needs it.")] = "",
    jetpack: Annotated[str, typer.Option(help="Of a Jetson, e.g. 6.2; empty: the newest that its profile lists.")] = "",
    root: Annotated[str, typer.Option(help="Where the data lies now, if it was moved.")] = "",
    calibration_pairs: Annotated[int, typer.Option(help="Instead of the recipe's number.", min=0)] = 0,
    budget: Annotated[str, typer.Option(help="Search what to quantise and how for so long: 90s, 30m, 1h.")] = "",
    qat: Annotated[bool, typer.Option("--qat", help="Fine-tune the network under quantisation first.")] = False,
    qat_epochs: Annotated[int, typer.Option(help="Epochs of --qat.", min=1)] = 3,
    allow_ungated: Annotated[
        bool, typer.Option("--allow-ungated", help="Write the bundle although the gate does not hold; it says so.")
    ] = False,
    tune: Annotated[bool, typer.Option(help="Measure here: is INT8 faster, and what runs fastest.")] = True,
    json: Json = False,
) -> None:
    """Quantise a trained network to INT8, prove it against FP32, and put it into a bundle."""
    from edgeskin import chain
    from edgeskin.spec.duration import seconds
    from edgeskin.spec.qat import QatSpec

    out.configure(json_output=json)
    chain.export(
        run, target, bundle, recipe=recipe, device=device, root=root, calibration_pairs=calibration_pairs, tuned=tune,
        budget_s=seconds(budget) if budget else 0.0, qat=QatSpec(epochs=qat_epochs) if qat else None,
        allow_ungated=allow_ungated, jetpack=jetpack,
    )  # fmt: skip
    engine = chain.build_here(bundle, root=root, allow_ungated=allow_ungated) if target == "tensorrt" else None
    _made(engine or bundle)


@app.command()
def build(
    kit: Annotated[Path, typer.Argument(help="What `export --target tensorrt` wrote.", metavar="KIT")],
    bundle: Annotated[Path, typer.Option("--out", help="Folder of the bundle.")],
    rebuilds: Annotated[int, typer.Option(help="Builds of INT8, of which the best is kept.", min=1, max=99)] = 3,
    dla: Annotated[int | None, typer.Option(help="Number of the DLA core to build for.", min=0)] = None,
    workspace_mb: Annotated[
        int | None, typer.Option(help="Scratch memory for a layer; chosen if empty.", min=1)
    ] = None,
    root: Annotated[str, typer.Option(help="Where the kit's data lies, to put its lesions to the engine.")] = "",
    trtexec: Annotated[bool, typer.Option("--trtexec", help="Build with the program trtexec.")] = False,
    allow_ungated: Annotated[
        bool, typer.Option("--allow-ungated", help="Seal the engine although the gate does not hold; it says so.")
    ] = False,
    key: Annotated[Path | None, typer.Option(help="Sign the bundle with this private key.")] = None,
    json: Json = False,
) -> None:
    """Build the TensorRT engine of a kit on the device that runs it, prove it, and seal it into a bundle."""
    from edgeskin import chain
    from edgeskin.sealing import Options

    out.configure(json_output=json)
    asked = Options(rebuilds=rebuilds, workspace_mb=workspace_mb, dla_core=dla)
    chain.build(kit, bundle, asked, root=root, trtexec=trtexec, allow_ungated=allow_ungated, key=key)
    _made(bundle)


@app.command()
def tune(
    bundle: BundlePath,
    anyway: Annotated[bool, typer.Option(help="Also while others use the machine.")] = False,
    json: Json = False,
) -> None:
    """Measure how a bundle runs fastest on this processor, and keep the answer in it. Verify it again afterwards."""
    from edgeskin import chain, show
    from edgeskin.bundle import inspect, open_bundle

    out.configure(json_output=json)
    chain.tune(bundle, anyway=anyway)
    summary = inspect(open_bundle(bundle))
    out.result(summary["tuning"])
    show.tuning(summary["tuning"])


@app.command()
def verify(
    bundle: BundlePath,
    role: Annotated[str, typer.Option(help="test, control, or all (a fresh collection).")] = "test",
    data: Annotated[str, typer.Option(help="Data set, if not the one of the training.")] = "",
    root: Annotated[str, typer.Option(help="Where the data lies, if not where the training found it.")] = "",
    schema: SchemaName = "",
    bootstrap: Annotated[int, typer.Option(help="Draws for the intervals.", min=100)] = 1000,
    threads: Threads = 0,
    file: Out = None,
    json: Json = False,
) -> None:
    """Parity, decision flips and accuracy of a bundle, FP32 beside INT8, on lesions it was not made with."""
    from edgeskin import chain, show

    out.configure(json_output=json)
    if not (root or data or chain.data_is_here(bundle)):
        found = chain.golden_only(bundle, threads=threads)
    else:
        found = chain.verify(
            bundle, role=role, data=data, root=root, schema=schema, threads=threads, bootstrap=bootstrap
        )
    _write(file, found.to_json())
    show.verify(found)
    if not found.passed:
        raise EdgeskinError("golden cases fail on this machine", got=str(bundle), fix="do not use this bundle here")


@app.command()
def run(
    bundle: BundlePath,
    dermoscopic: Annotated[Path | None, typer.Option(help="Dermoscopic image.")] = None,
    clinical: Annotated[Path | None, typer.Option(help="Clinical image of the same lesion.")] = None,
    pairs: Annotated[Path | None, typer.Option(help="Many: a CSV or a folder of pairs.")] = None,
    file: Annotated[
        Path | None, typer.Option("--out", help="With --pairs: a .jsonl, a line a lesion; resumes.")
    ] = None,
    threads: Threads = 0,
    json: Json = False,
) -> None:
    """Classify one lesion, or many."""
    from edgeskin import runtime, show

    out.configure(json_output=json)
    if pairs and (dermoscopic or clinical):
        raise EdgeskinError("one lesion or many, not both", got="--pairs and an image", fix="drop one of them")
    model = runtime.load(bundle, threads=threads)
    if pairs:
        show.many(model, pairs, file)
        return
    result = model.classify(dermoscopic=dermoscopic, clinical=clinical)
    out.result(result.to_json())
    show.result(result, model.manifest)


@app.command()
def bench(
    what: Annotated[
        list[Path], typer.Argument(help="A bundle; or `compare` and two results.", metavar="BUNDLE | compare A B")
    ],
    suite: Annotated[str, typer.Option(help="Suite: quick, standard, official, or a .toml.")] = "standard",
    verified: Annotated[Path | None, typer.Option(help="JSON of `edgeskin verify --out` on this bundle.")] = None,
    accuracy: Annotated[bool, typer.Option(help="Also score the test role, if its data is there.")] = True,
    threads: Threads = 0,
    loadgen: Annotated[
        bool, typer.Option("--loadgen", help="Also ask through MLPerf LoadGen (pip install mlcommons-loadgen).")
    ] = False,
    hosts: Annotated[Path | None, typer.Option(help="A hosts.toml: measure on these boards, over SSH.")] = None,
    again: Annotated[bool, typer.Option(help="With --hosts: also boards whose result is there.")] = False,
    anyway: Annotated[bool, typer.Option(help="With compare: whatever the conditions.")] = False,
    file: Annotated[
        Path | None, typer.Option("--out", help="Also write the JSON to this file; with --hosts a folder (fleet).")
    ] = None,
    json: Json = False,
) -> None:
    """Latency and accuracy of a bundle here or on boards, INT8 and FP32 interleaved; or two results compared."""
    from edgeskin import chain, show_bench

    out.configure(json_output=json)
    if str(what[0]) == "compare" and len(what) == 3:
        compared = chain.compare(what[1], what[2], anyway=anyway)
        _write(file, compared.to_json())
        show_bench.compared(compared)
    elif len(what) != 1:
        raise EdgeskinError("one bundle, or compare and two results", got=" ".join(map(str, what)))
    elif hosts and (verified or loadgen):
        name = "--verified" if verified else "--loadgen"
        raise EdgeskinError(f"{name} does not go with --hosts", fix="drop one of them")
    elif hosts:
        fleet = chain.fleet(what[0], hosts, file or Path("fleet"), suite=suite, threads=threads, again=again)
        out.result(fleet.to_json())
        show_bench.fleet(fleet)
        raise typer.Exit(130 if fleet.partial else int(any(row.status == "failed" for row in fleet.rows)))
    else:
        measured = chain.bench(what[0], suite, threads=threads, verified=verified, accuracy=accuracy, loadgen=loadgen)
        _write(file, measured.to_json())
        show_bench.bench(measured)


@app.command()
def inspect(bundle: BundlePath, json: Json = False) -> None:
    """What is in a bundle and where it came from; every hash is checked."""
    from edgeskin import show
    from edgeskin.bundle import inspect as summarise
    from edgeskin.bundle import open_bundle

    out.configure(json_output=json)
    summary = summarise(open_bundle(bundle))
    out.result(summary)
    show.bundle(summary)


@app.command()
def pack(
    bundle: BundlePath,
    file: Annotated[Path, typer.Option("--out", help="The .zip to write.")],
    lean: Annotated[
        bool, typer.Option(help="Leave out the FP32 reference that verify and bench compare with.")
    ] = False,
) -> None:
    """Put a bundle into one reproducible .zip."""
    from edgeskin.bundle import pack as write

    write(bundle, file, lean=lean)
    out.line(f"{file}: {file.stat().st_size / 1e6:.1f} MB")


@app.command()
def report(
    bundles: Annotated[list[Path], typer.Argument(help="Bundles.", metavar="BUNDLE...")],
    page: Annotated[Path, typer.Option("--out", help="The .html to write; .md and .json lie beside it.")],
    verified: Annotated[list[Path] | None, typer.Option(help="JSON of `edgeskin verify --out`; repeatable.")] = None,
    benched: Annotated[list[Path] | None, typer.Option(help="JSON of `edgeskin bench --out`; repeatable.")] = None,
    explained: Annotated[list[Path] | None, typer.Option(help="JSON of `edgeskin explain --role`; repeatable.")] = None,
    run: Annotated[Path | None, typer.Option(help="The training run, for its curves.")] = None,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "edgeskin report",
    pictures: Annotated[bool, typer.Option(help="Show lesions: those that flip, if the data is there.")] = True,
) -> None:
    """One HTML page out of bundles and what verify and bench found."""
    from edgeskin import chain

    made = chain.report(
        bundles, verified or [], benched or [], page, run=run, title=title, pictures=pictures, explained=explained or []
    )
    out.line(str(made))


@app.command()
def devices(
    bundle: Annotated[Path | None, typer.Option(help="Estimate the latency of this bundle on each.")] = None,
    benched: Annotated[Path | None, typer.Option(help="JSON of `edgeskin bench --out`, to stand beside it.")] = None,
    json: Json = False,
) -> None:
    """The boards whose published figures we know, and what they let one expect of a bundle."""
    from edgeskin import catalog, chain, show_bench

    out.configure(json_output=json)
    found = [catalog.device(name) for name in catalog.device_names()]
    if bundle is None:
        out.result([device.to_json() for device in found])
        show_bench.devices(found)
        return
    guesses = chain.estimates(bundle, found, benched)
    out.result([one.to_json() for one in guesses])
    show_bench.estimates(guesses)


@app.command()
def doctor(json: Json = False) -> None:
    """What this machine is, what works on it, and what to install for the rest."""
    from edgeskin import show_bench
    from edgeskin.benchmark import survey
    from edgeskin.doctor import doctor as examine
    from edgeskin.doctor import exit_code

    out.configure(json_output=json)
    checks = examine(sensors=survey.checks())
    out.result([check.to_json() for check in checks])
    show_bench.doctor(checks)
    raise typer.Exit(exit_code(checks))


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--out", help="Folder for everything the demo makes.")] = Path("demo"),
    seed: Seed = 0,
) -> None:
    """The whole chain on drawn lesions; prints the path of its report."""
    from edgeskin.demo import demo as run_demo

    page = run_demo(folder, seed=seed)
    out.line(f"report: {page}")


def _made(bundle: Path) -> None:
    """What a command wrote, and what proves it."""
    from edgeskin import show, show_engine
    from edgeskin.bundle import inspect, open_bundle

    made = open_bundle(bundle)
    summary = inspect(made)
    out.result({**summary, "evidence": found.to_json() if (found := made.evidence()) else None})
    show.bundle(summary)
    if found:
        show.evidence(found)
        show_engine.evidence(found)


def _write(file: Path | None, value: dict[str, object]) -> None:
    """Result as JSON: to the file, and to stdout in JSON mode."""
    from edgeskin.files import pretty_json, write_atomic

    if file:
        write_atomic(file, pretty_json(value))
    out.result(value)


for add_commands in (
    add_embed_commands,
    add_explain_commands,
    add_key_commands,
    add_models_commands,
    add_sweep_commands,
):
    add_commands(app)

if __name__ == "__main__":
    main()
