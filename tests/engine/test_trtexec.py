"""The command for each version of trtexec, and real programs in its place that end as it ends."""

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeskin.engine import trtexec
from edgeskin.errors import EdgeskinError

Program = Callable[..., Path]

# As the real one does: finds its files in its arguments.
HEAD = """#!/bin/sh
for argument in "$@"; do
  case "$argument" in
    --saveEngine=*) plan=${argument#*=} ;;
    --exportLayerInfo=*) layers=${argument#*=} ;;
    --timingCacheFile=*) cache=${argument#*=} ;;
  esac
done
echo "&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # $*"
"""
BUILD = """
echo "[11/20/2025-08:32:50] [I] [TRT] Local timing cache in use."
echo "[11/20/2025-08:32:51] [W] [TRT] Tactic Device request: 414MB Available: 216MB. Device memory is insufficient" >&2
printf engine > "$plan"; printf '{"Layers": []}' > "$layers"
"""
PARSER = """
echo '[09/02/2024-17:35:22] [E] [TRT] ModelImporter.cpp:948: While parsing node number 7 [Tile -> "/Tile_output_0"]:'
echo '[09/02/2024-17:35:22] [E] [TRT] ModelImporter.cpp:951: --- Begin node ---'
echo '[09/02/2024-17:35:22] [E] [TRT] ModelImporter.cpp:954: ERROR: ModelImporter.cpp:195 In function parseNode:'
echo '[6] Invalid Node - /Tile'
echo '[09/02/2024-17:35:22] [E] Failed to parse onnx file'
printf half > "$plan"; exit 1
"""
SHORT = """
echo "[07/28/2024-14:48:36] [W] [TRT] Tactic Device request: 533MB Available: 185MB. Device memory is insufficient."
echo "[07/28/2024-14:48:37] [E] Error[10]: Could not find any implementation for node /conv1/Conv."
exit 1
"""


@pytest.fixture
def program(tmp_path: Path) -> Program:
    def make(body: str, head: str = HEAD) -> Path:
        path = tmp_path / "bin" / "trtexec"
        path.parent.mkdir(exist_ok=True)
        path.write_text(head + body)
        path.chmod(0o755)
        return path

    return make


def built(tmp_path: Path, path: Path, **options: object) -> tuple[list[str], Path]:
    """The command for that program, and the folder that its files go to."""
    out = tmp_path / "out"
    made = trtexec.command(
        "10.3.0",
        tmp_path / "pair.onnx",
        out / "pair.plan",
        workspace_mb=256,
        layer_info=out / "layers.json",
        timing_cache=tmp_path / "cache" / "timing",
        program=path,
        **options,  # type: ignore[arg-type]
    )
    return made, out


def failure(tmp_path: Path, path: Path) -> str:
    """The error of a run that fails, and that it left nothing but its log."""
    made, out = built(tmp_path, path)
    with pytest.raises(EdgeskinError) as caught:
        trtexec.run(made, tmp_path / "trtexec.log")
    assert not list(out.iterdir()) if out.exists() else True
    assert not (tmp_path / "cache").exists()
    return caught.value.line()


@pytest.mark.parametrize(
    ("version", "typed"),
    [("10.3.0", True), ("10.13.3.9", True), ("10.16.2", True), ("11.0.0", False), ("11.4.1", False)],
)
def test_the_command_of_each_version(version: str, typed: bool):
    made = trtexec.command(version, Path("a.onnx"), Path("a.plan"), workspace_mb=512, layer_info=Path("l.json"))
    assert made == [
        "trtexec",
        "--onnx=a.onnx",
        "--saveEngine=a.plan",
        "--memPoolSize=workspace:512",
        *(["--stronglyTyped"] if typed else []),
        "--skipInference",
        "--profilingVerbosity=detailed",
        "--exportLayerInfo=l.json",
    ]


def test_the_command_with_cache_and_dla(tmp_path: Path):
    made, _ = built(tmp_path, Path("/x/trtexec"), dla_core=1)
    assert made[0] == "/x/trtexec"
    assert made[-3:] == [f"--timingCacheFile={tmp_path}/cache/timing", "--useDLACore=1", "--allowGPUFallback"]
    assert not {"--fp16", "--int8", "--best", "--workspace=256", "--buildOnly"} & set(made), "gone in 10 or 11"


