"""Preparing and deciding in C against the Python that trains and verifies: frames bit for bit, decisions alike."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeskin import catalog, decide, preprocess
from edgeskin.errors import EdgeskinError
from edgeskin.preprocess import cut, prepare
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.train import Fusion

HERE = Path(__file__).parent
RUNTIME = HERE.parents[1] / "devices" / "runtime"
FORMATS = {"RGB": 1, "BGR": 2, "RGBA": 3, "NV12": 5, "YUYV": 6}
BYTES = {"RGB": 3, "BGR": 3, "RGBA": 4, "NV12": 1, "YUYV": 2}
COLOURS = {"bt601": (0.299, 0.114, 16), "bt709": (0.2126, 0.0722, 16), "jpeg": (0.299, 0.114, 0)}  # Kr, Kb, black
MAX_WIDTH = 16384
ES_IMAGE = 15


class Geometry(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("width", "height", "border_px", "crop")]


class Image(ctypes.Structure):
    """es_image of edgeskin.h."""

    _fields_ = [
        ("size", ctypes.c_size_t),
        ("format", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("stride", ctypes.c_int32),
        ("pixels", ctypes.c_void_p),
        ("chroma", ctypes.c_void_p),
        ("chroma_stride", ctypes.c_int32),
        ("colour", ctypes.c_int32),
    ]


def spec(height=32, width=32, border_px=0, fit="crop"):
    return Preprocess(height=height, width=width, border_px=border_px, fit=fit, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Callable[..., Path]:
    """Compiles one of this folder's files together with the sources of preparing and deciding."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++; apt-get install g++")
    probe = subprocess.run(
        ["g++", "-E", "-x", "c++", "-"], input="#include <libyuv.h>", capture_output=True, text=True, check=False
    )
    if probe.returncode:
        pytest.skip("needs libyuv; apt-get install libyuv-dev")
    folder = tmp_path_factory.mktemp("parts")

    def build(name: str, *flags: str) -> Path:
        sources = [RUNTIME / "src" / f"{part}.cpp" for part in ("prepare", "pixels", "yuv", "text", "decide")]
        command = ["g++", "-std=c++17", "-O3", "-Wall", "-Wextra", "-Werror", *flags]
        command += [f"-I{RUNTIME / folder}" for folder in ("include", "src")]
        command += [str(path) for path in (HERE / f"{name}.cpp", *sources)]
        done = subprocess.run(
            [*command, "-lyuv", "-o", str(folder / name)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return folder / name

    return build


@pytest.fixture(scope="module")
def parts(compiled) -> ctypes.CDLL:
    library = ctypes.CDLL(str(compiled("parts", "-fPIC", "-shared")))
    library.parts_fault.restype = ctypes.c_char_p
    library.parts_preparer.restype = ctypes.c_void_p
    library.parts_preparer.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.parts_free.argtypes = [ctypes.c_void_p]
    library.parts_prepare.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    return library


@contextmanager
def preparer(parts, wanted: Geometry) -> Iterator[int]:
    made = parts.parts_preparer(ctypes.byref(wanted), MAX_WIDTH)
    yield made
    parts.parts_free(made)


def run(parts, wanted: Geometry, data, width, height, kind, stride=0, colour=0, chroma=None, chroma_stride=0):
    """The frame that C makes, or the line of its refusal."""
    image = Image(ctypes.sizeof(Image), FORMATS[kind], width, height, stride, data.ctypes.data)
    image.chroma = None if chroma is None else chroma.ctypes.data
    image.chroma_stride, image.colour = chroma_stride, colour
    frame = np.full((wanted.height, wanted.width, 3), 99, np.uint8)
    with preparer(parts, wanted) as made:
        status = parts.parts_prepare(made, MAX_WIDTH, ctypes.byref(image), frame.ctypes.data)
    if status:
        assert status == ES_IMAGE
        return parts.parts_fault().decode()
    return frame


def geometry(spec) -> Geometry:
    return Geometry(spec.width, spec.height, spec.border_px, spec.fit == "crop")


def without_opencv(pixels, spec):
    with patch.object(preprocess, "_opencv", lambda: None):
        return prepare(pixels, spec)


def laid_out(pixels, kind, gap, rng):
    """An RGB array as a camera's buffer: its bytes, `gap` bytes of noise behind each row, and the stride."""
    height, width = pixels.shape[:2]
    if kind == "BGR":
        pixels = pixels[..., ::-1]
    if kind == "RGBA":
        pixels = np.concatenate([pixels, rng.integers(0, 256, (height, width, 1), np.uint8)], axis=2)
    rows = pixels.reshape(height, -1)
    stride = rows.shape[1] + gap
    held = np.ascontiguousarray(np.hstack([rows, rng.integers(0, 256, (height, gap), np.uint8)]))
    return held, stride if gap else 0


sides = st.one_of(st.integers(1, 40), st.integers(1, 700))
specs = st.builds(
    spec,
    height=st.integers(32, 90),
    width=st.integers(32, 90),
    border_px=st.sampled_from([0, 0, 0, 1, 2, 5, 20]),
    fit=st.sampled_from(["crop", "stretch"]),
)
seeds = st.integers(0, 2**32 - 1)
strips = st.sampled_from([(1, 3000), (3000, 1), (2, 4099), (4099, 3), (31, 2048), (16384, 2)])  # height, width


@given(st.one_of(st.tuples(sides, sides), strips), specs, st.sampled_from(["RGB", "BGR", "RGBA"]), seeds, st.booleans())
def test_frames_of_rgb_are_those_of_python(parts, size, spec, kind, seed, gaps):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (*size, 3), np.uint8)
    held, stride = laid_out(pixels, kind, int(rng.integers(1, 70)) if gaps else 0, rng)
    found = run(parts, geometry(spec), held, size[1], size[0], kind, stride)
    try:
        expected = without_opencv(pixels, spec)
    except EdgeskinError:
        assert isinstance(found, str)
        got = f"got {size[1]}x{size[0]} with border {spec.border_px}"
        assert found.startswith(f"the image is smaller than its border: {got}; fix: ")
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [(1080, 1920), (1944, 2592), (719, 1281), (3000, 4000)])
@pytest.mark.parametrize("frame", [(224, 224), (260, 300)])
@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_frames_of_cameras_are_those_of_python(parts, size, frame, fit):
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    wanted = spec(*frame, border_px=7, fit=fit)
    found = run(parts, geometry(wanted), pixels, size[1], size[0], "RGB")
    np.testing.assert_array_equal(found, without_opencv(pixels, wanted))
    pytest.importorskip("cv2", reason="extra opencv is not installed")
    np.testing.assert_array_equal(found, prepare(pixels, wanted))


