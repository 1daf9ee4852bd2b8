"""The quality gate in C++ gives exactly the flags and the measures of the one in Python."""

import ctypes
import io
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from string import Template

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from edgeskin import quality
from edgeskin.data.phantom import cases
from edgeskin.data.phantom_draw import draw
from edgeskin.preprocess import prepare
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.quality import FLAGS, LOOKS, Quality

RUNTIME = Path(__file__).resolve().parents[2] / "devices" / "runtime"
# In the order in which SHIM reads them.
FIELDS = [name for name in Quality.model_fields if name not in ("swapped_weights", "swapped_threshold", "fails")]
SHIM = Template("""
#include "quality.h"
static_assert(es::kLooks == $looks, "as in Python");
extern "C" int judge(const std::uint8_t *frames, int images, int width, int height, const std::int64_t *given,
                     std::int32_t *measured, std::uint32_t *flags) {
    es::Quality q;
    $assign
    for (std::size_t k = 0; k < es::kLooks; ++k)
        q.swapped_weights[k] = static_cast<std::int32_t>(given[$weights + k]);
    q.swapped_threshold = given[$threshold];
    q.fails = static_cast<std::uint32_t>(given[$threshold + 1]);
    const std::size_t size = static_cast<std::size_t>(width) * static_cast<std::size_t>(height) * 3;
    for (int n = 0; n < images; ++n) {
        es::Features f;
        es::assess(frames + static_cast<std::size_t>(n) * size, width, height, n + 1 == images, q, f);
        const std::int32_t plain[] = {f.black, f.dark, f.bright, f.saturated, f.sharpness, f.corner, f.spread_x16};
        for (std::int32_t one : plain) *measured++ = one;
        for (std::int32_t one : f.look) *measured++ = one;
    }
    return es::judge(images == 2 ? frames : nullptr, frames + (images == 2 ? size : 0), width, height, q, flags);
}
extern "C" void defaults(std::int64_t *found) {
    const es::Quality q;
    $read
    for (std::size_t k = 0; k < es::kLooks; ++k) found[$weights + k] = q.swapped_weights[k];
    found[$threshold] = q.swapped_threshold;
    found[$threshold + 1] = q.fails;
}
""").substitute(
    looks=len(LOOKS),
    assign="\n".join(f"q.{name} = static_cast<std::int32_t>(given[{n}]);" for n, name in enumerate(FIELDS)),
    read="\n".join(f"found[{n}] = q.{name};" for n, name in enumerate(FIELDS)),
    weights=len(FIELDS),
    threshold=len(FIELDS) + len(LOOKS),
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler: apt-get install g++")
    folder = tmp_path_factory.mktemp("quality")
    (folder / "shim.cpp").write_text(SHIM)
    flags = [
        "-std=c++17",
        "-O2",
        "-fPIC",
        "-shared",
        "-Wall",
        "-Wextra",
        "-Wconversion",
        "-Wshadow",
        "-pedantic",
        "-Werror",
    ]
    include = [f"-I{RUNTIME / 'include'}", f"-I{RUNTIME / 'src'}"]
    sources = [str(RUNTIME / "src" / "quality.cpp"), str(folder / "shim.cpp")]
    subprocess.run([compiler, *flags, *include, *sources, "-o", str(folder / "quality.so")], check=True)
    return ctypes.CDLL(str(folder / "quality.so"))


def as_numbers(spec: Quality) -> NDArray[np.int64]:
    fails = sum(1 << FLAGS.index(flag) for flag in spec.fails)
    plain = [getattr(spec, name) for name in FIELDS]
    return np.array([*plain, *spec.swapped_weights, spec.swapped_threshold, fails], np.int64)


def agree(library: ctypes.CDLL, frames: NDArray[np.uint8], spec: Quality) -> quality.Findings:
    """Assert that both say the same of one lesion."""
    images, height, width, _ = frames.shape
    frames = np.ascontiguousarray(frames)
    given = as_numbers(spec)
    measured, bits = np.zeros((images, 7 + len(LOOKS)), np.int32), np.zeros(2, np.uint32)
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (frames, given, measured, bits)]
    judged = library.judge(pointers[0], images, width, height, *pointers[1:])
    expected, _ = quality.measure(frames, spec)
    for one, found in zip(expected, measured.tolist(), strict=True):
        plain = [one.black, one.dark, one.bright, one.saturated, one.sharpness, one.corner, one.spread_x16]
        assert found == [*plain, *one.look]
    said = quality.assess(frames, "pair" if images == 2 else "dermoscopic", spec)
    names = {"clinical": int(bits[0]), "dermoscopic": int(bits[1])}
    assert {kind: tuple(f for n, f in enumerate(FLAGS) if names[kind] >> n & 1) for kind in said.flags} == said.flags
    assert images == 2 or names["clinical"] == 0
    assert bool(judged) == said.assessable
    return said


