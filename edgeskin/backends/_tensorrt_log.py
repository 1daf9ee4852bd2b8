"""What TensorRT says while it parses, builds and loads: kept, as its calls give None or False and no reason."""

from typing import Any, Protocol


class Log(Protocol):
    """A logger to hand to TensorRT, and the lines it was given."""

    lines: list[str]
    errors: list[str]


def logger(trt: Any, *, verbose: bool = False) -> Any:
    """A `Log` for that TensorRT module. It must outlive every object that was made with it.

    Args:
        verbose: keep what is said about single layers too: some thousand lines a build.
    """

    class Kept(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(msg)
            if verbose or severity != trt.ILogger.Severity.VERBOSE:
                self.lines.append(msg)

    return Kept()


def said(log: Log) -> str:
    """The first error in one line, else the last line of any kind."""
    told = log.errors[:1] or log.lines[-1:]
    return " ".join(told[0].split())[:240] if told else "nothing"
