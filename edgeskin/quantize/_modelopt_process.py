"""What Model Optimizer runs in: a process of its own, which `modelopt.py` starts as `python -c <this file>`.

It takes nothing of edgeskin. Frames come one at a time: a number of four bytes goes out, that frame's bytes come in.
"""

import json
import math
import os
import sys
from typing import Any, BinaryIO


class Frames:
    """The calibration as Model Optimizer asks for it; no more than one frame is in memory."""

    def __init__(self, asked: BinaryIO, given: BinaryIO, count: int, shape: tuple[int, ...], name: str) -> None:
        self._asked, self._given, self._count, self._shape, self._name = asked, given, count, shape, name
        self._next = 0

    def get_next(self) -> dict[str, Any] | None:
        """The next frame by the name of the input, None after the last."""
        if self._next == self._count:
            return None
        self._next += 1
        return self._read(self._next - 1)

    def get_first(self) -> dict[str, Any]:
        """The first frame; the next one stays the next one."""
        return self._read(0)

    def rewind(self) -> None:
        """Begin anew."""
        self._next = 0

    def _read(self, place: int) -> dict[str, Any]:
        import numpy as np

        self._asked.write(place.to_bytes(4, "little"))
        self._asked.flush()
        size = math.prod(self._shape)
        data = self._given.read(size)
        if len(data) != size:
            raise EOFError("the process that gives the frames is gone")
        return {self._name: np.frombuffer(data, np.uint8).reshape(self._shape)}


def main() -> None:
    """Quantise as the JSON of the first argument says."""
    asked = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the numbers
    told = json.loads(sys.argv[1])
    import onnxruntime

    class OneThread(onnxruntime.SessionOptions):  # type: ignore[misc]
        """The same sums in the same order, whatever the number of cores."""

        def __init__(self) -> None:
            super().__init__()
            self.intra_op_num_threads = self.inter_op_num_threads = 1

    onnxruntime.SessionOptions = OneThread
    from modelopt.onnx.quantization import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        quantize,
    )

    quantize(
        told["model"],
        quantize_mode="int8",
        # Never without: it would draw random numbers instead.
        calibration_data_reader=Frames(asked, sys.stdin.buffer, told["count"], tuple(told["shape"]), "frames"),
        calibration_method=told["method"],
        calibration_eps=["cpu"],
        nodes_to_exclude=told["exclude"],
        high_precision_dtype="fp32",  # FP16 comes when the graph is typed, for every quantiser alike
        output_path=told["out"],
        log_level="ERROR",
    )


if __name__ == "__main__":
    main()
