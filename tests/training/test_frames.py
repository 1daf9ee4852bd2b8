import dataclasses
import os
import platform
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from edgeskin.data.pairs import Pair
from edgeskin.errors import EdgeskinError
from edgeskin.preprocess import prepare
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.train import TrainSpec
from edgeskin.training import frames as module
from edgeskin.training.frames import ControlPairs, EpochSampler, TrainingPairs, label_array, size_at, stored_frames

SPEC = TrainSpec(epochs=4, size=64, start_size=32, seed=5)
PREPROCESS = Preprocess(height=36, width=36, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture
def stored() -> np.ndarray:
    """Six pairs of smooth colour fields [6, 2, 73, 73, 3]."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (12, 5, 5, 3), dtype=np.uint8)
    large = [np.asarray(Image.fromarray(s).resize((73, 73), Image.Resampling.BICUBIC)) for s in small]
    return np.stack(large).reshape(6, 2, 73, 73, 3)


@pytest.fixture
def pairs(tmp_path) -> list[Pair]:
    """Four lesions in files; the third without clinical image."""
    found = []
    for k in range(4):
        rng = np.random.default_rng(k)
        files = [tmp_path / f"{k}-{kind}.png" for kind in ("clinical", "dermoscopic")]
        for file in files:
            Image.fromarray(rng.integers(0, 256, (50, 60, 3), dtype=np.uint8)).save(file)
        labels = {"DIAG": k - 1}
        found.append(Pair(f"lesion-{k}", files[1], None if k == 2 else files[0], labels, row=k))
    return found


def dataset(stored, spec=SPEC, **options) -> TrainingPairs:
    spec = spec.model_copy(update=options)
    return TrainingPairs(stored, [True] * len(stored), np.arange(len(stored))[:, None], spec)


def test_size_grows_and_arrives():
    assert [size_at(e, SPEC) for e in range(4)] == [32, 32, 64, 64]
    odd = TrainSpec(epochs=5, size=100, start_size=64)  # 100 is no multiple of 32
    assert [size_at(e, odd) for e in range(5)] == [64, 64, 96, 100, 100]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(32, 400), st.integers(32, 400))
def test_sizes_never_shrink_nor_pass_the_last(epochs, size, start):
    spec = TrainSpec(epochs=epochs, size=size, start_size=start)
    sizes = [size_at(e, spec) for e in range(epochs)]
    assert sizes == sorted(sizes)
    assert all(32 <= s <= size for s in sizes)
    if epochs > 2:
        assert sizes[-1] == min(size, spec.train_size)


def test_both_images_of_a_pair_get_the_same_geometry(stored, monkeypatch):
    """Equal images stay equal when colours are left alone, through crop, flip and turn."""
    monkeypatch.setattr(module, "jitter", lambda image: image)
    twins = np.repeat(stored[:, :1], 2, axis=1)
    items = dataset(twins)
    seen = set()
    for key in range(4 * len(twins)):
        frame, _, _ = items[key]
        assert torch.equal(frame[0], frame[1])
        assert not torch.equal(frame[0], torch.from_numpy(twins[key % 6, 0][: frame.shape[1], : frame.shape[2]].copy()))
        seen.add(frame.numpy().tobytes())
    assert len(seen) == 4 * len(twins)  # and each item of each epoch gets its own


def test_each_image_gets_a_geometry_of_its_own_where_that_is_asked(stored, monkeypatch):
    """Two equal images come out unlike, each as the pair's would with those draws; an item stays the same item."""
    monkeypatch.setattr(module, "jitter", lambda image: image)
    twins = np.repeat(stored[:, :1], 2, axis=1)
    items, again = dataset(twins, geometry="each"), dataset(twins, geometry="each")
    unlike = 0
    for key in range(4 * len(twins)):
        frame, _, _ = items[key]
        unlike += int(not torch.equal(frame[0], frame[1]))
        assert torch.equal(frame, again[key][0])
        # The clinical image is drawn first, with the draws that a pair with one geometry has.
        assert torch.equal(frame[0], dataset(twins)[key][0][0])
    assert unlike == 4 * len(twins)


def test_colours_vary_image_by_image(stored):
    twins = np.repeat(stored[:, :1], 2, axis=1)
    frame, _, _ = dataset(twins)[0]
    assert not torch.equal(frame[0], frame[1])


@pytest.mark.parametrize("side", [33, 192])
def test_colours_are_those_of_torchvision(side):
    """The same draws and the same bytes, on noise, on a flat image, and at both ends of the range."""
    generator = torch.Generator().manual_seed(side)
    noise = torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=generator)
    flat = torch.tensor([250, 3, 128], dtype=torch.uint8).view(3, 1, 1).expand(3, side, side)
    changed = 0
    for seed in range(40):
        for image in (noise, noise.transpose(1, 2), flat, torch.full_like(noise, 255)):
            torch.manual_seed(seed)
            expected = module._JITTER(image)
            after = torch.rand(3)
            torch.manual_seed(seed)
            found = module.jitter(image)
            assert torch.equal(found, expected)
            assert torch.equal(torch.rand(3), after)
            changed += int(not torch.equal(found, image))
    assert changed > 100


