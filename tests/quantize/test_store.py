"""Frames on the disk: what was put in comes out, stale ones are made anew, a kill leaves no half file."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgeskin.data.pairs import Pair
from edgeskin.errors import EdgeskinError
from edgeskin.preprocess import prepare
from edgeskin.quantize.store import FrameStore
from edgeskin.spec.preprocess import Preprocess

SPEC = Preprocess(height=32, width=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def ready(path: Path) -> np.ndarray:
    return prepare(path, SPEC)


@pytest.fixture
def pairs(tmp_path: Path) -> list[Pair]:
    """Eight lesions of two photographs each, the fourth without a clinical one."""
    rng = np.random.default_rng(3)
    made = []
    for number in range(8):
        files = [tmp_path / f"{number}-{view}.png" for view in ("clinical", "dermoscopic")]
        for file in files:
            Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(file)
        made.append(Pair(f"L{number}", files[1], None if number == 3 else files[0], {}, number))
    return made


def paired(pairs: list[Pair]) -> list[Pair]:
    return [pair for pair in pairs if pair.clinical]


def test_what_was_put_in_comes_out(pairs, tmp_path):
    path, chosen = tmp_path / "made" / "frames.npy", paired(pairs)
    steps: list[int] = []
    store = FrameStore.write(path, FrameStore.key_of(chosen, SPEC), chosen, ready, steps.append)
    assert sum(steps) == len(store) == 7
    assert store.paired.all()
    for frames, pair in zip(store, chosen, strict=True):
        np.testing.assert_array_equal(frames, np.stack([ready(pair.clinical), ready(pair.dermoscopic)]))
    np.testing.assert_array_equal(np.load(path), np.stack(list(store)))  # any numpy reads it
    assert sorted(p.name for p in path.parent.iterdir()) == ["frames.npy", "frames.npy.json"]


def test_one_without_clinical_image_is_black_or_refused(pairs, tmp_path):
    key = FrameStore.key_of(pairs, SPEC)
    with pytest.raises(EdgeskinError, match=r"calibration needs both images: got .1 lesions .*'L3' first"):
        FrameStore.write(tmp_path / "a.npy", key, pairs, ready)
    assert not (tmp_path / "a.npy").exists()
    store = FrameStore.write(tmp_path / "a.npy", key, pairs, ready, unpaired=True)
    assert store.paired.tolist() == [number != 3 for number in range(8)]
    assert not store[3][0].any()
    np.testing.assert_array_equal(store[3][1], ready(pairs[3].dermoscopic))


def test_it_is_reused_until_something_changes(pairs, tmp_path):
    path, chosen = tmp_path / "frames.npy", paired(pairs)
    asked: list[Path] = []

    def noted(image: Path) -> np.ndarray:
        asked.append(image)
        return ready(image)

    def write(lesions: list[Pair], spec: Preprocess = SPEC) -> int:
        asked.clear()
        FrameStore.write(path, FrameStore.key_of(lesions, spec), lesions, noted)
        return len(asked)

    assert write(chosen) == 14
    assert write(chosen) == 0
    assert write(chosen[:5]) == 10
    assert write(chosen[:5][::-1]) == 10
    assert write(chosen[:5][::-1], SPEC.model_copy(update={"mean": (0.4, 0.5, 0.5)})) == 10
    assert write(chosen) == 14
    Image.fromarray(np.random.default_rng(9).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(chosen[2].dermoscopic)
    assert write(chosen) == 14
    os.utime(chosen[2].dermoscopic, ns=(1, 1))
    assert write(chosen) == 14
    (tmp_path / "frames.npy.json").write_text("{", encoding="utf-8")
    assert write(chosen) == 14
    os.truncate(path, path.stat().st_size - 1)
    assert write(chosen) == 14
    assert write(chosen) == 0


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda _: np.full((32, 32, 3), 7, np.uint8), r"the clinical image of calibration pair 0 \(L0\) is one flat"),
        (lambda _: np.full((32, 32, 3), np.nan), "calibration pair 0 .* has a wrong dtype: got 'float64'"),
        (lambda p: ready(p)[:20], None),
        (lambda p: ready(p)[: 20 + ("0-" in p.name)], "calibration pair 1 .L1. has a wrong shape"),
        (lambda p: ready(p)[: 20 + ("cli" in p.name)], "the images of lesion 'L0' have two sizes"),
        (lambda p: ready(p.with_name("absent.png")), "no such image"),
    ],
)
def test_unfit_frames_leave_no_store(pairs, tmp_path, made, message):
    path, chosen = tmp_path / "frames.npy", paired(pairs)
    if message is None:
        assert FrameStore.write(path, "k", chosen, made)[0].shape == (2, 20, 32, 3)
        return
    with pytest.raises(EdgeskinError, match=message):
        FrameStore.write(path, "k", chosen, made)
    assert not path.exists()


def test_no_pairs_and_absent_files_are_named(pairs, tmp_path):
    with pytest.raises(EdgeskinError, match="no pairs to store"):
        FrameStore.write(tmp_path / "a.npy", "k", [], ready)
    pairs[1].dermoscopic.unlink()
    with pytest.raises(EdgeskinError, match="no such image"):
        FrameStore.key_of(pairs, SPEC)


@given(data=st.data())
def test_it_is_indexed_as_a_list_is(data, tmp_path_factory):
    count = data.draw(st.integers(1, 9))
    folder = tmp_path_factory.mktemp("store")
    held = [np.random.default_rng(i).integers(0, 256, (2, 3, 2, 3), dtype=np.uint8) for i in range(count)]
    pairs = [Pair(str(i), folder / f"{i} 1", folder / f"{i} 0", {}, i) for i in range(count)]

    def made(image: Path) -> np.ndarray:
        number, view = image.name.split()
        return held[int(number)][int(view)]

    store = FrameStore.write(folder / "s.npy", "k", pairs, made)
    part = slice(*(data.draw(st.one_of(st.none(), st.integers(-12, 12))) for _ in range(2)), data.draw(_STRIDES))
    view, expected = store[part], held[part]
    assert len(view) == len(expected)
    assert all(np.array_equal(a, b) for a, b in zip(view, expected, strict=True))
    places = data.draw(st.lists(st.integers(-count, count - 1)))
    picked = store.select(places)
    assert all(np.array_equal(a, held[i]) for a, i in zip(picked, places, strict=True))
    assert len(picked.paired) == len(places)
    for outside in (count, -count - 1):
        with pytest.raises(IndexError):
            store[outside]


_STRIDES = st.sampled_from([None, 1, 2, -1, 3])

_SLOW = """
import sys, time
from pathlib import Path
import numpy as np
from edgeskin.data.pairs import Pair
from edgeskin.quantize.store import FrameStore
folder, pause = Path(sys.argv[1]), float(sys.argv[2])
def made(image):
    with (folder / "log").open("a") as log:
        log.write(image.name + "\\n")
    time.sleep(pause)
    return np.random.default_rng(int(image.name)).integers(0, 256, (16, 16, 3), dtype=np.uint8)
