"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

BundlePath = Annotated[Path, typer.Argument(help="A bundle: folder or .zip.", metavar="BUNDLE")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Threads = Annotated[int, typer.Option(help="Threads for inference; 0: all cores this process may use.", min=0)]
Data = Annotated[str, typer.Option(help="Data set: milk10k, derm7pt or csv.")]
Root = Annotated[Path, typer.Option(help="Where the data set lies.")]
SchemaName = Annotated[str, typer.Option("--schema", help="Task schema: a name or a .toml; empty: the data set's own.")]
Border = Annotated[int, typer.Option(help="Pixels cut from each side of every image.", min=0)]
Out = Annotated[Path | None, typer.Option("--out", help="Also write the result as JSON to this file.")]
Seed = Annotated[int, typer.Option(help="Seed of everything drawn.", min=0)]