@given(st.integers(1, 16384), st.integers(1, 16384), specs)
@example(100, 5, spec(height=128, width=64))  # 2.5 and 3.5 pixels: a half goes to the even number
@example(100, 7, spec(height=128, width=64))
@example(16384, 1, spec(fit="stretch"))
def test_cuts_are_those_of_python(parts, width, height, spec):
    found = (ctypes.c_int * 6)()
    status = parts.parts_cut(ctypes.byref(geometry(spec)), width, height, found)
    try:
        box = cut(width, height, spec)
    except EdgeskinError:
        assert status == ES_IMAGE
    else:
        assert status == 0
        assert tuple(found) == (box.left, box.top, box.right, box.bottom, box.halvings_x, box.halvings_y)


def yuv_buffer(kind, height, width, rng, gap):
    """A camera's buffer of noise: its bytes, its stride, and each pixel's Y, U, V [height, width, 3]."""
    stride = width * BYTES[kind] + gap
    held = rng.integers(0, 256, (height * 3 // 2 if kind == "NV12" else height, stride), np.uint8)
    if kind == "NV12":
        y, pairs = held[:height, :width], held[height:, :width].reshape(height // 2, width // 2, 2)
        u, v = (pairs[..., i].repeat(2, axis=0).repeat(2, axis=1) for i in (0, 1))
    else:
        row = held[:, : 2 * width]
        y, u, v = row[:, 0::2], row[:, 1::4].repeat(2, axis=1), row[:, 3::4].repeat(2, axis=1)
    return held, stride if gap else 0, np.stack([y, u, v], axis=2)


def real_rgb(yuv, colour):
    """The colours' definition in real numbers, clipped: ITU-R BT.601-7, BT.709-6, JFIF 1.02."""
    red, blue, black = COLOURS[colour]
    luma, chroma = (255 / 219, 255 / 224) if black else (1.0, 1.0)
    y, u, v = luma * (yuv[..., 0] - float(black)), chroma * (yuv[..., 1] - 128.0), chroma * (yuv[..., 2] - 128.0)
    r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
    return np.clip(np.stack([r, (y - red * r - blue * b) / (1 - red - blue), b], axis=2), 0, 255)


@given(st.integers(1, 120), st.integers(1, 120), specs, st.sampled_from(["NV12", "YUYV"]), seeds, st.booleans())
def test_frames_of_yuv_are_those_of_its_colours(parts, rows, pairs, spec, kind, seed, gaps):
    rng = np.random.default_rng(seed)
    height, width = rows * (2 if kind == "NV12" else 1), 2 * pairs
    held, stride, yuv = yuv_buffer(kind, height, width, rng, int(rng.integers(1, 70)) if gaps else 0)
    number, colour = list(enumerate(COLOURS))[seed % 3]
    # A frame of the image's own size is the conversion by itself: nothing is cut, halved or sampled.
    whole = run(parts, Geometry(width, height, 0, 1), held, width, height, kind, stride, number)
    assert np.abs(whole - real_rgb(yuv, colour)).max() <= 0.6
    found = run(parts, geometry(spec), held, width, height, kind, stride, number)
    if isinstance(found, str):
        assert found.startswith("the image is smaller than its border")
    else:
        np.testing.assert_array_equal(found, without_opencv(whole, spec))


@pytest.mark.parametrize("colour", COLOURS)
def test_grey_of_every_matrix_stays_grey(parts, colour):
    luma = np.arange(256, dtype=np.uint8).reshape(16, 16)
    chroma = np.full((8, 16), 128, np.uint8)
    found = run(parts, Geometry(16, 16, 0, 1), luma, 16, 16, "NV12", 0, list(COLOURS).index(colour), chroma)
    assert (found == found[..., :1]).all()
    assert found[1, 0, 0] == (16 if colour == "jpeg" else 0)
    assert found[14, 11, 0] == (235 if colour == "jpeg" else 255)


def test_nothing_is_allocated(compiled):
    done = subprocess.run([compiled("allocations")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@given(st.data(), st.sampled_from(sorted(catalog.schema_names())), st.sampled_from(["pair", "dermoscopic"]), seeds)
def test_decisions_are_those_of_python(parts, data, name, mode, seed):
    schema = catalog.schema(name)
    rng = np.random.default_rng(seed)
    scale = data.draw(st.sampled_from([0.1, 1.0, 5.0, 100.0]))
    head = data.draw(st.booleans())
    third = head and mode == "pair"
    logits = (scale * rng.standard_normal((1 if mode == "dermoscopic" else 2 + head, schema.logits))).astype(np.float32)
    if data.draw(st.booleans()):
        logits[:] = np.round(logits)  # classes level with each other: the first one is taken
    fusion = {
        task.name: Fusion(
            dermoscopic_weight=float(rng.choice([0.0, 1.0, rng.random()])),
            temperature_clinical=float(np.exp(rng.normal())),
            temperature_dermoscopic=float(np.exp(rng.normal())),
            temperature_alone=float(np.exp(rng.normal())),
            fused_weight=float(rng.choice([0.0, 1.0, rng.random()])) if head else 0.0,
            temperature_fused=float(np.exp(rng.normal())) if head else 1.0,
        )
        for task in schema.tasks
    }
    branches = decide.branch_probabilities(logits, schema, fusion, mode)
    fused = decide.fuse(branches, fusion)
    predicted = {task: int(p.argmax()) for task, p in fused.items()}
    probability = float(decide.target_probability(fused, schema))
    threshold = float(rng.random())

    def ints(values):
        values = list(values)
        return (ctypes.c_int * len(values))(*values)

    numbers = [
        (f.dermoscopic_weight, f.temperature_clinical, f.temperature_dermoscopic, f.temperature_alone,
         f.fused_weight, f.temperature_fused)
        for f in fusion.values()
    ]  # fmt: skip
    whole, real = np.full(4 + len(schema.tasks), -1, np.int32), np.full(2 + 4 * schema.logits, np.nan)
    positive = schema.target_indices()
    target = [task.name for task in schema.tasks].index(schema.target.task)
    parts.parts_decide(
        ints([len(schema.tasks), target, schema.score is not None, len(positive), head]),
        ints(len(task.classes) for task in schema.tasks),
        ints(c.points for task in schema.tasks for c in task.classes),
        ints(positive),
        (ctypes.c_double * (6 * len(numbers)))(*(x for row in numbers for x in row)),
        ctypes.c_double(threshold),
        1 if mode == "pair" else 0,
        logits.ctypes.data_as(ctypes.c_void_p),
        whole.ctypes.data_as(ctypes.c_void_p),
        real.ctypes.data_as(ctypes.c_void_p),
    )
    assert real[0] == pytest.approx(probability, abs=1e-12)
    assert real[1] == threshold
    together, clinical, dermoscopic, fused_alone = real[2:].reshape(4, -1)

    def flat(tasks):
        return np.concatenate([tasks[task.name] for task in schema.tasks])

    np.testing.assert_allclose(together, flat(fused), rtol=0, atol=1e-12)
    np.testing.assert_allclose(dermoscopic, flat(branches["dermoscopic"]), rtol=0, atol=1e-12)
    np.testing.assert_allclose(clinical, flat(branches["clinical"]) if mode == "pair" else 0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(fused_alone, flat(branches["fused"]) if third else 0, rtol=0, atol=1e-12)
    assert whole[3] == third
    assert whole[1] == (schema.score is not None)
    assert whole[0] == (probability >= threshold)
    assert whole[2] == (decide.points(predicted, schema) if schema.score else 0)
    assert dict(zip(predicted, whole[4:].tolist(), strict=True)) == predicted
