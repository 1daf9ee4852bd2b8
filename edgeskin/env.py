"""The only module that reads environment variables."""

import os
from pathlib import Path
from typing import NamedTuple

_FALSE = {"", "0", "false", "no", "off"}


def flag(name: str) -> bool:
    """Whether an environment variable is set to something true; "0", "false", "no", "off" are not.

    >>> import os
    >>> os.environ["EDGESKIN_DOCTEST"] = "0"; flag("EDGESKIN_DOCTEST")
    False
    >>> os.environ["EDGESKIN_DOCTEST"] = "1"; flag("EDGESKIN_DOCTEST")
    True
    """
    return os.environ.get(name, "").strip().lower() not in _FALSE


def cache_dir() -> Path:
    """Where caches go: EDGESKIN_CACHE, else XDG_CACHE_HOME/edgeskin, else ~/.cache/edgeskin."""
    if given := os.environ.get("EDGESKIN_CACHE"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edgeskin"


def for_child(**changes: str) -> dict[str, str]:
    """The environment for a process that is to be started: this one's, with changes.

    >>> for_child(EDGESKIN_DOCTEST="2")["EDGESKIN_DOCTEST"]
    '2'
    """
    return {**os.environ, **changes}


def preset(**values: str) -> None:
    """Set variables that a library reads, and the processes it starts, unless the user has set them.

    >>> import os
    >>> preset(EDGESKIN_PRESET="3"); preset(EDGESKIN_PRESET="4"); os.environ.pop("EDGESKIN_PRESET")
    '3'
    """
    for name, value in values.items():
        os.environ.setdefault(name, value)


class Group(NamedTuple):
    """Processes that torchrun started."""

    processes: int  # on all machines
    processes_here: int


def torchrun() -> Group | None:
    """The group that torchrun started this process in; None: another way.

    >>> torchrun() is None
    True
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    return Group(int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"]))


def rank() -> int:
    """Number of this process among those that train together, from 0: torchrun's, or Lightning's on one machine.

    >>> rank()
    0
    """
    name = "RANK" if torchrun() else "LOCAL_RANK"
    return int(os.environ.get(name, "0"))
