"""The firmware's project around a bundle: what goes into it, what is refused, and that one command builds it."""

import importlib.util
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgeskin import catalog, cli
from edgeskin.embed import LIBRARY_BUDGET, REPORT, SOURCES, embed
from edgeskin.errors import EdgeskinError
from edgeskin.files import pretty_json, sha256_bytes, sha256_file
from edgeskin.opening import open_bundle

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "tests" / "golden" / "tiny-onnxruntime"
BOUND = {"device": "jetson-orin-nano", "arch": "aarch64", "sm": "8.7", "tensorrt": "10.3.0"}


def seal(bundle: Path, **changes: object) -> Path:
    """A bundle with other fields in its manifest; None drops one."""
    plain = json.loads((bundle / "manifest.json").read_text()) | changes
    text = pretty_json({name: value for name, value in plain.items() if value is not None})
    (bundle / "manifest.json").write_text(text)
    (bundle / "manifest.sha256").write_text(f"{sha256_bytes(text.encode())}  manifest.json\n")
    return bundle


def bundle_for(target: str, folder: Path, **changes: object) -> Path:
    """The tiny bundle as one for another target."""
    recipe = catalog.recipe(f"{target}-int8").to_json()
    return seal(Path(shutil.copytree(TINY, folder)), target=target, recipe=recipe, **changes)


def contents(folder: Path) -> dict[str, tuple[bytes, bool]]:
    """Every file with its bytes, and whether it may be executed."""
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), bool(path.stat().st_mode & stat.S_IXUSR))
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kits") / "firmware"
    embed(TINY, "raspberry-pi-5", folder)
    return folder


# ---- What is in it ---------------------------------------------------------------------------------------------------


def test_the_project_has_its_parts(kit: Path) -> None:
    assert sorted(path.name for path in kit.iterdir()) == [
        "CMakeLists.txt",
        "README.md",
        "build.sh",
        "bundle",
        "edgeskin.service.in",
        "main.c",
        "runtime",
        "size-report.json",
    ]
    source = catalog.runtime_dir()
    for pattern in SOURCES:
        for path in source.glob(pattern):
            copied = kit / "main.c" if path.name == "camera.c" else kit / "runtime" / path.relative_to(source)
            assert copied.read_bytes() == path.read_bytes()
    assert not {"tests", "fuzz", "cross", "kit", "build"} & {path.name for path in (kit / "runtime").iterdir()}
    assert not (kit / "runtime" / "examples" / "camera.c").exists()
    for name, (data, executable) in contents(kit).items():
        assert executable == (name == "build.sh"), name
        assert b"{{" not in data or name.endswith((".npz", ".onnx", ".json", ".cpp")), name


def test_the_bundle_in_it_is_whole_but_for_the_reference(kit: Path) -> None:
    inside, outside = open_bundle(kit / "bundle"), open_bundle(TINY)
    assert inside.lean
    assert inside.sha256 == outside.sha256
    assert not (kit / "bundle" / "reference").exists()


def test_sizes_are_those_of_the_files(kit: Path) -> None:
    report = json.loads((kit / REPORT).read_text())
    sizes = {name.removeprefix("bundle/"): len(data) for name, (data, _) in contents(kit).items() if "bundle/" in name}
    assert report["bundle_files"] == sizes
    assert report["bundle"]["bytes"] == sum(sizes.values())
    assert report["storage_bytes"] == sum(sizes.values()) + LIBRARY_BUDGET
    assert report["memory"]["graphs_bytes"] == sizes["model/pair.onnx"] + sizes["model/dermoscopic.onnx"]
    assert report["memory"]["network_frames_bytes"] == 2 * 32 * 32 * 3
    camera = catalog.device("raspberry-pi-5").camera
    assert camera.pixel_format == "NV12"
    assert report["memory"]["camera_bytes"] == 2 * 4 * camera.width * camera.height * 3 // 2
    assert report["library"]["bytes"] is None  # nothing was built yet
    runtime = [path for path in (kit / "runtime").rglob("*") if path.is_file()]
    assert report["sources"]["files"] == len(runtime) + 1
    assert report["sources"]["bytes"] == sum(path.stat().st_size for path in (*runtime, kit / "main.c"))


def test_the_same_input_gives_the_same_bytes(kit: Path, tmp_path: Path) -> None:
    packed = tmp_path / "tiny.zip"
    done = CliRunner().invoke(cli.app, ["pack", str(TINY), "--out", str(packed)])
    assert done.exit_code == 0, done.output
    embed(packed, "raspberry-pi-5", tmp_path / "again")
    assert contents(tmp_path / "again") == contents(kit)


