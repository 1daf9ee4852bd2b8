"""The only module that prints: lines, tables, progress for people, JSON for programs."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from edgeskin import env
from edgeskin.errors import EdgeskinError

T = TypeVar("T")
_state = {"json": False, "quiet": False}


def configure(*, json_output: bool = False, quiet: bool = False) -> None:
    """Choose the form of what follows: JSON on stdout, or text; progress goes to stderr unless quiet."""
    _state.update(json=json_output, quiet=quiet)


def is_json() -> bool:
    """Whether results go out as JSON."""
    return _state["json"]


def _console(stderr: bool = False) -> Any:
    from rich.console import Console

    shown = Console(stderr=stderr, highlight=False)
    # A pipe has no width of its own: rich would fold tables at 80 columns.
    return shown if shown.is_terminal else Console(stderr=stderr, highlight=False, width=160)


def line(text: str = "") -> None:
    """One line for people; nothing in JSON mode."""
    if not _state["json"]:
        print(text, flush=True)


def note(text: str) -> None:
    """One line on stderr: what is being done, or a remark that is not the result."""
    if not _state["quiet"]:
        print(text, file=sys.stderr, flush=True)


def result(value: Any) -> None:
    """The result as JSON on stdout, in JSON mode only."""
    if _state["json"]:
        print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False), flush=True)


def raw(text: str) -> None:
    """Text as it is on stdout, whatever the mode (JSON lines, a schema)."""
    print(text, flush=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, words: bool = False) -> None:
    """A table for people; nothing in JSON mode. Columns after the first are numbers, or `words`."""
    if _state["json"]:
        return
    from rich import box
    from rich.table import Table

    grid = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for index, name in enumerate(columns):
        grid.add_column(name, justify="left" if index == 0 or words else "right")
    for row in rows:
        grid.add_row(*[str(cell) for cell in row])
    _console().print(grid)


def error(problem: EdgeskinError) -> None:
    """The error as one line on stderr, its details below."""
    who = f"edgeskin, process {rank + 1}" if (rank := env.rank()) else "edgeskin"
    print(f"{who}: {problem.line()}", file=sys.stderr)
    for detail in problem.details[:50]:
        print(f"  {detail}", file=sys.stderr)
    if len(problem.details) > 50:
        print(f"  ... and {len(problem.details) - 50} more", file=sys.stderr)


@contextmanager
def progress(description: str, total: int | None) -> Iterator[Callable[..., None]]:
    """A progress bar with elapsed and remaining time on stderr.

    Yields `step(n=1, text=None)`. Without a terminal, a line every 10 % is written instead.
    """
    if _state["quiet"]:
        yield lambda n=1, text=None: None
        return
    console = _console(stderr=True)
    if not console.is_terminal:
        yield _plain_progress(description, total)
        return
    from rich import progress as bars

    with bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TextColumn("left"),
        bars.TimeRemainingColumn(),
        console=console,
    ) as shown:
        task = shown.add_task(description, total=total)

        def step(n: int = 1, text: str | None = None) -> None:
            shown.update(task, advance=n, description=text or description)

        yield step


def _plain_progress(description: str, total: int | None) -> Callable[..., None]:
    import time

    start, done, shown = time.monotonic(), 0, 0

    def step(n: int = 1, text: str | None = None) -> None:
        nonlocal done, shown
        done += n
        # Short work needs no running commentary; long work gets a line at each tenth.
        tenth = done * 10 // total if total and (done == total or time.monotonic() - start > 2) else 0
        if total and tenth > shown:
            shown = tenth
            spent = time.monotonic() - start
            left = spent / done * (total - done)
            note(f"{text or description}: {done}/{total} ({spent:.0f} s, {left:.0f} s left)")

    return step


def track(items: Sequence[T], description: str) -> Iterator[T]:
    """Iterate with a progress bar."""
    with progress(description, len(items)) as step:
        for item in items:
            yield item
            step()
