"""Commands run in this process: what they print, or the error that they end with."""

import pytest
from typer.testing import CliRunner

from edgeskin.cli import app
from edgeskin.errors import EdgeskinError


def cli(*arguments: object) -> str:
    """Run a command; gives its stdout. Errors of ours surface as they are."""
    done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(*arguments: object) -> EdgeskinError:
    with pytest.raises(EdgeskinError) as caught:
        CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert "\n" not in caught.value.line()
    return caught.value
