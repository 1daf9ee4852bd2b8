#!/usr/bin/env python3
"""libedgeskin from Python, through ctypes: one file that needs the standard library alone.

    python classify.py --library libedgeskin.so BUNDLE DERMOSCOPIC [CLINICAL] [--backend-path DIR] [--json]

With Pillow it reads any photograph, without it binary PPM (P6). As a module:

    with EdgeSkin("bundle", library="libedgeskin.so") as skin:
        skin.selftest()
        answer = skin.classify(dermoscopic, clinical)  # NumPy arrays uint8 [H, W, 3], PIL images, or Image(...)
        print(answer["predicted"])

Exit codes: 0 classified, 1 not assessable, 2 anything that failed. Research software, not a medical device.
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import json
import re
import sys
from collections.abc import Callable
from ctypes import c_char_p, c_double, c_float, c_int32, c_size_t, c_uint32, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ABI_VERSION = 1
MAX_TASKS, MAX_LOGITS = 16, 256
RGB, BGR, RGBA, GREY, NV12, YUYV = range(1, 7)
BT601, BT709, JPEG = range(3)
QUALITY = ("empty", "dark", "bright", "saturated", "blurred", "vignette", "identical", "swapped")
_Log = ctypes.CFUNCTYPE(None, c_void_p, ctypes.c_int, c_char_p)


def _of(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class _Struct(ctypes.Structure):
    """A struct of edgeskin.h: it begins with its size, and everything else is zero until it is set."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.size = ctypes.sizeof(self)


class CImage(_Struct):
    """es_image"""

    _fields_ = [
        ("size", c_size_t),
        *_of(c_int32, "format width height stride"),
        *_of(c_void_p, "pixels chroma"),
        *_of(c_int32, "chroma_stride colour"),
    ]


class COptions(_Struct):
    """es_options"""

    _fields_ = [
        ("size", c_size_t),
        *_of(c_char_p, "backend_path backend"),
        *_of(c_int32, "modes threads deadline_ms selftest_limit_ms max_width"),
        ("public_key", c_char_p),
        *_of(c_int32, "require_signature no_fallback"),
        ("log", _Log),
        ("log_context", c_void_p),
    ]


class CModelInfo(_Struct):
    """es_model_info"""

    _fields_ = [
        ("size", c_size_t),
        *_of(c_char_p, "name sha256 backend fallback signed_by precision target"),
        *_of(c_int32, "width height threads phantom task_count logit_count"),
        ("tasks", c_char_p * MAX_TASKS),
        ("first", c_int32 * (MAX_TASKS + 1)),
        ("classes", c_char_p * MAX_LOGITS),
        *_of(c_int32, "verify_us load_us"),
    ]


class CSelftestReport(_Struct):
    """es_selftest_report"""

    _fields_ = [("size", c_size_t), *_of(c_int32, "cases failed"), ("max_abs_error", c_double), ("elapsed_us", c_int32)]


class CResult(_Struct):
    """es_result"""

    _fields_ = [
        ("size", c_size_t),
        ("assessable", c_int32),
        ("quality", c_uint32 * 2),
        *_of(c_int32, "images refer"),
        *_of(c_double, "target_probability threshold"),
        *_of(c_int32, "has_score score"),
        ("predicted", c_int32 * MAX_TASKS),
        *_of(c_double * MAX_LOGITS, "probabilities clinical dermoscopic"),
        ("logits", c_float * (2 * MAX_LOGITS)),
        *_of(c_int32, "prepare_us quality_us infer_us decide_us total_us has_fused"),
        ("fused", c_double * MAX_LOGITS),
        ("fused_logits", c_float * MAX_LOGITS),
    ]


class EdgeSkinError(Exception):
    """A call that failed. `status` is its number in es_status, `name` a short text for it."""

    def __init__(self, status: int, name: str, line: str) -> None:
        super().__init__(line or name)
        self.status, self.name = status, name


@dataclass(frozen=True)
class Image:
    """Pixels as a camera gives them. `stride` 0: rows lie without gaps; `chroma` of NV12 alone."""

    pixels: bytes
    width: int
    height: int
    format: int = RGB
    stride: int = 0
    chroma: bytes | None = None
    chroma_stride: int = 0
    colour: int = BT601