def test_all_eight_turns_and_flips_occur(monkeypatch):
    """A frame whose corners differ, never cropped: each of its eight positions comes up."""
    monkeypatch.setattr(module, "jitter", lambda image: image)
    monkeypatch.setattr(module.v2, "RandomResizedCrop", lambda size, **_: module.v2.Resize(size))
    corners = np.zeros((1, 2, 32, 32, 3), np.uint8)
    corners[..., :16, :16, 0], corners[..., :16, 16:, 1] = 200, 200
    items = TrainingPairs(corners, [True], np.zeros((1, 1), np.int64), SPEC.model_copy(update={"start_size": 64}))
    seen = {items[key][0].numpy().tobytes() for key in range(100)}
    assert len(seen) == 8


def test_randomness_depends_on_seed_epoch_and_index_alone(stored):
    first, again = dataset(stored), dataset(stored)
    torch.manual_seed(1)
    one = first[3]
    torch.manual_seed(2)
    _ = again[5], again[9]
    same = again[3]
    assert torch.equal(one[0], same[0])
    assert not torch.equal(one[0], first[3 + len(stored)][0][:, :32, :32])
    other = dataset(stored, SPEC.model_copy(update={"seed": 6}))
    assert not torch.equal(one[0], other[3][0])


def test_drawing_items_leaves_the_generator_alone(stored):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    _ = dataset(stored)[0]
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(stored, workers):
    def batches(count):
        sampler = EpochSampler(len(stored), SPEC.seed)
        found = []
        for epoch in (1, 2):
            sampler.set_epoch(epoch)
            found += list(DataLoader(dataset(stored), batch_size=2, sampler=sampler, num_workers=count))
        return found

    for alone, helped in zip(batches(0), batches(workers), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))


def test_items(stored):
    frame, has_clinical, label = dataset(stored)[6 * 2 + 4]  # epoch 2, index 4
    assert frame.shape == (2, 64, 64, 3)
    assert frame.dtype == torch.uint8
    assert has_clinical is True
    assert label.tolist() == [4]
    assert dataset(stored)[4][0].shape == (2, 32, 32, 3)


def test_sampler_carries_the_epoch():
    sampler = EpochSampler(7, seed=1)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        keys = list(sampler)
        assert sorted(keys) == list(range(7 * epoch, 7 * epoch + 7))
        assert list(sampler) == keys
        orders.append([k - 7 * epoch for k in keys])
    assert orders[0] != orders[1] != orders[2]
    assert len(sampler) == 7


def test_control_pairs_are_plain(stored):
    items = ControlPairs(stored, [True, False] * 3, np.arange(6)[:, None])
    frame, has_clinical, label = items[3]
    assert np.array_equal(frame.numpy(), stored[3])
    assert (has_clinical, label.tolist()) == (False, [3])


