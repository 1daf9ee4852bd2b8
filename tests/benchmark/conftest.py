"""Recorded trees of /proc and /sys, written out where a test can change them, and the boards of a fleet."""

import getpass
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeskin.benchmark import fleet, fleet_board
from edgeskin.spec.hosts import Hosts
from tests.benchmark.boards import EDGESKIN, SUITE, Board

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


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    board = Board(tmp_path_factory.mktemp("sshd"))
    yield board
    board.close()


@pytest.fixture
def suite_file(tmp_path: Path) -> str:
    path = tmp_path / "tiny.toml"
    path.write_text(fleet_board.suite_toml(SUITE), encoding="utf-8")
    return str(path)


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The folder that the boards use; what a run leaves in it is a fault."""
    folder = tmp_path / "on the board"
    folder.mkdir()
    return folder


@pytest.fixture
def entry(sshd: Board, there: Path) -> Callable[..., str]:
    def write(name: str, **changes: Any) -> str:
        fields: dict[str, Any] = dict(
            name=name, address="127.0.0.1", port=sshd.port, user=getpass.getuser(), key_file=str(sshd.home / "user"),
            command=EDGESKIN, folder=str(there), threads=1, timeout_s=120,
        )  # fmt: skip
        fields |= changes
        return "[[host]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in fields.items())

    return write


@pytest.fixture
def fleet_of(sshd: Board, tmp_path: Path) -> Callable[..., Hosts]:
    def read(*entries: str, known_hosts: Path | None = None) -> Hosts:
        path = tmp_path / "hosts.toml"
        path.write_text(f"known_hosts = {json.dumps(str(known_hosts or sshd.known_hosts))}\n" + "\n".join(entries))
        return fleet.read_hosts(path)

    return read
