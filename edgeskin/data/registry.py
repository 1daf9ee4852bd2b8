"""Loader by name: `derm7pt`, `milk10k`, or `csv` for a collection of one's own."""

import dataclasses
import importlib
from pathlib import Path
from typing import Protocol, cast

from edgeskin import catalog
from edgeskin.data.pairs import PairSet
from edgeskin.errors import EdgeskinError, unknown
from edgeskin.spec.schema import Schema

# name -> (module with `load(root, schema)`, the schema it is read with unless told; "" = the user must say)
LOADERS: dict[str, tuple[str, str]] = {
    "derm7pt": ("edgeskin.data.derm7pt", "spc"),
    "milk10k": ("edgeskin.data.milk10k", "milk10k"),
    "csv": ("edgeskin.data.collection", ""),
}


class _LoaderModule(Protocol):
    def load(self, root: Path, schema: Schema) -> PairSet: ...


def load_pairs(name: str, root: Path, schema: str = "", border_px: int = 0) -> PairSet:
    """Read a data set: rows and paths, no pixels (see `edgeskin.data.check.check_images`).

    Args:
        name: one of LOADERS.
        root: the folder in that data set's layout; for `csv` also the file itself.
        schema: name of a task schema or path to its TOML; "" takes the loader's own.
        border_px: cut from each side of every image before anything else; travels with the result.

    Raises:
        EdgeskinError: unknown loader or schema, `csv` without a schema, a negative border, a missing root,
            a wrong layout, or all faults of the collection together.
    """
    if name not in LOADERS:
        raise unknown("data set", name, LOADERS)
    if border_px < 0:
        raise EdgeskinError("wrong border", got=border_px, possible="0 or more pixels", fix="pass --border-px 25")
    module, default = LOADERS[name]
    if not (schema or default):
        raise EdgeskinError(
            f"the data set {name!r} has no schema of its own",
            possible=[*catalog.schema_names(), "path to a .toml"],
            fix="pass --schema",
        )
    loader = cast(_LoaderModule, importlib.import_module(module))
    return dataclasses.replace(loader.load(Path(root), catalog.schema(schema or default)), border_px=border_px)
