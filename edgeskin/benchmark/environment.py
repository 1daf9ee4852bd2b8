"""The environment record: what a figure was measured on. Never a host name, a user or a path."""

import json
import os
import platform
import re
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from pydantic import JsonValue

from edgeskin import __version__, catalog
from edgeskin.backends import usable_cores
from edgeskin.benchmark.sensors import ROOT, read_int, read_text
from edgeskin.provenance import cpu_fields, cpu_name
from edgeskin.spec.machine import Environment
from edgeskin.tensorrt_here import l4t_release

PACKAGES = ("openvino", "onnxruntime", "numpy", "pillow", "torch")
OPENCV = ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python")
# x86-64 and aarch64 features that decide which INT8 and FP32 kernels an engine takes
FEATURES = (
    "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip


def _cpuinfo(text: str) -> tuple[str | None, tuple[str, ...]]:
    """Model name and the features that matter, of the first core."""
    fields = cpu_fields(text)
    model = cpu_name(fields) or None
    if not model and "CPU part" in fields:
        model = f"CPU implementer {fields.get('CPU implementer', '?')} part {fields['CPU part']}"
    listed = set((fields.get("flags") or fields.get("Features") or "").split())
    return model, tuple(name for name in FEATURES if name in listed)


def _meminfo(text: str) -> int | None:
    for line in text.splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return None


def _cgroup(root: Path, absent: dict[str, str]) -> tuple[float | None, int | None]:
    """CPU quota in cores and memory limit in bytes of the control group (version 2, else 1)."""
    group = root / "sys/fs/cgroup"
    quota, limit = None, None
    text, _ = read_text(group / "cpu.max")
    if text:
        allowed, period = text.split()[:2]
        if allowed == "max":
            absent["cpu_quota_cores"] = "no limit set"
        else:
            quota = int(allowed) / int(period)
    else:
        allowed_v1, _ = read_text(group / "cpu/cpu.cfs_quota_us")
        period_v1, _ = read_text(group / "cpu/cpu.cfs_period_us")
        if allowed_v1 and period_v1 and int(allowed_v1) > 0:
            quota = int(allowed_v1) / int(period_v1)
        else:
            absent["cpu_quota_cores"] = "no limit set" if allowed_v1 else "no cpu controller in /sys/fs/cgroup"
    text = read_text(group / "memory.max")[0] or read_text(group / "memory/memory.limit_in_bytes")[0]
    if text and text.isdigit() and int(text) < 1 << 60:
        limit = int(text)
    else:
        absent["memory_limit_bytes"] = "no limit set" if text else "no memory controller in /sys/fs/cgroup"
    return quota, limit


def _os_name(root: Path) -> str | None:
    text, _ = read_text(root / "etc/os-release")
    for line in (text or "").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return None


def jetpack_of(l4t: str) -> str | None:
    """The JetPack releases that bring this system, by the device profiles; None for one they do not list.

    >>> jetpack_of("36.4.3"), jetpack_of("36.3.0"), jetpack_of("1.2.3")
    ('6.1 to 6.2.2', '6.0', None)
    """
    for name in catalog.device_names():
        for release in catalog.device(name).software:
            if any(l4t == number or l4t.startswith(f"{number}.") for number in release.l4t):
                return release.jetpack
    return None


def _installed_debs(root: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Versions of these Debian packages; the name may end in anything ("libnvinfer" finds libnvinfer10)."""
    found: dict[str, str] = {}
    package = ""
    try:
        with (root / "var/lib/dpkg/status").open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("Package: "):
                    package = line[9:].strip().rstrip("0123456789")
                elif line.startswith("Version: ") and package in names:
                    found[package] = line[9:].strip()
    except OSError:
        return {}
    return found


def _jetson(root: Path, absent: dict[str, str]) -> tuple[str | None, str | None, str | None]:
    """Power mode, L4T and JetPack of a Jetson."""
    text, reason = read_text(root / "etc/nv_tegra_release")
    l4t = l4t_release(text or "") or None
    if l4t is None:
        why = f"/etc/nv_tegra_release: {reason or 'of another form'}"
        if reason == "no such file":
            why = "not a Jetson: no /etc/nv_tegra_release"
        absent.update(dict.fromkeys(("power_mode", "l4t", "jetpack"), why))
        return None, None, None
    exact = _installed_debs(root, ("nvidia-jetpack",)).get("nvidia-jetpack", "").partition("+")[0]
    jetpack = exact or jetpack_of(l4t)
    if jetpack is None:
        absent["jetpack"] = f"no release of L4T {l4t} in the device profiles"
    status, reason = read_text(root / "var/lib/nvpmodel/status")  # pmode:0002
    number = re.search(r"pmode:(\d+)", status or "")
    if number is None:
        absent["power_mode"] = f"/var/lib/nvpmodel/status: {reason or 'of another form'}"
        return None, l4t, jetpack
    table = read_text(root / "etc/nvpmodel.conf")[0] or ""
    named = re.search(rf"^\s*<\s*POWER_MODEL\s+ID={int(number[1])}\s+NAME=(\S+)\s*>", table, flags=re.MULTILINE)
    return named[1] if named else f"mode {int(number[1])}", l4t, jetpack


def _cuda(root: Path, absent: dict[str, str]) -> str | None:
    text, reason = read_text(root / "usr/local/cuda/version.json")
    if text is None:
        absent["cuda"] = f"/usr/local/cuda/version.json: {reason}"
        return None
    try:
        return str(json.loads(text)["cuda"]["version"])
    except (ValueError, KeyError, TypeError):
        absent["cuda"] = "/usr/local/cuda/version.json of another form"
        return None


def _tensorrt(root: Path, absent: dict[str, str]) -> str | None:
    """TensorRT by its Python package, else by the system's (JetPack)."""
    try:
        return metadata.version("tensorrt")
    except metadata.PackageNotFoundError:
        found = _installed_debs(root, ("libnvinfer",)).get("libnvinfer")
    if found is None:
        absent["tensorrt"] = "neither a Python package nor libnvinfer of the system"
        return None
    return re.split(r"[-+]", found)[0]


def _clock_policy(root: Path, absent: dict[str, str]) -> tuple[bool | None, bool | None, int | None]:
    """Whether two threads share a core, whether the turbo is on, and how many memory nodes there are."""
    cpu = root / "sys/devices/system/cpu"
    smt, reason = read_int(cpu / "smt/active")
    if smt is None:
        absent["smt"] = f"/sys/devices/system/cpu/smt/active: {reason}"
    no_turbo, _ = read_int(cpu / "intel_pstate/no_turbo")
    boost, _ = read_int(cpu / "cpufreq/boost")
    turbo = no_turbo == 0 if no_turbo is not None else boost == 1 if boost is not None else None
    if turbo is None:
        absent["turbo"] = "neither intel_pstate/no_turbo nor cpufreq/boost in /sys"
    nodes = len(list((root / "sys/devices/system/node").glob("node[0-9]*"))) or None
    if nodes is None:
        absent["numa_nodes"] = "no node in /sys/devices/system/node"
    return None if smt is None else smt == 1, turbo, nodes


def git_revision(folder: Path) -> tuple[str | None, str]:
    """The checkout's commit, with "+changes" if tracked files differ; or None and the reason."""
    if not (folder / ".git").exists():
        return None, "not a git checkout"
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except FileNotFoundError:
        return None, "git is not installed"
    except subprocess.SubprocessError as error:
        return None, f"git failed: {type(error).__name__}"
    return done.stdout.strip(), ""


def versions() -> dict[str, str | None]:
    """Versions of the packages that matter, read without importing them; null where not installed.

    >>> sorted(versions())[:2]
    ['edgeskin', 'numpy']
    """
    found: dict[str, str | None] = {"edgeskin": __version__}
    found |= {name: _version(name) for name in PACKAGES}
    # One module of several packages. It prepares camera frames, where it is, in less time than what stands in for it.
    found["opencv"] = next(filter(None, map(_version, OPENCV)), None)
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def record(*, threads: int, backend: dict[str, JsonValue] | None = None, root: Path = ROOT) -> Environment:
    """The environment record of this machine; `root` stands in for "/" in tests."""
    absent: dict[str, str] = {}
    text, reason = read_text(root / "proc/cpuinfo")
    model, features = _cpuinfo(text or "")
    if model is None:
        absent["cpu_model"] = f"/proc/cpuinfo: {reason or 'no model name'}"
    board, reason = read_text(root / "proc/device-tree/model")
    if board is None:
        board = read_text(root / "sys/class/dmi/id/product_name")[0]
        if board is None:
            absent["board"] = "neither a device tree nor DMI data"
    governor, reason = read_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if governor is None:
        absent["governor"] = f"no cpufreq for cpu0 in /sys: {reason}"
    memory = _meminfo(read_text(root / "proc/meminfo")[0] or "")
    if memory is None:
        absent["memory_bytes"] = "no MemTotal in /proc/meminfo"
    quota, limit = _cgroup(root, absent)
    os_name = _os_name(root)
    if os_name is None:
        absent["os"] = "no PRETTY_NAME in /etc/os-release"
    power_mode, l4t, jetpack = _jetson(root, absent)
    smt, turbo, numa_nodes = _clock_policy(root, absent)
    revision, reason = git_revision(Path(__file__).resolve().parents[2])
    if revision is None:
        absent["git_revision"] = reason
    return Environment(
        cpu_model=model,
        board=board,
        cpu_features=features,
        arch=platform.machine(),
        cores_online=os.cpu_count(),
        cores_usable=usable_cores(),
        cpu_quota_cores=quota,
        governor=governor,
        memory_bytes=memory,
        memory_limit_bytes=limit,
        os=os_name,
        kernel=platform.release(),
        python=platform.python_version(),
        versions=versions(),
        threads=threads,
        backend=backend or {},
        git_revision=revision,
        measured=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        absent=absent,
        power_mode=power_mode,
        l4t=l4t,
        jetpack=jetpack,
        cuda=_cuda(root, absent),
        tensorrt=_tensorrt(root, absent),
        smt=smt,
        turbo=turbo,
        numa_nodes=numa_nodes,
    )
