"""Bundle -> firmware: a CMake project with the runtime's sources, the bundle, an example, a service and its sizes."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeskin import __version__, catalog, signing
from edgeskin.errors import EdgeskinError
from edgeskin.files import pretty_json, staged_dir
from edgeskin.keys import fingerprint, load_public, need_cryptography
from edgeskin.opening import Bundle, open_bundle
from edgeskin.out import note
from edgeskin.runtime import refuse_kit
from edgeskin.spec.device import Device
from edgeskin.spec.manifest import MANIFEST, SEAL, SIGNATURE, Manifest

REPORT = "size-report.json"
FORMAT = "edgeskin-embed"
LIBRARY_BUDGET = 1_500_000  # bytes, stripped; build.sh holds the library to it
# What of devices/runtime goes into a kit. Tests, fuzzers and whatever was built there stay away.
SOURCES = ("CMakeLists.txt", "include/*.h", "src/*.cpp", "src/*.h", "cmake/*.cmake", "examples/*.[ch]", "examples/*.py")
_SERVICE = "camera.c"  # becomes main.c
_CAMERA_BUFFERS = 4  # of examples/frames.h
_BYTES_A_PIXEL = {"NV12": 1.5, "YUYV": 2.0, "RGB24": 3.0}
_ANYWHERE = "this machine"  # an engine's device where no profile names it
_APT = "sudo apt-get install cmake ninja-build g++ libyuv-dev libsodium-dev nlohmann-json3-dev"
_ENGINES = {
    "openvino": "`pip install openvino` brings headers and libraries (`PYTHON=` says where), or set `OpenVINO_DIR`.",
    "onnxruntime": "unpack a release of ONNX Runtime for C, set `ONNXRUNTIME_INCLUDE_DIR` and `EDGESKIN_BACKEND_PATH`.",
    "tensorrt": "JetPack brings TensorRT; `sudo apt-get install nvidia-jetpack` its headers.",
}


@dataclass(frozen=True, slots=True)
class Kit:
    """What was written: where, and the size report as plain JSON data."""

    folder: Path
    report: dict[str, Any]


def embed(bundle: Path, device_name: str, folder: Path, *, public_key: Path | None = None, force: bool = False) -> Kit:
    """Write a CMake project that builds the firmware of a device around a bundle; equal input gives equal bytes.

    Args:
        public_key: compiled into the library, which then opens nothing that it has not signed.
        force: replace a kit that is there, with whatever was changed in it.

    Raises:
        EdgeskinError: the bundle does not verify, is a build kit, does not fit the device, is not signed by the key;
            the folder is in use; or the disk refuses.
    """
    device = catalog.device(device_name)
    opened = open_bundle(bundle)
    refuse_kit(opened)
    engines = _engines(opened.manifest, device)
    _refuse_foreign_engine(opened.manifest, device)
    key = _checked_key(bundle, public_key)
    _remark(opened.manifest)
    _refuse_folder(folder, force)
    source = catalog.runtime_dir()
    with staged_dir(folder.absolute()) as stage:
        _copy_sources(source, stage)
        _copy_bundle(opened, stage / "bundle")
        words = _words(opened, device, engines, key)
        for template in sorted((source / "kit").iterdir()):
            (stage / template.name).write_text(_filled(template, words), encoding="utf-8")
        (stage / "build.sh").chmod(0o755)
        report = _report(opened, device, stage)
        (stage / REPORT).write_text(pretty_json(report), encoding="utf-8")
        if open_bundle(stage / "bundle").sha256 != opened.sha256:
            raise EdgeskinError("the bundle changes while it is read", got=str(bundle), fix="run the command again")
        if public_key is not None:
            signing.check(stage / "bundle", public_key)
    return Kit(folder, report)


# ---- What is refused -------------------------------------------------------------------------------------------------


def _engines(manifest: Manifest, device: Device) -> tuple[str, ...]:
    """The engines that may run the bundle there, in the manifest's order."""
    spare = [other.target for other in manifest.fallback if other.graphs == "core"]  # the copy has no FP32 reference
    usable = tuple(dict.fromkeys(name for name in (manifest.target, *spare) if name in device.targets))
    if not usable:
        raise EdgeskinError(
            f"{device.title} does not run this bundle",
            got=f"target {manifest.target}",
            possible=device.targets,
            fix=f"export it for the device: edgeskin export RUN --target {device.targets[0]}"
            + (f" --device {device.name}" if device.targets[0] == "tensorrt" else ""),
        )
    if usable[0] != manifest.target:
        note(f"{device.title} does not run {manifest.target}: the bundle falls back to {usable[0]} there")
    return usable


def _refuse_foreign_engine(manifest: Manifest, device: Device) -> None:
    bound = manifest.compatibility
    if bound is None:
        return
    other_board = bound.device not in (device.name, _ANYWHERE)
    if other_board or (bound.sm, bound.arch) != (device.sm, device.arch):
        raise EdgeskinError(
            "the TensorRT engine was built on another machine",
            got=f"{bound.device}, SM {bound.sm}, {bound.arch}",
            possible=f"{device.name}, SM {device.sm or 'none'}, {device.arch}",
            fix="build the kit on this device with `edgeskin build KIT`, or pass its --device",
        )


def _checked_key(bundle: Path, public_key: Path | None) -> bytes | None:
    """The 32 bytes of the key, once they are known to have signed the bundle."""
    if public_key is None:
        return None
    need_cryptography()
    key = load_public(public_key).public_bytes_raw()
    signing.check(bundle, public_key)
    return key


