"""Building with TensorRT's own program `trtexec`, where its Python package is not to be had.

Flags, read in samples/common/sampleOptions.cpp and samples/trtexec/trtexec.cpp of NVIDIA/TensorRT (10.x, and the 11.x
revision d5883286) and in the migration guides 8 -> 10 and 10 -> 11:

- --onnx, --saveEngine, --timingCacheFile, --profilingVerbosity, --exportLayerInfo, --useDLACore, --allowGPUFallback:
  alike in 8.6, 10 and 11.
- --memPoolSize=workspace:N, N in MiB: replaces --workspace, which 10 refuses.
- --skipInference: since 8.6, for --buildOnly, which 10.3 refuses. With it the layers are still exported: trtexec prints
  them before it stops.
- --stronglyTyped: 10 only has to be told; 11 takes and ignores it, for every network is strongly typed there.
- --fp16 --int8 --best: never: with --stronglyTyped they are errors in 10, and 11 has them no more.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from edgeskin.errors import EdgeskinError
from edgeskin.files import os_errors, sync
from edgeskin.tensorrt_here import LEAST, numbers

PLACES = (Path("/usr/src/tensorrt/bin/trtexec"),)  # where JetPack puts it, outside PATH
_BANNER = re.compile(r"\[TensorRT v(\d+(?:\.\d+)*)\](?: \[b(\d+)\])?")
_STAMP = re.compile(r"^(\[[\d/:-]+\] )?\[([EWIV])\] (\[TRT\] )?")
_MEMORY = re.compile(
    r"out of ?memory|insufficient memory|memory is insufficient|could not be allocated|cudaErrorMemoryAllocation", re.I
)
_LESS_MEMORY = (
    "close other programs and the desktop (`sudo systemctl isolate multi-user.target`), or pass --workspace-mb 64"
)
# What trtexec writes: nothing of it appears under its name before the whole build has succeeded.
_PLAN, _LAYERS, _CACHE = "--saveEngine=", "--exportLayerInfo=", "--timingCacheFile="


def find() -> Path | None:
    """The program, in PATH or where JetPack puts it; None if it is nowhere."""
    named = shutil.which("trtexec")
    places = [*([Path(named)] if named else []), *PLACES]
    return next((place for place in places if place.is_file() and os.access(place, os.X_OK)), None)


def version(program: Path) -> str:
    """The version of TensorRT that a trtexec belongs to.

    Raises:
        EdgeskinError: it cannot be run, or does not name itself.
    """
    try:
        # --version ends with an error in some releases, for want of a model; all begin --help with their banner.
        done = subprocess.run(
            [str(program), "--help"], capture_output=True, text=True, errors="replace", timeout=120, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _not_run(program, error) from error
    return parse_version(done.stdout + done.stderr)


def parse_version(text: str) -> str:
    """The version out of trtexec's banner.

    Up to 8 the number is major, minor and two digits of the patch; from 10 on minor has two digits as well. The build
    in brackets is the fourth number of the package.

    >>> banners = "[TensorRT v8601]", "[TensorRT v100300]", "[TensorRT v101303] [b9]", "[TensorRT v11.1.0.106] [b48]"
    >>> [parse_version(banner) for banner in banners]
    ['8.6.1', '10.3.0', '10.13.3.9', '11.1.0.106']

    Raises:
        EdgeskinError: there is no banner.
    """
    found = _BANNER.search(text)
    if found is None or (len(found[1]) < 4 and "." not in found[1]):
        first = next((line.strip() for line in text.splitlines() if line.strip()), "nothing")
        raise EdgeskinError("trtexec does not name its version", got=first[:120], fix="check the program")
    if "." in found[1]:
        return found[1]
    packed = int(found[1])
    major, minor = divmod(packed // 100, 100 if len(found[1]) > 4 else 10)
    return f"{major}.{minor}.{packed % 100}" + (f".{found[2]}" if found[2] else "")


def command(
    version: str,
    onnx: Path,
    plan: Path,
    *,
    workspace_mb: int,
    layer_info: Path,
    timing_cache: Path | None = None,
    dla_core: int | None = None,
    program: Path = Path("trtexec"),
) -> list[str]:
    """The command that builds a strongly typed graph with that version of trtexec.

    Precisions stand in the graph; no flag asks for one.

    Raises:
        EdgeskinError: a version before 10.3.
    """
    if numbers(version) < LEAST:
        raise EdgeskinError(
            "trtexec is too old for strongly typed INT8",
            got=f"TensorRT {version}",
            possible="10.3 or later",
            fix="update JetPack to 6.1 or later",
        )
    flags = [str(program), f"--onnx={onnx}", f"{_PLAN}{plan}", f"--memPoolSize=workspace:{workspace_mb}"]
    if numbers(version) < (11,):
        flags.append("--stronglyTyped")
    flags += ["--skipInference", "--profilingVerbosity=detailed", f"{_LAYERS}{layer_info}"]
    if timing_cache is not None:
        flags.append(f"{_CACHE}{timing_cache}")
    if dla_core is not None:
        flags += [f"--useDLACore={dla_core}", "--allowGPUFallback"]
    return flags


def run(command: Sequence[str], log: Path, step: Callable[..., None] | None = None) -> None:
    """Run a command that `command` made and put its files in their places; on any failure there are none.

    Args:
        command: what to run.
        log: takes all that trtexec says, line by line, and stays after a failure.
        step: called as step(0, text) with each line that trtexec tells as information.

    Raises:
        EdgeskinError: trtexec cannot be run, fails, is killed or leaves no engine; its own first error is named.
    """
    targets = {f: Path(part[len(f) :]) for part in command for f in (_PLAN, _LAYERS, _CACHE) if part.startswith(f)}
    plan = targets[_PLAN]
    with os_errors(plan), tempfile.TemporaryDirectory(prefix=f".{plan.name}.", dir=_made(plan.parent)) as folder:
        staged = {flag: Path(folder) / f"{place}-{path.name}" for place, (flag, path) in enumerate(targets.items())}
        if _CACHE in targets and targets[_CACHE].is_file():
            shutil.copyfile(targets[_CACHE], staged[_CACHE])
        moved = [next((f"{f}{staged[f]}" for f in staged if part.startswith(f)), part) for part in command]
        code, errors, short = _stream(moved, log, step)
        if code != 0:
            raise _failed(code, errors, short, log)
        for flag in (_PLAN, _LAYERS):
            if flag in staged and not (staged[flag].is_file() and staged[flag].stat().st_size):
                raise EdgeskinError(
                    f"trtexec ended well but wrote no {targets[flag].name}",
                    got=errors[0] if errors else None,
                    fix=f"read {log}",
                )
        for flag in (_CACHE, _LAYERS, _PLAN):  # the engine last: where it is, the rest is
            if flag in staged and staged[flag].is_file():
                _made(targets[flag].parent)
                sync(staged[flag])
                staged[flag].replace(targets[flag])


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _stream(command: Sequence[str], log: Path, step: Callable[..., None] | None) -> tuple[int, list[str], bool]:
    """Exit status, errors in their order, and whether memory ran short."""
    errors: list[str] = []
    short = False
    with os_errors(log), _made(log.parent).joinpath(log.name).open("w", encoding="utf-8") as kept:
        try:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
            )
        except OSError as error:
            raise _not_run(Path(command[0]), error) from error
        with process:
            try:
                for line in process.stdout or ():
                    kept.write(line)
                    kept.flush()
                    short = short or bool(_MEMORY.search(line))
                    mark = _STAMP.match(line)
                    told = _STAMP.sub("", line).strip()
                    if mark and mark[2] == "E" and told:
                        errors.append(told)
                    if mark and mark[2] == "I" and told and step is not None:
                        step(0, told[:100])
            except BaseException:
                process.kill()  # interrupted: leave no builder behind that holds the GPU
                raise
    return process.returncode, errors, short


def _not_run(program: Path, error: Exception) -> EdgeskinError:
    if isinstance(error, subprocess.TimeoutExpired):
        return EdgeskinError("trtexec does not answer", got=str(program), fix="check the driver with nvidia-smi")
    why = "no such program" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", None) or str(error)
    fix = "on a Jetson `sudo apt install nvidia-jetpack` brings /usr/src/tensorrt/bin/trtexec"
    return EdgeskinError("trtexec cannot be run", got=f"{program}: {why}", fix=fix)


def _failed(code: int, errors: Sequence[str], short: bool, log: Path) -> EdgeskinError:
    """The error of a trtexec that ended with a failure: its first own, the cause behind it, what to do."""
    said = errors[0] if errors else ""
    # The parser first says where it is, then in which node, and what is wrong with it some lines later.
    if said and re.search(r"While parsing node", said):
        cause = next((line for line in errors[1:] if re.search(r"ERROR:|Error Code|assert", line, re.I)), "")
        said = f"{said} {cause}".strip()
    said = said[:300] or f"exit status {code}"
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return EdgeskinError("the kernel killed trtexec: out of memory", got=said, fix=f"{_LESS_MEMORY}; read {log}")
    if short:
        return EdgeskinError("trtexec ran out of memory", got=said, fix=f"{_LESS_MEMORY}; read {log}")
    if code < 0 or code > 128:
        number = -code if code < 0 else code - 128
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        return EdgeskinError(f"trtexec crashed ({name})", got=said, fix=f"check the driver with nvidia-smi; read {log}")
    if "Unknown option" in said:
        return EdgeskinError("trtexec is of another version than it was taken for", got=said, fix=f"read {log}")
    return EdgeskinError("trtexec could not build the engine", got=said, fix=f"read {log}")
