"""Name or path -> schema, recipe, device, suite, sweep, training recipe. Alone knows where data files live."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from edgeskin.errors import EdgeskinError, unknown
from edgeskin.spec.backbones import TriedBackbones
from edgeskin.spec.base import Spec, read_toml
from edgeskin.spec.device import Device
from edgeskin.spec.recipe import Recipe
from edgeskin.spec.schema import Schema
from edgeskin.spec.suite import Suite
from edgeskin.spec.sweep import SweepSpec
from edgeskin.spec.training_recipe import TrainingRecipe

_PACKAGE = Path(__file__).resolve().parent
S = TypeVar("S", bound=Spec)


def data_dir(folder: str) -> Path:
    """The folder `export`, `devices` or `benchmarks`: from the wheel's package data, else from the checkout."""
    for candidate in (_PACKAGE / "_data" / folder, _PACKAGE.parent / folder):
        if candidate.is_dir():
            return candidate
    raise EdgeskinError("the installation is incomplete", got=f"no data folder {folder!r}", fix="reinstall edgeskin")


def _find(kind: str, name: str, folder: Path, pattern: str, names: Sequence[str] = ()) -> Path:
    """A path that was given as such, or the file of that name among the installed ones, or of these `names`."""
    if name.endswith(".toml") or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise EdgeskinError(f"no such {kind} file", got=name, fix="check the path")
        return path
    known = names or _names(folder, pattern)
    if name not in known:
        raise unknown(kind, name, known, fix=f"or pass a path to a {kind} .toml")
    return folder / pattern.replace("*", name)


def _names(folder: Path, pattern: str) -> list[str]:
    depth = len(Path(pattern).parts)
    return sorted(p.parent.name if depth > 1 else p.stem for p in folder.glob(pattern))


def schema_names() -> list[str]:
    """Names of the schemas that ship with the package."""
    return _names(_PACKAGE / "spec" / "schemas", "*.toml")


def schema(name: str) -> Schema:
    """A task schema by name (`spc`, `milk10k`, `milk10k5`) or path to a TOML.

    >>> [len(t.classes) for t in schema("spc").tasks]
    [5, 3, 2, 3, 3, 3, 3, 2]
    """
    return Schema.from_toml(_find("schema", name, _PACKAGE / "spec" / "schemas", "*.toml"))


def recipe_names() -> list[str]:
    """Names of the installed export recipes."""
    return _names(data_dir("export"), "*.toml")


def recipe(name: str) -> Recipe:
    """An export recipe by name or path."""
    return Recipe.from_toml(_find("recipe", name, data_dir("export"), "*.toml"))


def device_names() -> list[str]:
    """Names of the installed device profiles."""
    return _names(data_dir("devices"), "*/profile.toml")


def device(name: str) -> Device:
    """A device profile by name or path."""
    return Device.from_toml(_find("device", name, data_dir("devices"), "*/profile.toml"))


def runtime_dir() -> Path:
    """The sources of libedgeskin, the runtime in C."""
    return data_dir("devices") / "runtime"


def suite_names() -> list[str]:
    """Names of the installed benchmark suites."""
    return _suites(sweeps=False)


def suite(name: str) -> Suite:
    """A benchmark suite by name or path."""
    return Suite.from_toml(_find("suite", name, data_dir("benchmarks") / "suites", "*.toml", suite_names()))


def sweep_names() -> list[str]:
    """Names of the installed sweeps, which lie among the suites."""
    return _suites(sweeps=True)


def sweep(name: str) -> SweepSpec:
    """A sweep by name or path."""
    return SweepSpec.from_toml(_find("sweep", name, data_dir("benchmarks") / "suites", "*.toml", sweep_names()))


def _suites(*, sweeps: bool) -> list[str]:
    """Suites of one kind: a sweep says of itself that it is one."""
    folder = data_dir("benchmarks") / "suites"
    names = _names(folder, "*.toml")
    return [name for name in names if (read_toml(folder / f"{name}.toml").get("kind") == "sweep") == sweeps]


def training_recipe_names() -> list[str]:
    """Names of the installed training recipes."""
    return _names(data_dir("benchmarks") / "recipes", "*.toml")


def training_recipe(name: str) -> TrainingRecipe:
    """A training recipe by name or path."""
    return TrainingRecipe.from_toml(_find("training recipe", name, data_dir("benchmarks") / "recipes", "*.toml"))


def backbones_file() -> Path:
    """The record of the backbones that were exported for every target, as the package carries it."""
    return data_dir("benchmarks") / "results" / "models.json"


def backbones() -> TriedBackbones:
    """The backbones that were exported for every target, and how they fared."""
    if not backbones_file().is_file():
        raise EdgeskinError("the installation is incomplete", got="no record of backbones", fix="reinstall edgeskin")
    return TriedBackbones.parse(json.loads(backbones_file().read_text(encoding="utf-8")), "the record of backbones")
