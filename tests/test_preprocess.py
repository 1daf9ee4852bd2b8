"""Photograph -> frame, against a reference written from the definition in numpy."""

import math
import struct
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeskin import preprocess
from edgeskin.errors import EdgeskinError
from edgeskin.preprocess import cut, prepare, read_photo
from edgeskin.spec.preprocess import Preprocess


def spec(height=32, width=32, **more):
    return Preprocess(height=height, width=width, mean=(0.5,) * 3, std=(0.5,) * 3, **more)


@pytest.fixture(params=["pillow", "opencv"], autouse=True)
def engine(request, monkeypatch):
    """Every test runs through both ways that arrays can take."""
    if request.param == "opencv":
        pytest.importorskip("cv2", reason="extra opencv is not installed")
    else:
        monkeypatch.setattr(preprocess, "_opencv", lambda: None)
    return request.param


def reference(pixels, spec):
    """The definition, in real numbers but for the halvings: float [height, width, 3]."""
    rows, columns = pixels.shape[:2]
    plane = pixels[spec.border_px : rows - spec.border_px, spec.border_px : columns - spec.border_px].astype(float)
    down, across = plane.shape[:2]
    if spec.fit == "crop":
        aspect = spec.width / spec.height
        down, across = min(down, max(1, round(across / aspect))), min(across, max(1, round(down * aspect)))
    # Halvings of both axes are means of 2 x 2 pixels, rounded half up; those of one axis alone follow.
    halvings = []
    for axis, (length, size) in enumerate(((down, spec.height), (across, spec.width))):
        times = 0
        while length >= 2 ** (times + 1) * size:
            times += 1
        start, over = (plane.shape[axis] - length) // 2, length % 2**times
        plane = np.moveaxis(np.moveaxis(plane, axis, 0)[start + over // 2 :][: length - over], 0, axis)
        halvings.append(times)
    for turn in range(max(halvings)):
        blocks = [plane]
        for axis, times in enumerate(halvings):
            if turn < times:
                blocks = [np.moveaxis(np.moveaxis(b, axis, 0)[k::2], 0, axis) for b in blocks for k in (0, 1)]
        plane = np.floor(sum(blocks) / len(blocks) + 0.5)
    for axis, size in enumerate((spec.height, spec.width)):
        length = plane.shape[axis]
        weights = np.zeros((size, length))
        for i in range(size):
            centre = min(max((i + 0.5) * length / size - 0.5, 0), length - 1)
            weights[i, math.floor(centre)] += 1 - centre % 1
            weights[i, min(math.floor(centre) + 1, length - 1)] += centre % 1
        plane = np.moveaxis(np.tensordot(weights, plane, axes=(1, axis)), 0, axis)
    return plane


def smooth(rows, columns, seed):
    """A photograph-like picture: smooth colour, edges, some noise."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    pixels = np.asarray(small.resize((columns, rows), Image.Resampling.BICUBIC)).astype(float)
    pixels[rows // 3 : rows // 2, columns // 4 : columns // 2] = 20
    return np.clip(pixels + rng.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(40, 420), st.integers(40, 420), st.integers(32, 130), st.integers(32, 130),
    st.sampled_from(["crop", "stretch"]), st.integers(0, 9), st.integers(0, 9),
)  # fmt: skip
def test_every_frame_is_within_a_grey_level_of_the_reference(rows, columns, height, width, fit, border, seed):
    wanted = spec(height, width, fit=fit, border_px=border)
    pixels = smooth(rows, columns, seed)
    frame = prepare(pixels, wanted)
    assert frame.dtype == np.uint8
    assert frame.shape == (height, width, 3)
    gap = np.abs(frame - reference(pixels, wanted))
    assert gap.max() <= 1.5  # one rounding to whole levels, and weights of 8 bits
    assert gap.mean() <= 0.4


WORST = {
    "noise": lambda r, c: np.random.default_rng(4).integers(0, 2, (r, c, 3), np.uint8) * 255,
    "chessboard": lambda r, c: np.repeat(((np.add.outer(np.arange(r), np.arange(c)) % 2) * 255)[..., None], 3, 2),
    "stripes": lambda r, c: np.broadcast_to((np.arange(c) % 3 == 0)[None, :, None] * 255, (r, c, 3)),
    "ties": lambda r, c: np.repeat((np.add.outer(np.arange(r), np.arange(c)) % 4 == 1)[..., None] * 2, 3, 2),
}


@pytest.mark.parametrize("shape", [(225, 300), (300, 225), (450, 600), (451, 603), (1080, 1920), (192, 192), (64, 48)])
@pytest.mark.parametrize("pattern", ["smooth", *WORST])
def test_common_sizes_and_worst_patterns(shape, pattern):
    pixels = smooth(*shape, seed=1) if pattern == "smooth" else WORST[pattern](*shape).astype(np.uint8)
    for size in (192, 224):
        gap = np.abs(prepare(pixels, spec(size, size)) - reference(pixels, spec(size, size)))
        assert gap.max() <= 1.5
        assert gap.mean() <= 0.5


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 700), st.integers(1, 700), st.integers(32, 300), st.integers(32, 300),
    st.sampled_from(["crop", "stretch"]), st.integers(0, 9),
)  # fmt: skip
def test_opencv_gives_the_same_frame_bit_for_bit(engine, rows, columns, height, width, fit, seed):
    if engine == "pillow":
        pytest.skip("compared once, from the side of OpenCV")
    pixels = np.random.default_rng(seed).integers(0, 256, (rows, columns, 3), np.uint8)
    fast = prepare(pixels, spec(height, width, fit=fit))
    with mock.patch.object(preprocess, "_opencv", return_value=None):
        np.testing.assert_array_equal(prepare(pixels, spec(height, width, fit=fit)), fast)


@pytest.mark.parametrize("shape", [(450, 600), (1080, 1920), (300, 300), (97, 1300), (713, 511), (3000, 4000)])
@pytest.mark.parametrize("pattern", WORST)
def test_opencv_gives_the_same_frame_of_photographs(engine, shape, pattern):
    if engine == "pillow":
        pytest.skip("compared once, from the side of OpenCV")
    pixels = WORST[pattern](*shape).astype(np.uint8)
    fast = prepare(pixels, spec(224, 224))
    with mock.patch.object(preprocess, "_opencv", return_value=None):
        np.testing.assert_array_equal(prepare(pixels, spec(224, 224)), fast)


def test_a_frame_of_the_right_size_passes_unchanged():
    pixels = smooth(48, 64, 3)
    assert np.array_equal(prepare(pixels, spec(48, 64)), pixels)


def test_the_crop_is_centred_and_the_stretch_is_whole():
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, 50:150] = 200
    assert (prepare(pixels, spec()) == 200).all()
    stretched = prepare(pixels, spec(fit="stretch"))
    assert (stretched[:, [0, -1]] == 0).all()
    assert (stretched[:, 14:18] == 200).all()


def test_the_border_leaves_no_trace():
    pixels = np.zeros((100, 100, 3), np.uint8)
    pixels[25:75, 25:75] = 90
    frame = prepare(pixels, spec(50, 50, border_px=25))
    assert (frame == 90).all()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 900), st.integers(1, 900), st.integers(32, 300), st.integers(32, 300),
    st.sampled_from(["crop", "stretch"]),
)  # fmt: skip
def test_the_cut_lies_inside_and_keeps_the_shape(width, height, rows, columns, fit):
    box = cut(width, height, spec(rows, columns, fit=fit))
    across, down = box.right - box.left, box.bottom - box.top
    assert 0 <= box.left < box.right <= width
    assert 0 <= box.top < box.bottom <= height
    assert across % 2**box.halvings_x == down % 2**box.halvings_y == 0
    assert abs(box.left - (width - box.right)) <= 2  # in the middle
    assert abs(box.top - (height - box.bottom)) <= 2
    lost_x, lost_y = 2**box.halvings_x, 2**box.halvings_y
    if fit == "crop":
        whole_x, whole_y = min(width, height * columns / rows), min(height, width * rows / columns)
    else:
        whole_x, whole_y = width, height
    assert whole_x - lost_x <= across <= whole_x + 1
    assert whole_y - lost_y <= down <= whole_y + 1
    assert (across >> box.halvings_x) < 2 * columns
    assert (down >> box.halvings_y) < 2 * rows


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
