import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeskin.errors import EdgeskinError
from edgeskin.spec.base import Spec
from edgeskin.spec.device import Device
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.recipe import Recipe
from edgeskin.spec.roles import RoleRecord, RoleSpec
from edgeskin.spec.suite import Suite
from edgeskin.spec.train import Fusion, NetworkSpec, Threshold, TrainSpec

NORMAL = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}


def refused(spec: type[Spec], plain: dict, message: str) -> str:
    with pytest.raises(EdgeskinError, match=message) as caught:
        spec.parse(plain, "here.toml")
    text = str(caught.value)
    assert "\n" not in text
    assert "here.toml" in text
    return text


def test_an_unknown_key_names_the_source_and_the_near_match():
    text = refused(TrainSpec, {"epoch": 3}, "unknown key in here.toml")
    assert "did you mean 'epochs'?" in text
    assert "possible: " in text


def test_an_unknown_key_deep_inside_is_placed():
    text = refused(RoleSpec, {"sed": 1}, "unknown key")
    assert "did you mean 'seed'?" in text


def test_all_faults_are_listed_the_first_is_the_line():
    with pytest.raises(EdgeskinError) as caught:
        TrainSpec.parse({"epochs": 0, "size": 1, "mixup": -1}, "here.toml")
    assert "(and 2 more)" in str(caught.value)
    assert len(caught.value.details) == 3


def test_records_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        TrainSpec().epochs = 3


def test_toml_faults_are_one_line(tmp_path):
    path = tmp_path / "x.toml"
    with pytest.raises(EdgeskinError, match="no such file"):
        TrainSpec.from_toml(path)
    path.write_text("epochs = = 3")
    with pytest.raises(EdgeskinError, match="not a valid TOML file") as caught:
        TrainSpec.from_toml(path)
    assert "\n" not in str(caught.value)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(EdgeskinError, match="not a valid TOML file"):
        TrainSpec.from_toml(path)
    path.write_text("epochs = 3")
    assert TrainSpec.from_toml(path).epochs == 3


VALUES = st.none() | st.integers(-2, 400) | st.floats() | st.text(max_size=8) | st.lists(st.integers(), max_size=3)


@settings(deadline=None)
@given(st.data())
def test_whatever_comes_in_is_a_record_or_our_error(data):
    spec = data.draw(st.sampled_from([RoleSpec, TrainSpec, NetworkSpec, Suite, Fusion, Recipe]))
    keys = st.sampled_from(sorted(spec.model_fields)) | st.text(max_size=4)
    plain = data.draw(st.dictionaries(keys, VALUES, max_size=4))
    try:
        made = spec.parse(plain, "x")
    except EdgeskinError as error:
        made, message = None, str(error)
    else:
        message = ""
    assert "\n" not in message
    assert made is None or spec.parse(made.to_json(), "again") == made


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"precision": "int8"}, "precision int8 needs a quantizer"),
        ({"precision": "fp32", "quantizer": "qdq"}, "fp32 needs quantizer 'none'"),
        ({"precision": "int8", "quantizer": "nncf", "calibration_pairs": 9}, "'nncf' is for target openvino"),
        ({"precision": "int8", "quantizer": "qdq"}, "needs calibration_pairs"),
        (
            {
                "precision": "int8",
                "quantizer": "nncf",
                "target": "openvino",
                "calibration_pairs": 9,
                "calibrator": "entropy",
            },
            "'qdq'; nncf takes minmax",
        ),
        (
            {"precision": "int8", "quantizer": "qdq", "calibration_pairs": 9, "smooth_quant": True},
            "of quantizer 'nncf'",
        ),
        ({"precision": "int8", "quantizer": "qdq", "calibration_pairs": 9, "preset": "mixed"}, "of quantizer 'nncf'"),
        ({"precision": "int4"}, "precision"),
        ({"precision": "fp32", "target": "onnx"}, "target"),
        ({"precision": "fp32", "opset": 9}, "opset"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(plain, message):
    refused(Recipe, {"name": "x", "target": "onnxruntime", **plain}, message)


def test_roles_must_leave_lesions_to_train_on():
    refused(RoleSpec, {"calibration": 0.4, "control": 0.3, "test": 0.3}, "leave no lesion to train on")
    refused(RoleSpec, {"test": 1.0}, "test")
    refused(RoleSpec, {"test": -0.1}, "test")


@pytest.mark.parametrize("digest", ["", "0" * 63, "G" * 64, "A" * 64])
def test_a_role_hash_is_64_lower_case_hex_digits(digest):
    refused(RoleRecord, {"lesions": 1, "sha256": digest}, "sha256")


@pytest.mark.parametrize(
    ("spec", "plain"),
    [
        (Preprocess, {**NORMAL, "height": 16, "width": 32}),
        (Preprocess, {**NORMAL, "height": 32, "width": 32, "fit": "pad"}),
        (Preprocess, {**NORMAL, "height": 32, "width": 32, "border_px": -1}),
        (Preprocess, {"height": 32, "width": 32, "mean": (0.5, 0.5), "std": (0.5, 0.5, 0.5)}),
        (Fusion, {"dermoscopic_weight": 1.2}),
        (Fusion, {"dermoscopic_weight": float("nan")}),
        (Fusion, {"dermoscopic_weight": 0.5, "temperature_alone": 0}),
        (Threshold, {"value": -0.1, "rule": ""}),
        (Threshold, {"value": float("nan"), "rule": ""}),
        (Device, {"name": "x", "title": "x", "arch": "riscv64", "targets": ["openvino"]}),
        (Device, {"name": "x", "title": "x", "arch": "aarch64", "targets": []}),
    ],
)
def test_values_out_of_range_are_refused(spec, plain):
    refused(spec, plain, r"here\.toml: ")
