"""The examples of the runtime: compiled as C99 and as C++, and run against a bundle that Python answers for as well."""

import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Photo

import edgeskin
from edgeskin import preprocess
from edgeskin.runtime import Result

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "devices" / "runtime"
EXAMPLES = SOURCE / "examples"
STRICT = ("-Wall", "-Wextra", "-Werror", "-pedantic")
LANGUAGES = {"c99": ("cc", "-std=c99"), "c++": ("c++", "-x", "c++")}


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    env = {**os.environ, **environment}
    return subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, env=env)


def photo(width: int, height: int, seed: int = 0, mole: float = 0.25) -> NDArray[np.uint8]:
    """A sharp brown disc on skin, nothing that the quality gate refuses."""
    y, x = np.mgrid[:height, :width]
    drawn = np.empty((height, width, 3))
    drawn[:] = (212, 168, 148)
    drawn[np.hypot(x - width / 2, y - height / 2) < mole * height] = (112, 72, 52)
    drawn += (((x // 8 + y // 8) % 2) * 24 - 12)[..., None]
    drawn += np.random.default_rng(seed).normal(0, 8, drawn.shape)
    return np.clip(drawn, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dermoscopic and a clinical image as PPM."""
    folder = tmp_path_factory.mktemp("photos")
    Photo.fromarray(photo(640, 480)).save(folder / "dermoscopic.ppm")
    Photo.fromarray(photo(801, 601, seed=1, mole=0.1)).save(folder / "clinical.ppm")
    return folder / "dermoscopic.ppm", folder / "clinical.ppm"


def python(bundle: Path, **images: object) -> Result:
    """What Python answers where it prepares frames itself: with OpenCV they may differ by one grey level."""
    with patch.object(preprocess, "_opencv", lambda: None):
        return edgeskin.load(bundle).classify(**images)


@pytest.fixture(scope="module")
def expected(tiny_openvino: Path, pair: tuple[Path, Path]) -> dict[str, dict]:
    """What Python answers, by mode."""
    return {
        "pair": python(tiny_openvino, dermoscopic=pair[0], clinical=pair[1]).to_json(),
        "dermoscopic": python(tiny_openvino, dermoscopic=pair[0]).to_json(),
    }


@pytest.fixture
def skin(binding: ModuleType, tiny_openvino: Path, runtime_library: Path, backend_path: Path) -> Iterator:
    with binding.EdgeSkin(tiny_openvino, runtime_library, backend_path=backend_path) as opened:
        opened.selftest()
        yield opened


def near(found: dict, wanted: dict) -> None:
    """The same answer as Python's: decisions equal, probabilities within 1e-3."""
    assert found["assessable"]
    assert found["predicted"] == wanted["predicted"]
    assert found["score"] == wanted["score"]
    assert found["decision"]["refer"] == wanted["decision"]["refer"]
    assert found["decision"]["probability"] == pytest.approx(wanted["decision"]["probability"], abs=1e-3)
    for task, classes in wanted["probabilities"].items():
        assert found["probabilities"][task] == pytest.approx(classes, abs=1e-3)


# ---- Compiling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.c")))
def test_an_example_compiles_without_a_warning(name: str, language: str, tmp_path: Path) -> None:
    compiler, *flags = LANGUAGES[language]
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")
    posix = [] if name == "classify.c" else ["-D_POSIX_C_SOURCE=200809L"]  # that one is plain C99
    done = run(
        compiler, *flags, *STRICT, *posix, "-I", SOURCE / "include", "-c", EXAMPLES / name, "-o", tmp_path / "made.o"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_example_in_the_header_works(
    language: str, runtime_library: Path, tiny_openvino: Path, backend_path: Path, tmp_path: Path
) -> None:
    header = (SOURCE / "include" / "edgeskin.h").read_text()
    lines = re.findall(r"^ \*     (.*)$", header, flags=re.MULTILINE)
    assert lines[0].startswith("es_model *model")
    body = "\n".join(lines).replace('"bundle"', "argv[1]")
    source = tmp_path / "example.c"
    source.write_text(
        "#include <edgeskin.h>\n#include <stdio.h>\n"
        "static uint8_t pixels[3 * 1920 * 1080];\n"
        "int main(int argc, char **argv) {\n(void)argc;\n" + body + "\nreturn 0;\n}\n"
    )
    compiler, *flags = LANGUAGES[language]
    program = tmp_path / "example"
    linked = ["-L", runtime_library.parent, "-ledgeskin", f"-Wl,-rpath,{runtime_library.parent}"]
    # The engine's folder cannot be said in the example, whose options are NULL: the loader is told.
    done = run(compiler, *flags, *STRICT, "-I", SOURCE / "include", source, "-o", program, *linked)
    assert done.returncode == 0, done.stderr
    done = run(program, tiny_openvino, LD_LIBRARY_PATH=str(backend_path))
    assert (done.returncode, done.stderr) == (0, "")  # a black frame: not assessable, so nothing is printed
    assert done.stdout == ""
    done = run(program, tmp_path, LD_LIBRARY_PATH=str(backend_path))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1


# ---- classify.c ------------------------------------------------------------------------------------------------------


def classify(build: Path, backend: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return run(build / "classify", "--backend-path", backend, *arguments)


@pytest.mark.parametrize("mode", ["pair", "dermoscopic"])
def test_classify_answers_as_python_does(
    mode: str, runtime_build: Path, backend_path: Path, tiny_openvino: Path, pair: tuple[Path, Path], expected: dict
) -> None:
    images = pair if mode == "pair" else pair[:1]
    done = classify(runtime_build, backend_path, "--json", tiny_openvino, *images)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    near(found, expected[mode])
    assert list(found["branches"]) == list(expected[mode]["branches"])
    for view, tasks in expected[mode]["branches"].items():
        for task, classes in tasks.items():
            assert found["branches"][view][task] == pytest.approx(classes, abs=1e-3)
    assert found["bundle"]["sha256"] == edgeskin.load(tiny_openvino).bundle.sha256
    assert found["selftest"]["cases"] == 4
    assert found["timings_us"]["total"] >= found["timings_us"]["infer"] > 0


def test_classify_prints_for_people(
    runtime_build: Path, backend_path: Path, tiny_openvino: Path, pair: tuple[Path, Path], expected: dict
) -> None:
    done = classify(runtime_build, backend_path, tiny_openvino, *pair)
    assert done.returncode == 0, done.stderr
    assert "4 of 4 golden cases" in done.stdout
    for task, name in expected["pair"]["predicted"].items():
        assert re.search(rf"^{task} +{name} \d\.\d+$", done.stdout, flags=re.MULTILINE)
    assert "for tests alone" in done.stdout


def test_classify_without_an_image_tests_alone(runtime_build: Path, backend_path: Path, tiny_openvino: Path) -> None:
    done = classify(runtime_build, backend_path, "--json", tiny_openvino)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == {"bundle", "selftest"}


def test_what_is_not_assessable_is_no_class(
    runtime_build: Path, backend_path: Path, tiny_openvino: Path, tmp_path: Path
) -> None:
    Photo.new("RGB", (320, 240)).save(tmp_path / "black.ppm")
    done = classify(runtime_build, backend_path, "--json", tiny_openvino, tmp_path / "black.ppm")
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert found["quality"]["dermoscopic"][0] == "empty"
    assert "predicted" not in found
    assert "not assessable" in classify(runtime_build, backend_path, tiny_openvino, tmp_path / "black.ppm").stdout


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no P6"),
        (b"P3\n1 1\n255\n0 0 0\n", "no P6"),
        (b"P6\n2 2\n65535\n" + bytes(24), "another form"),
        (b"P6\n0 2\n255\n", "another form"),
        (b"P6\n99999999999999999999 2\n255\n", "another form"),
        (b"P6\n-2 2\n255\n" + bytes(12), "another form"),
        (b"P6 # no end", "another form"),
        (b"P6\n2 2\n255\n" + bytes(11), "number of bytes"),
        (b"P6\n2 2\n255\n" + bytes(13), "number of bytes"),
        (b"P6\n16384 16384\n255\n" + bytes(13), "number of bytes"),
        (None, "no such file"),
    ],
)
def test_a_ppm_that_is_none_is_refused(
    content: bytes | None, said: str, runtime_build: Path, tiny_openvino: Path, tmp_path: Path
) -> None:
    image = tmp_path / "image.ppm"
    if content is not None:
        image.write_bytes(content)
    done = run(runtime_build / "classify", tiny_openvino, image)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_ppm_with_comments_is_read(runtime_build: Path, backend_path: Path, tiny_openvino: Path, tmp_path: Path):
    pixels = photo(64, 48)
    head = b"P6 # drawn\n# by hand\n64\t48 #wide\n255\n"
    (tmp_path / "image.ppm").write_bytes(head + pixels.tobytes())
    (tmp_path / "plain.ppm").write_bytes(b"P6\n64 48\n255\n" + pixels.tobytes())
    told = [
        json.loads(classify(runtime_build, backend_path, "--json", tiny_openvino, tmp_path / name).stdout)
        for name in ("image.ppm", "plain.ppm")
    ]
    assert told[0]["probabilities"] == told[1]["probabilities"]


@pytest.mark.parametrize(
    "arguments", [(), ("--nonsense", "x"), ("a", "b", "c", "d"), ("--key",), ("--key", "12", "bundle")]
)
def test_wrong_options_are_exit_code_2(arguments: tuple[str, ...], runtime_build: Path) -> None:
    done = run(runtime_build / "classify", *arguments)
    assert done.returncode == 2
    assert done.stderr


def test_a_bundle_without_the_right_signature_is_refused(
    runtime_build: Path, backend_path: Path, tiny_openvino: Path, tmp_path: Path
) -> None:
    from edgeskin import keys, signing

    pytest.importorskip("cryptography", reason="needs the extra sign")
    maker, other = keys.keygen(tmp_path / "maker"), keys.keygen(tmp_path / "other")
    signed = Path(shutil.copytree(tiny_openvino, tmp_path / "signed"))
    signing.sign(signed, maker.private)
    digits = {name: keys.load_public(made.public).public_bytes_raw().hex() for name, made in
              {"maker": maker, "other": other}.items()}  # fmt: skip
    assert classify(runtime_build, backend_path, "--key", digits["maker"], signed).returncode == 0
    assert "another key" in classify(runtime_build, backend_path, "--key", digits["other"], signed).stderr
    assert run(runtime_build / "classify", tiny_openvino, EDGESKIN_KEY=digits["maker"]).returncode == 2


# ---- classify.py -----------------------------------------------------------------------------------------------------


def test_the_structs_are_those_of_the_header(binding: ModuleType, tmp_path: Path) -> None:
    structs = {
        "es_image": binding.CImage,
        "es_options": binding.COptions,
        "es_model_info": binding.CModelInfo,
        "es_selftest_report": binding.CSelftestReport,
        "es_result": binding.CResult,
    }
    lines = []
    for name, mirror in structs.items():
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        lines += [
            f'printf("{name}.{field[0]} %zu %zu\\n", offsetof({name}, {field[0]}), sizeof((({name} *)0)->{field[0]}));'
            for field in mirror._fields_
        ]
    source, program = tmp_path / "sizes.c", tmp_path / "sizes"
    source.write_text("#include <edgeskin.h>\n#include <stdio.h>\nint main(void) {\n" + "\n".join(lines) + "\n}\n")
    done = run("cc", "-std=c99", "-I", SOURCE / "include", source, "-o", program)
    assert done.returncode == 0, done.stderr
    wanted = []
    for name, mirror in structs.items():
        wanted.append(f"{name} {ctypes.sizeof(mirror)}")
        for field in mirror._fields_:
            part = getattr(mirror, field[0])
            wanted.append(f"{name}.{field[0]} {part.offset} {part.size}")
    assert run(program).stdout.splitlines() == wanted
    header = (SOURCE / "include" / "edgeskin.h").read_text()
    for name, mirror in structs.items():  # no field of the header is left out
        body = re.search(rf"typedef struct {name} \{{(.*?)\}} {name};", header, flags=re.DOTALL)
        assert body
        text = re.sub(r"/\*.*?\*/", "", body[1], flags=re.DOTALL)
        assert len(re.findall(r"[;,](?![^\[]*\])", text)) == len(mirror._fields_)
    assert f"#define ES_ABI_VERSION {binding.ABI_VERSION}u" in header


@pytest.mark.parametrize("mode", ["pair", "dermoscopic"])
def test_ctypes_answers_as_python_does(mode: str, skin, pair: tuple[Path, Path], expected: dict) -> None:
    images = [np.asarray(Photo.open(path)) for path in pair]
    found = skin.classify(*(images if mode == "pair" else images[:1]))
    near(found, expected[mode])
    assert found["mode"] == mode
    for view, tasks in expected[mode]["branches"].items():
        for task, classes in tasks.items():
            assert found["branches"][view][task] == pytest.approx(classes, abs=1e-3)
    assert np.shape(found["logits"]) == (2 if mode == "pair" else 1, sum(map(len, skin.info()["tasks"].values())))


def test_every_kind_of_image_gives_the_same_answer(skin, binding: ModuleType) -> None:
    plain = photo(200, 150)
    wide = np.zeros((150, 256, 3), np.uint8)
    wide[:, :200] = plain
    padded = wide.tobytes()
    rgba = np.dstack([plain, np.full((150, 200), 7, np.uint8)])
    kinds = {
        "rows with gaps": wide[:, :200],
        "bytes": binding.Image(plain.tobytes(), 200, 150),
        "bytes with gaps": binding.Image(padded, 200, 150, stride=3 * 256),
        "without the last gap": binding.Image(padded[: -3 * 56], 200, 150, stride=3 * 256),
        "BGR": binding.Image(plain[..., ::-1].tobytes(), 200, 150, binding.BGR),
        "RGBA": binding.Image(rgba.tobytes(), 200, 150, binding.RGBA),
        "Pillow": Photo.fromarray(plain),
        "columns first": np.asfortranarray(plain),
        "turned over twice": plain[::-1][::-1],
    }
    wanted = skin.classify(plain)
    for name, image in kinds.items():
        assert skin.classify(image)["logits"] == wanted["logits"], name
    upside_down = np.ascontiguousarray(plain[::-1])
    assert skin.classify(plain[::-1])["logits"] == skin.classify(upside_down)["logits"]


def test_what_is_no_image_is_refused(skin, binding: ModuleType) -> None:
    for wrong in ("photo.jpg", np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4), np.uint8)):
        with pytest.raises(ValueError, match="possible"):
            skin.classify(wrong)
    with pytest.raises(ValueError, match="too few pixels"):
        skin.classify(binding.Image(bytes(11), 2, 2))
    with pytest.raises(ValueError, match="too few pixels"):
        skin.classify(binding.Image(bytes(64 * 64), 64, 64, binding.NV12))
    with pytest.raises(binding.EdgeSkinError) as caught:
        skin.classify(binding.Image(bytes(4096), 64, 64, binding.GREY))
    assert caught.value.status == 15  # ES_IMAGE


def test_a_refused_bundle_is_an_error_of_its_own(
    binding: ModuleType, runtime_library: Path, tiny_openvino: Path, backend_path: Path, tmp_path: Path
) -> None:
    with pytest.raises(binding.EdgeSkinError) as caught:
        binding.EdgeSkin(tmp_path, runtime_library)
    assert caught.value.status == 3  # ES_NOT_FOUND
    assert str(tmp_path) in str(caught.value)
    lines: list[tuple[int, str]] = []
    with binding.EdgeSkin(
        tiny_openvino, runtime_library, backend_path=backend_path, log=lambda level, line: lines.append((level, line))
    ) as untested:
        with pytest.raises(binding.EdgeSkinError) as caught:
            untested.classify(photo(64, 64))
        assert caught.value.status == 12  # ES_UNTESTED
    assert lines
    with pytest.raises(binding.EdgeSkinError) as caught:  # closed
        untested.selftest()
    assert caught.value.status == 1
    untested.close()


def test_a_library_of_another_abi_is_refused(binding: ModuleType, tmp_path: Path) -> None:
    source, library = tmp_path / "other.c", tmp_path / "libother.so"
    source.write_text("unsigned es_abi_version(void) { return 2; }\n")
    assert run("cc", "-shared", "-fPIC", source, "-o", library).returncode == 0
    with pytest.raises(OSError, match="got: ABI 2; possible: 1"):
        binding.load_library(library)


@pytest.mark.parametrize(
    ("size", "said"),
    [("", "of fewer bytes; possible: "), ("size_t es_result_size(void) { return 8; }", "of 8 bytes; ")],
)
def test_a_library_from_before_the_fused_head_is_refused(
    size: str, said: str, binding: ModuleType, tmp_path: Path
) -> None:
    source, library = tmp_path / "older.c", tmp_path / "libolder.so"
    source.write_text(f"#include <stddef.h>\nunsigned es_abi_version(void) {{ return 1; }}\n{size}\n")
    assert run("cc", "-shared", "-fPIC", source, "-o", library).returncode == 0
    with pytest.raises(OSError, match=rf"an older libedgeskin; got: es_result {said}.*; fix: "):
        binding.load_library(library)


@pytest.mark.parametrize("name", ["classify", "camera", "update"])
def test_a_program_refuses_an_older_library_before_it_opens_a_bundle(
    name: str, runtime_build: Path, tiny_openvino: Path, tmp_path: Path
) -> None:
    source, older = tmp_path / "older.c", tmp_path / "libolder.so"
    source.write_text("#include <edgeskin.h>\nsize_t es_result_size(void) { return offsetof(es_result, fused); }\n")
    done = run("cc", "-std=c99", "-I", SOURCE / "include", "-shared", "-fPIC", source, "-o", older)
    assert done.returncode == 0, done.stderr
    words = {"classify": [tiny_openvino], "camera": [tiny_openvino, "--file", "no"], "update": ["serve", tmp_path]}
    done = run(runtime_build / name, *words[name], LD_PRELOAD=str(older))
    assert done.returncode == 2
    assert done.stderr.startswith(f"{name}: another libedgeskin")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("pillow", [True, False])
def test_the_program_in_python(
    pillow: bool,
    runtime_library: Path,
    backend_path: Path,
    tiny_openvino: Path,
    pair: tuple[Path, Path],
    expected: dict,
) -> None:
    alone = [] if pillow else ["-I", "-S"]  # -S: without site-packages, so without Pillow
    program = [sys.executable, *alone, EXAMPLES / "classify.py", "--library", runtime_library]
    done = run(*program, "--backend-path", backend_path, "--json", tiny_openvino, *pair)
    assert done.returncode == 0, done.stderr
    near(json.loads(done.stdout), expected["pair"])
    assert run(*program, "--backend-path", backend_path, tiny_openvino, *pair).stdout.count("\n") > 5
    refused = run(*program, tiny_openvino.parent, *pair)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1


# ---- camera.c --------------------------------------------------------------------------------------------------------


def yuv(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """BT.601, limited range: Y at full size, U and V at half the width."""
    plain = rgb.astype(float)
    matrix = np.array([[65.738, 129.057, 25.064], [-37.945, -74.494, 112.439], [112.439, -94.154, -18.285]]) / 256
    planes = plain @ matrix.T + np.array([16, 128, 128])
    half = planes.reshape(rgb.shape[0], -1, 2, 3).mean(2)
    found = [planes[..., 0], half[..., 1], half[..., 2]]
    y, u, v = (np.clip(np.rint(plane), 0, 255).astype(np.uint8) for plane in found)
    return y, u, v


def as_yuyv(rgb: NDArray[np.uint8]) -> bytes:
    y, u, v = yuv(rgb)
    return np.stack([y[:, ::2], u, y[:, 1::2], v], -1).tobytes()


def as_nv12(rgb: NDArray[np.uint8]) -> bytes:
    y, u, v = yuv(rgb)
    u, v = (plane.reshape(-1, 2, plane.shape[1]).mean(1).astype(np.uint8) for plane in (u, v))
    return y.tobytes() + np.stack([u, v], -1).tobytes()


FORMATS = {"rgb": lambda rgb: rgb.tobytes(), "yuyv": as_yuyv, "nv12": as_nv12}


@pytest.mark.parametrize("form", FORMATS)
def test_the_camera_reads_a_file_of_frames(
    form: str, runtime_build: Path, backend_path: Path, tiny_openvino: Path, tmp_path: Path
) -> None:
    frames = [photo(640, 480, seed, mole) for seed, mole in enumerate((0.25, 0.4, 0.05))]
    (tmp_path / "frames").write_bytes(b"".join(FORMATS[form](frame) for frame in frames))
    wanted = [python(tiny_openvino, dermoscopic=frame) for frame in frames]
    done = run(
        runtime_build / "camera", tiny_openvino, "--file", tmp_path / "frames", "--size", "640x480", "--format", form,
        EDGESKIN_BACKEND_PATH=str(backend_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.startswith("self-test passed: 2 golden cases")
    assert [line.split()[:2] for line in rest] == [["frame", "1"], ["frame", "2"], ["frame", "3"]]
    for line, answer in zip(rest, wanted, strict=True):
        told = float(re.search(r"melanoma (\d\.\d+)", line)[1])  # type: ignore[index]
        assert told == pytest.approx(answer.decision.probability, abs=0.002 if form == "rgb" else 0.1)
        assert (" refer " in line) == answer.decision.refer


def test_two_cameras_give_a_pair(
    runtime_build: Path, backend_path: Path, tiny_openvino: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    seen, around = photo(640, 480), photo(640, 480, 1, 0.1)
    (tmp_path / "seen").write_bytes(seen.tobytes() * 2)
    (tmp_path / "around").write_bytes(around.tobytes())
    done = run(
        runtime_build / "camera", tiny_openvino, "--file", tmp_path / "seen", "--clinical-file", tmp_path / "around",
        "--size", "640x480", "--format", "rgb", "--loop", "--frames", "5", EDGESKIN_BACKEND_PATH=str(backend_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = python(tiny_openvino, dermoscopic=seen, clinical=around)
    lines = done.stdout.splitlines()[1:]
    assert len(lines) == 5
    for line in lines:
        assert f"melanoma {answer.decision.probability:.2f}" in line
        assert f"DIAG={answer.predicted['DIAG']} " in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--file", "frames"), "does not hold whole frames"),
        (("--file", "frames", "--size", "640x481", "--format", "rgb"), "does not hold whole frames"),
        (("--file", "none"), "cannot be opened"),
        (("--file", "empty"), "does not hold whole frames"),
        (("--device", "/dev/null"), "is no camera"),
        (("--device", "frames"), "is no camera"),
    ],
)
def test_a_source_without_frames_is_said_in_one_line(
    arguments: tuple[str, ...], said: str, runtime_build: Path, tiny_openvino: Path, tmp_path: Path
) -> None:
    (tmp_path / "frames").write_bytes(photo(640, 480).tobytes())
    (tmp_path / "empty").write_bytes(b"")
    words = [str(tmp_path / word) if word in ("frames", "empty", "none") else word for word in arguments]
    done = run(runtime_build / "camera", tiny_openvino, *words)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--device", "/dev/video0", "--size", "640"),
        ("--device", "/dev/video0", "--size", "640x"),
        ("--device", "/dev/video0", "--size", "0x480"),
        ("--device", "/dev/video0", "--format", "grey"),
        ("--device", "/dev/video0", "--frames", "0"),
        ("--device", "/dev/video0", "--frames", "1e3"),
        ("--device",),
        ("--device", "/dev/video0", "second-bundle"),
    ],
)
def test_the_camera_refuses_wrong_options(arguments: tuple[str, ...], runtime_build: Path) -> None:
    done = run(runtime_build / "camera", "bundle", *arguments)
    assert done.returncode == 2
    assert "usage:" in done.stderr


class Systemd:
    """A socket that hears what a service tells systemd."""

    def __init__(self, path: str) -> None:
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + path[1:] if path.startswith("@") else path)
        self._socket.settimeout(60)
        self.name = path

    def hear(self, wanted: str) -> None:
        while wanted not in self.heard:
            self.heard += self._socket.recv(4096).decode().splitlines()

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_tells_systemd_and_ends_on_a_signal(
    abstract: bool, runtime_build: Path, backend_path: Path, tiny_openvino: Path, tmp_path: Path
) -> None:
    (tmp_path / "frames").write_bytes(photo(640, 480).tobytes())
    systemd = Systemd(f"@edgeskin-test-{os.getpid()}" if abstract else str(tmp_path / "notify"))
    words = [runtime_build / "camera", tiny_openvino, "--file", tmp_path / "frames", "--size", "640x480"]
    environment = {**os.environ, "NOTIFY_SOCKET": systemd.name, "EDGESKIN_BACKEND_PATH": str(backend_path)}
    process = subprocess.Popen(
        [str(word) for word in (*words, "--format", "rgb", "--loop")],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment,
    )  # fmt: skip
    try:
        systemd.hear("WATCHDOG=1")
        assert systemd.heard[0] == "READY=1"
        process.send_signal(signal.SIGTERM)
        # It may write faster than we read, and waits then: read on until it ends.
        reader = threading.Thread(target=systemd.hear, args=("STOPPING=1",))
        reader.start()
        assert process.wait(60) == 0
        reader.join(60)
        assert systemd.heard[-1] == "STOPPING=1"
    finally:
        process.kill()
        process.communicate()
        systemd.close()


def test_a_service_whose_bundle_is_refused_is_never_ready(
    runtime_build: Path, backend_path: Path, tiny_openvino: Path, tmp_path: Path
) -> None:
    (tmp_path / "frames").write_bytes(photo(640, 480).tobytes())
    spoilt = Path(shutil.copytree(tiny_openvino, tmp_path / "spoilt"))
    graph = spoilt / "model" / "dermoscopic.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    systemd = Systemd(str(tmp_path / "notify"))
    done = run(
        runtime_build / "camera", spoilt, "--file", tmp_path / "frames", "--size", "640x480", "--format", "rgb",
        NOTIFY_SOCKET=systemd.name, EDGESKIN_BACKEND_PATH=str(backend_path),
    )  # fmt: skip
    assert done.returncode == 2
    assert "dermoscopic.onnx" in done.stderr
    systemd.hear("STOPPING=1")
    assert systemd.heard == ["STOPPING=1"]
    systemd.close()
