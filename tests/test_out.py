import json

import pytest

from edgeskin import out
from edgeskin.errors import EdgeskinError


@pytest.fixture(autouse=True)
def _as_before():
    yield
    out.configure()


def test_text_mode_shows_lines_and_no_json(capsys):
    out.configure()
    out.line("hello")
    out.result({"a": 1})
    out.table("title", ["name", "n"], [("x", 1)])
    shown = capsys.readouterr().out
    assert shown.startswith("hello\n")
    assert "title" in shown
    assert "{" not in shown


def test_json_mode_gives_one_document_on_stdout_and_nothing_else(capsys):
    out.configure(json_output=True)
    assert out.is_json()
    out.line("hello")
    out.table("title", ["name"], [("x",)])
    out.note("working")
    out.result({"a": [1, "é"]})
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"a": [1, "é"]}
    assert captured.err == "working\n"


def test_json_refuses_what_json_cannot_say():
    out.configure(json_output=True)
    with pytest.raises(ValueError, match="JSON"):
        out.result({"a": float("nan")})


def test_raw_text_comes_out_in_either_mode(capsys):
    for json_output in (False, True):
        out.configure(json_output=json_output)
        out.raw("{}")
    assert capsys.readouterr().out == "{}\n{}\n"


def test_an_error_is_one_line_on_stderr_with_its_details_below(capsys):
    out.error(EdgeskinError("2 problems", got="x", details=["row 1: a", "row 2: b"]))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "edgeskin: 2 problems: got 'x'\n  row 1: a\n  row 2: b\n"


def test_very_many_details_are_counted(capsys):
    out.error(EdgeskinError("many", details=[str(n) for n in range(60)]))
    assert capsys.readouterr().err.endswith("  ... and 10 more\n")


def test_long_work_without_a_terminal_writes_each_tenth_to_stderr(capsys, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    assert list(out.track(list(range(40)), "counting")) == list(range(40))
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert 9 <= len(lines) <= 11
    assert lines[-1].startswith("counting: 40/40 (")
    assert lines[-1].endswith(", 0 s left)")


def test_progress_may_say_what_it_is_at(capsys):
    with out.progress("training", 2) as step:
        step(text="epoch 1")
        step(text="epoch 2")
    assert "epoch 2: 2/2" in capsys.readouterr().err


def test_quiet_says_nothing_on_the_way(capsys):
    out.configure(quiet=True)
    out.note("working")
    with out.progress("training", 3) as step:
        step(3)
    assert capsys.readouterr().err == ""


def test_progress_over_nothing_and_over_an_unknown_length_is_quiet(capsys):
    assert list(out.track([], "nothing")) == []
    with out.progress("open end", None) as step:
        step()
    assert capsys.readouterr().err == ""
