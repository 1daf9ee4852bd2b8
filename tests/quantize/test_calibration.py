"""Calibration takes real pairs, enough of them, none that are measured, and says so when it cannot."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeskin.errors import EdgeskinError
from edgeskin.quantize.calibration import blanked, calibration_frames, refuse_overlap
from edgeskin.spec.recipe import Recipe


def _recipe(pairs: int, blank: float = 0.0) -> Recipe:
    return Recipe(
        name="r",
        target="openvino",
        precision="int8",
        quantizer="nncf",
        calibration_pairs=pairs,
        blank_clinical=blank,
    )


def _pair(seed: int, size: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (2, size, size, 3), dtype=np.uint8)


@given(st.integers(1, 12), st.integers(0, 12), st.sampled_from([1, 2]))
def test_takes_the_first_pairs_or_says_how_many_there_are(wanted, there, images):
    pairs = [_pair(i) for i in range(there)]
    if there < wanted:
        with pytest.raises(EdgeskinError, match=f"too few calibration pairs: got {there}; possible: {wanted} or more"):
            calibration_frames(iter(pairs), _recipe(wanted), images)
        return
    taken = calibration_frames(iter(pairs), _recipe(wanted), images)
    assert len(taken) == wanted
    for frame, pair in zip(taken, pairs, strict=False):
        np.testing.assert_array_equal(frame, pair[2 - images :])


def test_reads_no_more_than_it_needs():
    def endless():
        for number in range(10):
            assert number <= 3
            yield _pair(number)

    assert len(calibration_frames(endless(), _recipe(3))) == 3


def _flat(view: int) -> np.ndarray:
    pair = _pair(0)
    pair[view] = 41
    return pair


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (_pair(0).astype(np.float32), "pair 1 has a wrong dtype: got 'float32'"),
        ([1, 2], "pair 1 has a wrong dtype: got 'list'"),
        (_pair(0)[1:], r"pair 1 has a wrong shape: got '\(1, 8, 8, 3\)'; possible: \(2, 8, 8, 3\)"),
        (_pair(0, size=10), r"pair 1 has a wrong shape: got '\(2, 10, 10, 3\)'"),
        (_pair(0).transpose(0, 3, 1, 2), "pair 1 has a wrong shape"),
        (_flat(0), "the clinical image of calibration pair 1 is one flat colour: got 'every value 41'"),
        (_flat(1), "the dermoscopic image of calibration pair 1 is one flat colour"),
    ],
)
def test_unfit_pairs_are_named(bad, message):
    with pytest.raises(EdgeskinError, match=message):
        calibration_frames([_pair(5), bad], _recipe(2))


@given(st.integers(1, 400), st.floats(0, 1))
def test_the_share_of_black_clinical_frames_is_kept_and_spread(pairs, share):
    chosen = sorted(blanked(pairs, share))
    if not share:
        assert chosen == []
        return
    assert 0 <= chosen[0] <= chosen[-1] < pairs
    assert abs(len(chosen) - pairs * share) < 1.001 or chosen == [pairs - 1]
    gaps = np.diff([-1, *chosen])
    assert len(chosen) < 2 or gaps.max() - gaps.min() <= 1


def test_black_clinical_frames_come_once_more_in_the_pair_graph_alone():
    pairs = [_pair(i) for i in range(8)]
    taken = calibration_frames(pairs, _recipe(8, 0.25))
    extra = [place for place in range(len(taken)) if taken.is_extra(place)]
    assert len(taken) == 10
    assert [taken.name(place) for place in extra] == [
        f"calibration pair {n} with a black clinical frame" for n in (3, 7)
    ]
    for place, number in zip(extra, (3, 7), strict=True):
        assert not taken[place][0].any()
        np.testing.assert_array_equal(taken[place][1], pairs[number][1])
        np.testing.assert_array_equal(taken[place - 1], pairs[number])  # the pair itself is left as it was
    assert len(calibration_frames(pairs, _recipe(8, 0.25), images=1)) == 8


def test_a_sequence_is_read_a_pair_at_a_time():
    class Disk(list):
        asked = 0

        def __getitem__(self, place):
            self.asked += 1
            return super().__getitem__(place)

    disk = Disk(_pair(i) for i in range(6))
    taken = calibration_frames(disk, _recipe(4))
    assert disk.asked == 4  # to check them
    assert sum(1 for _ in taken) == 4
    assert disk.asked == 8  # and again to use them: nothing was kept


def test_the_hash_tells_inputs_apart():
    pairs = [_pair(i) for i in range(4)]
    same = calibration_frames([p.copy() for p in pairs], _recipe(4)).sha256
    assert calibration_frames(pairs, _recipe(4)).sha256 == same
    others = [
        calibration_frames(pairs[::-1], _recipe(4)),
        calibration_frames(pairs, _recipe(3)),
        calibration_frames(pairs, _recipe(4, 0.5)),
        calibration_frames(pairs, _recipe(4), images=1),
    ]
    assert len({same, *(other.sha256 for other in others)}) == 5


@given(st.sets(st.text(min_size=1)), st.sets(st.text(min_size=1)), st.sets(st.text(min_size=1)))
def test_an_overlap_with_another_role_is_refused(calibration, control, test):
    if not calibration & (control | test):
        refuse_overlap(calibration, {"control": control, "test": test})
        return
    role, others = ("control", control) if calibration & control else ("test", test)
    with pytest.raises(EdgeskinError) as caught:
        refuse_overlap(calibration, {"control": control, "test": test})
    shared = sorted(calibration & others)
    assert caught.value.what == f"the calibration shares lesions with role {role!r}"
    assert caught.value.details == tuple(shared)
    assert str(caught.value.got).startswith(f"{len(shared)} of {len(calibration)}: {shared[0]}")
