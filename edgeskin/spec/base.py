"""The base of every spec: frozen, validated, read from TOML; an unknown key names its near match."""

import difflib
import sys
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from edgeskin.errors import EdgeskinError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

S = TypeVar("S", bound="Spec")


class Spec(BaseModel):
    """A frozen record without behaviour. Unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @classmethod
    def parse(cls: type[S], data: Any, where: str) -> S:
        """Validate plain data; `where` names the source in the error.

        Raises:
            EdgeskinError: the first fault with its key, and how many more there are.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise _explain(cls, error, where) from None

    @classmethod
    def from_toml(cls: type[S], path: Path) -> S:
        """Read a TOML file. Raises EdgeskinError if it is missing, no TOML, or does not fit the spec."""
        return cls.parse(read_toml(path), str(path))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data of this record."""
        return self.model_dump(mode="json")


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file into plain data."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EdgeskinError("no such file", got=str(path), fix="check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise EdgeskinError("not a valid TOML file", got=f"{path}: {error}", fix="mend the line it names") from None


def _keys(cls: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The field names allowed at a location, as far as plain nesting lets us follow it."""
    current: Any = cls
    for step in location:
        if isinstance(step, int):
            continue
        field = getattr(current, "model_fields", {}).get(step)
        if field is None:
            return []
        current = field.annotation
        for argument in getattr(current, "__args__", ()):
            if isinstance(argument, type) and issubclass(argument, BaseModel):
                current = argument
    fields = getattr(current, "model_fields", {})
    return [field.alias or name for name, field in fields.items()]


def _explain(cls: type[BaseModel], error: ValidationError, where: str) -> EdgeskinError:
    faults = error.errors(include_url=False)
    first = faults[0]
    place = ".".join(str(step) for step in first["loc"]) or "(top)"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    if first["type"] == "extra_forbidden":
        possible = _keys(cls, first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), possible, n=1)
        return EdgeskinError(
            f"unknown key in {where}{more}",
            got=place,
            possible=possible or None,
            fix=f"did you mean {near[0]!r}?" if near else "remove it",
        )
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:  # keys that contradict each other: the whole record is at fault, no use to quote it
        return EdgeskinError(f"{where}: {message}{more}", fix="correct these keys")
    got = "nothing" if first["type"] == "missing" else repr(first.get("input"))[:80]
    return EdgeskinError(
        f"{where}: {place}: {message}{more}",
        got=got,
        fix=f"correct {place}",
        details=[f"{'.'.join(str(s) for s in f['loc'])}: {f['msg']}" for f in faults],
    )