@pytest.mark.parametrize(
    ("device", "target", "arch", "toolchain"),
    [
        ("jetson-orin-nano", "onnxruntime", "aarch64", "jetson.cmake"),
        ("raspberry-pi-5", "openvino", "aarch64", "raspberry-pi.cmake"),
        ("imx8m-plus", "onnxruntime", "aarch64", "aarch64-linux-gnu.cmake"),
        ("generic-x86", "openvino", "x86_64", ""),
    ],
)
def test_a_device_has_its_toolchain(device: str, target: str, arch: str, toolchain: str, tmp_path: Path) -> None:
    embed(bundle_for(target, tmp_path / "bundle"), device, tmp_path / "out")
    script = (tmp_path / "out" / "build.sh").read_text()
    assert f"\narch={arch}\n" in script
    assert f'\nengines="{target}"\n' in script
    assert f"\ntoolchain=runtime/cmake/{toolchain}\n" in script
    assert not toolchain or (tmp_path / "out" / "runtime" / "cmake" / toolchain).is_file()


def test_the_service_keeps_to_itself(kit: Path) -> None:
    unit = (kit / "edgeskin.service.in").read_text()
    for line in (
        "Type=notify",
        "WatchdogSec=30",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "DeviceAllow=char-video4linux rw",
        "ReadOnlyPaths=@CMAKE_INSTALL_PREFIX@",
        "RestartPreventExitStatus=2",
    ):
        assert f"\n{line}\n" in unit


def test_a_gpu_is_not_closed_off_by_guess(tmp_path: Path) -> None:
    engine = bundle_for("tensorrt", tmp_path / "bundle", compatibility=BOUND)
    embed(engine, "jetson-orin-nano", tmp_path / "out")
    assert "\nDevicePolicy" not in (tmp_path / "out" / "edgeskin.service.in").read_text()


# ---- What is refused -------------------------------------------------------------------------------------------------


def refused(bundle: Path, device: str, out: Path, **options: object) -> str:
    with pytest.raises(EdgeskinError) as caught:
        embed(bundle, device, out, **options)  # type: ignore[arg-type]
    assert not [path for path in out.parent.iterdir() if path.name.startswith(f".{out.name}")]
    return str(caught.value)


def test_a_build_kit_is_no_bundle_yet(tmp_path: Path) -> None:
    unbuilt = bundle_for("tensorrt", tmp_path / "bundle", compatibility=BOUND, stage="kit")
    assert "edgeskin build" in refused(unbuilt, "jetson-orin-nano", tmp_path / "out")


def test_a_device_that_does_not_run_the_target(tmp_path: Path) -> None:
    told = refused(bundle_for("openvino", tmp_path / "bundle"), "imx8m-plus", tmp_path / "out")
    assert "possible: onnxruntime" in told
    assert "--target onnxruntime" in told


def test_a_fall_back_counts_if_its_graphs_are_in_the_kit(tmp_path: Path, capsys) -> None:
    spare = bundle_for("openvino", tmp_path / "core", fallback=[{"target": "onnxruntime", "graphs": "core"}])
    embed(spare, "imx8m-plus", tmp_path / "out")
    assert "falls back to onnxruntime" in capsys.readouterr().err
    assert '\nengines="onnxruntime"\n' in (tmp_path / "out" / "build.sh").read_text()
    reference = bundle_for("openvino", tmp_path / "fp32", fallback=[{"target": "onnxruntime", "graphs": "reference"}])
    assert "does not run" in refused(reference, "imx8m-plus", tmp_path / "no")


@pytest.mark.parametrize(
    ("bound", "device"),
    [(BOUND, "jetson-orin-nx"), (BOUND, "jetson-thor"), ({**BOUND, "device": "this machine"}, "jetson-thor")],
)
def test_an_engine_of_another_machine(bound: dict[str, str], device: str, tmp_path: Path) -> None:
    engine = bundle_for("tensorrt", tmp_path / "bundle", compatibility=bound)
    assert "was built on another machine" in refused(engine, device, tmp_path / "out")


