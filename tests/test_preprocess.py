"""Photograph -> frame, against a reference written from the definition in numpy."""

import math
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeskin.errors import EdgeskinError
from edgeskin.preprocess import crop_box, prepare, read_photo
from edgeskin.spec.preprocess import Preprocess


def spec(height=32, width=32, **more):
    return Preprocess(height=height, width=width, mean=(0.5,) * 3, std=(0.5,) * 3, **more)


def triangle(start, stop, size, available):
    """Weights [size, available] of an antialiased triangle filter that maps start..stop onto `size` pixels."""
    scale = (stop - start) / size
    support = max(scale, 1.0)
    weights = np.zeros((size, available))
    for i in range(size):
        centre = start + (i + 0.5) * scale
        low = max(0, math.floor(centre - support + 0.5))
        high = min(available, math.floor(centre + support + 0.5))
        at = np.arange(low, high)
        weights[i, low:high] = np.maximum(0, 1 - np.abs((at + 0.5 - centre) / support))
    return weights / weights.sum(axis=1, keepdims=True)


def reference(pixels, preprocess):
    """Cut, fit, block mean by the integer part of the reduction, triangle filter; float [height, width, 3]."""
    rows, columns = pixels.shape[:2]
    border = preprocess.border_px
    left, top, right, bottom = border, border, columns - border, rows - border
    if preprocess.fit == "crop":
        aspect = preprocess.width / preprocess.height
        across, down = min(right - left, (bottom - top) * aspect), min(bottom - top, (right - left) / aspect)
        left, right = (left + right - across) / 2, (left + right + across) / 2
        top, bottom = (top + bottom - down) / 2, (top + bottom + down) / 2
    plane = pixels.astype(float)
    for axis, (start, stop, size) in enumerate(((top, bottom, preprocess.height), (left, right, preprocess.width))):
        factor = int((stop - start) / size) or 1
        # Blocks start at the first pixel that the filter of the whole reduction can touch.
        support = (stop - start) / size * 0.5
        first = max(0, math.floor(start - support)) if factor > 1 else 0
        last = min(plane.shape[axis], math.ceil(stop + support)) if factor > 1 else plane.shape[axis]
        part = np.moveaxis(plane, axis, 0)[first:last]
        blocks = np.stack([part[k : k + factor].mean(axis=0) for k in range(0, len(part), factor)])
        weights = triangle((start - first) / factor, (stop - first) / factor, size, len(blocks))
        plane = np.moveaxis(np.tensordot(weights, blocks, axes=(1, 0)), 0, axis)
    return plane


