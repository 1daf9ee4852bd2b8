"""A suite says which scenarios run; what would measure nothing is refused in one clear line."""

import pytest

from edgeskin.errors import EdgeskinError
from edgeskin.spec.suite import Suite


def refused(**keys: object) -> str:
    with pytest.raises(EdgeskinError) as caught:
        Suite.parse({"name": "t", **keys}, "t.toml")
    line = caught.value.line()
    assert "\n" not in line
    assert "t.toml" in line
    return line


def test_the_defaults_are_one_scenario_with_a_bound_of_the_p99():
    suite = Suite(name="t")
    assert suite.scenarios == ("single",)
    assert suite.min_queries == 662
    assert suite.sparse.queries > 0
    assert suite.stream.fps > 0
    assert suite.offline.in_flight[0] == 1


@pytest.mark.parametrize("count", [0, -3])
def test_zero_queries_are_refused(count):
    assert "min_queries: zero queries measure nothing" in refused(min_queries=count)
    assert "sparse.queries: zero queries measure nothing" in refused(sparse={"queries": count})


def test_a_scenario_that_is_unknown_missing_or_named_twice_is_refused():
    assert "'single', 'sparse', 'stream' or 'offline'" in refused(scenarios=["sngle"])
    assert "scenarios" in refused(scenarios=[])
    assert "named twice" in refused(scenarios=["single", "single"])


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"sparse": {"gap_s": 0}}, "sparse.gap_s"),
        ({"stream": {"fps": 0}}, "stream.fps"),
        ({"stream": {"fps": 0.1, "seconds": 5}}, "less than one frame"),
        ({"offline": {"seconds": 0}}, "offline.seconds"),
        ({"offline": {"in_flight": [0, 1]}}, "at least 1"),
        ({"offline": {"in_flight": [2, 1]}}, "rise"),
        ({"offline": {"in_flight": []}}, "offline.in_flight"),
        ({"min_warmup": 50, "max_warmup": 10}, "min_warmup 50 is above max_warmup 10"),
        ({"min_seconds": 50, "max_seconds": 10}, "min_seconds 50 is above max_seconds 10"),
    ],
)
def test_what_contradicts_itself_is_refused(keys, words):
    assert words in refused(**keys)


def test_an_unknown_key_names_its_near_match():
    assert "did you mean 'scenarios'" in refused(scenario=["single"])
    assert "did you mean 'gap_s'" in refused(sparse={"gaps": 3})
