"""edgeskin: from paired skin-lesion images to a verified INT8 classifier on an edge device.

Importing this package loads nothing heavy; the public names arrive when first used.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Classifier", "EdgeskinError", "Result", "__version__", "load"]

if TYPE_CHECKING:
    from edgeskin.errors import EdgeskinError
    from edgeskin.runtime import Classifier, Result, load

_HOME = {
    "Classifier": "edgeskin.runtime",
    "EdgeskinError": "edgeskin.errors",
    "Result": "edgeskin.runtime",
    "load": "edgeskin.runtime",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'edgeskin' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
