"""A/B update: a bad bundle leaves the old one in service, no call is refused, no kill leaves a device without one."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgeskin.opening import open_bundle

PATIENCE_S = 120


class Updater:
    """The program, and the state folder that it looks after."""

    def __init__(self, program: Path, backend: Path, state: Path) -> None:
        self.program, self.state = program, state
        self.environment = {**os.environ, "EDGESKIN_BACKEND_PATH": str(backend)}

    def start(self, *words: object) -> subprocess.Popen[str]:
        command = [str(word) for word in (self.program, *words)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=self.environment)

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        process = self.start(*words)
        out, err = process.communicate(timeout=PATIENCE_S)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def install(self, bundle: Path) -> subprocess.CompletedProcess[str]:
        return self.run("install", self.state, bundle)

    def in_service(self) -> str:
        """Manifest of the bundle in service, every hash of it verified; there must be exactly one."""
        link = self.state / "current"
        assert link.is_symlink()
        assert str(link.readlink()) in ("slot-a", "slot-b")
        return open_bundle(link).sha256


@pytest.fixture(scope="module")
def bundles(tiny_openvino: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two good bundles with names of their own, and bad ones: a byte changed, a graph that is none, wrong answers."""
    import json

    import numpy as np

    from edgeskin.files import pretty_json, sha256_bytes, sha256_file

    folder = tmp_path_factory.mktemp("bundles")
    made = {
        name: Path(shutil.copytree(tiny_openvino, folder / name)) for name in ("one", "two", "byte", "graph", "wrong")
    }

    def seal(bundle: Path, name: str) -> None:
        plain = json.loads((bundle / "manifest.json").read_text()) | {"name": name}
        for file, entry in plain["files"].items():
            entry.update(sha256=sha256_file(bundle / file), size_bytes=(bundle / file).stat().st_size)
        text = pretty_json(plain)
        (bundle / "manifest.json").write_text(text)
        (bundle / "manifest.sha256").write_text(f"{sha256_bytes(text.encode())}  manifest.json\n")

    (made["graph"] / "model" / "pair.onnx").write_bytes(b"no graph at all")
    golden = made["wrong"] / "golden" / "pair-0.npz"
    with np.load(golden) as stored:
        frames, logits = stored["frames"], stored["logits"]
    np.savez(golden, frames=frames, logits=logits + 1)
    for name, bundle in made.items():
        seal(bundle, name)
    spoilt = made["byte"] / "model" / "pair.onnx"
    spoilt.write_bytes(spoilt.read_bytes()[:-1] + b"\0")
    return made


@pytest.fixture
def updater(runtime_build: Path, backend_path: Path, tmp_path: Path) -> Updater:
    return Updater(runtime_build / "update", backend_path, tmp_path / "state")


