"""What TensorRT says of the layers that it compiled, read into `Executed` records.

Two forms tell the same: JSON of `IEngineInspector.get_engine_information` (`trtexec --exportLayerInfo` writes it too),
and the "Layers:" block that a builder prints at verbose severity. Both need ProfilingVerbosity.DETAILED; otherwise they
name layers and no more.

How the precision of a layer that multiplies is told. A product has two factors, a convolution's activation and its
weights for one. INT8 is what has both as Int8, and no kernel name that says another arithmetic: where Q/DQ pairs did
not fuse, weights stay Half or Float, and an Int8 activation alone proves nothing. Bias, scales and the other branch of
a residual may be floating point: they are added, not multiplied. Weights stand in the layer's own "Weights", among
"Constants", or, in Myelin's layers of earlier 10.x, nowhere; then the kernel's name decides
("..._i8f16_i8i32_f16_...": input and output types, arithmetic and sum, epilogue). What is not told is not INT8.

Fused attention (`_gemm_mha_v2`) holds two products. It is INT8 where query, key and value are.

Other kernels that Myelin writes ("kgen") may hold a product as multiply and sum; they are not layers that multiply by
their kind, and nothing that they print shows INT8 arithmetic: they pass as floating point, so that a product that only
they own up to falls back in the audit. So do Myelin's foreign nodes of 8.x, one opaque layer for many nodes. A DLA's
foreign node is INT8 where everything that goes in and out is: the DLA tells no more.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edgeskin.backends import BF16, FP16, FP32, INT8, Executed
from edgeskin.errors import EdgeskinError

_CURE = "build with detailed profiling verbosity (profiling_verbosity=DETAILED, trtexec --profilingVerbosity=detailed)"
# Words for types: "Half", "Row major linear FP16 format", "CHW32 | Int8" of several versions.
_TYPES = {
    "int8": INT8, "half": FP16, "fp16": FP16, "float16": FP16, "float": FP32, "fp32": FP32, "float32": FP32,
    "bfloat16": BF16, "bf16": BF16,
}  # fmt: skip
_NO_FACTORS = {"uint8", "int32", "int64", "bool", "fp8", "int4", "fp4", "e8m0"}  # types that we know and do not audit
_WIDEST = (FP32, BF16, FP16)  # the least favourable first

_MULTIPLYING = re.compile(r"conv(?!ert)|gemm|correlation|matmul|matrixmultiply|fullyconnected", re.IGNORECASE)
_KERNEL = re.compile(r"gemm|fprop|dgrad|convolution", re.IGNORECASE)  # within a kernel's name
_ATTENTION = re.compile(r"_mha_|fmha", re.IGNORECASE)
_SILENT = re.compile(r"^(signal|wait|noop|constant|trainstation)$|(?<!re)shape", re.IGNORECASE)
# A generated kernel's name lists its steps by four letters each. These only convert: a cast, a move, a new layout, a
# quantisation (multiply, clamp, round, cast) and its inverse.
_CONVERSION = re.compile(r"__myl_(?:Cast|Move|Copy|Tran|Resh|(?:Mul|Div)(?:Min|Max|Roun){3}Cast|CastMul)+_")
_ARITHMETIC = re.compile(r"_[a-z0-9]+_(i8|f16|bf16|tf32|f32)(?:i32|f16|f32)_")
_ARITHMETICS = {"i8": INT8, "f16": FP16, "bf16": BF16, "tf32": FP32, "f32": FP32}
_OLD_INT8 = re.compile(r"imma|i8816|i16832|int8x4")

_HEADER = re.compile(r"(?:^|[\]:>] ?)\s*(?:Layers|(?:Engine )?Layer Information):\s*$")
_END = re.compile(r"(?:^|\] ?)\s*(?:Bindings|I/O Tensors|Engine Metadata):")
_LINE = re.compile(r"\bName: (?P<name>.*?), LayerType: (?P<kind>[^,]*), Inputs: \[")
_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f\s�]*(?:\[ONNX Layer: |$))", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Tensor:
    dims: tuple[int, ...]
    type: str  # INT8, FP32, BF16, FP16, "other", or "" where the engine does not tell

    @property
    def size(self) -> int:
        return max(0, math.prod(self.dims))


@dataclass(frozen=True, slots=True)
class _Layer:
    name: str
    kind: str
    inputs: tuple[_Tensor, ...]
    constants: tuple[_Tensor, ...]
    outputs: tuple[_Tensor, ...]
    weights: str  # type of weights that the layer itself holds, or ""
    parameter: str
    tactic: str
    metadata: str


def from_json(text: str) -> tuple[list[Executed], int]:
    """Layers in their order and the number of reformats, from the inspector's JSON of a whole engine.

    Raises:
        EdgeskinError: not such JSON, no layer in it, or an engine built without detailed profiling verbosity.
    """
    try:
        # Some versions leave control characters between names as they are.
        made = json.loads(text, strict=False)
    except (ValueError, RecursionError) as error:
        raise EdgeskinError("unreadable layer information", got=str(error)[:160], fix="write it again") from error
    layers = made.get("Layers") if isinstance(made, dict) else None
    if not isinstance(layers, list) or not layers:
        raise EdgeskinError("layer information without layers", got=text[:60], possible='{"Layers": [...]}', fix=_CURE)
    return _executed(_from_record(place, record) for place, record in enumerate(layers))


def from_log(lines: Iterable[str]) -> tuple[list[Executed], int]:
    """The same from a verbose log of a builder. Of several engines in one log the last counts: the newest.

    Raises:
        EdgeskinError: no block of layers, one that is cut off, or one without details.
    """
    blocks: list[list[str]] = []
    inside = fresh = False
    # Not splitlines: it would part a line at the \x1e between two names.
    for line in (part.rstrip("\r") for text in lines for part in text.split("\n")):
        if _HEADER.search(line):
            inside = fresh = True  # two headers may follow each other: a block begins with its first line
        elif inside and _END.search(line):
            inside = False
        elif inside and (_LINE.search(line) or (line.strip() and not line.lstrip().startswith("["))):
            blocks += [[]] if fresh else []
            blocks[-1].append(line)
            fresh = False
    if not blocks:
        cure = f"log at verbose severity (trtexec --verbose) and {_CURE}"
        raise EdgeskinError("a build log without layer information", fix=cure)
    # Loggers without a prefix let other messages follow a block; only what begins like a layer can be one cut off.
    last = [line for line in blocks[-1] if _LINE.search(line) or line.lstrip().startswith("Name: ")]
    if not last:
        raise EdgeskinError("a build log that only names the engine's layers", got=blocks[-1][0][:80], fix=_CURE)
    return _executed(_from_line(line) for line in last)


def _executed(layers: Iterator[_Layer]) -> tuple[list[Executed], int]:
    made, reformats = [], 0
    for layer in layers:
        if _SILENT.search(layer.kind):
            continue
        if _converts(layer):
            reformats += 1
            continue
        attention = bool(_ATTENTION.search(f"{layer.name} {layer.tactic}"))
        opaque = layer.kind in ("Myelin", "DLA") or layer.name.startswith("{ForeignNode[")
        words = f"{layer.kind} {layer.parameter}"
        multiplies = not opaque and bool(attention or _MULTIPLYING.search(words) or _KERNEL.search(layer.tactic))
        if attention:
            precision = _of_attention(layer)
        elif multiplies:
            precision = _of_product(layer)
        else:
            precision = _of_other(layer)
        written = sum(tensor.size for tensor in layer.outputs)
        origin = _origin(layer.name, layer.metadata)
        made.append(Executed(layer.name, origin, _kind(layer, attention), precision, multiplies, written))
    return made, reformats


def _converts(layer: _Layer) -> bool:
    if layer.kind in ("Reformat", "Cast") or layer.name.startswith("Reformatting CopyNode"):
        return True
    return layer.kind == "kgen" and bool(_CONVERSION.match(f"{layer.name}_"))


def _kind(layer: _Layer, attention: bool) -> str:
    """TensorRT's word, with what tells more of a general one: "kgen attention", "fusion gemm"."""
    if attention:
        return f"{layer.kind} attention"
    if layer.kind == "fusion" and (found := _KERNEL.search(layer.tactic)):
        return f"fusion {found[0].lower()}"
    more = layer.parameter
    return f"{layer.kind} {more}" if more and more.lower() not in layer.kind.lower() else layer.kind


