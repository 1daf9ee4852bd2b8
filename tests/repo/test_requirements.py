"""Locked, hashed, and without a trace of where the files were compiled or fetched."""

import re
from pathlib import Path

import pytest

from edgeskin.spec.base import read_toml

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted((ROOT / "requirements").rglob("*.txt"))
# What comes from a vendor's own index, or belongs to an environment of its own.
UNLOCKED = {"tensorrt", "modelopt"}
# Written apart, so that this file does not name them itself.
HOSTS = ["pypi" + ".org", "python" + "hosted", "download.py" + "torch", "--index" + "-url", "--find" + "-links"]
MACHINE = re.compile(r"(?<![\w.~-])/(?:work|root|home/\w+|Users/\w+|tmp/w)/")


def packages(path: Path) -> dict[str, list[str]]:
    """Requirement -> the lines below it, comments aside."""
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line[0].isspace() and not line.startswith("#"):
            found[line.rstrip(" \\")] = current = []
        elif line.strip() and not line.strip().startswith("#"):
            current.append(line.strip(" \\"))
    return found


def names(path: Path) -> set[str]:
    return {re.split(r"[=\[ ;]", key)[0] for key in packages(path)}


def test_every_lock_file_is_known():
    own = [path.name for path in LOCKS if path.parent.name == "requirements"]
    assert own == ["dev.txt", "device.txt", "tensorrt-rtx.txt", "uv.txt"]
    assert {path.parent.name for path in LOCKS} == {"requirements", "tensorrt-bindings"}


@pytest.mark.parametrize("path", LOCKS, ids=lambda p: p.name)
def test_each_package_is_pinned_and_hashed(path):
    locked = packages(path)
    assert locked
    for requirement, hashes in locked.items():
        assert re.match(r"[a-z0-9-]+==[^\s;]+( ;.*)?$", requirement), requirement
        assert hashes, f"{requirement} has no hash"
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line) for line in hashes), requirement


def test_each_direct_dependency_is_locked():
    project = read_toml(ROOT / "pyproject.toml")["project"]
    extras = project["optional-dependencies"]

    def direct(*lists):
        found = {re.match(r"[A-Za-z0-9-]+", line)[0].lower() for lines in lists for line in lines}
        return found - {"edgeskin"}

    everything = direct(
        project["dependencies"], *(extras[name] for name in extras if name not in UNLOCKED | {"tensorrt-rtx"})
    )
    assert everything <= names(ROOT / "requirements" / "dev.txt")
    assert direct(extras["tensorrt-rtx"]) == names(ROOT / "requirements" / "tensorrt-rtx.txt")
    device = direct(project["dependencies"], extras["openvino"], extras["onnxruntime"])
    assert device <= names(ROOT / "requirements" / "device.txt")


def test_a_device_installs_no_training_package():
    heavy = {"torch", "torchvision", "timm", "lightning", "nncf", "onnx", "scikit-learn", "scipy", "tensorboard"}
    assert not names(ROOT / "requirements" / "device.txt") & heavy


def test_no_file_names_a_registry_or_a_machine(tracked):
    faults = []
    for path in tracked:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        faults += [f"{path.relative_to(ROOT)}: {host}" for host in HOSTS[:3] if host in text]
        if path.suffix == ".txt":
            faults += [f"{path.relative_to(ROOT)}: {option}" for option in HOSTS[3:] if option in text]
        faults += [f"{path.relative_to(ROOT)}: {match[0]}" for match in MACHINE.finditer(text)]
    assert not faults
