import copy
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeskin.errors import EdgeskinError
from edgeskin.spec.manifest import Manifest, safe_name

TINY = Path(__file__).resolve().parents[1] / "golden" / "tiny-onnxruntime" / "manifest.json"
PLAIN = json.loads(TINY.read_text())


def put(*steps_and_value):
    """A change that sets manifest[a][b]... = value."""
    *steps, last, value = steps_and_value

    def change(plain):
        for step in steps:
            plain = plain[step]
        plain[last] = value

    return change


def drop(*steps):
    def change(plain):
        for step in steps[:-1]:
            plain = plain[step]
        del plain[steps[-1]]

    return change


def test_the_committed_manifest_round_trips():
    manifest = Manifest.parse(PLAIN, "tiny")
    assert Manifest.parse(manifest.to_json(), "again") == manifest


def test_a_fused_head_gives_pairs_a_third_row_of_logits():
    plain = copy.deepcopy(PLAIN)
    assert Manifest.parse(plain, "tiny").rows == {"pair": 2, "dermoscopic": 1}
    plain["network"]["fused_head"] = True
    plain["fusion"]["DIAG"] |= {"fused_weight": 0.2, "temperature_fused": 2}
    assert Manifest.parse(plain, "tiny").rows == {"pair": 3, "dermoscopic": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("graphs", "pair"), "graphs must be"),
        (drop("reference", "dermoscopic"), "reference must be"),
        (drop("fusion", "DIAG"), "fusion must name every task"),
        (drop("thresholds", "pair"), "thresholds.pair"),
        (drop("files", "golden/pair-0.npz"), r"golden/pair-0\.npz is used but not listed"),
        (drop("files", "lesions.json"), r"lesions\.json is used but not listed"),
        (put("files", "model/pair.onnx", "group", "reference"), r"model/pair\.onnx is needed to run"),
        (put("files", "lesions.json", "size_bytes", -1), "size_bytes"),
        (put("files", "lesions.json", "sha256", "x"), "sha256"),
        (put("graphs", "pair", "images", 1), r"graphs\.pair must take 2 image"),
        (put("reference", "pair", "precision", "int8"), "reference must be fp32"),
        (put("target", "openvino"), "must be those of the recipe"),
        (put("precision", "fp32"), "must be those of the recipe"),
        (put("golden", []), "golden"),
        (put("golden", 0, "tolerance", 0), "tolerance"),
        (put("format_version", 2), "format_version"),
        (put("research_use", "approved for diagnosis"), "research_use"),
        (put("surprise", 1), "unknown key"),
        (put("fusion", "DIAG", "fused_weight", 0.2), "asks a fused head, which the network has not"),
        (put("fusion", "DIAG", "temperature_fused", 2), "asks a fused head, which the network has not"),
        (put("network", "modalities", "clinical"), "clinical images alone cannot run in a bundle"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(change, message):
    plain = copy.deepcopy(PLAIN)
    change(plain)
    with pytest.raises(EdgeskinError, match=message) as caught:
        Manifest.parse(plain, "tiny")
    assert "\n" not in str(caught.value)
    assert "(top)" not in str(caught.value)


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from('ab./\\:\0\n*"'), max_size=12))
def test_a_safe_name_stays_below_its_root(name):
    if safe_name(name):
        root = Path("/bundle")
        assert root in (root / name).parents
        assert (root / name).as_posix() == f"/bundle/{name}"
        assert not set(name) & set('\\:\0\n*"')


@pytest.mark.parametrize("name", ["a", "model/pair.onnx", "golden/a b.npz", "ä/ö", ".hidden", "..a/b.."])
def test_plain_relative_names_are_safe(name):
    assert safe_name(name)