def _of_product(layer: _Layer) -> str:
    """Precision of one product: see the head of this module."""
    kernel = _of_kernel(layer.tactic)
    factors = [word or kernel for word in _factors(layer)]
    if factors == [INT8, INT8] and kernel in ("", INT8):
        return INT8
    if kernel in _WIDEST:
        return kernel
    return _widest(factors) or _widest([tensor.type for tensor in layer.outputs]) or FP32


def _of_attention(layer: _Layer) -> str:
    words = [tensor.type for tensor in layer.inputs]
    # Query, key and value; a mask or a position bias that comes with them is added to the scores.
    if words and words.count(INT8) >= min(3, len(words)):
        return INT8
    return _widest(words) or FP32


def _of_other(layer: _Layer) -> str:
    words = [tensor.type for tensor in (*layer.inputs, *layer.outputs)]
    if layer.kind == "DLA" and words and set(words) == {INT8}:
        return INT8
    return _widest(words) or FP32


def _widest(words: Sequence[str]) -> str:
    return next((word for word in _WIDEST if word in words), "")


def _of_kernel(tactic: str) -> str:
    """Arithmetic that a kernel's name tells, or "".

    >>> [_of_kernel(f"sm80_xmma_gemm_{types}_tn") for types in ("i8f16_i8i32_f16", "f16f16_f16f32_f32", "plain")]
    ['int8', 'fp16', '']
    """
    if told := _ARITHMETIC.search(f"{tactic}_"):
        return _ARITHMETICS[told[1]]
    return INT8 if _OLD_INT8.search(tactic) else ""