@pytest.mark.parametrize("version", ["8.6.2", "10.0.1", "10.2"])
def test_an_old_version_is_refused(version: str):
    with pytest.raises(EdgeskinError, match=f"too old for strongly typed INT8: got 'TensorRT {version}'"):
        trtexec.command(version, Path("a"), Path("b"), workspace_mb=1, layer_info=Path("c"))


@pytest.mark.parametrize(
    ("banner", "version"),
    [
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v8502] # trtexec --help", "8.5.2"),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v8601] # trtexec", "8.6.1"),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v8412] # trtexec", "8.4.12"),
        ("noise\n&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # /usr/src/tensorrt/bin/trtexec", "10.3.0"),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v101303] [b9]", "10.13.3.9"),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v101601] [b11] # trtexec", "10.16.1.11"),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v110401]", "11.4.1"),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v11.1.0.106] [b48] # trtexec", "11.1.0.106"),
    ],
)
def test_versions_in_banners(banner: str, version: str):
    assert trtexec.parse_version(banner) == version


@pytest.mark.parametrize("text", ["", "\n\n", "usage: other", "[TensorRT v86]"])
def test_no_banner(text: str):
    with pytest.raises(EdgeskinError, match="trtexec does not name its version"):
        trtexec.parse_version(text)


def test_the_version_of_a_program_that_ends_with_an_error(program: Program):
    assert trtexec.version(program("echo 'Model missing'; exit 1")) == "10.3.0"  # as 11 does for want of a model


def test_programs_that_cannot_be_run(tmp_path: Path, program: Program):
    with pytest.raises(EdgeskinError, match=r"cannot be run: got '.*absent: no such program'; fix: on a Jetson"):
        trtexec.version(tmp_path / "absent")
    other = program("", head="\x7fELF of another machine")
    with pytest.raises(EdgeskinError, match=r"cannot be run: got '.*Exec format error"):
        trtexec.version(other)
    other.chmod(0o644)
    with pytest.raises(EdgeskinError, match="trtexec cannot be run"):
        trtexec.run(built(tmp_path, other)[0], tmp_path / "log")


def test_it_is_found_in_the_path_and_where_jetpack_puts_it(
    tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch
):
    path = program("")
    monkeypatch.setattr(trtexec, "PLACES", ())
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert trtexec.find() is None
    monkeypatch.setattr(trtexec, "PLACES", (tmp_path / "absent", path))
    assert trtexec.find() == path
    path.chmod(path.stat().st_mode & ~(stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH))
    if os.geteuid() != 0 or not os.access(path, os.X_OK):
        assert trtexec.find() is None, "cannot be executed"
    path.chmod(0o755)
    monkeypatch.setattr(trtexec, "PLACES", ())
    monkeypatch.setenv("PATH", str(path.parent))
    assert trtexec.find() == path


def test_a_build_puts_everything_in_its_place(tmp_path: Path, program: Program):
    made, out = built(tmp_path, program(BUILD + 'test -e "$cache" || printf timings > "$cache"\n'))
    told: list[str] = []
    trtexec.run(made, tmp_path / "logs" / "trtexec.log", lambda n, text: told.append(text))
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        "pair.plan": "engine",
        "layers.json": '{"Layers": []}',
    }
    assert (tmp_path / "cache/timing").read_text() == "timings"
    assert told == ["Local timing cache in use."]
    log = (tmp_path / "logs/trtexec.log").read_text()
    assert "RUNNING TensorRT.trtexec" in log
    assert "insufficient" in log, "what goes to stderr is kept too, and is no failure"


def test_a_timing_cache_is_used_and_renewed(tmp_path: Path, program: Program):
    cache = tmp_path / "cache" / "timing"
    cache.parent.mkdir()
    cache.write_text("old,")
    trtexec.run(built(tmp_path, program(BUILD + 'printf new >> "$cache"\n'))[0], tmp_path / "log")
    assert cache.read_text() == "old,new"