def test_stored_frames_are_prepared_frames(pairs, tmp_path):
    found = stored_frames(pairs, PREPROCESS, tmp_path / "cache", "decoding")
    assert found.shape == (4, 2, 36, 36, 3)
    for index, pair in enumerate(pairs):
        assert np.array_equal(found[index, 1], prepare(pair.dermoscopic, PREPROCESS))
        expected = 0 if pair.clinical is None else prepare(pair.clinical, PREPROCESS)
        assert np.array_equal(found[index, 0], np.broadcast_to(expected, (36, 36, 3)))


def test_stored_frames_are_decoded_once(pairs, tmp_path, monkeypatch):
    first = stored_frames(pairs, PREPROCESS, tmp_path / "cache", "decoding")
    monkeypatch.setattr(module, "prepare", lambda *_: pytest.fail("decoded again"))
    assert np.array_equal(stored_frames(pairs, PREPROCESS, tmp_path / "cache", "decoding"), first)


def test_other_lesions_another_order_or_other_frames_are_stored_apart(pairs, tmp_path):
    cache = tmp_path / "cache"
    first = np.array(stored_frames(pairs, PREPROCESS, cache, "decoding"))
    turned = stored_frames(pairs[::-1], PREPROCESS, cache, "decoding")
    assert np.array_equal(turned, first[::-1])  # rows follow the pairs that were asked for
    assert len(stored_frames(pairs[:2], PREPROCESS, cache, "decoding")) == 2
    cut = PREPROCESS.model_copy(update={"border_px": 3})
    assert not np.array_equal(stored_frames(pairs, cut, cache, "decoding"), first)
    assert len(list(cache.glob("*.npy"))) == 4


def test_an_interrupted_decoding_is_not_taken_for_a_whole_one(pairs, tmp_path):
    broken = dataclasses.replace(pairs[3], dermoscopic=tmp_path / "broken.png")
    broken.dermoscopic.write_bytes(pairs[3].dermoscopic.read_bytes()[:200])
    wrong = [*pairs[:3], broken]
    with pytest.raises(EdgeskinError, match=r"broken.png"):
        stored_frames(wrong, PREPROCESS, tmp_path / "cache", "decoding")
    assert list((tmp_path / "cache").glob("*.npy")) == []
    broken.dermoscopic.write_bytes(pairs[3].dermoscopic.read_bytes())  # mended
    found = stored_frames(wrong, PREPROCESS, tmp_path / "cache", "decoding")
    assert np.array_equal(found[3, 1], prepare(pairs[3].dermoscopic, PREPROCESS))
    assert [p.suffix for p in (tmp_path / "cache").iterdir()] == [".npy"]


def test_what_a_killed_process_decoded_in_part_is_removed(pairs, tmp_path):
    """Not that of a process that lives, nor of another machine's, whose processes nobody knows here."""
    cache, here = tmp_path / "cache", platform.node()
    cache.mkdir()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    alive, away = f"frames-1.{here}.{os.getppid()}.partial", f"frames-1.elsewhere.{ended.pid}.partial"
    for name in (f"frames-0.{here}.{ended.pid}.partial", alive, away):
        (cache / name).write_bytes(b"half")
    stored_frames(pairs, PREPROCESS, cache, "decoding")
    assert {path.name for path in cache.iterdir() if path.suffix != ".npy"} == {alive, away}


def test_labels(pairs):
    from edgeskin.spec.schema import ClassSpec, Schema, Target, Task

    task = Task(name="DIAG", classes=tuple(ClassSpec(name=n) for n in ("A", "B", "C")))
    schema = Schema(name="x", tasks=(task,), target=Target(task="DIAG", positive=("B",)))
    assert label_array(pairs, schema).tolist() == [[-1], [0], [1], [2]]
    assert label_array([], schema).shape == (0, 1)
