"""The environment record: what a figure was measured on. Never a host name, a user or a path."""

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from pydantic import JsonValue

from edgeskin import __version__
from edgeskin.benchmark.sensors import ROOT, read_text
from edgeskin.spec.machine import Environment

PACKAGES = ("openvino", "onnxruntime", "numpy", "pillow", "torch")
# x86-64 and aarch64 features that decide which INT8 and FP32 kernels an engine takes
FEATURES = (
    "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip


def _cpuinfo(text: str) -> tuple[str | None, tuple[str, ...]]:
    """Model name and the features that matter, of the first core."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    model = fields.get("model name") or fields.get("Model") or fields.get("Hardware")
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


def usable_cores() -> int:
    """How many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


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
    )