def test_a_failed_build_leaves_the_old_files_as_they_were(tmp_path: Path, program: Program):
    made, out = built(tmp_path, program('printf half > "$plan"; printf half > "$cache"; exit 1'))
    for path in (out / "pair.plan", tmp_path / "cache/timing"):
        path.parent.mkdir()
        path.write_text("old")
    with pytest.raises(EdgeskinError, match="could not build the engine: got 'exit status 1'"):
        trtexec.run(made, tmp_path / "log")
    assert [path.read_text() for path in (out / "pair.plan", tmp_path / "cache/timing")] == ["old", "old"]
    assert [path.name for path in out.iterdir()] == ["pair.plan"]


def test_a_parser_error_names_the_node_and_the_cause(tmp_path: Path, program: Program):
    line = failure(tmp_path, program(PARSER))
    assert "could not build the engine" in line
    assert 'While parsing node number 7 [Tile -> "/Tile_output_0"]: ModelImporter.cpp:954: ERROR' in line
    assert "[09/02/2024" not in line
    assert "Invalid Node - /Tile" in (tmp_path / "trtexec.log").read_text()
    assert f"fix: read {tmp_path}/trtexec.log" in line


def test_too_little_memory_is_told_as_such(tmp_path: Path, program: Program):
    line = failure(tmp_path, program(SHORT))
    assert line.startswith(
        "trtexec ran out of memory: got 'Error[10]: Could not find any implementation for node /conv1"
    )
    assert "fix: close other programs and the desktop" in line


@pytest.mark.parametrize("end", ["kill -9 $$", "exit 137"])
def test_a_kill_by_the_kernel_is_out_of_memory(tmp_path: Path, program: Program, end: str):
    line = failure(tmp_path, program(f'printf half > "$plan"\n{end}\n'))
    assert line.startswith("the kernel killed trtexec: out of memory")
    assert "--workspace-mb 64" in line


@pytest.mark.parametrize("end", ["kill -SEGV $$", "exit 139"])
def test_a_crash_is_named(tmp_path: Path, program: Program, end: str):
    assert failure(tmp_path, program(end)).startswith("trtexec crashed (SIGSEGV)")


def test_an_unknown_option_is_another_version(tmp_path: Path, program: Program):
    line = failure(tmp_path, program('echo "[10/05/2025-10:46:31] [E] Unknown option: --skipInference"; exit 1'))
    assert line.startswith("trtexec is of another version than it was taken for: got 'Unknown option: --skipInference'")


@pytest.mark.parametrize(
    ("body", "absent"),
    [
        ("true", "pair.plan"),
        ('printf "" > "$plan"; printf x > "$layers"', "pair.plan"),
        ('printf x > "$plan"; echo "[E] Cannot open file"', "layers.json"),
    ],
)
def test_success_without_the_files_is_none(tmp_path: Path, program: Program, body: str, absent: str):
    line = failure(tmp_path, program(body))
    assert f"ended well but wrote no {absent}" in line
    assert ("Cannot open file" in line) == ("Cannot open" in body)


def test_an_interrupt_kills_the_builder_and_leaves_nothing(tmp_path: Path, program: Program):
    body = 'printf half > "$plan"; echo "[I] pid $$"; exec sleep 60'
    made, out = built(tmp_path, program(body))
    pids: list[int] = []

    def stop(n: int, text: str) -> None:
        pids.append(int(text.split()[1]))
        raise KeyboardInterrupt

    begun = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        trtexec.run(made, tmp_path / "log", stop)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    assert not list(out.iterdir())
    assert threading.active_count() == begun


def test_the_log_is_written_while_it_runs(tmp_path: Path, program: Program):
    seen: list[str] = []
    body = 'echo "[I] first"; echo "[I] second"' + BUILD
    trtexec.run(
        built(tmp_path, program(body))[0], tmp_path / "log", lambda n, text: seen.append((tmp_path / "log").read_text())
    )
    assert seen[0].endswith("[I] first\n"), "each line is in the log before it is told"


def test_a_folder_that_cannot_be_written(tmp_path: Path, program: Program):
    made, out = built(tmp_path, program(BUILD))
    out.write_text("a file stands here")
    with pytest.raises(EdgeskinError, match="a file stands where a folder is needed"):
        trtexec.run(made, tmp_path / "log")
