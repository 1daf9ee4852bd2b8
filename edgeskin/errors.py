"""One family of errors: what happened, what was got, what is possible, what to do."""

import difflib
from collections.abc import Iterable, Sequence


class EdgeskinError(Exception):
    """An error a user can act on. The command line prints it as one line and exits with 2.

    >>> print(EdgeskinError("unknown target", got="tensort", possible=["openvino", "onnxruntime"]))
    unknown target: got 'tensort'; possible: openvino, onnxruntime
    >>> print(EdgeskinError("missing root", got="x", fix="pass --root DIR"))
    missing root: got 'x'; fix: pass --root DIR
    """

    def __init__(
        self,
        what: str,
        *,
        got: object = None,
        possible: Iterable[object] | str | None = None,
        fix: str | None = None,
        details: Sequence[str] = (),
    ) -> None:
        self.what = what
        self.got = got
        self.possible = possible if possible is None or isinstance(possible, str) else [str(p) for p in possible]
        self.fix = fix
        self.details = tuple(details)  # one line each, for errors that gather many rows
        super().__init__(self.line())

    def line(self) -> str:
        """The error as one line of text."""
        parts = []
        if self.got is not None:
            parts.append(f"got {self.got!r}" if isinstance(self.got, str) else f"got {self.got}")
        if self.possible is not None:
            listed = self.possible if isinstance(self.possible, str) else ", ".join(self.possible)
            parts.append(f"possible: {listed}")
        if self.fix:
            parts.append(f"fix: {self.fix}")
        told = "; ".join(parts)
        text = self.what + ((": " if parts[1:] or not self.fix else "; ") + told if parts else "")
        return " ".join(text.split())


def unknown(kind: str, got: str, possible: Iterable[str], fix: str | None = None) -> EdgeskinError:
    """An error for a name that is not on a list, with the nearest name as the cure.

    >>> print(unknown("target", "openvin", ["openvino", "onnxruntime"]))
    unknown target: got 'openvin'; possible: openvino, onnxruntime; fix: did you mean 'openvino'?
    """
    names = list(possible)
    near = difflib.get_close_matches(got, names, n=1)
    cure = f"did you mean {near[0]!r}?" if near else fix
    return EdgeskinError(f"unknown {kind}", got=got, possible=names, fix=cure)


def missing_extra(package: str, extra: str) -> EdgeskinError:
    """An error for an optional package that is not installed.

    >>> print(missing_extra("openvino", "openvino"))
    the package 'openvino' is not installed; fix: pip install 'edgeskin[openvino]'
    """
    return EdgeskinError(f"the package {package!r} is not installed", fix=f"pip install 'edgeskin[{extra}]'")
