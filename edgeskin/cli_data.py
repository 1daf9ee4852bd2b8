"""The commands `edgeskin data ...`."""

from pathlib import Path
from typing import Annotated

import typer

from edgeskin import out
from edgeskin.cli_options import Border, Data, Json, Root, SchemaName, Seed

data_app = typer.Typer(help="Look at data sets, or draw one.", no_args_is_help=True, rich_markup_mode=None)


@data_app.command("check")
def data_check(
    data: Data, root: Root, schema: SchemaName = "", border_px: Border = 0, seed: Seed = 0, json: Json = False
) -> None:
    """Read every image and label; list every fault with row and path. Changes nothing."""
    from edgeskin import chain, show
    from edgeskin.data.check import check_images, summary
    from edgeskin.spec.roles import RoleSpec
    from edgeskin.spec.train import DataSpec

    out.configure(json_output=json)
    source = DataSpec(name=data, root=str(root), schema_name=schema, border_px=border_px, roles=RoleSpec(seed=seed))
    pairset, roles = chain.load_roles(source)
    check_images(pairset)
    found = summary(pairset, roles)
    out.result(found)
    show.data(found)


@data_app.command("phantom")
def data_phantom(
    folder: Annotated[Path, typer.Option("--out", help="Folder of the phantom, in Derm7pt's layout.")],
    n: Annotated[int, typer.Option(help="How many pairs.")] = 600,
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 160,
    seed: Seed = 0,
) -> None:
    """Draw phantom pairs: drawn images, not lesions."""
    from edgeskin.data.phantom import write_phantom

    write_phantom(folder, n, seed, size)
    out.line(f"{folder}: {n} drawn pairs, readable with --data derm7pt")