def _factors(layer: _Layer) -> tuple[str, str]:
    """Types of the two factors, "" where it is not told."""
    inputs, constants = layer.inputs, layer.constants
    if not inputs:
        return "", layer.weights
    if layer.weights:
        return inputs[0].type, layer.weights
    out = layer.outputs[0] if layer.outputs else _Tensor((), "")
    if len(out.dims) > 2 and re.search("conv|correlation", layer.kind, re.IGNORECASE):
        # Weights of a convolution [to, from, height, width]; a bias is [1, to, 1, 1], a residual of the output's shape.
        for weights in (*constants, *inputs[1:], inputs[0]):
            if len(weights.dims) == len(out.dims) and weights.dims[0] == out.dims[1] and weights.dims != out.dims:
                return next((one.type for one in inputs if one is not weights), ""), weights.type
    for place, one in enumerate(inputs):
        for other in (*constants, *inputs[place + 1 :]):
            if _multiply(one, other, out):
                return one.type, other.type
    rest = (*constants, *inputs[1:])
    return inputs[0].type, rest[0].type if rest else ""


def _multiply(one: _Tensor, other: _Tensor, out: _Tensor) -> bool:
    """Whether a matrix product of these shapes, transposed or not, has as many elements as that output.

    >>> shapes = ((98, 64), (64, 320), (98, 320), (1,))
    >>> a, b, out, scale = (_Tensor(dims, "") for dims in shapes)
    >>> _multiply(a, b, out), _multiply(a, out, out), _multiply(a, scale, out)
    (True, False, False)
    """
    batch = math.prod(one.dims[:-2]) if one.dims[:-2] == other.dims[:-2] else 1
    for inner in {*one.dims[-2:]} & {*other.dims[-2:]}:
        if inner > 1 and (one.size // inner) * (other.size // inner) in (out.size, out.size * batch) and out.size:
            return True
    return False


def _origin(name: str, metadata: str) -> tuple[str, ...]:
    """Names of the file's nodes: out of the metadata, else out of the name that TensorRT puts together.

    >>> _origin("whatever_myl0_3", "[ONNX Layer: conv]\\x1e[ONNX Layer: relu[0]]")
    ('conv', 'relu[0]')
    >>> _origin("conv + PWN(PWN(sigmoid), mul)", ""), _origin("{ForeignNode[first...last]}", "")
    (('conv', 'sigmoid', 'mul'), ('first', 'last'))
    """
    told = _NODE.findall(metadata)
    if not told:
        plain = re.sub(r"_myl\d+_\d+$", "", name)
        if plain.startswith("__my"):
            return ()  # a name of Myelin's own
        joints = r"\+|\|\|" if plain != name else r" \+ | \|\| "
        if plain.startswith("{ForeignNode["):
            joints, plain = joints + r"|\.\.\.", plain.removeprefix("{ForeignNode[").removesuffix("]}")
        parts = re.split(joints, plain)
        told = [one for part in parts for one in (re.split(r"PWN\(|\)?, |\)", part) if "PWN(" in part else [part])]
    return tuple(dict.fromkeys(one for one in (part.strip() for part in told) if one and one[:9] != "(Unnamed "))


def _from_record(place: int, record: Any) -> _Layer:
    """A layer out of the JSON's list."""
    if isinstance(record, str) or (isinstance(record, dict) and not record.get("LayerType")):
        raise EdgeskinError("layer information that only names the engine's layers", got=f"layer {place}", fix=_CURE)
    if not isinstance(record, dict):
        raise _odd(place, "not an object")
    words = {}
    for key in ("Name", "LayerType", "ParameterType", "TacticName", "Metadata"):
        words[key] = record.get(key, "")
        if not isinstance(words[key], str):
            raise _odd(place, f"{key} is not text")
    sides: dict[str, tuple[_Tensor, ...]] = {}
    for side in ("Inputs", "Constants", "Outputs"):
        listed = record.get(side, [])
        if not isinstance(listed, list):
            raise _odd(place, f"{side} is not a list")
        sides[side] = tuple(_tensor_of(place, tensor) for tensor in listed)
    weights = ""
    for key in ("Weights", "ConvWeights"):  # the second where a pooling is fused in
        held = record.get(key)
        if isinstance(held, dict) and held.get("Count") not in (0, "0"):
            weights = _type(str(held.get("Type", "")))
    return _Layer(
        words["Name"],
        words["LayerType"],
        sides["Inputs"],
        sides["Constants"],
        sides["Outputs"],
        weights,
        words["ParameterType"],
        words["TacticName"],
        words["Metadata"],
    )


def _tensor_of(place: int, record: Any) -> _Tensor:
    dims = record.get("Dimensions", []) if isinstance(record, dict) else None
    if not isinstance(dims, list) or not all(type(size) is int for size in dims):
        raise _odd(place, "Dimensions are not whole numbers")
    told = (record.get(key) for key in ("Datatype", "Format/Datatype", "Format"))
    return _Tensor(tuple(dims), _type(str(next((text for text in told if text), ""))))


def _type(text: str) -> str:
    """Our word for a type, "other" for one that no factor of ours has, "" where the text does not tell.

    >>> [_type(text) for text in ("Half", "Row major Int8 format", "N/A due to dynamic shapes", "UInt8")]
    ['fp16', 'int8', '', 'other']
    """
    for word in re.findall(r"[a-z]+\d*", text.lower()):
        if word in _TYPES or word in _NO_FACTORS:
            return _TYPES.get(word, "other")
    return ""


def _from_line(line: str) -> _Layer:
    """A layer out of the log's form: the JSON's fields, written in one line."""
    head = _LINE.search(line)
    if head is None:
        raise _cut(line)
    name, kind, at = head["name"], head["kind"], head.end() - len("Inputs: [")
    sides: dict[str, tuple[_Tensor, ...]] = {"Constants": ()}
    for side in ("Inputs", "Constants", "Outputs"):
        mark = f"{side}: ["
        if side == "Constants" and not line.startswith(mark, at):
            continue  # versions before 10.13 have none
        # A list ends at " }]": a format may hold brackets of its own ("stride order = [1,2,0] }]").
        start = at + len(mark)
        end = start if line.startswith("]", start) else line.find(" }]", start) + 2
        if not line.startswith(mark, at) or end < start:
            raise _cut(name)
        listed = line[start : end - 2].removeprefix(" { ").split(" }, { ") if end > start else []
        sides[side] = tuple(_tensor_in(name, text) for text in listed)
        at = end + len("], ")
    rest = line[at:]
    if "TacticName: " not in rest and "TacticValue: " not in rest:  # one of them ends what tells the type of weights
        raise _cut(name)
    fields, _, metadata = rest.partition("Metadata: ")
    held = re.search(r'Weights: \{"Type": "(\w+)", "Count": (\d+)\}', fields)
    parameter = re.search(r"(?:^|, )ParameterType: (\w+)", fields)
    tactic = re.search(r"TacticName: ([^,]*)", fields)
    return _Layer(
        name,
        kind,
        sides["Inputs"],
        sides["Constants"],
        sides["Outputs"],
        _type(held[1]) if held and held[2].strip("0") else "",
        parameter[1] if parameter else "",
        tactic[1] if tactic else "",
        metadata,
    )


def _tensor_in(name: str, text: str) -> _Tensor:
    found = re.search(r"Dimensions: \[([-\d, ]*)\].*?\b(?:Datatype|Format): (.*)", text, re.DOTALL)
    try:
        dims = tuple(int(size) for size in found[1].split(",") if size.strip()) if found else None
    except ValueError:
        dims = None
    if found is None or dims is None:
        raise EdgeskinError("unreadable layer information", got=f"{name}: {text[:80]}", fix="log the build again")
    return _Tensor(dims, _type(found[2].partition(", Format: ")[0]))


def _odd(place: int, what: str) -> EdgeskinError:
    return EdgeskinError("unreadable layer information", got=f"layer {place}: {what}", fix="write it again")


def _cut(name: str) -> EdgeskinError:
    return EdgeskinError("layer information that is cut off", got=name[:80], fix="log the whole build again")
