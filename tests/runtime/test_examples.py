"""The examples of the runtime: compiled as C99 and as C++; what classifies also run against what Python answers."""

import ctypes
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image as Photo

import edgeskin
from tests.runtime.examples import photo, python, run

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "devices" / "runtime"
EXAMPLES = SOURCE / "examples"
STRICT = ("-Wall", "-Wextra", "-Werror", "-pedantic")
LANGUAGES = {"c99": ("cc", "-std=c99"), "c++": ("c++", "-x", "c++")}


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
