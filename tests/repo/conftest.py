import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_LEFT_OUT = {".venv", ".git", "runs", "bundles", "demo", "dist", "build"}


def _tracked() -> list[Path]:
    """Files of the project: what git tracks, or, where there is no git, what lies here apart from products."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True)
        files = [ROOT / name for name in done.stdout.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        files = [
            path
            for path in ROOT.rglob("*")
            if not any(p in _LEFT_OUT or p.endswith(("cache", ".egg-info", "cache__")) for p in path.parts)
        ]
    return [path for path in files if path.is_file()]


@pytest.fixture(scope="session")
def tracked() -> list[Path]:
    return _tracked()
