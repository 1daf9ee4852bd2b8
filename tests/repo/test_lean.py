"""What a device never installs is never imported by what a device runs."""

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "torchvision", "timm", "lightning", "openvino", "onnxruntime", "tensorrt", "nncf", "onnx"}
HEAVY |= {"onnxscript", "sklearn", "scipy", "safetensors", "pandas", "matplotlib"}

START = {
    "import edgeskin": "import edgeskin",
    "the public names": "import edgeskin; edgeskin.load, edgeskin.Classifier, edgeskin.Result, edgeskin.EdgeskinError",
    "the catalog": "from edgeskin import catalog; catalog.device(catalog.device_names()[0]); catalog.schema('spc')",
    "edgeskin --help": "sys.argv = ['edgeskin', '--help']; from edgeskin.cli import main; run(main)",
    "edgeskin run --help": "sys.argv = ['edgeskin', 'run', '--help']; from edgeskin.cli import main; run(main)",
    "edgeskin devices": "sys.argv = ['edgeskin', 'devices']; from edgeskin.cli import main; run(main)",
    "edgeskin models": "sys.argv = ['edgeskin', 'models']; from edgeskin.cli import main; run(main)",
    "edgeskin doctor": "sys.argv = ['edgeskin', 'doctor']; from edgeskin.cli import main; run(main)",
}
FRAME = """
import json, sys
def run(main):
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, stop.code
{start}
print("\\n" + json.dumps(sorted({{name.split(".")[0] for name in sys.modules}})))
"""


@pytest.mark.parametrize("name", START)
def test_nothing_heavy_is_loaded(name):
    code = FRAME.format(start=START[name])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "edgeskin" in loaded
    assert not loaded & HEAVY


def test_the_list_of_public_names_is_kept():
    import edgeskin

    for name in edgeskin.__all__:
        assert getattr(edgeskin, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = edgeskin.nothing