def smooth(rows, columns, seed):
    """A photograph-like picture: smooth colour, edges, some noise."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    pixels = np.asarray(small.resize((columns, rows), Image.Resampling.BICUBIC)).astype(float)
    pixels[rows // 3 : rows // 2, columns // 4 : columns // 2] = 20
    return np.clip(pixels + rng.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(40, 420), st.integers(40, 420), st.integers(32, 130), st.integers(32, 130),
    st.sampled_from(["crop", "stretch"]), st.integers(0, 9), st.integers(0, 9),
)  # fmt: skip
def test_every_frame_is_within_a_grey_level_of_the_reference(rows, columns, height, width, fit, border, seed):
    preprocess = spec(height, width, fit=fit, border_px=border)
    pixels = smooth(rows, columns, seed)
    frame = prepare(pixels, preprocess)
    assert frame.dtype == np.uint8
    assert frame.shape == (height, width, 3)
    # The block mean rounds by 2/3 at most (a third of a sum of 3 n + 2 comes out as n), each pass of the filter by 1/2.
    assert np.abs(frame - reference(pixels, preprocess)).max() <= 1.7
    assert np.abs(frame - reference(pixels, preprocess)).mean() <= 0.6


@pytest.mark.parametrize("shape", [(225, 300), (300, 225), (450, 600), (1080, 1920), (192, 192), (64, 48)])
def test_common_sizes(shape):
    pixels = smooth(*shape, seed=1)
    frame = prepare(pixels, spec(192, 192))
    assert np.abs(frame - reference(pixels, spec(192, 192))).max() <= 1.6


def test_a_frame_of_the_right_size_passes_unchanged():
    pixels = smooth(48, 64, 3)
    assert np.array_equal(prepare(pixels, spec(48, 64)), pixels)


def test_the_crop_is_centred_and_the_stretch_is_whole():
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, 50:150] = 200
    assert (prepare(pixels, spec())[:, 1:-1] == 200).all()  # the filter reaches over the edge of the crop
    stretched = prepare(pixels, spec(fit="stretch"))
    assert (stretched[:, [0, -1]] == 0).all()
    assert (stretched[:, 14:18] == 200).all()


def test_the_border_leaves_no_trace():
    pixels = np.zeros((100, 100, 3), np.uint8)
    pixels[25:75, 25:75] = 90
    frame = prepare(pixels, spec(50, 50, border_px=25))
    assert (frame == 90).all()


@given(st.integers(1, 900), st.integers(1, 900), st.integers(32, 300), st.integers(32, 300))
def test_the_crop_box_lies_inside_and_has_the_aspect(width, height, rows, columns):
    left, top, right, bottom = crop_box(width, height, spec(rows, columns))
    assert 0 <= left < right <= width + 1e-9
    assert 0 <= top < bottom <= height + 1e-9
    assert (right - left) / (bottom - top) == pytest.approx(columns / rows)
    assert left + right == pytest.approx(width)
    assert top + bottom == pytest.approx(height)


def test_paths_images_and_arrays_give_the_same_frame(tmp_path):
    pixels = smooth(80, 90, 5)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = prepare(pixels, spec())
    for photo in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(pixels)):
        assert np.array_equal(prepare(photo, spec()), expected)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "LA"])
def test_other_modes_become_rgb(tmp_path, mode):
    image = Image.fromarray(smooth(60, 60, 2)).convert(mode)
    assert prepare(image, spec()).shape == (32, 32, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint16, np.int64, bool])
def test_wrong_dtypes(dtype):
    with pytest.raises(EdgeskinError, match=f"wrong image dtype: got '{np.dtype(dtype)}'; possible: uint8"):
        prepare(np.zeros((40, 40, 3), dtype), spec())


@pytest.mark.parametrize(
    "shape", [(40, 40), (40, 40, 1), (40, 40, 4), (3, 40, 40), (1, 40, 40, 3), (0, 40, 3), (40, 0, 3)]
)
def test_wrong_shapes(shape):
    with pytest.raises(EdgeskinError, match=r"wrong image shape: .*possible: \(height, width, 3\), RGB"):
        prepare(np.zeros(shape, np.uint8), spec())


def test_sixteen_bit_greys_are_refused_instead_of_clipped(tmp_path):
    Image.fromarray(np.full((40, 40), 9000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(EdgeskinError, match="wrong image depth"):
        prepare(tmp_path / "deep.png", spec())
    with pytest.raises(EdgeskinError, match="wrong image depth"):
        prepare(Image.new("F", (40, 40)), spec())


def test_missing_file_folder_and_border(tmp_path):
    with pytest.raises(EdgeskinError, match="no such image"):
        prepare(tmp_path / "nowhere.jpg", spec())
    with pytest.raises(EdgeskinError, match="unreadable image"):
        prepare(tmp_path, spec())
    with pytest.raises(EdgeskinError, match="smaller than its border: got '40x40 with border 20'"):
        prepare(np.zeros((40, 40, 3), np.uint8), spec(border_px=20))


FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")


def stored(folder: Path, kind: str) -> bytes:
    path = folder / f"whole.{kind}"
    Image.fromarray(smooth(60, 70, 4)).save(path, format=kind)
    return path.read_bytes()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6])
def test_truncated_files_are_refused(tmp_path, kind, share):
    whole = stored(tmp_path, kind)
    path = tmp_path / "cut"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(EdgeskinError, match="unreadable image"):
        read_photo(path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", FORMATS)
def test_corrupt_files_give_an_image_or_one_error(tmp_path, kind):
    """Bytes are spoilt at random: a decoder may still make sense of them, but nothing else may escape."""
    whole = stored(tmp_path, kind)
    rng = np.random.default_rng(0)
    path = tmp_path / "spoilt"
    refused = 0
    for trial in range(150):
        data = bytearray(whole)
        reach = len(data) if trial % 2 else min(200, len(data))  # headers are short: spoil them more often
        for at in rng.integers(0, reach, rng.integers(1, 12)):
            data[at] = rng.integers(256)
        if trial % 5 == 0:
            data[4:8] = struct.pack("<I", int(rng.integers(2**32)))
        path.write_bytes(data)
        try:
            image = read_photo(path)
        except EdgeskinError as error:
            refused += "\n" not in error.line()
        else:
            assert image.mode == "RGB"
    assert refused > 0


def test_an_opened_but_unread_truncated_image_is_refused(tmp_path):
    whole = stored(tmp_path, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with Image.open(tmp_path / "cut.jpg") as image, pytest.raises(EdgeskinError, match="unreadable image"):
        prepare(image, spec())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_stand_upright_as_their_exif_says(tmp_path, orientation):
    from PIL import ImageOps

    picture = np.zeros((48, 80, 3), np.uint8)
    picture[:24, :40], picture[24:, 40:] = (250, 20, 20), (20, 20, 250)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    Image.fromarray(picture).save(path, exif=exif)
    upright = read_photo(path)
    assert upright.size == ((48, 80) if orientation >= 5 else (80, 48))
    with Image.open(path) as opened:
        assert np.array_equal(np.asarray(read_photo(opened)), np.asarray(upright))
        assert np.array_equal(np.asarray(ImageOps.exif_transpose(opened)), np.asarray(upright))
    assert read_photo(upright).size == upright.size  # not turned again


@pytest.mark.parametrize(
    "damage", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01"]
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_data_spoil_no_picture(tmp_path, damage):
    Image.new("RGB", (40, 30), (9, 90, 200)).save(tmp_path / "a.jpg", exif=damage)
    assert read_photo(tmp_path / "a.jpg").size == (40, 30)
