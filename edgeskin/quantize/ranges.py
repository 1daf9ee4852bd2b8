"""Ranges and means of a graph's activations over the calibration frames, measured one examination at a time."""

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskin.errors import EdgeskinError
from edgeskin.files import write_atomic
from edgeskin.quantize.calibration import CalibrationFrames
from edgeskin.quantize.pool import in_order

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
State = dict[str, NDArray[Any]]
Step = Callable[..., object]
PERCENTILE = 0.99999
BINS = 2048
_SAVED_EVERY = 16  # examinations between two notes of how far a calibration is


@dataclass(frozen=True)
class Ranges:
    """Extremes of each tensor, as far as the calibrator keeps them, and its mean: [channels], or one number [1]."""

    low: Mapping[str, float]
    high: Mapping[str, float]
    means: Mapping[str, Floats]

    def silent(self) -> frozenset[str]:
        """Tensors that are 0 on every frame: no scale can be read off them."""
        return frozenset(name for name in self.low if max(-self.low[name], self.high[name]) < 1e-30)


def measure(
    model: Any,
    tensors: Sequence[str],
    by_channel: frozenset[str],
    frames: CalibrationFrames,
    folder: Path,
    key: str,
    on_step: Step,
    *,
    calibrator: str = "minmax",
    levels: int = 256,
) -> Ranges:
    """Run the frames through a graph and watch its tensors. A killed run goes on where it was.

    Args:
        model: onnx.ModelProto with the input `frames`.
        tensors: names of floating point tensors, in the order of execution.
        by_channel: those of them whose mean is wanted a channel, along axis 1.
        folder: where what is found is kept, in .npz files.
        key: stands for the graph, the tensors and the frames in the names of these files.
        on_step: called with 1 for each calibration pair.
        calibrator: "minmax": the extremes; "percentile": what 99.999 % of the absolute values stay below; "entropy":
            the clipping by which INT8 loses the least information.
        levels: steps that a tensor without negative values gets; one with them gets half as many a side.

    Raises:
        EdgeskinError: an activation is not a finite number.
    """
    state = _extremes(model, tensors, by_channel, frames, folder / f"extremes-{key}.npz", on_step)
    low, high = state["low"], state["high"]
    if calibrator != "minmax":
        most = np.maximum(-low, high)
        notes = folder / f"{calibrator}-{levels}-{key}.npz"
        if not (limits := _load(notes)):
            counts = _histograms(model, tensors, most, frames, folder / f"histograms-{key}.npz")
            shares = [
                percentile_limit(c) if calibrator == "percentile" else entropy_limit(c, levels // 2 if s else levels)
                for c, s in zip(counts, low < 0, strict=True)
            ]
            _save(notes, limits := {"shares": np.array(shares)})
        low, high = np.maximum(low, -most * limits["shares"]), np.minimum(high, most * limits["shares"])
    ends = np.cumsum(state["sizes"])
    sums = np.split(state["sum"] / len(frames), ends[:-1])
    return Ranges(
        low=dict(zip(tensors, low.tolist(), strict=True)),
        high=dict(zip(tensors, high.tolist(), strict=True)),
        means=dict(zip(tensors, sums, strict=True)),
    )


def _extremes(
    model: Any,
    tensors: Sequence[str],
    by_channel: frozenset[str],
    frames: CalibrationFrames,
    notes: Path,
    on_step: Step,
) -> State:
    """Least and greatest value of each tensor [tensors], and the sum over examinations of its means."""
    state = _load(notes) or {"seen": np.array(0)}
    done = int(state["seen"])
    if done:
        on_step(sum(not frames.is_extra(place) for place in range(done)))
    if done == len(frames):
        return state
    session = _session(_watched(model, tensors, by_channel))
    wanted = [f"{kind} {i}" for kind in ("low", "high", "mean") for i in range(len(tensors))]

    def watch(place: int) -> list[Any]:
        return list(session.run(wanted, {"frames": frames[place]}))

    for place, values in enumerate(in_order(watch, range(done, len(frames))), done):
        means = [mean.reshape(-1).astype(np.float64) for mean in values[2 * len(tensors) :]]
        extremes = np.array(values[: 2 * len(tensors)], np.float64).reshape(2, -1)
        # The mean tells: the least and the greatest of some numbers and a NaN may be numbers.
        finite = np.isfinite(extremes).all(0) & np.array([np.isfinite(mean).all() for mean in means])
        if not finite.all():
            raise _overflow(model, tensors[int(finite.argmin())], frames.name(place))
        low, high, total = *extremes, np.concatenate(means)
        if place:
            low, high = np.minimum(state["low"], low), np.maximum(state["high"], high)
            total = state["sum"] + total
        sizes = np.array([mean.size for mean in means])
        state = {"seen": np.array(place + 1), "low": low, "high": high, "sum": total, "sizes": sizes}
        if not frames.is_extra(place):
            on_step(1)
        if (place + 1) % _SAVED_EVERY == 0 or place + 1 == len(frames):
            _save(notes, state)
    return state


def _watched(model: Any, tensors: Sequence[str], by_channel: frozenset[str]) -> bytes:
    """The graph with three numbers more for each tensor among its outputs: least, greatest, mean."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    graph = watched.graph
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in (*graph.value_info, *graph.input, *graph.output)}
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    added = []
    for number, name in enumerate(tensors):
        axes = [axis for axis in range(ranks[name]) if axis != 1] if name in by_channel else []
        for kind, operation in (("low", "ReduceMin"), ("high", "ReduceMax"), ("mean", "ReduceMean")):
            inputs, attributes = [name], {}
            if kind == "mean" and axes:
                if opset >= 18:
                    inputs.append(f"axes {number}")
                    graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), f"axes {number}"))
                else:
                    attributes["axes"] = axes
            output = f"{kind} {number}"
            added.append(helper.make_node(operation, inputs, [output], name=output, keepdims=0, **attributes))
            graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    graph.node.extend(added)
    return bytes(watched.SerializeToString())


def _histograms(
    model: Any, tensors: Sequence[str], most: Floats, frames: CalibrationFrames, notes: Path
) -> NDArray[np.int64]:
    """How many absolute values lie in each of BINS equal parts of 0..most, int64 [tensors, BINS]."""
    import onnx
    from onnx import TensorProto, helper

    state = _load(notes) or {"seen": np.array(0), "counts": np.zeros((len(tensors), BINS), np.int64)}
    if int(state["seen"]) == len(frames):
        return state["counts"]
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    there = {port.name for port in shown.graph.output}
    shown.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors if name not in there
    )
    session = _session(shown.SerializeToString())

    def count(place: int) -> Counts:
        found = np.zeros((len(tensors), BINS), np.int64)
        for number, values in enumerate(session.run(list(tensors), {"frames": frames[place]})):
            if most[number] > 0:
                bins = (np.abs(values.reshape(-1)) * (BINS / most[number])).astype(np.int32)
                found[number] = np.bincount(np.minimum(bins, BINS - 1), minlength=BINS)
        return found

    counts, done = state["counts"], int(state["seen"])
    for place, found in enumerate(in_order(count, range(done, len(frames))), done):
        counts += found
        if (place + 1) % _SAVED_EVERY == 0 or place + 1 == len(frames):
            _save(notes, {"seen": np.array(place + 1), "counts": counts})
    return counts


def percentile_limit(counts: Counts) -> float:
    """Share of the range below which 99.999 % of the values lie.

    >>> percentile_limit(np.array([50_000, 49_999, 0, 1]))
    0.5
    """
    below = np.cumsum(counts)
    return float(np.searchsorted(below, PERCENTILE * below[-1]) + 1) / len(counts)


def entropy_limit(counts: Counts, levels: int) -> float:
    """Share of the range whose `levels` steps lose the least information on the values, clipped ones included.

    The least Kullback-Leibler divergence of the histogram from its quantised form (Migacz, 8-bit inference with
    TensorRT, 2017). Zeros are not counted: every scale holds them exactly.

    >>> counts = (1e5 * np.exp(-((np.arange(2048) / 300) ** 2))).astype(np.int64)
    >>> counts[2047] = 1  # one value twice as far out as all others
    >>> entropy_limit(counts, 128)
    0.484375
    """
    density = counts.astype(np.float64)
    density[0] = density[1]
    best, limit = np.inf, len(density)
    for width in range(levels, len(density) + 1, 16):
        inside = density[:width]
        if not inside.any():
            continue
        given = inside.copy()
        given[-1] += density[width:].sum()
        starts = np.arange(levels) * width // levels
        filled = inside > 0
        held = np.maximum(np.add.reduceat(filled.astype(np.float64), starts), 1)
        level = np.add.reduceat(inside, starts) / held
        rounded = np.repeat(level, np.diff([*starts, width])) * filled
        p, q = given / given.sum(), rounded / rounded.sum()
        known = p > 0
        if (q[known] == 0).any():
            continue
        lost = float((p[known] * np.log(p[known] / q[known])).sum())
        if lost < best:
            best, limit = lost, width
    return limit / len(density)


def _session(model: bytes) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1  # several examinations at once instead, each the same sums in the same order
    options.inter_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _overflow(model: Any, tensor: str, pair: str) -> EdgeskinError:
    maker = next((node for node in model.graph.node if tensor in node.output), None)
    where = f"{maker.op_type} {maker.name}" if maker is not None else "the input"
    return overflow(f"{where} ({tensor})", pair)


def overflow(where: str, pair: str) -> EdgeskinError:
    """The error for a network whose numbers overflow."""
    return EdgeskinError(
        "the network's activations are not finite numbers",
        got=f"{where}, on {pair}",
        fix="FP32 itself overflows there: check the checkpoint's weights, train again",
    )


def _save(notes: Path, state: State) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **state)  # type: ignore[arg-type]  # its stub takes allow_pickle for one of the arrays
    write_atomic(notes, buffer.getvalue())


def _load(notes: Path) -> State | None:
    try:
        with np.load(notes) as found:
            return dict(found)
    except (FileNotFoundError, ValueError, EOFError, zipfile.BadZipFile):
        return None  # none there, or damaged by a crash of the machine: measure again