@contextmanager
def serving(updater: Updater) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The serving half, and the lines it has printed; it ends with the block, well or not."""
    process = updater.start("serve", updater.state)
    lines: list[str] = []
    try:
        yield process, lines
    finally:
        process.terminate()
        rest, err = process.communicate(timeout=PATIENCE_S)
        lines += [*rest.splitlines(), *err.splitlines()]


def wait_for(process: subprocess.Popen[str], lines: list[str], wanted: str) -> None:
    assert process.stdout
    while not any(wanted in line for line in lines):
        line = process.stdout.readline()
        assert line, f"it ended before it said {wanted!r}: {lines}"
        lines.append(line.rstrip("\n"))


def test_bundles_take_turns_in_two_slots(updater: Updater, bundles: dict[str, Path]) -> None:
    sha256 = {name: open_bundle(bundles[name]).sha256 for name in ("one", "two")}
    for turn, name in enumerate(("one", "two", "one", "two")):
        done = updater.install(bundles[name])
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"slot-{'ab'[turn % 2]} is in service\n"
        assert updater.in_service() == sha256[name]
    assert updater.run("back", updater.state).stdout == "slot-a is in service\n"
    assert updater.in_service() == sha256["one"]
    assert sorted(path.name for path in updater.state.iterdir()) == ["current", "lock", "slot-a", "slot-b"]


@pytest.mark.parametrize(
    ("name", "said"), [("byte", "pair.onnx"), ("graph", "OpenVINO cannot read"), ("wrong", "self-test")]
)
def test_a_bad_bundle_leaves_the_old_one_in_service(
    name: str, said: str, updater: Updater, bundles: dict[str, Path]
) -> None:
    assert updater.install(bundles["one"]).returncode == 0
    before = updater.in_service()
    done = updater.install(bundles[name])
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stdout == "slot-a stays in service\n"
    assert updater.in_service() == before
    assert not (updater.state / "slot-b").exists()


def test_a_bad_bundle_is_no_first_one(updater: Updater, bundles: dict[str, Path]) -> None:
    assert updater.install(bundles["byte"]).returncode == 1
    assert not (updater.state / "current").is_symlink()
    assert updater.run("back", updater.state).returncode == 2
    assert updater.run("serve", updater.state).returncode == 2


def test_what_is_no_bundle_touches_neither_slot(updater: Updater, bundles: dict[str, Path], tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert updater.install(bundles[name]).returncode == 0
    linked = Path(shutil.copytree(bundles["one"], tmp_path / "linked"))
    (linked / "lesions.json").unlink()
    (linked / "lesions.json").symlink_to(bundles["one"] / "lesions.json")
    for wrong in (tmp_path / "none", bundles["one"] / "lesions.json", updater.state / "slot-a"):
        done = updater.install(wrong)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert (updater.state / "slot-a" / "manifest.json").is_file()
    assert "a link" in updater.install(linked).stderr
    assert updater.in_service() == open_bundle(bundles["two"]).sha256


def test_a_folder_of_something_else_is_left_alone(updater: Updater, bundles: dict[str, Path]) -> None:
    updater.state.mkdir()
    (updater.state / "current").write_text("mine")
    done = updater.install(bundles["one"])
    assert done.returncode == 2
    assert "not a state folder" in done.stderr
    assert (updater.state / "current").read_text() == "mine"
    assert not (updater.state / "slot-a").exists()


def test_two_updates_at_once_are_one(updater: Updater, bundles: dict[str, Path]) -> None:
    assert updater.install(bundles["one"]).returncode == 0
    started = [updater.start("install", updater.state, bundles["two"]) for _ in range(3)]
    told = [process.communicate(timeout=PATIENCE_S)[1] for process in started]
    codes = sorted(process.returncode for process in started)
    assert codes[0] == 0
    assert all(code in (0, 2) for code in codes)  # those that came while another ran were refused
    assert all("another update" in err for err in told if err)
    assert updater.in_service() == open_bundle(bundles["two"]).sha256


def test_no_call_is_refused_while_bundles_change(updater: Updater, bundles: dict[str, Path]) -> None:
    sha256 = {name: open_bundle(bundles[name]).sha256[:12] for name in ("one", "two")}
    assert updater.install(bundles["one"]).returncode == 0
    with serving(updater) as (process, lines):
        wait_for(process, lines, f"serving one, manifest {sha256['one']}")
        assert updater.install(bundles["byte"]).returncode == 1
        assert updater.install(bundles["two"]).returncode == 0
        wait_for(process, lines, f"serving two, manifest {sha256['two']}")
        assert updater.run("back", updater.state).returncode == 0
        lines.clear()
        wait_for(process, lines, f"serving one, manifest {sha256['one']}")
    assert process.returncode == 0, lines
    answered, refused = (int(word.strip(",")) for word in lines[-1].split()[1::2])
    assert lines[-1].startswith("answered")
    assert refused == 0
    assert answered > 100


def test_a_slot_that_went_bad_is_not_served(updater: Updater, bundles: dict[str, Path]) -> None:
    """Whoever switched the link, and to whatever: the bundle that answers goes on answering."""
    assert updater.install(bundles["one"]).returncode == 0
    shutil.copytree(bundles["byte"], updater.state / "slot-b")
    with serving(updater) as (process, lines):
        wait_for(process, lines, "serving one")
        (updater.state / "fresh").symlink_to("slot-b")
        (updater.state / "fresh").replace(updater.state / "current")
        wait_for(process, lines, "the old bundle stays in service")
        (updater.state / "current").unlink()  # nothing there at all
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        (updater.state / "fresh").symlink_to("slot-a")
        (updater.state / "fresh").replace(updater.state / "current")
        lines.clear()
        wait_for(process, lines, "serving one")
    assert process.returncode == 0, lines
    assert any(line.endswith("refused 0") for line in lines)


def killed_at_random(updater: Updater, bundles: dict[str, Path], kills: int) -> None:
    """kill -9 at any moment of an update: what `current` leads to opens, and is the old bundle or the new."""
    drawn = random.Random(7)
    sha256 = {open_bundle(bundles[name]).sha256: name for name in ("one", "two")}
    started = time.monotonic()
    assert updater.install(bundles["one"]).returncode == 0
    lasts_s = time.monotonic() - started
    seen = {"killed": 0, "switched": 0, "left over": 0}
    for number in range(kills):
        before = sha256[updater.in_service()]
        fresh = "two" if before == "one" else "one"
        process = updater.start("install", updater.state, bundles[fresh])
        # Half of them while files are copied, which takes a small part of the time.
        time.sleep(drawn.uniform(0, lasts_s * (1.1 if number % 2 else 0.05)))
        process.kill()
        process.communicate(timeout=PATIENCE_S)
        after = sha256[updater.in_service()]
        assert after in (before, fresh)
        seen["killed"] += process.returncode == -signal.SIGKILL
        seen["switched"] += after == fresh
        free = "slot-b" if (updater.state / "current").readlink() == Path("slot-a") else "slot-a"
        seen["left over"] += after == before and (updater.state / free).exists()
        if process.returncode == 0:
            assert after == fresh
    assert seen["killed"] > kills / 2, seen
    assert seen["left over"], "no kill hit an update at work"
    with serving(updater) as (process, lines):  # and the runtime itself opens what is left
        wait_for(process, lines, "serving")
    assert process.returncode == 0, lines
    assert updater.install(bundles["two"]).returncode == 0
    assert updater.in_service() == open_bundle(bundles["two"]).sha256
    assert sorted(path.name for path in updater.state.iterdir()) == ["current", "lock", "slot-a", "slot-b"]


def test_a_kill_at_any_moment_leaves_one_bundle_in_service(updater: Updater, bundles: dict[str, Path]) -> None:
    killed_at_random(updater, bundles, 25)


@pytest.mark.slow
def test_two_hundred_kills_leave_one_bundle_in_service(updater: Updater, bundles: dict[str, Path]) -> None:
    killed_at_random(updater, bundles, 200)
