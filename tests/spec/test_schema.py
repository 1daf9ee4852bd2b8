import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeskin import catalog
from edgeskin.errors import EdgeskinError
from edgeskin.spec.schema import Schema

DIAG = {"name": "DIAG", "classes": [{"name": "NEV"}, {"name": "MEL", "values": ["mel", "melanoma"]}]}
PLAIN = {"name": "mine", "tasks": [DIAG], "target": {"task": "DIAG", "positive": ["MEL"]}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": []}, "tasks"),
        ({"tasks": [DIAG, DIAG]}, "task names repeat"),
        ({"tasks": [{**DIAG, "classes": [{"name": "A"}]}]}, "classes"),
        ({"tasks": [{**DIAG, "classes": [{"name": "A"}, {"name": "A"}]}]}, "class names repeat"),
        ({"tasks": [{**DIAG, "classes": [{"name": "A"}, {"name": "B", "values": ["a"]}]}]}, "stands for two classes"),
        ({"tasks": [{**DIAG, "name": "a-b"}]}, "name"),
        ({"target": {"task": "PN", "positive": ["MEL"]}}, "'PN' is not one of"),
        ({"target": {"task": "DIAG", "positive": ["BCC"]}}, "'BCC' is not one of"),
        ({"target": {"task": "DIAG", "positive": []}}, "positive"),
        ({"scores": {}}, "did you mean 'score'"),
    ],
)
def test_a_schema_that_contradicts_itself_is_refused(change, message):
    with pytest.raises(EdgeskinError, match=message) as caught:
        Schema.parse({**PLAIN, **change}, "mine.toml")
    assert "\n" not in str(caught.value)


@settings(deadline=None)
@given(st.lists(st.integers(2, 6), min_size=1, max_size=6))
def test_slices_tile_the_logits(sizes):
    tasks = [{"name": f"T{i}", "classes": [{"name": f"c{k}"} for k in range(n)]} for i, n in enumerate(sizes)]
    schema = Schema.parse({"name": "x", "tasks": tasks, "target": {"task": "T0", "positive": ["c1"]}}, "x")
    places = [k for part in schema.slices().values() for k in range(part.start, part.stop)]
    assert places == list(range(schema.logits)) == list(range(sum(sizes)))


def test_raw_values_mean_classes_whatever_their_case():
    task = Schema.parse(PLAIN, "x").task("DIAG")
    assert task.raw_to_index == {"nev": 0, "mel": 1, "melanoma": 1}
    assert task.class_names == ("NEV", "MEL")


def test_target_indices_follow_the_order_of_the_classes():
    schema = Schema.parse({**PLAIN, "target": {"task": "DIAG", "positive": ["MEL", "NEV"]}}, "x")
    assert schema.target_indices() == (1, 0)


@pytest.mark.parametrize("name", catalog.schema_names())
def test_every_schema_that_ships_round_trips(name):
    schema = catalog.schema(name)
    assert Schema.parse(schema.to_json(), name) == schema


def test_the_seven_point_schema_scores_as_published():
    """Argenziano 1998: major criteria two points each, minor criteria one."""
    spc = catalog.schema("spc")
    most = {t.name: max(c.points for c in t.classes) for t in spc.tasks}
    assert most == {"DIAG": 0, "PN": 2, "BWV": 2, "VS": 2, "PIG": 1, "STR": 1, "DaG": 1, "RS": 1}
