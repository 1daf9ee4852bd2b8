"""Roles: disjoint by patient, stratified, seeded, hashed."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeskin import catalog
from edgeskin.data.pairs import Pair, PairSet
from edgeskin.data.roles import assign, role_hash, short_hash
from edgeskin.errors import EdgeskinError
from edgeskin.spec.roles import ROLES, RoleSpec

SCHEMA = catalog.schema("milk10k5")


def pairset(labels, patients=None, roles=None):
    pairs = tuple(
        Pair(
            f"L{i:05d}",
            Path(f"{i}.jpg"),
            None,
            {"DIAG": label},
            i + 2,
            patient_id=patients[i] if patients else None,
            role=roles[i] if roles else None,
        )
        for i, label in enumerate(labels)
    )
    return PairSet("test", Path("root"), SCHEMA, pairs)


def ids(pairs):
    return {p.lesion_id for p in pairs}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-1, 4), min_size=120, max_size=300), st.integers(0, 5), st.data())
def test_roles_partition_the_lesions_and_keep_patients_whole(labels, seed, data):
    patients = [f"P{k}" if k else None for k in data.draw(st.lists(st.integers(0, 60), min_size=len(labels),
                                                                     max_size=len(labels)))]  # fmt: skip
    roles = assign(pairset(labels, patients), RoleSpec(seed=seed, calibration=0.2, control=0.2, test=0.2))
    everyone = [p.lesion_id for role in ROLES for p in roles[role]]
    assert sorted(everyone) == [f"L{i:05d}" for i in range(len(labels))]
    where = [{p.patient_id for p in roles[role]} - {None} for role in ROLES]
    for i, first in enumerate(where):
        for second in where[i + 1 :]:
            assert not first & second


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(20, 300), min_size=5, max_size=5), st.integers(0, 1000))
def test_each_class_gets_its_share_to_within_one_lesion(sizes, seed):
    labels = [k for k, size in enumerate(sizes) for _ in range(size)]
    spec = RoleSpec(seed=seed, calibration=0.1, control=0.1, test=0.2)
    roles = assign(pairset(labels), spec)
    for k, size in enumerate(sizes):
        for role, share in (("calibration", 0.1), ("control", 0.1), ("test", 0.2)):
            assert abs(sum(p.labels["DIAG"] == k for p in roles[role]) - share * size) <= 1


def test_the_draw_does_not_depend_on_the_order_of_the_rows_but_on_the_seed():
    forward = pairset([i % 5 for i in range(400)])
    backward = PairSet("test", Path("root"), SCHEMA, forward.pairs[::-1])
    one, two = assign(forward, RoleSpec(seed=3)), assign(backward, RoleSpec(seed=3))
    assert one.records() == two.records()
    assert ids(one["test"]) != ids(assign(forward, RoleSpec(seed=4))["test"])


def test_a_patient_and_a_lesion_of_the_same_name_are_no_group():
    """100 nevi without a patient; 200 melanomas, 100 of them of patients who are called as those nevi are."""
    patients = [None] * 100 + [f"L{i:05d}" for i in range(100)] + [None] * 100
    roles = assign(pairset([2] * 100 + [3] * 200, patients), RoleSpec(test=0.3))
    of = {lesion: role for role in ROLES for lesion in ids(roles[role])}
    assert any(of[f"L{i:05d}"] != of[f"L{i + 100:05d}"] for i in range(100))


def test_most_lesions_keep_their_role_when_lesions_are_added():
    small = assign(pairset([i % 5 for i in range(1000)]), RoleSpec())
    large = assign(pairset([i % 5 for i in range(1050)]), RoleSpec())
    kept = len(ids(small["test"]) & ids(large["test"])) / len(small["test"])
    assert kept > 0.8


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=1), unique=True), st.randoms())
def test_hash_ignores_order_and_sees_every_change(lesions, random):
    shuffled = list(lesions)
    random.shuffle(shuffled)
    assert role_hash(lesions) == role_hash(shuffled)
    assert role_hash(lesions) != role_hash([*lesions, "one more\x00"])


def test_hash_and_records_are_pinned():
    assert role_hash([]) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert role_hash(["a"]) == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    roles = assign(pairset([i % 5 for i in range(200)]), RoleSpec())
    record = roles.records()["test"]
    assert record.lesions == len(roles["test"])
    assert record.sha256 == role_hash(ids(roles["test"]))
    assert roles.lesion_hashes()["test"] == tuple(sorted(short_hash(i) for i in ids(roles["test"])))


def test_an_official_split_stands_and_calibration_comes_from_train():
    official = ["train"] * 60 + ["control"] * 20 + ["test"] * 20
    roles = assign(pairset([i % 2 for i in range(100)], roles=official), RoleSpec(calibration=0.1))
    assert ids(roles["control"]) == {f"L{i:05d}" for i in range(60, 80)}
    assert ids(roles["test"]) == {f"L{i:05d}" for i in range(80, 100)}
    assert len(roles["calibration"]) == 10
    assert ids(roles["calibration"]) | ids(roles["train"]) == {f"L{i:05d}" for i in range(60)}


def test_a_given_calibration_role_is_left_alone():
    official = ["train"] * 10 + ["calibration"] * 3 + ["control"] * 4 + ["test"] * 5
    roles = assign(pairset([0] * 22, roles=official), RoleSpec())
    assert [len(roles[r]) for r in ROLES] == [10, 3, 4, 5]


def test_roles_that_an_official_split_lacks_are_drawn_from_train():
    official = ["train"] * 80 + ["test"] * 20
    roles = assign(pairset([i % 2 for i in range(100)], roles=official), RoleSpec(calibration=0.1, control=0.1))
    assert [len(roles[r]) for r in ROLES] == [60, 10, 10, 20]
    assert ids(roles["test"]) == {f"L{i:05d}" for i in range(80, 100)}


def test_an_official_split_through_a_patient_is_refused():
    official = ["train"] * 10 + ["control"] * 5 + ["test"] * 5
    patients = [f"P{i}" for i in range(18)] + ["P0", "P1"]
    with pytest.raises(EdgeskinError, match=r"2 problems") as caught:
        assign(pairset([0] * 20, patients, official), RoleSpec())
    assert "patient 'P0' is in 'test' here and in 'train' in row 2" in caught.value.details[0]


def test_an_empty_role_is_an_error_that_names_it():
    with pytest.raises(EdgeskinError, match="empty role: got \"no lesion for 'calibration' out of 5\""):
        assign(pairset([0] * 5), RoleSpec())
    with pytest.raises(EdgeskinError, match=r"empty role"):
        assign(pairset([]), RoleSpec())