pairs = [Pair(str(i), folder / str(2 * i), folder / str(2 * i + 1), {}, i) for i in range(30)]
store = FrameStore.write(folder / "s.npy", "key", pairs, made)
assert len(store) == 30
for number, frames in enumerate(store):
    drawn = np.random.default_rng(2 * number + 1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert np.array_equal(frames[0], drawn)
"""


def test_a_killed_writer_is_taken_up_after_its_last_whole_pair(tmp_path):
    command = [sys.executable, "-c", _SLOW, str(tmp_path)]
    writer = subprocess.Popen([*command, "0.02"])
    partial = None
    while partial is None or partial.stat().st_size < 5 * 2 * 16 * 16 * 3:
        assert writer.poll() is None
        time.sleep(0.005)
        partial = next(tmp_path.glob(".s.npy.*.partial"), None)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert not (tmp_path / "s.npy").exists()
    os.truncate(partial, partial.stat().st_size - 100)  # as if the kill had cut a pair in two
    before = (tmp_path / "log").read_text().splitlines()
    subprocess.run([*command, "0"], check=True)
    again = (tmp_path / "log").read_text().splitlines()[len(before) :]
    assert len(again) <= 2 * (30 - 4)  # four pairs at least were whole
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "s.npy", "s.npy.json"]


def test_two_processes_share_one_writing(tmp_path):
    command = [sys.executable, "-c", _SLOW, str(tmp_path), "0.01"]
    both = [subprocess.Popen(command) for _ in range(2)]
    assert [one.wait() for one in both] == [0, 0]
    assert len((tmp_path / "log").read_text().splitlines()) == 60