def _remark(manifest: Manifest) -> None:
    if manifest.gated.status == "ungated":
        note(f"the bundle is ungated ({manifest.gated.why}): nothing shows that it is no worse than FP32")
    if manifest.phantom:
        note("the bundle was trained on drawn lesions: for tests alone")
    if any(other.graphs == "reference" for other in manifest.fallback):
        note("the kit leaves the FP32 reference out, so that the device cannot fall back to it")


def _refuse_folder(folder: Path, force: bool) -> None:
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
        return
    report = folder / REPORT
    ours = report.is_file() and not folder.is_symlink() and f'"{FORMAT}"' in report.read_text(encoding="utf-8")
    if not ours:
        raise EdgeskinError("the output exists and is no kit", got=str(folder), fix="choose another --out")
    if not force:
        raise EdgeskinError(
            "a kit is there, with whatever was changed in it", got=str(folder), fix="choose another --out, or --force"
        )


# ---- What is written -------------------------------------------------------------------------------------------------


def _copy_sources(source: Path, stage: Path) -> None:
    for pattern in SOURCES:
        found = sorted(source.glob(pattern))
        if not found:
            raise EdgeskinError(
                "the installation is incomplete", got=f"no {source / pattern}", fix="reinstall edgeskin"
            )
        for path in found:
            target = stage / "runtime" / path.relative_to(source)
            if path.name == _SERVICE:
                target = stage / "main.c"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def _copy_bundle(bundle: Bundle, target: Path) -> None:
    """What runs, without the FP32 reference: what `edgeskin pack --lean` keeps."""
    names = [name for name, entry in bundle.manifest.files.items() if entry.group == "core"]
    signature = [SIGNATURE] if bundle.path(SIGNATURE).is_file() else []
    for name in [*names, MANIFEST, SEAL, *signature]:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.path(name), target / name)


def _filled(template: Path, words: Mapping[str, str]) -> str:
    text = template.read_text(encoding="utf-8")
    for name, value in words.items():
        text = text.replace("{{" + name + "}}", value)
    assert "{{" not in text, template.name
    return text


def _toolchain(device: Device) -> str:
    for family in ("jetson", "raspberry-pi"):
        if device.name.startswith(family):
            return f"{family}.cmake"
    return "aarch64-linux-gnu.cmake" if device.arch == "aarch64" else ""


def _words(bundle: Bundle, device: Device, engines: tuple[str, ...], key: bytes | None) -> dict[str, str]:
    manifest, camera = bundle.manifest, device.camera
    open_gpu = (
        "# Close the other devices once you know which nodes the GPU needs on this release:\n"
        "# DevicePolicy=closed\n# DeviceAllow=char-video4linux rw"
    )
    signed = (
        f"asked for by the library: key {fingerprint(key)}" if key else "not asked for: `--public-key` at embedding"
    )
    gated = manifest.gated
    return {
        "title": device.title,
        "arch": device.arch,
        "engines": " ".join(engines),
        "toolchain": _toolchain(device),
        "budget": str(LIBRARY_BUDGET),
        "key": key.hex() if key else "",
        "bundle": manifest.name,
        "sha256": bundle.sha256,
        "precision": manifest.precision,
        "target": manifest.target,
        "width": str(manifest.preprocess.width),
        "height": str(manifest.preprocess.height),
        "gate": gated.status + (f": {gated.why}" if gated.why else ""),
        "signature": signed,
        "size": f"{camera.width}x{camera.height}",
        "format": "yuyv" if camera.pixel_format == "YUYV" else "nv12",
        "devices": open_gpu if "tensorrt" in engines else "DevicePolicy=closed\nDeviceAllow=char-video4linux rw",
        "apt": _APT,
        "engine": _ENGINES[engines[0]],
        "state": f"It was written for {device.title} from published figures; whether it ran there, only you know.",
    }


# ---- Sizes -----------------------------------------------------------------------------------------------------------


def _report(bundle: Bundle, device: Device, stage: Path) -> dict[str, Any]:
    """Bytes on the device and in its memory, as far as they are known before the build."""
    manifest, camera = bundle.manifest, device.camera
    files = {path.relative_to(stage / "bundle").as_posix(): path.stat().st_size for path in _files(stage / "bundle")}
    graphs = {graph.file for graph in manifest.graphs.values()}
    weights = {name.removesuffix(".xml") + ".bin" for name in graphs if name.endswith(".xml")}
    sources = [path.stat().st_size for path in (*_files(stage / "runtime"), stage / "main.c")]
    stored = sum(files.values())
    picture = int(camera.width * camera.height * _BYTES_A_PIXEL[camera.pixel_format])
    return {
        "format": FORMAT,
        "format_version": 1,
        "edgeskin": __version__,
        "device": device.name,
        "bundle": {"name": manifest.name, "sha256": bundle.sha256, "target": manifest.target, "bytes": stored},
        "bundle_files": dict(sorted(files.items())),
        "reference_left_out_bytes": sum(e.size_bytes for e in manifest.files.values() if e.group == "reference"),
        "sources": {"files": len(sources), "bytes": sum(sources)},
        "library": {"budget_bytes": LIBRARY_BUDGET, "bytes": None, "why": "build.sh prints it"},
        "storage_bytes": stored + LIBRARY_BUDGET,
        "memory": {
            "graphs_bytes": sum(files[name] for name in sorted(graphs | weights)),
            "network_frames_bytes": 2 * 3 * manifest.preprocess.width * manifest.preprocess.height,
            "camera_bytes": 2 * _CAMERA_BUFFERS * picture,
            "engine_bytes": None,
            "why": "what the engine takes is known on the device alone",
        },
    }


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
