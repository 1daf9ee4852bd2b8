"""What the Python bindings of TensorRT offer, version by version, read without TensorRT and without a GPU.

`make test` puts the bindings (wheels of about 1 MB) into `.venv/tensorrt-bindings/<version>`. They are linked against
libraries of the vendor that no wheel here carries, so a compiler makes empty ones: enough to import, nothing runs.
Run as a script, this file prints the surface of one package as JSON.
"""

import contextlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "requirements" / "tensorrt-bindings"
INSTALLED = Path(sys.prefix) / "tensorrt-bindings"
LIBRARIES = [f"lib{name}.so.{major}" for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser") for major in (10, 11)]
LIBRARIES += ["libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1"]
# What the bindings take from these libraries. All but the first are only called later, yet must be found on import.
SYMBOLS = (
    "getNvOnnxParserVersion",
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getBuilderPluginRegistry",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
Json = dict[str, Any]


class NoBindingsError(Exception):
    """They cannot be read on this machine, and why."""


def package(version: str, installed: Path = INSTALLED) -> Path:
    """The package of the bindings of "10.3", or of "rtx-1.7" for the sibling TensorRT for RTX.

    Raises:
        NoBindingsError: not installed.
    """
    for found in sorted(installed.glob(f"{version}.*/tensorrt*_bindings")):
        return found
    raise NoBindingsError(f"no bindings of TensorRT {version}: `make test` installs them where a wheel for this exists")


def make_stubs(out: Path) -> None:
    """Empty libraries in `out`; every function in them gives 0.

    Raises:
        NoBindingsError: no C compiler.
    """
    compiler = next((path for name in ("cc", "gcc", "clang", "g++") if (path := shutil.which(name))), None)
    if compiler is None:
        raise NoBindingsError("no C compiler, so TensorRT's bindings have nothing to link with")
    source = out / "stub.c"
    source.write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in SYMBOLS), encoding="utf-8")
    first, *rest = (out / name for name in LIBRARIES)
    subprocess.run([compiler, "-x", "c", "-shared", "-fPIC", "-o", str(first), str(source)], check=True, timeout=60)
    for library in rest:
        shutil.copyfile(first, library)


def read_surface(found: Path, stubs: Path) -> Json:
    """The surface of that package, asked of a process of its own."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(stubs)}
    command = [sys.executable, "-I", "-S", __file__, str(found.parent), found.name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    if done.returncode:
        raise AssertionError(f"{found.parent.name} cannot be imported: {done.stderr[-2000:]}")
    told: Json = json.loads(done.stdout)
    return told


def surface(module: ModuleType) -> Json:
    """Version, the module's names, and each class by its qualified name ("ILogger.Severity") with its members.

    A name is {"class": name} for a class, {"of": name} for a value or property of one of these classes, or has
    "signatures". An empty one is something of which no more than its existence is known.
    """
    classes = {value.__qualname__: value for value in vars(module).values() if isinstance(value, type)}
    waiting = list(classes.values())
    while waiting:
        for value in list(vars(waiting.pop()).values()):
            if isinstance(value, type) and value.__qualname__ not in classes:
                classes[value.__qualname__] = value
                waiting.append(value)
    members = {name: _members(found, classes) for name, found in classes.items()}
    return {"version": module.__version__, "names": _members(module, classes), "classes": members}


def _members(owner: Any, classes: dict[str, type]) -> dict[str, Json]:
    found = {}
    for name in dir(owner):
        value: Any = None
        with contextlib.suppress(Exception):  # pybind's helpers for properties of a class raise when looked at
            value = getattr(owner, name)
        found[name] = _described(name, value, classes)
    return found


def _described(name: str, value: Any, classes: dict[str, type]) -> Json:
    if isinstance(value, type):
        return {"class": value.__qualname__} if value.__qualname__ in classes else {}
    if isinstance(value, property):
        told = str(getattr(value.fget, "__doc__", None) or "")
        kind = _class_named(told.rpartition("->")[2], classes)
        return {"of": kind} if kind else {}
    if classes.get(type(value).__qualname__) is type(value):
        return {"of": type(value).__qualname__}
    signatures = _signatures(name, str(getattr(value, "__doc__", None) or ""), classes)
    return {"signatures": signatures} if signatures else {}


def _class_named(text: str, classes: dict[str, type]) -> str | None:
    """`tensorrt_bindings.tensorrt.ICudaEngine` or `nvinfer1::ICudaEngine` -> "ICudaEngine", if there is one."""
    name = re.sub(r"^(tensorrt\w*\.)+|^\w+::", "", text.strip())
    name = {"IParserError": "ParserError"}.get(name, name)  # C++'s name for it, which some docstrings give
    return name if name in classes else None


def _signatures(name: str, doc: str, classes: dict[str, type]) -> list[Json]:
    """What pybind writes into a docstring: one line for each overload."""
    found = []
    for line in doc.splitlines():
        match = re.match(rf"(?:\d+\. )?{re.escape(name)}\((.*)\)(?: -> (.*))?$", line)
        if match and "*args" not in match[1]:
            found.append({"parameters": _parameters(match[1]), "returns": _class_named(match[2] or "", classes)})
    return found


def _parameters(text: str) -> list[list[Any]]:
    """`self: A, flags: B[int, str] = <C.D: 0>` -> [["self", True], ["flags", False]]; True: it must be given."""
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(text):
        depth += (letter in "([{<") - (letter in ")]}>")
        if letter == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    parts.append(text[start:])
    return [[part.partition(":")[0].strip(), " = " not in part] for part in parts if part.strip()]


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    json.dump(surface(importlib.import_module(sys.argv[2])), sys.stdout)
