"""Calibration takes real pairs, enough of them, and says so when it cannot."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeskin.errors import EdgeskinError
from edgeskin.quantize.calibration import calibration_frames
from edgeskin.spec.recipe import Recipe


def _recipe(pairs: int) -> Recipe:
    return Recipe(name="r", target="openvino", precision="int8", quantizer="nncf", calibration_pairs=pairs)


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