def load_library(path: str | Path | None = None) -> ctypes.CDLL:
    """libedgeskin with the types of its functions; OSError where it is not, or is another than this file is for."""
    found = str(path) if path else ctypes.util.find_library("edgeskin")
    if not found:
        raise OSError("libedgeskin was not found; fix: pass its path, --library build/runtime/libedgeskin.so")
    library = ctypes.CDLL(found)
    library.es_abi_version.restype = c_uint32
    if (got := library.es_abi_version()) != ABI_VERSION:
        raise OSError(f"another libedgeskin; got: ABI {got}; possible: {ABI_VERSION}; fix: take both from one release")
    size, wanted = 0, ctypes.sizeof(CResult)
    if hasattr(library, "es_result_size"):  # a library from before es_result.fused has none
        library.es_result_size.restype = c_size_t
        size = library.es_result_size()
    if size < wanted:
        told = f"got: es_result of {size or 'fewer'} bytes; possible: {wanted} or more"
        raise OSError(f"an older libedgeskin; {told}; fix: take both from one release")
    for name in ("es_version", "es_strerror", "es_last_error", "es_quality_name", "es_supports"):
        getattr(library, name).restype = c_char_p
    library.es_strerror.argtypes = [ctypes.c_int]
    library.es_quality_name.argtypes = [c_uint32]
    library.es_supports.argtypes = [c_char_p, c_char_p]
    image, library.es_close.restype = ctypes.POINTER(CImage), None
    library.es_open.argtypes = [c_char_p, ctypes.POINTER(COptions), ctypes.POINTER(c_void_p)]
    library.es_selftest.argtypes = [c_void_p, ctypes.POINTER(CSelftestReport)]
    library.es_classify.argtypes = [c_void_p, image, image, ctypes.POINTER(CResult)]
    library.es_info.argtypes = [c_void_p, ctypes.POINTER(CModelInfo)]
    library.es_close.argtypes = [c_void_p]
    return library