def test_what_is_not_shown_to_be_good_is_said(tmp_path: Path, capsys) -> None:
    embed(TINY, "generic-x86", tmp_path / "out")
    said = capsys.readouterr().err
    assert "ungated" in said
    assert "drawn lesions" in said
    passed = bundle_for("openvino", tmp_path / "bundle", gated={"status": "passed"}, phantom=False)
    embed(passed, "generic-x86", tmp_path / "passed")
    assert capsys.readouterr().err == ""


def test_a_damaged_bundle(tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(TINY, tmp_path / "bundle"))
    (damaged / "lesions.json").write_text("{}")
    assert "tampered" in refused(damaged, "generic-x86", tmp_path / "out")


def test_a_folder_in_use(tmp_path: Path) -> None:
    other = tmp_path / "mine"
    other.mkdir()
    (other / "letter.txt").write_text("dear all")
    for force in (False, True):  # nothing forces a stranger's folder away
        assert "is no kit" in refused(TINY, "generic-x86", other, force=force)
    assert (other / "letter.txt").read_text() == "dear all"
    (tmp_path / "link").symlink_to(other)
    assert "is no kit" in refused(TINY, "generic-x86", tmp_path / "link", force=True)
    assert "is no kit" in refused(TINY, "generic-x86", other / "letter.txt", force=True)


