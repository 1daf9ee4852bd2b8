from types import SimpleNamespace

import numpy as np
import pytest

from edgeskin.data.phantom import cases, write_phantom
from edgeskin.data.phantom_draw import draw
from edgeskin.data.registry import load_pairs
from edgeskin.preprocess import prepare
from edgeskin.quality import assess
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.quality import LOOKS, Quality
from edgeskin.swapped import fitted

HOW = Preprocess(height=96, width=96, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture(scope="module")
def pairs() -> list[np.ndarray]:
    """Drawn lesions as frames [2, 96, 96, 3]."""
    return [np.stack([prepare(view, HOW) for view in draw(case.latent, 96)]) for case in cases(120, seed=4)]


def share_flagged(pairs, spec) -> float:
    return float(np.mean(["swapped" in assess(pair, "pair", spec).flags["clinical"] for pair in pairs]))


def test_exchanged_pairs_are_found_and_others_left_alone(pairs):
    spec, told = fitted(pairs[:40], pairs[40:80])
    assert told.startswith("swapped images: flagged are ")
    assert told.endswith(" 0 of 40 as they are")
    assert any(spec.swapped_weights)
    assert share_flagged(pairs[40:80], spec) == 0
    new = pairs[80:]
    assert share_flagged(new, spec) <= 0.05
    assert share_flagged([pair[::-1] for pair in new], spec) >= 0.7


def test_the_same_pairs_give_the_same_weights(pairs):
    assert fitted(pairs[:40], pairs[40:80]) == fitted(pairs[:40], pairs[40:80])


def test_an_export_learns_them_from_its_roles(tmp_path):
    """A bundle in FP32 has no calibration lesions of its own; the role's are taken."""
    from edgeskin.building import Source, _quality

    write_phantom(tmp_path / "phantom", 120, 5, 64)
    pairset = load_pairs("derm7pt", tmp_path / "phantom", "", 0)
    pairs = [pair for pair in pairset.pairs if pair.clinical is not None]
    roles = {"calibration": pairs[:40], "control": pairs[40:]}
    teacher = Source(tmp_path / "run", SimpleNamespace(preprocess=HOW), "", {})  # type: ignore[arg-type]
    spec = _quality(teacher, roles, [])  # type: ignore[arg-type]
    assert any(spec.swapped_weights)
    assert _quality(teacher, roles, pairs[:40]) == spec  # type: ignore[arg-type]
    assert _quality(teacher, roles, pairs[:8]) == Quality()  # type: ignore[arg-type]


def test_nothing_else_is_changed(pairs):
    given = Quality(dark_luma=17, fails=("dark",))
    spec, _ = fitted(pairs[:40], pairs[40:80], given)
    assert spec.model_copy(update={"swapped_weights": (0,) * len(LOOKS), "swapped_threshold": 0}) == given


def test_images_of_one_kind_cannot_be_told(pairs):
    """Both images of a pair are dermoscopic: an honest fit gives up."""
    alike = [np.stack([one[1], other[1]]) for one, other in zip(pairs[::2], pairs[1::2], strict=True)]
    spec, told = fitted(alike[:30], alike[30:])
    assert spec == Quality()
    assert told.startswith("swapped images cannot be told: flagged would be ")


def test_too_few_pairs_cannot_show_it(pairs):
    for train, held in ((pairs[:15], pairs[40:]), (pairs[:40], pairs[40:55])):
        spec, told = fitted(train, held)
        assert spec == Quality()
        assert "16 are needed" in told
    black = [np.zeros_like(pair) for pair in pairs[:40]]  # empty frames do not count
    assert "0 and 40 pairs" in fitted(black, pairs[40:80])[1]


@pytest.mark.parametrize("wrong", [1, 2])
def test_pairs_given_wrongly_in_the_control_role_are_not_flagged_beyond_the_share(pairs, wrong):
    """One in 200 may be flagged; of 40 that is none, and a control role with exchanged pairs loses the flag's use."""
    held = [pair[::-1] if n < wrong else pair for n, pair in enumerate(pairs[40:80])]
    spec, _ = fitted(pairs[:40], held)
    assert share_flagged(held, spec) == 0
