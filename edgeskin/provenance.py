"""Versions, machine and revision that travel with every artefact."""

import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

_PACKAGES = (
    "edgeskin", "torch", "timm", "lightning", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf",
    "nvidia-modelopt", "numpy",
)  # fmt: skip


def now() -> str:
    """The current time, UTC, ISO 8601 to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def versions() -> dict[str, str]:
    """Versions of the packages that shape an artefact, as far as they are installed; none is imported."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """Processor architecture and system, without host name: `x86_64 Linux`."""
    return f"{platform.machine()} {platform.system()}"


def processor(root: Path = Path("/")) -> str:
    """The processor's own name, or that of the board; "" where the system tells neither."""
    try:
        text = (root / "proc" / "cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return cpu_name(cpu_fields(text)) or platform.processor()


def cpu_fields(cpuinfo: str) -> dict[str, str]:
    """The fields of /proc/cpuinfo, of the first core where each has its own.

    >>> cpu_fields("processor : 0\\nmodel name : A\\nprocessor : 1\\nmodel name : B")
    {'processor': '0', 'model name': 'A'}
    """
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields


def cpu_name(fields: dict[str, str]) -> str:
    """What those fields call the processor, else the board; "" if they name neither."""
    return fields.get("model name") or fields.get("Model") or fields.get("Hardware") or ""


def git_revision() -> str:
    """Revision of the checkout this package runs from, "+" if changed; "" outside a checkout."""
    folder = Path(__file__).resolve().parent
    try:
        if not (folder.parent / ".git").exists():
            return ""
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