def blurred(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(3)))


def jpeg(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, "JPEG", quality=10)
    return np.asarray(Image.open(stream))


def gained(by: float) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    return lambda frame: np.clip(frame * by, 0, 255).astype(np.uint8)


SPOILT: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "as drawn": lambda frame: frame,
    "blurred": blurred,
    "jpeg": jpeg,
    "dark": gained(0.2),
    "bright": gained(3.0),
    "black": lambda frame: np.random.default_rng(0).integers(0, 6, frame.shape, np.uint8),
    "uniform": lambda frame: np.full_like(frame, 128),
    "noise": lambda frame: np.random.default_rng(1).integers(0, 256, frame.shape, np.uint8),
    "mirrored": lambda frame: frame[:, ::-1],
}


def drawn_pairs(size: int, number: int) -> Iterator[NDArray[np.uint8]]:
    how = Preprocess(height=size, width=size, mean=(0.5,) * 3, std=(0.5,) * 3)
    for case in cases(10, seed=3)[:number]:
        yield np.stack([prepare(view, how) for view in draw(case.latent, max(64, size))])


WEIGHTED = Quality(swapped_weights=(3, -500, 700, 11, 1, -2, 90, 40), swapped_threshold=-1000)


@pytest.mark.parametrize("fault", SPOILT)
def test_drawn_and_spoilt_frames(library: ctypes.CDLL, fault: str) -> None:
    seen = set()
    for size in (64, 224):
        for pair in drawn_pairs(size, 3):
            for which in ((0,), (1,), (0, 1)):
                frames = pair.copy()
                for n in which:
                    frames[n] = SPOILT[fault](pair[n])
                for spec in (Quality(), WEIGHTED):
                    said = agree(library, frames, spec)
                    seen.update(flag for flags in said.flags.values() for flag in flags)
                    agree(library, frames[1:], spec)
                    agree(library, frames[::-1], spec)
            agree(library, np.stack([pair[0], jpeg(pair[0])]), WEIGHTED)
    wanted = {"blurred": "blurred", "dark": "dark", "bright": "saturated", "black": "empty", "uniform": "empty"}
    assert fault not in wanted or wanted[fault] in seen


@given(
    height=st.integers(32, 300), width=st.integers(32, 300), seed=st.integers(0, 2**32), kind=st.integers(0, 3),
    levels=st.tuples(*[st.integers(0, 256)] * 5), shares=st.tuples(*[st.integers(0, 10_001)] * 7),
    wide=st.tuples(*[st.integers(0, 4096)] * 2), fails=st.sets(st.sampled_from(FLAGS)),
    weights=st.tuples(*[st.integers(-1_000_000, 1_000_000)] * 8), threshold=st.integers(-(2**53), 2**53),
)  # fmt: skip
@settings(max_examples=300)
def test_random_frames_and_thresholds(
    library: ctypes.CDLL, height, width, seed, kind, levels, shares, wide, fails, weights, threshold
) -> None:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (2, height, width, 3), np.uint8)
    if kind == 1:  # smooth
        frames = np.cumsum(rng.integers(-2, 3, frames.shape), axis=2).astype(np.int64).clip(-100, 100)
        frames = (frames + 128).astype(np.uint8)
    elif kind == 2:  # near one level
        frames = (int(rng.integers(0, 250)) + rng.integers(0, 5, frames.shape)).astype(np.uint8)
    elif kind == 3:  # nearly the same image twice
        frames[1] = np.clip(frames[0].astype(np.int64) + rng.integers(-6, 7, frames[0].shape), 0, 255)
    spec = Quality(
        black_luma=levels[0], dark_luma=levels[1], bright_luma=levels[2], saturated_level=levels[3], rim_luma=levels[4],
        black_share=shares[0], dark_share=shares[1], bright_share=shares[2], saturated_share=shares[3],
        blurred_clinical=shares[4], blurred_dermoscopic=shares[5], vignette_share=shares[6],
        spread_x16=wide[0] // 8, identical_x16=wide[1] // 2, swapped_weights=weights,
        swapped_threshold=threshold, fails=tuple(sorted(fails)),
    )  # fmt: skip
    for one in (spec, Quality()):
        agree(library, frames, one)
        agree(library, frames[:1], one)


def test_the_largest_frame(library: ctypes.CDLL) -> None:
    """Every sum at its largest: nothing overflows in either."""
    white = np.full((1, 4096, 4096, 3), 255, np.uint8)
    assert agree(library, white, Quality()).flags == {"dermoscopic": ("empty",)}
    white[:, :, ::4] = 0
    agree(library, white, Quality())


def test_the_defaults_are_the_same(library: ctypes.CDLL) -> None:
    found = np.full(as_numbers(Quality()).shape, -1, np.int64)
    library.defaults(found.ctypes.data_as(ctypes.c_void_p))
    assert found.tolist() == as_numbers(Quality()).tolist()
