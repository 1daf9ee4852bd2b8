import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from edgeskin import quality
from edgeskin.benchmark.camera import Camera
from edgeskin.data.phantom import cases
from edgeskin.data.phantom_draw import draw
from edgeskin.errors import EdgeskinError
from edgeskin.preprocess import prepare
from edgeskin.quality import assess, flags, measure
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.quality import FLAGS, LOOKS, Quality

SPEC = Quality()


def sized(size: int) -> Preprocess:
    return Preprocess(height=size, width=size, mean=(0.5,) * 3, std=(0.5,) * 3)


def pair_of(number: int = 0, size: int = 224, drawn: int = 0) -> np.ndarray:
    """A drawn lesion as frames [2, size, size, 3]."""
    case = cases(40, seed=2)[number]
    return np.stack([prepare(view, sized(size)) for view in draw(case.latent, drawn or max(64, size))])


def said(frames: np.ndarray, spec: Quality = SPEC) -> tuple[set[str], set[str]]:
    found = assess(frames, "pair", spec).flags
    return set(found["clinical"]), set(found["dermoscopic"])


def blur(frame: np.ndarray, sigma: float) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(sigma)))


def moved(frame: np.ndarray, pixels: int, axis: int) -> np.ndarray:
    shifted = [np.roll(frame, n, axis).astype(np.int64) for n in range(pixels)]
    return (sum(shifted) // pixels).astype(np.uint8)


def gain(frame: np.ndarray, by: float) -> np.ndarray:
    return np.clip(np.rint(frame * by), 0, 255).astype(np.uint8)


def rimmed(frame: np.ndarray, radius: float) -> np.ndarray:
    """What lies outside a circle of that share of half a side is black."""
    height, width = frame.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return np.where((np.hypot(x, y) > radius)[..., None], np.uint8(6), frame)


def black(frame: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 8, frame.shape, np.uint8)


def grey_wall(frame: np.ndarray) -> np.ndarray:
    return (np.full(frame.shape, 140) + np.random.default_rng(0).integers(-4, 5, frame.shape)).astype(np.uint8)


def lighter(frame: np.ndarray) -> np.ndarray:
    """Nearly white, and nothing at the end of the scale."""
    return np.clip(frame + (238 - np.median(quality.luma(frame[None]))), 0, 249).astype(np.uint8)


FAULTS = {
    "empty, a black frame with noise": ("empty", black),
    "empty, a grey wall with noise": ("empty", grey_wall),
    "dark": ("dark", lambda f: gain(f, 0.2)),
    "bright": ("bright", lighter),
    "blurred, out of focus": ("blurred", lambda f: blur(f, 4)),
    "vignette": ("vignette", lambda f: rimmed(f, 0.95)),
}


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("size", [64, 112, 224])
def test_drawn_pairs_can_be_judged(number, size):
    found = assess(pair_of(number, size), "pair", SPEC)
    assert found == quality.Findings({"clinical": (), "dermoscopic": ()}, True)


@pytest.mark.parametrize(("height", "width"), [(1080, 1920), (480, 640), (64, 96)])
@pytest.mark.parametrize("size", [64, 224])
def test_the_frames_of_the_benchmark_can_be_judged(height, width, size):
    camera = Camera(height, width)
    for number in range(4):
        frames = np.stack([prepare(view, sized(size)) for view in camera.pair(number)])
        assert assess(frames, "pair", SPEC).assessable, assess(frames, "pair", SPEC)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_sets_its_flag_on_its_image_and_no_other(fault):
    flag, spoil = FAULTS[fault]
    for number in range(5):
        pair = pair_of(number)
        assert said(pair) == (set(), set())
        for place in (0, 1):
            spoilt = pair.copy()
            spoilt[place] = spoil(pair[place])
            expected = [set(), set()]
            if not (flag == "vignette" and place == 0):  # a photograph of the skin has no such rim
                expected[place] = {flag}
            assert said(spoilt) == tuple(expected), (fault, number, place)
            assert assess(spoilt, "pair", SPEC).assessable == (flag == "vignette")
            if place == 1:
                alone = assess(spoilt[1:], "dermoscopic", SPEC)
                assert alone.flags == {"dermoscopic": (flag,)}


@pytest.mark.parametrize("axis", [0, 1])
def test_movement_sets_blurred_whatever_its_direction(axis):
    for number in range(5):
        pair = pair_of(number)
        pair[0] = moved(pair[0], 15, axis)
        assert said(pair) == ({"blurred"}, set())


def test_clipping_sets_saturated():
    for number in range(5):
        pair = pair_of(number)
        pair[1] = gain(pair[1], 2.5)
        assert "saturated" in said(pair)[1]
        assert said(pair)[0] == set()


@pytest.mark.parametrize("place", [0, 1])
def test_the_same_image_twice_also_if_stored_anew(place):
    for number in range(6):
        one = pair_of(number)[place]
        stream = io.BytesIO()
        Image.fromarray(one).save(stream, "JPEG", quality=90)
        for other in (one, np.asarray(Image.open(stream)), np.clip(one, 1, 254) + 1):
            assert said(np.stack([one, other])) == ({"identical"}, {"identical"})
            assert not assess(np.stack([one, other]), "pair", SPEC).assessable


def test_nothing_else_is_said_where_an_image_is_empty():
    twice = np.stack([black(pair_of()[0])] * 2)
    weighted = Quality(swapped_weights=(1,) * len(LOOKS), swapped_threshold=2**50)
    assert said(twice, weighted) == ({"empty"}, {"empty"})
    pair = pair_of()
    pair[0] = grey_wall(pair[0])
    assert said(pair, weighted) == ({"empty"}, set())


def test_without_weights_nothing_is_called_swapped():
    assert said(pair_of()[::-1], Quality(swapped_threshold=2**50)) == (set(), set())


def test_exchanged_images_have_the_score_with_the_other_sign():
    spec = Quality(swapped_weights=(5, 100, -40, 3, -7, 1, 900, -20))
    found, _ = measure(pair_of(), spec)
    score = quality.swap_score(*found, spec)
    assert score == -quality.swap_score(found[1], found[0], spec) != 0
    below = spec.model_copy(update={"swapped_threshold": score})
    assert said(pair_of(), below) == (set(), set())
    above = spec.model_copy(update={"swapped_threshold": score + 1})
    assert said(pair_of(), above) == ({"swapped"}, {"swapped"})


def test_only_the_flags_that_fail_refuse():
    pair = pair_of()
    pair[1] = blur(pair[1], 4)
    told = assess(pair, "pair", Quality(fails=("dark",)))
    assert told == quality.Findings({"clinical": (), "dermoscopic": ("blurred",)}, True)
    rim = np.stack([pair_of()[0], rimmed(pair_of()[1], 0.95)])
    assert not assess(rim, "pair", Quality(fails=FLAGS)).assessable


@given(st.integers(0, 9), st.integers(0, 2**32), st.sampled_from([64, 224]), st.integers(1, 3))
@settings(max_examples=60)
def test_one_grey_level_changes_next_to_nothing(number, seed, size, bias):
    """Frames of OpenCV and of our own code differ by one grey level here and there."""
    pair = pair_of(number, size)
    rng = np.random.default_rng(seed)
    near = np.clip(pair.astype(np.int64) + (rng.integers(0, 4, pair.shape) < bias) * rng.choice([-1, 1]), 0, 255)
    before, _ = measure(pair, SPEC)
    after, _ = measure(near.astype(np.uint8), SPEC)
    for one, other in zip(before, after, strict=True):
        for name in ("black", "dark", "bright", "saturated", "corner"):
            assert abs(getattr(one, name) - getattr(other, name)) <= 500, name  # 5 % of the pixels
        assert abs(one.sharpness - other.sharpness) <= 600
        assert abs(one.spread_x16 - other.spread_x16) <= 4
        assert np.abs(np.subtract(one.look[:5], other.look[:5])).max() <= 33
    assert said(near.astype(np.uint8)) == said(pair)


@given(st.integers(0, 39))
@settings(max_examples=25)
def test_the_size_of_the_frame_hardly_matters(number):
    """Of exposure; sharpness is of the pixels that the network sees."""
    large, small = (measure(pair_of(number, size, drawn=224), SPEC)[0] for size in (224, 64))
    for one, other in zip(large, small, strict=True):
        for name in ("black", "dark", "bright", "saturated"):
            assert abs(getattr(one, name) - getattr(other, name)) <= 400, name
        assert abs(one.spread_x16 - other.spread_x16) <= max(8, one.spread_x16 // 20)
        assert np.abs(np.subtract(one.look[:3], other.look[:3])).max() <= 24


@given(st.integers(32, 90), st.integers(32, 90), st.integers(0, 2**32))
@settings(max_examples=40)
def test_measures_against_plain_loops(height, width, seed):
    rng = np.random.default_rng(seed)
    frame = np.cumsum(rng.integers(-3, 4, (height, width, 3)), axis=0).clip(-120, 120) + 128
    frame = frame.astype(np.uint8)
    (found,), apart = measure(frame[None], SPEC)
    rows = [[(77 * int(r) + 150 * int(g) + 29 * int(b) + 128) // 256 for r, g, b in row] for row in frame[::2]]
    count = len(rows) * width
    every = [value for row in rows for value in row]
    assert apart == 0
    assert found.dark == 10_000 * sum(value < SPEC.dark_luma for value in every) // count
    assert found.bright == 10_000 * sum(value >= SPEC.bright_luma for value in every) // count

    def excess(step_y: int, step_x: int) -> int:
        pairs = (
            (rows[y][x], rows[y + step_y][x + step_x]) for y in range(len(rows) - step_y) for x in range(width - step_x)
        )
        return sum(max(0, abs(a - b) - 1) for a, b in pairs)

    along, down = (excess(0, 2), excess(0, 4)), (excess(1, 0), excess(2, 0))
    ratios = [min(10_000, 10_000 * near // far) if 16 * far >= count else 10_000 for near, far in (along, down)]
    assert found.sharpness == min(ratios)
    assert found.look[6:] == (16 * (along[0] + down[0]) // count, 16 * (along[1] + down[1]) // count)
    assert found.look[3] == found.spread_x16


def test_blur_takes_sharpness_away_step_by_step():
    for number in range(4):
        frames = pair_of(number)
        steps = [measure(np.stack([blur(f, s) for f in frames]), SPEC)[0] for s in (0, 1, 2, 4)]
        for place in (0, 1):
            falling = [found[place].sharpness for found in steps]
            assert falling == sorted(falling, reverse=True), falling


def test_the_threshold_itself_belongs_to_the_fault_or_not_as_documented():
    (found,), _ = measure(pair_of()[1:], SPEC)
    at = Quality(blurred_dermoscopic=found.sharpness, blurred_clinical=found.sharpness + 1)
    assert "blurred" not in flags(found, at, dermoscopic=True)
    assert "blurred" in flags(found, at, dermoscopic=False)
    assert "bright" in flags(found, Quality(bright_share=found.bright), dermoscopic=True)
    assert "bright" not in flags(found, Quality(bright_share=found.bright + 1), dermoscopic=True)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"swapped_weights": [1, 2]}, "one weight for each of luma"),
        ({"fails": ["blurry"]}, "fails.0"),
        ({"fails": ["dark", "dark"]}, "named twice"),
        ({"dark_luma": 300}, "dark_luma"),
        ({"dark_luma": 3.5}, "dark_luma"),
        ({"darkness": 3}, "unknown key"),
    ],
)
def test_thresholds_that_make_no_sense_are_refused(wrong, told):
    with pytest.raises(EdgeskinError, match=told):
        Quality.parse(wrong, "quality")
