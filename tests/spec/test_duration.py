import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeskin.errors import EdgeskinError
from edgeskin.spec.duration import seconds, words


@given(st.integers(0, 10**6))
def test_words_are_read_back(length: int) -> None:
    assert seconds(words(length)) == length


@given(st.text(alphabet="0123456789hms. -+e", max_size=8))
def test_any_text_is_a_length_or_one_clear_error(text: str) -> None:
    try:
        length = seconds(text)
    except EdgeskinError:
        return
    assert length >= 0


@pytest.mark.parametrize("text", ["", "  ", "30 minutes", "-5m", "m", "1m1h", "1e3", "nan", "0x10"])
def test_what_is_no_length_is_refused(text: str) -> None:
    with pytest.raises(EdgeskinError, match="not a length of time"):
        seconds(text)
