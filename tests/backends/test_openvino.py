import subprocess
import sys

import pytest

pytest.importorskip("openvino", reason="extra openvino is not installed")

_LEAN = """
import sys
from edgeskin.backends import openvino as backend

backend.core()
import openvino

heavy = [name for name in ("openvino_telemetry", "openvino.tools.ovc") if name in sys.modules]
print(heavy, openvino.convert_model is backend.convert_model)
try:
    openvino.convert_model("missing.onnx")
except Exception as error:
    print(type(error).__module__.partition(".")[0], "openvino.tools.ovc" in sys.modules)
"""


_BEFORE = """
import openvino
from edgeskin.backends import openvino as backend

backend.core()
print(openvino.convert_model is backend.convert_model)
"""


def test_the_converter_and_its_telemetry_are_imported_only_to_convert():
    done = subprocess.run([sys.executable, "-c", _LEAN], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[0] == "[] True"
    assert done.stdout.splitlines()[1].endswith("True")


def test_a_package_imported_before_keeps_its_converter():
    done = subprocess.run([sys.executable, "-c", _BEFORE], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "False"
