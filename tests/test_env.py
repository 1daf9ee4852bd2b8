from pathlib import Path

import pytest

from edgeskin import env


@pytest.mark.parametrize("value", ["", "0", "false", "False", "NO", "off", " 0 "])
def test_false_words_are_false(monkeypatch, value):
    monkeypatch.setenv("EDGESKIN_TEST_FLAG", value)
    assert env.flag("EDGESKIN_TEST_FLAG") is False


@pytest.mark.parametrize("value", ["1", "true", "yes", "on", "anything"])
def test_other_words_are_true(monkeypatch, value):
    monkeypatch.setenv("EDGESKIN_TEST_FLAG", value)
    assert env.flag("EDGESKIN_TEST_FLAG") is True


def test_unset_is_false(monkeypatch):
    monkeypatch.delenv("EDGESKIN_TEST_FLAG", raising=False)
    assert env.flag("EDGESKIN_TEST_FLAG") is False


def test_the_cache_goes_where_it_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGESKIN_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert env.cache_dir() == tmp_path / "own"
    monkeypatch.delenv("EDGESKIN_CACHE")
    assert env.cache_dir() == tmp_path / "xdg" / "edgeskin"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert env.cache_dir() == Path.home() / ".cache" / "edgeskin"