class EdgeSkin:
    """A bundle, opened; EdgeSkinError where it is refused. For one thread at a time; several may work side by side.

    Args:
        bundle: its folder.
        library: path of libedgeskin.so, or what `load_library` gave.
        backend_path: folder with the engine's shared libraries.
        key: the 32 bytes of the public key that must have signed the bundle.
        log: called with (level, line): 0 info, 1 warning, 2 error.
        options: other fields of es_options: backend, modes, threads, deadline_ms, max_width, no_fallback ...
    """

    def __init__(
        self,
        bundle: str | Path,
        library: str | Path | ctypes.CDLL | None = None,
        *,
        backend_path: str | Path | None = None,
        key: bytes | None = None,
        log: Callable[[int, str], None] | None = None,
        **options: Any,
    ) -> None:
        self._model = c_void_p()
        self.library = library if isinstance(library, ctypes.CDLL) else load_library(library)
        if key is not None and len(key) != 32:
            raise ValueError(f"a public key has 32 bytes; got: {len(key)}")
        given = COptions(**{n: v.encode() if isinstance(v, str) else v for n, v in options.items()})
        given.backend_path = str(backend_path).encode() if backend_path else None
        given.public_key = key
        if log is not None:
            listener = log
            # Kept as long as the model, which may call it from every function.
            self._log = _Log(lambda _, level, line: listener(level, (line or b"").decode("utf-8", "replace")))
            given.log = self._log
        self._check(self.library.es_open(str(bundle).encode(), ctypes.byref(given), ctypes.byref(self._model)))
        self._info = self._read_info()

    def __enter__(self) -> EdgeSkin:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model; a second time does nothing."""
        model, self._model = self._model, c_void_p()
        self.library.es_close(model)

    def _check(self, status: int) -> None:
        if status:
            name, line = self.library.es_strerror(status), self.library.es_last_error()
            raise EdgeSkinError(status, name.decode(), line.decode("utf-8", "replace"))

    def selftest(self) -> dict[str, Any]:
        """Put the golden cases to the engine; `classify` refuses before this has passed."""
        found = CSelftestReport()
        self._check(self.library.es_selftest(self._model, ctypes.byref(found)))
        return {name: getattr(found, name) for name in ("cases", "failed", "max_abs_error", "elapsed_us")}

    def _read_info(self) -> dict[str, Any]:
        found = CModelInfo()
        self._check(self.library.es_info(self._model, ctypes.byref(found)))
        texts = ("name", "sha256", "backend", "fallback", "signed_by", "precision", "target")
        first = found.first
        return {
            **{name: getattr(found, name).decode() for name in texts},
            **{name: getattr(found, name) for name in ("width", "height", "threads", "verify_us", "load_us")},
            "phantom": bool(found.phantom),
            "tasks": {
                found.tasks[t].decode(): [name.decode() for name in found.classes[first[t] : first[t + 1]]]
                for t in range(found.task_count)
            },
        }

    def info(self) -> dict[str, Any]:
        """What was opened: name, sha256, backend, tasks with their classes ..."""
        return {**self._info, "tasks": dict(self._info["tasks"])}

    def classify(self, dermoscopic: Any, clinical: Any = None) -> dict[str, Any]:
        """Classify one lesion; `as_c` says which images it takes.

        Returns:
            assessable, quality, timings_us and, if assessable: predicted, probabilities, branches, score, decision and
            logits, in the words of `edgeskin run --json`.

        Raises:
            EdgeSkinError: the call failed; there is no result.
        """
        seen, kept = as_c(dermoscopic)
        around, kept_too = as_c(clinical) if clinical is not None else (None, None)
        result = CResult()
        first = ctypes.byref(around) if around is not None else None
        self._check(self.library.es_classify(self._model, first, ctypes.byref(seen), ctypes.byref(result)))
        del kept, kept_too  # the pixels had to live until here
        return self._told(result)

    def _told(self, result: CResult) -> dict[str, Any]:
        views = {"dermoscopic": 1} if result.images == 1 else {"clinical": 0, "dermoscopic": 1}
        flags = {v: [name for b, name in enumerate(QUALITY) if result.quality[at] >> b & 1] for v, at in views.items()}
        steps = ("prepare", "quality", "infer", "decide", "total")
        told: dict[str, Any] = {
            "assessable": bool(result.assessable),
            "quality": flags,
            "timings_us": {step: getattr(result, f"{step}_us") for step in steps},
        }
        if not result.assessable:
            return told
        tasks = self._info["tasks"]
        count = sum(len(classes) for classes in tasks.values())
        logits = [list(result.logits[i * count : (i + 1) * count]) for i in range(result.images)]
        branches = {view: self._by_task(getattr(result, view)) for view in views}
        if result.has_fused:  # what a third classifier, on both images, says
            logits.append(list(result.fused_logits[:count]))
            branches["fused"] = self._by_task(result.fused)
        return told | {
            "mode": "pair" if result.images == 2 else "dermoscopic",
            "predicted": {task: tasks[task][result.predicted[t]] for t, task in enumerate(tasks)},
            "probabilities": self._by_task(result.probabilities),
            "branches": branches,
            "score": result.score if result.has_score else None,
            "decision": {
                "title": self._info["target"],
                "probability": result.target_probability,
                "threshold": result.threshold,
                "refer": bool(result.refer),
            },
            "logits": logits,
        }

    def _by_task(self, values: Any) -> dict[str, dict[str, float]]:
        rest = iter(values)
        return {task: {name: next(rest) for name in classes} for task, classes in self._info["tasks"].items()}


def as_c(image: Any) -> tuple[CImage, object]:
    """An es_image, and what must be kept alive while it is used.

    Args:
        image: an `Image`, a PIL image, or an array uint8 [H, W, 3] with `__array_interface__`, as NumPy's have it;
            rows may have gaps between them, pixels not.

    Raises:
        ValueError: something else.
    """
    if isinstance(image, Image):
        made = CImage(format=image.format, width=image.width, height=image.height, stride=image.stride)
        pixels, chroma = bytes(image.pixels), bytes(image.chroma) if image.chroma is not None else None
        row = image.width * {RGB: 3, BGR: 3, RGBA: 4, YUYV: 2}.get(image.format, 1)
        stride, half = image.stride or row, image.height // 2 if image.format == NV12 else 0
        needed = stride * (image.height + (half if chroma is None else 0) - 1) + row
        needed_chroma = (image.chroma_stride or stride) * (half - 1) + row if chroma is not None else 0
        if len(pixels) < needed or len(chroma or b"") < needed_chroma:
            raise ValueError(f"too few pixels; got: {len(pixels)} bytes; possible: {needed} or more")
        made.pixels, made.chroma = _address(pixels), _address(chroma) if chroma is not None else None
        made.chroma_stride, made.colour = image.chroma_stride, image.colour
        return made, (pixels, chroma)
    if hasattr(image, "tobytes") and hasattr(image, "convert"):  # PIL
        pixels = image.convert("RGB").tobytes()
        return CImage(format=RGB, width=image.width, height=image.height, pixels=_address(pixels)), pixels
    described = getattr(image, "__array_interface__", None)
    if not described or described["typestr"] not in ("|u1", "<u1") or described["shape"][2:] != (3,):
        raise ValueError("no image; possible: an array uint8 [H, W, 3], a PIL image, or Image(pixels, width, height)")
    height, width, _ = described["shape"]
    strides = described.get("strides") or (3 * width, 3, 1)
    if strides[1:] != (3, 1) or not 0 <= strides[0] < 1 << 31:
        image, strides = image.copy(order="C"), (3 * width, 3, 1)
        described = image.__array_interface__
    return CImage(format=RGB, width=width, height=height, stride=strides[0], pixels=described["data"][0]), image


def _address(data: bytes) -> int | None:
    return ctypes.cast(c_char_p(data), c_void_p).value


def read_image(path: Path) -> Image:
    """A photograph, upright; without Pillow a binary PPM. OSError or ValueError where it cannot be read."""
    try:
        from PIL import Image as Photo
        from PIL import ImageOps
    except ImportError:
        return _read_ppm(path)
    with Photo.open(path) as photo:
        upright = ImageOps.exif_transpose(photo).convert("RGB")
    return Image(upright.tobytes(), upright.width, upright.height)


def _read_ppm(path: Path) -> Image:
    data = path.read_bytes()
    blank = rb"(?:\s|#[^\n]*\n)+"  # white space and comments
    head = re.match(rb"P6" + blank + rb"(\d{1,5})" + blank + rb"(\d{1,5})" + blank + rb"255\s", data)
    width, height = (int(word) for word in head.groups()) if head else (0, 0)
    if not head or len(data) - head.end() != 3 * width * height:
        raise ValueError(f"{path} is no binary PPM with 255 levels; fix: pip install pillow, or convert it to one")
    return Image(data[head.end() :], width, height)


def main(arguments: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    parser = argparse.ArgumentParser(description="Classify one lesion with libedgeskin.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("dermoscopic", type=Path)
    parser.add_argument("clinical", type=Path, nargs="?")
    parser.add_argument("--library", type=Path, help="path of libedgeskin.so")
    parser.add_argument("--backend-path", type=Path, help="folder with the engine's shared libraries")
    parser.add_argument("--key", type=bytes.fromhex, help="Ed25519 public key, 64 hexadecimal digits")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    given = parser.parse_args(arguments)
    try:
        images = [read_image(path) for path in (given.dermoscopic, given.clinical) if path]
        width = max(image.width for image in images)
        options = dict(backend_path=given.backend_path, key=given.key, max_width=width)
        with EdgeSkin(given.bundle, given.library, **options) as skin:
            about, tested, told = skin.info(), skin.selftest(), skin.classify(*images)
    except (EdgeSkinError, OSError, ValueError) as error:
        print(f"classify.py: {error}", file=sys.stderr)
        return 2
    if given.json:
        print(json.dumps({"bundle": about, "selftest": tested, **told}))
    else:
        print(f"bundle      {about['name']}, manifest {about['sha256'][:12]}, {about['backend']}")
        for view, found in told["quality"].items():
            print(f"{view:<11} {', '.join(found) or 'good'}")
        for task, name in told.get("predicted", {}).items():
            print(f"{task:<11} {name} {told['probabilities'][task][name]:.3f}")
        if made := told.get("decision"):
            words = "refer" if made["refer"] else "do not refer"
            print(f"decision    P({made['title']}) = {made['probability']:.3f} of {made['threshold']:.3f}: {words}")
        else:
            print("decision    not assessable")
    return 0 if told["assessable"] else 1


if __name__ == "__main__":
    sys.exit(main())
