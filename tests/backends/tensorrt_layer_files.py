"""What TensorRT prints of its layers: JSON as three generations of it write, and a block of a real builder's log.

The JSON files are written by hand in the shape of real ones, with node names of ours; no engine made them. The logs
are cut from those that a sibling of TensorRT (tensorrt_rtx 1.7) wrote as it built Q/DQ graphs for another GPU.
"""

from pathlib import Path

FILES = Path(__file__).resolve().parent / "tensorrt_layers"
JSONS = {name: (FILES / f"{name}.json").read_text(encoding="utf-8") for name in ("8.6", "10.3", "10.13")}
LOG = (FILES / "builder.log").read_text(encoding="utf-8")
