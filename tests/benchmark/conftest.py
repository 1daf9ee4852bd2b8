"""Recorded trees of /proc and /sys, written out where a test can change them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

TREES = Path(__file__).parent / "sysfs"


@pytest.fixture
def sysfs(tmp_path: Path) -> Callable[[str], Path]:
    """`sysfs(name)` writes the tree of that name out and gives its root."""

    def write(name: str) -> Path:
        tree = json.loads((TREES / f"{name}.json").read_text(encoding="utf-8"))
        root = tmp_path / name
        for path, text in tree["files"].items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text, encoding="utf-8")
        for path, target in tree["links"].items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).symlink_to(target)
        return root

    return write
