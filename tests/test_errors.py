import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeskin.errors import EdgeskinError, missing_extra, unknown


def test_a_line_says_what_got_possible_fix_in_this_order():
    error = EdgeskinError("no such thing", got="a", possible=("b", "c"), fix="take b")
    assert str(error) == "no such thing: got 'a'; possible: b, c; fix: take b"


def test_parts_that_are_not_given_leave_no_trace():
    assert str(EdgeskinError("the disk is full")) == "the disk is full"


@given(st.text(), st.text(), st.lists(st.text(), max_size=4), st.text())
def test_whatever_goes_in_one_line_comes_out(what, got, possible, fix):
    line = EdgeskinError(what, got=got, possible=possible, fix=fix).line()
    assert "\n" not in line
    assert len(line.splitlines()) <= 1


def test_values_that_are_no_text_are_shown_as_they_are():
    assert "got (3, 224)" in str(EdgeskinError("wrong shape", got=(3, 224)))


def test_details_are_kept_beside_the_line():
    error = EdgeskinError("2 problems", details=["row 1: a", "row 2: b"])
    assert error.details == ("row 1: a", "row 2: b")
    assert "row 1" not in error.line()


@pytest.mark.parametrize(("got", "near"), [("openvin", "openvino"), ("onxruntime", "onnxruntime")])
def test_the_near_name_is_the_cure(got, near):
    assert unknown("target", got, ["openvino", "onnxruntime"]).fix == f"did you mean '{near}'?"


def test_without_a_near_name_the_given_cure_stands():
    assert unknown("target", "zzz", iter(["openvino"]), fix="pass a path").fix == "pass a path"


def test_a_missing_extra_names_the_pip_line_in_message_and_line():
    error = missing_extra("openvino", "openvino")
    assert "pip install 'edgeskin[openvino]'" in str(error)
    assert error.line() == str(error)