def test_a_kit_that_is_there_is_replaced_only_by_force(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is free
    embed(TINY, "generic-x86", out)
    (out / "main.c").write_text("changed")
    assert "--force" in refused(TINY, "generic-x86", out)
    assert (out / "main.c").read_text() == "changed"
    embed(TINY, "generic-x86", out, force=True)
    assert (out / "main.c").read_bytes() == (catalog.runtime_dir() / "examples" / "camera.c").read_bytes()


def test_an_error_leaves_the_old_kit(tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "out"
    embed(TINY, "generic-x86", out)
    before = contents(out)
    monkeypatch.setattr("edgeskin.embed._report", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        embed(TINY, "generic-x86", out, force=True)
    assert contents(out) == before


# ---- Signatures ------------------------------------------------------------------------------------------------------


def test_a_key_is_compiled_in_where_it_has_signed(tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="needs the extra sign")
    from edgeskin import keys, signing

    maker, other = keys.keygen(tmp_path / "maker"), keys.keygen(tmp_path / "other")
    bundle = Path(shutil.copytree(TINY, tmp_path / "bundle"))
    assert "not signed" in refused(bundle, "generic-x86", tmp_path / "out", public_key=maker.public)
    signing.sign(bundle, maker.private)
    assert "another key" in refused(bundle, "generic-x86", tmp_path / "out", public_key=other.public)
    embed(bundle, "generic-x86", tmp_path / "out", public_key=maker.public)
    signing.check(tmp_path / "out" / "bundle", maker.public)
    digits = keys.load_public(maker.public).public_bytes_raw().hex()
    assert f'set(EDGESKIN_PUBLIC_KEY "{digits}" CACHE' in (tmp_path / "out" / "CMakeLists.txt").read_text()
    assert maker.fingerprint in (tmp_path / "out" / "README.md").read_text()
    embed(bundle, "generic-x86", tmp_path / "unasked")  # a signature stays, also where nobody asks for it
    assert (tmp_path / "unasked" / "bundle" / "manifest.sig").is_file()
    assert 'set(EDGESKIN_PUBLIC_KEY "" CACHE' in (tmp_path / "unasked" / "CMakeLists.txt").read_text()


# ---- The command -----------------------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path) -> None:
    words = ["embed", str(TINY), "--device", "generic-x86", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0, done.output
    assert "bundle/model/pair.onnx" in done.stdout
    assert f"{tmp_path / 'out'}/build.sh" in done.stdout
    done = CliRunner().invoke(cli.app, [*words, "--force", "--json"])
    assert json.loads(done.stdout) == json.loads((tmp_path / "out" / REPORT).read_text())


# ---- One command builds it -------------------------------------------------------------------------------------------


def build(kit: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "OpenVINO_DIR")}
    return subprocess.run(
        [str(kit / "build.sh")], capture_output=True, text=True, timeout=1200, check=False, env={**env, **environment}
    )


def native() -> str:
    """The device that stands for this machine."""
    return {"x86_64": "generic-x86", "aarch64": "generic-aarch64"}[os.uname().machine]


@pytest.fixture
def openvino_bundle(tmp_path: Path) -> Path:
    return bundle_for("openvino", tmp_path / "bundle")


def need_a_compiler() -> None:
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    for header in ("sodium.h", "libyuv.h", "nlohmann/json.hpp"):
        if not (Path("/usr/include") / header).is_file():
            pytest.skip(f"needs {header}; apt-get install libyuv-dev libsodium-dev nlohmann-json3-dev")
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("needs the package openvino")


def test_build_sh_says_in_one_line_what_is_missing(openvino_bundle: Path, tmp_path: Path) -> None:
    embed(openvino_bundle, native(), tmp_path / "out")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("dirname", "uname", "sh"):
        (tools / name).symlink_to(shutil.which(name))  # type: ignore[arg-type]
    done = build(tmp_path / "out", PATH=str(tools))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "fix: sudo apt-get install cmake ninja-build g++ libsodium-dev libyuv-dev" in done.stderr


def test_build_sh_says_where_an_engine_comes_from(openvino_bundle: Path, tmp_path: Path) -> None:
    need_a_compiler()
    embed(openvino_bundle, native(), tmp_path / "out")
    done = build(tmp_path / "out", PYTHON="/nonexistent/python", PATH=os.defpath + ":/usr/bin")
    if done.returncode == 0:
        pytest.skip("this system has an OpenVINO of its own")
    assert done.returncode == 2
    assert "no engine that this bundle may use" in done.stderr.splitlines()[-1]
    assert "pip install openvino" in done.stderr.splitlines()[-1]


def test_build_sh_builds_elsewhere_only_with_a_sysroot(openvino_bundle: Path, tmp_path: Path) -> None:
    foreign = "raspberry-pi-5" if os.uname().machine == "x86_64" else "generic-x86"
    embed(openvino_bundle, foreign, tmp_path / "out")
    done = build(tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "this firmware is for" in done.stderr


@pytest.mark.slow
def test_one_command_builds_the_firmware_and_it_runs(openvino_bundle: Path, tmp_path: Path) -> None:
    need_a_compiler()
    pytest.importorskip("cryptography", reason="needs the extra sign")
    from edgeskin import keys, signing

    maker = keys.keygen(tmp_path / "maker")
    signing.sign(openvino_bundle, maker.private)
    kit = tmp_path / "out"
    embed(openvino_bundle, native(), kit, public_key=maker.public)
    done = build(kit, PYTHON=sys.executable, PREFIX="/opt/derm", JOBS="2")
    assert done.returncode == 0, done.stdout + done.stderr
    size = re.search(r"library, stripped: +(\d+) bytes", done.stdout)
    assert size
    assert 100_000 < int(size[1]) <= LIBRARY_BUDGET
    assert "4 of 4 golden cases" in done.stdout
    laid = kit / "image" / "opt" / "derm"
    assert sha256_file(laid / "share/edgeskin/bundle/manifest.json") == open_bundle(kit / "bundle").sha256
    unit = (laid / "lib/systemd/system/edgeskin.service").read_text()
    assert "\nExecStart=/opt/derm/bin/edgeskin-camera ${EDGESKIN_BUNDLE} $EDGESKIN_ARGUMENTS\n" in unit
    assert "@" not in unit
    backend = re.search(r'"EDGESKIN_BACKEND_PATH=(.*)"', unit)
    assert backend
    # What the unit starts, where it starts it, with frames of a file instead of a camera.
    (tmp_path / "frames").write_bytes(bytes(range(256)) * (64 * 48 * 3 // 256))
    ran = subprocess.run(
        [str(laid / "bin/edgeskin-camera"), str(laid / "share/edgeskin/bundle"), "--file", str(tmp_path / "frames"),
         "--size", "64x48", "--format", "rgb"],
        capture_output=True, text=True, timeout=120, check=False, env={"EDGESKIN_BACKEND_PATH": backend[1]},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "frame 1" in ran.stdout
    # The key is in the library: unsigned is refused, whoever asks.
    (laid / "share/edgeskin/bundle/manifest.sig").unlink()
    ran = subprocess.run(
        [str(laid / "bin/edgeskin-classify"), str(laid / "share/edgeskin/bundle")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ran.returncode == 2
    assert "not signed" in ran.stderr
    if shutil.which("systemd-analyze"):
        told = subprocess.run(
            ["systemd-analyze", "verify", str(laid / "lib/systemd/system/edgeskin.service")],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert "Unknown" not in told.stderr
    again = build(kit, PYTHON=sys.executable, PREFIX="/opt/derm")  # nothing to do, and the same
    assert again.returncode == 0, again.stderr
    assert (laid / "share/edgeskin/bundle/manifest.sig").is_file()
